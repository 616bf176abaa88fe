"""Laws of vertfrac.geometry.curve: interpolation, frames, smoothing."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vertfrac.errors import GeometryError
from vertfrac.geometry.curve import Curve, curve_through_centers, smoothed

seeds = st.integers(0, 2**31)


def random_centers(seed: int) -> np.ndarray:
    """Vertebra centres 18 to 40 mm apart that wander by up to half as much sideways, superior first."""
    rng = np.random.default_rng(seed)
    steps = np.column_stack([rng.uniform(-9, 9, (12, 2)), -rng.uniform(18, 40, 12)])
    return rng.uniform(-300, 300, 3) + np.cumsum(steps, axis=0)


def distance_to(curve: Curve, points: np.ndarray) -> np.ndarray:
    chain = curve.at(np.arange(0, curve.length_mm + 0.01, 0.01))
    return np.array([np.linalg.norm(chain - p, axis=1).min() for p in points])


@given(seeds)
def test_passes_through_the_centers(seed: int) -> None:
    centers = random_centers(seed)
    curve = curve_through_centers(centers)
    assert distance_to(curve, centers).max() < 0.05
    np.testing.assert_allclose(curve.at([0.0, curve.length_mm]), centers[[0, -1]], atol=1e-9)


@given(seeds)
def test_order_of_the_centers_does_not_matter(seed: int) -> None:
    centers = random_centers(seed)
    shuffled = np.random.default_rng(seed).permutation(centers)
    np.testing.assert_array_equal(
        curve_through_centers(centers).points_world, curve_through_centers(shuffled).points_world
    )


@given(seeds)
def test_moves_with_its_centers_and_does_not_overshoot(seed: int) -> None:
    centers = random_centers(seed)
    shift = np.array([10.0, -20.0, 30.0])
    points = curve_through_centers(centers).points_world
    np.testing.assert_allclose(curve_through_centers(centers + shift).points_world, points + shift, atol=1e-6)
    between = np.searchsorted(-centers[:, 2], -points[1:-1, 2], side="right")
    low = np.minimum(centers[between - 1], centers[between])
    high = np.maximum(centers[between - 1], centers[between])
    assert (points[1:-1] >= low - 1e-9).all()
    assert (points[1:-1] <= high + 1e-9).all()


def test_two_centers_give_a_straight_line() -> None:
    curve = curve_through_centers([[0, 0, 0], [30, 40, 120]])
    assert curve.length_mm == pytest.approx(130)
    np.testing.assert_allclose(curve.at([-13.0, 65.0, 143.0]), [[33, 44, 132], [15, 20, 60], [-3, -4, -12]], atol=1e-9)


@pytest.mark.parametrize(
    ("centers", "message"),
    [
        ([[0, 0, 0]], "at least two"),
        (np.zeros((0, 3)), "at least two"),
        ([0, 0, 0], "at least two"),
        ([[0, 0, 5], [3, 4, 5]], "same height"),
        ([[0, 0, 0], [np.nan, 0, 9]], "finite"),
        ([[0, 0, np.nan], [0, 0, 9]], "finite"),
        ([[0, 0, np.inf], [0, 0, 9]], "finite"),
    ],
)
def test_impossible_centers_are_named(centers: Any, message: str) -> None:
    with pytest.raises(GeometryError, match=message):
        curve_through_centers(centers)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([[0, 0, 1]], "two 3D points"),
        ([[0, 1], [0, 0]], "two 3D points"),
        ([[0, 0, 1], [0, np.nan, 0]], "finite"),
        ([[0, 0, 0], [0, 0, 1]], "descend"),
        ([[0, 0, 1], [0, 0, 1]], "descend"),
    ],
)
def test_impossible_curves_are_named(points: Any, message: str) -> None:
    with pytest.raises(GeometryError, match=message):
        Curve(points)


@given(seeds)
def test_frames_are_orthonormal_right_handed_and_follow_the_curve(seed: int) -> None:
    """(tangent, posterior, lateral) is right-handed; on an upright patient inferior, posterior, left."""
    curve = curve_through_centers(random_centers(seed))
    s = np.linspace(-30, curve.length_mm + 30, 400)
    point, *axes = curve.frames(s)
    matrix = np.stack(axes, axis=-1)
    np.testing.assert_allclose(np.swapaxes(matrix, 1, 2) @ matrix, np.broadcast_to(np.eye(3), matrix.shape), atol=1e-9)
    np.testing.assert_allclose(np.linalg.det(matrix), 1, atol=1e-9)
    tangent, posterior, lateral = axes
    np.testing.assert_array_equal(posterior[:, 0], 0)  # stays in the sagittal plane
    assert (tangent[:, 2] < 0).all()
    assert (posterior[:, 1] < 0).all()
    assert (lateral[:, 0] < 0).all()
    velocity = (curve.at(s + 1e-4) - curve.at(s - 1e-4)) / 2e-4
    np.testing.assert_allclose(velocity / np.linalg.norm(velocity, axis=1)[:, None], tangent, atol=1e-3)
    np.testing.assert_array_equal(point, curve.at(s))


def test_frames_of_an_upright_curve_are_inferior_posterior_left() -> None:
    _, *axes = Curve([[0, 0, 50], [0, 0, 0]]).frames(10.0)
    np.testing.assert_allclose(axes, [[0, 0, -1], [0, -1, 0], [-1, 0, 0]], atol=1e-12)


def test_frames_do_not_jump_where_the_curvature_vanishes() -> None:
    z = np.linspace(150, -150, 301)
    curve = Curve(np.column_stack([20 * np.sin(z / 40), 30 * np.cos(z / 50), z]))
    for axis in curve.frames(np.arange(-20, curve.length_mm + 20, 0.1))[1:]:
        assert np.linalg.norm(np.diff(axis, axis=0), axis=1).max() < 0.005  # 0.1 mm at a radius above 20 mm


@given(seeds, st.floats(0.3, 3.0), st.floats(0, 60))
def test_evenly_stays_on_the_curve(seed: int, step: float, extend: float) -> None:
    curve = curve_through_centers(random_centers(seed))
    even = curve.evenly(step, extend)
    ends = [-extend, curve.length_mm + extend]
    np.testing.assert_allclose(even.points_world[[0, -1]], curve.at(ends), atol=1e-9)
    gaps = np.diff(even.lengths_mm)
    assert abs(gaps / step - 1).max() < 0.1
    s = np.linspace(0, even.length_mm, 200)
    np.testing.assert_allclose(even.at(s), curve.at(s * (ends[1] - ends[0]) / even.length_mm - extend), atol=0.3)


def arc(radius_mm: float, half_mm: float) -> np.ndarray:
    z = np.linspace(half_mm, -half_mm, round(2 * half_mm) + 1)
    return np.column_stack([np.zeros_like(z), np.sqrt(radius_mm**2 - z**2), z])


@given(seeds, st.floats(1, 60))
def test_smoothing_keeps_straight_lines_and_parabolas(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    z = np.sort(rng.uniform(-200, 200, 150))[::-1]
    z = z - np.arange(150) * 0.1  # uneven steps, none vanishing
    a, b, c = rng.uniform(-1, 1, (3, 2))
    points = np.column_stack([a * 300 + b * z[:, None] + c * z[:, None] ** 2 / 300, z])
    np.testing.assert_allclose(smoothed(points, scale), points, atol=1e-4)


@pytest.mark.parametrize(("radius", "half", "overall", "away"), [(150, 75, 0.4, 0.3), (300, 150, 0.4, 0.3)])
def test_smoothing_keeps_a_bend(radius: float, half: float, overall: float, away: float) -> None:
    """An arc of 1 radian: 57 degrees of kyphosis, over 150 mm (radius 150 mm) or over 300 mm (radius 300 mm)."""
    points = arc(radius, half)
    error = np.abs(smoothed(points, 25.0) - points).max(axis=1)
    assert error.max() < overall
    assert error[30:-30].max() < away


def test_smoothing_keeps_a_semicircle_like_bend_away_from_its_ends() -> None:
    """Radius 150 mm over 200 mm of height (84 degrees)."""
    points = arc(150, 100)
    error = np.abs(smoothed(points, 25.0) - points).max(axis=1)
    assert error.max() < 1.2
    assert error[50:-50].max() < 0.3


@given(seeds)
def test_smoothing_reduces_wiggle(seed: int) -> None:
    clean = arc(300, 150)
    noisy = clean.copy()
    noisy[:, :2] += np.random.default_rng(seed).normal(0, 2.0, (len(clean), 2))
    kept = smoothed(noisy, 25.0)
    np.testing.assert_array_equal(kept[:, 2], clean[:, 2])
    rms = float(np.sqrt(((kept - clean)[:, :2] ** 2).mean()))
    assert rms < 0.25 * 2.0
    roughness = [float((np.diff(p[:, :2], 2, axis=0) ** 2).sum()) for p in (noisy, kept)]
    assert roughness[1] < 1e-3 * roughness[0]


@pytest.mark.parametrize("step", [0.5, 1.0, 3.0])
def test_the_scale_is_a_length(step: float) -> None:
    """Waves of 2 pi scale / 2 vanish, waves of 2 pi scale * 2 stay, whatever the distance of the points."""
    z = np.arange(400, -400 - step, -step)
    for wavelength, gain in ((np.pi * 20, 1 / 65), (4 * np.pi * 20, 64 / 65)):
        wave = np.sin(2 * np.pi * z / wavelength)
        kept = smoothed(np.column_stack([wave, wave, z]), 20.0)[:, 0]
        middle = np.abs(z) < 200
        assert kept[middle] @ wave[middle] / (wave[middle] @ wave[middle]) == pytest.approx(gain, abs=0.01)


@given(seeds)
def test_smoothing_is_linear_and_local_to_its_axis(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = random_centers(seed)
    other = points + np.column_stack([rng.normal(0, 5, (len(points), 2)), np.zeros(len(points))])
    mean = (points + other) / 2
    np.testing.assert_allclose(smoothed(mean, 40.0), (smoothed(points, 40.0) + smoothed(other, 40.0)) / 2, atol=1e-6)
    swapped = smoothed(points[:, [1, 0, 2]], 40.0)
    np.testing.assert_allclose(swapped, smoothed(points, 40.0)[:, [1, 0, 2]], atol=1e-9)


def test_weights_say_which_points_to_believe() -> None:
    points = arc(300, 100)
    points[100, 0] += 10
    weights = np.ones(len(points))
    np.testing.assert_allclose(smoothed(points, 20.0, weights), smoothed(points, 20.0), atol=1e-9)
    weights[100] = 1e-6
    assert np.abs(smoothed(points, 20.0, weights)[:, 0]).max() < 1e-3
    assert np.abs(smoothed(points, 20.0)[:, 0]).max() > 0.05
    weights[100] = 1e9
    assert smoothed(points, 20.0, weights)[100, 0] == pytest.approx(10, abs=1e-3)


@pytest.mark.parametrize("scale", [0.0, -1.0])
def test_scale_zero_is_the_identity_and_copies(scale: float) -> None:
    points = random_centers(1)
    kept = smoothed(points, scale)
    np.testing.assert_array_equal(kept, points)
    assert kept is not points


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 6, 7, 8])
def test_smoothing_takes_short_chains_and_leaves_its_input(count: int) -> None:
    points = random_centers(2)[:count]
    before = points.copy()
    kept = smoothed(points, 25.0)
    assert kept.shape == (count, 3)
    assert np.isfinite(kept).all()
    np.testing.assert_array_equal(points, before)


def test_smoothing_names_points_that_do_not_descend() -> None:
    with pytest.raises(GeometryError, match="descend"):
        smoothed(random_centers(3)[::-1], 25.0)


@pytest.mark.parametrize("seed", range(20))
def test_a_curve_that_jumps_from_side_to_side_still_descends(seed: int) -> None:
    rng = np.random.default_rng(seed)
    jumps = rng.normal(0, 60, (50, 2)) * rng.integers(0, 2, (50, 1))
    curve = Curve(np.column_stack([jumps, -4.0 * np.arange(50)]))
    even = curve.evenly(1.0, extend_mm=12.0)
    assert (np.diff(even.points_world[:, 2]) < 0).all()
    _, tangent, posterior, lateral = even.frames(np.linspace(-20, even.length_mm + 20, 500))
    for axis in (tangent, posterior, lateral):
        assert np.allclose(np.linalg.norm(axis, axis=-1), 1)
