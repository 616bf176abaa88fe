"""Laws of the context: what lies beside the spine shows in the right view, row and column."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from vertfrac.geometry.context import (
    COLUMNS,
    CORONAL,
    CORONAL_SLABS_MM,
    EXTEND_MM,
    HU_STEP,
    LOWEST_HU,
    SAGITTAL,
    STEP_MM,
    context_along,
)
from vertfrac.geometry.curve import Curve
from vertfrac.geometry.grid import Grid

SPACING, SHAPE = 4.0, (60, 60, 80)
GRID = Grid(SHAPE, np.diag([SPACING, SPACING, SPACING, 1.0]))
MIDDLE = (SHAPE[0] - 1) * SPACING / 2
STRAIGHT = Curve([[MIDDLE, MIDDLE, 260.0], [MIDDLE, MIDDLE, 60.0]])


def _with_blob(right: float, anterior: float, z: float, radius: float = 8.0) -> NDArray[np.int16]:
    """Water with a ball of 1000 HU so far to the right of and in front of the curve, mm."""
    x, y, height = np.meshgrid(*(np.arange(n) * SPACING for n in SHAPE), indexing="ij")
    near = (x - MIDDLE - right) ** 2 + (y - MIDDLE - anterior) ** 2 + (height - z) ** 2 < radius**2
    return np.where(near, 1000, 0).astype(np.int16)


def _hu(values: NDArray[np.uint8]) -> NDArray[np.float64]:
    return values * HU_STEP + LOWEST_HU


def test_it_covers_the_curve_and_what_lies_beyond_its_ends() -> None:
    views, start = context_along(np.zeros(SHAPE, dtype=np.int16), GRID, STRAIGHT)
    assert views.dtype == np.uint8
    assert views.shape == (CORONAL + SAGITTAL, (200 + 2 * EXTEND_MM) / STEP_MM + 1, COLUMNS)
    assert start == -EXTEND_MM


def test_beyond_the_scan_lies_air() -> None:
    views = context_along(np.zeros(SHAPE, dtype=np.int16), GRID, STRAIGHT).views
    below = (SHAPE[2] - 1) * SPACING - 260 + SPACING  # mm above the curve where the scan ends
    assert (views[:, : int((EXTEND_MM - below) / STEP_MM) - 1] == 0).all()
    assert (_hu(views[:, 20:40, 20:28]) == 0).all()


@pytest.mark.parametrize(("anterior", "slab"), [(76.0, 0), (40.0, 1), (8.0, 2), (-20.0, 3), (-60.0, 4)])
@pytest.mark.parametrize("right", [-48.0, 0.0, 64.0])
@pytest.mark.parametrize("z", [100.0, 180.0])
def test_a_thing_is_seen_where_it_is(right: float, anterior: float, slab: int, z: float) -> None:
    context = context_along(_with_blob(right, anterior, z), GRID, STRAIGHT)
    seen = _hu(context.views)
    brightest = seen[1:CORONAL:2].max(axis=(1, 2))  # the maxima of all slabs, in front first
    assert brightest.argmax() == slab
    assert CORONAL_SLABS_MM[slab] <= -anterior < CORONAL_SLABS_MM[slab + 1]
    rows, columns = (axis.mean() for axis in np.nonzero(seen[2 * slab + 1] > 200))
    assert rows == pytest.approx(context.rows_at(np.array(260.0 - z)), abs=0.6)
    lateral = STRAIGHT.frames(0.0)[3]
    assert (columns - (COLUMNS - 1) / 2) * STEP_MM == pytest.approx(right * lateral[0], abs=2.5)
    side = [0, 1, 2][int(np.searchsorted([14.0, 38.0], abs(right)))]
    rows, columns = (axis.mean() for axis in np.nonzero(seen[CORONAL + 2 * side + 1] > 200))
    assert rows == pytest.approx(context.rows_at(np.array(260.0 - z)), abs=0.6)
    assert (columns - (COLUMNS - 1) / 2) * STEP_MM == pytest.approx(-anterior, abs=2.5)


def test_left_and_right_mirror_the_coronal_view_alone() -> None:
    one, other = (context_along(_with_blob(right, -20.0, 150.0), GRID, STRAIGHT).views for right in (-40.0, 40.0))
    assert np.array_equal(one[:CORONAL], other[:CORONAL, :, ::-1])
    assert np.array_equal(one[CORONAL:], other[CORONAL:])


def test_values_beyond_the_range_are_clipped() -> None:
    high = context_along(np.full(SHAPE, 3071, dtype=np.int16), GRID, STRAIGHT).views
    assert (high[:, 25:45, 20:28] == 255).all()


def test_the_value_of_padding_beside_the_patient_changes_nothing() -> None:
    patient = _with_blob(0.0, -20.0, 150.0)
    beside = np.hypot(*(np.ogrid[: SHAPE[0], : SHAPE[1]][axis] - MIDDLE / SPACING for axis in (0, 1))) > 12
    air, padding = (context_along(np.where(beside[..., None], hu, patient), GRID, STRAIGHT) for hu in (-1024, -3024))
    assert np.array_equal(air.views, padding.views)
