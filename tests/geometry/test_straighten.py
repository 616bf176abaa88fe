"""Laws of vertfrac.geometry.straighten: points there and back, images and points agree."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from vertfrac.errors import GeometryError
from vertfrac.geometry.curve import Curve
from vertfrac.geometry.grid import Grid
from vertfrac.geometry.straighten import StraightSlice, sample

RADIUS, HALF = 70.0, np.deg2rad(55)
TOP = np.array([12.0, -150.0, 900.0])  # centre of the kyphotic circle
seeds = st.integers(0, 2**31)


def kyphosis() -> Curve:
    """A circular arc of radius 70 mm, convex to posterior, 134 mm long."""
    angle = np.linspace(-HALF, HALF, 136)
    return Curve(TOP + RADIUS * np.column_stack([0 * angle, -np.cos(angle), -np.sin(angle)]))


def scoliosis() -> Curve:
    z = np.linspace(150, -150, 301)
    return Curve(np.column_stack([18 * np.sin(z / 38), np.full_like(z, 5.0), z]))  # radius >= 80 mm


def both() -> Curve:
    z = np.linspace(120, -120, 241)
    return Curve(np.column_stack([12 * np.sin(z / 35), -100 + 15 * np.cos(z / 40), z]))


def straight() -> Curve:
    return Curve([[10.0, 20.0, 130.0], [3.0, 5.0, 30.0]])


CURVES: dict[str, Callable[[], Curve]] = {
    "kyphosis": kyphosis,
    "scoliosis": scoliosis,
    "both": both,
    "straight": straight,
}
MADE = {name: make() for name, make in CURVES.items()}
curve_names = st.sampled_from(sorted(MADE))


def slice_along(curve: Curve, spacing_mm: float = 1.0) -> StraightSlice:
    return StraightSlice.along(curve, width_mm=61, spacing_mm=spacing_mm, extend_mm=15)


def oblique_grid(points: np.ndarray, seed: int, margin_mm: float = 8.0) -> Grid:
    """A rotated, flipped, anisotropic grid that covers points (n, 3) with a margin."""
    rng = np.random.default_rng(seed)
    spacing = rng.permutation([0.9, 1.6, 2.5])
    tilt = Rotation.from_rotvec(rng.uniform(-0.5, 0.5, 3)).as_matrix()
    axes = tilt[:, rng.permutation(3)] * rng.choice([-1.0, 1.0], 3)
    along = points @ axes  # orthonormal axes
    low, high = along.min(axis=0) - margin_mm, along.max(axis=0) + margin_mm
    affine = np.eye(4)
    affine[:3, :3] = axes * spacing
    affine[:3, 3] = axes @ low
    a, b, c = (int(n) for n in np.ceil((high - low) / spacing) + 1)
    return Grid((a, b, c), affine)


def voxels_world(grid: Grid) -> np.ndarray:
    return grid.to_world(np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), axis=-1))


@given(curve_names, st.sampled_from([0.7, 1.0, 1.5]), seeds)
def test_points_there_and_back(name: str, spacing: float, seed: int) -> None:
    geometry = slice_along(MADE[name], spacing)
    rng = np.random.default_rng(seed)
    reach = 20 * np.sqrt(rng.uniform(0, 1, 200))
    angle = rng.uniform(0, 2 * np.pi, 200)
    rows = rng.uniform(-30, geometry.rows + 30, 200)  # also beyond both ends
    columns = geometry.center_column + reach * np.cos(angle) / spacing
    points = np.column_stack([rows, columns, reach * np.sin(angle)])
    world = geometry.to_world(points)
    back = geometry.to_slice(world)
    assert np.abs(back - points).max() < 0.05
    assert np.abs(geometry.to_world(back) - world).max() < 0.05


@given(curve_names, seeds)
def test_world_points_there_and_back(name: str, seed: int) -> None:
    """Starting from the world: points in a ball around the curve, not from slice coordinates."""
    curve = MADE[name]
    geometry = slice_along(curve)
    rng = np.random.default_rng(seed)
    away = rng.normal(size=(200, 3))
    away *= (rng.uniform(0, 20, 200) / np.linalg.norm(away, axis=1))[:, None]
    world = curve.at(rng.uniform(-30, curve.length_mm + 30, 200)) + away
    mapped = geometry.to_slice(world)
    assert np.linalg.norm(geometry.to_world(mapped) - world, axis=1).max() < 0.05
    distance = np.hypot(mapped[:, 1] - geometry.center_column, mapped[:, 2])
    assert (distance <= np.linalg.norm(away, axis=1) + 1e-6).all(), "the foot must be the nearest point of the curve"


@pytest.mark.parametrize("name", sorted(MADE))
def test_points_far_beyond_the_ends_there_and_back(name: str) -> None:
    geometry = slice_along(MADE[name])
    points = np.array([[-300.0, 20.0, 5.0], [-70.0, 40.0, -5.0], [geometry.rows + 400.0, 30.0, 0.0]])
    np.testing.assert_allclose(geometry.to_slice(geometry.to_world(points)), points, atol=0.05)


@pytest.mark.parametrize("name", sorted(MADE))
def test_the_surface_is_hit_exactly(name: str) -> None:
    geometry = slice_along(MADE[name])
    on_surface = geometry.pixels_world()[::7, 11:50:5]
    mapped = geometry.to_slice(on_surface)
    np.testing.assert_allclose(mapped[..., 2], 0, atol=1e-6)
    rows, columns = np.arange(geometry.rows)[::7], np.arange(geometry.columns)[11:50:5]
    np.testing.assert_allclose(mapped[..., 0], np.broadcast_to(rows[:, None], mapped.shape[:2]), atol=1e-6)
    np.testing.assert_allclose(mapped[..., 1], np.broadcast_to(columns, mapped.shape[:2]), atol=1e-6)
    flat = np.array([[3.2, 20.1], [60.0, 44.4]])
    with_zero = np.column_stack([flat, [0.0, 0.0]])
    np.testing.assert_array_equal(geometry.to_world(flat), geometry.to_world(with_zero))


@pytest.mark.parametrize("spacing", [0.5, 1.0, 2.0])
def test_a_circular_kyphosis_maps_as_on_paper(spacing: float) -> None:
    """Row: arc length; column: distance behind the arc; offset: distance to the patient's left. No shared code."""
    rng = np.random.default_rng(0)
    angle, behind, left = rng.uniform(-0.9, 0.9, 99), rng.uniform(-20, 20, 99), rng.uniform(-20, 20, 99)
    radial = np.column_stack([0 * angle, -np.cos(angle), -np.sin(angle)])
    world = TOP + (RADIUS + behind)[:, None] * radial - left[:, None] * [1.0, 0.0, 0.0]
    geometry = StraightSlice.along(kyphosis(), width_mm=80, spacing_mm=spacing, extend_mm=10)
    mapped = geometry.to_slice(world)
    columns = round(80 / spacing)
    assert np.abs(mapped[:, 0] - (RADIUS * (angle + HALF) + 10) / spacing).max() < 0.05 / spacing
    assert np.abs(mapped[:, 1] - (columns - 1) / 2 - behind / spacing).max() < 0.05 / spacing
    assert np.abs(mapped[:, 2] - left).max() < 0.05


def test_an_upright_slice_runs_inferior_and_posterior() -> None:
    geometry = StraightSlice.along(Curve([[5, 7, 100], [5, 7, 0]]), width_mm=31, extend_mm=10)
    assert (geometry.rows, geometry.columns, geometry.center_column) == (121, 31, 15.0)
    np.testing.assert_allclose(geometry.to_world([[0, 15], [120, 15]]), [[5, 7, 110], [5, 7, -10]], atol=1e-9)
    np.testing.assert_allclose(geometry.to_world([[10, 0], [10, 30]]), [[5, 22, 100], [5, -8, 100]], atol=1e-9)
    np.testing.assert_allclose(geometry.to_world([10, 15, 4]), [1, 7, 100], atol=1e-9)


@pytest.mark.parametrize("columns", [30, 31])
def test_the_curve_lies_in_the_middle_of_the_slice(columns: int) -> None:
    geometry = StraightSlice.along(both(), width_mm=columns)
    mapped = geometry.to_slice(both().at(np.linspace(0, both().length_mm, 40)))
    np.testing.assert_allclose(mapped[:, 1], (columns - 1) / 2, atol=1e-6)
    edges = geometry.to_world([[50, -0.5], [50, columns - 0.5]])
    np.testing.assert_allclose(edges.mean(axis=0), geometry.to_world([50, (columns - 1) / 2]), atol=1e-9)


def test_shapes_of_points_are_kept_and_missing_points_are_named() -> None:
    geometry = slice_along(both())
    assert geometry.to_slice(np.zeros((0, 3))).shape == (0, 3)
    assert geometry.to_slice([0.0, -90.0, 0.0]).shape == (3,)
    assert geometry.to_slice(np.zeros((2, 6, 3))).shape == (2, 6, 3)
    assert geometry.to_world(np.zeros((0, 2))).shape == (0, 3)
    with pytest.raises(GeometryError, match="NaN"):
        geometry.to_slice([[0, 0, np.nan]])


@given(seeds)
def test_a_point_maps_the_same_alone_and_among_others(seed: int) -> None:
    geometry = slice_along(both())
    points = np.random.default_rng(seed).uniform(-15, 15, (5, 3)) + both().at(100.0)
    crowd = np.concatenate([points, [[0.0, -90.0, 500.0]]])
    np.testing.assert_allclose(geometry.to_slice(crowd)[:5], geometry.to_slice(points), atol=1e-6)


@pytest.mark.parametrize("name", sorted(MADE))
@pytest.mark.parametrize("seed", range(3))
def test_a_linear_function_is_reproduced_pixel_by_pixel(name: str, seed: int) -> None:
    geometry = slice_along(MADE[name])
    assert geometry.rows != geometry.columns
    pixels = geometry.pixels_world()
    grid = oblique_grid(pixels.reshape(-1, 3), seed)
    weights = np.array([0.31, -0.77, 0.53])
    middle = pixels.reshape(-1, 3).mean(axis=0)
    image = sample(((voxels_world(grid) - middle) @ weights).astype(np.float32), grid, pixels, outside=-999.0)
    assert image.shape == (geometry.rows, geometry.columns)
    for row, column in [(0, 0), (geometry.rows - 1, 3), (40, 0), (17, 52), (geometry.rows - 1, geometry.columns - 1)]:
        expected = (geometry.to_world([row, column]) - middle) @ weights
        assert image[row, column] == pytest.approx(expected, abs=1e-3)
    np.testing.assert_allclose(image, (pixels - middle) @ weights, atol=1e-3)


@pytest.mark.parametrize("name", sorted(MADE))
@pytest.mark.parametrize("seed", range(3))
def test_the_slice_at_a_mapped_point_is_the_scan_there(name: str, seed: int) -> None:
    """Points on the surface: interpolate the slice at to_slice(p), compare with the function at p."""
    geometry = slice_along(MADE[name])
    pixels = geometry.pixels_world()
    grid = oblique_grid(pixels.reshape(-1, 3), seed)
    waves = np.random.default_rng(seed).normal(size=(3, 3))
    waves *= (2 * np.pi / 45) / np.linalg.norm(waves, axis=0)  # wavelengths of 45 mm in three directions

    def function(world: np.ndarray) -> np.ndarray:
        return np.sin(world @ waves).sum(axis=-1)

    image = sample(function(voxels_world(grid)).astype(np.float32), grid, pixels, outside=-999.0)
    rng = np.random.default_rng(seed)
    rows, columns = rng.uniform(5, geometry.rows - 6, 500), rng.uniform(11, geometry.columns - 12, 500)
    world = geometry.to_world(np.column_stack([rows, columns]))
    mapped = geometry.to_slice(world)
    seen = map_coordinates(image, mapped[:, :2].T, order=1)
    # Trilinear interpolation of three waves at 2.5 mm errs by at most 3 (2 pi / 45)^2 2.5^2 / 8 = 0.05.
    error = seen - function(world)
    assert np.abs(error).max() < 0.07
    # A shift by half a pixel would cost about 0.1 at the steepest points and 0.05 in the mean.
    assert np.abs(error).mean() < 0.02
    nearest = np.round(mapped[:, :2]).astype(int)
    assert np.abs(image[tuple(nearest.T)] - function(world)).max() < 0.4  # 3 waves, 0.71 mm at most


@pytest.mark.parametrize("seed", range(4))
def test_a_bright_spot_is_found_where_it_was_put(seed: int) -> None:
    """A narrow blob at a world point peaks at to_slice of that point, to a tenth of a pixel."""
    geometry = slice_along(both())
    pixels = geometry.pixels_world()
    grid = oblique_grid(pixels.reshape(-1, 3), seed)
    spot = geometry.to_world([61.3, 22.6])
    volume = np.exp(-((voxels_world(grid) - spot) ** 2).sum(axis=-1) / (2 * 4.0**2)).astype(np.float32)
    image = sample(volume, grid, pixels, outside=0.0).astype(np.float64)
    window = image * (np.hypot(*np.ogrid[-61.3 : geometry.rows - 61.3, -22.6 : geometry.columns - 22.6]) < 12)
    center = [(window.sum(axis=1 - k) @ np.arange(window.shape[k])) / window.sum() for k in (0, 1)]
    np.testing.assert_allclose(center, geometry.to_slice(spot)[:2], atol=0.25)  # the bend stretches one side


@given(seeds)
def test_voxel_centres_return_their_voxels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    grid = oblique_grid(rng.uniform(-15, 15, (20, 3)), seed)
    volume = rng.integers(-1000, 2000, grid.shape).astype(np.int16)
    index = np.column_stack([rng.integers(0, n, 30) for n in grid.shape])
    for order in (0, 1):
        values = sample(volume, grid, grid.to_world(index), outside=-1.0, order=order)
        assert values.dtype == np.float32
        np.testing.assert_allclose(values, volume[tuple(index.T)], atol=1e-2)


@given(seeds)
def test_a_value_does_not_depend_on_the_other_points(seed: int) -> None:
    rng = np.random.default_rng(seed)
    grid = oblique_grid(rng.uniform(-15, 15, (20, 3)), seed)
    volume = rng.normal(size=grid.shape)
    points = grid.to_world(rng.uniform(-3, np.array(grid.shape) + 2, (40, 3)))
    together = sample(volume, grid, points, outside=-7.0)
    alone = [sample(volume, grid, p, outside=-7.0) for p in points]
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_the_imaged_box_ends_at_the_faces_of_its_voxels() -> None:
    grid = Grid((4, 5, 6), np.diag([2.0, 1.0, 3.0, 1.0]))
    volume = np.full(grid.shape, 5, dtype=np.int16)
    points = [[-0.99, 2, 6], [-1.01, 2, 6], [3, 4.49, 6], [3, 4.51, 6], [3, 2, 16.49], [3, 2, 16.51], [900, 2, 6]]
    np.testing.assert_array_equal(sample(volume, grid, points, outside=-9.0), [5, -9, 5, -9, 5, -9, -9])
    np.testing.assert_array_equal(sample(volume, grid, [[900, 2, 6], [0, -900, 0]], outside=-9.0), [-9, -9])


def test_no_points_give_no_values_and_missing_points_are_named() -> None:
    grid = Grid((4, 5, 6), np.eye(4))
    assert sample(np.zeros(grid.shape), grid, np.zeros((0, 7, 3)), outside=0.0).shape == (0, 7)
    with pytest.raises(GeometryError, match="NaN"):
        sample(np.zeros(grid.shape), grid, [[1, 1, 1], [1, np.nan, 1]], outside=0.0)


def test_only_the_box_around_the_points_is_read() -> None:
    class Watched(np.ndarray):
        reads: list[tuple[slice, ...]] = []  # noqa: RUF012  # one array per test

        def __getitem__(self, key: object) -> object:
            if isinstance(key, tuple):
                Watched.reads.append(key)
            return super().__getitem__(key)

    volume = np.zeros((50, 60, 70)).view(Watched)
    sample(volume, Grid((50, 60, 70), np.eye(4)), [[20.0, 30.0, 40.0], [22.0, 30.5, 41.0]], outside=0.0)
    assert Watched.reads
    assert max(np.prod([s.stop - s.start for s in key]) for key in Watched.reads) < 200


def test_padding_and_metal_are_clipped_before_they_bleed() -> None:
    grid = Grid((4, 4, 4), np.eye(4))
    volume = np.full(grid.shape, 100, dtype=np.int16)
    volume[2:] = -3024
    volume[:, 3] = 30000
    between = [[1.25, 1.0, 1.0], [1.0, 2.5, 1.0]]
    values = sample(volume, grid, between, outside=0.0, limits=(-1024, 3071))
    np.testing.assert_allclose(values, [0.75 * 100 - 0.25 * 1024, 0.5 * 100 + 0.5 * 3071])
