"""Which prediction is which annotated vertebra."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vertfrac.errors import GeometryError
from vertfrac.geometry.keypoints import centers
from vertfrac.geometry.polygon import box_iou, butterfly_iou

Floats = NDArray[np.float64]
Closeness = Literal["butterfly", "box", "distance"]


def plane_axes(keypoints: Floats) -> Floats:
    """Two orthonormal axes (2, 3) of the plane of one annotated vertebra: to its superior end, and to its anterior one.

    keypoints : (6, 3), world RAS mm. Raises GeometryError if the six points span no plane.
    """
    up = keypoints[0::2].mean(axis=0) - keypoints[1::2].mean(axis=0)
    forward = keypoints[:2].mean(axis=0) - keypoints[4:].mean(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        up = up / np.linalg.norm(up)
        forward = forward - (forward @ up) * up
        axes: Floats = np.stack([up, forward / np.linalg.norm(forward)])
    if not np.isfinite(axes).all():
        raise GeometryError("the keypoints of an annotated vertebra span no plane: it has no height or no depth")
    return axes


def overlaps(targets: Floats, predictions: Floats, closeness: Literal["butterfly", "box"] = "butterfly") -> Floats:
    """IoU of every pair in the plane of the target: of the butterfly polygons, or of the boxes along that plane's axes.

    targets : (n, 6, 3), predictions : (m, 6, 3), world RAS mm. Returns (n, m).
    """
    iou = {"butterfly": butterfly_iou, "box": box_iou}[closeness]
    result = np.zeros((len(targets), len(predictions)))
    for i, target in enumerate(targets):
        axes = plane_axes(target)
        result[i] = iou((target @ axes.T)[None], predictions @ axes.T)[0]
    return result


def distances(targets: Floats, predictions: Floats) -> Floats:
    """Distance of the body centres of every pair, mm; both (n, 6, 3) keypoints or (n, 3) centres. Returns (n, m)."""
    a, b = (points if points.ndim == 2 else centers(points) for points in (targets, predictions))
    gaps: Floats = np.linalg.norm(a[:, None] - b[None], axis=-1)
    return gaps


def match(targets: Floats, predictions: Floats, *, closeness: Closeness, threshold: float) -> list[tuple[int, int]]:
    """Pairs (target, prediction), each of either at most once, the closest pairs first.

    closeness : what "close" means. "butterfly" and "box": the IoU in the target's plane, at least ``threshold`` and
    above 0 (Zakharov et al. 2022, sections 3.4 and 6.1); "distance": the distance of the body centres, at most
    ``threshold`` mm (the same, for VerSe). Pairs beyond the threshold are dropped. Equally close pairs come in the
    order of the targets, then of the predictions.

    The paper lets each target select its closest remaining prediction. Here a selected prediction is used up: where
    a vertebra is missed, its neighbour's prediction may still be within 20 mm of it, and if that counted twice the miss
    would cost no false negative.

    targets : (n, 6, 3), predictions : (m, 6, 3), world RAS mm; for "distance" either may be centres, (n, 3).
    """
    if not len(targets) or not len(predictions):
        return []
    if closeness == "distance":
        gap = distances(targets, predictions)
        allowed = gap <= threshold
    else:
        iou = overlaps(targets, predictions, closeness)
        gap, allowed = -iou, (iou >= threshold) & (iou > 0)
    pairs: list[tuple[int, int]] = []
    free_targets, free_predictions = np.ones(len(targets), dtype=bool), np.ones(len(predictions), dtype=bool)
    for flat in np.argsort(gap, axis=None, kind="stable"):
        i, j = divmod(int(flat), len(predictions))
        if allowed[i, j] and free_targets[i] and free_predictions[j]:
            pairs.append((i, j))
            free_targets[i] = free_predictions[j] = False
    return sorted(pairs)
