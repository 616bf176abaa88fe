"""Heights -> Genant index -> grade (Genant et al. 1993, as used by Pisov et al. 2020 and Zakharov et al. 2022)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

GRADES: tuple[str, ...] = ("normal", "mild", "moderate", "severe")
"""Names of grade 0 to 3."""

GRADE_LIMITS: tuple[float, ...] = (0.8, 0.74, 0.6)
"""A vertebra whose index is at or below the i-th limit has at least grade i + 1."""


def genant_index(heights_mm: ArrayLike) -> NDArray[np.float64]:
    """Genant index G = min(h) / max(h) of the anterior, middle and posterior height.

    heights_mm : (..., 3), mm, or any unit shared by the three. Returns (...), NaN where no height is positive or one
    of them is not finite.
    """
    h = np.asarray(heights_mm, dtype=np.float64)
    smallest, largest = h.min(axis=-1), h.max(axis=-1)
    usable = np.isfinite(h).all(axis=-1) & (largest > 0)
    return np.where(usable, smallest / np.where(usable, largest, 1.0), np.nan)


def grade(index: ArrayLike) -> NDArray[np.int64]:
    """Grade 0 (G > 0.8), 1 (0.74 < G <= 0.8), 2 (0.6 < G <= 0.74) or 3 (G <= 0.6); -1 where G is NaN."""
    g = np.asarray(index, dtype=np.float64)
    grades = sum((g <= limit).astype(np.int64) for limit in GRADE_LIMITS)
    return np.where(np.isnan(g), -1, grades).astype(np.int64)
