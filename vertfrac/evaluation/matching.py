"""Which prediction is which annotated vertebra."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vertfrac.geometry.keypoints import centers
from vertfrac.geometry.polygon import butterfly_iou

Floats = NDArray[np.float64]


def plane_of(keypoints: Floats) -> tuple[Floats, Floats]:
    """The plane of one annotated vertebra: its origin (3,) and two orthonormal axes (2, 3), world mm.

    The first axis points from the inferior to the superior endplate, the second, orthogonal to it, to the anterior.
    keypoints : (6, 3), world RAS mm.
    """
    up = keypoints[0::2].mean(axis=0) - keypoints[1::2].mean(axis=0)
    up = up / np.linalg.norm(up)
    forward = keypoints[:2].mean(axis=0) - keypoints[4:].mean(axis=0)
    forward = forward - (forward @ up) * up
    return keypoints.mean(axis=0), np.stack([up, forward / np.linalg.norm(forward)])


def overlaps(targets: Floats, predictions: Floats) -> Floats:
    """Butterfly-IoU of every pair, measured in the plane of the target.

    targets : (n, 6, 3), predictions : (m, 6, 3), world RAS mm. Returns (n, m).
    """
    result = np.zeros((len(targets), len(predictions)))
    for i, target in enumerate(targets):
        origin, axes = plane_of(target)
        result[i] = butterfly_iou(((target - origin) @ axes.T)[None], (predictions - origin) @ axes.T)[0]
    return result


def match(
    targets: Floats, predictions: Floats, *, smallest_iou: float, largest_distance_mm: float
) -> list[tuple[int, int]]:
    """Pairs (target, prediction), each of either at most once, the closest pairs first.

    Pairs below ``smallest_iou`` in Butterfly-IoU or with body centres farther apart than ``largest_distance_mm`` are
    dropped; then each target takes its closest prediction (Zakharov et al. 2022, section 5.2), a prediction going to
    the target it overlaps most. targets : (n, 6, 3), predictions : (m, 6, 3), world RAS mm.
    """
    if not len(targets) or not len(predictions):
        return []
    closeness = overlaps(targets, predictions)
    distance = np.linalg.norm(centers(targets)[:, None] - centers(predictions)[None], axis=-1)
    closeness[(closeness < smallest_iou) | (closeness <= 0) | (distance > largest_distance_mm)] = 0.0
    pairs: list[tuple[int, int]] = []
    for flat in np.argsort(-closeness, axis=None, kind="stable"):
        i, j = divmod(int(flat), len(predictions))
        if closeness[i, j] <= 0:
            break
        if all(i != a and j != b for a, b in pairs):
            pairs.append((i, j))
    return sorted(pairs)
