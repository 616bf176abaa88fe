"""Laws of the command line: help works, what is wrong is one line on standard error and exit status 1."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from vertfrac import __version__, tables
from vertfrac.cli import main
from vertfrac.inference.card import FORMAT

ROOT = Path(__file__).parents[1]
MakeModel = Callable[..., Path]
WriteScan = Callable[..., Path]


def _run(*arguments: Any) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def _is_one_line_about(result: Result, *words: str) -> None:
    assert result.exit_code == 1, result.output
    assert len(result.stderr.strip().splitlines()) == 1
    assert result.stderr.startswith("vertfrac: ")
    for word in words:
        assert word in result.stderr


def test_help_lists_the_commands_for_people() -> None:
    result = _run("--help")
    assert result.exit_code == 0
    assert "predict" in result.output
    assert "phantom" in result.output


@pytest.mark.parametrize("command", sorted(main.commands))
def test_every_command_has_help(command: str) -> None:
    result = _run(command, "--help")
    assert result.exit_code == 0
    assert main.commands[command].help


def test_the_version_is_printed() -> None:
    assert __version__ in _run("--version").output


def test_an_unknown_command_is_a_usage_error() -> None:
    assert _run("grade").exit_code == 2


# --- predict


def test_an_unknown_model_is_one_line(tmp_path: Path) -> None:
    result = _run("predict", tmp_path / "scan.nii", "--out", tmp_path / "out", "--model", tmp_path / "nowhere")
    _is_one_line_about(result, "nowhere", "model.json")


def test_an_unknown_scan_is_one_line_on_standard_error(tmp_path: Path, make_model: MakeModel) -> None:
    model = make_model(tmp_path / "model")
    result = _run("predict", tmp_path / "scan.nii.gz", "--out", tmp_path / "out", "--model", model, "--device", "cpu")
    assert result.exit_code == 1
    assert len(result.stderr.strip().splitlines()) == 1
    assert str(tmp_path / "scan.nii.gz") in result.stderr
    assert "no such file" in result.stderr


def test_dicom_objects_of_a_nifti_file_are_one_line(tmp_path: Path) -> None:
    result = _run(
        "predict", "scan.nii.gz", "--dicom", "--out", tmp_path / "out", "--model", tmp_path, "--device", "cpu"
    )
    _is_one_line_about(result, "scan.nii.gz: a NIfTI file, expected a folder with a DICOM series")
    assert not (tmp_path / "out").exists()


def test_a_good_scan_is_told_on_standard_output(tmp_path: Path, make_model: MakeModel, write_scan: WriteScan) -> None:
    model = make_model(tmp_path / "model", objectness=3.0)
    scan = write_scan(tmp_path / "scan.nii.gz", lambda x, y, z: x + y - z)
    result = _run("predict", scan, "--out", tmp_path / "out", "--model", model, "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("scan: ")


def test_results_that_cannot_be_written_are_one_line(
    tmp_path: Path, make_model: MakeModel, write_scan: WriteScan
) -> None:
    model = make_model(tmp_path / "model", objectness=3.0)
    scan = write_scan(tmp_path / "scan.nii.gz", lambda x, y, z: x + y - z)
    (tmp_path / "file").write_text("in the way")
    result = _run("predict", scan, "--out", tmp_path / "file", "--model", model, "--device", "cpu")
    _is_one_line_about(result, str(tmp_path / "file"))


def test_a_promised_gpu_that_is_not_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = _run("predict", "scan.nii", "--out", tmp_path / "out", "--device", "cuda")
    _is_one_line_about(result, "no usable GPU", "--device cuda")


@pytest.mark.parametrize(
    ("device", "build", "leases"), [("auto", "12.8", 1), ("cuda", "12.8", 1), ("cpu", "12.8", 0), ("auto", None, 0)]
)
def test_a_gpu_is_leased_where_one_may_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, build: str | None, leases: int
) -> None:
    import torch

    from vertfrac import gpu

    called: list[Callable[[str], None]] = []
    monkeypatch.setattr(torch.version, "cuda", build)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(called))  # a GPU that is seen before is not the leased
    monkeypatch.setattr(gpu, "lease", called.append)
    (tmp_path / "model.json").write_text(f'{{"format": {FORMAT}}}')  # is refused when it is loaded, on the device
    result = _run("predict", "scan.nii", "--out", tmp_path / "out", "--model", tmp_path, "--device", device)
    _is_one_line_about(result, "model.json: entry 'system' is missing")
    assert len(called) == leases


def test_predict_needs_a_scan(tmp_path: Path) -> None:
    assert _run("predict", "--out", tmp_path, "--model", tmp_path).exit_code == 2


def test_where_the_model_of_vertfrac_is_gone_predict_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vertfrac.inference.card.PRETRAINED", tmp_path / "pretrained")
    result = _run("predict", "scan.nii", "--out", tmp_path / "out", "--device", "cpu")
    _is_one_line_about(result, "pretrained: not a model folder, expected a model.json")
    assert not (tmp_path / "out").exists()


def _subprocess(*arguments: Any, threads: int = 1) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "vertfrac", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_a_real_process_prints_one_line_and_exits_with_one(tmp_path: Path, make_model: MakeModel) -> None:
    model = make_model(tmp_path / "model")
    missing = tmp_path / "missing.nii.gz"
    done = _subprocess("predict", missing, "--out", tmp_path / "out", "--model", model, "--device", "cpu")
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert str(missing) in done.stderr


def test_help_of_a_real_process_does_not_load_heavy_libraries() -> None:
    code = (
        "import sys; from vertfrac.cli import main; main(['--help'], standalone_mode=False); "
        "print(sorted({'torch', 'pandas', 'lightning', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout.strip().splitlines()[-1] == "[]"


# --- cohort


@pytest.mark.parametrize("layout", ["nifti", "verse", "verse-flat"])
@pytest.mark.parametrize("cases", [-1, 0])
def test_an_impossible_number_of_phantoms_is_one_line(tmp_path: Path, cases: int, layout: str) -> None:
    result = _run("phantom", "--cases", cases, "--out", tmp_path / "out", "--layout", layout)
    _is_one_line_about(result, str(cases), "cases")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("shard", ["2/2", "-1/2", "1", "a/b", "0/0"])
def test_an_impossible_shard_is_a_usage_error(tmp_path: Path, shard: str) -> None:
    result = _run("phantom", "--cases", 2, "--out", tmp_path / "out", f"--shard={shard}")
    assert result.exit_code == 2
    assert shard in result.stderr


def test_keypoints_beside_the_masks_need_masks(tmp_path: Path) -> None:
    result = _run("phantom", "--cases", 1, "--out", tmp_path / "out", "--keypoints")
    assert result.exit_code == 2
    assert "--layout verse" in result.stderr


def _folder(path: Path) -> str:
    return json.dumps({"kind": "nifti", "folder": str(path)})


def test_ingesting_a_folder_without_tables_is_one_line(tmp_path: Path) -> None:
    _is_one_line_about(_run("ingest", "--cohort", _folder(tmp_path), "--out", tmp_path / "out"), "cases.csv")


@pytest.fixture
def cohort(tmp_path: Path, write_scan: WriteScan, spine_keypoints: Any, annotations_of: Any) -> str:
    """A folder with a usable case, a, and one without an image, b."""
    import pandas as pd

    write_scan(tmp_path / "a.nii", lambda x, y, z: x + y - z)
    (tmp_path / "cases.csv").write_text("case,image\na,a.nii\nb,b.nii\n")
    marks = [annotations_of(spine_keypoints(3), case=case) for case in "ab"]
    pd.concat(marks).to_csv(tmp_path / "annotations.csv", index=False)
    return _folder(tmp_path)


def test_a_failed_case_is_told_on_standard_error_and_the_rest_goes_on(tmp_path: Path, cohort: str) -> None:
    result = _run("ingest", "--cohort", cohort, "--out", tmp_path / "out")
    assert result.exit_code == 0
    assert result.stdout == "1 of 2 cases usable\n"
    assert result.stderr.startswith("b: ")


def test_shards_divide_the_cases_and_one_without_any_is_fine(tmp_path: Path, cohort: str) -> None:
    for k in range(4):
        out = tmp_path / str(k)
        assert _run("ingest", "--cohort", cohort, "--shard", f"{k}/4", "--out", out).exit_code == 0
        cases = out / "cases.parquet"
        for command in (
            ("resample", "--cases", cases, "--spacing", "8", "8", "8", "--out", tmp_path / "volumes"),
            ("slices", "--cases", cases, "--annotations", out / "annotations.parquet", "--settings", "{}",
             "--out", tmp_path / "slices"),
        ):  # fmt: skip
            assert _run(*command).exit_code == 0
    parts = [list(tables.read_table(tmp_path / str(k) / "cases.parquet", tables.CASES)["case"]) for k in range(4)]
    assert sorted(case for part in parts for case in part) == ["a", "b"]
    assert [] in parts
    assert _run("merge", *(f"--shards={tmp_path / str(k)}" for k in range(4)), "--out", tmp_path).exit_code == 0
    assert list(tables.read_table(tmp_path / "cases.parquet", tables.CASES)["case"]) == ["a", "b"]


def _cases(path: Path, count: int) -> Path:
    rows = [{"case": f"c{n}", "patient": f"c{n}", "status": "ok", "smallest_genant": 0.9} for n in range(count)]
    tables.write_table(path, tables.CASES, rows)
    return path


def test_folds_are_written(tmp_path: Path) -> None:
    cases = _cases(tmp_path / "cases.parquet", 6)
    result = _run("folds", "--cases", cases, "--settings", json.dumps({"k": 3}), "--out", tmp_path / "folds.parquet")
    assert result.exit_code == 0
    assert len(tables.read_table(tmp_path / "folds.parquet", tables.FOLDS)) == 6


def test_more_folds_than_patients_are_one_line(tmp_path: Path) -> None:
    cases = _cases(tmp_path / "cases.parquet", 3)
    result = _run("folds", "--cases", cases, "--settings", json.dumps({"k": 5}), "--out", tmp_path / "folds.parquet")
    _is_one_line_about(result, "at most the 3 usable patients")


@pytest.mark.parametrize("settings", ["{", '{"k": -1}', '{"surprise": 1}', "[]"])
def test_wrong_settings_are_one_line(tmp_path: Path, settings: str) -> None:
    cases = _cases(tmp_path / "cases.parquet", 3)
    _is_one_line_about(_run("folds", "--cases", cases, "--settings", settings, "--out", tmp_path / "f"), "--settings")


# --- config-check


def test_config_check_prints_the_shipped_configuration_with_all_defaults() -> None:
    result = _run("config-check", ROOT / "config" / "config.yaml")
    assert result.exit_code == 0
    assert json.loads(result.output)["evaluation"]["match_iou"] == 0.1


@pytest.mark.parametrize(
    ("text", "word"), [("a: [", "YAML"), ("name: x\n", "cohort"), ("[]", "mapping"), ("", "mapping")]
)
def test_config_check_of_a_wrong_file_is_one_line(tmp_path: Path, text: str, word: str) -> None:
    (tmp_path / "my.yaml").write_text(text)
    _is_one_line_about(_run("config-check", tmp_path / "my.yaml"), "my.yaml", word)


def test_config_check_of_a_missing_file_is_one_line(tmp_path: Path) -> None:
    _is_one_line_about(_run("config-check", tmp_path / "nowhere.yaml"), "nowhere.yaml")


# --- called by a workflow


def test_a_command_ends_with_the_process_that_called_for_it(tmp_path: Path) -> None:
    caller = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    command = [sys.executable, "-m", "vertfrac", "phantom", "--cases", "1000", "--out", str(tmp_path / "cohort")]
    called = subprocess.Popen(command, env=os.environ | {"VERTFRAC_CALLER": str(caller.pid)})
    with pytest.raises(subprocess.TimeoutExpired):
        called.wait(timeout=5)  # it works on as long as its caller lives
    caller.kill()
    caller.wait()
    assert called.wait(timeout=30) == 1
