"""The straightened sagittal slice along a curve: how its pixels and the scan's world points map to each other.

The slice is a ruled surface: row r lies at a length along the curve, and its pixels run along the posterior axis of
the curve's frame there (Pisov et al. 2020, section 2.2: planes orthogonal to the curve made parallel, then the
sagittal plane that holds the curve). Only this surface is ever sampled, never a straightened volume.

Slice coordinates of a point are (row, column, offset): row and column in pixels of the slice, offset in mm along the
lateral axis, 0 on the surface. Points are mapped by ``to_world`` and ``to_slice``; images are resampled by ``sample``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import map_coordinates
from scipy.spatial import cKDTree

from vertfrac.errors import GeometryError
from vertfrac.geometry.curve import Curve
from vertfrac.geometry.grid import Grid

Floats = NDArray[np.float64]


FARTHEST_MM = 50_000.0
"""From the ends of a slice, of points that can be mapped to it: the search for the nearest row takes memory."""


@dataclass(frozen=True, eq=False)
class StraightSlice:
    """Geometry of one straightened slice.

    curve : the spine's curve, superior end first.
    rows, columns : size of the slice in pixels; row 0 is the superior end, column 0 the anterior edge.
    spacing_mm : distance of neighbouring pixels along both axes.
    start_mm : length along the curve of row 0 (negative above the curve's first point).
    """

    curve: Curve
    rows: int
    columns: int
    spacing_mm: float = 1.0
    start_mm: float = 0.0

    @classmethod
    def along(cls, curve: Curve, *, width_mm: float, spacing_mm: float = 1.0, extend_mm: float = 0.0) -> StraightSlice:
        """The slice that covers the curve and ``extend_mm`` beyond both its ends, ``width_mm`` wide."""
        rows = int(np.floor((curve.length_mm + 2 * extend_mm) / spacing_mm + 1e-9)) + 1
        return cls(curve, rows, max(1, round(width_mm / spacing_mm)), spacing_mm, -extend_mm)

    @property
    def center_column(self) -> float:
        """The column, in pixels, on which the curve lies."""
        return (self.columns - 1) / 2

    def to_world(self, points_slice: ArrayLike) -> Floats:
        """Map slice points to world RAS mm.

        points_slice : (..., 2) as (row, column), or (..., 3) as (row, column, offset mm). Returns (..., 3).
        """
        points = np.asarray(points_slice, dtype=np.float64)
        center, _, posterior, lateral = self.curve.frames(self.start_mm + points[..., 0] * self.spacing_mm)
        world = center + posterior * ((points[..., 1] - self.center_column) * self.spacing_mm)[..., None]
        if points.shape[-1] == 3:
            world = world + lateral * points[..., 2:]
        return world

    def to_slice(self, points_world: ArrayLike) -> Floats:
        """Map world points (..., 3) RAS mm to slice coordinates (..., 3): row, column, offset in mm.

        The row is where the point lies in the plane orthogonal to the curve, found by bisection around the nearest
        row; unique for points nearer to the curve than its radius of curvature. Raises GeometryError on NaN or
        infinity.
        """
        points = np.asarray(points_world, dtype=np.float64)
        flat = points.reshape(-1, 3)
        if not np.isfinite(flat).all():
            raise GeometryError("cannot map points that are NaN or infinite to a slice")
        ends = self.start_mm + np.array([0.0, self.rows * self.spacing_mm])
        far = np.linalg.norm(flat[:, None] - self.curve.at(ends), axis=-1).min(axis=1)
        if far.max(initial=0.0) > FARTHEST_MM:
            raise GeometryError(f"a point lies {far.max():g} mm from the ends of the slice, expected it near the spine")
        margin = max(60.0, 2 * float(far.max(initial=0.0)))  # enough for the nearest point of the curve
        coarse = np.arange(ends[0] - margin, ends[1] + margin, 1.0)
        _, nearest = cKDTree(self.curve.at(coarse)).query(flat)
        low, high = coarse[nearest] - 5.0, coarse[nearest] + 5.0
        for _ in range(40):
            middle = (low + high) / 2
            center, tangent, _, _ = self.curve.frames(middle)
            beyond = ((flat - center) * tangent).sum(axis=-1) > 0
            low, high = np.where(beyond, middle, low), np.where(beyond, high, middle)
        s = (low + high) / 2
        center, _, posterior, lateral = self.curve.frames(s)
        offset = flat - center
        rows = (s - self.start_mm) / self.spacing_mm
        columns = (offset * posterior).sum(axis=-1) / self.spacing_mm + self.center_column
        return np.stack([rows, columns, (offset * lateral).sum(axis=-1)], axis=-1).reshape(points.shape)

    def pixels_world(self) -> Floats:
        """World point of every pixel, (rows, columns, 3), RAS mm."""
        center, _, posterior, _ = self.curve.frames(self.start_mm + np.arange(self.rows) * self.spacing_mm)
        depth = (np.arange(self.columns) - self.center_column) * self.spacing_mm
        pixels: Floats = center[:, None] + posterior[:, None] * depth[:, None]
        return pixels


def sample(
    volume: NDArray[np.generic],
    grid: Grid,
    points_world: ArrayLike,
    *,
    outside: float,
    order: Literal[0, 1, 2, 3, 4, 5] = 1,
    limits: tuple[float, float] | None = None,
) -> NDArray[np.float32]:
    """Values of an image at world points, by interpolation of the given order (1: trilinear).

    volume : array on ``grid``. points_world : (..., 3), RAS mm. outside : value beyond the imaged box. limits : values
    of the volume's type, to which it is clipped first, so that padding and metal do not bleed into their neighbours.
    Reads only the box of voxels around the points, and up to order 1 copies none of it unless it is clipped, so that a
    memory-mapped volume stays on disk. Returns (...), float32. Raises GeometryError on points that are NaN or infinite.
    """
    points = np.asarray(points_world, dtype=np.float64)
    if not np.isfinite(points).all():
        raise GeometryError("cannot sample an image at points that are NaN or infinite")
    if points.size == 0:
        return np.zeros(points.shape[:-1], dtype=np.float32)
    index = np.ascontiguousarray(grid.to_index(points).reshape(-1, 3).T)  # axis by axis is quick to look through
    shape = np.asarray(grid.shape)
    low = np.clip(np.floor(index.min(axis=1)).astype(int) - order, 0, shape - 1)
    high = np.clip(np.ceil(index.max(axis=1)).astype(int) + order + 1, low + 1, shape)
    block: NDArray[Any] = volume[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    if limits is not None:
        block = block.clip(*np.asarray(limits, dtype=block.dtype))  # in its own type, which is quick
    if order > 1:  # the box is filtered first, which needs floats
        block = np.asarray(block, dtype=np.float32)
    inside = ((index >= -0.5) & (index <= (shape - 0.5)[:, None])).all(axis=0)
    values = map_coordinates(block, index - low[:, None], order=order, mode="nearest", output=np.float32)
    return np.where(inside, values, np.float32(outside)).reshape(points.shape[:-1])
