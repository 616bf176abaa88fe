"""Stage 2 at work: a straightened slice in, vertebrae with heights and grades in world space out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from vertfrac import tables
from vertfrac.genant import genant_index, grade
from vertfrac.geometry.context import Context
from vertfrac.geometry.grid import Grid
from vertfrac.geometry.keypoints import HEIGHTS, centers, heights
from vertfrac.geometry.straighten import StraightSlice
from vertfrac.inference.nms import Detection, suppress
from vertfrac.models.detector import Detector, mean_candidates
from vertfrac.models.intensity import Scaling, scale_context, scale_intensity

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
    context: Context | None = None,
    start_mm: float = 0.0,
) -> list[Detection]:
    """Detections on one straightened slice, from the mean output of the networks, best first.

    image : (rows, columns) HU. threshold : objectness below which nothing is returned. context : of the same curve,
    needed where the networks name vertebrae. start_mm : length along the curve of the slice's row 0.
    """
    hu = torch.from_numpy(image).to(device)[None]
    x = scale_intensity(hu, scaling=scaling, window_hu=window_hu)[:, None].contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        features = [network.unet.features(x) for network in networks]
        said = [network.decode(network.output(seen)[0]) for network, seen in zip(networks, features, strict=True)]
        candidates = mean_candidates(said)
    candidates = candidates.best_above(threshold, MOST_CANDIDATES)
    found = suppress(
        *(values.cpu().numpy() for values in candidates),
        overlap=nms,
        threshold=nms_threshold,
        average_px=average_mm / spacing_mm,
    )
    if context is None or not found or not names_levels(networks):
        return found
    centroids = np.stack([detection.keypoints.mean(axis=0) for detection in found])
    rows = context.rows_at(start_mm + centroids[:, 0] * spacing_mm)
    evidence = _evidence(networks, features, torch.from_numpy(context.views).to(device), centroids, rows)
    return [replace(detection, evidence=one) for detection, one in zip(found, evidence, strict=True)]


def names_levels(networks: Sequence[Detector]) -> bool:
    """Whether networks name vertebrae: those of one system do all or none, unless no level was known in training."""
    return all(network.levels is not None and network.levels.trained for network in networks)


def _evidence(
    networks: Sequence[Detector],
    features: Sequence[torch.Tensor],
    views: torch.Tensor,
    centroids: NDArray[np.float64],
    rows: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Log-likelihood of the levels, (n, levels), of vertebrae at centroids (n, 2), pixels, and context rows (n,)."""
    parts = []
    place = torch.from_numpy(rows).to(views.device, torch.float32)
    image = torch.zeros(len(rows), dtype=torch.int64, device=views.device)
    for network, seen in zip(networks, features, strict=True):
        head = network.levels
        assert head is not None
        cell = torch.from_numpy(np.rint((centroids + 0.5) / network.unet.output_stride - 0.5)).long()
        row, column = (cell[:, axis].clamp(0, seen.shape[2 + axis] - 1) for axis in (0, 1))
        with torch.inference_mode():
            cells = seen[0].permute(1, 2, 0)[row, column].float()
            logits = head(cells, head.rows(scale_context(views[None])), image, place)
            parts.append(head.evidence(logits).double().cpu().numpy())
    mean: NDArray[np.float64] = np.mean(parts, axis=0)
    return mean


def measure(
    detections: Sequence[Detection], geometry: StraightSlice, scan: Grid, *, score: float, partial_margin_mm: float
) -> list[dict[str, Any]]:
    """Detections on a slice as rows of the table VERTEBRAE (without system, repeat, fold and case), superior first.

    The keypoints are mapped to world space, and heights, G and grade are measured there. score : objectness a vertebra
    needs to be measured. partial_margin_mm : a keypoint nearer to the edge of the scan than this makes the vertebra
    partial.
    """
    rows: list[dict[str, Any]] = []
    for detection in from_above(detections):
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


def from_above(detections: Sequence[Detection]) -> list[Detection]:
    """Detections of one slice, superior first."""
    return sorted(detections, key=lambda detection: float(detection.keypoints[:, 0].mean()))


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
