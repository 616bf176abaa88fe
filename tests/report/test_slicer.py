"""Laws of what predict writes for 3D Slicer: valid, in grade colours, and read back as the annotation that it shows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from numpy.typing import NDArray

from vertfrac import tables
from vertfrac.cohorts.ingest import ingest
from vertfrac.cohorts.markups import read_markups
from vertfrac.cohorts.sources import list_scans
from vertfrac.genant import genant_index, grade
from vertfrac.geometry.curve import Curve
from vertfrac.geometry.keypoints import HEIGHTS, heights
from vertfrac.inference.named import apply_levels
from vertfrac.report.slicer import write_scan
from vertfrac.report.style import GRADE_COLOURS, UNGRADED_COLOUR

Floats = NDArray[np.float64]
SCHEMA = Path(__file__).parents[3] / "shared" / "data" / "slicer" / "markups-schema-v1.0.3.json"
STATUSES = ("partial", "ok", "ok", "low_score", "ok", "not_measured")


@pytest.fixture
def vertebrae(spine_keypoints: Callable[..., Floats]) -> pd.DataFrame:
    """Six vertebrae: one at the edge, one seen badly, one without keypoints; those with status ok of grade 0, 1, 3."""
    shift = np.random.default_rng(0).normal(size=3) * 100
    keypoints = spine_keypoints(
        6, heights=[[20, 20, 20], [20, 19, 20], [16, 18, 21], [20, 20, 20], [9, 15, 20], [1] * 3]
    )
    keypoints = keypoints + shift
    keypoints[5, 2] = np.nan
    rows = []
    for number, (points, status) in enumerate(zip(keypoints, STATUSES, strict=True), start=1):
        h = heights(points)
        index = float(genant_index(h))
        rows.append(
            {
                "case": "c", "vertebra": number, "level": "", "status": status, "genant": index,
                "grade": int(grade(index)) if status == "ok" else None,
                **{f"height_{name}_mm": mm for name, mm in zip(HEIGHTS, h, strict=True)},
                **tables.keypoint_values(points),
            }
        )  # fmt: skip
    return tables.VERTEBRAE.frame(rows)


@pytest.fixture
def curve(vertebrae: pd.DataFrame) -> Curve:
    return Curve(np.nanmean(tables.keypoints_of(vertebrae), axis=1))


@pytest.fixture
def file(tmp_path: Path, vertebrae: pd.DataFrame, curve: Curve) -> Path:
    write_scan(tmp_path / "rulers.mrk.json", vertebrae, curve)
    return tmp_path / "rulers.mrk.json"


def _markups(file: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(file.read_text())["markups"]
    return found


def _saved_by_slicer(file: Path, folder: Path) -> list[Path]:
    """A file of its own for each markup, as 3D Slicer saves them: no names but those of the files, and more fields."""
    paths = []
    for markup in _markups(file):
        paths.append(folder / f"{markup.pop('name')}.mrk.json")
        for point in markup["controlPoints"]:
            point |= {"associatedNodeID": "", "orientation": [-1, 0, 0, 0, -1, 0, 0, 0, 1], "selected": True}
        paths[-1].parent.mkdir(parents=True, exist_ok=True)
        paths[-1].write_text(json.dumps({"@schema": "x", "markups": [markup]}))
    return paths


def test_every_vertebra_with_finite_keypoints_has_three_rulers_and_the_spine_a_curve(file: Path) -> None:
    names = [markup["name"] for markup in _markups(file)]
    assert names == [*(f"{number} {part}" for number in range(1, 6) for part in HEIGHTS), "spine"]
    assert [markup["type"] for markup in _markups(file)] == ["Line"] * 15 + ["Curve"]


@pytest.mark.skipif(not SCHEMA.is_file(), reason=f"the schema of 3D Slicer is not at {SCHEMA}")
def test_the_file_is_valid_by_the_published_schema(file: Path) -> None:
    validator = jsonschema.Draft7Validator(json.loads(SCHEMA.read_text()))
    content = json.loads(file.read_text())
    validator.validate(content)
    content["markups"][-1]["display"]["color"] = [2, 0, 0]
    assert not validator.is_valid(content)


def test_coordinates_are_those_of_the_table_to_a_millionth_of_a_millimetre(
    file: Path, vertebrae: pd.DataFrame, curve: Curve
) -> None:
    lps = [-1.0, -1.0, 1.0]
    points = [[point["position"] for point in markup["controlPoints"]] for markup in _markups(file)]
    np.testing.assert_allclose(
        np.reshape(points[:-1], (5, 6, 3)) * lps, tables.keypoints_of(vertebrae)[:5], rtol=0, atol=1e-6
    )
    np.testing.assert_allclose(np.array(points[-1]) * lps, curve.points_world, rtol=0, atol=1e-6)


def test_read_back_the_graded_vertebrae_are_annotations(file: Path, vertebrae: pd.DataFrame) -> None:
    graded = vertebrae[vertebrae["status"] == "ok"]
    read = read_markups([file], "c").rows
    np.testing.assert_allclose(tables.keypoints_of(read), tables.keypoints_of(graded), rtol=0, atol=1e-6)
    assert [note.split(":")[0] for note in read_markups([file], "c").left_out] == [
        "vertebra 1 passed over",
        "vertebra 4 passed over",
    ]
    assert "partial" in read_markups([file], "c").left_out[0]
    assert "low_score" in read_markups([file], "c").left_out[1]


def test_saved_by_slicer_in_a_file_each_they_say_the_same(file: Path, tmp_path: Path) -> None:
    paths = _saved_by_slicer(file, tmp_path / "saved")
    assert len(paths) == 16
    pd.testing.assert_frame_equal(read_markups(paths, "c").rows, read_markups([file], "c").rows)
    assert read_markups(paths, "c").left_out == read_markups([file], "c").left_out


def _corrected(file: Path, name: str, change: Callable[[dict[str, Any]], None]) -> Path:
    content = json.loads(file.read_text())
    for markup in content["markups"]:
        if markup["name"].startswith(name):
            for point in markup["controlPoints"]:
                change(point)
    file.write_text(json.dumps(content))
    return file


def test_a_vertebra_that_was_not_graded_counts_once_a_point_of_it_was_moved(
    file: Path, vertebrae: pd.DataFrame
) -> None:
    def move(point: dict[str, Any]) -> None:
        point["position"][1] += 0.5

    read = tables.keypoints_of(read_markups([_corrected(file, "4 anterior", move)], "c").rows)
    expected = tables.keypoints_of(vertebrae)[[1, 2, 3, 4]]
    expected[2, :2, 1] -= 0.5  # LPS against RAS
    np.testing.assert_allclose(read, expected, rtol=0, atol=1e-6)
    assert len(read_markups([file], "c").left_out) == 1


def test_or_once_its_note_was_deleted(file: Path) -> None:
    _corrected(file, "1 ", lambda point: point.update(description=""))
    assert len(read_markups([file], "c").rows) == 4
    assert len(read_markups([file], "c").left_out) == 1


def test_colours_are_those_of_the_grades_and_grey_says_why(file: Path, vertebrae: pd.DataFrame) -> None:
    rulers = _markups(file)[:15:3]
    colours = [to_hex(ruler["display"]["selectedColor"]) for ruler in rulers]
    assert colours == [UNGRADED_COLOUR, GRADE_COLOURS[0], GRADE_COLOURS[1], UNGRADED_COLOUR, GRADE_COLOURS[3]]
    notes = [ruler["controlPoints"][0]["description"] for ruler in rulers]
    assert notes[0].startswith("not graded (partial)")
    assert notes[4] == "predicted grade 3 (severe), G 0.450"
    assert [ruler["measurements"][0]["value"] for ruler in rulers] == vertebrae["height_anterior_mm"][:5].tolist()


def test_a_level_names_a_vertebra_unless_another_has_the_same(
    tmp_path: Path, vertebrae: pd.DataFrame, curve: Curve
) -> None:
    vertebrae["level"] = pd.array(["T11", "T12", "T12", None, "L1", "L2"], dtype="string")
    write_scan(tmp_path / "c.mrk.json", vertebrae, curve)
    names = [markup["name"].split()[0] for markup in _markups(tmp_path / "c.mrk.json")[:15:3]]
    assert names == ["T11", "2", "3", "4", "L1"]
    assert len(read_markups([tmp_path / "c.mrk.json"], "c").rows) == 3


def test_levels_their_doubt_and_s1_are_noted_and_read_back_as_before(
    tmp_path: Path, file: Path, vertebrae: pd.DataFrame, curve: Curve
) -> None:
    levels = ["L1", "L2", "L3", "L4", "L5", "S1"]
    found = apply_levels(vertebrae, levels, [0.8] * 6, ["T12", "", "L2", "", "", ""])
    found.loc[3, ["level", "status"]] = ["S1", "sacrum"]
    path = tmp_path / "c.mrk.json"
    write_scan(path, found, curve)
    names = [markup["name"] for markup in _markups(path)]
    assert len(set(names)) == len(names)
    assert names[:15:3] == ["L1 anterior", "L2 anterior", "L3 anterior", "4 anterior", "L5 anterior"]
    notes = [markup["controlPoints"][0]["description"] for markup in _markups(path)[:15:3]]
    assert notes[0].startswith("not graded (partial)")
    assert notes[0].endswith(" [L1 (or T12), probability 0.80]")
    assert notes[3].startswith("not graded (sacrum)")
    opinion = f"by the normal shape of its level {found['grade_level'][4]}, G {found['genant_level'][4]:.3f}"
    assert notes[4] == f"predicted grade 3 (severe), G 0.450; {opinion} [L5, probability 0.80]"
    read, plain = read_markups([path], "c"), read_markups([file], "c")
    assert read.rows["level"].tolist() == ["L2", "L3", "L5"]
    np.testing.assert_array_equal(tables.keypoints_of(read.rows), tables.keypoints_of(plain.rows))
    assert "vertebra 4 passed over: vertfrac did not grade it (sacrum)" in read.left_out[1]


def test_a_scan_without_a_usable_vertebra_has_its_curve_alone(
    tmp_path: Path, vertebrae: pd.DataFrame, curve: Curve
) -> None:
    write_scan(tmp_path / "c.mrk.json", vertebrae[5:], curve)
    assert [markup["type"] for markup in _markups(tmp_path / "c.mrk.json")] == ["Curve"]
    assert read_markups([tmp_path / "c.mrk.json"], "c").rows.empty


def test_what_predict_wrote_is_an_annotation_of_a_cohort_and_what_is_left_out_is_told(
    tmp_path: Path, file: Path, vertebrae: pd.DataFrame, write_scan: Callable[..., Path]
) -> None:
    low = np.nanmin(tables.keypoints_of(vertebrae), axis=(0, 1)) - 20
    image = write_scan(
        tmp_path / "scans" / "c.nii", lambda x, y, z: 40 * np.sin(x / 9) + y, shape=(40, 40, 110),
        origin=tuple(low.tolist()),
    )  # fmt: skip
    (tmp_path / "list.csv").write_text(f"case,image,annotation\nc,{image},{file}\n")
    cases = ingest(list_scans("nifti", {"table": str(tmp_path / "list.csv")}), tmp_path / "out")
    assert cases["status"].tolist() == ["ok"], cases["reason"][0]
    assert cases["vertebrae"].tolist() == [3]
    assert "vertebra 4 passed over: vertfrac did not grade it (low_score)" in cases["warnings"][0]
