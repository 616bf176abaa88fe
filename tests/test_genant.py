"""Laws of vertfrac.genant: heights to index to grade."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from vertfrac.genant import GRADE_LIMITS, GRADES, genant_index, grade
from vertfrac.geometry.keypoints import heights

positive = st.floats(0.1, 100)


def vertebra(anterior: float, middle: float, posterior: float) -> np.ndarray:
    """Keypoints (6, 3) with the given heights, in a sagittal plane."""
    rows = []
    for y, height in ((15, anterior), (0, middle), (-15, posterior)):
        rows += [[0.0, y, height / 2], [0.0, y, -height / 2]]
    return np.array(rows)


@pytest.mark.parametrize(
    ("abc", "index", "name"),
    [
        ((20, 20, 20), 1.0, "normal"),
        ((16.2, 20, 20), 0.81, "normal"),
        ((16, 20, 20), 0.8, "mild"),
        ((20, 15, 20), 0.75, "mild"),
        ((20, 20, 14.8), 0.74, "moderate"),
        ((25, 16, 20), 0.64, "moderate"),
        ((12, 16, 20), 0.6, "severe"),
        ((10, 20, 40), 0.25, "severe"),
        ((0, 20, 20), 0.0, "severe"),
    ],
)
def test_known_vertebrae(abc: tuple[float, float, float], index: float, name: str) -> None:
    found = genant_index(heights(vertebra(*abc)))
    assert found == pytest.approx(index, abs=1e-12)
    assert GRADES[grade(found)] == name


def test_grades_at_and_around_their_limits() -> None:
    assert list(GRADE_LIMITS) == [0.8, 0.74, 0.6]
    np.testing.assert_array_equal(grade(GRADE_LIMITS), [1, 2, 3])
    np.testing.assert_array_equal(grade(np.nextafter(GRADE_LIMITS, 2)), [0, 1, 2])
    np.testing.assert_array_equal(grade(np.nextafter(GRADE_LIMITS, -1)), [1, 2, 3])
    np.testing.assert_array_equal(grade([1.0, 0.0, np.nan]), [0, 3, -1])
    assert grade(0.9).dtype == np.int64
    assert grade(np.zeros((2, 0, 3))).shape == (2, 0, 3)


@pytest.mark.parametrize(
    "abc",
    [(0, 0, 0), (np.nan, 20, 20), (20, np.nan, 20), (np.nan,) * 3, (20, 20, np.inf), (np.inf,) * 3, (-np.inf, 1, 1)],
)
def test_what_cannot_be_measured_has_no_index_and_no_grade(abc: tuple[float, float, float]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(genant_index(abc))
        assert grade(genant_index(abc)) == -1
        mixed = genant_index([abc, (20, 10, 20)])  # a bad vertebra does not spoil its neighbour
    assert np.isnan(mixed[0])
    assert mixed[1] == 0.5


@settings(deadline=None, derandomize=True)
@given(st.tuples(positive, positive, positive), st.floats(1e-3, 1e3))
def test_the_index_is_a_ratio_of_heights(abc: tuple[float, float, float], scale: float) -> None:
    index = genant_index(abc)
    assert index == min(abc) / max(abc)
    assert 0 < index <= 1
    assert genant_index(np.array(abc) * scale) == pytest.approx(float(index), rel=1e-12)
    assert genant_index(abc[::-1]) == genant_index((abc[1], abc[2], abc[0])) == index


@settings(deadline=None, derandomize=True)
@given(st.tuples(positive, positive, positive), st.integers(0, 2**31))
def test_the_index_does_not_see_motion(abc: tuple[float, float, float], seed: int) -> None:
    rng = np.random.default_rng(seed)
    moved = vertebra(*abc) @ Rotation.random(rng=rng).as_matrix().T + rng.normal(0, 100, 3)
    assert genant_index(heights(moved)) == pytest.approx(min(abc) / max(abc), abs=1e-9)


@settings(deadline=None, derandomize=True)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=20))
def test_a_smaller_index_is_never_a_milder_grade(indices: list[float]) -> None:
    grades = grade(sorted(indices))
    assert (np.diff(grades) <= 0).all()
    assert set(grades.tolist()) <= set(range(len(GRADES)))
