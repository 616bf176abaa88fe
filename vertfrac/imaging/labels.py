"""A label map as a frozen value, and the door through which masks come in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vertfrac.errors import GeometryError, ImageError
from vertfrac.geometry.grid import Grid
from vertfrac.imaging.nifti import read_nifti

LARGEST_LABEL = 65535
_TOLERANCE_MM = 0.1


@dataclass(frozen=True, eq=False)
class LabelMap:
    """Integer labels (i, j, k), uint16, 0 being background; `grid` ties their indices to world RAS+ mm."""

    labels: NDArray[np.uint16]
    grid: Grid
    source: str


def read_labels(path: Path | str) -> LabelMap:
    """Read a NIfTI label map, its voxels as stored.

    Raises ImageError, with a message of one line, for what is not a 3D image of integers from 0 to 65535 in a known
    place, or holds no label but 0.
    """
    path = Path(path)
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        raise ImageError(f"{path}: not NIfTI by name, expected a mask that ends in .nii or .nii.gz")
    values, world_from_index, _ = read_nifti(path)
    _check_values(values, path)
    try:
        grid = Grid(values.shape, world_from_index)
    except GeometryError as error:
        raise ImageError(f"{path}: {error}") from error
    return LabelMap(values.astype(np.uint16), grid, str(path))


def _check_values(values: NDArray[Any], path: Path) -> None:
    expected = f"expected integer labels from 0 to {LARGEST_LABEL}"
    if not np.isfinite(values).all():
        raise ImageError(f"{path}: voxels are NaN or infinite, {expected}")
    broken = values[values != np.rint(values)] if values.dtype.kind == "f" else values[:0]
    if broken.size:
        raise ImageError(f"{path}: {broken.size} voxels are not integer, such as {broken.flat[0]:g}, {expected}")
    if values.min() < 0 or values.max() > LARGEST_LABEL:
        raise ImageError(f"{path}: found labels from {values.min():g} to {values.max():g}, {expected}")
    if values.max() == 0:
        raise ImageError(f"{path}: found no label but 0, {expected} and at least one vertebra")


def check_same_grid(path: Path | str, grid: Grid, reference: Path | str, expected: Grid) -> None:
    """Raise ImageError naming both files if two grids differ in shape or place their corners 0.1 mm apart or more."""
    if grid.shape != expected.shape:
        raise ImageError(f"{path}: found shape {grid.shape}, expected {expected.shape}, the grid of {reference}")
    corners = np.stack(np.meshgrid(*((0, n - 1) for n in grid.shape), indexing="ij"), axis=-1).reshape(-1, 3)
    apart = float(np.abs(grid.to_world(corners) - expected.to_world(corners)).max())
    if apart >= _TOLERANCE_MM:
        raise ImageError(f"{path}: lies {apart:.1f} mm beside {reference}, expected the same grid")
