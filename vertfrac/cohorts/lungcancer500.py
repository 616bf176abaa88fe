"""The public six-keypoint annotations of MosMedData CT_LUNGCANCER_500, as published with both papers.

One JSON per study: ``SeriesInstanceUID``, ``Folder`` and ``Annotation: {expert: [...]}``. A vertebra is six points
(Pisov et al. 2020: pairs of anterior, middle and posterior ends) or ``{"segments": [3][2][3], "type": "Th1"}``
(Zakharov et al. 2022). A point is a voxel (row, column, slice) of the DICOM series sorted by InstanceNumber; the first
of a pair is the superior end.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vertfrac import tables
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
    """

    case: str
    series: str
    marks: dict[str, Floats]
    levels: dict[str, list[str]]


def nominal_affine(spacing_mm: Sequence[float] = NOMINAL_SPACING_MM) -> Floats:
    """World RAS mm from a homogeneous voxel (row, column, slice), (4, 4), for a supine patient and origin 0.

    Rows run to the posterior, columns to the left, slices downwards. spacing_mm : distance of rows, columns, slices.
    """
    rows, columns, slices = spacing_mm
    affine = np.zeros((4, 4))
    affine[0, 1], affine[1, 0], affine[2, 2], affine[3, 3] = -columns, -rows, -slices, 1.0
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
    files = sorted(folder.glob("*.json"))
    if not files:
        raise AnnotationError(f"{folder}: holds no .json file, expected the annotations of one study in each")
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
        read.sort(key=_from_above(all_named=len(named) == len(read)))
        marks[expert] = np.stack([points for points, _ in read])
        levels[expert] = [level for _, level in read]
    return Study(content["Folder"], content["SeriesInstanceUID"], marks, levels)


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
    for k in (0, 2, 4):
        if not points[k, 2] < points[k + 1, 2]:
            raise AnnotationError(
                f"{where}: {KEYPOINTS[k]} is in slice {points[k, 2]:g}, {KEYPOINTS[k + 1]} in slice "
                f"{points[k + 1, 2]:g}, expected the superior end first (slices run downwards)"
            )
    rows = points[:, 0].reshape(3, 2).mean(axis=1)
    if not rows[0] < rows[1] < rows[2]:
        raise AnnotationError(
            f"{where}: anterior, middle and posterior height are in rows {', '.join(f'{row:g}' for row in rows)}, "
            "expected them in this order (rows run to the posterior)"
        )
    return points, level


def _level(value: Any, where: str) -> str:
    """The level in the names of ANNOTATIONS: Th7 is T7."""
    match = re.fullmatch(r"(C|Th|L)(\d{1,2})", value) if isinstance(value, str) else None
    if match is None:
        raise AnnotationError(f"{where}: type is {value!r}, expected a level such as C7, Th1 or L3")
    return f"{match[1][0]}{match[2]}"


def _from_above(*, all_named: bool) -> Callable[[tuple[Floats, str]], float]:
    """Sorting key of vertebrae: the level if all have one (a kyphosis may put L1 beside T12), else the slice."""
    if all_named:
        return lambda item: "CTL".index(item[1][0]) * 100 + int(item[1][1:])
    return lambda item: float(item[0][2:4, 2].mean())


def _kind(value: Any) -> str:
    """What a JSON value is, in few words."""
    if value is None:
        return "missing"
    sized = f" of {len(value)}" if isinstance(value, list | dict | str) else ""
    return f"a {type(value).__name__}{sized}"
