"""One vertebra's mask as a smooth field, in which a surface is where the field crosses one half.

Local frame of a vertebra: (lateral, anterior, superior) in mm, the lateral axis towards the patient's right; everything
that leaves this package is in world RAS mm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, label, map_coordinates

from vertfrac.geometry.grid import Grid

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

SMOOTHING_VOXELS = 0.7
"""Standard deviation of the Gaussian that turns the steps of a mask into slopes; the half level of a plane stays."""
_PADDING = 4


@dataclass(frozen=True, eq=False)
class Frame:
    """A vertebra's own frame in the world: its origin and three orthonormal axes, each (3,), RAS mm."""

    origin: Floats
    lateral: Floats
    anterior: Floats
    superior: Floats

    @classmethod
    def looking(cls, origin: Floats, superior: Floats, anterior: Floats) -> Frame:
        """The frame whose superior axis is given and whose anterior axis is the nearest orthogonal to the one given."""
        up = superior / np.linalg.norm(superior)
        ahead = anterior - up * (anterior @ up)
        ahead = ahead / np.linalg.norm(ahead)
        return cls(origin, np.cross(ahead, up), ahead, up)

    @property
    def axes(self) -> Floats:
        """(3, 3), a row for each axis."""
        return np.stack([self.lateral, self.anterior, self.superior])

    def to_world(self, points_local: Floats) -> Floats:
        """Map (..., 3) local points to world RAS mm."""
        world: Floats = self.origin + points_local @ self.axes
        return world

    def to_local(self, points_world: Floats) -> Floats:
        """Map (..., 3) world points to (lateral, anterior, superior) mm."""
        local: Floats = (points_world - self.origin) @ self.axes.T
        return local


@dataclass(frozen=True, eq=False)
class MaskField:
    """A mask, cropped, padded and mildly smoothed; zero everywhere else, so that a cut surface lies on the cut."""

    values: NDArray[np.float32]
    grid: Grid

    @classmethod
    def of(cls, mask: Bools, grid: Grid) -> MaskField:
        """The field of a mask (i, j, k) on a grid; the mask must hold a voxel."""
        occupied = [np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
        low = np.array([axis[0] for axis in occupied])
        box = tuple(slice(int(axis[0]), int(axis[-1]) + 1) for axis in occupied)
        padded = np.pad(mask[box].astype(np.float32), _PADDING)
        affine = grid.world_from_index.copy()
        affine[:3, 3] = grid.to_world(low - _PADDING)
        return cls(gaussian_filter(padded, SMOOTHING_VOXELS, truncate=3.0), Grid(padded.shape, affine))

    def at(self, points_world: Floats) -> NDArray[np.float32]:
        """Values at (..., 3) world points, 0 to 1."""
        index = self.grid.to_index(points_world)
        values: NDArray[np.float32] = map_coordinates(
            self.values, np.moveaxis(index, -1, 0), order=1, mode="constant", output=np.float32
        )
        return values


def largest_component(mask: Bools) -> tuple[Bools, int]:
    """The largest connected part of a mask (neighbours share at least a corner) and the voxels of all the others."""
    parts, count = label(mask, structure=np.ones((3, 3, 3)))
    if count <= 1:
        return mask, 0
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    best = int(sizes.argmax())
    return parts == best, int(sizes.sum() - sizes[best])


def way_out(values: NDArray[np.floating], step_mm: float) -> Floats:
    """How far the field stays above one half along each line, mm, to a fraction of a step.

    values : (..., n) along lines that start at index 0. Returns (...); NaN where the start is outside or
    the end inside.
    """
    outside = values < 0.5
    first = outside.argmax(axis=-1)
    usable = outside.any(axis=-1) & (first > 0)
    last = np.maximum(first - 1, 0)
    inner = np.take_along_axis(values, last[..., None], -1)[..., 0].astype(np.float64)
    outer = np.take_along_axis(values, first[..., None], -1)[..., 0].astype(np.float64)
    share = (inner - 0.5) / np.where(usable, inner - outer, 1.0)
    return np.where(usable, (last + share) * step_mm, np.nan)


def robust_fit(design: Floats, values: Floats, tolerance_mm: float = 0.25, rounds: int = 8) -> tuple[Floats, float]:
    """Least squares in which far points count little (Tukey's biweight, scale from the median absolute residual).

    design : (n, k). values : (n,). Returns the (k,) coefficients and the spread of the residuals, mm.
    """
    weights: NDArray[np.floating] = np.ones(len(values))
    coefficients = np.zeros(design.shape[1])
    spread = 0.0
    for _ in range(rounds):
        root = np.sqrt(weights)
        coefficients = np.linalg.lstsq(design * root[:, None], values * root, rcond=None)[0]
        residuals = np.abs(values - design @ coefficients)
        spread = 1.4826 * float(np.median(residuals))
        weights = np.maximum(1 - (residuals / (4.7 * max(spread, tolerance_mm))) ** 2, 0.02) ** 2
    return coefficients, spread


def polynomial(x: Floats, degree: int) -> Floats:
    """Design matrix (n, degree + 1) of the powers of x, the constant first."""
    return np.vander(np.atleast_1d(x), degree + 1, increasing=True)
