"""Laws of ``report.html`` as a file: all scans are in it, everything is escaped, nothing is fetched."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from vertfrac import tables
from vertfrac.cli import main
from vertfrac.errors import TableError
from vertfrac.level_shape import typical_heights
from vertfrac.report.page import write_report

from .conftest import Graded

HOSTILE = 'o\'hare "x" </script><script>alert(1)</script> Ωмега 脊椎 &amp;'


def _data(page: str, name: str) -> Any:
    (text,) = re.findall(rf'<script type="application/json" id="{name}">(.*?)</script>', page, re.DOTALL)
    return json.loads(text)


def test_every_scan_is_listed_worst_first_and_failed_ones_keep_their_reason(
    grade_scans: Callable[..., Graded],
) -> None:
    graded = grade_scans({"one": 1, "five": 5}, {"bad": "no spine found"}, warnings="thick; slices")
    page = write_report(graded.out).read_text()
    heads = _data(page, "heads")
    assert [head["case"] for head in heads] == ["five", "one", "bad"] or heads[0]["genant"] <= heads[1]["genant"]
    assert heads[2]["failed"]
    assert heads[2]["reason"] == "no spine found"
    assert heads[0]["warnings"] == ["thick", "slices"]
    assert {len(_data(page, f"scan-{n}")["vertebrae"]) for n in (0, 1)} == {1, 5}
    assert 'id="scan-2"' not in page


def test_levels_are_in_the_page_with_their_doubt(grade_scans: Callable[..., Graded]) -> None:
    levels, others = ("L3", "L4", "L5", "S1"), ("L2", "L3", "L4", "L5")
    page = write_report(grade_scans({"ct": 5}, levels=levels, runner_ups=others).out).read_text()
    found = _data(page, "scan-0")["vertebrae"]
    assert [one["level"] for one in found] == [*levels, ""]
    assert [one["levelRunnerUp"] for one in found] == [*others, ""]
    assert [one["levelProbability"] for one in found] == [0.83] * 4 + [None]
    assert [one["status"] for one in found] == ["ok", "ok", "ok", "sacrum", "ok"]
    shapes = _data(page, "settings")["levelShapes"]
    assert shapes["T7"] == typical_heights(["T7"])[0].tolist()
    assert "S1" not in shapes


def test_what_a_scan_says_of_itself_is_text_and_never_code(grade_scans: Callable[..., Graded]) -> None:
    graded = grade_scans({"one": 1}, {HOSTILE: HOSTILE}, warnings=HOSTILE)
    page = write_report(graded.out).read_text()
    assert "<script>alert" not in page
    assert page.count("</script>") == len(re.findall(r"<script\b", page)) == 4
    heads = _data(page, "heads")
    assert (heads[1]["case"], heads[1]["reason"], heads[0]["warnings"]) == (HOSTILE, HOSTILE, [HOSTILE])


def test_only_the_inlined_script_and_style_may_run_and_nothing_may_be_fetched(
    grade_scans: Callable[..., Graded],
) -> None:
    page = write_report(grade_scans({"one": 1}).out).read_text()
    (policy,) = re.findall(r'<meta http-equiv="Content-Security-Policy" content="(.*?)">', page)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.replace("&#39;", "'").split(";"))
    for tag in ("script", "style"):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[f"{tag}-src"] == f"'sha256-{digest}'"
    assert (rules["default-src"], rules["connect-src"], rules["form-action"]) == ("'none'", "'none'", "'none'")
    assert not re.search(r"""(?:src|href)=["']?(?:https?:|//)""", page)


def test_the_command_writes_the_same_page_again(grade_scans: Callable[..., Graded]) -> None:
    graded = grade_scans({"one": 1})
    page = write_report(graded.out)
    first = page.read_bytes()
    page.unlink()
    result = CliRunner().invoke(main, ["report", str(graded.out)])
    assert result.exit_code == 0, result.output
    assert page.read_bytes() == first


def test_results_of_a_version_without_pictures_keep_their_table(grade_scans: Callable[..., Graded]) -> None:
    graded = grade_scans({"one": 2})
    (graded.out / "one" / "views.json").unlink()
    body = _data(write_report(graded.out).read_text(), "scan-0")
    assert body["views"] is None
    assert len(body["vertebrae"]) == 2


def test_a_report_of_failed_scans_only(grade_scans: Callable[..., Graded]) -> None:
    page = write_report(grade_scans({}, {"bad": "no spine found"}).out).read_text()
    assert [head["case"] for head in _data(page, "heads")] == ["bad"]


@pytest.mark.parametrize(
    ("lost", "words"),
    [
        ("scans.parquet", "no such file"),
        ("one/vertebrae.parquet", "no such file"),
        ("one/scan.json", "cannot be read"),
    ],
)
def test_what_is_missing_is_named_and_nothing_is_written(
    grade_scans: Callable[..., Graded], lost: str, words: str
) -> None:
    graded = grade_scans({"one": 1})
    (graded.out / lost).unlink()
    with pytest.raises(TableError, match=rf"{re.escape(Path(lost).name)}: .*{words}"):
        write_report(graded.out)
    assert not list(graded.out.glob("*report*"))
    assert not list(graded.out.glob(".writing-*"))


def test_infinity_in_a_table_is_refused(grade_scans: Callable[..., Graded]) -> None:
    graded = grade_scans({"one": 1})
    path = graded.out / "one" / "vertebrae.parquet"
    table = tables.read_table(path, tables.VERTEBRAE)
    tables.write_table(path, tables.VERTEBRAE, table.assign(posterior_inferior_z=math.inf))
    with pytest.raises(TableError, match=r"vertebrae\.parquet: column posterior_inferior_z holds infinity"):
        write_report(graded.out)


def test_scans_without_a_grade_come_after_graded_ones(grade_scans: Callable[..., Graded]) -> None:
    graded = grade_scans({"none": 1}, statuses=("partial",))
    table = tables.read_table(graded.out / "scans.parquet", tables.SCAN_RESULTS)
    assert table["worst_grade"].isna().all()
    (head,) = _data(write_report(graded.out).read_text(), "heads")
    assert (head["grade"], head["genant"], head["measured"]) == (None, None, 0)
