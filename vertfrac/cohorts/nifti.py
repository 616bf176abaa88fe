"""Scans of one's own: a folder or a table of NIfTI files and DICOM folders, annotated in tables or JSON files.

``docs/cohorts/nifti.md`` describes all forms with examples. In short: a folder lists its scans in ``cases.csv``
(SCANS), or every scan that lies in it is a case; a table (SCANS) lists scans that lie anywhere. Annotations are one
table (ANNOTATIONS) or JSON files per case, in our own form (``annotation_json``) or 3D Slicer's (``markups``).
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vertfrac import tables
from vertfrac.cohorts.annotation_json import ReadAnnotation, read_annotation
from vertfrac.cohorts.levels import LEVELS
from vertfrac.cohorts.markups import ENDING as MARKUPS
from vertfrac.cohorts.markups import read_markups
from vertfrac.cohorts.sources import Scan
from vertfrac.errors import AnnotationError, CohortError, ImageError, TableError
from vertfrac.files import walk
from vertfrac.geometry.grid import Grid
from vertfrac.imaging import Image, case_name, read_image

CASES_TABLE = "cases.csv"
ANNOTATIONS = ("annotations.csv", "annotations.parquet", "annotations")
"""What is looked for beside the scans where the configuration names no annotations; the last one is a folder."""
LANDMARKS = "landmarks.csv"
"""Rows of LANDMARKS, beside the scans, if there are any."""

LANDMARK_LEVELS = (*LEVELS, "S1")

SPLITS = ("train", "validation", "test")

_NIFTI = re.compile(r"\.nii(\.gz)?$", re.IGNORECASE)
_MASK_WORDS = {"seg", "dseg", "segmentation", "msk", "mask", "masks", "label", "labels", "labelmap"}
_NO_DICOM = {".nii", ".gz", ".json", ".csv", ".tsv", ".parquet", ".txt", ".md", ".png", ".jpg", ".zip", ".nrrd", ".xml"}

Read = Callable[[Grid], ReadAnnotation]


@dataclass(frozen=True)
class _Listed:
    """One scan as it was found: image None where a table has none."""

    case: str
    image: Path | None
    patient: str
    annotation: Path | None = None
    split: str = ""


@dataclass(frozen=True)
class _Annotated:
    """Where a case's annotation is, and how it is read.

    files : what reading depends on, existing or not. read : takes the grid of the scan. listed : its rows of a table
    that other cases are in too.
    """

    source: str
    files: tuple[Path, ...]
    read: Read
    listed: str = ""


def scans(folder: str | None = None, table: str | None = None, annotations: str | None = None) -> list[Scan]:
    """The cases of a folder or of a table; see ``config.NiftiCohort``.

    Raises CohortError, TableError or AnnotationError where the folder or a table itself is wrong.
    """
    here = Path(folder or "") if table is None else Path(table).parent
    listing, listed = _list(folder, table)
    cases = {one.case for one in listed}
    annotated = _annotations(here, annotations, listing, cases)
    landmarks = _landmarks(here / LANDMARKS, listing, cases)
    return [_scan(one, listing, annotated, landmarks[landmarks["case"] == one.case]) for one in listed]


def images(folder: str | None = None, table: str | None = None) -> list[tuple[str, Path | None]]:
    """Case and image of every scan of a folder or of a table, whose annotations are not looked at.

    The image is None where a table has none. Raises CohortError or TableError as `scans` does.
    """
    return [(one.case, one.image) for one in _list(folder, table)[1]]


def left_out(folder: str | None = None, table: str | None = None, annotations: str | None = None) -> list[str]:
    """The files of a folder without cases.csv that are no case because their names say that they are masks."""
    if folder is None or (Path(folder) / CASES_TABLE).is_file():
        return []
    files = [path for path in _images_in(Path(folder)) if not path.is_dir() and is_mask(path.name)]
    return [f"{path}: no case, since its name says that it is a mask" for path in files]


def is_mask(name: str) -> bool:
    """Whether a file's name says that it is a segmentation: ``*_seg``, ``*-mask2``, ``sub-1_seg-vert_msk``, ..."""
    stem = _NIFTI.sub("", name).lower()
    last = re.split(r"[_\-. ]", stem)[-1].rstrip("0123456789")
    return last in _MASK_WORDS or any(part.startswith("seg-") for part in stem.split("_"))


def _list(folder: str | None, table: str | None) -> tuple[Path, list[_Listed]]:
    """The scans of a folder or of a table, and the table or, where there is none, the folder that they come from."""
    here = Path(folder or "")
    listing = here / CASES_TABLE if table is None else Path(table)
    if table is not None or listing.is_file():
        return listing, _listed_in(listing)
    return here, list(_found_in(here))


def _listed_in(path: Path) -> list[_Listed]:
    """The rows of a table of scans."""
    here = path.parent
    listed = _read(path, tables.SCANS)
    if (nameless := listed["case"].isna()).any():
        raise TableError(f"{path}: row {nameless.argmax() + 1} has no case, expected a name")
    strange = listed["split"].dropna()[lambda split: ~split.isin(SPLITS)]
    if len(strange):
        case = listed["case"][strange.index[0]]
        raise TableError(f"{path}: split of case {case} is {strange.iloc[0]!r}, expected one of {', '.join(SPLITS)}")
    given: list[dict[Any, Any]] = listed.astype(object).where(listed.notna(), None).to_dict("records")
    return [
        _Listed(
            row["case"],
            None if row["image"] is None else here / row["image"],
            row["patient"] or row["case"],
            None if row["annotation"] is None else here / row["annotation"],
            row["split"] or "",
        )
        for row in given
    ]


def _read(path: Path, schema: tables.Schema) -> pd.DataFrame:
    """A table of the user's. Columns of no meaning here are fine, but one that looks like a misspelled one is not."""
    data = tables.read_table(path, schema)
    absent = [column.name for column in schema.columns if data[column.name].isna().all()]
    known = {column.name for column in schema.columns}
    for name in _column_names(path):
        if name not in known and (meant := difflib.get_close_matches(name.lower(), absent, n=1, cutoff=0.8)):
            raise TableError(f"{path}: unknown column {name!r}, expected {meant[0]!r} or a name unlike it")
    return data


def _column_names(path: Path) -> list[str]:
    if path.suffix == ".csv":
        return [str(name) for name in pd.read_csv(path, nrows=0).columns]
    import pyarrow.parquet as pq

    return [str(name) for name in pq.read_schema(path).names]


def _found_in(folder: Path) -> Iterator[_Listed]:
    """Every scan of a folder without a table, named by its path in the folder."""
    found = [path for path in _images_in(folder) if not is_mask(path.name) or path.is_dir()]
    if not found:
        raise CohortError(
            f"{folder}: holds neither {CASES_TABLE} nor a scan, expected .nii or .nii.gz files or DICOM folders"
        )
    for path in found:
        name = path.name if path == folder else "_".join(path.relative_to(folder).parts)
        case = case_name(name)
        yield _Listed(case, path, case)


def _images_in(folder: Path) -> Iterator[Path]:
    """NIfTI files at any depth, and the folders that hold DICOM files; below one of these nothing is looked for.

    Links are followed. Raises CohortError for a folder that cannot be listed, whose scans would be lost.
    """
    if not folder.is_dir():
        raise CohortError(f"{folder}: no such folder, expected scans, with {CASES_TABLE} or without")

    def refused(error: OSError) -> None:
        raise CohortError(f"{error.filename}: cannot be listed ({error.strerror}), expected a folder of scans")

    for here, below, files in walk(folder, refused):
        below[:] = [name for name in below if not name.startswith(".")]
        names = [name for name in files if not name.startswith(".")]
        if any(_is_dicom(here / name) for name in names):
            below.clear()
            yield here
        yield from (here / name for name in names if _NIFTI.search(name))


def _is_dicom(path: Path) -> bool:
    if path.suffix.lower() in _NO_DICOM:
        return False
    if path.suffix.lower() == ".dcm":
        return True
    try:
        with path.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _annotations(here: Path, named: str | None, listing: Path, cases: set[str]) -> Callable[[str], _Annotated]:
    """What finds the annotation of a case. here : where to look if the configuration names none."""
    if named is not None:
        path = Path(named)
        if not path.exists():
            raise AnnotationError(f"{path}: no such file or folder, expected a table of annotations or JSON files")
    else:
        path = next((here / name for name in ANNOTATIONS if (here / name).exists()), here)
    if named is None and path == here:
        looked_for = ", ".join(ANNOTATIONS)
        nothing = ReadAnnotation(tables.ANNOTATIONS.frame([]))
        return lambda case: _Annotated(
            f"{here} (looked for {looked_for})", tuple(here / name for name in ANNOTATIONS), lambda grid: nothing
        )
    if path.is_dir():
        _check_all_known(path, listing, cases)
        return lambda case: _of_files(path, case)
    data = _read(path, tables.ANNOTATIONS)
    if (nameless := data["case"].isna()).any():
        raise TableError(f"{path}: row {nameless.argmax() + 1} has no case, expected a name")
    unknown = set(data["case"]) - cases
    if unknown:
        raise AnnotationError(f"{path}: case {min(unknown)} is not listed in {listing.name}")
    data["expert"] = data["expert"].fillna(tables.DEFAULT_EXPERT)
    by_case = dict(iter(data.groupby("case", sort=False)))

    def annotated(case: str) -> _Annotated:
        rows = by_case.get(case, data[:0])
        return _Annotated(str(path), (), lambda grid: ReadAnnotation(rows), rows.to_csv(index=False))

    return annotated


def _landmarks(path: Path, listing: Path, cases: set[str]) -> pd.DataFrame:
    """The rows of a table of landmarks, none if it is not there."""
    if not path.is_file():
        return tables.LANDMARKS.frame([])
    data = _read(path, tables.LANDMARKS)
    strange = data[~data["level"].isin(LANDMARK_LEVELS)]
    if len(strange):
        row = strange.iloc[0]
        raise TableError(f"{path}: level of a landmark of case {row['case']} is {row['level']!r}, expected C1 to S1")
    if not np.isfinite(data[["x", "y", "z"]].to_numpy(dtype=np.float64)).all():
        raise TableError(f"{path}: a coordinate is missing or infinite, expected world RAS in mm")
    unknown = set(data["case"].dropna()) - cases
    if unknown or data["case"].isna().any():
        raise TableError(f"{path}: case {min(unknown, default='without name')} is not listed in {listing.name}")
    return data


def _check_all_known(folder: Path, listing: Path, cases: set[str]) -> None:
    """Refuse a folder of JSON files one of which is of no case, since a misspelled name would lose an annotation."""
    for path in sorted(folder.iterdir()):
        name = path.name.removesuffix(MARKUPS).removesuffix(".json")
        if (path.suffix == ".json" or path.is_dir()) and not path.name.startswith(".") and name not in cases:
            raise AnnotationError(f"{path}: annotation of case {name}, which is not among the scans of {listing}")


def _of_files(folder: Path, case: str) -> _Annotated:
    """The annotation of a case in a folder of JSON files: CASE.json, CASE.mrk.json or a folder CASE."""
    candidates = [folder / f"{case}.json", folder / f"{case}{MARKUPS}", folder / case]
    found = [path for path in candidates if os.path.exists(path)]  # unlike Path.exists False for an impossible name
    if len(found) > 1:

        def refuse(grid: Grid) -> ReadAnnotation:
            raise AnnotationError(f"{found[0]}: {found[1].name} holds an annotation of case {case} too, expected one")

        return _Annotated(str(found[0]), tuple(found), refuse)
    if not found:
        nothing = ReadAnnotation(tables.ANNOTATIONS.frame([]))
        return _Annotated(f"{folder} (no {candidates[0].name} or {candidates[1].name})", (), lambda grid: nothing)
    return _of_path(found[0], case)


def _of_path(path: Path, case: str) -> _Annotated:
    """The annotation of a case in a file, or in a folder of files that together are one."""
    if not os.path.isdir(path):
        return _Annotated(str(path), (path,), lambda grid: _read_file(path, case, grid))
    files = tuple(sorted(path.rglob("*.json")))
    return _Annotated(str(path), files, lambda grid: _read_folder(path, case, grid))


def _read_file(path: Path, case: str, grid: Grid) -> ReadAnnotation:
    if not os.path.isfile(path):
        raise AnnotationError(f"{path}: no such file, expected the annotation of case {case}")
    if path.name.endswith(MARKUPS):
        return read_markups([path], case)
    if path.suffix != ".json":
        raise AnnotationError(f"{path}: expected a file that ends in .json or {MARKUPS}, or a folder of them")
    return read_annotation(path, case, grid)


def _read_folder(folder: Path, case: str, grid: Grid) -> ReadAnnotation:
    """Markups files in the folder are of one expert; those in a folder below it of the expert that it is named for."""
    by_expert = {tables.DEFAULT_EXPERT: folder} | {
        path.name: path for path in sorted(folder.iterdir()) if path.is_dir()
    }
    read = []
    for expert, place in by_expert.items():
        own = sorted(place.glob("*.json"))
        markups = [path for path in own if path.name.endswith(MARKUPS)]
        if markups:
            read.append(read_markups(markups, case, expert))
        read += [read_annotation(path, case, grid) for path in own if path not in markups]
    found = pd.concat([one.rows for one in read]) if read else tables.ANNOTATIONS.frame([])
    twice = found[["expert", "vertebra"]].duplicated()
    if twice.any():
        expert = found["expert"][twice.to_numpy()].iloc[0]
        raise AnnotationError(f"{folder}: several of its files are of the expert {expert}, expected one")
    return ReadAnnotation(found.reset_index(drop=True), tuple(text for one in read for text in one.left_out))


def _scan(one: _Listed, listing: Path, annotated: Callable[[str], _Annotated], landmarks: pd.DataFrame) -> Scan:
    image = one.image
    annotation = _of_path(one.annotation, one.case) if one.annotation is not None else annotated(one.case)

    def read() -> tuple[Image, pd.DataFrame]:
        if image is None:
            raise ImageError(f"{listing}: case {one.case} has no image, expected a NIfTI file or a DICOM folder")
        scan = read_image(image)
        rows, left_out = annotation.read(scan.grid)
        return replace(scan, warnings=(*scan.warnings, *left_out)), rows

    return Scan(
        one.case,
        one.patient,
        str(image or listing),
        (*annotation.files, *([image] if image else [])),
        read,
        one.split,
        annotation.source,
        "\n".join([f"{one}\n{annotation.listed}", *([landmarks.to_csv(index=False)] if len(landmarks) else [])]),
        lambda: landmarks,
    )
