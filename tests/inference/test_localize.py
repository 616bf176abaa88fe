"""Laws of stage 1 at work: the curve is the network's, in world space, between the limits' hull."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from vertfrac.errors import NoSpineError
from vertfrac.geometry.grid import Grid
from vertfrac.inference.localize import SpineCurve, localize
from vertfrac.models.localizer import LocalizerOutput, softmax_moments

Floats = NDArray[np.float64]
SHAPE_ZYX = (24, 30, 26)
OPTIONS: dict[str, Any] = {
    "edge_mm": 0.0, "scaling": "window", "window_hu": (-500, 1000), "limit_probability": 0.5, "smooth_mm": 0.0,
    "extend_mm": 0.0, "flip": False, "weights": "equal", "device": torch.device("cpu"),
}  # fmt: skip


def _oblique() -> Grid:
    """Anisotropic voxels, tilted by 20 degrees about x and 10 about y, somewhere in the world."""
    a, b = np.radians([20, 10])
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = about_x @ about_y @ np.diag([2.0, 3.0, 5.0])
    affine[:3, 3] = [-100, 40, -700]
    z, y, x = SHAPE_ZYX
    return Grid((x, y, z), affine)


def _line(slices: int, first: int = 0) -> Floats:
    """(y, x) per slice of a straight line."""
    z = np.arange(slices) - first
    return np.column_stack([12 + 0.3 * z, 15 - 0.2 * z])


def _says(
    positions: Floats, probability: Floats | None = None, variance: float | Floats = 0.0
) -> Callable[[Tensor], LocalizerOutput]:
    def network(images: Tensor) -> LocalizerOutput:
        assert images.shape[2] == len(positions)
        limits = None if probability is None else torch.logit(torch.tensor(probability, dtype=torch.float64))[None]
        spread = torch.zeros_like(torch.tensor(positions)) + torch.as_tensor(variance, dtype=torch.float64)
        return LocalizerOutput(torch.tensor(positions)[None], spread[None], limits)

    return network


def _localize(network: Any, grid: Grid | None = None, volume: Any = None, **options: Any) -> SpineCurve:
    hu = np.zeros(SHAPE_ZYX, dtype=np.int16) if volume is None else volume
    networks = network if isinstance(network, list) else [network]
    return localize(networks, hu, grid or _oblique(), **{**OPTIONS, **options})


def _world(positions: Floats, planes: Floats, grid: Grid) -> Floats:
    return grid.to_world(np.column_stack([positions[:, 1], positions[:, 0], planes]))


def test_the_curve_lies_on_the_networks_line_in_world_space() -> None:
    found = _localize(_says(_line(24))).curve.points_world
    ends = _world(_line(24), np.arange(24.0), _oblique())[[0, -1]]
    direction = (ends[1] - ends[0]) / np.linalg.norm(ends[1] - ends[0])
    offset = found - ends[0]
    assert np.abs(offset - (offset @ direction)[:, None] * direction).max() < 1e-6


def test_the_curve_reaches_half_a_slice_beyond_its_outermost_slices() -> None:
    curve = _localize(_says(_line(24)), extend_mm=7.0).curve
    ends = _world(_line(24), np.arange(24.0), _oblique())[[0, -1]]
    assert curve.length_mm == pytest.approx(np.linalg.norm(ends[1] - ends[0]) + 2 * (2.5 + 7.0), abs=1e-6)


def test_a_bent_curve_passes_through_every_slice_position() -> None:
    z = np.arange(24.0)
    positions = np.column_stack([14 + 4 * np.sin(z / 6), 12 + 3 * np.cos(z / 7)])
    curve = _localize(_says(positions)).curve
    dense = curve.at(np.arange(0, curve.length_mm, 0.01))
    nodes = _world(positions, z, _oblique())
    nearest = np.linalg.norm(nodes[:, None] - dense[None], axis=-1).min(axis=1)
    assert nearest.max() < 0.05


def test_the_curve_descends() -> None:
    assert (np.diff(_localize(_says(_line(24))).curve.points_world[:, 2]) < 0).all()


def test_the_limits_are_the_hull_of_the_probable_slices() -> None:
    probability = np.full(24, 0.1)
    probability[[5, 9, 17]] = 0.9
    grid = Grid((26, 30, 24), np.diag([2.0, 3.0, 5.0, 1.0]))
    straight = np.tile([10.0, 12.0], (24, 1))
    z = _localize(_says(straight, probability), grid).curve.points_world[:, 2]
    assert (z[-1], z[0]) == pytest.approx((5 * 5.0 - 2.5, 17 * 5.0 + 2.5))


def test_the_probability_along_the_curve_is_that_of_the_slices() -> None:
    probability = np.linspace(0.55, 0.95, 24)
    grid = Grid((26, 30, 24), np.diag([2.0, 3.0, 5.0, 1.0]))
    found = _localize(_says(np.tile([10.0, 12.0], (24, 1)), probability), grid)
    expected = np.interp(found.curve.points_world[:, 2] / 5.0, np.arange(24), probability)
    assert np.allclose(found.probability, expected)


@pytest.mark.parametrize("probable", [[], [7]])
def test_fewer_than_two_probable_slices_are_no_spine(probable: list[int]) -> None:
    probability = np.full(24, 0.2)
    probability[probable] = 0.9
    with pytest.raises(NoSpineError, match="no spine found"):
        _localize(_says(_line(24), probability))


def test_edges_are_seen_by_the_network_alone() -> None:
    plain = _localize(_says(_line(24)))
    edged = _localize(_says(_line(24 + 2 * 4, first=4)), edge_mm=20.0)
    assert np.allclose(edged.curve.points_world, plain.curve.points_world)


def test_several_networks_are_averaged() -> None:
    apart = [_says(_line(24) + shift) for shift in ([3.0, 0.0], [0.0, 1.5], [-3.0, -1.5])]
    assert np.allclose(_localize(apart).curve.points_world, _localize(_says(_line(24))).curve.points_world)


def _brightest(images: Tensor) -> LocalizerOutput:
    return LocalizerOutput(*softmax_moments(images[:, 0] * 1000), None)


def test_averaging_with_the_mirrored_scan_does_not_move_a_symmetric_answer() -> None:
    volume = np.full(SHAPE_ZYX, -500, dtype=np.int16)
    for z in range(SHAPE_ZYX[0]):
        volume[z, 10, 3 + z // 2] = 1000
    plain, flipped = (_localize(_brightest, volume=volume, flip=flip) for flip in (False, True))
    assert np.allclose(plain.curve.points_world, flipped.curve.points_world, atol=1e-3)


def test_smoothing_keeps_a_straight_line() -> None:
    plain, smooth = (_localize(_says(_line(24)), smooth_mm=mm) for mm in (0.0, 30.0))
    assert np.allclose(plain.curve.points_world, smooth.curve.points_world, atol=1e-6)


def test_precise_networks_outweigh_vague_ones() -> None:
    good, bad = _line(24), _line(24) + 8
    variance = np.full((24, 2), 50.0)
    found, alone, equal = (
        _localize([_says(good), *others], weights=weights).curve.at(30.0)
        for others, weights in (([_says(bad, variance=variance)], "precision"), ([], "equal"), ([_says(bad)], "equal"))
    )
    assert np.linalg.norm(found - alone) == pytest.approx(np.linalg.norm(equal - alone) * 2 / 102, rel=1e-3)


def test_vague_slices_bend_the_smoothed_curve_less() -> None:
    off = _line(24)
    off[10:13] += 6
    vague = np.zeros((24, 2))
    vague[10:13] = 400.0
    straight = _localize(_says(_line(24)), smooth_mm=10.0).curve.at(60.0)
    distances = [
        np.linalg.norm(_localize(_says(off, variance=vague), smooth_mm=10.0, weights=w).curve.at(60.0) - straight)
        for w in ("precision", "equal")
    ]
    assert distances[0] < 0.2 * distances[1]


def test_a_scan_tilted_in_the_room_gives_the_same_smoothed_curve_tilted() -> None:
    z = np.arange(24.0)
    bent = np.column_stack([14 + 4 * np.sin(z / 2), 12 + 3 * np.cos(z / 3)])
    upright, oblique = Grid((26, 30, 24), np.diag([2.0, 3.0, 5.0, 1.0])), _oblique()
    expected, found = (_localize(_says(bent), grid, smooth_mm=30.0).curve for grid in (upright, oblique))
    tilted = oblique.to_world(upright.to_index(expected.points_world))
    assert found.points_world.shape == tilted.shape
    assert np.abs(found.points_world - tilted).max() < 0.02
