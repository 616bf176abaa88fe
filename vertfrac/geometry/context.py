"""What surrounds the spine at low resolution: the views by which a network tells which vertebra is which.

Ribs, lungs, sacrum and skull base lie beside and beyond the sagittal slice. The context is a box along the curve,
straightened at 4 mm, reduced to a coronal and a sagittal view: of each, the mean and the maximum over a few slabs.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import correlate1d

from vertfrac.geometry.curve import Curve
from vertfrac.geometry.grid import Grid
from vertfrac.geometry.straighten import StraightSlice, sample

STEP_MM = 4.0
EXTEND_MM = 64.0
"""How far the context goes on beyond both ends of the curve."""
WIDTH_MM = 192.0

CORONAL_SLABS_MM = (-96.0, -62.0, -22.0, 6.0, 38.0, 96.0)
"""Limits of the slabs that the coronal view looks through, from the curve, posterior positive: what lies far in front
(heart, bowel), in front (aorta), vertebral bodies, canal with arches and heads of ribs, spinous processes with back."""
SAGITTAL_SLABS_MM = (0.0, 14.0, 38.0, 96.0)
"""The same for the sagittal view, from the curve to either side: bodies, transverse processes, ribs and lungs."""

CORONAL = 2 * (len(CORONAL_SLABS_MM) - 1)
SAGITTAL = 2 * (len(SAGITTAL_SLABS_MM) - 1)
COLUMNS = round(WIDTH_MM / STEP_MM)

LOWEST_HU, HU_STEP = -1000.0, 10.0
AIR_HU, HIGHEST_HU = -1024.0, 3071.0
_CHUNK = 16
_SMOOTHER = np.array([0.25, 0.5, 0.25])


class Context(NamedTuple):
    """The context of one scan.

    views : (CORONAL + SAGITTAL, rows, COLUMNS) uint8, see ``LOWEST_HU`` and ``HU_STEP``; the coronal channels first,
    whose columns run along the lateral axis, then the sagittal ones, along the posterior axis; of every slab its mean,
    then its maximum. start_mm : length along the curve of row 0, negative above its first point.
    """

    views: NDArray[np.uint8]
    start_mm: float

    def rows_at(self, length_mm: NDArray[np.floating]) -> NDArray[np.float64]:
        """Rows, not rounded, at lengths along the curve."""
        rows: NDArray[np.float64] = (np.asarray(length_mm, dtype=np.float64) - self.start_mm) / STEP_MM
        return rows


def context_along(hu: NDArray[np.generic], grid: Grid, curve: Curve) -> Context:
    """The context of a scan along a curve. hu : HU on ``grid``. Beyond the scan lies air."""
    geometry = StraightSlice.along(curve, width_mm=WIDTH_MM, spacing_mm=STEP_MM, extend_mm=EXTEND_MM)
    return Context(_projected(_straight_box(hu, grid, geometry)), geometry.start_mm)


def _straight_box(hu: NDArray[np.generic], grid: Grid, geometry: StraightSlice) -> NDArray[np.float32]:
    """HU of the box about the curve, (rows, posterior, lateral), a few rows at a time, smoothed over neighbours."""
    offsets = ((np.arange(geometry.columns) - geometry.center_column) * geometry.spacing_mm)[:, None]
    parts = []
    for first in range(0, geometry.rows, _CHUNK):
        rows = np.arange(first, min(first + _CHUNK, geometry.rows))
        center, _, posterior, lateral = geometry.curve.frames(geometry.start_mm + rows * geometry.spacing_mm)
        plane = posterior[:, None, None] * offsets[:, None] + lateral[:, None, None] * offsets
        parts.append(sample(hu, grid, center[:, None, None] + plane, outside=AIR_HU, limits=(AIR_HU, HIGHEST_HU)))
    box = np.concatenate(parts)
    for axis in range(3):
        box = correlate1d(box, _SMOOTHER, axis=axis, mode="nearest")
    return box


def _projected(box: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The views of a box (rows, posterior, lateral)."""
    places = (np.arange(box.shape[1]) - (box.shape[1] - 1) / 2) * STEP_MM
    views = []
    for distances, limits, axis in ((places, CORONAL_SLABS_MM, 1), (np.abs(places), SAGITTAL_SLABS_MM, 2)):
        for low, high in pairwise(limits):
            slab = np.compress((distances >= low) & (distances < high), box, axis=axis)
            views += [slab.mean(axis=axis), slab.max(axis=axis)]
    return np.rint(np.clip((np.stack(views) - LOWEST_HU) / HU_STEP, 0, 255)).astype(np.uint8)
