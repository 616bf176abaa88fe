"""Fit how columns are named: the temperature of the evidence and the prices, by the likelihood of the right levels.

    python benchmarks/level_temperature.py RUN.npz [RUN.npz ...] --out benchmarks/level_temperature.csv

A file holds the detections of a run, those of a case together, superior first: ``case`` (n, text), ``log_evidence``
(n, 25), ``center`` (n, 3) mm, ``posterior_height_mm`` (n,) and ``level_target`` (n, text, "" where unknown). Settings
are fitted on the cases of all folds but one and scored on that one, so that all numbers are held out; those that are
printed last are fitted on all cases. What the cases say nothing about (no variant among them, say) stays where it was,
drawn there by a weak prior. Shares are of detections with a known level, and of their columns, as vertfrac evaluate
counts them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import minimize

from vertfrac.cohorts.levels import NAMED
from vertfrac.config import LevelDecoding
from vertfrac.errors import TableError
from vertfrac.evaluation.levels import columns, named_pairs
from vertfrac.inference.column import ColumnLevels, doubtful, log_likelihood, name_column, pitch_of

Floats = NDArray[np.float64]

FITTED = ("temperature", "missing", "variant", "unnamed", "sacrum", "pitch_spread", "pitch_limit")
"""All settings but ``near``, which is no matter of likelihood; all are positive, so their logarithms are fitted."""
REACH = np.log(20.0)
"""A setting is sought within this factor of where it starts."""
PRIOR = 0.2
"""Nats, over all cases, that a setting costs which is off its start by a factor of e."""
IMPOSSIBLE = -50.0
"""Stands for the log-likelihood of a column whose right levels the settings rule out."""
NEAR = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4)
ARRAYS = ("case", "log_evidence", "center", "posterior_height_mm", "level_target")


@dataclass(frozen=True, eq=False)
class Column:
    """The detections of one case, superior first."""

    case: str
    log_evidence: Floats
    pitch: Floats
    levels: tuple[str, ...]


def read_columns(paths: Sequence[Path]) -> list[Column]:
    """The columns of some files; a case is known by its file too. TableError names a file that is not as above."""
    found = []
    for path in paths:
        with np.load(path, allow_pickle=False) as content:
            absent = [name for name in ARRAYS if name not in content]
            if absent:
                raise TableError(f"{path}: {absent[0]} is missing, expected the arrays {', '.join(ARRAYS)}")
            data = {name: content[name] for name in ARRAYS}
        lengths = {name: len(array) for name, array in data.items()}
        if len(set(lengths.values())) > 1:
            raise TableError(f"{path}: found arrays of the lengths {lengths}, expected one length")
        unknown = sorted(set(data["level_target"].tolist()) - {"", *NAMED})
        if unknown:
            raise TableError(
                f"{path}: level_target holds {unknown[0]!r}, expected one of {', '.join(NAMED)}, or nothing"
            )
        for case in dict.fromkeys(data["case"].tolist()):
            mine = data["case"] == case
            pitch = pitch_of(data["center"][mine], data["posterior_height_mm"][mine])
            evidence = data["log_evidence"][mine].astype(np.float64)
            found.append(Column(f"{path.stem}/{case}", evidence, pitch, tuple(data["level_target"][mine].tolist())))
    return found


def mean_log_likelihood(found: Sequence[Column], settings: dict[str, float]) -> float:
    """Per column, of its known levels."""
    values = [log_likelihood(c.log_evidence, c.pitch, c.levels, **settings) for c in found]
    return float(np.mean(np.maximum(values, IMPOSSIBLE)))


def fit(found: Sequence[Column], start: dict[str, float], evaluations: int) -> dict[str, float]:
    """The settings of greatest likelihood, by the method of Nelder and Mead from ``start``."""

    def settings_of(steps: Floats) -> dict[str, float]:
        return {name: start[name] * float(np.exp(step)) for name, step in zip(FITTED, steps, strict=True)}

    def loss(steps: Floats) -> float:
        return PRIOR * float(steps @ steps) / len(found) - mean_log_likelihood(found, settings_of(steps))

    none = np.zeros(len(FITTED))
    corners = np.vstack([none, np.eye(len(FITTED)) * 0.5])
    result = minimize(
        loss, none, method="Nelder-Mead", bounds=[(-REACH, REACH)] * len(FITTED),
        options={"maxfev": evaluations, "xatol": 0.02, "fatol": 1e-4, "initial_simplex": corners},
    )  # fmt: skip
    return settings_of(result.x)


def answered(found: Sequence[Column], settings: dict[str, float]) -> list[tuple[Column, ColumnLevels]]:
    """The columns with what the decoder says of them."""
    return [(c, name_column(c.log_evidence, c.pitch, **settings, near=0.0)) for c in found]


def pairs_of(answers: Sequence[tuple[Column, ColumnLevels]], near: float) -> pd.DataFrame:
    """Every detection with a known level as `named_pairs` has it, in doubt by ``near``."""
    rows: list[dict[str, Any]] = []
    for c, answer in answers:
        doubt = doubtful(answer.second, answer.second_share, near)
        rows += [
            {
                "patient": c.case, "case": c.case, "expert": "", "rater": "", "anchored": False, "target": i,
                "vertebra": i, "level_target": target, "level": answer.levels[i], "level_runner_up": doubt[i],
            }
            for i, target in enumerate(c.levels)
        ]  # fmt: skip
    return named_pairs(pd.DataFrame(rows))


def scores(pairs: pd.DataFrame) -> dict[str, float]:
    """Shares of `pairs_of`: right levels, shifted columns, those of them in doubt, and right columns in doubt."""
    scans = columns(pairs)
    return {
        "right": float(pairs["right"].mean()),
        "shifted": float(scans["shifted"].mean()),
        "shifted_doubtful": float(scans["flagged"][scans["shifted"]].mean()),
        "right_doubtful": float(scans["flagged"][scans["right"]].mean()),
        "columns": len(scans),
        "shifted_columns": int(scans["shifted"].sum()),
    }


def cross_validated(
    found: Sequence[Column], start: dict[str, float], *, folds: int, evaluations: int, seed: int
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Scores against ``near`` before and after fitting, held out, and the settings fitted on all."""
    part = np.random.default_rng(seed).permutation(len(found)) % folds
    held_out = [[c for c, p in zip(found, part, strict=True) if p == fold] for fold in range(folds)]
    rest = [[c for c, p in zip(found, part, strict=True) if p != fold] for fold in range(folds)]
    fitted = [fit(cases, start, evaluations) for cases in rest]
    rows = []
    for name, chosen in (("before", [start] * folds), ("after", fitted)):
        tests = list(zip(held_out, chosen, strict=True))
        counts = [len(cases) for cases in held_out]
        likelihood = np.average([mean_log_likelihood(*test) for test in tests], weights=counts)
        answers = [answer for test in tests for answer in answered(*test)]
        for near in NEAR:
            result = scores(pairs_of(answers, near))
            rows.append({"settings": name, "log_likelihood": likelihood, "near": near, **result})
    return pd.DataFrame(rows), fit(found, start, evaluations)


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--folds", type=click.IntRange(min=2), default=5, show_default=True)
@click.option("--evaluations", type=click.IntRange(min=1), default=250, show_default=True, help="per fit")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="CSV to write")
def main(runs: tuple[Path, ...], folds: int, evaluations: int, seed: int, out: Path) -> None:
    """Fit on RUNS and compare with the default settings."""
    try:
        found = [column for column in read_columns(runs) if any(column.levels)]
    except TableError as error:
        raise click.ClickException(str(error)) from error
    if len(found) < folds:
        raise click.ClickException(f"found {len(found)} columns with known levels, expected at least {folds}")
    start = LevelDecoding().model_dump(include=set(FITTED))
    table, fitted = cross_validated(found, start, folds=folds, evaluations=evaluations, seed=seed)
    table.round(4).to_csv(out, index=False)
    click.echo(table.round(3).to_string(index=False))
    click.echo("\nfitted on all columns:")
    for name in FITTED:
        click.echo(f"  {name}: {fitted[name]:.3g}  (was {start[name]:g})")


if __name__ == "__main__":
    main()
