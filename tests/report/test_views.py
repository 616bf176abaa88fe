"""Laws of ``views.json``: pictures lie where the scan does, the slice comes back exactly, what is broken is named."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture

from vertfrac import tables
from vertfrac.errors import TableError
from vertfrac.geometry.grid import Grid
from vertfrac.geometry.straighten import StraightSlice
from vertfrac.imaging import Image
from vertfrac.report.views import GREY_HU, View, Views, read_views, write_views

from .conftest import bent_slice, body_on


def _ramp(axis: int) -> Image:
    """A scan of 100 x 100 x 160 mm whose HU grow by 5 per mm along one axis."""
    grid = Grid((50, 50, 80), np.diag([2.0, 2.0, 2.0, 1.0]))
    world = grid.to_world(np.moveaxis(np.indices(grid.shape), 0, -1))
    return Image(np.rint(5 * world[..., axis]).astype(np.int16), grid, "ramp")


def _written(path: Path, image: Image, geometry: StraightSlice, rows: Any = ()) -> Views:
    write_views(path, image=image, geometry=geometry, vertebrae=tables.VERTEBRAE.frame(rows))
    return read_views(path)


def _hu(view: View) -> Any:
    low, high = GREY_HU
    picture = Picture.open(io.BytesIO(base64.b64decode(view.webp)))
    assert picture.size == (view.columns, view.rows)
    return low + np.asarray(picture.convert("L"), dtype=float) * (high - low) / 255


def _planes(view: View) -> tuple[Any, Any]:
    """u and v of the pixel centres."""
    u = view.left + (np.arange(view.columns) + 0.5) * view.step_mm
    v = view.top + (np.arange(view.rows) + 0.5) * view.step_mm
    return np.meshgrid(u, v)


@pytest.mark.parametrize(
    ("name", "axis", "of_plane"),
    [
        ("sagittal", 1, lambda u, v: -u), ("sagittal", 2, lambda u, v: -v),
        ("coronal", 0, lambda u, v: -u), ("coronal", 2, lambda u, v: -v),
    ],
)  # fmt: skip
def test_pictures_lie_where_the_scan_does(
    tmp_path: Path, name: str, axis: int, of_plane: Callable[[Any, Any], Any]
) -> None:
    view = getattr(_written(tmp_path / "v.json", _ramp(axis), bent_slice()), name)
    coordinate = of_plane(*_planes(view))
    inside = (coordinate > 3) & (coordinate < 95)
    assert np.abs(_hu(view) - 5 * coordinate)[inside].max() < 25, "5 mm; grey steps are of 6 HU, WebP adds some"
    assert np.abs(_hu(view) - 5 * coordinate)[inside].mean() < 6


def test_the_straight_picture_lies_on_the_slice(tmp_path: Path) -> None:
    geometry = bent_slice(6.0)
    view = _written(tmp_path / "v.json", _ramp(2), geometry).straight
    u, v = _planes(view)
    world = geometry.to_world(np.stack([v, u + geometry.center_column], axis=-1))
    inside = (world[..., 2] > 3) & (world[..., 2] < 150) & (world[..., 1] > 1) & (world[..., 1] < 97)
    assert np.abs(_hu(view) - 5 * world[..., 2])[inside].mean() < 6


def test_the_slice_and_its_keypoints_come_back_exactly(tmp_path: Path) -> None:
    geometry = bent_slice(6.0)
    points = np.add(body_on(geometry, 40.25, (20, 18, 21)), [0.5, 0, 0])
    rows = [{"vertebra": 7, "status": "ok", **tables.keypoint_values(points)}]
    views = _written(tmp_path / "v.json", _ramp(0), geometry, rows)
    read = views.slice.geometry()
    assert np.array_equal(read.curve.points_world, geometry.curve.points_world)
    np.testing.assert_allclose(read.to_world(views.keypoints[7]), points, atol=1e-9)


def test_a_vertebra_without_keypoints_has_no_place(tmp_path: Path) -> None:
    rows = [{"vertebra": 1, "status": "not_measured"}]
    assert _written(tmp_path / "v.json", _ramp(0), bent_slice(), rows).keypoints == {}


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda text: text[:200], "not valid JSON"),
        (lambda text: json.dumps({**json.loads(text), "format": "vertfrac-views/2"}), "format: "),
        (lambda text: json.dumps({"format": "vertfrac-views/1"}), "Field required"),
        (lambda text: "[]", "expected the views of a scan"),
        (lambda text: text.replace('"start_mm": ', '"start_mm": NaN, "": '), "start_mm: Input should be a finite"),
    ],
)
def test_what_is_broken_is_named(tmp_path: Path, harm: Callable[[str], str], words: str) -> None:
    path = tmp_path / "views.json"
    _written(path, _ramp(0), bent_slice())
    path.write_text(harm(path.read_text()))
    with pytest.raises(TableError, match=r"views\.json: ") as error:
        read_views(path)
    assert words in str(error.value)
