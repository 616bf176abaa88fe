"""The workflow for archives: every scan once, killed and resumed, and afterwards nothing but what is new."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
import torch

from vertfrac import tables
from vertfrac.cohorts.sources import shard_of
from vertfrac.geometry.grid import Grid
from vertfrac.imaging import Image
from vertfrac.imaging.dicom_write import write_dicom
from vertfrac.inference.predict import predict_scans

ROOT = Path(__file__).parents[2]
QUICK = ("broken", "one", "series", "two")
"""Cases of shard 0, in the order in which it takes them; ``zlast`` comes after them."""


def command(folder: Path, *options: str, **config: object) -> list[str]:
    settings = {"scans": "scans", "model": "model", "out": "out", "shards": 2, **config}
    return [
        sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "workflow" / "archive.smk"),
        "--directory", str(folder), "--cores", "2", "--set-threads", "measure=1", *options,
        "--config", *(f"{key}={value}" for key, value in settings.items()),
    ]  # fmt: skip


ENVIRONMENT = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def call(folder: Path, *options: str, **config: object) -> str:
    """What a call that succeeds says."""
    done = subprocess.run(
        command(folder, *options, **config), capture_output=True, text=True, env=ENVIRONMENT, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def counts(folder: Path) -> dict[str, int]:
    """What the shards say that they did, all together."""
    notes = [json.loads(path.read_text()) for path in (folder / "out" / "shards").glob("*.json")]
    assert len(notes) == 2
    return {key: sum(note[key] for note in notes) for key in notes[0]}


def waves(x: Any, y: Any, z: Any) -> Any:
    return 40 * np.sin(x / 9) + y + 30 * np.cos(z / 7)


@dataclass(frozen=True)
class Finished:
    """The working directory of a run that was killed and resumed, what it said, and its datasets at that time."""

    folder: Path
    killed: subprocess.CompletedProcess[str]
    said: str
    counts: dict[str, int]
    scans: pd.DataFrame
    vertebrae: pd.DataFrame


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, make_model: Callable[..., Path], write_scan: Callable[..., Path]
) -> Finished:
    folder = tmp_path_factory.mktemp("archive")
    make_model(folder / "model", objectness=3.0)
    scans = folder / "scans"
    for name in ("one", "two", "sub/three"):
        write_scan(scans / f"{name}.nii.gz", waves)
    (scans / "broken.nii.gz").write_bytes((scans / "one.nii.gz").read_bytes()[:2000])
    series = Image(np.indices((40, 40, 50)).sum(axis=0).astype(np.int16), Grid((40, 40, 50), np.diag([2, 2, 2, 1])), "")
    write_dicom(scans / "series", series, patient="p", seed=("p",), names=[f"{k}.dcm" for k in range(50)])
    assert {shard_of(case, 2) for case in (*QUICK, "zlast")} == {0}
    assert shard_of("sub_three", 2) == 1
    last = write_scan(scans / "zlast.nii", waves)
    small = last.read_bytes()
    header = bytearray(small[:352])
    header[42:48] = np.array([700, 700, 700], dtype="<i2").tobytes()  # so large that it is at work when it is killed
    last.write_bytes(header)
    os.truncate(last, 352 + 2 * 700**3)

    journal = folder / "out" / "journals" / "part-00000-of-00002.jsonl"
    process = subprocess.Popen(
        command(folder, "--keep-going"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ENVIRONMENT
    )
    deadline = time.monotonic() + 200
    while not journal.exists() or journal.read_bytes().count(b"\n") < len(QUICK):
        assert process.poll() is None, process.stdout.read() if process.stdout else ""
        assert time.monotonic() < deadline
        time.sleep(0.02)
    for child in psutil.Process(process.pid).children(recursive=True):
        words = child.cmdline()
        if "00000/2" in words and "python" in words[0]:
            child.send_signal(signal.SIGKILL)
    output, _ = process.communicate(timeout=200)
    killed = subprocess.CompletedProcess(process.args, process.returncode, output)
    last.write_bytes(small)
    said = call(folder)
    out = folder / "out"
    return Finished(
        folder, killed, said, counts(folder), pd.read_parquet(out / "scans"), pd.read_parquet(out / "vertebrae")
    )


def test_a_killed_shard_goes_on_with_what_is_missing(finished: Finished) -> None:
    assert finished.killed.returncode != 0
    assert finished.counts["resumed"] == len(QUICK)
    assert (finished.folder / "out" / "list.parquet").is_file()
    assert not list((finished.folder / "out" / "journals").glob("*.jsonl"))


def test_the_dataset_holds_every_scan_once(finished: Finished) -> None:
    assert sorted(finished.scans["case"]) == sorted((*QUICK, "sub_three", "zlast"))
    assert set(finished.vertebrae["case"]) == set(finished.scans.loc[finished.scans["status"] == "ok", "case"])
    assert not finished.vertebrae[["case", "vertebra"]].duplicated().any()
    assert list(finished.scans.columns) == [column.name for column in tables.ARCHIVE_SCANS.columns]


def test_a_broken_scan_keeps_its_row_and_the_summary_counts_it(finished: Finished) -> None:
    failed = finished.scans[finished.scans["status"] != "ok"]
    assert failed["case"].tolist() == ["broken"]
    assert "broken.nii.gz: truncated" in failed["reason"].iloc[0]
    assert "6 scans: 5 ok, 1 failed" in finished.said
    assert "1 x SCAN: truncated" in finished.said


def test_the_numbers_are_those_of_predict(finished: Finished, tmp_path: Path, make_model: Callable[..., Path]) -> None:
    model = make_model(tmp_path / "model", objectness=3.0)
    paths = [finished.folder / "scans" / name for name in ("one.nii.gz", "series")]
    predict_scans(paths, tmp_path / "out", model, device=torch.device("cpu"), tell=lambda line: None)
    expected = tables.read_table(tmp_path / "out" / "scans.parquet", tables.SCAN_RESULTS)
    found = tables.ARCHIVE_SCANS.frame(finished.scans[finished.scans["case"].isin(["one", "series"])])
    columns = [column.name for column in tables.SCAN_RESULTS.columns if column.name != "seconds"]
    pd.testing.assert_frame_equal(found[columns], expected[columns])
    assert expected["vertebrae"].min() > 0
    for case in ("one", "series"):
        alone = tables.read_table(tmp_path / "out" / case / "vertebrae.parquet", tables.VERTEBRAE)
        together = tables.VERTEBRAE.frame(finished.vertebrae[finished.vertebrae["case"] == case])
        pd.testing.assert_frame_equal(together, alone)


def test_only_a_new_scan_and_a_changed_one_are_computed(finished: Finished) -> None:
    scans = finished.folder / "scans"
    before = counts(finished.folder)["scans"]
    (scans / "later.nii.gz").write_bytes((scans / "two.nii.gz").read_bytes())
    (scans / "broken.nii.gz").write_bytes((scans / "one.nii.gz").read_bytes())
    said = call(finished.folder, "--forcerun", "list_scans")
    found = counts(finished.folder)
    assert (found["scans"], found["computed"], found["kept"], found["failed"]) == (before + 1, 2, before - 1, 0)
    assert f"{before + 1} scans: {before + 1} ok, 0 failed" in said


def test_another_model_makes_every_shard_stale_and_other_scores_none(
    finished: Finished, make_model: Callable[..., Path]
) -> None:
    path = finished.folder / "model" / "model.json"
    card = json.loads(path.read_text())
    path.write_text(json.dumps(card | {"scores": [{"metric": "recall"}]}))
    assert "Nothing to be done" in call(finished.folder, "--dry-run")
    make_model(finished.folder / "model", objectness=2.0)
    planned = call(finished.folder, "--dry-run")
    make_model(finished.folder / "model", objectness=3.0)
    assert re.search(r"^measure +2$", planned, re.MULTILINE)
    assert "list_scans" not in planned.split("Job stats:")[1].split("total")[0]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"shrads": 3}, "configuration: shrads: unknown key, found 3"),
        ({"shards": 3}, "out: holds results in 2 shards, found shards: 3; expected 2"),
        ({"model": "scans"}, "scans: not a model folder"),
        ({"scans": "nowhere"}, "nowhere: not there, expected a folder or a table of scans"),
    ],
    ids=["key", "shards", "model", "scans"],
)
def test_a_wrong_configuration_stops_before_any_job(finished: Finished, config: dict[str, object], words: str) -> None:
    done = subprocess.run(
        command(finished.folder, **config), capture_output=True, text=True, env=ENVIRONMENT, timeout=300, check=False
    )
    assert done.returncode != 0
    assert words in done.stdout + done.stderr
    assert "localrule" not in done.stdout + done.stderr
