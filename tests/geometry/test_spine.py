"""Laws of the annotated spine: through every centre, between the outermost keypoints, one point per plane."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from vertfrac.errors import GeometryError
from vertfrac.geometry.grid import Grid
from vertfrac.geometry.keypoints import centers
from vertfrac.geometry.spine import annotated_spine

Floats = NDArray[np.float64]
MakeSpine = Callable[..., Floats]


@pytest.mark.parametrize("bend", [0.0, 25.0])
def test_the_curve_passes_through_every_centre(spine_keypoints: MakeSpine, bend: float) -> None:
    keypoints = spine_keypoints(6, bend_mm=bend)
    curve = annotated_spine(keypoints).curve
    dense = curve.at(np.arange(0, curve.length_mm, 0.05))
    nearest = np.linalg.norm(centers(keypoints)[:, None] - dense[None], axis=-1).min(axis=1)
    assert nearest.max() < 0.1


def test_the_limits_are_the_outermost_keypoints(spine_keypoints: MakeSpine) -> None:
    spine = annotated_spine(spine_keypoints(5, top=130.0, pitch=26.0))
    assert (spine.upper_z, spine.lower_z) == (140.0, 16.0)


@pytest.mark.parametrize("bend", [0.0, 25.0])
def test_the_curve_reaches_both_limits(spine_keypoints: MakeSpine, bend: float) -> None:
    spine = annotated_spine(spine_keypoints(5, bend_mm=bend))
    z = spine.curve.points_world[:, 2]
    assert z[0] >= spine.upper_z
    assert z[-1] <= spine.lower_z


def test_the_order_of_vertebrae_does_not_matter(spine_keypoints: MakeSpine) -> None:
    keypoints = spine_keypoints(5, bend_mm=10)
    there, back = annotated_spine(keypoints), annotated_spine(keypoints[::-1])
    assert np.allclose(there.curve.points_world, back.curve.points_world)


@pytest.mark.parametrize("flip", [False, True])
def test_on_a_grid_the_positions_lie_on_the_curve(spine_keypoints: MakeSpine, flip: bool) -> None:
    spine = annotated_spine(spine_keypoints(5, bend_mm=20))
    affine = np.diag([2.0, 3.0, -4.0 if flip else 4.0, 1.0])
    affine[:3, 3] = [1.0, -2.0, 156.0 if flip else 0.0]
    grid = Grid((40, 40, 40), affine)
    position, inside = spine.on_grid(grid)
    points = grid.to_world(np.column_stack([position, np.arange(40)]))[inside]
    curve = spine.curve.points_world[::-1]
    expected = np.column_stack([np.interp(points[:, 2], curve[:, 2], curve[:, axis]) for axis in (0, 1)])
    assert np.abs(points[:, :2] - expected).max() < 1e-6


@pytest.mark.parametrize("flip", [False, True])
def test_on_a_grid_the_planes_inside_are_those_between_the_limits(spine_keypoints: MakeSpine, flip: bool) -> None:
    spine = annotated_spine(spine_keypoints(5))
    affine = np.diag([2.0, 3.0, -4.0 if flip else 4.0, 1.0])
    affine[2, 3] = 157.0 if flip else 1.0
    _, inside = spine.on_grid(Grid((40, 40, 40), affine))
    z = affine[2, 3] + affine[2, 2] * np.arange(40)
    clear = np.minimum(np.abs(z - spine.upper_z), np.abs(z - spine.lower_z)) > 1.0
    assert np.array_equal(inside[clear], ((z >= spine.lower_z) & (z <= spine.upper_z))[clear])


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_vertebrae_are_refused(spine_keypoints: MakeSpine, count: int) -> None:
    with pytest.raises(GeometryError):
        annotated_spine(spine_keypoints(2)[:count])


def test_two_vertebrae_at_one_height_are_refused(spine_keypoints: MakeSpine) -> None:
    keypoints = spine_keypoints(3)
    keypoints[1] = keypoints[0] + [5.0, 5.0, 0.0]
    with pytest.raises(GeometryError, match="same height"):
        annotated_spine(keypoints)
