"""A regular sampling grid as a frozen value: a shape and the affine from voxel index to world.

The only home of half-pixel arithmetic: an integer index is the centre of its voxel, so voxel i covers
[i - 0.5, i + 0.5] in index units.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vertfrac.errors import GeometryError

Floats = NDArray[np.float64]


_LEAST_SINE = 1e-4
"""Voxels of a smaller share of the box of their edges have axes that are as good as parallel."""


def _frozen(array: ArrayLike) -> Floats:
    copy = np.array(array, dtype=np.float64)
    copy.setflags(write=False)
    return copy


@dataclass(frozen=True, eq=False)
class Grid:
    """Shape and affine of a 3D image.

    shape : voxels along each index axis.
    world_from_index : (4, 4), read-only; maps a homogeneous voxel index to world RAS mm.

    Raises GeometryError if the affine is not finite or not invertible, or an axis has no voxel.
    """

    shape: tuple[int, int, int]
    world_from_index: Floats

    def __post_init__(self) -> None:
        affine = _frozen(self.world_from_index)
        if affine.shape != (4, 4) or not np.isfinite(affine).all():
            raise GeometryError(f"affine must be a finite 4x4 matrix, found {affine.tolist()}")
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        volume = abs(np.linalg.det(affine[:3, :3]))
        if not volume >= max(1e-9, _LEAST_SINE * float(spacing.prod())):
            raise GeometryError(f"affine is singular (voxel spacing {spacing.tolist()})")
        if min(self.shape) < 1:
            raise GeometryError(f"grid needs at least one voxel along each axis, found shape {self.shape}")
        object.__setattr__(self, "world_from_index", affine)
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))

    @property
    def spacing_mm(self) -> Floats:
        """Distance between neighbouring voxel centres along each index axis, (3,), mm."""
        spacing: Floats = np.linalg.norm(self.world_from_index[:3, :3], axis=0)
        return spacing

    @property
    def extent_mm(self) -> Floats:
        """Edge lengths of the box that all voxels cover, (3,), mm."""
        extent: Floats = self.spacing_mm * np.asarray(self.shape)
        return extent

    def to_world(self, points_index: ArrayLike) -> Floats:
        """Map (..., 3) voxel indices to world RAS mm."""
        affine = self.world_from_index
        world: Floats = np.asarray(points_index, dtype=np.float64) @ affine[:3, :3].T + affine[:3, 3]
        return world

    def to_index(self, points_world: ArrayLike) -> Floats:
        """Map (..., 3) world points (RAS mm) to fractional voxel indices."""
        index_from_world = np.linalg.inv(self.world_from_index)
        points = np.asarray(points_world, dtype=np.float64)
        index: Floats = points @ index_from_world[:3, :3].T + index_from_world[:3, 3]
        return index

    def distance_inside_mm(self, points_world: ArrayLike) -> Floats:
        """Distance of (..., 3) world points to the nearest face of the imaged box, mm; negative outside."""
        index = self.to_index(points_world)
        to_low, to_high = index + 0.5, np.asarray(self.shape) - 0.5 - index
        # Neighbouring voxel planes are this far apart: the spacing, or less where a tilted gantry shears the axes.
        plane_mm = 1 / np.linalg.norm(np.linalg.inv(self.world_from_index[:3, :3]), axis=1)
        distance: Floats = (np.minimum(to_low, to_high) * plane_mm).min(axis=-1)
        return distance

    def resampled(self, spacing_mm: ArrayLike) -> Grid:
        """The grid over the same box and axes with another voxel spacing (3,), mm.

        The box starts at the same outer corner; the last voxel of an axis may reach past the far face.
        """
        new = np.asarray(spacing_mm, dtype=np.float64)
        if (new <= 0).any() or not np.isfinite(new).all():
            raise GeometryError(f"voxel spacing must be positive, found {new.tolist()}")
        ratio = new / self.spacing_mm
        shape = np.maximum(1, np.ceil(self.extent_mm / new - 1e-6)).astype(int)
        affine = self.world_from_index.copy()
        affine[:3, :3] *= ratio
        affine[:3, 3] = self.to_world((ratio - 1) / 2)
        return Grid((int(shape[0]), int(shape[1]), int(shape[2])), affine)


def strided_centers(cells: int, stride: int) -> Floats:
    """Index coordinate of the centre of each output cell of a network that reduces an axis by ``stride``.

    Cell j covers the input samples stride*j ... stride*j + stride - 1. Returns (cells,).
    """
    return np.arange(cells, dtype=np.float64) * stride + (stride - 1) / 2
