"""Laws of resampling: a linear image stays the same function of the world, whatever the two spacings."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from vertfrac.geometry.grid import Grid
from vertfrac.geometry.resample import resample

Floats = NDArray[np.float64]
GRADIENT = np.array([3.0, -4.0, 2.5])
spacings = st.tuples(*[st.floats(0.8, 9.0)] * 3)


def _oblique(spacing: tuple[float, float, float], shape: tuple[int, int, int]) -> Grid:
    a = np.radians(25)
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1.0]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag(spacing)
    affine[:3, 3] = [-20, 30, 40]
    return Grid(shape, affine)


def _linear(grid: Grid) -> Floats:
    return grid.to_world(np.moveaxis(np.indices(grid.shape), 0, -1)) @ GRADIENT


@given(spacing=spacings)
def test_a_linear_image_keeps_its_values_in_the_world(spacing: tuple[float, float, float]) -> None:
    grid = _oblique((1.0, 1.5, 2.5), (34, 26, 20))
    found, target = resample(_linear(grid), grid, spacing, low=-3000, high=3000)
    index = grid.to_index(target.to_world(np.moveaxis(np.indices(target.shape), 0, -1)))
    # beyond the centres of the outermost whole blocks the image is continued as a constant
    reach = np.maximum(1, target.spacing_mm / grid.spacing_mm)
    inner = ((index >= reach / 2) & (index <= np.array(grid.shape) - 1 - 1.5 * reach)).all(axis=-1)
    assert np.abs(found - _linear(target))[inner].max(initial=0) <= 0.51


@given(spacing=spacings, value=st.integers(-1000, 3000))
def test_a_constant_image_stays_constant(spacing: tuple[float, float, float], value: int) -> None:
    grid = _oblique((1.0, 1.5, 2.5), (9, 7, 6))
    found, _ = resample(np.full(grid.shape, value, dtype=np.int16), grid, spacing, low=-3000, high=3000)
    assert (found == value).all()


@given(spacing=spacings)
def test_the_result_fits_its_grid(spacing: tuple[float, float, float]) -> None:
    grid = _oblique((1.0, 1.5, 2.5), (9, 7, 6))
    found, target = resample(np.zeros(grid.shape, dtype=np.int16), grid, spacing, low=-3000, high=3000)
    assert found.shape == target.shape
    assert np.allclose(target.spacing_mm, spacing)


def test_the_same_spacing_changes_nothing() -> None:
    grid = _oblique((1.0, 1.5, 2.5), (9, 7, 6))
    volume = np.random.default_rng(0).integers(-1000, 2000, grid.shape).astype(np.int16)
    found, target = resample(volume, grid, grid.spacing_mm, low=-1024, high=3071)
    assert np.array_equal(found, volume)
    assert np.allclose(target.world_from_index, grid.world_from_index)


@pytest.mark.parametrize("factor", [2, 3])
def test_a_whole_factor_is_the_mean_of_the_voxels(factor: int) -> None:
    grid = Grid((6, 12, 6), np.eye(4))
    volume = np.random.default_rng(0).integers(-1000, 2000, grid.shape).astype(np.int16)
    found, _ = resample(volume, grid, (factor,) * 3, low=-1024, high=3071)
    blocks = volume.reshape(6 // factor, factor, 12 // factor, factor, 6 // factor, factor)
    assert np.abs(found - blocks.mean(axis=(1, 3, 5))).max() <= 0.51


def test_metal_and_padding_are_clipped_before_they_bleed() -> None:
    grid = Grid((8, 8, 8), np.eye(4))
    volume = np.zeros(grid.shape, dtype=np.int16)
    volume[0, 0, 0], volume[7, 7, 7] = -30000, 30000
    found, _ = resample(volume, grid, (2.0, 2.0, 2.0), low=-1024, high=3071)
    assert (found.min(), found.max()) == (-128, 384)


def test_an_image_thinner_than_a_voxel_is_one_voxel() -> None:
    grid = Grid((3, 3, 2), np.eye(4))
    found, _ = resample(np.full(grid.shape, 7), grid, (10.0, 10.0, 10.0), low=-1024, high=3071)
    assert found.tolist() == [[[7]]]


@given(spacing=spacings, order=st.permutations(range(3)), seed=st.integers(0, 99))
def test_the_order_in_memory_changes_nothing(spacing: tuple[float, float, float], order: list[int], seed: int) -> None:
    grid = _oblique((1.0, 1.5, 2.5), (19, 14, 11))
    volume = np.random.default_rng(seed).integers(-1000, 2000, grid.shape).astype(np.int16)
    stored = np.ascontiguousarray(volume.transpose(order)).transpose(np.argsort(order))
    plain, _ = resample(volume, grid, spacing, low=-1024, high=3071)
    found, _ = resample(stored, grid, spacing, low=-1024, high=3071)
    np.testing.assert_array_equal(found, plain)


@given(spacing=spacings, seed=st.integers(0, 99))
def test_equals_the_whole_volume_axis_by_axis(spacing: tuple[float, float, float], seed: int) -> None:
    """What it is by definition, in float64, without planes: equal but for halves that round either way."""
    grid = _oblique((1.0, 1.5, 2.5), (19, 14, 11))
    volume = np.random.default_rng(seed).integers(-2000, 4000, grid.shape).astype(np.int16)
    found, target = resample(volume, grid, spacing, low=-1024, high=3071)
    data = np.clip(volume.astype(np.float64), -1024, 3071)
    for axis, ratio in enumerate(target.spacing_mm / grid.spacing_mm):
        factor = min(max(1, int(ratio + 1e-6)), data.shape[axis])
        starts = np.arange(0, data.shape[axis], factor)
        sizes = np.minimum(starts + factor, data.shape[axis]) - starts
        rows = np.moveaxis(np.add.reduceat(data, starts, axis=axis), axis, -1) / sizes
        wanted = (np.arange(target.shape[axis]) + 0.5) * ratio - 0.5
        centers = starts + (sizes - 1) / 2
        data = np.moveaxis(np.apply_along_axis(partial(np.interp, wanted, centers), -1, rows), -1, axis)
    assert np.abs(found - data).max() <= 0.501
