"""What becomes of vertebrae, levels and G when a scan is perturbed: noise, thick slices, crops, metal, rotation.

    python benchmarks/perturbations.py --scan SCAN --mask MASK --numbering totalsegmentator --phantoms 12 \
        --work FOLDER --out benchmarks/perturbations.csv --picture docs/images/perturbations.png

The scans are a real one with its label map (``make real-ct`` fetches one, see benchmarks/label_map.py) and phantoms of
full difficulty that no model was trained on. Each is measured as it is, then once per perturbation; the answers are
kept in FOLDER, so that a run that was stopped goes on, and an answer is made again once its file is deleted.

Counted are the vertebrae that lie in the perturbed scan by 4 mm: found are those with a ruler of status ok, whose
centre is within 15 mm; false are rulers that belong to no vertebra; a cut vertebra has keypoints outside and should get
no grade. ``before`` is the same count of the same vertebrae in the scan as it is. Changes of G, of keypoints and of
grades are against the answer on the scan as it is, moved along where a perturbation moves the patient; against the
truth they are in ``error``, for phantoms alone, whose truth is exact.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image as Picture
from scipy import ndimage
from scipy.spatial.transform import Rotation

from vertfrac import tables
from vertfrac.api import load_model, predict
from vertfrac.cohorts.from_mask import measure_mask
from vertfrac.cohorts.levels import LABEL_OF, TOTALSEGMENTATOR
from vertfrac.cohorts.phantom import make_phantom
from vertfrac.cohorts.phantom.ingredients import FULL
from vertfrac.cohorts.phantom.protocol import metal_errors
from vertfrac.errors import VertfracError
from vertfrac.evaluation.matching import match
from vertfrac.files import write_json
from vertfrac.genant import genant_index
from vertfrac.geometry.grid import Grid
from vertfrac.geometry.keypoints import centers, heights
from vertfrac.imaging import Image, canonical, read_image
from vertfrac.imaging.labels import read_labels
from vertfrac.inference.weights import Model

Floats = NDArray[np.float64]

NEAR_MM, WHOLE_MM = 15.0, 4.0
AIR_HU, METAL_HU = -1024, 2900.0
COUNTS = ("cases", "failed", "whole", "found", "found_before", "false", "cut", "cut_graded", "levels_right",
          "levels_before", "levels_doubted", "levels_wrong_sure", "grade_changes")  # fmt: skip


@dataclass(frozen=True, eq=False)
class Case:
    """A canonical scan and its whole vertebrae: levels, and keypoints (n, 6, 3), world RAS mm, exact or of a map."""

    name: str
    image: Image
    levels: tuple[str, ...]
    keypoints: Floats

    @property
    def hu(self) -> NDArray[np.float32]:
        return self.image.hu.astype(np.float32)

    @property
    def affine(self) -> Floats:
        return self.image.grid.world_from_index


@dataclass(frozen=True, eq=False)
class Perturbed:
    """Values and affine as a user would give them, and where the patient has moved to, (4, 4), world to world."""

    hu: NDArray[Any]
    affine: Floats
    moved: Floats = field(default_factory=partial(np.eye, 4))


@dataclass(frozen=True)
class Perturbation:
    """One row of the table. make : None where a scan cannot be perturbed so, such as 5 mm slices made thinner.

    same : whether nothing but rounding may change. reference : what it is compared with.
    """

    kind: str
    strength: str
    make: Callable[[Case], Perturbed | None]
    same: bool = False
    reference: str = "as it is"

    @property
    def name(self) -> str:
        return f"{self.kind} {self.strength}".strip()

    @property
    def file(self) -> str:
        return re.sub(r"[^\w.+-]+", "-", self.name) + ".json"


def stored(hu: NDArray[Any]) -> NDArray[np.int16]:
    """HU as a scanner stores them."""
    return np.rint(np.clip(hu, -3024, 3071)).astype(np.int16)


def in_plane(case: Case, mm: float) -> tuple[float, float, float]:
    """A width in mm as voxels of each axis, none through the slices."""
    across = mm / case.image.spacing_mm
    return float(across[0]), float(across[1]), 0.0


def noise(case: Case, sd: float) -> Perturbed:
    """Noise of this standard deviation that is correlated over 0.7 mm in plane, as after reconstruction."""
    white = np.random.default_rng(int(sd)).standard_normal(case.image.hu.shape, dtype=np.float32)
    grain = ndimage.gaussian_filter(white, in_plane(case, 0.7))
    return Perturbed(stored(case.hu + grain * np.float32(sd / grain.std())), case.affine)


def part_of_a_voxel(case: Case, part: float) -> Perturbed:
    """The grid laid anew by part of a voxel along all axes; cubic splines."""
    affine = case.affine.copy()
    affine[:3, 3] = case.image.grid.to_world([-part] * 3)
    return Perturbed(stored(ndimage.shift(case.hu, part, order=3, mode="nearest")), affine)


def boxed(case: Case, low: Sequence[int], high: Sequence[int]) -> Perturbed:
    """The voxels low <= index < high of each axis."""
    affine = case.affine.copy()
    affine[:3, 3] = case.image.grid.to_world(low)
    return Perturbed(case.image.hu[tuple(slice(a, b) for a, b in zip(low, high, strict=True))], affine)


def first_lost(case: Case, mm: float) -> Perturbed:
    """The first mm of each axis left out: nothing is resampled, but every grid made from this one lies elsewhere."""
    low = np.maximum(1, np.rint(mm / case.image.spacing_mm)).astype(int)
    return boxed(case, low.tolist(), case.image.hu.shape)


def coarser(case: Case, axes: Sequence[int], mm: float, gaps: bool = False) -> Perturbed | None:
    """Voxels of about mm along some axes: the mean of several, or with gaps the middle one of them."""
    hu, affine = case.hu, case.affine.copy()
    whole = [max(1, round(mm / case.image.spacing_mm[axis])) for axis in axes]
    if max(whole) < 2:
        return None
    for axis, count in zip(axes, whole, strict=True):
        runs = hu.shape[axis] // count
        hu = np.moveaxis(np.moveaxis(hu, axis, -1)[..., : runs * count].reshape(
            *[n for i, n in enumerate(hu.shape) if i != axis], runs, count), -2, axis)  # fmt: skip
        place = (count - 1) // 2 if gaps else (count - 1) / 2
        hu = hu[..., int(place)] if gaps else hu.mean(axis=-1)
        affine[:3, 3] += affine[:3, axis] * place
        affine[:3, axis] *= count
    return Perturbed(stored(hu), affine)


def stored_as(case: Case, order: Sequence[int], backwards: Sequence[int]) -> Perturbed:
    """The same voxels with the axes in another order and some backwards, and the affine that says so."""
    index = np.zeros((4, 4))
    index[3, 3] = 1
    hu = case.image.hu
    for new, old in enumerate(order):
        index[old, new] = -1 if old in backwards else 1
        index[old, 3] = hu.shape[old] - 1 if old in backwards else 0
    return Perturbed(np.flip(hu, backwards).transpose(order), case.affine @ index)


def mirrored(case: Case) -> Perturbed:
    """The patient with left and right exchanged."""
    mirror = np.diag([-1.0, 1.0, 1.0, 1.0])
    mirror[0, 3] = 2 * case.image.grid.to_world((np.asarray(case.image.hu.shape) - 1) / 2)[0]
    return Perturbed(case.image.hu, mirror @ case.affine, mirror)


def cropped(case: Case, top: float, bottom: float) -> Perturbed:
    """Shares of the slices left out at both ends."""
    nx, ny, nz = case.image.hu.shape
    return boxed(case, (0, 0, round(bottom * nz)), (nx, ny, nz - round(top * nz)))


def cut_bodies(case: Case) -> Perturbed | None:
    """Both ends of the scan in the middle of a body: of the second vertebra from above and of the last but one."""
    if len(case.levels) < 5:
        return None
    nx, ny, nz = case.image.hu.shape
    slices = case.image.grid.to_index(centers(case.keypoints)[[1, -2]])[:, 2]
    return boxed(case, (0, 0, max(0, round(slices[1]))), (nx, ny, min(nz, round(slices[0]) + 1)))


def narrowed(case: Case, mm: float) -> Perturbed:
    """A square of this width in plane, about the middle of the spine."""
    index = case.image.grid.to_index(centers(case.keypoints)).mean(axis=0)
    half = mm / 2 / case.image.spacing_mm
    half[2] = np.inf
    low, high = np.maximum(0, index - half), np.minimum(case.image.hu.shape, index + half + 1)
    return boxed(case, low.astype(int).tolist(), high.astype(int).tolist())


def linear(case: Case, gain: float, offset: float) -> Perturbed:
    """A scanner that is calibrated otherwise."""
    return Perturbed(stored(case.hu * np.float32(gain) + np.float32(offset)), case.affine)


def clipped(case: Case, low: float, high: float) -> Perturbed:
    """Values beyond a window lost."""
    return Perturbed(stored(np.clip(case.hu, low, high)), case.affine)


def rounded(case: Case, step: float) -> Perturbed:
    """Values rounded to multiples of a step, HU."""
    return Perturbed(stored(np.rint(case.hu / step) * step), case.affine)


def turned(case: Case, axis: int, degrees: float, resampled: bool) -> Perturbed:
    """The patient turned about a world axis through the middle: on the old grid by interpolation, or with the grid."""
    middle = case.image.grid.to_world((np.asarray(case.image.hu.shape) - 1) / 2)
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("xyz"[axis], degrees, degrees=True).as_matrix()
    turn[:3, 3] = middle - turn[:3, :3] @ middle
    if not resampled:
        return Perturbed(case.image.hu, turn @ case.affine, turn)
    old = np.linalg.inv(case.affine) @ np.linalg.inv(turn) @ case.affine
    hu = ndimage.affine_transform(case.hu, old[:3, :3], old[:3, 3], order=1, mode="constant", cval=AIR_HU)
    return Perturbed(stored(hu), case.affine, turn)


def smoothed(case: Case, mm: float) -> NDArray[np.float32]:
    """A soft kernel: a Gaussian of this width in plane."""
    return ndimage.gaussian_filter(case.hu, in_plane(case, mm))


def soft(case: Case, mm: float) -> Perturbed:
    return Perturbed(stored(smoothed(case, mm)), case.affine)


def sharp(case: Case, gain: float) -> Perturbed:
    """A sharp kernel: an unsharp mask of 1 mm."""
    return Perturbed(stored(case.hu + np.float32(gain) * (case.hu - smoothed(case, 1.0))), case.affine)


def padded(case: Case, hu: int, around_mm: float | None = None) -> Perturbed:
    """A value outside the circle that was reconstructed: as large as the slices, or of a diameter, about the spine."""
    grid = case.image.grid
    middle = grid.to_index(centers(case.keypoints)).mean(axis=0) if around_mm else (np.asarray(grid.shape) - 1) / 2
    x, y = ((np.arange(grid.shape[axis]) - middle[axis]) * grid.spacing_mm[axis] for axis in (0, 1))
    outside = np.hypot(x[:, None], y) > (around_mm or min(grid.extent_mm[:2])) / 2
    return Perturbed(np.where(outside[..., None], np.int16(hu), case.image.hu), case.affine)


def as_jpeg(case: Case, quality: int) -> Perturbed:
    """-1000 to 1000 HU in 8 bits, each slice through JPEG."""
    bytes_ = np.rint((np.clip(case.hu, -1000, 1000) + 1000) * (255 / 2000)).astype(np.uint8)
    out = np.empty_like(bytes_)
    for k in range(bytes_.shape[2]):
        packed = io.BytesIO()
        Picture.fromarray(np.ascontiguousarray(bytes_[..., k])).save(packed, "jpeg", quality=quality)
        out[..., k] = np.asarray(Picture.open(packed))
    return Perturbed(stored(out * np.float32(2000 / 255) - 1000), case.affine)


def paint_rod(hu: NDArray[np.float32], grid: Grid, ends: Floats, radius: float) -> None:
    """A rod with round ends, (2, 3) world mm, of metal, in place."""
    index = grid.to_index(ends)
    reach = (radius + 2) / grid.spacing_mm + 1
    low = np.maximum(0, np.floor(index.min(axis=0) - reach)).astype(int)
    high = np.minimum(hu.shape, np.ceil(index.max(axis=0) + reach) + 1).astype(int)
    if (low >= high).any():
        return
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    points = grid.to_world(np.stack(np.mgrid[box], axis=-1))
    along = ends[1] - ends[0]
    share = np.clip((points - ends[0]) @ along / max(float(along @ along), 1e-9), 0, 1)
    away = np.linalg.norm(points - ends[0] - share[..., None] * along, axis=-1)
    cover = np.clip(0.5 + (radius - away) / grid.spacing_mm[0], 0, 1)
    hu[box] += (cover * (METAL_HU - hu[box])).astype(np.float32)


def implanted(case: Case, levels: int, cage: bool = False) -> Perturbed | None:
    """Pedicle screws in the middle vertebrae, joined by rods, or a cage in a disc, with the streaks of the phantoms."""
    middle = len(case.levels) // 2
    if middle + max(levels, 2) > len(case.levels):
        return None
    hu, grid, heads = case.hu, case.image.grid, []
    for points in case.keypoints[middle : middle + levels]:
        front, back, center = points[:2].mean(axis=0), points[4:].mean(axis=0), centers(points)
        depth = float(np.linalg.norm(front - back))
        forward, up = (front - back) / depth, points[2] - points[3]
        side = np.cross(forward, up / np.linalg.norm(up))
        for sign in (-1.0, 1.0):
            head = center + sign * 0.55 * depth * side - (0.5 * depth + 26) * forward
            paint_rod(hu, grid, np.stack([head, center + sign * 0.15 * depth * side + 0.2 * depth * forward]), 2.8)
            paint_rod(hu, grid, np.stack([head, head]), 5.5)
            heads.append(head)
    for upper, lower in zip(heads[:-2], heads[2:], strict=True):
        paint_rod(hu, grid, np.stack([upper, lower]), 2.8)
    if cage:
        above, below = case.keypoints[middle], case.keypoints[middle + 1]
        inner = np.stack([above[1::2], below[0::2]]).mean(axis=0)
        radius = max(2.5, float(np.linalg.norm(above[3] - below[2])) / 2)
        side = np.cross(inner[0] - inner[2], above[2] - above[3])
        for sign in (-7.0, 7.0):
            paint_rod(hu, grid, inner[[0, 2]] * 0.7 + inner[1] * 0.3 + sign * side / np.linalg.norm(side), radius)
    changed = np.flatnonzero((hu != case.image.hu).any(axis=(0, 1)))
    part = slice(int(changed[0]), int(changed[-1]) + 1)
    planes = np.ascontiguousarray(hu[..., part].transpose(2, 1, 0))
    metal_errors(planes, float(grid.spacing_mm[0]), np.random.default_rng(levels))
    hu[..., part] = planes.transpose(2, 1, 0)
    return Perturbed(stored(hu), case.affine)


def as_float(case: Case, kind: str, jitter: float) -> Perturbed:
    """The values as floating-point numbers, off by at most jitter HU."""
    off = np.random.default_rng(0).uniform(-jitter, jitter, case.image.hu.shape) if jitter else 0
    return Perturbed((case.image.hu + off).astype(kind), case.affine)


def perturbations() -> Iterator[Perturbation]:
    """All of them; the first is none."""
    one = Perturbation
    yield one("as it is", "", lambda case: Perturbed(case.image.hu, case.affine))
    axes = (0, 1, 2)
    for name, order, backwards in (("x", axes, (0,)), ("y", axes, (1,)), ("z", axes, (2,)), ("zxy", (2, 0, 1), axes)):
        yield one("stored backwards", name, partial(stored_as, order=order, backwards=backwards), same=True)
    yield one("stored as", "float64", partial(as_float, kind="f8", jitter=0.0), same=True)
    yield one("stored as", "float32 ± 0.001 HU", partial(as_float, kind="f4", jitter=0.001), same=True)
    yield one("padding", "-1024 HU", partial(padded, hu=-1024))
    for hu in (-2048, -3024):
        yield one("padding", f"{hu} HU", partial(padded, hu=hu), same=True, reference="padding -1024 HU")
    yield one("padding to 120 mm", "-1024 HU", partial(padded, hu=-1024, around_mm=120))
    for hu in (-2048, -3024):
        near = partial(padded, hu=hu, around_mm=120)
        yield one("padding to 120 mm", f"{hu} HU", near, same=True, reference="padding to 120 mm -1024 HU")
    for axis, name in enumerate("xyz"):  # the sagittal plane is that of the world: turned about x, it stays the same
        make = partial(turned, axis=axis, degrees=15, resampled=False)
        yield one("turned with its grid", f"{name} 15°", make, same=name == "x")
    for axis, name in enumerate("xyz"):
        yield one("turned, resampled", f"{name} 15°", partial(turned, axis=axis, degrees=15, resampled=True))
    yield one("left and right exchanged", "", mirrored)
    for sd in (20, 50, 100):
        yield one("noise", f"{sd} HU", partial(noise, sd=sd))
    for part in (0.25, 0.5):
        yield one("grid shifted", f"{part:g} voxel", partial(part_of_a_voxel, part=part))
    for mm in (3, 7):
        yield one("field shifted", f"{mm} mm", partial(first_lost, mm=mm))
    for mm in (2.5, 5.0):
        yield one("slices averaged", f"{mm:g} mm", partial(coarser, axes=(2,), mm=mm))
    for mm in (2.5, 5.0):
        yield one("slices with gaps", f"{mm:g} mm", partial(coarser, axes=(2,), mm=mm, gaps=True))
    for mm in (1.5, 3.0):
        yield one("pixels averaged", f"{mm:g} mm", partial(coarser, axes=(0, 1), mm=mm))
    for share in (0.25, 0.5):
        yield one("top cropped", f"{share:.0%}", partial(cropped, top=share, bottom=0.0))
    for share in (0.25, 0.5):
        yield one("bottom cropped", f"{share:.0%}", partial(cropped, top=0.0, bottom=share))
    yield one("both ends cropped", "30%", partial(cropped, top=0.3, bottom=0.3))
    yield one("both ends cropped", "in a body", cut_bodies)
    for mm in (160, 100):
        yield one("field narrowed", f"{mm} mm", partial(narrowed, mm=mm))
    for off in (-50, 50):
        yield one("offset", f"{off:+d} HU", partial(linear, gain=1.0, offset=off))
    for gain in (0.9, 1.1):
        yield one("gain", f"{gain:g}", partial(linear, gain=gain, offset=1000 * (gain - 1)))
    for low, high in ((-1000, 1000), (-200, 500)):
        yield one("clipped", f"{low}..{high} HU", partial(clipped, low=low, high=high))
    for step in (20, 60):
        yield one("rounded", f"{step} HU", partial(rounded, step=step))
    for quality in (75, 30):
        yield one("JPEG, 8 bits", f"quality {quality}", partial(as_jpeg, quality=quality))
    for mm in (1.0, 2.0):
        yield one("soft kernel", f"{mm:g} mm", partial(soft, mm=mm))
    for gain in (1.0, 2.0):
        yield one("sharp kernel", f"x {gain:g}", partial(sharp, gain=gain))
    for levels in (1, 3):
        yield one("screws", f"{levels} level{'s'[: levels > 1]}", partial(implanted, levels=levels))
    yield one("cage", "1 disc", partial(implanted, levels=0, cage=True))


def real_case(scan: Path, mask: Path, numbering: str) -> Case:
    """A scan and the whole vertebrae of its label map."""
    read = read_labels(mask)
    labels = read.labels
    if numbering == "totalsegmentator":
        labels = np.zeros_like(read.labels)
        for number, level in TOTALSEGMENTATOR.items():
            labels[read.labels == number] = LABEL_OF[level]
    whole = [vertebra for vertebra in measure_mask(labels, read.grid) if vertebra.status == "ok"]
    return Case("real", read_image(scan), tuple(v.level for v in whole), np.stack([v.keypoints for v in whole]))


def phantom_case(seed: int, index: int) -> Case:
    """A phantom of full difficulty and its whole vertebrae."""
    phantom = make_phantom(seed, index, ingredients=FULL)
    image = canonical(Image(phantom.hu, Grid(phantom.hu.shape, phantom.affine), phantom.case))
    truth = phantom.vertebrae
    return Case(f"phantom-{seed}-{index}", image, tuple(v.level for v in truth), np.stack([v.keypoints for v in truth]))


def answer(perturbed: Perturbed, model: Model) -> dict[str, Any]:
    """What the model says of a perturbed scan, and where that lies."""
    grid = Grid(perturbed.hu.shape, perturbed.affine)
    said: dict[str, Any] = {"affine": perturbed.affine.tolist(), "shape": grid.shape, "moved": perturbed.moved.tolist()}
    try:
        found = predict(perturbed.hu, perturbed.affine, model=model).vertebrae
    except VertfracError as error:
        return said | {"failed": str(error), "vertebrae": []}
    return said | {"vertebrae": [
        {"status": v.status, "level": v.level or "", "doubt": v.level_runner_up is not None, "genant": v.genant,
         "grade": v.grade, "score": v.score, "spread_mm": v.spread_mm, "keypoints": v.keypoints.tolist()}
        for v in found
    ]}  # fmt: skip


def answered(case: Case, model: Model, folder: Path) -> None:
    """Measure a case under every perturbation whose answer is not yet in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "truth.json", {"levels": case.levels, "keypoints": case.keypoints.tolist()})
    for perturbation in perturbations():
        path = folder / perturbation.file
        if path.exists():
            continue
        perturbed = perturbation.make(case)
        said: dict[str, Any] = {"skipped": True} if perturbed is None else answer(perturbed, model)
        write_json(path, said)


def placed(points: Floats, moved: Floats) -> Floats:
    """World points where a perturbation has moved them to."""
    return points @ moved[:3, :3].T + moved[:3, 3]


@cache
def answers(folder: Path) -> dict[str, dict[str, Any]]:
    """All answers of a case by the perturbation's name."""
    every = ((one.name, folder / one.file) for one in perturbations())
    return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in every if path.exists()}


def vertebrae(folder: Path, name: str) -> tuple[list[dict[str, Any]], int]:
    """The true vertebrae of a case, with what was found of each under a perturbation, and the number of false rulers.

    points : keypoints where they would be in the scan as it is. nearest_mm, farthest_mm : how deep the least and the
    most of the true keypoints lie within the perturbed scan. A ruler where no whole or cut vertebra is is false.
    """
    said = answers(folder)[name]
    truth = json.loads((folder / "truth.json").read_text(encoding="utf-8"))
    true, moved = np.array(truth["keypoints"]), np.array(said["moved"])
    inside = Grid(tuple(said["shape"]), np.array(said["affine"])).distance_inside_mm(placed(true, moved))
    found = said["vertebrae"]
    points = placed(np.array([one["keypoints"] for one in found]).reshape(-1, 6, 3), np.linalg.inv(moved))
    there = np.flatnonzero(inside.max(axis=1) > 0)
    pairs = match(true[there], points, closeness="distance", threshold=NEAR_MM)
    rows: list[dict[str, Any]] = [
        {
            "level": level,
            "nearest_mm": depth.min(),
            "farthest_mm": depth.max(),
            "genant": genant_index(heights(own)),
            "found": None,
        }
        for level, depth, own in zip(truth["levels"], inside, true, strict=True)
    ]
    for i, j in pairs:
        rows[there[i]]["found"] = found[j] | {"points": points[j]}
    false = {j for j, one in enumerate(found) if one["status"] == "ok"} - {j for _, j in pairs}
    return rows, len(false)


def compared(folders: Iterable[Path], perturbation: Perturbation) -> dict[str, Any]:
    """The row of a perturbation over some cases."""
    counts = dict.fromkeys(COUNTS, 0)
    detected = 0
    changes: list[float] = []
    errors: list[float] = []
    shifts: list[float] = []
    for folder in folders:
        said = answers(folder)[perturbation.name]
        if "skipped" in said:
            continue
        rows, false = vertebrae(folder, perturbation.name)
        earlier, _ = vertebrae(folder, perturbation.reference)
        counts["cases"] += 1
        counts["failed"] += "failed" in said
        counts["false"] += false
        for row, before in zip(rows, earlier, strict=True):
            now, was = (
                one["found"] if one["found"] and one["found"]["status"] == "ok" else None for one in (row, before)
            )
            if row["nearest_mm"] < 0 < row["farthest_mm"]:
                counts["cut"] += 1
                counts["cut_graded"] += now is not None
            if row["nearest_mm"] < WHOLE_MM:
                continue
            counts["whole"] += 1
            detected += row["found"] is not None
            counts["found_before"] += was is not None
            counts["levels_before"] += was is not None and was["level"] == row["level"]
            if now is None:
                continue
            right = now["level"] == row["level"]
            counts["found"] += 1
            counts["levels_right"] += right
            counts["levels_doubted"] += now["doubt"]
            counts["levels_wrong_sure"] += not right and not now["doubt"]
            errors.append(abs(now["genant"] - row["genant"]))
            if was is not None:
                changes.append(abs(now["genant"] - was["genant"]))
                shifts.append(float(np.linalg.norm(now["points"] - was["points"], axis=1).mean()))
                counts["grade_changes"] += now["grade"] != was["grade"]
    return {
        "kind": perturbation.kind,
        "strength": perturbation.strength,
        "same": perturbation.same,
        **counts,
        "recall": share(counts["found"], counts["whole"]),
        "precision": share(counts["found"], counts["found"] + counts["false"]),
        "ok_of_detected": share(counts["found"], detected),
        "pairs": len(changes),
        **quantiles("dg", changes, 4),
        "dg_max": round(max(changes, default=np.nan), 4),
        **quantiles("shift_mm", shifts, 3),
        **quantiles("error_g", errors, 4),
    }


def share(part: int, whole: int) -> float:
    return round(part / whole, 4) if whole else np.nan


def quantiles(name: str, found: Sequence[float], digits: int) -> dict[str, float]:
    """The median and the 95th percentile."""
    middle, high = np.quantile(found, [0.5, 0.95]) if found else (np.nan, np.nan)
    return {f"{name}_median": round(float(middle), digits), f"{name}_p95": round(float(high), digits)}


def summary(folders: Sequence[Path]) -> pd.DataFrame:
    """A row per perturbation for the real scan and for the phantoms, those that are there."""
    rows = []
    for scans, chosen in (("real", [f for f in folders if f.name == "real"]),
                          ("phantoms", [f for f in folders if f.name != "real"])):  # fmt: skip
        for perturbation in perturbations() if chosen else ():
            row = compared(chosen, perturbation)
            if row["cases"]:
                if scans == "real":
                    row |= {"error_g_median": np.nan, "error_g_p95": np.nan}  # its truth is that of a map
                rows.append({"scans": scans} | row)
    return pd.DataFrame(rows)


def digest(table: pd.DataFrame) -> str:
    """What moves as Markdown, where G moves most first; what must not move; and all perturbations together."""
    by_scans = {scans: rows.set_index(["kind", "strength"]) for scans, rows in table.groupby("scans")}
    moving = table[~table["same"] & (table["kind"] != "as it is")]
    head = [
        f"{scans}: found | change of G | grades changed | levels wrong"
        if k == 0
        else f"{scans}: found | of G | grades | levels"
        for k, scans in enumerate(by_scans)
    ]
    lines = [f"| perturbation | {' | '.join(head)} |", "|---" * (1 + 4 * len(by_scans)) + "|"]
    for key in moving.groupby(["kind", "strength"])["dg_p95"].max().sort_values(ascending=False).index:
        cells = [" ".join(key).strip()]
        for rows in by_scans.values():
            cells += _cells(rows.loc[key]) if key in rows.index else [""] * 4
        lines.append(f"| {' | '.join(cells)} |")
    still = table[table["same"]]
    lines += [
        "",
        f"nothing but rounding may change: {len(still)} rows, {still['pairs'].sum()} pairs, largest change of G "
        f"{still['dg_max'].max():.4f}, of keypoints (95 %) {still['shift_mm_p95'].max():.3f} mm, "
        f"{still['grade_changes'].sum()} grades changed, "
        f"{(still['found'] != still['found_before']).sum()} rows in which more or fewer were found",
    ]
    for scans, rows in by_scans.items():
        row, perturbed = rows.loc[("as it is", "")], rows[rows.index.get_level_values("kind") != "as it is"]
        error = "" if scans == "real" else f", G off by {row['error_g_median']:.3f} (95 %: {row['error_g_p95']:.3f})"
        total = perturbed[list(COUNTS)].sum()
        lines.append(
            f"{scans}, as they are ({row['cases']}): {row['found']} of {row['whole']} found, {row['false']} false, "
            f"{row['found'] - row['levels_right']} levels wrong{error}; perturbed: {total['found']} of "
            f"{total['whole']} found, {total['false']} false, {total['cut_graded']} of {total['cut']} cut ones graded, "
            f"{total['failed']} of {total['cases']} scans failed"
        )
    return "\n".join(lines)


def _cells(row: pd.Series) -> list[str]:
    wrong = row["found"] - row["levels_right"]
    return [
        f"{row['found']} of {row['found_before']}",
        f"{row['dg_median']:.3f}, {row['dg_p95']:.3f}",
        f"{row['grade_changes']} of {row['pairs']}",
        f"{wrong}, {wrong - row['levels_wrong_sure']} in doubt" if wrong else "0",
    ]


def picture(table: pd.DataFrame, path: Path) -> None:
    """Change of G (median to 95 %) and recall, by perturbation."""
    from matplotlib.figure import Figure

    from vertfrac.report.style import SYSTEM_COLOURS, save

    moving = table[~table["same"].astype(bool) & (table["kind"] != "as it is")]
    names = moving["kind"] + " " + moving["strength"]
    order = moving.assign(name=names).groupby("name")["dg_p95"].max().sort_values().index.tolist()
    figure = Figure(figsize=(10, 0.21 * len(order) + 1.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    for place, (scans, rows) in enumerate(moving.assign(name=names).groupby("scans")):
        y = np.array([order.index(name) for name in rows["name"]]) + (0.16 if place else -0.16)
        colour = SYSTEM_COLOURS[place]
        left.hlines(y, rows["dg_median"], rows["dg_p95"], color=colour, linewidth=2)
        left.plot(rows["dg_median"], y, "o", color=colour, markersize=4, label=scans)
        right.hlines(y, rows["recall"], rows["found_before"] / rows["whole"], color=colour, linewidth=2)
        right.plot(rows["recall"], y, "o", color=colour, markersize=4)
    left.set_yticks(range(len(order)), order, fontsize=8)
    left.set_ylim(-0.7, len(order) - 0.3)
    left.set_xlabel("change of G: median (dot) to 95 %")
    left.legend(loc="lower right")
    right.set_xlabel("share found; line to that as it is")
    for axes in (left, right):
        axes.grid(axis="x", color="#dddddd")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    save(path, figure)


@click.command()
@click.option("--scan", type=click.Path(path_type=Path, exists=True), help="a real CT")
@click.option("--mask", type=click.Path(path_type=Path, exists=True), help="its label map")
@click.option("--numbering", type=click.Choice(["verse", "totalsegmentator"]), default="verse", show_default=True)
@click.option("--phantoms", default=12, show_default=True, help="phantoms of full difficulty, 0 for none")
@click.option("--seed", default=1009, show_default=True, help="of the phantoms")
@click.option("--work", type=click.Path(path_type=Path), required=True, help="folder for the answers")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="CSV file")
@click.option("--picture", "drawn", type=click.Path(path_type=Path), help="PNG file")
def main(
    scan: Path | None,
    mask: Path | None,
    numbering: str,
    phantoms: int,
    seed: int,
    work: Path,
    out: Path,
    drawn: Path | None,
) -> None:
    """Measure scans under every perturbation, write the table and print its digest."""
    if (scan is None) != (mask is None):
        raise click.UsageError("found one of --scan and --mask, expected both or neither")
    torch.set_num_threads(1)
    model = load_model(device="cpu")
    folders = []
    makers: list[Callable[[], Case]] = [partial(phantom_case, seed, index) for index in range(phantoms)]
    if scan is not None and mask is not None:
        makers.insert(0, partial(real_case, scan, mask, numbering))
    for make in makers:
        case = make()
        folders.append(work / case.name)
        answered(case, model, folders[-1])
        click.echo(f"{case.name}: {len(case.levels)} whole vertebrae, {case.levels[0]} to {case.levels[-1]}", err=True)
    table = summary(folders)
    tables.write_csv(out, table)
    click.echo(digest(table))
    if drawn is not None:
        picture(table, drawn)


if __name__ == "__main__":
    main()
