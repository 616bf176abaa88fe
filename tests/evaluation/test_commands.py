"""Laws of ``vertfrac evaluate`` and ``vertfrac experts`` as commands: files in, tables and headline metrics out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from vertfrac import tables
from vertfrac.cli import main

Floats = NDArray[np.float64]
TABLES = {"matches.parquet", "curve_errors.parquet", "metrics.parquet"}


def _run(*arguments: Any) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture
def files(tmp_path: Path, spine_keypoints: Callable[..., Floats], annotations_of: Any) -> tuple[Path, Path]:
    """Annotations of two cases by two experts, and predictions 5 mm beside the first expert's, as CSV."""
    keypoints = spine_keypoints(4, heights=[[20, 19, 20], [13, 17, 20], [18, 19, 20], [20, 20, 20]])
    first = pd.concat([annotations_of(keypoints, case=case) for case in "ab"])
    second = pd.concat([annotations_of(keypoints + np.array([0, 3, 4]), case=case, expert="b") for case in "ab"])
    pd.concat([first, second]).to_csv(tmp_path / "truth.csv", index=False)
    first[list(tables.PREDICTIONS.required)].to_csv(tmp_path / "found.csv", index=False)
    return tmp_path / "truth.csv", tmp_path / "found.csv"


def test_evaluate_needs_nothing_but_annotations_and_predictions(files: tuple[Path, Path], tmp_path: Path) -> None:
    truth, found = files
    result = _run("evaluate", "--annotations", truth, "--predictions", found, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert {path.name for path in (tmp_path / "out").iterdir()} == TABLES
    assert "recall by vertebra: 1.000 [1.000, 1.000], n=16" in result.stdout
    assert "localisation by vertebra: 2.500 (2.500) mm" in result.stdout
    assert "curve error by scan: undefined (no curves were given), n=0" in result.stdout
    metrics = tables.read_table(tmp_path / "out" / "metrics.parquet", tables.METRICS)
    assert set(metrics["system"]) == {"foreign"}


def test_settings_choose_the_closeness(files: tuple[Path, Path], tmp_path: Path) -> None:
    truth, found = files
    settings = json.dumps({"closeness": "distance", "match_distance_mm": 4.9})
    result = _run(
        "evaluate", "--annotations", truth, "--predictions", found, "--out", tmp_path / "out", "--settings", settings,
        "--system", "mine",
    )  # fmt: skip
    assert "recall by vertebra: 0.500 [0.500, 0.500], n=16" in result.stdout


def test_evaluate_of_unknown_cases_is_one_line(files: tuple[Path, Path], tmp_path: Path) -> None:
    truth, found = files
    found.write_text(found.read_text().replace("\na,", "\nq,"))
    result = _run("evaluate", "--annotations", truth, "--predictions", found, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert len(result.stderr.strip().splitlines()) == 1
    assert result.stderr.startswith(f"vertfrac: {found}: predictions for unknown case q")
    assert not (tmp_path / "out").exists()


def test_experts_prints_what_is_published_beside_its_own(files: tuple[Path, Path], tmp_path: Path) -> None:
    result = _run("experts", files[0], "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*TABLES, "cases.parquet"}
    lines = dict(line.split(": ", 1) for line in result.stdout.splitlines())
    assert lines["localisation by vertebra"].startswith("5.000 (0.000) mm")
    assert lines["localisation by vertebra"].endswith("; published: 1.01 (0.98) mm")
    assert lines["recall by vertebra"].endswith("; published: 0.983")
    assert "published" not in lines["bias of G by vertebra"]


def test_experts_reads_a_folder_at_the_given_spacing(tmp_path: Path) -> None:
    folder = tmp_path / "studies"
    folder.mkdir()
    experts = {
        name: [
            [[row, 250.0 + shift, z] for row, tall in ((300, 20), (318, 18), (337, 22)) for z in (top, top + tall)]
            for top in (10.0, 45.0, 80.0)
        ]
        for name, shift in (("x", 0.0), ("y", 2.0))
    }
    content = {"Folder": "c", "SeriesInstanceUID": "1.2", "Annotation": experts}
    (folder / "c.json").write_text(json.dumps(content))
    result = _run("experts", folder, "--spacing", 1, 0.5, 1, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "localisation by vertebra: 1.000 (0.000) mm" in result.stdout


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"foreign": {"tiny": "found.csv"}}, ("foreign.tiny",)),
        ({"foreign": {"experts": "found.csv"}}, ("experts",)),
        ({"foreign": {"a/b": "found.csv"}}, ("a/b",)),
        ({"evaluation": {"closeness": "overlap"}}, ("evaluation.closeness", "overlap")),
        ({"evaluation": {"resamples": 0}}, ("evaluation.resamples", "0")),
    ],
)
def test_wrong_settings_of_the_evaluation_are_named(tmp_path: Path, change: Any, words: tuple[str, ...]) -> None:
    tiny = yaml.safe_load((Path(__file__).parents[1] / "workflow" / "tiny.yaml").read_text())
    (tmp_path / "my.yaml").write_text(yaml.safe_dump({**tiny, **change}))
    result = _run("config-check", tmp_path / "my.yaml")
    assert result.exit_code == 1
    for word in ("my.yaml", *words):
        assert word in result.stderr
