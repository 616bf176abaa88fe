"""The six keypoints of a vertebra: their names, order, heights and centres.

Order (Zakharov et al. 2022, public annotations): the pairs 0-1, 2-3 and 4-5 are the ends of the anterior, the middle
and the posterior height; the first of a pair is the superior end.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

KEYPOINTS: tuple[str, ...] = (
    "anterior_superior",
    "anterior_inferior",
    "middle_superior",
    "middle_inferior",
    "posterior_superior",
    "posterior_inferior",
)
HEIGHTS: tuple[str, ...] = ("anterior", "middle", "posterior")
AXES: tuple[str, ...] = ("x", "y", "z")

KEYPOINT_COLUMNS: tuple[str, ...] = tuple(f"{point}_{axis}" for point in KEYPOINTS for axis in AXES)
"""The 18 column names of a keypoint table, in the order of ``keypoints.reshape(-1)``."""

POLYGON_ORDER: tuple[int, ...] = (0, 2, 4, 5, 3, 1)
"""Keypoint indices around the butterfly polygon: the superior points, then the inferior ones back."""


def heights(keypoints: NDArray[np.floating]) -> Floats:
    """Anterior, middle and posterior height of each vertebra.

    keypoints : (..., 6, d), mm. Returns (..., 3), mm.
    """
    points = np.asarray(keypoints, dtype=np.float64)
    lengths: Floats = np.linalg.norm(points[..., 0::2, :] - points[..., 1::2, :], axis=-1)
    return lengths


def centers(keypoints: NDArray[np.floating]) -> Floats:
    """Body centre of each vertebra: the midpoint of its middle height (Pisov et al. 2020, section 2.1).

    keypoints : (..., 6, d), mm. Returns (..., d), mm.
    """
    points = np.asarray(keypoints, dtype=np.float64)
    return (points[..., 2, :] + points[..., 3, :]) / 2


def centroids(keypoints: NDArray[np.floating]) -> Floats:
    """Mean of the six keypoints of each vertebra; (..., 6, d) -> (..., d), mm."""
    means: Floats = np.asarray(keypoints, dtype=np.float64).mean(axis=-2)
    return means
