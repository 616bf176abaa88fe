"""Laws of vertfrac.geometry.grid: one affine, one half pixel."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from vertfrac.errors import GeometryError
from vertfrac.geometry.grid import Grid, strided_centers


def oblique_grid(seed: int) -> Grid:
    """A rotated, flipped, permuted and anisotropic grid of unequal edge lengths."""
    rng = np.random.default_rng(seed)
    axes = Rotation.random(rng=rng).as_matrix()[:, rng.permutation(3)] * rng.choice([-1.0, 1.0], 3)
    affine = np.eye(4)
    affine[:3, :3] = axes * rng.uniform(0.4, 5.0, 3)
    affine[:3, 3] = rng.uniform(-500, 500, 3)
    return Grid((int(rng.integers(3, 40)), int(rng.integers(41, 80)), int(rng.integers(81, 120))), affine)


seeds = st.integers(0, 2**31)


@given(seeds)
def test_index_and_world_are_inverse(seed: int) -> None:
    grid = oblique_grid(seed)
    index = np.random.default_rng(seed).uniform(-50, 200, (4, 5, 3))
    np.testing.assert_allclose(grid.to_index(grid.to_world(index)), index, atol=1e-9)
    world = grid.to_world(index)
    np.testing.assert_allclose(grid.to_world(grid.to_index(world)), world, atol=1e-9)


@given(seeds)
def test_to_world_is_the_homogeneous_product(seed: int) -> None:
    grid = oblique_grid(seed)
    index = np.array([2.0, 3.5, -7.0])
    np.testing.assert_allclose(grid.to_world(index), (grid.world_from_index @ [*index, 1.0])[:3], atol=1e-9)


@given(seeds)
def test_spacing_is_the_distance_of_neighbouring_centres(seed: int) -> None:
    grid = oblique_grid(seed)
    steps = np.linalg.norm(grid.to_world(np.eye(3)) - grid.to_world(np.zeros(3)), axis=-1)
    np.testing.assert_allclose(grid.spacing_mm, steps, rtol=1e-9)
    np.testing.assert_allclose(grid.extent_mm, steps * grid.shape, rtol=1e-9)


@given(seeds, st.tuples(*[st.floats(0.3, 7.0)] * 3))
def test_resampled_keeps_the_corner_and_covers_the_box(seed: int, spacing: tuple[float, float, float]) -> None:
    grid = oblique_grid(seed)
    new = grid.resampled(spacing)
    np.testing.assert_allclose(new.spacing_mm, spacing, rtol=1e-9)
    corner = np.full(3, -0.5)
    np.testing.assert_allclose(new.to_world(corner), grid.to_world(corner), atol=1e-8)
    excess = new.extent_mm - grid.extent_mm
    assert (excess > -1e-5 * new.spacing_mm).all(), "the new grid must cover the box"
    assert (excess < new.spacing_mm).all(), "and need no voxel more than that"
    unit, new_unit = (g.world_from_index[:3, :3] / g.spacing_mm for g in (grid, new))
    np.testing.assert_allclose(new_unit, unit, atol=1e-12)


@given(seeds)
def test_resampled_to_its_own_spacing_is_itself(seed: int) -> None:
    grid = oblique_grid(seed)
    same = grid.resampled(grid.spacing_mm)
    assert same.shape == grid.shape
    np.testing.assert_allclose(same.world_from_index, grid.world_from_index, atol=1e-9)


@given(seeds)
def test_resampled_keeps_linear_functions(seed: int) -> None:
    """A function linear in world space, averaged over 2 x 2 x 2 voxels, is the function at the coarse centres."""
    fine = oblique_grid(seed)
    coarse = fine.resampled(2 * fine.spacing_mm)
    weights = np.array([0.3, -0.7, 1.1])

    def voxels(grid: Grid) -> np.ndarray:
        return grid.to_world(np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), -1)) @ weights

    values = voxels(fine)
    a, b, c = (n // 2 for n in fine.shape)
    means = values[: 2 * a, : 2 * b, : 2 * c].reshape(a, 2, b, 2, c, 2).mean(axis=(1, 3, 5))
    np.testing.assert_allclose(voxels(coarse)[:a, :b, :c], means, atol=1e-8)


def test_distance_inside_of_known_points() -> None:
    grid = Grid((10, 20, 30), np.diag([2.0, 1.0, 0.5, 1.0]))  # covers [-1, 19] x [-0.5, 19.5] x [-0.25, 14.75]
    points = [[9, 9.5, 7.25], [-1, 5, 5], [0, 5, 5], [9, 9.5, 14.5], [21, 5, 5], [9, -3.5, 7], [18, 19, 14]]
    np.testing.assert_allclose(grid.distance_inside_mm(points), [7.5, 0, 1, 0.25, -2, -3, 0.5], atol=1e-12)
    assert grid.distance_inside_mm([9, 9.5, 7.25]).shape == ()


@given(seeds)
def test_distance_inside_does_not_depend_on_orientation(seed: int) -> None:
    grid = oblique_grid(seed)
    upright = Grid(grid.shape, np.diag([*grid.spacing_mm, 1.0]))
    index = np.random.default_rng(seed).uniform(-20, 130, (50, 3))
    expected = upright.distance_inside_mm(upright.to_world(index))
    np.testing.assert_allclose(grid.distance_inside_mm(grid.to_world(index)), expected, atol=1e-8)


def test_distance_inside_of_a_sheared_grid_is_perpendicular() -> None:
    """A tilted gantry: slices 1 mm apart along z shifted by 1 mm in y each, so the y faces lean by 45 degrees."""
    affine = np.eye(4)
    affine[1, 2] = 1.0
    grid = Grid((201, 41, 201), affine)
    point = grid.to_world([100.0, 9.5, 100.0])  # 10 mm along y from the leaning face
    assert grid.distance_inside_mm(point) == pytest.approx(10 * np.sqrt(0.5))


def test_strided_centers_are_the_means_of_their_samples() -> None:
    for stride in (1, 2, 4, 7):
        means = np.arange(6 * stride).reshape(6, stride).mean(axis=1)
        np.testing.assert_array_equal(strided_centers(6, stride), means)
    assert strided_centers(0, 4).shape == (0,)


def test_a_grid_is_frozen() -> None:
    affine = np.eye(4)
    grid = Grid((2, 3, 4), affine)
    affine[0, 3] = 9.0
    assert grid.world_from_index[0, 3] == 0
    with pytest.raises(ValueError, match="read-only"):
        grid.world_from_index[0, 3] = 1.0


@pytest.mark.parametrize(
    ("shape", "affine", "message"),
    [
        ((2, 2, 2), np.eye(3), "4x4"),
        ((2, 2, 2), np.full((4, 4), np.nan), "finite"),
        ((2, 2, 2), np.diag([1.0, 1.0, 0.0, 1.0]), "singular"),
        ((2, 0, 2), np.eye(4), "at least one voxel"),
    ],
)
def test_impossible_grids_are_named(shape: tuple[int, int, int], affine: np.ndarray, message: str) -> None:
    with pytest.raises(GeometryError, match=message):
        Grid(shape, affine)


@pytest.mark.parametrize("spacing", [[1, 1, 0], [1, -1, 1], [1, np.nan, 1], [np.inf, 1, 1]])
def test_impossible_spacings_are_named(spacing: list[float]) -> None:
    with pytest.raises(GeometryError, match="spacing"):
        Grid((2, 2, 2), np.eye(4)).resampled(spacing)
