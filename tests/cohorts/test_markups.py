"""Laws of 3D Slicer's markups: LPS and RAS say the same, clicks come in any order, what is wrong is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from vertfrac import tables
from vertfrac.cohorts.annotation_json import annotation_rows
from vertfrac.cohorts.markups import read_markups, superior_first, write_rulers
from vertfrac.errors import AnnotationError
from vertfrac.geometry.keypoints import HEIGHTS, KEYPOINTS

Floats = NDArray[np.float64]
SCHEMA = Path(__file__).parents[3] / "shared" / "data" / "slicer" / "markups-schema-v1.0.3.json"
LEVELS = ("T12", "L1", "L2")


@pytest.fixture
def rows(spine_keypoints: Callable[..., Floats]) -> pd.DataFrame:
    keypoints = spine_keypoints(3, heights=[20, 17.5, 22], bend_mm=7.0) + np.array([-55.25, 10, -300])
    return annotation_rows("c", [("expert", level, points) for level, points in zip(LEVELS, keypoints, strict=True)])


def _write(path: Path, *markups: dict[str, Any]) -> Path:
    path.write_text(json.dumps({"@schema": "x", "markups": markups}))
    return path


def _signs(system: Any) -> Floats:
    return np.array([1.0, 1.0, 1.0]) if system in ("RAS", 0, "0") else np.array([-1.0, -1.0, 1.0])


def fiducials(rows: pd.DataFrame, system: Any = "LPS", form: str = "{level} {part} {end}") -> dict[str, Any]:
    points = []
    for level, keypoints in zip(rows["level"], tables.keypoints_of(rows), strict=True):
        for name, point in zip(KEYPOINTS, keypoints * _signs(system), strict=True):
            part, end = name.split("_")
            label = form.format(level=level, part=part, end=end, p=part[0], e=end[0], P=part[:3].upper(), E=end[:3])
            points.append({"label": label, "position": point.tolist()})
    return {"type": "Fiducial", "coordinateSystem": system, "controlPoints": points}


def lines(rows: pd.DataFrame, form: str = "{level} {part}", *, named: bool = True) -> list[dict[str, Any]]:
    found = []
    for level, keypoints in zip(rows["level"], tables.keypoints_of(rows), strict=True):
        for part, pair in zip(HEIGHTS, keypoints.reshape(3, 2, 3) * _signs("LPS"), strict=True):
            name = form.format(level=level, part=part)
            label = "L" if named else name
            points = [{"label": f"{label}-{k}", "position": p.tolist()} for k, p in enumerate(pair, start=1)]
            found.append({"type": "Line", "name": name if named else "L_3", "controlPoints": points})
    return found


def test_written_rulers_are_read_back(rows: pd.DataFrame, tmp_path: Path) -> None:
    write_rulers(tmp_path / "c.mrk.json", rows)
    pd.testing.assert_frame_equal(read_markups([tmp_path / "c.mrk.json"], "c").rows, rows)


@pytest.mark.skipif(not SCHEMA.is_file(), reason=f"the schema of 3D Slicer is not at {SCHEMA}")
def test_written_rulers_are_valid_by_the_published_schema(rows: pd.DataFrame, tmp_path: Path) -> None:
    write_rulers(tmp_path / "c.mrk.json", rows)
    content = json.loads((tmp_path / "c.mrk.json").read_text())
    validator = jsonschema.Draft7Validator(json.loads(SCHEMA.read_text()))
    validator.validate(content)
    assert [len(markup["controlPoints"]) for markup in content["markups"]] == [2] * 9
    content["markups"][0]["coordinateSystem"] = "XYZ"
    assert not validator.is_valid(content)


def test_vertebrae_without_level_are_numbered(rows: pd.DataFrame, tmp_path: Path) -> None:
    rows.loc[:, "level"] = ""
    write_rulers(tmp_path / "c.mrk.json", rows)
    pd.testing.assert_frame_equal(read_markups([tmp_path / "c.mrk.json"], "c").rows, rows)


@pytest.mark.parametrize("system", ["LPS", "RAS", 0, 1, "0", "1"])
def test_the_coordinate_system_decides_the_signs(rows: pd.DataFrame, tmp_path: Path, system: Any) -> None:
    path = _write(tmp_path / "c.mrk.json", fiducials(rows, system))
    pd.testing.assert_frame_equal(read_markups([path], "c").rows, rows)


@pytest.mark.parametrize("units", ["um", ["um", "UCUM", "micrometer"]])
def test_units_are_converted(rows: pd.DataFrame, tmp_path: Path, units: Any) -> None:
    markup = fiducials(rows, "RAS") | {"coordinateUnits": units}
    for point in markup["controlPoints"]:
        point["position"] = [1000 * x for x in point["position"]]
    read = read_markups([_write(tmp_path / "c.mrk.json", markup)], "c").rows
    np.testing.assert_allclose(tables.keypoints_of(read), tables.keypoints_of(rows))


def test_without_system_and_units_a_file_is_in_lps_mm(rows: pd.DataFrame, tmp_path: Path) -> None:
    markup = fiducials(rows)
    del markup["coordinateSystem"]
    pd.testing.assert_frame_equal(read_markups([_write(tmp_path / "c.mrk.json", markup)], "c").rows, rows)


@pytest.mark.parametrize(
    "form", ["{level} {part} {end}", "{level}-{p}{e}", "{level}_{P}_{E}", "{level}/{p}.{e}", "{level} {part}{end}"]
)
def test_labels_may_be_spelled_in_the_documented_ways(rows: pd.DataFrame, tmp_path: Path, form: str) -> None:
    path = _write(tmp_path / "c.mrk.json", fiducials(rows, form=form))
    pd.testing.assert_frame_equal(read_markups([path], "c").rows, rows)


@pytest.mark.parametrize("form", ["{level} {part}", "{level}"])
@pytest.mark.parametrize("named", [True, False])
def test_clicks_and_rulers_may_come_in_any_order(rows: pd.DataFrame, tmp_path: Path, form: str, named: bool) -> None:
    rng = np.random.default_rng(0)
    markups = lines(rows, form, named=named)
    rng.shuffle(markups)
    for markup in markups:
        if rng.random() < 0.5:
            markup["controlPoints"].reverse()
    pd.testing.assert_frame_equal(read_markups([_write(tmp_path / "c.mrk.json", *markups)], "c").rows, rows)


def test_rulers_may_lie_in_a_file_each_that_names_them(rows: pd.DataFrame, tmp_path: Path) -> None:
    paths = []
    for number, markup in enumerate(lines(rows)):
        name = markup.pop("name")
        for point in markup["controlPoints"]:
            point["label"] = f"F-{number}"
        paths.append(_write(tmp_path / f"{name}.mrk.json", markup))
    pd.testing.assert_frame_equal(read_markups(paths, "c").rows, rows)


def test_points_and_rulers_of_different_vertebrae_go_together(rows: pd.DataFrame, tmp_path: Path) -> None:
    one = _write(tmp_path / "a.mrk.json", fiducials(rows[:1]))
    two = _write(tmp_path / "b.mrk.json", *lines(rows[1:]))
    pd.testing.assert_frame_equal(read_markups([one, two], "c").rows, rows)


def test_vertebrae_that_were_not_placed_do_not_count(rows: pd.DataFrame, tmp_path: Path) -> None:
    markup = fiducials(rows)
    for point in markup["controlPoints"][-6:]:
        point["positionStatus"] = "undefined"
    read = read_markups([_write(tmp_path / "c.mrk.json", markup)], "c").rows
    pd.testing.assert_frame_equal(read, rows[:2])


@given(st.floats(-75, 75), st.floats(-180, 180), st.lists(st.booleans(), min_size=3, max_size=3))
def test_the_superior_end_is_found_in_any_posture(tilt: float, turn: float, swaps: list[bool]) -> None:
    """Of a vertebra tilted by less than 75 degrees, whatever its direction and whichever end was clicked first."""
    a, b = np.radians([tilt, turn])
    rotation = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    rotation = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]]) @ rotation
    rulers = np.array([[[0, y, 10 - bow], [0, y, bow - 10]] for y, bow in ((13, 0), (0, 2), (-13, 1))]) @ rotation.T
    clicked = np.where(np.array(swaps)[:, None, None], rulers[:, ::-1], rulers)
    np.testing.assert_array_equal(superior_first(clicked), rulers)


def _fewer(count: int) -> Callable[[pd.DataFrame], list[dict[str, Any]]]:
    def change(rows: pd.DataFrame) -> list[dict[str, Any]]:
        markup = fiducials(rows)
        del markup["controlPoints"][:count]
        return [markup]

    return change


def _points(**changes: Any) -> Callable[[pd.DataFrame], list[dict[str, Any]]]:
    """The third point of all changed."""

    def change(rows: pd.DataFrame) -> list[dict[str, Any]]:
        markup = fiducials(rows)
        markup["controlPoints"][2] |= changes
        return [markup]

    return change


def _line(**changes: Any) -> Callable[[pd.DataFrame], list[dict[str, Any]]]:
    def change(rows: pd.DataFrame) -> list[dict[str, Any]]:
        markups = lines(rows)
        markups[1] |= changes
        return markups

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_fewer(1), "vertebra T12 has 5 points, expected 6 (missing: anterior superior)"),
        (_points(label="F-3"), "unknown label 'F-3', expected such as 'L1 anterior superior'"),
        (_points(label="T12 middle"), "unknown label 'T12 middle'"),
        (_points(label="S1 middle superior"), "unknown label 'S1 middle superior'"),
        (_points(label="T12 anterior superior"), "the point anterior superior occurs twice"),
        (_points(position=[1, 2]), "has the position [1, 2], expected three finite numbers"),
        (_points(position=None), "has the position None"),
        (_points(positionStatus="preview"), "vertebra T12 has 1 points or rulers that were not placed"),
        (lambda rows: [fiducials(rows, "XYZ")], "unknown coordinateSystem 'XYZ', expected LPS or RAS"),
        (lambda rows: [fiducials(rows) | {"coordinateUnits": "inch"}], "unknown coordinateUnits 'inch'"),
        (lambda rows: [fiducials(rows) | {"type": "Curve"}], "type is 'Curve', expected Fiducial"),
        (lambda rows: [fiducials(rows) | {"controlPoints": 7}], "controlPoints is no list"),
        (lambda rows: [fiducials(rows), fiducials(rows)], "occurs twice"),
        (lambda rows: [fiducials(rows), *lines(rows)], "vertebra T12 is given by points and by rulers"),
        (lambda rows: lines(rows)[1:], "vertebra T12 has 2 rulers, expected 3"),
        (_line(name="T12 anterior"), "the anterior ruler of vertebra T12 occurs twice"),
        (_line(name="T12"), "only some of its rulers say anterior, middle or posterior"),
        (_line(name="dist"), "unknown label, expected a name such as 'L1 anterior'"),
        (_line(controlPoints=[{"position": [0, 0, 0]}]), "a ruler with 1 placed points, expected 2"),
        (lambda rows: "{", "not valid JSON"),
        (lambda rows: [], ""),
    ],
)
def test_what_is_wrong_is_one_line_naming_the_file(
    rows: pd.DataFrame, tmp_path: Path, change: Callable[[pd.DataFrame], Any], words: str
) -> None:
    path, content = tmp_path / "c.mrk.json", change(rows)
    _write(path, *content) if isinstance(content, list) else path.write_text(content)
    if not words:
        assert read_markups([path], "c").rows.empty
        return
    with pytest.raises(AnnotationError) as error:
        read_markups([path], "c")
    assert str(error.value).startswith(str(path))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_without_markups_is_named(tmp_path: Path) -> None:
    (tmp_path / "c.mrk.json").write_text('{"points": []}')
    with pytest.raises(AnnotationError, match=r"c\.mrk\.json: holds no list of markups"):
        read_markups([tmp_path / "c.mrk.json"], "c")
