"""Per case: predictions against every expert's annotation, and predicted curves against annotated ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from vertfrac import tables
from vertfrac.evaluation.matching import match, overlaps
from vertfrac.genant import genant_index
from vertfrac.geometry.keypoints import centers, heights
from vertfrac.geometry.spine import annotated_spine


def match_table(
    annotations: pd.DataFrame, predictions: pd.DataFrame, *, smallest_iou: float, largest_distance_mm: float
) -> list[dict[str, Any]]:
    """One row per match, missed target and surplus prediction of one case (table MATCHES without its run columns).

    annotations : rows of ANNOTATIONS of one case, any number of experts. predictions : its rows of VERTEBRAE; only
    those with status ok count, since only those are offered as measurements.
    """
    measured = predictions[predictions["status"] == "ok"]
    found = tables.keypoints_of(measured)
    numbers, scores = measured["vertebra"].tolist(), measured["score"].tolist()
    rows: list[dict[str, Any]] = []
    for expert, marks in annotations.groupby("expert"):
        truth = tables.keypoints_of(marks)
        targets = marks["vertebra"].tolist()
        pairs = match(truth, found, smallest_iou=smallest_iou, largest_distance_mm=largest_distance_mm)
        iou = overlaps(truth, found) if pairs else np.zeros((0, 0))
        g_truth, g_found = genant_index(heights(truth)), genant_index(heights(found))
        for i, j in pairs:
            rows.append(
                {
                    "expert": expert,
                    "target": targets[i],
                    "vertebra": numbers[j],
                    "iou": iou[i, j],
                    "center_error_mm": float(np.linalg.norm(centers(truth[i]) - centers(found[j]))),
                    "keypoint_error_mm": float(np.linalg.norm(truth[i] - found[j], axis=-1).mean()),
                    "score": scores[j],
                    "genant_target": g_truth[i],
                    "genant": g_found[j],
                }
            )
        hit, used = {i for i, _ in pairs}, {j for _, j in pairs}
        rows += [
            {"expert": expert, "target": targets[i], "genant_target": g_truth[i]}
            for i in range(len(truth))
            if i not in hit
        ]
        rows += [
            {"expert": expert, "vertebra": numbers[j], "score": scores[j], "genant": g_found[j]}
            for j in range(len(found))
            if j not in used
        ]
    return rows


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
