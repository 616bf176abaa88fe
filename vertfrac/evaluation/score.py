"""Per case: predictions against every expert's annotation, and predicted curves against annotated ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from vertfrac import tables
from vertfrac.evaluation.levels import identified
from vertfrac.evaluation.matching import Closeness, distances, match, overlaps
from vertfrac.genant import genant_index
from vertfrac.geometry.keypoints import heights
from vertfrac.geometry.spine import annotated_spine


def match_table(
    annotations: pd.DataFrame, predictions: pd.DataFrame, *, closeness: Closeness, threshold: float
) -> list[dict[str, Any]]:
    """One row per match, missed target and surplus prediction of one case (table MATCHES without its run columns).

    annotations : rows of ANNOTATIONS of one case, any number of experts. predictions : its rows of PREDICTIONS; only
    those with status ok count, since only those are offered as measurements. closeness, threshold : as in ``match``.
    """
    measured = predictions[predictions["status"] == "ok"]
    found = tables.keypoints_of(measured)
    numbers, scores = measured["vertebra"].tolist(), measured["score"].tolist()
    spreads = _column(measured, "spread_mm")
    g_found = genant_index(heights(found))
    names = {name: _column(measured, name) for name in ("level", "level_probability", "level_runner_up")}
    levels = [str(level or "") for level in names["level"]]
    rows: list[dict[str, Any]] = []
    for expert, marks in annotations.groupby("expert"):
        truth = tables.keypoints_of(marks)
        targets = marks["vertebra"].tolist()
        target_of = {j: i for i, j in match(truth, found, closeness=closeness, threshold=threshold)}
        g_truth = genant_index(heights(truth))
        graded = _column(marks, "grade")
        gap = distances(truth, found)
        nearest = gap.argmin(axis=0)
        wanted = [str(level or "") for level in _column(marks, "level")]
        hits = identified(gap, wanted, levels)
        of_target = [
            {
                "target": number,
                "genant_target": g,
                "grade_target": grade,
                "level_target": level or None,
                "identified": hit,
            }
            for number, g, grade, level, hit in zip(targets, g_truth, graded, wanted, hits, strict=True)
        ]
        for j in range(len(found)):
            row = {
                "expert": expert,
                "vertebra": numbers[j],
                "score": scores[j],
                "spread_mm": spreads[j],
                "genant": g_found[j],
                **{name: values[j] for name, values in names.items()},
                "level": levels[j],
                "nearest_mm": gap[nearest[j], j],
                "nearest_genant": g_truth[nearest[j]],
            }
            if j in target_of:
                i = target_of[j]
                row |= {
                    **of_target[i],
                    "iou": overlaps(truth[i : i + 1], found[j : j + 1])[0, 0],
                    "center_error_mm": gap[i, j],
                    "keypoint_error_mm": np.linalg.norm(truth[i] - found[j], axis=-1).mean(),
                }
            rows.append(row)
        rows += [{"expert": expert, **of_target[i]} for i in sorted(set(range(len(truth))) - set(target_of.values()))]
    return rows


def _column(rows: pd.DataFrame, name: str) -> list[Any]:
    """The values of a column that may be absent, None where there is none."""
    if name not in rows:
        return [None] * len(rows)
    return [None if pd.isna(value) else value for value in rows[name]]


def curve_errors(annotations: pd.DataFrame, curve_points: pd.DataFrame) -> list[dict[str, Any]]:
    """Errors of one case's predicted curve against every expert's (table CURVE_ERRORS without run columns and status).

    The curve error is the mean distance, in axial planes 1 mm apart, inside both the annotated and the predicted
    limits; the limits error is the mean absolute error of the two ends in z. curve_points : rows of CURVES of the case.
    """
    predicted = curve_points.sort_values("z")[["x", "y", "z"]].to_numpy()
    rows: list[dict[str, Any]] = []
    for expert, marks in annotations.groupby("expert"):
        spine = annotated_spine(tables.keypoints_of(marks))
        low, high = max(spine.lower_z, predicted[0, 2]), min(spine.upper_z, predicted[-1, 2])
        error = np.nan
        if high > low:
            z = np.arange(low, high + 1e-9, 1.0)
            truth = spine.curve.points_world[::-1]
            difference = [
                np.interp(z, predicted[:, 2], predicted[:, axis]) - np.interp(z, truth[:, 2], truth[:, axis])
                for axis in (0, 1)
            ]
            error = float(np.hypot(*difference).mean())
        ends = np.abs([predicted[0, 2] - spine.lower_z, predicted[-1, 2] - spine.upper_z])
        rows.append({"expert": expert, "curve_error_mm": error, "limits_error_mm": float(ends.mean())})
    return rows
