"""Laws of putting levels on measured vertebrae: nothing that was measured changes, and S1 is not graded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from vertfrac import tables
from vertfrac.genant import genant_index, grade
from vertfrac.geometry.keypoints import HEIGHTS
from vertfrac.inference.named import apply_levels
from vertfrac.inference.scan import ungraded, worst
from vertfrac.level_shape import genant_level

TALL = np.array([[13.0, 12.5, 16.0], [14.0, 16.0, 20.0], [22.0, 21.0, 23.0], [10.0, 17.0, 21.0], [np.nan] * 3])
STATUSES = ("partial", "ok", "low_score", "ok", "not_measured")
LEVELS = ("T6", "T7", "T8", "T9", "T10")


def measured() -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for number, (tall, status) in enumerate(zip(TALL, STATUSES, strict=True), start=1):
        index = float(genant_index(tall))
        rows.append(
            {
                "system": "s", "repeat": 0, "fold": 0, "case": "c", "vertebra": number, "level": "", "status": status,
                "score": 0.9, "genant": index, "grade": int(grade(index)) if status == "ok" else None,
                **{f"height_{name}_mm": mm for name, mm in zip(HEIGHTS, tall, strict=True)},
            }
        )  # fmt: skip
    return tables.VERTEBRAE.frame(rows)


def named(levels: tuple[str, ...] = LEVELS, others: tuple[str, ...] = ("",) * 5) -> pd.DataFrame:
    return apply_levels(measured(), levels, [0.9 if level else np.nan for level in levels], others)


OURS = ["level", "level_probability", "level_runner_up", "genant_level", "grade_level"]


def test_what_was_measured_stays_and_the_rest_is_of_the_level() -> None:
    found = named(others=("T5", "T6", "", "", ""))
    pd.testing.assert_frame_equal(found.drop(columns=OURS), measured().drop(columns=OURS))
    assert found["level"].tolist() == list(LEVELS)
    assert found["level_runner_up"].tolist() == ["T5", "T6", "", "", ""]
    np.testing.assert_array_equal(found["genant_level"], genant_level(TALL, LEVELS))
    assert found["grade_level"].isna().tolist() == [status != "ok" for status in STATUSES]
    assert found["grade_level"].dropna().tolist() == grade(found["genant_level"])[[1, 3]].tolist()


def test_a_model_without_levels_changes_nothing() -> None:
    without = named(("",) * 5)
    pd.testing.assert_frame_equal(without.drop(columns="level_runner_up"), measured().drop(columns="level_runner_up"))
    assert without[["genant_level", "grade_level", "level_probability"]].isna().all(axis=None)


def test_s1_keeps_its_heights_has_no_grade_and_never_counts() -> None:
    found = named(("L2", "L3", "L4", "S1", ""))
    row = found.iloc[3]
    assert (row["status"], row["level"], row["genant"]) == ("sacrum", "S1", measured()["genant"][3])
    assert row[["grade", "genant_level", "grade_level"]].isna().all()
    assert worst(measured())["worst_grade"] == 3
    assert worst(found) == {"vertebrae": 1, "worst_grade": 2, "smallest_genant": 0.7}
    assert "1 vertebra named S1, not graded" in ungraded(found)


def test_s1_at_the_edge_is_no_vertebra_at_the_edge() -> None:
    found = named(("S1", "", "", "", ""))
    assert found["status"].tolist() == ["sacrum", *STATUSES[1:]]


def test_no_vertebra_at_all() -> None:
    empty = apply_levels(tables.VERTEBRAE.frame([]), [], [], [])
    pd.testing.assert_frame_equal(empty, tables.VERTEBRAE.frame([]))
