"""What the report page needs of one scan, kept in its folder as ``views.json``: three grey pictures and their geometry.

The pictures are the straightened slice, and the scan's own sagittal and coronal view along the spine's curve. They are
WebP files of 8 bit, so that the page can shift the window over GREY_HU. Each lies in a plane of its own, in mm, u to
the right and v downwards:

- straight: u from the curve towards posterior, v along the curve from the first row of the slice;
- sagittal: u = -y, v = -z of the world;
- coronal: u = -x, v = -z of the world (the patient's right is at the left, as radiologists look at it).

The file also holds the slice's geometry (``StraightSlice``) and where the six keypoints of each vertebra lie in it, so
that the page maps a moved point to the world just as ``geometry.straighten`` does.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from PIL import Image as Picture
from pydantic import BaseModel, ConfigDict, ValidationError

from vertfrac import tables
from vertfrac.errors import TableError
from vertfrac.files import read_json, write_json
from vertfrac.geometry.curve import Curve
from vertfrac.geometry.straighten import StraightSlice, sample
from vertfrac.imaging import Image
from vertfrac.report.scan_figure import cut, sagittal_view

Floats = NDArray[np.float64]

FILE = "views.json"
FORMAT = "vertfrac-views/1"
GREY_HU = (-250.0, 1250.0)
"""HU of grey 0 and 255."""
FINEST_MM = 0.6
"""Pixels are not smaller than this, whatever the scan: a report of many scans must stay light."""

_QUALITY = 80
_LATERAL_MM, _ABOVE_MM, _AIR_HU = 90.0, 60.0, -1024


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class View(_Part):
    """A picture in its plane: size in pixels, pixel size, outer left and upper edge in mm, a WebP file as base64."""

    columns: int
    rows: int
    step_mm: float
    left: float
    top: float
    webp: str


class Slice(_Part):
    """A ``StraightSlice``. curve : its points (n, 3), world RAS mm, little-endian float64 as base64."""

    curve: str
    rows: int
    columns: int
    spacing_mm: float
    start_mm: float

    def geometry(self) -> StraightSlice:
        """The slice itself."""
        points = np.frombuffer(base64.b64decode(self.curve), dtype="<f8").reshape(-1, 3)
        return StraightSlice(Curve(points), self.rows, self.columns, self.spacing_mm, self.start_mm)


class Views(_Part):
    """The content of ``views.json``. keypoints : vertebra -> six points of the slice (row, column, offset mm)."""

    format: Literal["vertfrac-views/1"]
    grey_hu: tuple[float, float]
    slice: Slice
    straight: View
    sagittal: View
    coronal: View
    keypoints: dict[int, tuple[tuple[float, float, float], ...]]


def write_views(path: Path | str, *, image: Image, geometry: StraightSlice, vertebrae: pd.DataFrame) -> None:
    """Write the views of one scan.

    image : canonical scan. vertebrae : its VERTEBRAE rows; those without finite keypoints have none here either.
    """
    step = float(np.clip(image.grid.spacing_mm[1:].min(), FINEST_MM, geometry.spacing_mm))
    start, length = geometry.start_mm, (geometry.rows - 1) * geometry.spacing_mm
    upper_z, lower_z = geometry.curve.at([start, start + length])[:, 2].tolist()
    sagittal = sagittal_view(image, geometry.curve, upper_z, lower_z, finest_mm=FINEST_MM)
    left, right, _, high = sagittal.extent
    content = Views(
        format=FORMAT,
        grey_hu=GREY_HU,
        slice=Slice(
            curve=base64.b64encode(geometry.curve.points_world.astype("<f8").tobytes()).decode("ascii"),
            rows=geometry.rows,
            columns=geometry.columns,
            spacing_mm=geometry.spacing_mm,
            start_mm=geometry.start_mm,
        ),
        straight=_straight(image, geometry, step),
        sagittal=_view(sagittal.hu, (left - right) / sagittal.hu.shape[1], -left, -high),
        coronal=_coronal(image, geometry.curve, upper_z, lower_z),
        keypoints=_keypoints(geometry, vertebrae),
    )
    write_json(path, content.model_dump(mode="json"))


def read_views(path: Path | str) -> Views:
    """Read the views of one scan; TableError names the file if it is missing, broken or of another version."""
    content = read_json(path)
    try:
        return Views.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise TableError(f"{path}: {where}: {first['msg']}, expected the views of a scan ({FORMAT})") from error


def _keypoints(geometry: StraightSlice, vertebrae: pd.DataFrame) -> dict[int, Any]:
    if vertebrae.empty:
        return {}
    points = tables.keypoints_of(vertebrae)
    finite = np.isfinite(points).all(axis=(1, 2))
    on_slice = geometry.to_slice(points[finite])
    return dict(zip(vertebrae.loc[finite, "vertebra"].astype(int).tolist(), on_slice.tolist(), strict=True))


def _straight(image: Image, geometry: StraightSlice, step_mm: float) -> View:
    """The straightened slice, sampled finer than the network sees it where the scan is finer."""
    height, width = (n * geometry.spacing_mm for n in (geometry.rows - 1, geometry.columns))
    rows, columns = int(height / step_mm) + 1, round(width / step_mm)
    fine = StraightSlice(geometry.curve, rows, columns, step_mm, geometry.start_mm)
    hu = sample(image.hu, image.grid, fine.pixels_world(), outside=_AIR_HU)
    return _view(hu, step_mm, -columns * step_mm / 2, -step_mm / 2)


def _coronal(image: Image, curve: Curve, upper_z: float, lower_z: float) -> View:
    """The coronal surface through the curve: at each height z the y is that of the curve, or of its nearest end."""
    ends = np.array(image.grid.shape) - 0.5
    corners = image.grid.to_world(
        [(i, j, k) for i in (-0.5, ends[0]) for j in (-0.5, ends[1]) for k in (-0.5, ends[2])]
    )
    points = curve.points_world
    x_low, x_high, _ = cut(corners[:, 0], points[:, 0].min() - _LATERAL_MM, points[:, 0].max() + _LATERAL_MM)
    z_low, z_high, _ = cut(corners[:, 2], lower_z - _ABOVE_MM, upper_z + _ABOVE_MM)
    step = float(np.clip(image.grid.spacing_mm[[0, 2]].min(), FINEST_MM, 1.5))
    columns, rows = (max(1, round((high - low) / step)) for low, high in ((x_low, x_high), (z_low, z_high)))
    z = z_high - (np.arange(rows) + 0.5) * step
    surface = np.empty((rows, columns, 3))
    surface[..., 0] = x_high - (np.arange(columns) + 0.5) * step
    surface[..., 1] = np.interp(z, points[::-1, 2], points[::-1, 1])[:, None]
    surface[..., 2] = z[:, None]
    return _view(sample(image.hu, image.grid, surface, outside=_AIR_HU), step, -x_high, -z_high)


def _view(hu: NDArray[np.float32], step_mm: float, left: float, top: float) -> View:
    rows, columns = hu.shape
    webp = base64.b64encode(_webp(hu)).decode("ascii")
    return View(columns=columns, rows=rows, step_mm=step_mm, left=left, top=top, webp=webp)


def _webp(hu: ArrayLike) -> bytes:
    low, high = GREY_HU
    grey = np.rint((np.clip(hu, low, high) - low) * (255 / (high - low))).astype(np.uint8)
    stream = io.BytesIO()
    Picture.fromarray(grey).save(stream, format="webp", quality=_QUALITY, method=4)
    return stream.getvalue()
