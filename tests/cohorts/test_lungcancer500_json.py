"""Laws of reading the public annotations: both formats say the same, directions come out right, errors are named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vertfrac import tables
from vertfrac.cohorts.lungcancer500_json import annotation_rows, nominal_affine, read_studies, read_study
from vertfrac.errors import AnnotationError
from vertfrac.geometry.keypoints import centers, heights

PUBLIC = Path(__file__).parents[3] / "shared" / "data" / "lungcancer500"
real_data = pytest.mark.skipif(not PUBLIC.is_dir(), reason=f"the public annotations are not at {PUBLIC}")


def _points(top: float) -> list[list[float]]:
    """Six points, anterior first, whose heights are 20, 18 and 22 slices."""
    return [[row, 250.0, z] for row, tall in ((300, 20), (318, 18), (337, 22)) for z in (top, top + tall)]


def _study(vertebrae: Any, **more: Any) -> dict[str, Any]:
    return {"Folder": "c", "SeriesInstanceUID": "1.2", "Annotation": {"one": vertebrae}, **more}


def _named(points: list[list[float]], level: str) -> dict[str, Any]:
    return {"segments": [points[k : k + 2] for k in (0, 2, 4)], "type": level}


@pytest.fixture
def read(tmp_path: Path) -> Callable[[Any], Any]:
    def run(content: Any) -> Any:
        path = tmp_path / "c.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return read_study(path)

    return run


def test_both_formats_say_the_same(read: Callable[[Any], Any]) -> None:
    tops = (10.0, 40.0, 70.0)
    old = read(_study([_points(top) for top in tops]))
    new = read(_study([_named(_points(top), f"Th{n}") for n, top in enumerate(tops, start=1)]))
    assert np.array_equal(old.marks["one"], new.marks["one"])
    assert old.levels["one"] == ["", "", ""]
    assert new.levels["one"] == ["T1", "T2", "T3"]
    assert (new.case, new.series) == ("c", "1.2")


def test_a_higher_slice_is_lower_and_a_higher_row_more_posterior(read: Callable[[Any], Any]) -> None:
    study = read(_study([_points(10.0), _points(40.0)]))
    keypoints = tables.keypoints_of(tables.ANNOTATIONS.frame(annotation_rows(study, nominal_affine((0.7, 0.6, 0.8)))))
    assert np.allclose(heights(keypoints), np.array([20, 18, 22]) * 0.8)
    assert (keypoints[:, 0::2, 2] > keypoints[:, 1::2, 2]).all()
    assert (keypoints[:, 0, 1] > keypoints[:, 4, 1]).all()
    assert np.allclose(centers(keypoints)[0] - centers(keypoints)[1], [0, 0, 30 * 0.8])


def test_a_point_keeps_its_distances() -> None:
    voxels = np.random.default_rng(0).normal(size=(5, 3)) * 100
    affine = nominal_affine((0.7, 0.6, 0.8))
    world = voxels @ affine[:3, :3].T
    expected = np.linalg.norm((voxels[0] - voxels[1:]) * [0.7, 0.6, 0.8], axis=1)
    assert np.allclose(np.linalg.norm(world[0] - world[1:], axis=1), expected)


def test_vertebrae_come_from_above_whatever_their_order(read: Callable[[Any], Any]) -> None:
    study = read(_study([_points(40.0), _points(10.0)]))
    assert study.marks["one"][:, 0, 2].tolist() == [10.0, 40.0]


def test_levels_decide_the_order_where_they_are_given(read: Callable[[Any], Any]) -> None:
    """A sharp kyphosis puts L1 higher than T12."""
    study = read(_study([_named(_points(39.0), "L1"), _named(_points(40.0), "Th12"), _named(_points(10.0), "C7")]))
    assert study.levels["one"] == ["C7", "T12", "L1"]
    assert study.marks["one"][:, 0, 2].tolist() == [10.0, 40.0, 39.0]


SWAPPED = [_points(10.0)[k] for k in (0, 1, 3, 2, 4, 5)]
MIRRORED = [_points(10.0)[k] for k in (4, 5, 2, 3, 0, 1)]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", ("not valid JSON",)),
        ([], ("found a list", "Folder")),
        (_study([_points(1.0)], Folder=None), ("Folder is missing",)),
        (_study([], Annotation=[]), ("Annotation is a list", "experts")),
        (_study([], Annotation={}), ("Annotation is a dict of 0",)),
        (_study([]), ("one: found a list of 0", "vertebrae")),
        (_study([_points(1.0)[:5]]), ("one, vertebra 1", "(5, 3)", "(6, 3)")),
        (_study([_points(1.0), "x"]), ("one, vertebra 2", "points of three numbers")),
        (_study([[[1.0, None, 2.0]] * 6]), ("vertebra 1", "not finite")),
        (_study([{"segments": []}]), ("['segments']", "segments and type")),
        (_study([_named(_points(1.0), "Th14")]), ("'Th14'", "Th1")),
        (_study([_named(_points(1.0), "Th1"), _named(_points(30.0), "Th1")]), ("level T1 occurs twice",)),
        (_study([SWAPPED]), ("middle_superior is in slice 28, middle_inferior in slice 10", "superior end first")),
        (_study([MIRRORED]), ("rows 337, 318, 300", "posterior")),
    ],
)
def test_what_is_wrong_is_one_line_naming_the_file(read: Callable[[Any], Any], content: Any, words: Any) -> None:
    with pytest.raises(AnnotationError) as error:
        read(content)
    for word in ("c.json", *words):
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_without_studies_or_with_one_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"holds no \.json file"):
        read_studies(tmp_path)
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text(json.dumps(_study([_points(1.0)])))
    with pytest.raises(AnnotationError, match=r"b\.json: Folder c is that of a\.json too"):
        read_studies(tmp_path)


@real_data
@pytest.mark.parametrize("year", ["2020", "2022"])
def test_the_published_annotations_are_read_in_full(year: str) -> None:
    """The typical heights of method.md come out, posterior above anterior above middle in the mean."""
    studies = read_studies(PUBLIC / f"annotation-{year}")
    assert len(studies) == 75
    assert {len(study.marks) for _, study in studies} <= {2, 3, 4}
    rows = [row for _, study in studies for row in annotation_rows(study, nominal_affine())]
    keypoints = tables.keypoints_of(tables.ANNOTATIONS.frame(rows))
    anterior, middle, posterior = heights(keypoints).mean(axis=0)
    assert 15 < middle < anterior < posterior < 25
    # the superior end is above the inferior one, the anterior before the posterior
    assert (keypoints[:, 0::2, 2] > keypoints[:, 1::2, 2]).all()
    assert (keypoints[:, :2, 1].mean(axis=1) > keypoints[:, 4:, 1].mean(axis=1)).all()
