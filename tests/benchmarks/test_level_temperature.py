"""Fitting how columns are named, on synthetic evidence whose truth is known."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from vertfrac.cohorts.levels import NAMED
from vertfrac.config import LevelDecoding
from vertfrac.inference.column import PITCH_PER_HEIGHT

Floats = NDArray[np.float64]
USUAL = [level for level in NAMED if level not in ("T13", "L6")]
SIZE_MM = 20.0


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "level_temperature.py"
    spec = importlib.util.spec_from_file_location("level_temperature", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)

    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def _write(path: Path, *, cases: int, seed: int, witnesses: int, noise: float = 2.0) -> None:
    """Columns of neighbours, all of whose evidence is that of one network that saw one thing ``witnesses`` times over.

    A case draws one error for all its vertebrae: where the network takes the column to lie. Its log-probabilities are
    those of that error, times the witnesses: temperature 1 takes each vertebra for an independent one.
    """
    rng = np.random.default_rng(seed)
    places = np.arange(len(USUAL))
    rows: dict[str, list[object]] = {name: [] for name in ("case", "log_evidence", "center", "height", "level")}
    for number in range(cases):
        count = int(rng.integers(4, 8))
        first = int(rng.integers(4, len(USUAL) - count - 4))
        error = rng.normal(0, noise / 3)
        for i in range(count):
            logits = np.full(len(NAMED), -60.0)
            usual = -((places - (first + i + error)) ** 2) / (2 * (noise / 3) ** 2) * witnesses / count
            logits[[NAMED.index(level) for level in USUAL]] = usual
            rows["case"].append(f"c{number}")
            rows["log_evidence"].append(logits - np.logaddexp.reduce(logits))
            rows["center"].append([0.0, 0.0, -i * SIZE_MM * PITCH_PER_HEIGHT])
            rows["height"].append(SIZE_MM)
            rows["level"].append(USUAL[first + i])
    np.savez(
        path, case=np.array(rows["case"]), log_evidence=np.array(rows["log_evidence"]), center=np.array(rows["center"]),
        posterior_height_mm=np.array(rows["height"]), level_target=np.array(rows["level"]),
    )  # fmt: skip


def test_overconfident_evidence_is_cooled_and_gets_more_likely(tool: ModuleType, tmp_path: Path) -> None:
    """Evidence that counts everything eight times is fitted with a far higher temperature than sound evidence."""
    start = LevelDecoding().model_dump(include=set(tool.FITTED))
    fitted = []
    for witnesses in (1, 8):
        _write(tmp_path / "run.npz", cases=16, seed=1, witnesses=witnesses)
        found = tool.read_columns([tmp_path / "run.npz"])
        settings = tool.fit(found, start, 60)
        assert tool.mean_log_likelihood(found, settings) > tool.mean_log_likelihood(found, start)
        fitted.append(settings["temperature"])
    assert fitted[1] > 3 * fitted[0]


def test_scores_before_and_after_are_written_and_printed(tool: ModuleType, tmp_path: Path) -> None:
    _write(tmp_path / "run.npz", cases=10, seed=2, witnesses=1)
    arguments = [str(tmp_path / "run.npz"), "--folds", "2", "--evaluations", "8", "--out", str(tmp_path / "out.csv")]
    result = CliRunner().invoke(tool.main, arguments)
    assert result.exit_code == 0, result.output
    table = pd.read_csv(tmp_path / "out.csv")
    assert table["settings"].tolist() == ["before"] * len(tool.NEAR) + ["after"] * len(tool.NEAR)
    assert (table["columns"] == 10).all()
    before = table[table["settings"] == "before"]
    assert before["right_doubtful"].is_monotonic_decreasing
    assert "temperature: " in result.output


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"case": None}, "run.npz: case is missing, expected the arrays case, log_evidence"),
        ({"level_target": np.array(["T7"])}, "expected one length"),
        ({"level_target": np.array(["T7", "X1"])}, "level_target holds 'X1', expected one of C3"),
    ],
)
def test_a_file_that_is_none_of_ours_is_named(
    tool: ModuleType, tmp_path: Path, change: dict[str, object], words: str
) -> None:
    content: dict[str, object] = {
        "case": np.array(["a", "a"]), "log_evidence": np.zeros((2, len(NAMED))), "center": np.zeros((2, 3)),
        "posterior_height_mm": np.ones(2), "level_target": np.array(["T7", ""]), **change,
    }  # fmt: skip
    np.savez(tmp_path / "run.npz", **{name: value for name, value in content.items() if value is not None})
    result = CliRunner().invoke(tool.main, [str(tmp_path / "run.npz"), "--out", str(tmp_path / "out.csv")])
    assert (result.exit_code, (tmp_path / "out.csv").exists()) == (1, False)
    assert words in result.output
