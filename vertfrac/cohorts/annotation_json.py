"""Our own JSON form of an annotation: one file per case, named keypoints in world RAS mm.

The pydantic models here are the definition; ``docs/annotation.schema.json`` is exported from them
(``vertfrac cohort schema``), for other programs to check what they write.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import pandas as pd
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from vertfrac import tables
from vertfrac.cohorts.levels import LEVELS, parse_level
from vertfrac.errors import AnnotationError, TableError
from vertfrac.files import read_json, write_json
from vertfrac.geometry.grid import Grid
from vertfrac.geometry.keypoints import KEYPOINTS

FORMAT = "vertfrac-annotation/1"


def _known_level(text: str) -> str:
    level = parse_level(text)
    if level is None:
        raise ValueError(f"expected a level from {LEVELS[0]} to {LEVELS[-1]}, found {text!r}")
    return level


Point = Annotated[
    tuple[FiniteFloat, FiniteFloat, FiniteFloat], Field(description="x to the right, y to anterior, z to superior, mm")
]
Level = Annotated[
    str,
    Field(
        pattern=r"^(C[1-7]|(T|Th|D)([1-9]|1[0-3])|L[1-6])$",
        description="anatomical level, such as C7, T12 (Th12 and D12 are taken too) or L1",
    ),
    AfterValidator(_known_level),
]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Keypoints(_Part):
    """The ends of the anterior, the middle and the posterior height of a vertebral body, all in one plane."""

    anterior_superior: Point
    anterior_inferior: Point
    middle_superior: Point
    middle_inferior: Point
    posterior_superior: Point
    posterior_inferior: Point


class Vertebra(_Part):
    """One vertebra as one expert marked it."""

    level: Level | None = Field(None, description="left out or null where unknown")
    measurable: bool = Field(
        True, description="false: the expert says that it cannot be measured; its keypoints then say where it is"
    )
    keypoints: Keypoints


Count = Annotated[int, Field(ge=1)]
Length = Annotated[FiniteFloat, Field(gt=0)]


class ScanFacts(_Part):
    """What tells the annotated scan from another one of the same name. Axes: right, anterior, superior."""

    shape: tuple[Count, Count, Count] = Field(description="voxels along each axis")
    spacing_mm: tuple[Length, Length, Length] = Field(description="distance of neighbouring voxels along each axis")


class Annotation(_Part):
    """The annotation of one CT scan by one expert or several."""

    format: Literal["vertfrac-annotation/1"] = Field(description="this format and its version")
    case: str = Field(min_length=1, description="name of the case")
    frame: Literal["RAS"] = Field("RAS", description="of all points: world coordinates to right, anterior, superior")
    unit: Literal["mm"] = Field("mm", description="of all points")
    scan: ScanFacts | None = Field(None, description="of the scan that was annotated; left out or null where unknown")
    experts: dict[Annotated[str, Field(min_length=1)], list[Vertebra]] = Field(
        min_length=1, description="expert -> the vertebrae that this expert marked, in any order"
    )


def json_schema() -> dict[str, Any]:
    """The JSON schema of a file, as published in ``docs/annotation.schema.json``."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Annotation.model_json_schema()}


class ReadAnnotation(NamedTuple):
    """What was read of the annotation of a case: rows of ANNOTATIONS, and what was left out knowingly, in sentences."""

    rows: pd.DataFrame
    left_out: tuple[str, ...] = ()


def read_annotation(path: Path, case: str, grid: Grid | None = None) -> ReadAnnotation:
    """Read one file; AnnotationError names it, what was found and what was expected.

    Vertebrae that an expert says cannot be measured are left out. grid : of the case's scan; a file that says that it
    is of a scan of another size or spacing is refused.
    """
    annotation = _read(path, case)
    if grid is not None and annotation.scan is not None:
        _check_scan(path, annotation.scan, grid)
    left_out = tuple(
        f"{path.name}: {expert}: {vertebra.level or f'vertebra {number}'} cannot be measured and is left out"
        for expert, vertebrae in annotation.experts.items()
        for number, vertebra in enumerate(vertebrae, start=1)
        if not vertebra.measurable
    )
    return ReadAnnotation(_rows(annotation), left_out)


def _check_scan(path: Path, facts: ScanFacts, grid: Grid) -> None:
    found = (*facts.shape, *facts.spacing_mm)
    expected = (*grid.shape, *grid.spacing_mm.tolist())
    if any(abs(a - b) > 1e-3 * abs(b) for a, b in zip(found, expected, strict=True)):
        raise AnnotationError(
            f"{path}: is of a scan of {_size(facts.shape, facts.spacing_mm)}, "
            f"expected one of {_size(grid.shape, grid.spacing_mm)}"
        )


def _size(shape: Iterable[int], spacing_mm: Iterable[float]) -> str:
    return f"{' x '.join(map(str, shape))} voxels of {' x '.join(f'{mm:.2f}' for mm in spacing_mm)} mm"


def _read(path: Path, case: str) -> Annotation:
    try:
        content = read_json(path)
    except TableError as error:
        raise AnnotationError(str(error)) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = f"format {content.get('format')!r}" if isinstance(content, dict) else f"a {type(content).__name__}"
        raise AnnotationError(f'{path}: found {found}, expected an object with "format": "{FORMAT}"')
    try:
        annotation = Annotation.model_validate(content)
    except ValidationError as error:
        raise AnnotationError(f"{path}: {_first_problem(error)}") from error
    if annotation.case != case:
        raise AnnotationError(f"{path}: holds the annotation of case {annotation.case!r}, expected that of {case!r}")
    return annotation


def _rows(annotation: Annotation) -> pd.DataFrame:
    return annotation_rows(
        annotation.case,
        [
            (expert, vertebra.level or "", [getattr(vertebra.keypoints, name) for name in KEYPOINTS])
            for expert, vertebrae in annotation.experts.items()
            for vertebra in vertebrae
            if vertebra.measurable
        ],
    )


def annotation_rows(case: str, vertebrae: Iterable[tuple[str, str, Any]]) -> pd.DataFrame:
    """Rows of ANNOTATIONS, numbered from the superior end for each expert.

    vertebrae : of each the expert, the level ("" if unknown) and the keypoints (6, 3), world RAS mm. Levels decide the
    order where all have one, since a kyphosis may put L1 beside T12; else the height of the body centre.
    """
    by_expert: dict[str, list[tuple[str, Any]]] = {}
    for expert, level, keypoints in vertebrae:
        by_expert.setdefault(expert, []).append((level, keypoints))
    rows: list[dict[str, Any]] = []
    for expert, found in by_expert.items():
        if all(level for level, _ in found):
            found.sort(key=lambda item: LEVELS.index(item[0]))
        else:
            found.sort(key=lambda item: -(item[1][2][2] + item[1][3][2]))
        for number, (level, keypoints) in enumerate(found, start=1):
            row = {"case": case, "expert": expert, "vertebra": number, "level": level}
            rows.append({**row, **tables.keypoint_values(keypoints)})
    return tables.ANNOTATIONS.frame(rows)


def write_annotation(path: Path | str, annotations: pd.DataFrame) -> None:
    """Write rows of ANNOTATIONS of one case; AnnotationError if they are of several cases or of none."""
    cases = list(annotations["case"].unique())
    if len(cases) != 1:
        raise AnnotationError(f"{path}: rows of {len(cases)} cases, expected those of one")
    experts: dict[str, list[dict[str, Any]]] = {}
    for (expert, level), points in zip(
        annotations[["expert", "level"]].itertuples(index=False), tables.keypoints_of(annotations), strict=True
    ):
        vertebra = {} if pd.isna(level) or not level else {"level": level}
        keypoints = dict(zip(KEYPOINTS, points.tolist(), strict=True))
        experts.setdefault(str(expert), []).append({**vertebra, "keypoints": keypoints})
    content = {"format": FORMAT, "case": cases[0], "frame": "RAS", "unit": "mm", "experts": experts}
    try:
        Annotation.model_validate(content)
    except ValidationError as error:
        raise AnnotationError(f"{path}: cannot be written, {_first_problem(error)}") from error
    write_json(path, content)


def _first_problem(error: ValidationError) -> str:
    """Path of the first wrong value, what is wrong with it, and how many more there are."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    found = json.dumps(first["input"], default=str)
    shown = "" if first["type"] in ("missing", "value_error") else f", found {found[:60]}"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{where}: {message}{shown}{more}"
