"""Putting a phantom together and writing a cohort of them."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, Required, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from vertfrac.cohorts.phantom import body as anatomy_body
from vertfrac.cohorts.phantom import disease
from vertfrac.cohorts.phantom.anatomy import Column, draw_rarities, random_column
from vertfrac.cohorts.phantom.canvas import Canvas
from vertfrac.cohorts.phantom.ingredients import USUAL, Ingredients
from vertfrac.cohorts.phantom.look import Look, random_look, rare_look
from vertfrac.cohorts.phantom.protocol import Protocol, draw_protocol, image_errors, metal_errors
from vertfrac.cohorts.phantom.scanner import scan, thick_slices
from vertfrac.cohorts.phantom.template import Template, grow
from vertfrac.cohorts.phantom.vertebra import (
    ARCH,
    BODY,
    SACRUM,
    Spot,
    canal_center,
    paint_arch,
    paint_body,
    paint_disc,
    paint_osteophytes,
    sacral_bodies,
    trabeculae,
    verse_label,
)
from vertfrac.errors import ConfigError
from vertfrac.files import clear_unfinished, replacing
from vertfrac.genant import genant_index
from vertfrac.geometry.keypoints import KEYPOINT_COLUMNS, heights

Floats = NDArray[np.float64]
Bytes = NDArray[np.uint8]
Axcodes = tuple[str, str, str]

LANDMARK_COLUMNS: tuple[str, ...] = ("case", "level", "x", "y", "z")
ANNOTATION_COLUMNS: tuple[str, ...] = ("case", "vertebra", "expert", "level", "shape", *KEYPOINT_COLUMNS)
CASE_COLUMNS: tuple[str, ...] = (
    "case",
    "image",
    "patient",
    "field",
    "vertebrae",
    "lowest_index",
    "cobb_deg",
    "kyphosis_deg",
    "lordosis_deg",
)
MARGIN_MM = 2.0


@dataclass(frozen=True)
class PhantomVertebra:
    """One whole vertebra of a phantom; `keypoints` (6, 3) in world RAS mm, exact by construction."""

    level: str
    shape: str
    keypoints: Floats


@dataclass(frozen=True)
class Phantom:
    """A procedural CT: `hu` int16 in storage order, `affine` (4, 4) from voxel index to world RAS mm.

    `vertebrae` : whole ones from C3 to L5, superior first. `field` : what the scan covers; curvatures in degrees.
    `landmarks` : centres of C2 and S1, (3,) in world RAS mm, of those that lie in the scan.
    `labels`, `subregions` : masks on the grid of `hu`, where asked for: the vertebra each voxel belongs to (VerSe
    numbering, whole or cut) and its part (49 body, 41 arch). They say what was painted at the voxel's centre. The
    sacrum is one label, 26.
    """

    case: str
    hu: NDArray[np.int16]
    affine: Floats
    vertebrae: tuple[PhantomVertebra, ...]
    field: str = "chest"
    cobb: float = 0.0
    kyphosis: float = 0.0
    lordosis: float = 0.0
    labels: Bytes | None = None
    subregions: Bytes | None = None
    landmarks: Mapping[str, Floats] = dataclasses.field(default_factory=dict)

    def stored_as(self, axcodes: Axcodes) -> Phantom:
        """The same phantom with its array axes pointing along `axcodes`, such as ("L", "P", "S")."""
        import nibabel

        orientations: Any = nibabel.orientations  # has no types
        start = orientations.io_orientation(self.affine)
        change = orientations.ornt_transform(start, orientations.axcodes2ornt(axcodes))

        def moved(array: Any) -> Any:
            return None if array is None else np.ascontiguousarray(orientations.apply_orientation(array, change))

        affine = self.affine @ orientations.inv_ornt_aff(change, self.hu.shape)
        arrays = {"hu": moved(self.hu), "labels": moved(self.labels), "subregions": moved(self.subregions)}
        return replace(self, **arrays, affine=np.asarray(affine, dtype=np.float64))


def case_name(index: int) -> str:
    """Name of the phantom with a zero-based index: `phantom-0001` for 0."""
    return f"phantom-{index + 1:04d}"


def _window(
    column: Column, rng: np.random.Generator, protocol: Protocol | None, spacing_mm: float | None
) -> tuple[Floats, Floats, Floats, float]:
    """Voxel coordinates x, y, z (mm) of the scan and the distance of its slices; spacing_mm, if any, is that of all."""
    seen = [v.center for v in column.vertebrae if column.z_low < v.center[2] < column.z_high]
    spine = np.array(seen) if seen else np.array([v.center for v in column.vertebrae])
    small = column.field == "lumbar" or rng.random() < 0.2
    width = rng.uniform(200, 265) if small else rng.triangular(270, 350, 420)
    step_z = float(rng.triangular(1.2, 1.5, 2.5) if rng.random() < 0.8 else rng.uniform(1.0, 4.0))
    length = column.z_high - column.z_low
    budget = rng.uniform(2.6e6, 6.6e6)
    share = rng.uniform(0.62, 0.85)
    step = float(np.clip(np.sqrt(width * width * share * length / max(step_z, 1.2) / budget), 0.8, 1.8))
    depth = width * share
    step_z = min(max(step_z, width * depth * length / (step * step * 9.5e6)), 4.0)
    reach = np.ptp(spine[:, 1]) + 110
    depth = max(depth, min(reach, width))
    x0 = (spine[:, 0].min() + spine[:, 0].max()) / 2 + rng.normal(0, 10 if small else 14)
    back, front = spine[:, 1].min() - 65, spine[:, 1].max() + 25
    y_low = back - rng.uniform(0, 30) if rng.random() < 0.85 else (back + front) / 2 - depth / 2
    y_low = min(y_low, spine[:, 1].min() - 30)
    y_low = max(y_low, front + 12 - depth)
    if protocol:
        step_z = protocol.step_z
        if protocol.around:
            width, depth = (float(np.ptp(spine[:, k])) + protocol.around for k in (0, 1))
            x0, y_low = (spine[:, 0].min() + spine[:, 0].max()) / 2, spine[:, 1].min() - 0.6 * protocol.around
        step = float(np.clip(np.sqrt(width * depth * length / (step_z * budget)), 0.6, 1.8))
        step_z = max(step_z, width * depth * length / (step * step * 9.5e6))
    if spacing_mm:
        step = step_z = spacing_mm
    x, y, z = (
        np.asarray(start + pitch * np.arange(int(extent / pitch) + 1), dtype=np.float64)
        for start, extent, pitch in (
            (x0 - width / 2, width, step),
            (y_low, depth, step),
            (column.z_low, length, step_z),
        )
    )
    return x, y, z, step_z


def _paint(
    column: Column,
    grid: tuple[Floats, Floats, Floats],
    rng: np.random.Generator,
    rare: np.random.Generator,
    ingredients: Ingredients,
    labels: bool,
) -> tuple[Canvas, dict[str, Floats]]:
    """Render the anatomy on a grid of coordinates x, y, z (mm), and say where C2 and S1 are, if they are there.

    rare : draws what phantoms of full difficulty add.
    """
    look = random_look(rng, column.fragile)
    if "lesions" in ingredients:
        look = rare_look(rare, look)
    body = anatomy_body.Body(column, look, rng)
    canvas = Canvas(*grid)
    if labels:
        canvas.keep_labels()
    arms_up = bool(rng.random() < 0.65)
    if rng.random() < 0.6:
        anatomy_body.paint_table(canvas, body, rng)
    anatomy_body.paint_trunk(canvas, body, rng, arms_up)
    with canvas.only_if("organs" in ingredients):
        anatomy_body.paint_cavities(canvas, body, rng)
    with canvas.only_if("muscles" in ingredients):
        anatomy_body.paint_muscles(canvas, body, rng)
        anatomy_body.paint_fat_planes(canvas, body, rng)
    with canvas.only_if("head" in ingredients):
        anatomy_body.paint_head(canvas, body, rng)
    sacrum = sacral_bodies(column.vertebrae[-1], rng)
    canal = [canal_center(v, look) for v in column.vertebrae]
    anatomy_body.paint_canal(canvas, body, np.array([c for c, _ in canal]), np.array([r for _, r in canal]), rng)
    with canvas.only_if("pelvis" in ingredients):
        anatomy_body.paint_pelvis(canvas, body, sacrum, rng)
    with canvas.only_if("thorax" in ingredients):
        anatomy_body.paint_thorax_bones(canvas, body, rng, arms_up)
    block = trabeculae(rng)
    spurs = rng.beta(0.6, 2.0)
    spine = column.vertebrae
    for upper, lower in pairwise((*spine, *sacrum[:2])):
        paint_disc(canvas, upper, lower, look, rng)
    for v in sacrum:
        paint_body(canvas, v, look, block, rng, SACRUM)
    spots = disease.body_spots(spine, look, ingredients, rare)
    _paint_vertebrae(canvas, column, look, block, spurs, rng, "arches" in ingredients, spots)
    with canvas.only_if("wear" in ingredients):
        disease.paint_disc_wear(canvas, (*spine, sacrum[0]), look, rare)
        disease.paint_bridges(canvas, spine, look, rare)
    anatomy_body.paint_implants(canvas, body, rng)
    with canvas.only_if("metal" in ingredients):
        disease.paint_hardware(canvas, spine, rare)
    landmarks = {"S1": sacrum[0].center}
    if "head" in ingredients:
        landmarks["C2"] = anatomy_body.axis_center(column)
    return canvas, landmarks


def _paint_vertebrae(
    canvas: Canvas,
    column: Column,
    look: Look,
    block: NDArray[np.float32],
    spurs: float,
    rng: np.random.Generator,
    arches: bool = True,
    spots: Mapping[str, Sequence[Spot]] = MappingProxyType({}),
) -> None:
    """Arches, osteophytes and bodies of all vertebrae in reach, marked in the label maps where the canvas keeps any."""
    low, high = float(canvas.z[0]), float(canvas.z[-1])
    for v in column.vertebrae:
        if v.center[2] < low - 80 or v.center[2] > high + 80:
            continue
        with canvas.marking(verse_label(v), ARCH), canvas.only_if(arches):
            paint_arch(canvas, v, look, rng)
    for v in column.vertebrae:
        if v.center[2] < low - 40 or v.center[2] > high + 40:
            continue
        with canvas.marking(verse_label(v), BODY):
            paint_osteophytes(canvas, v, look, rng, spurs)
        paint_body(canvas, v, look, block, rng, verse_label(v), spots.get(v.level, ()))


@dataclass(frozen=True)
class SpineMasks:
    """Label maps of a phantom's spine alone, see `Phantom`; `affine` (4, 4) from voxel index to world RAS mm."""

    labels: Bytes
    subregions: Bytes
    affine: Floats
    vertebrae: tuple[PhantomVertebra, ...]


def make_masks(seed: int, index: int, spacing_mm: Sequence[float] = (1.0, 1.0, 1.0)) -> SpineMasks:
    """Label maps on any grid of the spine of phantom (seed, index), without painting a CT; a few seconds each.

    The column, its keypoints and the z range are those of the phantom of usual difficulty; the arch and the osteophytes
    are drawn anew. Voxels run along R, A and S; the box holds the spine with some margin. Raises ConfigError as
    `make_phantom`.
    """
    _check_numbers(seed, index)
    rng = np.random.default_rng([seed, index])
    column = random_column(rng)
    look = random_look(rng, column.fragile)
    near = [v.center for v in column.vertebrae if column.z_low - 40 < v.center[2] < column.z_high + 40]
    low = np.min(near, axis=0) - np.array([60, 85, 0])
    high = np.max(near, axis=0) + np.array([60, 35, 0])
    low[2], high[2] = column.z_low, column.z_high
    steps = np.asarray(spacing_mm, dtype=np.float64)
    x, y, z = (np.arange(lo, hi, step) for lo, hi, step in zip(low, high, steps, strict=True))
    canvas = Canvas(x, y, z)
    canvas.keep_labels()
    _paint_vertebrae(canvas, column, look, trabeculae(rng), rng.beta(0.6, 2.0), rng)
    assert canvas.labels is not None
    assert canvas.subregions is not None
    affine = np.diag([*steps, 1.0])
    affine[:3, 3] = low
    whole = tuple(PhantomVertebra(v.level, v.shape, v.keypoints) for v in column.visible(MARGIN_MM))
    return SpineMasks(canvas.labels.transpose(2, 1, 0), canvas.subregions.transpose(2, 1, 0), affine, whole)


def _check_numbers(seed: int, index: int) -> None:
    if seed < 0 or index < 0:
        raise ConfigError(f"phantom seed and index must be 0 or more, got seed {seed} and index {index}")


def make_phantom(
    seed: int,
    index: int,
    *,
    ingredients: Ingredients = USUAL,
    templates: Sequence[Template] = (),
    labels: bool = False,
    spacing_mm: float | None = None,
) -> Phantom:
    """Phantom number `index` (zero-based) of a cohort; a function of seed, index and ingredients.

    ingredients : what goes into it; without one of them the rest of the patient stays much the same. templates :
    annotations to grow the phantoms around, taken in turn. labels : make the label maps too; the scan is the same with
    and without. spacing_mm : of isotropic voxels, instead of the scan's own. Raises ConfigError if seed or index is
    negative.
    """
    _check_numbers(seed, index)
    rng, rare = np.random.default_rng([seed, index]), np.random.default_rng([seed, index, 1])
    column = random_column(rng, draw_rarities(rare, ingredients))
    if templates:
        column = grow(column, templates[index % len(templates)], rare)
    drawn = draw_protocol(rare)
    protocol = drawn if "protocol" in ingredients else None
    x, y, z, step_z = _window(column, rng, protocol, spacing_mm)
    fine = max(1, int(np.ceil(step_z / 1.9)))
    step = step_z / fine
    pad = fine
    z_fine = z[0] - step * pad + step * np.arange((z.size - 1) * fine + 2 * pad + 1)
    canvas, landmarks = _paint(column, (x, y, z_fine), rng, rare, ingredients, labels)
    usual = rng.uniform(1.0, 1.5)
    slices = thick_slices(canvas.hu, canvas.z, z, step_z * (protocol.thickness if protocol else usual))
    level = column.level_at(z)
    shoulders = np.exp(-(((level - 5.3) / 1.7) ** 2))
    spacing = float(x[1] - x[0])
    if "metal" in ingredients:
        metal_errors(slices, spacing, rare)
    if protocol:
        image_errors(slices, protocol, spacing)
    hu = scan(slices, rng, spacing, shoulders)
    if "noise" not in ingredients:
        hu = np.rint(np.clip(slices, -1024, 3071)).astype(np.int16)
    if protocol:
        np.minimum(hu, protocol.highest, out=hu)
    if rng.random() < 0.3:
        far = np.hypot(x - x.mean(), (y - y.mean())[:, None])
        hu[:, far > (x[-1] - x[0]) / 2] = rng.choice([-1024, -2048, -3024])
    origin = np.round(rng.uniform([-60, -60, -1500], [60, 60, 200]), 3)
    affine = np.diag([spacing, spacing, step_z, 1.0])
    affine[:3, 3] = np.array([x[0], y[0], z[0]]) + origin
    low = np.array([x[0], y[0], z[0]]) + MARGIN_MM
    high = np.array([x[-1], y[-1], z[-1]]) - MARGIN_MM
    turn = protocol.tilt.as_matrix() if protocol else np.eye(3)
    affine[:3] = turn @ affine[:3]
    vertebrae = tuple(
        PhantomVertebra(v.level, v.shape, (v.keypoints + origin) @ turn.T)
        for v in column.vertebrae
        if (v.keypoints >= low).all() and (v.keypoints <= high).all()
    )
    label_map, subregion_map = (
        None if mask is None else mask[pad::fine][: z.size].transpose(2, 1, 0)
        for mask in (canvas.labels, canvas.subregions)
    )
    phantom = Phantom(
        case_name(index),
        hu.transpose(2, 1, 0),
        affine,
        vertebrae,
        column.field,
        column.cobb,
        column.kyphosis,
        column.lordosis,
        label_map,
        subregion_map,
        {
            level: (center + origin) @ turn.T
            for level, center in landmarks.items()
            if (center >= low).all() and (center <= high).all()
        },
    )
    order = rng.permutation(3)
    names = np.array(["RL", "AP", "SI"])[order]
    codes = [str(pair[int(rng.integers(0, 2))]) for pair in names]
    return phantom.stored_as((codes[0], codes[1], codes[2]))


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    with replacing(path) as temporary:
        temporary.write_bytes(text.getvalue().encode())


def write_image(phantom: Phantom, path: Path) -> None:
    """Write a phantom as `.nii.gz` with sform and qform, whatever machine and time with the same bytes."""
    _write_array(phantom.hu, phantom.affine, path)


def _write_array(values: NDArray[Any], affine: Floats, path: Path) -> None:
    import nibabel

    image_type: Any = nibabel.Nifti1Image  # has no types
    image = image_type(values, affine)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    image.header.set_xyzt_units("mm")
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", fileobj=packed, mode="wb", compresslevel=1, mtime=0) as stream:
        stream.write(image.to_bytes())
    with replacing(path) as temporary:
        temporary.write_bytes(packed.getvalue())


class Made(TypedDict, total=False):
    """Which phantoms of which cohort; shard (k, n) is k, k + n, k + 2 n, ..., the rest as in `make_phantom`."""

    cases: Required[int]
    seed: Required[int]
    shard: tuple[int, int]
    ingredients: Ingredients
    templates: Sequence[Template]


def make_phantoms(*, labels: bool = False, **made: Unpack[Made]) -> Iterator[tuple[int, Phantom]]:
    """The phantoms of a cohort or a shard of it with their zero-based numbers, one after another.

    Raises ConfigError at once for a number of cases below 1, a negative seed or an impossible shard.
    """
    cases, seed, (part, parts) = made["cases"], made["seed"], made.get("shard", (0, 1))
    if cases < 1:
        raise ConfigError(f"the number of phantom cases must be 1 or more, got {cases}")
    if seed < 0:
        raise ConfigError(f"the phantom seed must be 0 or more, got {seed}")
    if parts < 1 or not 0 <= part < parts:
        raise ConfigError(f"a phantom shard (k, n) needs 0 <= k < n, got ({part}, {parts})")
    make = partial(
        make_phantom,
        seed,
        ingredients=made.get("ingredients", USUAL),
        templates=made.get("templates", ()),
        labels=labels,
    )
    return ((index, make(index)) for index in range(part, cases, parts))


def write_phantoms(out: Path, *, labels: bool = False, **made: Unpack[Made]) -> None:
    """Write a cohort, or of a shard its part of it.

    Images are `images/phantom-0001.nii.gz` ..., tables `annotations.csv`, `landmarks.csv` and `cases.csv`.

    labels : write the label maps of each scan too, `labels/phantom-0001.nii.gz` and `subregions/phantom-0001.nii.gz`.
    Raises ConfigError as `make_phantoms`.
    """
    phantoms = make_phantoms(labels=labels, **made)
    folder = Path(out) / "images"
    folder.mkdir(parents=True, exist_ok=True)
    for place in (Path(out), folder, Path(out) / "labels", Path(out) / "subregions"):
        clear_unfinished(place)
    annotations: list[list[object]] = []
    landmarks: list[list[object]] = []
    table: list[list[object]] = []
    for _, phantom in phantoms:
        image = folder / f"{phantom.case}.nii.gz"
        write_image(phantom, image)
        for kind, mask in (("labels", phantom.labels), ("subregions", phantom.subregions)):
            if mask is not None:
                (Path(out) / kind).mkdir(exist_ok=True)
                _write_array(mask, phantom.affine, Path(out) / kind / image.name)
        lowest = 1.0
        for number, v in enumerate(phantom.vertebrae, start=1):
            points = [f"{value:.4f}" for value in v.keypoints.reshape(-1)]
            annotations.append([phantom.case, number, "phantom", v.level, v.shape, *points])
            lowest = min(lowest, float(genant_index(heights(v.keypoints))))
        for level, center in phantom.landmarks.items():
            landmarks.append([phantom.case, level, *(f"{value:.4f}" for value in center)])
        numbers = [f"{value:.4f}" for value in (lowest, phantom.cobb, phantom.kyphosis, phantom.lordosis)]
        where = image.relative_to(out).as_posix()
        table.append([phantom.case, where, phantom.case, phantom.field, len(phantom.vertebrae), *numbers])
    _write_csv(Path(out) / "annotations.csv", ANNOTATION_COLUMNS, annotations)
    _write_csv(Path(out) / "landmarks.csv", LANDMARK_COLUMNS, landmarks)
    _write_csv(Path(out) / "cases.csv", CASE_COLUMNS, table)
