"""Laws of what ``vertfrac predict`` prints: results on standard output, failures beside it, JSON alone, exit codes."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from click.testing import CliRunner, Result

from vertfrac import tables
from vertfrac.cli import main
from vertfrac.report.scan_json import json_schema

MakeModel = Callable[..., Path]
WriteScan = Callable[..., Path]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("predict")


@pytest.fixture(scope="module")
def model(folder: Path, make_model: MakeModel) -> Path:
    return make_model(folder / "model", objectness=3.0)


@pytest.fixture(scope="module")
def scan(folder: Path, write_scan: WriteScan) -> Path:
    return write_scan(folder / "one.nii", lambda x, y, z: 40 * np.sin(x / 9) + y + 30 * np.cos(z / 7))


@pytest.fixture(autouse=True)
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take most of the time, and nothing here looks at them."""
    monkeypatch.setattr("vertfrac.inference.predict.overlay", lambda path, **_: path.touch())


def run(scans: list[Path], out: Path, model: Path, *options: str) -> Result:
    arguments = ["predict", *map(str, scans), "--out", str(out), "--model", str(model), "--device", "cpu", *options]
    return CliRunner().invoke(main, arguments)


def test_a_scan_is_told_by_sentence_and_table(tmp_path: Path, scan: Path, model: Path) -> None:
    result = run([scan], tmp_path / "out", model)
    assert (result.exit_code, result.stderr) == (0, "")
    vertebrae = tables.read_table(tmp_path / "out" / "one" / "vertebrae.parquet", tables.VERTEBRAE)
    row = tables.read_table(tmp_path / "out" / "scans.parquet", tables.SCAN_RESULTS).iloc[0]
    lines = result.stdout.splitlines()
    assert lines[0] == f"one: {row['sentence']}"
    cells = [line.split() for line in lines[1:] if line[:1].isdigit()]
    assert [int(line[0]) for line in cells] == vertebrae["vertebra"].tolist()
    assert [float(line[-1]) for line in cells] == pytest.approx(vertebrae["score"].tolist(), abs=0.005)
    assert "\x1b" not in result.output


def test_what_is_unusual_about_a_scan_is_told_once(tmp_path: Path, model: Path, write_scan: WriteScan) -> None:
    thick = write_scan(
        tmp_path / "thick.nii", lambda x, y, z: 40 * np.sin(x / 9) + y + 30 * np.cos(z / 7),
        shape=(40, 50, 40), spacing=(2.0, 2.0, 4.0),
    )  # fmt: skip
    result = run([thick], tmp_path / "out", model)
    row = tables.read_table(tmp_path / "out" / "scans.parquet", tables.SCAN_RESULTS).iloc[0]
    assert "slices are 4.0 mm apart" in row["warnings"]
    assert result.stdout.count("warning: ") == 1
    assert "warning: slices are 4.0 mm apart" in result.stdout


def test_the_time_of_each_stage_is_told_on_request_beside_the_results(tmp_path: Path, scan: Path, model: Path) -> None:
    result = run([scan], tmp_path / "out", model, "--verbose")
    stages = ["read", "resample", "localize", "straighten", "detect", "measure", "write"]
    assert [part.split()[-3] for part in result.stderr.split(";")[0].split(", ")] == stages
    assert result.stdout.startswith("one: ")


def test_quiet_prints_failures_alone(tmp_path: Path, scan: Path, model: Path) -> None:
    result = run([scan, tmp_path / "missing.nii"], tmp_path / "out", model, "--quiet")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("missing: failed: ")
    assert len(result.stderr.splitlines()) == 1


def test_json_prints_a_line_per_scan_and_nothing_else(tmp_path: Path, scan: Path, model: Path) -> None:
    result = run([tmp_path / "missing [red].nii", scan], tmp_path / "out", model, "--json")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    for line in lines:
        jsonschema.validate(line, json_schema())
    rows = tables.read_table(tmp_path / "out" / "scans.parquet", tables.SCAN_RESULTS)
    assert result.exit_code == 1
    for key in ("case", "source", "status", "reason", "sentence"):
        assert [line[key] for line in lines] == rows[key].tolist()
    vertebrae = tables.read_table(tmp_path / "out" / "one" / "vertebrae.parquet", tables.VERTEBRAE)
    assert [v["genant"] for v in lines[1]["vertebrae"]] == vertebrae["genant"].tolist()
    assert Path(lines[1]["folder"], "scan.json").is_file()
    assert set(lines[1]["stages"]) > {"read", "localize", "detect", "write"}


def test_json_prints_nothing_where_the_call_cannot_begin(tmp_path: Path, scan: Path) -> None:
    result = run([scan], tmp_path / "out", tmp_path / "nowhere", "--json")
    assert (result.exit_code, result.stdout) == (1, "")
    assert len(result.stderr.splitlines()) == 1


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_in_a_terminal_there_is_a_bar_beside_the_results_and_the_results_have_colours(
    tmp_path: Path, scan: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vertfrac.cli.watching import Printing
    from vertfrac.inference.predict import predict_scan
    from vertfrac.inference.weights import load_model

    for name in ("NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(sys, "stdout", out := _Terminal())
    monkeypatch.setattr(sys, "stderr", errors := _Terminal())
    with Printing(2, "usual") as printing:
        printing.begin("one")
        printing.done(predict_scan("one", scan, load_model(model, _cpu()), None))
    assert "0/2" in errors.getvalue()
    assert "one: " not in errors.getvalue()
    assert "\x1b[1mone: " in out.getvalue()


def _cpu() -> Any:
    import torch

    return torch.device("cpu")


@pytest.mark.parametrize("options", [["--quiet", "--json"], ["--quiet", "--verbose"]])
def test_what_contradicts_itself_is_a_wrong_call(tmp_path: Path, scan: Path, model: Path, options: list[str]) -> None:
    result = run([scan], tmp_path / "out", model, *options)
    assert result.exit_code == 2
    assert not (tmp_path / "out").exists()


def test_exit_codes_are_in_the_help() -> None:
    text = " ".join(CliRunner().invoke(main, ["predict", "--help"]).output.split())
    assert "Exit code: 0 all scans were measured; 1 a scan failed" in text
