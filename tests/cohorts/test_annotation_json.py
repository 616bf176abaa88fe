"""Laws of our own JSON form: written and read back it says the same, and what is wrong with a file is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from vertfrac import tables
from vertfrac.cohorts.annotation_json import (
    FORMAT,
    annotation_rows,
    json_schema,
    read_annotation,
    write_annotation,
)
from vertfrac.cohorts.levels import LEVELS, parse_level, place
from vertfrac.errors import AnnotationError
from vertfrac.geometry.grid import Grid
from vertfrac.geometry.keypoints import KEYPOINTS

Floats = NDArray[np.float64]
PUBLISHED = Path(__file__).parents[2] / "docs" / "annotation.schema.json"


@pytest.fixture
def rows(spine_keypoints: Callable[..., Floats]) -> pd.DataFrame:
    """Two experts, one without levels, who marked different vertebrae."""
    keypoints = spine_keypoints(4, heights=[20, 17.5, 22], bend_mm=7.0) + 1 / 3
    marks = [("a", level, points) for level, points in zip(("T11", "T12", "L1", "L2"), keypoints, strict=True)]
    return annotation_rows("c", [*marks, *(("b", "", points) for points in keypoints[1:])])


def _content(**changes: Any) -> dict[str, Any]:
    points = {name: [0.0, k // 2, -k % 2] for k, name in enumerate(KEYPOINTS)}
    content = {"format": FORMAT, "case": "c", "experts": {"a": [{"level": "L1", "keypoints": points}]}}
    return {**content, **changes}


def test_written_and_read_back_is_the_same(rows: pd.DataFrame, tmp_path: Path) -> None:
    write_annotation(tmp_path / "c.json", rows)
    pd.testing.assert_frame_equal(read_annotation(tmp_path / "c.json", "c").rows, rows)


def test_the_published_schema_is_that_of_the_models() -> None:
    assert json.loads(PUBLISHED.read_text()) == json_schema()


def test_what_is_written_is_valid_by_the_published_schema(rows: pd.DataFrame, tmp_path: Path) -> None:
    write_annotation(tmp_path / "c.json", rows)
    validator = jsonschema.Draft202012Validator(json.loads(PUBLISHED.read_text()))
    content = json.loads((tmp_path / "c.json").read_text())
    validator.validate(content)
    del content["experts"]["a"][0]["keypoints"]["middle_superior"]
    assert not validator.is_valid(content)


def test_vertebrae_come_from_above_by_level_or_else_by_height(spine_keypoints: Callable[..., Floats]) -> None:
    upper, lower = spine_keypoints(2)
    named = annotation_rows("c", [("a", "L1", upper), ("a", "T12", lower)])
    assert named["level"].tolist() == ["T12", "L1"]
    half_named = annotation_rows("c", [("a", "", lower), ("a", "T12", upper)])
    assert half_named["level"].tolist() == ["T12", ""]
    assert half_named["vertebra"].tolist() == [1, 2]


@pytest.mark.parametrize(("spelled", "level"), [("Th7", "T7"), ("D12", "T12"), ("L1", "L1"), ("C07", None)])
def test_levels_may_be_spelled_in_other_ways(tmp_path: Path, spelled: str, level: str | None) -> None:
    content = _content()
    content["experts"]["a"][0]["level"] = spelled
    (tmp_path / "c.json").write_text(json.dumps(content))
    if level is None:
        with pytest.raises(AnnotationError, match=r"c\.json: experts\.a\.0\.level: .*C07"):
            read_annotation(tmp_path / "c.json", "c")
    else:
        assert read_annotation(tmp_path / "c.json", "c").rows["level"].tolist() == [level]


def test_every_level_is_parsed_and_lies_below_the_one_before() -> None:
    assert [parse_level(level) for level in LEVELS] == list(LEVELS)
    assert (np.diff([place(level) for level in LEVELS if level not in ("T13", "L6")]) == 1).all()
    assert place("T12") < place("T13") < place("L1")
    assert place("L5") < place("L6") < place("S1") == place("L5") + 1
    assert [parse_level(text) for text in ("S1", "C8", "T14", "L0", "", "7")] == [None] * 6


def test_a_vertebra_that_cannot_be_measured_is_left_out_and_named(tmp_path: Path) -> None:
    content = _content()
    (one,) = content["experts"]["a"]
    content["experts"]["a"] = [
        one,
        {**one, "level": "L2", "measurable": False},
        {**one, "level": None, "measurable": False},
    ]
    path = tmp_path / "c.json"
    path.write_text(json.dumps(content))
    assert read_annotation(path, "c").rows["level"].tolist() == ["L1"]
    assert read_annotation(path, "c").left_out == (
        "c.json: a: L2 cannot be measured and is left out",
        "c.json: a: vertebra 3 cannot be measured and is left out",
    )
    jsonschema.Draft202012Validator(json.loads(PUBLISHED.read_text())).validate(content)


def test_an_annotation_of_another_scan_of_the_same_name_is_refused(tmp_path: Path) -> None:
    grid = Grid((40, 50, 80), np.diag([2.0, 2.0, 1.5, 1.0]))
    path = tmp_path / "c.json"
    for scan, fits in (
        (None, True),
        ({"shape": [40, 50, 80], "spacing_mm": [2, 2, 1.5]}, True),
        ({"shape": [40, 50, 81], "spacing_mm": [2, 2, 1.5]}, False),
        ({"shape": [40, 50, 80], "spacing_mm": [2, 2, 3]}, False),
    ):
        path.write_text(json.dumps(_content(scan=scan)))
        if fits:
            read_annotation(path, "c", grid)
        else:
            with pytest.raises(AnnotationError, match=r"c\.json: is of a scan of .*, expected one of 40 x 50 x 80 vox"):
                read_annotation(path, "c", grid)


def _without(key: str) -> dict[str, Any]:
    content = _content()
    del content["experts"]["a"][0]["keypoints"][key]
    return content


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "not valid JSON"),
        ("[1, 2", "not valid JSON"),
        ([], "found a list"),
        ({}, "found format None"),
        ({"Folder": "c", "Annotation": {}}, "found format None"),
        (_content(format="vertfrac-annotation/2"), "vertfrac-annotation/2"),
        (_content(case="d"), "holds the annotation of case 'd', expected that of 'c'"),
        (_content(frame="LPS"), "frame: Input should be 'RAS'"),
        (_content(unit="m"), "unit: Input should be 'mm'"),
        (_content(experts={}), "experts: "),
        (
            _content(experts={"a": [{"keypoints": {}}]}),
            "experts.a.0.keypoints.anterior_superior: Field required (and 5",
        ),
        (_content(surprise=1), "surprise: "),
        (_content(scan={"shape": [1, 2], "spacing_mm": [1, 1, 1]}), "scan.shape"),
        (_without("posterior_inferior"), "experts.a.0.keypoints.posterior_inferior: Field required"),
    ],
)
def test_what_is_wrong_is_one_line_naming_the_file(tmp_path: Path, content: Any, words: str) -> None:
    path = tmp_path / "c.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(AnnotationError) as error:
        read_annotation(path, "c")
    assert str(error.value).startswith(f"{path}: ")
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_point_that_is_no_number_is_never_written(rows: pd.DataFrame, tmp_path: Path) -> None:
    rows.loc[0, "middle_superior_z"] = np.nan
    with pytest.raises(AnnotationError, match=r"c\.json: cannot be written, experts\.a\.0\.keypoints\.middle_superior"):
        write_annotation(tmp_path / "c.json", rows)
    with pytest.raises(AnnotationError, match="rows of 0 cases"):
        write_annotation(tmp_path / "c.json", tables.ANNOTATIONS.frame([]))
    assert not list(tmp_path.iterdir())
