"""All vertebrae of a mask: which can be measured, their keypoints, and how far these can be trusted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from vertfrac.cohorts.from_mask.body import Body, BodyNotFoundError, measure_body
from vertfrac.cohorts.from_mask.canal import PIXEL_MM, Shadow, find_shadow
from vertfrac.cohorts.from_mask.field import MaskField, largest_component
from vertfrac.cohorts.from_mask.levels import ARCH_CODES, BODY_CODES, NO_BODY
from vertfrac.cohorts.levels import LEVEL_OF
from vertfrac.errors import AnnotationError
from vertfrac.geometry.grid import Grid
from vertfrac.geometry.keypoints import heights
from vertfrac.imaging import Image, canonical

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

FEWEST_VOXELS = 60
HEIGHT_MM = (3.0, 50.0)
DEPTH_MM = (8.0, 60.0)
COARSE_MM = 1.8
_CONE_DEG, _LONE_CONE_DEG = 25.0, 50.0
_NEIGHBOURS_REACH = 3
_NOTED_REST = 0.01


@dataclass(frozen=True, eq=False)
class MaskVertebra:
    """One label of a mask.

    status : ok; cut, where the body reaches the edge of the image; not_measured. keypoints : (6, 3), world RAS mm, in
    the order of geometry.keypoints, all NaN unless the status is ok. quality : good or doubtful, empty unless the
    status is ok. reason : why there are no keypoints or why they are doubtful, and what was left out; may be empty.
    """

    label: int
    level: str
    status: str
    keypoints: Floats
    quality: str = ""
    reason: str = ""


def measure_mask(
    labels: NDArray[np.integer], grid: Grid, subregions: NDArray[np.integer] | None = None
) -> list[MaskVertebra]:
    """Find the six keypoints of every vertebra of a label map.

    labels : (i, j, k) on ``grid``, in VerSe numbering: 1-7 are C1-C7, 8-19 T1-T12, 28 T13, 20-25 L1-L6, 0 background.
    subregions : parts of the vertebrae on the same grid, 49 and 50 being the body; without it the body is told from the
    arch by the canal. World +y must be roughly anterior (within 70 degrees) and +z roughly superior.
    Returns a row for each label, superior first. Raises AnnotationError, with a message of one line, for a mask that is
    not integer or not 3D, holds no vertebra or an unknown label, or subregions of another shape or without a body.
    """
    found = _check(labels, grid, subregions)
    if subregions is not None:
        subregions = canonical(Image(subregions, grid, "subregions")).hu
    turned = canonical(Image(labels, grid, "mask"))
    labels, grid = turned.hu, turned.grid
    boxes: list[Any] = find_objects(labels)
    crops = {number: _Crop.of(labels, grid, number, boxes[number - 1]) for number in found}
    centers = {number: crop.points.mean(axis=0) for number, crop in crops.items()}
    return [_measure(number, crops[number], centers, subregions) for number in found]


def _check(labels: NDArray[np.integer], grid: Grid, subregions: NDArray[np.integer] | None) -> list[int]:
    """The labels of the mask, superior first."""
    for name, array in (("mask", labels), ("subregions", subregions)):
        if array is not None and not np.issubdtype(array.dtype, np.integer):
            raise AnnotationError(f"{name}: found values of type {array.dtype}, expected integer labels")
        if array is not None and array.shape != grid.shape:
            raise AnnotationError(f"{name}: found shape {array.shape}, expected {grid.shape}")
    present = [int(number) for number in np.unique(labels) if number != 0]
    if not present:
        raise AnnotationError("mask: found no label but 0, expected vertebrae (VerSe numbering, 1 to 28)")
    unknown = [number for number in present if number not in LEVEL_OF]
    if unknown:
        listed = ", ".join(map(str, unknown[:5])) + (", ..." if len(unknown) > 5 else "")
        raise AnnotationError(f"mask: found unknown labels {listed}, expected VerSe numbering (1 to 32)")
    if subregions is not None:
        _check_subregions(subregions)
    return [number for number in LEVEL_OF if number in present]


def _check_subregions(subregions: NDArray[np.integer]) -> None:
    codes = [int(code) for code in np.unique(subregions)]
    if not set(codes) & set(BODY_CODES):
        known = f"{min(BODY_CODES)} or {max(BODY_CODES)} for the body, {min(ARCH_CODES)} to {max(ARCH_CODES)} elsewhere"
        raise AnnotationError(f"subregions: found the codes {codes[:12]}, expected {known}")


@dataclass(frozen=True, eq=False)
class _Crop:
    """The largest connected part of a label in its bounding box. points : (n, 3), world RAS mm, of its voxels."""

    mask: Bools
    grid: Grid
    box: tuple[slice, slice, slice]
    points: Floats
    rest: int
    at_edge: Bools

    @classmethod
    def of(cls, labels: NDArray[np.integer], grid: Grid, number: int, box: tuple[slice, slice, slice]) -> _Crop:
        mask, rest = largest_component(labels[box] == number)
        low = np.array([side.start for side in box])
        affine = grid.world_from_index.copy()
        affine[:3, 3] = grid.to_world(low)
        index = np.argwhere(mask)
        inside = ((index + low > 0) & (index + low < np.array(grid.shape) - 1)).all(axis=1)
        cropped = Grid(mask.shape, affine)
        return cls(mask, cropped, box, cropped.to_world(index), rest, ~inside)


def _measure(
    number: int, crop: _Crop, centers: Mapping[int, Floats], subregions: NDArray[np.integer] | None
) -> MaskVertebra:
    level = LEVEL_OF[number]
    notes = [f"{crop.rest} voxels apart from the rest left out"] if crop.rest > _NOTED_REST * len(crop.points) else []

    def without(status: str, why: str) -> MaskVertebra:
        return MaskVertebra(number, level, status, np.full((6, 3), np.nan), "", "; ".join([why, *notes]))

    if level in NO_BODY:
        return without("not_measured", NO_BODY[level])
    if len(crop.points) < FEWEST_VOXELS:
        return without("not_measured", f"only {len(crop.points)} voxels, expected at least {FEWEST_VOXELS}")
    mask = crop.mask
    if subregions is not None:
        mask, _ = largest_component(mask & np.isin(subregions[crop.box], BODY_CODES))
        if mask.sum() < FEWEST_VOXELS:
            return without("not_measured", f"only {mask.sum()} voxels of the subregions are body")
    guess, cone = _direction(number, centers)
    try:
        known = None if subregions is None else _fill(mask, crop.grid)
        shadow = find_shadow(_fill(crop.mask, crop.grid), guess, cone, known)
        body = measure_body(MaskField.of(mask, crop.grid), shadow)
        if _is_cut(body, crop):
            return without("cut", "the body reaches the edge of the image")
        _check_size(body)
    except BodyNotFoundError as error:
        cut = crop.at_edge.any()
        return without("cut" if cut else "not_measured", f"{error}{', at the edge of the image' if cut else ''}")
    doubts = [*body.doubts, *_doubts(body, shadow, crop, subregions is not None)]
    quality = "doubtful" if doubts else "good"
    return MaskVertebra(number, level, "ok", body.keypoints, quality, "; ".join([*doubts, *notes]))


def _direction(number: int, centers: Mapping[int, Floats]) -> tuple[Floats, float]:
    """The column's direction (3,) at a vertebra, towards superior, and how far off it may be, degrees."""
    order = list(LEVEL_OF)
    at = order.index(number)
    near = [order[i] for i in range(max(0, at - _NEIGHBOURS_REACH), min(len(order), at + _NEIGHBOURS_REACH + 1))]
    above = [n for n in near if n in centers and order.index(n) < at]
    below = [n for n in near if n in centers and order.index(n) > at]
    if not above and not below:
        return np.array([0.0, 0.0, 1.0]), _LONE_CONE_DEG
    upper, lower = (above or [number])[-1], (below or [number])[0]
    along = centers[upper] - centers[lower]
    length = float(np.linalg.norm(along))
    if length < 1e-6:
        return np.array([0.0, 0.0, 1.0]), _LONE_CONE_DEG
    return along / length, _CONE_DEG


def _fill(mask: Bools, grid: Grid) -> Floats:
    """World points (n, 3) that fill the voxels of a mask evenly, no farther apart than a pixel of the shadow."""
    counts = np.ceil(grid.spacing_mm / PIXEL_MM - 1e-6).astype(int)
    parts = [(np.arange(n) + 0.5) / n - 0.5 for n in counts]
    inside = np.stack(np.meshgrid(*parts, indexing="ij"), axis=-1).reshape(-1, 3)
    return grid.to_world((np.argwhere(mask)[:, None] + inside).reshape(-1, 3))


def _is_cut(body: Body, crop: _Crop) -> bool:
    """Whether the middle part of the body, between its walls, has voxels in the outermost layer of the image."""
    if not crop.at_edge.any():
        return False
    ends = body.frame.to_local(body.keypoints)
    low, high = ends.min(axis=0) - 2.0, ends.max(axis=0) + 2.0
    local = body.frame.to_local(crop.points[crop.at_edge])
    between = ((local > low) & (local < high))[:, 1:].all(axis=1)
    return bool((between & (np.abs(local[:, 0]) < 0.3 * body.width_mm)).any())


def _check_size(body: Body) -> None:
    measured = heights(body.keypoints)
    if not (np.isfinite(measured).all() and HEIGHT_MM[0] <= measured.min() and measured.max() <= HEIGHT_MM[1]):
        listed = ", ".join(f"{mm:.1f}" for mm in measured)
        raise BodyNotFoundError(f"heights of {listed} mm are those of no vertebral body")
    if not DEPTH_MM[0] <= body.depth_mm <= DEPTH_MM[1]:
        raise BodyNotFoundError(f"a depth of {body.depth_mm:.1f} mm is that of no vertebral body")


def _doubts(body: Body, shadow: Shadow, crop: _Crop, body_known: bool) -> list[str]:
    doubts = []
    if not shadow.hole_mm2:
        source = "body" if shadow.behind is None else "body and arch"
        doubts.append(f"no closed canal: the mid-sagittal plane is taken from {source}")
    along = crop.grid.world_from_index[:3, :3].T @ body.frame.superior
    coarse = float(np.abs(along).max())
    if coarse > COARSE_MM:
        doubts.append(f"voxels of {coarse:.1f} mm along the heights")
    if body.depth_mm > 1.3 * body.width_mm and not body_known:
        doubts.append("deeper than wide: perhaps not told from the arch")
    return doubts
