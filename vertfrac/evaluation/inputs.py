"""Reading annotations and predictions for scoring, whoever made them: what is wrong is named by file and case."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from vertfrac import tables
from vertfrac.errors import AnnotationError, TableError, VertfracError
from vertfrac.evaluation.levels import read_level
from vertfrac.geometry.keypoints import heights


def read_annotations(path: Path) -> pd.DataFrame:
    """A table ANNOTATIONS; AnnotationError if a case holds a vertebra twice, one without height or of no level."""
    marks = tables.read_table(path, tables.ANNOTATIONS)
    marks["expert"] = marks["expert"].fillna(tables.DEFAULT_EXPERT)
    if marks.empty:
        raise AnnotationError(f"{path}: no annotation, expected one row per vertebra")
    check_vertebrae(marks, path, ["case", "expert", "vertebra"], AnnotationError)
    return _with_levels(marks, path, ("level",), AnnotationError)


def read_predictions(path: Path) -> pd.DataFrame:
    """A table PREDICTIONS, absent columns filled; TableError for a vertebra twice, without height or of no level.

    Vertebrae that are not offered as measurements (status other than ok) need no keypoints.
    """
    found = tables.read_table(path, tables.PREDICTIONS)
    if found["vertebra"].isna().all():
        found["vertebra"] = (found.groupby("case").cumcount() + 1).astype("Int64")
    found = found.fillna({"score": 1.0, "status": "ok"})
    check_vertebrae(found, path, ["case", "vertebra"], TableError)
    return _with_levels(found, path, ("level", "level_runner_up"), TableError)


def _with_levels(rows: pd.DataFrame, path: Path, columns: Sequence[str], error: type[VertfracError]) -> pd.DataFrame:
    """The rows with levels as `levels.NAMED` writes them, "" where there is none."""
    read = {
        name: pd.Series(
            [
                read_level(text, f"{path}: case {case} vertebra {vertebra}", error)
                for case, vertebra, text in zip(rows["case"], rows["vertebra"], rows[name].fillna(""), strict=True)
            ],
            index=rows.index,
            dtype="string",
        )
        for name in columns
    }
    return rows.assign(**read)


def check_vertebrae(rows: pd.DataFrame, path: Path, key: Sequence[str], error: type[VertfracError]) -> None:
    """Raise the error, naming file and cases, unless keys are complete and unique and every vertebra has heights."""
    for column in key:
        if rows[column].isna().any():
            line = int(rows[column].isna().to_numpy().argmax()) + 1
            raise error(f"{path}: row {line} has no {column}, expected one in every row")
    twice = rows[rows.duplicated(list(key))]
    if len(twice):
        what = " ".join(f"{name} {twice.iloc[0][name]}" for name in key)
        raise error(f"{path}: {what} occurs twice, expected once ({_named(twice['case'])})")
    measured = rows[rows["status"] == "ok"] if "status" in rows else rows
    tall = heights(tables.keypoints_of(measured))
    wrong = np.asarray(~(np.isfinite(tall) & (tall > 0)).all(axis=1))
    if wrong.any():
        first = measured[wrong].iloc[0]
        what = " ".join(f"{name} {first[name]}" for name in key)
        raise error(
            f"{path}: {what} has the heights {tall[wrong][0].tolist()} mm, expected three positive numbers from "
            f"finite keypoints ({_named(measured['case'][wrong])})"
        )


def check_cases(found: pd.DataFrame, path: Path, known: set[str], expected: str) -> None:
    """Raise TableError, naming file and cases, if there are predictions for other cases than the known ones."""
    unknown = found["case"][~found["case"].isin(known)]
    if len(unknown):
        raise TableError(f"{path}: predictions for unknown {_named(unknown)}, expected {expected}")


def _named(cases: pd.Series) -> str:
    """The distinct cases of a column, the first few by name."""
    return name_some("case", sorted(set(cases)))


def name_some(noun: str, names: Sequence[str], most: int = 5) -> str:
    """``case a`` or ``cases a, b and 3 more``."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{noun}{'s' if len(names) > 1 else ''} {', '.join(names[:most])}{more}"
