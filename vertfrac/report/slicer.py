"""Predictions as a markups file of 3D Slicer: three rulers per vertebra in grade colours, and the curve of the spine.

``cohorts.markups`` reads the file back as annotations, as it is or corrected.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import to_rgb

from vertfrac import tables
from vertfrac.cohorts.markups import CURVE, markup, not_graded, rulers, write_markups
from vertfrac.genant import GRADES
from vertfrac.geometry.curve import Curve
from vertfrac.geometry.keypoints import HEIGHTS
from vertfrac.report.levels import long_name, text_of
from vertfrac.report.style import GRADE_COLOURS, UNGRADED_COLOUR


def write_scan(path: Path | str, vertebrae: pd.DataFrame, curve: Curve) -> None:
    """Write the rulers of a scan and the curve of its spine, atomically, in LPS mm.

    vertebrae : rows of VERTEBRAE. One without finite keypoints has no rulers; one that was not graded has grey ones,
    whose points say so.
    """
    placed = vertebrae[np.isfinite(tables.keypoints_of(vertebrae)).all(axis=(1, 2))]
    markups = []
    records: list[dict[Any, Any]] = placed.to_dict("records")
    for row, points, lines in zip(records, tables.keypoints_of(placed), rulers(placed), strict=True):
        for part, pair, line in zip(HEIGHTS, points.reshape(3, 2, 3), lines, strict=True):
            markups.append(_dressed(line, row, pair, float(row[f"height_{part}_mm"])))
    write_markups(path, [*markups, _spine(curve)])


def _dressed(line: dict[str, Any], row: dict[Any, Any], pair: np.ndarray, length_mm: float) -> dict[str, Any]:
    """A ruler that can be dragged, in the colour of its vertebra's grade; pair (2, 3), world RAS mm."""
    graded = row["status"] == "ok" and not pd.isna(row["grade"])
    grade = int(row["grade"]) if graded else 0
    for point, position in zip(line["controlPoints"], pair, strict=True):
        point["description"] = (
            f"predicted grade {grade} ({GRADES[grade]}), G {row['genant']:.3f}{_by_level(row)}"
            if graded
            else not_graded(str(row["status"]), position)
        ) + _of_level(row)
    return {
        **line,
        "locked": False,
        "fixedNumberOfControlPoints": True,
        "measurements": [
            {"name": "length", "enabled": True, "value": length_mm, "units": "mm", "printFormat": "%-#4.4g%s"}
        ],
        "display": _display(GRADE_COLOURS[grade] if graded else UNGRADED_COLOUR, labelled=grade > 0),
    }


def _by_level(row: dict[Any, Any]) -> str:
    """The second opinion, where there is one."""
    if pd.isna(row["grade_level"]):
        return ""
    return f"; by the normal shape of its level {int(row['grade_level'])}, G {row['genant_level']:.3f}"


def _of_level(row: dict[Any, Any]) -> str:
    """The level as the model gave it, with its probability and what else it may be; "" without one."""
    if not text_of(row["level"]) or pd.isna(row["level_probability"]):
        return ""
    return f" [{long_name(row)}, probability {row['level_probability']:.2f}]"


def _spine(curve: Curve) -> dict[str, Any]:
    points = ((f"{CURVE}-{k}", point) for k, point in enumerate(curve.points_world, start=1))
    return {
        **markup("Curve", CURVE, points),
        "display": {**_display(UNGRADED_COLOUR, labelled=False), "glyphScale": 0.2},
    }


def _display(colour: str, *, labelled: bool) -> dict[str, Any]:
    """How a markup looks; 3D Slicer draws points in one of two colours, selected or not, here the same."""
    rgb = [round(part, 4) for part in to_rgb(colour)]
    return {
        "visibility": True,
        "color": rgb,
        "selectedColor": rgb,
        "propertiesLabelVisibility": labelled,
        "pointLabelsVisibility": False,
        "textScale": 2.0,
        "glyphScale": 1.0,
        "useGlyphScale": True,
        "lineThickness": 0.3,
        "snapMode": "unconstrained",
    }
