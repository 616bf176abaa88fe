"""Laws of ``vertfrac cohort check``: every case has its row, picture and findings, and the exit code says so."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner, Result
from matplotlib.image import imread
from numpy.typing import NDArray
from PIL import Image as Picture

from vertfrac import tables
from vertfrac.cli import main
from vertfrac.cohorts.annotation_json import annotation_rows, write_annotation
from vertfrac.geometry.grid import Grid
from vertfrac.imaging import Image
from vertfrac.report.check_page import draw_case, encoded
from vertfrac.report.cohort_check import check_cohort

Floats = NDArray[np.float64]


def bone(x: Floats, y: Floats, z: Floats) -> Floats:
    """Five bodies of 26 x 20 mm around y = 40, dense at their rims, in soft tissue with air in front."""
    up = np.abs((130 - z + 13) % 26 - 13)
    inside = (np.abs(x - 40) < 18) & (np.abs(y - 40) <= 14) & (up <= 11) & (z > 10) & (z < 145)
    rim = inside & ((np.abs(y - 40) > 11) | (up > 8))
    return np.where(rim, 700, np.where(inside, 150, np.where(y > 85, -1000, 30)))


@pytest.fixture
def folder(tmp_path: Path, write_scan: Callable[..., Path], spine_keypoints: Callable[..., Floats]) -> Path:
    """One case of each status, and a mask."""
    folder = tmp_path / "ward"
    keypoints = spine_keypoints(5, y=40.0, heights=[20, 17, 21])
    for case in ("fits", "front", "upset", "bare", "sheared"):
        write_scan(folder / f"{case}.nii.gz", bone)
        points = {"front": np.add(keypoints, (0, 19, 0)), "upset": keypoints[:, [1, 0, 3, 2, 5, 4]]}.get(
            case, keypoints
        )
        if case != "bare":
            rows = annotation_rows(case, [("r<1>", level, one) for level, one in zip(LEVELS, points, strict=True)])
            write_annotation(folder / "annotations" / f"{case}.json", rows)
    (folder / "sheared.nii.gz").write_bytes(b"")
    write_scan(folder / "fits_mask.nii.gz", bone)
    return folder


LEVELS = ("T11", "T12", "L1", "L2", "L3")
STATUS = {"fits": "ok", "front": "suspect", "upset": "failed", "sheared": "failed", "bare": "excluded"}


def _config(path: Path, cohort: dict[str, Any], tiny_system: dict[str, Any], **more: Any) -> Path:
    content = {"name": "ward", "cohort": cohort, "folds": {"k": 2}, "systems": {"tiny": tiny_system}, **more}
    path.write_text(yaml.safe_dump(content))
    return path


def _run(*arguments: Any) -> Result:
    return CliRunner().invoke(main, ["cohort", "check", *map(str, arguments)])


def test_every_case_has_its_row_picture_and_findings(folder: Path, tmp_path: Path, tiny_system: dict[str, Any]) -> None:
    config = _config(tmp_path / "my.yaml", {"kind": "nifti", "folder": str(folder)}, tiny_system)
    result = _run(config, "--out", tmp_path / "out")
    assert result.exit_code == 1, result.output
    table = tables.read_table(tmp_path / "out" / "check.parquet", tables.CHECKS)
    assert dict(zip(table["case"], table["status"], strict=True)) == STATUS
    assert table["status"].tolist() == ["failed", "failed", "suspect", "excluded", "ok"], "worst first"

    fits = table.set_index("case").loc["fits"]
    assert (fits["columns"], fits["rows"], fits["slices"], fits["orientation"]) == (40, 50, 80, "RAS")
    assert (fits["vertebrae"], fits["experts"], fits["levels"], fits["normal"]) == (5, 1, "T11-L3", 5)
    assert fits["smallest_genant"] == pytest.approx(17 / 21)
    assert fits[["reason", "findings"]].tolist() == ["", ""]

    for case, words in {
        "front": ("front.json", "contrast of the bodies' rims"), "upset": ("upset.json", "superior points below"),
        "sheared": ("sheared.nii.gz", "0 bytes"), "bare": ("bare.json", "no annotation"),
    }.items():  # fmt: skip
        for word in words:
            assert word in table.set_index("case").loc[case, "reason"]
            assert word in result.stdout
    assert "left out" in result.stdout
    assert "fits_mask.nii.gz" in result.stdout
    assert "5 cases: 1 ok, 1 excluded, 1 suspect, 2 failed" in result.stdout

    page = (tmp_path / "out" / "index.html").read_text()
    cards = dict(re.findall(r'<article .*?data-case="(.*?)"(.*?)</article>', page, re.DOTALL))
    assert list(cards) == table["case"].tolist()
    assert {case for case, card in cards.items() if "data:image/webp;base64," in card} == set(STATUS) - {"sheared"}
    assert "r<1>" not in page, "names are escaped"
    assert "annotation of r<1>: each of 5 vertebrae has its superior" in " ".join(unescape(cards["upset"]).split())
    assert not re.search(r"""(?:src|href)=["']?(?:https?:|//)""", page), "the page needs no network"


def test_a_good_cohort_exits_with_0_and_jobs_change_nothing(
    folder: Path, tmp_path: Path, tiny_system: dict[str, Any]
) -> None:
    for case in ("front", "upset", "sheared"):
        (folder / f"{case}.nii.gz").unlink()
        (folder / "annotations" / f"{case}.json").unlink()
    config = _config(tmp_path / "my.yaml", {"kind": "nifti", "folder": str(folder)}, tiny_system)
    found = []
    for jobs in (1, 2):
        result = _run(config, "--out", tmp_path / str(jobs), "--jobs", jobs)
        assert result.exit_code == 0, result.output
        found.append(tables.read_table(tmp_path / str(jobs) / "check.parquet", tables.CHECKS).drop(columns="seconds"))
    pd.testing.assert_frame_equal(*found)


def test_a_cohort_without_a_usable_case_exits_with_1(
    tmp_path: Path, write_scan: Callable[..., Path], tiny_system: dict[str, Any]
) -> None:
    write_scan(tmp_path / "ward" / "bare.nii", bone)
    config = _config(tmp_path / "my.yaml", {"kind": "nifti", "folder": str(tmp_path / "ward")}, tiny_system)
    assert _run(config, "--out", tmp_path / "out").exit_code == 1


def test_phantoms_and_cohorts_of_a_transfer_are_checked_too(tmp_path: Path, tiny_system: dict[str, Any]) -> None:
    ward = {"cohort": {"kind": "nifti", "folder": str(tmp_path / "nowhere")}}
    config = _config(tmp_path / "my.yaml", {"kind": "phantom", "cases": 2}, tiny_system, transfer={"ward": ward})
    result = _run(config, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    table = tables.read_table(tmp_path / "out" / "check.parquet", tables.CHECKS)
    assert table["status"].tolist() == ["ok", "ok"]
    assert not list(tmp_path.glob("out/*.nii*"))
    for name, words in {"ward": "nowhere: no such folder", "other": "no transfer.other, expected one of ward"}.items():
        result = _run(config, "--transfer", name)
        assert result.exit_code == 1
        assert words in result.stderr.splitlines()[-1]


def test_an_unreadable_configuration_is_one_line(tmp_path: Path) -> None:
    result = _run(tmp_path / "nowhere.yaml")
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1


def test_progress_is_told_case_by_case(folder: Path, tmp_path: Path) -> None:
    told: list[int] = []
    check_cohort("nifti", {"folder": str(folder)}, tmp_path, heading="h", start=told.append, progress=told.append)
    assert told == [5, 1, 1, 1, 1, 1]


# --- the picture


def _scan() -> Image:
    grid = Grid((40, 50, 80), np.diag([2.0, 2.0, 2.0, 1.0]))
    world = grid.to_world(np.moveaxis(np.indices(grid.shape), 0, -1))
    return Image(bone(*np.moveaxis(world, -1, 0)).astype(np.int16), grid, "test")


@pytest.mark.parametrize("where", ["inside", "partly outside", "far outside", "not finite", "none"])
def test_every_annotation_can_be_drawn(
    spine_keypoints: Callable[..., Floats], annotations_of: Callable[..., pd.DataFrame], where: str
) -> None:
    keypoints = spine_keypoints(5, y=40.0, heights=[20, 17, 21])
    moved = {
        "partly outside": np.add(keypoints, (0, 0, 60)), "far outside": keypoints + 5000.0,
        "not finite": np.where(np.arange(5)[:, None, None] == 1, np.nan, keypoints), "none": keypoints[:0],
    }.get(where, keypoints)  # fmt: skip
    picture = Picture.open(io.BytesIO(encoded(draw_case(_scan(), annotations_of(moved)))))
    assert picture.format == "WEBP"
    width, height = picture.size
    assert 150 < width < 500
    assert 300 < height < 500


def test_rulers_are_drawn_where_the_keypoints_are(
    spine_keypoints: Callable[..., Floats], annotations_of: Callable[..., pd.DataFrame]
) -> None:
    """Two experts: the strokes of both lie on their own points in the axes of the picture."""
    one = spine_keypoints(5, y=40.0, heights=[20, 17, 21])
    figure = draw_case(_scan(), pd.concat([annotations_of(one, expert="a"), annotations_of(one + 2, expert="b")]))
    strokes = [np.array(lines.get_segments()) for lines in figure.axes[0].collections]
    assert len(strokes) == 10
    for drawn, points in zip(strokes, np.concatenate([one, one + 2]), strict=True):
        np.testing.assert_allclose(drawn[:3].reshape(6, 2), points[:, 1:])
    assert {text.get_text() for text in figure.axes[0].texts} >= {"1", "2", "3", "4", "5"}


def test_the_page_shows_the_picture_that_was_drawn(folder: Path, tmp_path: Path) -> None:
    check_cohort("nifti", {"folder": str(folder)}, tmp_path / "out", heading="h")
    page = (tmp_path / "out" / "index.html").read_text()
    (shown,) = re.findall(r'base64,([^"]+)" alt="sagittal view of fits ', page)
    with Picture.open(io.BytesIO(base64.b64decode(shown))) as picture:
        picture.convert("RGB").save(tmp_path / "fits.png")
    colours = imread(tmp_path / "fits.png")
    teal = (colours[..., 1] - colours[..., 0] > 0.3).mean()
    assert teal > 0.002, "rulers of normal vertebrae are teal"
