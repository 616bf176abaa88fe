"""Laws of a line of JSON: it fits the published schema, its numbers are the table's, and what is not finite is null."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from vertfrac import tables
from vertfrac.cli import main
from vertfrac.geometry.keypoints import KEYPOINTS
from vertfrac.report.scan_json import json_schema, scan_line

PUBLISHED = Path(__file__).parents[2] / "docs" / "predict.schema.json"
OK: dict[str, Any] = {
    "case": "a", "source": "/a b/'ü'.nii", "status": "ok", "reason": "", "sentence": "1 vertebra measured.",
    "worst_grade": 2, "smallest_genant": 0.7, "seconds": 1.5,
}  # fmt: skip
FAILED = {**OK, "status": "failed", "reason": "no \"spine\"", "worst_grade": None, "smallest_genant": None}  # fmt: skip


def vertebrae(points: np.ndarray, **changes: Any) -> pd.DataFrame:
    values = {
        "system": "s", "case": "a", "vertebra": 1, "level": "", "status": "ok", "score": 0.9, "genant": 0.7, "grade": 2,
        "height_anterior_mm": 14.0, "height_middle_mm": 17.0, "height_posterior_mm": 20.0, "spread_mm": 0.1,
        "center_x": 1.0, "center_y": 2.0, "center_z": 3.0,
    }  # fmt: skip
    return tables.VERTEBRAE.frame([{**values, **tables.keypoint_values(points), **changes}])


def line(row: dict[str, Any], found: pd.DataFrame, **more: Any) -> dict[str, Any]:
    text = scan_line(row, found, **{"warnings": [], "stages": {}, "folder": None, **more})
    assert "\n" not in text
    assert text.isascii()
    value: dict[str, Any] = json.loads(text)
    jsonschema.validate(value, json_schema())
    return value


def test_the_documented_schema_is_that_of_the_code() -> None:
    printed = CliRunner().invoke(main, ["predict-schema"]).output
    assert json.loads(printed) == json_schema()
    assert printed == PUBLISHED.read_text(encoding="utf-8")


def test_the_numbers_are_the_tables() -> None:
    points = np.random.default_rng(1).normal(size=(6, 3)) * 100
    found = vertebrae(points)
    value = line(OK, found, warnings=["a; b", "c"], stages={"read": 0.5}, folder=Path("out/a"))
    (vertebra,) = value["vertebrae"]
    np.testing.assert_array_equal([vertebra["keypoints"][name] for name in KEYPOINTS], points)
    assert vertebra["heights_mm"] == {"anterior": 14.0, "middle": 17.0, "posterior": 20.0}
    assert (vertebra["genant"], vertebra["grade"], vertebra["center"]) == (0.7, 2, [1.0, 2.0, 3.0])
    assert vertebra["level"] is None
    assert (value["warnings"], value["stages"], value["folder"]) == (["a; b", "c"], {"read": 0.5}, "out/a")
    assert value["source"] == "/a b/'ü'.nii"


def test_levels_doubt_and_the_second_opinion_are_the_tables() -> None:
    points = np.random.default_rng(1).normal(size=(6, 3))
    named = {"level": "T12", "level_probability": 0.75, "level_runner_up": "T11", "genant_level": 0.8, "grade_level": 1}
    value = line(OK, vertebrae(points, **named))
    (vertebra,) = value["vertebrae"]
    assert {key: vertebra[key] for key in named} == named
    assert value["levels"] == {"first": "T12", "last": "T12", "in_doubt": True}
    value = line(OK, vertebrae(points))
    assert {value["vertebrae"][0][key] for key in named} == {None}
    assert value["levels"] is None
    s1 = line(OK, vertebrae(points, level="S1", status="sacrum", grade=None))
    assert s1["vertebrae"][0]["status"] == "sacrum"


def test_a_failed_scan_has_a_line_too() -> None:
    value = line(FAILED, tables.VERTEBRAE.frame([]))
    assert (value["status"], value["reason"]) == ("failed", 'no "spine"')
    assert (value["vertebrae"], value["worst_grade"], value["folder"]) == ([], None, None)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_null(value: float) -> None:
    points = np.full((6, 3), value)
    found = vertebrae(points, status="not_measured", grade=None, genant=np.nan, height_middle_mm=value, center_x=value)
    (vertebra,) = line({**OK, "worst_grade": None, "smallest_genant": None}, found)["vertebrae"]
    assert vertebra["keypoints"]["middle_superior"] == [None, None, None]
    assert vertebra["heights_mm"]["middle"] is None
    assert (vertebra["genant"], vertebra["grade"], vertebra["center"][0]) == (None, None, None)
