"""Levels put on measured vertebrae, and what follows from them: what is no vertebra, and the second opinion on G."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vertfrac import tables
from vertfrac.config import DetectorInference
from vertfrac.genant import grade
from vertfrac.geometry.grid import Grid
from vertfrac.geometry.keypoints import HEIGHTS
from vertfrac.geometry.straighten import StraightSlice
from vertfrac.inference.column import expected_pitch, name_column
from vertfrac.inference.detect import from_above, measure, vertebrae_frame
from vertfrac.inference.nms import Detection
from vertfrac.level_shape import genant_level

Floats = NDArray[np.float64]

SACRUM = "S1"
"""The one name of a detection that says that it is no vertebra to be graded."""


def measured_and_named(
    detections: Sequence[Detection], geometry: StraightSlice, scan: Grid, options: DetectorInference
) -> tuple[pd.DataFrame, Floats | None]:
    """Detections on a slice as rows of VERTEBRAE (without system, repeat, fold and case), superior first.

    They are named if they come with evidence, which is returned too, (n, levels) in the order of the rows.
    """
    rows = measure(detections, geometry, scan, score=options.score, partial_margin_mm=options.partial_margin_mm)
    vertebrae = vertebrae_frame(rows)
    found = [detection.evidence for detection in from_above(detections) if detection.evidence is not None]
    if not found:
        return vertebrae, None
    evidence = np.stack(found)
    column = name_column(evidence, expected_pitch(tables.keypoints_of(vertebrae)), **options.levels.model_dump())
    return apply_levels(vertebrae, column.levels, column.probability.tolist(), column.doubt), evidence


def apply_levels(
    vertebrae: pd.DataFrame,
    levels: Sequence[str],
    probabilities: Sequence[float],
    runner_ups: Sequence[str],
) -> pd.DataFrame:
    """The rows of VERTEBRAE with their levels, the status of what was named S1, and the second opinion on G.

    vertebrae : rows of one scan, or of several. levels, runner_ups : a name per row, "" for none. probabilities : of
    the levels, NaN for none.
    A detection named S1 keeps its heights and G, its status is ``sacrum``, and it has no grade. genant_level is there
    wherever G is and the level has a typical shape, grade_level where the grade is too.
    """
    named = vertebrae.assign(
        level=pd.array(list(levels), dtype="string"),
        level_probability=[float(one) for one in probabilities],
        level_runner_up=pd.array(list(runner_ups), dtype="string"),
    )
    sacrum = named["level"] == SACRUM
    named = named.assign(
        status=named["status"].mask(sacrum, "sacrum"), grade=named["grade"].astype("Int64").mask(sacrum)
    )
    return tables.VERTEBRAE.frame(with_second_opinion(named))


def with_second_opinion(vertebrae: pd.DataFrame) -> pd.DataFrame:
    """The rows of VERTEBRAE with genant_level and grade_level by their levels, in place of what they had."""
    tall = vertebrae[[f"height_{part}_mm" for part in HEIGHTS]].to_numpy(dtype=float)
    index = pd.Series(genant_level(tall, vertebrae["level"].fillna("").tolist()), index=vertebrae.index)
    index = index.where(vertebrae["genant"].notna())
    grades = pd.Series(grade(index), index=vertebrae.index, dtype="Int64")
    graded = (vertebrae["status"] == "ok") & index.notna()
    return vertebrae.assign(genant_level=index, grade_level=grades.where(graded))
