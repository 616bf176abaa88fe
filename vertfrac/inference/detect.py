"""Stage 2 at work: a straightened slice in, vertebrae with heights and grades in world space out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from vertfrac import tables
from vertfrac.genant import genant_index, grade
from vertfrac.geometry.grid import Grid
from vertfrac.geometry.keypoints import HEIGHTS, centers, heights
from vertfrac.geometry.straighten import StraightSlice
from vertfrac.inference.nms import Detection, suppress
from vertfrac.models.detector import Detector, mean_candidates
from vertfrac.models.intensity import Scaling, scale_intensity

HEIGHT_RANGE_MM = (3.0, 60.0)
"""No vertebral body, collapsed or huge, has a height outside it; such a detection is reported as not measured."""


MOST_CANDIDATES = 20_000
"""A trained detector leaves some hundred candidates per vertebra; an untrained one must not stall the suppression."""


def detect(
    networks: Sequence[Detector],
    image: NDArray[np.int16],
    *,
    spacing_mm: float,
    scaling: Scaling,
    window_hu: tuple[float, float],
    threshold: float,
    nms: Literal["butterfly", "box"],
    nms_threshold: float,
    average_mm: float,
    device: torch.device,
) -> list[Detection]:
    """Detections on one straightened slice, from the mean output of the networks, best first.

    image : (rows, columns) HU. threshold : objectness below which nothing is returned.
    """
    hu = torch.from_numpy(image).to(device)[None]
    x = scale_intensity(hu, scaling=scaling, window_hu=window_hu)[:, None].contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        candidates = mean_candidates([network.decode(network(x)[0]) for network in networks])
    candidates = candidates.best_above(threshold, MOST_CANDIDATES)
    return suppress(
        *(values.cpu().numpy() for values in candidates),
        overlap=nms,
        threshold=nms_threshold,
        average_px=average_mm / spacing_mm,
    )


def measure(
    detections: Sequence[Detection], geometry: StraightSlice, scan: Grid, *, score: float, partial_margin_mm: float
) -> list[dict[str, Any]]:
    """Detections on a slice as rows of the table VERTEBRAE (without system, repeat, fold and case), superior first.

    The keypoints are mapped to world space, and heights, G and grade are measured there. score : objectness a vertebra
    needs to be measured. partial_margin_mm : a keypoint nearer to the edge of the scan than this makes the vertebra
    partial.
    """
    rows: list[dict[str, Any]] = []
    for detection in sorted(detections, key=lambda d: float(d.keypoints[:, 0].mean())):
        world = geometry.to_world(detection.keypoints)
        h = heights(world)
        status = _status(detection, h, float(scan.distance_inside_mm(world).min()), score, partial_margin_mm)
        index = float(genant_index(h)) if status != "not_measured" else np.nan
        center = centers(world)
        rows.append(
            {
                "vertebra": len(rows) + 1,
                "level": "",
                "status": status,
                "score": detection.score,
                "genant": index,
                "grade": int(grade(index)) if status == "ok" else None,
                **{f"height_{name}_mm": float(mm) for name, mm in zip(HEIGHTS, h, strict=True)},
                **{f"center_{axis}": float(mm) for axis, mm in zip("xyz", center, strict=True)},
                "spread_mm": detection.spread * geometry.spacing_mm,
                **tables.keypoint_values(world),
            }
        )
    return rows


def _status(
    detection: Detection, heights_mm: NDArray[np.float64], inside_mm: float, score: float, margin: float
) -> str:
    upright = (detection.keypoints[0::2, 0] < detection.keypoints[1::2, 0]).all()
    low, high = HEIGHT_RANGE_MM
    if not upright or not np.isfinite(heights_mm).all() or heights_mm.min() < low or heights_mm.max() > high:
        return "not_measured"
    if inside_mm < margin:
        return "partial"
    return "ok" if detection.score > score else "low_score"


def vertebrae_frame(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Rows as a typed table VERTEBRAE."""
    return tables.VERTEBRAE.frame(rows)
