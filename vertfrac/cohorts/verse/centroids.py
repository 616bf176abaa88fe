"""Centroid files: where a mask's labels ought to lie. Read in any of their forms, they check the mask.

A file is a list of ``{"label": 20, "X": ..., "Y": ..., "Z": ...}``, in most releases after ``{"direction": ["P", "I",
"R"]}``. The numbers are voxels of the image along these directions, or millimetres (challenge releases: from the
anterior, superior, left corner). Which it is, no file says: the reading that fits the mask best is taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from vertfrac.cohorts.levels import LEVEL_OF
from vertfrac.errors import AnnotationError, TableError
from vertfrac.files import read_json
from vertfrac.geometry.grid import Grid

Floats = NDArray[np.float64]
Axcodes = tuple[str, str, str]

CHALLENGE_AXES: Axcodes = ("P", "I", "R")
_OPPOSITES = ("RL", "AP", "SI")
_FORM = 'a list of {"label": 20, "X": 79.1, "Y": 40.9, "Z": 32.3}'


@dataclass(frozen=True, eq=False)
class Centroids:
    """direction : of the three axes, None where not given. points : label -> (3,), in voxels or mm along them."""

    source: Path
    direction: Axcodes | None
    points: dict[int, Floats]


def read_centroids(path: Path) -> Centroids:
    """Read a centroid file; a centroid with NaN, which some files hold, is none. Raises AnnotationError naming it."""
    try:
        content = read_json(path)
    except TableError as error:
        raise AnnotationError(str(error)) from error
    if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
        raise AnnotationError(f"{path}: found a {type(content).__name__} of another form, expected {_FORM}")
    direction: Axcodes | None = None
    points: dict[int, Floats] = {}
    for entry in content:
        if "direction" in entry:
            direction = _direction(entry["direction"], path)
            continue
        label, point = _entry(entry, path)
        if label in points:
            raise AnnotationError(f"{path}: label {label} occurs twice, expected once")
        if np.isfinite(point).all():
            points[label] = point
    if not points:
        raise AnnotationError(f"{path}: holds no centroid, expected {_FORM}")
    return Centroids(path, direction, points)


def _direction(value: Any, path: Path) -> Axcodes:
    letters = [str(letter).upper() for letter in value] if isinstance(value, list) else []
    if len(letters) != 3 or sorted(sum(letter in pair for letter in letters) for pair in _OPPOSITES) != [1, 1, 1]:
        raise AnnotationError(f"{path}: direction is {value!r}, expected three axes such as ['P', 'I', 'R']")
    return letters[0], letters[1], letters[2]


def _entry(entry: dict[str, Any], path: Path) -> tuple[int, Floats]:
    try:
        label = float(entry["label"])
        point = np.array([float(entry[axis]) for axis in "XYZ"])
    except (KeyError, TypeError, ValueError) as error:
        raise AnnotationError(f"{path}: found an entry with {sorted(entry)[:6]}, expected {_FORM}") from error
    if label not in LEVEL_OF:
        raise AnnotationError(f"{path}: label is {label:g}, expected VerSe numbering, 1 to 28")
    return int(label), point


def directions(grid: Grid) -> Axcodes:
    """The directions that the index axes of a grid run closest to."""
    import nibabel

    orientations: Any = nibabel.orientations  # has no types
    first, second, third = orientations.aff2axcodes(grid.world_from_index)
    return str(first), str(second), str(third)


def oriented(grid: Grid, axes: Axcodes) -> Grid:
    """The grid of the same voxels with its index axes along the given directions."""
    import nibabel

    orientations: Any = nibabel.orientations  # has no types
    start = orientations.io_orientation(grid.world_from_index)
    change = orientations.ornt_transform(start, orientations.axcodes2ornt(axes))
    shape = tuple(int(grid.shape[int(axis)]) for axis in np.argsort(change[:, 0]))
    affine = grid.world_from_index @ orientations.inv_ornt_aff(change, grid.shape)
    return Grid((shape[0], shape[1], shape[2]), affine)


def check_centroids(centroids: Centroids, labels: NDArray[np.integer], grid: Grid, farthest_mm: float) -> list[str]:
    """Compare centroids with a label map (i, j, k) on a grid; returns which vertebrae only one of both knows.

    Raises AnnotationError if the centroid of a label of the mask lies farther from its nearest voxel than given.
    """
    voxels = _voxels(labels, grid)
    shared = [label for label in centroids.points if label in voxels]
    remarks = [
        f"{centroids.source.name}: {what} {', '.join(LEVEL_OF[label] for label in names)}"
        for what, names in (
            ("centroid without a label in the mask:", [label for label in centroids.points if label not in voxels]),
            ("no centroid of", [label for label in voxels if label not in centroids.points and label in LEVEL_OF]),
        )
        if names
    ]
    if not shared:
        found, there = (", ".join(map(str, sorted(numbers))) for numbers in (centroids.points, voxels))
        raise AnnotationError(f"{centroids.source}: found centroids of the labels {found}, expected the mask's {there}")
    best, gaps = min(
        ((how, _gaps(world, voxels)) for how, world in _readings(centroids, shared, grid)),
        key=lambda reading: float(np.median(list(reading[1].values()))),
    )
    worst = max(gaps, key=lambda label: gaps[label])
    if gaps[worst] > farthest_mm:
        raise AnnotationError(
            f"{centroids.source}: the centroid of {LEVEL_OF[worst]} (label {worst}) lies {gaps[worst]:.0f} mm from its "
            f"label in the mask, expected at most {farthest_mm:g} mm (read as {best})"
        )
    return remarks


def _readings(centroids: Centroids, labels: list[int], grid: Grid) -> Iterator[tuple[str, dict[int, Floats]]]:
    """Each way to read the numbers, in words, and the world points that it gives."""
    for axes in dict.fromkeys([centroids.direction] if centroids.direction else [directions(grid), CHALLENGE_AXES]):
        turned = oriented(grid, axes)
        for unit, scale in (("voxels", np.ones(3)), ("mm", turned.spacing_mm)):
            world = {label: turned.to_world(centroids.points[label] / scale) for label in labels}
            yield f"{unit} along {', '.join(axes)}", world


def _voxels(labels: NDArray[np.integer], grid: Grid) -> dict[int, Floats]:
    """Label -> world points (n, 3) of its voxels."""
    return {
        number: grid.to_world(np.argwhere(labels[box] == number) + [side.start for side in box])
        for number, box in enumerate(find_objects(labels), start=1)
        if box is not None
    }


def _gaps(world: dict[int, Floats], voxels: dict[int, Floats]) -> dict[int, float]:
    """Label -> distance of its centroid to its nearest voxel, mm."""
    return {label: float(np.linalg.norm(voxels[label] - point, axis=1).min()) for label, point in world.items()}
