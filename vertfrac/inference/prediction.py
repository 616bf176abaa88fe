"""What a model says about one scan, as a frozen value with the same content as the files of ``vertfrac predict``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vertfrac import tables
from vertfrac.errors import VertfracError
from vertfrac.genant import GRADES
from vertfrac.geometry.keypoints import HEIGHTS
from vertfrac.imaging import Image
from vertfrac.inference.predict import write_folder
from vertfrac.inference.scan import ScanResult, analyse, worst
from vertfrac.inference.weights import Model
from vertfrac.report.levels import text_of
from vertfrac.report.sentence import scan_sentence

Floats = NDArray[np.float64]
Status = Literal["ok", "partial", "low_score", "sacrum", "not_measured"]


class Heights(NamedTuple):
    """The three heights of a vertebral body, measured in 3D, mm."""

    anterior: float
    middle: float
    posterior: float


@dataclass(frozen=True, eq=False)
class Vertebra:
    """One vertebra of a scan.

    number : running number from the superior end, from 1.
    level : anatomical level such as L1; None while unknown.
    level_probability : of that level, given the whole column; None without one.
    level_runner_up : the second likeliest level, given the whole column, where it is near, so that the level is in
        doubt; else None.
    status : "ok"; "partial": reaches the edge of the scan; "low_score": seen with too little certainty;
        "sacrum": named S1, which is not graded; "not_measured": found, but its keypoints make no vertebra.
    score : objectness of the detection, 0 to 1.
    keypoints : (6, 3), read-only, world RAS mm, in the order of ``vertfrac.geometry.keypoints.KEYPOINTS``.
    heights : mm.
    genant : Genant index G = min(height) / max(height); None if the status is not_measured.
    grade : Genant grade 0 to 3 by G; None unless the status is ok.
    genant_level : second opinion on G, of the heights over those that are normal at the level; None without a level.
    grade_level : Genant grade by genant_level; None unless the status is ok.
    center : (3,), read-only, world RAS mm, midpoint of the middle height.
    spread_mm : disagreement of the keypoints among the candidates and models averaged.
    """

    number: int
    level: str | None
    status: Status
    score: float
    keypoints: Floats
    heights: Heights
    genant: float | None
    grade: int | None
    center: Floats
    spread_mm: float
    level_probability: float | None = None
    level_runner_up: str | None = None
    genant_level: float | None = None
    grade_level: int | None = None

    @property
    def grade_name(self) -> str | None:
        """normal, mild, moderate or severe; None where there is no grade."""
        return None if self.grade is None else GRADES[self.grade]


@dataclass(frozen=True, eq=False, repr=False)
class Prediction:
    """What a model says about one scan.

    case : its name. source : the file or folder it was read from, or what else it came from. image : the scan, as the
    model saw it. result : what the stages found. model : who found it. read_seconds : what it took to read the scan.
    """

    case: str
    source: str
    image: Image
    result: ScanResult
    model: Model
    read_seconds: float

    def __repr__(self) -> str:
        return f"<Prediction of {self.case}: {self.sentence}>"

    @cached_property
    def vertebrae(self) -> tuple[Vertebra, ...]:
        """All vertebrae that were found, superior first, graded or not."""
        rows: list[dict[Any, Any]] = self.result.vertebrae.to_dict("records")
        points = tables.keypoints_of(self.result.vertebrae)
        return tuple(_vertebra(row, keypoints) for row, keypoints in zip(rows, points, strict=True))

    @cached_property
    def curve(self) -> Floats:
        """The spine's curve, (n, 3), read-only, world RAS mm, superior end first, about 1 mm apart."""
        return self.result.spine.curve.points_world

    @cached_property
    def curve_probability(self) -> Floats:
        """Probability that the axial plane at each point of the curve holds annotatable spine, (n,), read-only."""
        return _read_only(self.result.spine.probability)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is unusual about the scan or was not graded, one line each."""
        return self.result.warnings

    @cached_property
    def seconds(self) -> Mapping[str, float]:
        """Wall time by stage: read, resample, localize, straighten, detect, measure."""
        return MappingProxyType({"read": self.read_seconds, **self.result.seconds})

    @property
    def sentence(self) -> str:
        """What was found, as one sentence in plain words."""
        return scan_sentence(self.result.vertebrae)

    @property
    def worst_grade(self) -> int | None:
        """The largest Genant grade of the vertebrae with status ok; None where there is no such vertebra."""
        grade: int | None = worst(self.result.vertebrae)["worst_grade"]
        return grade

    @property
    def smallest_genant(self) -> float | None:
        """The smallest Genant index of the vertebrae with status ok; None where there is no such vertebra."""
        index: float | None = worst(self.result.vertebrae)["smallest_genant"]
        return index

    @property
    def table(self) -> pd.DataFrame:
        """One row per vertebra, the columns of the table VERTEBRAE, as in ``vertebrae.parquet``; new each time."""
        return tables.VERTEBRAE.frame(self.result.vertebrae.assign(case=self.case, system=self.model.name))

    def save(self, folder: str | PathLike[str]) -> Path:
        """Write the folder that ``vertfrac predict`` writes of a scan, all of it or nothing; returns its path.

        Replaces an earlier result. Raises ConfigError if the folder holds anything else, OSError where it cannot be
        written.
        """
        out = Path(folder)
        found = self.result.vertebrae.assign(case=self.case, system=self.model.name)
        write_folder(out, self.case, Path(self.source), self.image, self.result, found, self.model, self.read_seconds)
        return out


def predict_image(image: Image, model: Model, *, case: str, source: str, read_seconds: float) -> Prediction:
    """Measure every vertebra of a canonical image. Raises ImageError and NoSpineError that name the source."""
    try:
        result = analyse(image, model)
    except VertfracError as error:
        raise type(error)(f"{source}: {error}") from error
    return Prediction(case, source, image, result, model, round(read_seconds, 4))


def _vertebra(row: dict[Any, Any], keypoints: Floats) -> Vertebra:
    return Vertebra(
        number=int(row["vertebra"]),
        level=text_of(row["level"]) or None,
        status=row["status"],
        score=float(row["score"]),
        keypoints=_read_only(keypoints),
        heights=Heights(*(float(row[f"height_{name}_mm"]) for name in HEIGHTS)),
        genant=_known(row["genant"]),
        grade=None if pd.isna(row["grade"]) else int(row["grade"]),
        center=_read_only([row[f"center_{axis}"] for axis in "xyz"]),
        spread_mm=float(row["spread_mm"]),
        level_probability=_known(row["level_probability"]),
        level_runner_up=text_of(row["level_runner_up"]) or None,
        genant_level=_known(row["genant_level"]),
        grade_level=None if pd.isna(row["grade_level"]) else int(row["grade_level"]),
    )


def _known(value: Any) -> float | None:
    return None if pd.isna(value) else float(value)


def _read_only(values: Any) -> Floats:
    array = np.array(values, dtype=np.float64)
    array.setflags(write=False)
    return array
