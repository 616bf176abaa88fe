"""Reading VerSe: which scans there are, whose they are, and the annotation of each, from its mask or its keypoints."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import pandas as pd

from vertfrac import tables
from vertfrac.cohorts.from_mask import MaskVertebra, measure_mask
from vertfrac.cohorts.from_mask.levels import NO_BODY
from vertfrac.cohorts.sources import Scan
from vertfrac.cohorts.verse.centroids import check_centroids, read_centroids
from vertfrac.cohorts.verse.files import PARTS, Series, find_series
from vertfrac.cohorts.verse.grades import GradesOfScan, in_words, read_grades
from vertfrac.errors import AnnotationError, CohortError, ExcludedError
from vertfrac.geometry.grid import Grid
from vertfrac.imaging import Image, canonical, case_name, read_image
from vertfrac.imaging.labels import check_same_grid, read_labels

EXPERT = "mask"
"""Name of the expert whose keypoints come from a mask."""

Read = Callable[[], tuple[Image, pd.DataFrame]]


@dataclass(frozen=True)
class _Settings:
    grades: Path | None
    centroid_mm: float
    keep_doubtful: bool


def scans(
    folder: str,
    grades: str | None = None,
    parts: Sequence[str] = ("train", "validation", "test"),
    centroid_mm: float = 15.0,
    keep_doubtful: bool = False,
) -> list[Scan]:
    """The scans below a folder, of either release and directory style, side by side.

    grades : CSV table, see ``grades``. parts : those of the public split that are listed; a scan in no part's folder is
    listed always. centroid_mm : farthest distance of a centroid from its label. keep_doubtful : whether keypoints that
    the mask leaves doubtful are used. A scan that two releases share is read once, from the later release; the other
    one is listed as excluded. Raises CohortError without such a folder, TableError for a table that is none.
    """
    root = Path(folder)
    if not root.is_dir():
        raise CohortError(f"{root}: no such folder, expected the folder that holds the parts of VerSe")
    settings = _Settings(Path(grades) if grades else None, centroid_mm, keep_doubtful)
    graded = read_grades(settings.grades) if settings.grades else {}
    found = find_series(root)
    main = _main_series(found)
    patients = {series: _patient(series, graded) for series in found}
    home = _home_parts(list(main.values()), patients)
    listed: list[Scan] = []
    names: set[str] = set()
    for series in sorted(found, key=lambda one: (main[one.identity] is not one, str(one.tree), one.name)):
        name = series.name if series.name not in names else f"{series.name}_{_slug(series.tree, root)}"
        names.add(name)
        if series.part and series.part not in parts:
            continue
        listed.append(_scan(name, series, found, main[series.identity], patients[series], home, graded, settings))
    unknown = sorted(set(graded) - set(main))
    return [*listed, *(_without_scan(name, graded[name], settings, root) for name in unknown)]


def _slug(tree: Path, root: Path) -> str:
    return case_name("-".join(tree.relative_to(root).parts))


def _main_series(found: Sequence[Series]) -> dict[str, Series]:
    """Of each scan the series that is read: a complete one, of the later release."""
    ranked = sorted(found, key=lambda one: (one.complete, one.release, str(one.tree), one.name))
    return {series.identity: series for series in ranked}


def _patient(series: Series, graded: Mapping[str, GradesOfScan]) -> str:
    """The subject by its name; where that is the scan's own number, by the table of grades, if it knows better."""
    given = graded[series.identity].patient if series.identity in graded else ""
    return given if given and series.subject == series.identity else series.subject


def _home_parts(series: Sequence[Series], patients: Mapping[Series, str]) -> dict[str, tuple[int, str]]:
    """Of each patient the latest release it is in, and its part there; "" where that release has it in several."""
    latest: dict[str, int] = defaultdict(int)
    for one in series:
        latest[patients[one]] = max(latest[patients[one]], one.release)
    parts: dict[str, set[str]] = defaultdict(set)
    for one in series:
        if one.release == latest[patients[one]]:
            parts[patients[one]].add(one.part)
    return {name: (latest[name], next(iter(of)) if len(of) == 1 else "") for name, of in parts.items()}


def _source(series: Series) -> Path:
    """The CT, or any file of the scan where it has none."""
    return next(iter(series.files.get("ct", series.all_files())))


def _scan(
    name: str,
    series: Series,
    found: Sequence[Series],
    main: Series,
    patient: str,
    home: Mapping[str, tuple[int, str]],
    graded: Mapping[str, GradesOfScan],
    settings: _Settings,
) -> Scan:
    source = str(_source(series))
    files = series.all_files()
    if series.tree != main.tree:
        why = f"{source}: the same scan as {_source(main)}, which is read instead"
        return Scan(name, patient, source, files, _raising(ExcludedError(why)), series.part, listed=why)
    if not series.part and any(one.part for one in found):
        why = f"{series.tree}: folder of no part, expected one whose name ends in {', '.join(sorted(set(PARTS)))}"
        wrong = AnnotationError(f"{why} (holds {Path(source).name})")
        return Scan(name, patient, source, files, _raising(wrong), listed=why)
    release, part = home[patient]
    split, remarks = series.part, []
    if part and part != split and release != series.release:
        remarks = [
            f"{series.tree.name} is of part {split}, but the patient is in {part} of the later release: in no part"
        ]
        split = ""
    mine = graded.get(series.identity, GradesOfScan())

    def read() -> tuple[Image, pd.DataFrame]:
        return _read(name, series, mine, remarks, settings)

    return Scan(name, patient, source, files, read, split, listed=repr((patient, split, remarks, mine)))


def _without_scan(name: str, graded: GradesOfScan, settings: _Settings, root: Path) -> Scan:
    """The row of a scan that only the table of grades knows."""
    why = ExcludedError(f"{settings.grades}: grades of {name}, of which {root} holds no scan, expected its CT and mask")
    return Scan(case_name(name), graded.patient or name, str(settings.grades), (), _raising(why), listed=str(why))


def _raising(error: Exception) -> Read:
    def read() -> NoReturn:
        raise error

    return read


def _read(
    name: str, series: Series, graded: GradesOfScan, remarks: Sequence[str], settings: _Settings
) -> tuple[Image, pd.DataFrame]:
    """The image of a scan and its annotation; raises a VertfracError that names the file."""
    if graded.faults:
        raise AnnotationError(graded.faults[0])
    ct = _only(series, "ct", "CT scan")
    notes: list[str] = []
    if "keypoints" in series.files:
        image, annotations = read_image(ct), _given_keypoints(name, _only(series, "keypoints", "table"))
    else:
        image, annotations, notes = _from_mask(name, ct, series, settings)
    annotations["grade"] = annotations["level"].map(graded.grades).astype("Int64").fillna(annotations["grade"])
    lost = [level for level in graded.grades if level not in set(annotations["level"])]
    if lost:
        notes = [*notes, f"graded, but without keypoints: {in_words(lost, graded.grades)}"]
    return replace(image, warnings=(*image.warnings, *remarks, *notes)), annotations


def _only(series: Series, kind: str, what: str) -> Path:
    paths = series.files.get(kind, [])
    if not paths:
        there = ", ".join(path.name for path in series.all_files())
        raise AnnotationError(f"{_source(series)}: no {what} of {series.name} (found {there}), expected one")
    if len(paths) > 1:
        raise AnnotationError(f"{paths[0]}: {paths[1].name} is a second {what} of {series.name}, expected one")
    return paths[0]


def _given_keypoints(name: str, path: Path) -> pd.DataFrame:
    """Annotations that come as keypoints, which need no mask."""
    rows = tables.read_table(path, tables.ANNOTATIONS)
    others = sorted(set(rows["case"].dropna()) - {name})
    if others or rows["case"].isna().any():
        found = others[0] if others else "a row without case"
        raise AnnotationError(f"{path}: found {found} in column case, expected {name}")
    return rows.fillna({"expert": tables.DEFAULT_EXPERT})


def _from_mask(name: str, ct: Path, series: Series, settings: _Settings) -> tuple[Image, pd.DataFrame, list[str]]:
    """Image, annotation and remarks of a scan whose keypoints come from its mask."""
    path = _only(series, "mask", "vertebra mask")
    mask = _canonical_labels(path)
    parts = None
    if "subregions" in series.files:
        parts_path = _only(series, "subregions", "subregion mask")
        parts = _canonical_labels(parts_path)
        check_same_grid(parts_path, parts.grid, path, mask.grid)
    image = read_image(ct)
    check_same_grid(path, mask.grid, ct, image.grid)
    notes = [
        note
        for file in series.files.get("centroids", [])
        for note in check_centroids(read_centroids(file), mask.hu, mask.grid, settings.centroid_mm)
    ]
    try:
        vertebrae = measure_mask(mask.hu, mask.grid, None if parts is None else parts.hu)
    except AnnotationError as error:
        where, _, what = str(error).partition(": ")
        raise AnnotationError(f"{parts.source if parts and where == 'subregions' else path}: {what}") from error
    vertebrae = [_inside(v, mask.grid) for v in vertebrae]
    kept = [v for v in vertebrae if v.status == "ok" and (v.quality != "doubtful" or settings.keep_doubtful)]
    left_out = [_why(v) for v in vertebrae if v not in kept]
    if len(kept) < 2:
        raise ExcludedError(
            f"{path}: keypoints of {len(kept)} of {len(vertebrae)} vertebrae, expected at least two, between which the "
            f"curve runs; {'; '.join(left_out)}"
        )
    notes += [f"no keypoints of {why}" for why in left_out]
    notes += [f"doubtful keypoints of {_why(v)}" for v in kept if v.quality == "doubtful"]
    return image, tables.ANNOTATIONS.frame(_rows(name, kept)), notes


def _canonical_labels(path: Path) -> Image:
    """A label map with its index axes closest to R, A, S, as CT scans are read."""
    read = read_labels(path)
    return canonical(Image(read.labels, read.grid, read.source))


def _inside(vertebra: MaskVertebra, grid: Grid) -> MaskVertebra:
    """The vertebra, cut if a corner, which fits prolong beyond the mask, lies outside the image."""
    if vertebra.status != "ok" or (grid.distance_inside_mm(vertebra.keypoints) >= 0).all():
        return vertebra
    return replace(vertebra, status="cut", quality="", reason="a keypoint lies outside the image")


def _why(vertebra: MaskVertebra) -> str:
    reason = NO_BODY.get(vertebra.level) or vertebra.reason.replace("; ", ", ")  # "; " parts the remarks of a case
    return f"{vertebra.level} ({reason})"


def _rows(name: str, vertebrae: Sequence[MaskVertebra]) -> list[dict[str, object]]:
    return [
        {
            "case": name, "expert": EXPERT, "vertebra": number, "level": vertebra.level,
            **tables.keypoint_values(vertebra.keypoints),
        }
        for number, vertebra in enumerate(vertebrae, start=1)
    ]  # fmt: skip
