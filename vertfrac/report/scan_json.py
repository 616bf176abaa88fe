"""One scan as one line of JSON: what ``vertfrac predict --json`` prints.

The pydantic models here are the definition; ``docs/predict.schema.json`` is exported from them
(``vertfrac predict-schema``), for other programs to check what they read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from vertfrac import tables
from vertfrac.geometry.keypoints import HEIGHTS, KEYPOINTS
from vertfrac.report.levels import named_levels, text_of

FORMAT = "vertfrac-scan/1"

Coordinate = FiniteFloat | None
Point = Annotated[
    tuple[Coordinate, Coordinate, Coordinate],
    Field(description="x to the right, y to anterior, z to superior, mm; null where it cannot be told"),
]
Number = FiniteFloat | None
Grade = Annotated[int, Field(ge=0, le=3)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Heights(_Part):
    """The three heights of a vertebral body, measured in 3D, mm; null where one cannot be told."""

    anterior: Number
    middle: Number
    posterior: Number


class Keypoints(_Part):
    """The ends of the anterior, the middle and the posterior height of a vertebral body."""

    anterior_superior: Point
    anterior_inferior: Point
    middle_superior: Point
    middle_inferior: Point
    posterior_superior: Point
    posterior_inferior: Point


class VertebraLine(_Part):
    """One vertebra that was found, graded or not."""

    system: str = Field(description="name of the model that found it")
    vertebra: int = Field(ge=1, description="running number from the superior end, from 1")
    level: str | None = Field(description="anatomical level such as L1, null while unknown")
    level_probability: Annotated[float, Field(ge=0, le=1)] | None = Field(
        description="probability of that level given the whole column; null without one"
    )
    level_runner_up: str | None = Field(
        description="the second likeliest level, given the whole column, where it is near: the level is in "
        "doubt; else null"
    )
    status: Literal["ok", "partial", "low_score", "sacrum", "not_measured"] = Field(
        description="ok; partial: reaches the edge of the scan; low_score: seen with too little certainty; "
        "sacrum: named S1, which is not graded; not_measured: found, but its keypoints make no vertebra"
    )
    score: float = Field(ge=0, le=1, description="objectness of the detection")
    genant: Number = Field(description="Genant index G = min(height) / max(height); null if not_measured")
    grade: Grade | None = Field(description="Genant grade by G; null unless the status is ok")
    genant_level: Number = Field(
        description="second opinion on G: of the heights over those that are normal at the level; null without a level"
    )
    grade_level: Grade | None = Field(description="Genant grade by genant_level; null unless the status is ok")
    heights_mm: Heights
    center: Point
    spread_mm: Number = Field(description="disagreement of the keypoints among the candidates and models averaged, mm")
    keypoints: Keypoints


class Levels(_Part):
    """Which levels a scan was named to show."""

    first: str = Field(description="the most superior one")
    last: str = Field(description="the most inferior one")
    in_doubt: bool = Field(description="whether any of its levels is in doubt")


class ScanLine(_Part):
    """One scan, measured or failed. All points are in world coordinates, RAS, mm."""

    format: Literal["vertfrac-scan/1"] = Field(description="this format and its version")
    case: str = Field(min_length=1, description="name of the scan, unique in its call")
    source: str = Field(description="the file or folder that was read")
    status: Literal["ok", "failed"]
    reason: str = Field(description="why the scan failed; empty if it did not")
    sentence: str = Field(description="what was found, or why nothing was, in plain words")
    worst_grade: Grade | None = Field(
        description="largest grade of the vertebrae with status ok, null if there is none"
    )
    smallest_genant: Number = Field(description="smallest G of the vertebrae with status ok, null if there is none")
    levels: Levels | None = Field(description="first and last named level; null if the model names none")
    vertebrae: list[VertebraLine] = Field(description="superior first")
    warnings: list[str] = Field(description="what is unusual about the scan or was not graded")
    seconds: float = Field(ge=0, description="wall time")
    stages: dict[str, float] = Field(description="stage -> seconds; empty if the scan failed")
    folder: str | None = Field(description="folder of the scan's own files; null if the scan failed")


def json_schema() -> dict[str, Any]:
    """The JSON schema of a line, as published in ``docs/predict.schema.json``."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **ScanLine.model_json_schema()}


def scan_line(
    row: Mapping[str, Any],
    vertebrae: pd.DataFrame,
    *,
    warnings: Sequence[str],
    stages: Mapping[str, float],
    folder: Path | None,
) -> str:
    """One scan as one line of JSON in ASCII, which any terminal or pipe takes, without a line break at its end.

    row : of the table SCAN_RESULTS. vertebrae : its rows of the table VERTEBRAE. stages : seconds by stage. folder :
    where its files are.
    """
    rows: list[dict[Any, Any]] = vertebrae.to_dict("records")
    points = tables.keypoints_of(vertebrae).tolist()
    named = named_levels(vertebrae)
    line = ScanLine(
        format=FORMAT,
        **{key: row[key] for key in ("case", "source", "status", "reason", "sentence", "seconds")},
        worst_grade=row.get("worst_grade"),
        smallest_genant=row.get("smallest_genant"),
        levels=None if named is None else Levels(**named._asdict()),
        vertebrae=[_vertebra(values, keypoints) for values, keypoints in zip(rows, points, strict=True)],
        warnings=list(warnings),
        stages=dict(stages),
        folder=None if folder is None else str(folder),
    )
    return json.dumps(line.model_dump(mode="json"), allow_nan=False)


def _vertebra(row: Mapping[Any, Any], keypoints: list[list[float]]) -> VertebraLine:
    return VertebraLine(
        system=row["system"],
        vertebra=row["vertebra"],
        level=text_of(row["level"]) or None,
        level_probability=_number(row["level_probability"]),
        level_runner_up=text_of(row["level_runner_up"]) or None,
        status=row["status"],
        score=row["score"],
        genant=_number(row["genant"]),
        grade=None if pd.isna(row["grade"]) else row["grade"],
        genant_level=_number(row["genant_level"]),
        grade_level=None if pd.isna(row["grade_level"]) else row["grade_level"],
        heights_mm=Heights(**{name: _number(row[f"height_{name}_mm"]) for name in HEIGHTS}),
        center=_point([row[f"center_{axis}"] for axis in "xyz"]),
        spread_mm=_number(row["spread_mm"]),
        keypoints=Keypoints(**{name: _point(point) for name, point in zip(KEYPOINTS, keypoints, strict=True)}),
    )


def _number(value: Any) -> float | None:
    return None if pd.isna(value) or not math.isfinite(value) else float(value)


def _point(values: list[Any]) -> tuple[float | None, float | None, float | None]:
    x, y, z = (_number(value) for value in values)
    return x, y, z
