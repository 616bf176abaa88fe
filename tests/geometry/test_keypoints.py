"""Laws of vertfrac.geometry.keypoints."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from vertfrac.geometry import keypoints as kp

seeds = st.integers(0, 2**31)


def test_names_heights_and_columns_agree() -> None:
    assert len(kp.KEYPOINTS) == 6
    for i, height in enumerate(kp.HEIGHTS):
        assert kp.KEYPOINTS[2 * i] == f"{height}_superior"
        assert kp.KEYPOINTS[2 * i + 1] == f"{height}_inferior"
    table = dict(zip(kp.KEYPOINT_COLUMNS, np.arange(18.0).reshape(6, 3).reshape(-1), strict=True))
    assert len(table) == 18
    assert table["posterior_superior_y"] == 4 * 3 + 1
    assert sorted(kp.POLYGON_ORDER) == list(range(6))


def test_known_vertebra() -> None:
    points = np.array([[0, 10, 20], [0, 10, 0], [0, 0, 18], [0, 0, 2], [0, -10, 21], [0, -10, -1]], dtype=float)
    np.testing.assert_array_equal(kp.heights(points), [20, 16, 22])
    np.testing.assert_array_equal(kp.centers(points), [0, 0, 10])
    np.testing.assert_array_equal(kp.centroids(points), [0, 0, 10])


def test_the_polygon_runs_around_a_vertebra_without_crossing() -> None:
    points = np.array([[10, 20], [10, 0], [0, 18], [0, 2], [-10, 21], [-10, -1]], dtype=float)
    x, y = points[list(kp.POLYGON_ORDER)].T
    area = abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2  # shoelace
    assert area == 10 * (20 + 16) / 2 + 10 * (16 + 22) / 2


@given(seeds)
def test_motion(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.normal(0, 20, (4, 5, 6, 3))
    turn, shift = Rotation.random(rng=rng).as_matrix(), rng.normal(0, 100, 3)
    moved = points @ turn.T + shift
    np.testing.assert_allclose(kp.heights(moved), kp.heights(points), atol=1e-9)
    np.testing.assert_allclose(kp.centers(moved), kp.centers(points) @ turn.T + shift, atol=1e-9)
    np.testing.assert_allclose(kp.centroids(moved), kp.centroids(points) @ turn.T + shift, atol=1e-9)
    assert kp.heights(points).shape == (4, 5, 3)


@given(seeds)
def test_swapping_the_plates_changes_no_height_and_no_centre(seed: int) -> None:
    points = np.random.default_rng(seed).normal(0, 20, (6, 2))
    swapped = points[[1, 0, 3, 2, 5, 4]]
    np.testing.assert_array_equal(kp.heights(swapped), kp.heights(points))
    np.testing.assert_array_equal(kp.centers(swapped), kp.centers(points))
    np.testing.assert_array_equal(kp.heights(points[[4, 5, 2, 3, 0, 1]]), kp.heights(points)[::-1])


@given(seeds)
def test_float32_is_taken_to_double(seed: int) -> None:
    points = np.random.default_rng(seed).normal(0, 20, (6, 3)).astype(np.float32)
    assert kp.heights(points).dtype == kp.centers(points).dtype == kp.centroids(points).dtype == np.float64
