"""The public six-keypoint annotations of MosMedData CT_LUNGCANCER_500, as published with both papers.

One JSON per study: ``SeriesInstanceUID``, ``Folder`` and ``Annotation: {expert: [...]}``. A vertebra is six points
(Pisov et al. 2020: pairs of anterior, middle and posterior ends) or ``{"segments": [3][2][3], "type": "Th1"}``
(Zakharov et al. 2022). A point is a voxel (row, column, slice) of the DICOM series sorted by InstanceNumber; the first
of a pair is the superior end. In all public files rows run to the posterior, slices downwards, and the six points of a
vertebra share one column; only the first of these is taken for granted here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vertfrac import tables
from vertfrac.cohorts.levels import LEVELS, parse_level
from vertfrac.errors import AnnotationError, TableError
from vertfrac.files import read_json
from vertfrac.geometry.keypoints import KEYPOINTS

Floats = NDArray[np.float64]

NOMINAL_SPACING_MM = (0.7, 0.7, 0.8)
"""Distance of rows, of columns and of slices where the images, which alone know it, are not at hand."""


@dataclass(frozen=True, eq=False)
class Study:
    """The annotations of one study.

    case : the name of its folder. series : the SeriesInstanceUID of the images. marks : per expert, the keypoints in
    voxels (row, column, slice), (n, 6, 3), superior vertebra first; levels : their levels, "" where not given.
    downwards : whether slices run downwards.
    """

    case: str
    series: str
    marks: dict[str, Floats]
    levels: dict[str, list[str]]
    downwards: bool = True


def annotation_files(folder: Path) -> list[Path]:
    """The annotations of the cases, one file each, by case; AnnotationError if there is none."""
    files = sorted(folder.glob("*.json"), key=lambda path: path.stem)
    if not files:
        raise AnnotationError(f"{folder}: holds no .json file, expected the annotations of one study in each")
    return files


def nominal_affine(spacing_mm: Sequence[float] = NOMINAL_SPACING_MM, *, downwards: bool = True) -> Floats:
    """World RAS mm from a homogeneous voxel (row, column, slice), (4, 4), for a supine patient and origin 0.

    Rows run to the posterior, columns to the left. spacing_mm : distance of rows, columns, slices.
    """
    rows, columns, slices = spacing_mm
    affine = np.zeros((4, 4))
    affine[0, 1], affine[1, 0], affine[2, 2], affine[3, 3] = -columns, -rows, -slices if downwards else slices, 1.0
    return affine


def annotation_rows(study: Study, world_from_voxel: Floats) -> list[dict[str, Any]]:
    """The annotations of a study as rows of ANNOTATIONS; world_from_voxel maps (row, column, slice), (4, 4)."""
    rows = []
    for expert, voxels in study.marks.items():
        world = voxels @ world_from_voxel[:3, :3].T + world_from_voxel[:3, 3]
        rows += [
            {
                "case": study.case,
                "expert": expert,
                "vertebra": number,
                "level": level,
                **tables.keypoint_values(keypoints),
            }
            for number, (keypoints, level) in enumerate(zip(world, study.levels[expert], strict=True), start=1)
        ]
    return rows


def read_studies(folder: Path) -> list[tuple[Path, Study]]:
    """All studies of a folder, by file name; AnnotationError if it holds none, or two of one case."""
    files = annotation_files(folder)
    studies = [(path, read_study(path)) for path in files]
    first: dict[str, Path] = {}
    for path, study in studies:
        if study.case in first:
            raise AnnotationError(f"{path}: Folder {study.case} is that of {first[study.case].name} too")
        first[study.case] = path
    return studies


def read_study(path: Path) -> Study:
    """Read and check one JSON of either format; AnnotationError names the file, what was found and what is expected."""
    try:
        content = read_json(path)
    except TableError as error:
        raise AnnotationError(str(error)) from error
    if not isinstance(content, dict):
        raise AnnotationError(f"{path}: found {_kind(content)}, expected an object with Folder and Annotation")
    for key, kind in (("Folder", str), ("SeriesInstanceUID", str), ("Annotation", dict)):
        if not isinstance(content.get(key), kind) or not content[key]:
            expected = "experts and their vertebrae" if kind is dict else "a text"
            raise AnnotationError(f"{path}: {key} is {_kind(content.get(key))}, expected {expected}")
    marks: dict[str, Floats] = {}
    levels: dict[str, list[str]] = {}
    for expert, vertebrae in content["Annotation"].items():
        where = f"{path}: {expert}"
        if not isinstance(vertebrae, list) or not vertebrae:
            raise AnnotationError(f"{where}: found {_kind(vertebrae)}, expected a list of vertebrae")
        read = [_vertebra(vertebra, f"{where}, vertebra {n}") for n, vertebra in enumerate(vertebrae, start=1)]
        named = [level for _, level in read if level]
        twice = sorted({level for level in named if named.count(level) > 1})
        if twice:
            raise AnnotationError(f"{where}: level {twice[0]} occurs twice, expected once")
        marks[expert] = np.stack([points for points, _ in read])
        levels[expert] = [level for _, level in read]
    downwards = _run_downwards(path, marks)
    for expert, points in marks.items():
        order = _from_above(points, levels[expert], downwards=downwards)
        marks[expert], levels[expert] = points[order], [levels[expert][n] for n in order]
    return Study(content["Folder"], content["SeriesInstanceUID"], marks, levels, downwards)


def _vertebra(value: Any, where: str) -> tuple[Floats, str]:
    """Keypoints (6, 3) in voxels and the level of one vertebra."""
    level = ""
    shape: tuple[int, ...] = (6, 3)
    if isinstance(value, dict):
        if not {"segments", "type"} <= set(value):
            raise AnnotationError(f"{where}: found the keys {sorted(value)}, expected segments and type")
        level, shape, value = _level(value["type"], where), (3, 2, 3), value["segments"]
    try:
        points = np.array(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise AnnotationError(f"{where}: holds something else than points of three numbers ({error})") from error
    if points.shape != shape:
        raise AnnotationError(f"{where}: found points of shape {points.shape}, expected {shape}")
    points = points.reshape(6, 3)
    if not np.isfinite(points).all():
        raise AnnotationError(f"{where}: holds a coordinate that is not finite")
    rows = points[:, 0].reshape(3, 2).mean(axis=1)
    if not rows[0] < rows[1] < rows[2]:
        raise AnnotationError(
            f"{where}: anterior, middle and posterior height are in rows {', '.join(f'{row:g}' for row in rows)}, "
            "expected them in this order (rows run to the posterior)"
        )
    return points, level


def _level(value: Any, where: str) -> str:
    """The level in the names of ANNOTATIONS: Th7 is T7."""
    level = parse_level(value) if isinstance(value, str) else None
    if level is None:
        raise AnnotationError(f"{where}: type is {value!r}, expected a level such as C7, Th1 or L3")
    return level


def _run_downwards(path: Path, marks: dict[str, Floats]) -> bool:
    """Whether slices run downwards, as the first pair says; AnnotationError for a pair that says otherwise."""
    first = next(iter(marks.values()))[0]
    downwards = bool(first[0, 2] < first[1, 2])
    for expert, vertebrae in marks.items():
        down = vertebrae[:, 1::2, 2] - vertebrae[:, 0::2, 2]  # (n, 3)
        wrong = np.argwhere(down <= 0 if downwards else down >= 0)
        if len(wrong):
            number, pair = (int(n) for n in wrong[0])
            superior, inferior = vertebrae[number, 2 * pair : 2 * pair + 2, 2]
            raise AnnotationError(
                f"{path}: {expert}, vertebra {number + 1}: {KEYPOINTS[2 * pair]} is in slice {superior:g}, "
                f"{KEYPOINTS[2 * pair + 1]} in slice {inferior:g}, expected the superior end first (slices run "
                f"{'downwards' if downwards else 'upwards'})"
            )
    return downwards


def _from_above(points: Floats, levels: list[str], *, downwards: bool) -> list[int]:
    """The order from above: by level if all have one (a kyphosis may put L1 beside T12), else by slice."""
    if all(levels):
        return sorted(range(len(levels)), key=lambda n: LEVELS.index(levels[n]))
    heights = points[:, 2:4, 2].mean(axis=1)
    return [int(n) for n in np.argsort(heights if downwards else -heights, kind="stable")]


def _kind(value: Any) -> str:
    """What a JSON value is, in few words."""
    if value is None:
        return "missing"
    sized = f" of {len(value)}" if isinstance(value, list | dict | str) else ""
    return f"a {type(value).__name__}{sized}"
