"""MosMedData CT_LUNGCANCER_500: DICOM series with the public annotations of both papers (`lungcancer500_json`).

A study's series is found by its SeriesInstanceUID under any layout of folders and files. A voxel of an annotation
becomes a point in the world by the headers of the series: its slice counts the slices by InstanceNumber, and where
these lie is what ImagePositionPatient says. What counts is that the points make sense in that image.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vertfrac import tables
from vertfrac.cohorts.lungcancer500_json import Study, annotation_files, annotation_rows, read_study
from vertfrac.cohorts.series_index import index_series, series_key
from vertfrac.cohorts.sources import Scan
from vertfrac.errors import AnnotationError, ImageError, VertfracError
from vertfrac.geometry.keypoints import KEYPOINTS
from vertfrac.imaging import Image, read_series
from vertfrac.imaging.dicom import Stack

Floats = NDArray[np.float64]

_PLANE_TOLERANCE_MM = 0.5  # of a keypoint from the plane through all six of its vertebra


@dataclass
class _Series:
    """What an index says of one series: its files and patients, and what else lies in its folders.

    damaged : files that are not readable as DICOM and can be slices of no other series, with the reason.
    doubtful : such files in a folder of several series.
    """

    files: list[Path] = field(default_factory=list)
    patients: set[str] = field(default_factory=set)
    damaged: list[tuple[Path, str]] = field(default_factory=list)
    doubtful: list[Path] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return Path(os.path.commonpath([file.parent for file in self.files]))


def scans(annotations: str, images: str, index: str | None = None) -> list[Scan]:
    """The annotated studies of a folder of JSON files with their DICOM series, found by SeriesInstanceUID.

    index : table of SERIES of ``images``, as ``vertfrac index`` writes it; without one, all headers below ``images``
    are read here. The patient is the PatientID, or the case where there is none. Raises AnnotationError if there is no
    annotation at all, CohortError if ``images`` is no folder and TableError for an index that is none.
    """
    files = annotation_files(Path(annotations))
    table = tables.read_table(index, tables.SERIES) if index else index_series(Path(images))
    watched = (Path(index),) if index else ()
    studies = {path: _study_or_error(path) for path in files}
    owners: dict[str, list[Path]] = defaultdict(list)
    for path, study in studies.items():
        if isinstance(study, Study):
            owners[series_key(study.series)].append(path)
    known = _known_series(table, Path(images), set(owners))
    return [_scan(path, study, Path(images), known, owners, watched) for path, study in studies.items()]


def _study_or_error(path: Path) -> Study | VertfracError:
    try:
        return replace(read_study(path), case=path.stem)
    except VertfracError as error:
        return error


def _scan(
    path: Path,
    study: Study | VertfracError,
    images: Path,
    known: dict[str, _Series],
    owners: dict[str, list[Path]],
    watched: tuple[Path, ...],
) -> Scan:
    """One case. owners : the annotation files that claim each series."""
    case, files = path.stem, (path, *watched)
    try:
        if not isinstance(study, Study):
            raise study
        key = series_key(study.series)
        if others := [other.name for other in owners[key] if other != path]:
            raise AnnotationError(
                f"{path}: SeriesInstanceUID {study.series} is that of {others[0]} too, expected one each"
            )
        if key not in known:
            raise AnnotationError(
                f"{path}: no DICOM file of SeriesInstanceUID {study.series} below {images}, expected its slices there"
            )
    except VertfracError as error:
        return Scan(case, case, str(path), files, _failing(error))
    series = known[key]
    patient = min(series.patients, default=case)
    read = partial(_read, path, study, series)
    return Scan(case, patient, str(series.folder), files, read, annotated_in=str(path))


def _failing(error: VertfracError) -> Callable[[], tuple[Image, pd.DataFrame]]:
    def read() -> tuple[Image, pd.DataFrame]:
        raise error

    return read


def _known_series(table: pd.DataFrame, images: Path, wanted: set[str]) -> dict[str, _Series]:
    """The wanted series of an index, by the key of their UID."""
    known: dict[str, _Series] = defaultdict(_Series)
    endings: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))  # folder -> series -> of its files
    rows = table[["path", "series", "patient", "reason"]]
    for path, uid, patient, _ in rows[rows["series"].notna()].itertuples(index=False):
        key = series_key(uid)
        folder, name = os.path.split(path)
        endings[folder][key].add(_ending(name))
        if key in wanted:
            known[key].files.append(images / path)
            if isinstance(patient, str):
                known[key].patients.add(patient)
    for path, _, _, reason in rows[rows["reason"] != ""].itertuples(index=False):
        folder, name = os.path.split(path)
        for key, found in endings.get(folder, {}).items():
            if key in wanted and _ending(name) in found:
                if len(endings[folder]) == 1:
                    known[key].damaged.append((images / path, reason))
                else:
                    known[key].doubtful.append(images / path)
    return dict(known)


def _ending(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _read(path: Path, study: Study, series: _Series) -> tuple[Image, pd.DataFrame]:
    """Image and annotations of a case."""
    if series.damaged:
        file, reason = series.damaged[0]
        raise ImageError(
            f"{file}: not readable as DICOM ({reason}), expected every file beside the {len(series.files)} slices of "
            "the series to be, since annotations count slices"
        )
    if len(series.patients) > 1:
        raise ImageError(
            f"{series.folder}: PatientID is {' and '.join(sorted(series.patients)[:2])} in one series, expected one"
        )
    image, stack = read_series(series.files, series.folder)
    annotations = tables.ANNOTATIONS.frame(_placed(path, study, stack))
    numbers = [number for number in stack.instance_numbers if number is not None]
    doubts = list(image.warnings)
    if max(numbers) - min(numbers) + 1 != len(numbers):
        doubts.append(f"InstanceNumbers of {len(numbers)} slices run from {min(numbers)} to {max(numbers)}, with gaps")
    if series.doubtful:
        doubts.append(f"{len(series.doubtful)} files beside the slices are not DICOM, first {series.doubtful[0]}")
    return replace(image, warnings=tuple(doubts)), annotations


def _placed(path: Path, study: Study, stack: Stack) -> list[dict[str, Any]]:
    """Rows of ANNOTATIONS of a study, checked against its image."""
    world_from_voxel = stack.world_from_ranked()
    shape = (stack.rows, stack.columns, len(stack.files))
    for expert, marks in study.marks.items():
        for number, (voxels, level) in enumerate(zip(marks, study.levels[expert], strict=True), start=1):
            where = f"{path}: {expert}, vertebra {number} from above" + (f" ({level})" if level else "")
            _check_inside(voxels, shape, where)
            _check_directions(voxels @ world_from_voxel[:3, :3].T + world_from_voxel[:3, 3], where)
    return annotation_rows(study, world_from_voxel)


def _check_inside(voxels: Floats, shape: tuple[int, int, int], where: str) -> None:
    """voxels (6, 3) in (row, column, slice) lie in an image of this shape."""
    outside = (voxels < -0.5) | (voxels > np.array(shape) - 0.5)
    if outside.any():
        point, axis = np.argwhere(outside)[0]
        raise AnnotationError(
            f"{where}: {KEYPOINTS[point]} is in {('row', 'column', 'slice')[axis]} {voxels[point, axis]:g}, "
            f"outside the image, expected 0 to {shape[axis] - 1}"
        )


def _check_directions(world: Floats, where: str) -> None:
    """Keypoints (6, 3), world RAS mm, are in the order of KEYPOINTS and in one plane."""
    for k in (0, 2, 4):
        if not world[k, 2] > world[k + 1, 2]:
            raise AnnotationError(
                f"{where}: {KEYPOINTS[k]} lies {world[k + 1, 2] - world[k, 2]:.1f} mm below {KEYPOINTS[k + 1]} in the "
                "image, expected above it (InstanceNumber may run the other way than when it was annotated)"
            )
    depth = world[:, 1].reshape(3, 2).mean(axis=1)
    if not depth[0] > depth[1] > depth[2]:
        raise AnnotationError(
            f"{where}: anterior, middle and posterior height lie at y = {', '.join(f'{y:.1f}' for y in depth)} mm in "
            "the image, expected them from front to back"
        )
    centred = world - world.mean(axis=0)
    normal = np.linalg.svd(centred)[2][2]
    beside = np.abs(centred @ normal)
    if beside.max() > _PLANE_TOLERANCE_MM:
        raise AnnotationError(
            f"{where}: {KEYPOINTS[int(beside.argmax())]} lies {beside.max():.1f} mm beside the plane of the six "
            "keypoints, expected them in one plane"
        )
