"""The picture of one measured scan: straightened slice at left, sagittal view at right, at one scale.

Data coordinates: the left panel is in pixels of the slice (x column, y row, downwards), the right panel in world
mm (x is the world's y, anterior at left; y is the world's z).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from vertfrac import tables
from vertfrac.geometry.curve import Curve
from vertfrac.geometry.keypoints import HEIGHTS
from vertfrac.geometry.straighten import StraightSlice, sample
from vertfrac.imaging import Image
from vertfrac.report.levels import short_name
from vertfrac.report.sentence import genant_text
from vertfrac.report.style import GRADE_COLOURS, PIXEL_PT, UNGRADED_COLOUR, grade_captions

Floats = NDArray[np.float64]

WINDOW_HU = (-200, 800)
SCALE_BAR_MM = 50.0
TICK_MM = 3.0
GROUND, INK, FAINT = "#101418", "#e8eaed", "#8b939c"

# The sagittal view keeps this much around the spine, where the scan has it, mm.
_ABOVE_MM, _ANTERIOR_MM, _POSTERIOR_MM = 90.0, 110.0, 90.0
# Layout, inches.
_EDGE, _GAP, _TABLE, _HEAD, _CAPTION, _FOOT, _LEGEND = 0.3, 0.25, 2.2, 0.4, 0.3, 0.36, 0.34
_NARROWEST = 7.4


@dataclass(frozen=True, eq=False)
class SagittalView:
    """A sagittal view whose x follows the spine.

    hu : (rows, columns), rows downwards from superior, columns from anterior. extent : world y of the left and the
    right edge, world z of the lower and the upper edge, mm. cropped : the scan reaches further.
    """

    hu: NDArray[np.float32]
    extent: tuple[float, float, float, float]
    cropped: bool


def sagittal_view(image: Image, curve: Curve, upper_z: float, lower_z: float, finest_mm: float = 0.4) -> SagittalView:
    """Sample the scan on the sagittal surface through a curve.

    At each height z the x is that of the curve there, or of its nearest end. upper_z, lower_z : limits of the spine,
    around which the view is cropped, world mm. finest_mm : no pixel is smaller.
    """
    ends = [(-0.5, n - 0.5) for n in image.grid.shape]
    corners = image.grid.to_world(list(product(*ends)))
    points = curve.points_world
    spine_y = points[(points[:, 2] <= upper_z) & (points[:, 2] >= lower_z), 1]
    if not len(spine_y):
        spine_y = points[:, 1]
    y_low, y_high, y_cut = cut(corners[:, 1], spine_y.min() - _POSTERIOR_MM, spine_y.max() + _ANTERIOR_MM)
    z_low, z_high, z_cut = cut(corners[:, 2], lower_z - _ABOVE_MM, upper_z + _ABOVE_MM)
    step = float(np.clip(image.grid.spacing_mm[1:].min(), finest_mm, 1.5))
    columns, rows = (max(1, round((high - low) / step)) for low, high in ((y_low, y_high), (z_low, z_high)))
    y = y_high - (np.arange(columns) + 0.5) * step
    z = z_high - (np.arange(rows) + 0.5) * step
    x = np.interp(z, points[::-1, 2], points[::-1, 0])
    surface = np.empty((rows, columns, 3))
    surface[..., 0], surface[..., 1], surface[..., 2] = x[:, None], y, z[:, None]
    hu = sample(image.hu, image.grid, surface, outside=-1024)
    return SagittalView(hu, (y_high, y_high - columns * step, z_high - rows * step, z_high), y_cut or z_cut)


def cut(corners: Floats, low: float, high: float) -> tuple[float, float, bool]:
    """The part of the scan between two limits, or all of it if they miss it; and whether the scan reaches further."""
    start, stop = float(corners.min()), float(corners.max())
    kept = max(start, low), min(stop, high)
    if kept[1] - kept[0] < 1.0:
        return start, stop, False
    return *kept, kept != (start, stop)


def draw_overlay(
    *, image: Image, geometry: StraightSlice, slice_hu: NDArray[np.int16], vertebrae: pd.DataFrame, title: str
) -> Figure:
    """Draw a scan with its vertebrae; see ``figures.overlay``. Vertebrae without finite keypoints are left out."""
    marks = _marks(vertebrae, geometry)
    start, length = geometry.start_mm, (geometry.rows - 1) * geometry.spacing_mm
    upper_z, middle_z, lower_z = geometry.curve.at([start, start + length / 2, start + length])[:, 2].tolist()
    view = sagittal_view(image, geometry.curve, upper_z, lower_z)
    sheet = _Sheet(geometry, view, middle_z)
    figure = sheet.figure
    size_pt = float(np.clip(100 * (sheet.width_in - 2 * _EDGE) / max(len(title), 1), 5, 11))
    figure.text(
        _EDGE / sheet.width_in, 1 - 0.2 / sheet.height_in, title,
        color=INK, size=size_pt, weight="bold", va="center", parse_math=False,
    )  # fmt: skip

    show_hu(sheet.straight, slice_hu, None)
    sheet.straight.set_xlim(-0.5, geometry.columns - 0.5)
    sheet.straight.set_ylim(geometry.rows - 0.5, -0.5)
    _caption(sheet.straight, "straightened slice")
    show_hu(sheet.sagittal, view.hu, view.extent)
    sheet.sagittal.set_xlim(view.extent[:2])
    sheet.sagittal.set_ylim(view.extent[2:])
    _caption(sheet.sagittal, "sagittal, following the spine" + (" (cropped)" if view.cropped else ""))

    for mark in marks:
        _rulers(sheet.straight, mark, mark.straight, TICK_MM / geometry.spacing_mm)
        _rulers(sheet.sagittal, mark, mark.sagittal, TICK_MM)
    _table(sheet, marks, geometry)
    _labels(sheet, marks)
    _scale_bar(sheet.sagittal, sheet.mm_per_inch)
    _legend(figure)
    return figure


class _Sheet:
    """The empty figure: where the panels lie. The middle of the slice is level with its height in the sagittal view."""

    def __init__(self, geometry: StraightSlice, view: SagittalView, middle_z: float) -> None:
        left_mm = np.array([geometry.columns, geometry.rows]) * geometry.spacing_mm
        left, right, low, high = view.extent
        right_mm = np.array([left - right, high - low])
        middle_mm = high - float(np.clip(middle_z, low, high))  # below the upper edge of the sagittal view
        rise_mm = left_mm[1] / 2 - middle_mm  # of the slice over the sagittal view
        drop_mm = left_mm[1] / 2 - (right_mm[1] - middle_mm)
        height_mm = right_mm[1] + max(rise_mm, 0) + max(drop_mm, 0)
        self.mm_per_inch = float(np.clip(height_mm / 8, 24, 50))
        left_in, right_in = left_mm / self.mm_per_inch, right_mm / self.mm_per_inch
        content = left_in[0] + _TABLE + _GAP + right_in[0]
        self.width_in = max(content + 2 * _EDGE, _NARROWEST)
        self.height_in = height_mm / self.mm_per_inch + _HEAD + _CAPTION + _FOOT + _LEGEND
        self.figure = Figure(figsize=(self.width_in, self.height_in), facecolor=GROUND)
        x = (self.width_in - content) / 2
        top = self.height_in - _HEAD - _CAPTION
        left_top = top - max(-rise_mm, 0) / self.mm_per_inch
        right_top = top - max(rise_mm, 0) / self.mm_per_inch
        self.straight = self._panel(x, left_top, left_in)
        self.table = self._panel(x + left_in[0], left_top, np.array([_TABLE, left_in[1]]))
        self.sagittal = self._panel(x + left_in[0] + _TABLE + _GAP, right_top, right_in)

    def _panel(self, x: float, top: float, size: Floats) -> Axes:
        width, height = self.width_in, self.height_in
        axes = self.figure.add_axes((x / width, (top - size[1]) / height, size[0] / width, size[1] / height))
        axes.set_axis_off()
        return axes


@dataclass(frozen=True, eq=False)
class _Mark:
    """A vertebra to draw: its keypoints (6, 2) in the data coordinates of both panels, and how it looks."""

    vertebra: int
    name: str
    verdict: str
    heights: tuple[str, ...]
    colour: str
    graded: bool
    bold: bool
    straight: Floats
    sagittal: Floats


def _marks(vertebrae: pd.DataFrame, geometry: StraightSlice) -> list[_Mark]:
    if vertebrae.empty:
        return []
    points = tables.keypoints_of(vertebrae)
    finite = np.isfinite(points).all(axis=(1, 2))
    points = points[finite]
    straight = geometry.to_slice(points)[..., 1::-1]
    records: list[dict[Any, Any]] = vertebrae[finite].to_dict("records")
    return [_mark(row, s, p[:, 1:]) for row, s, p in zip(records, straight, points, strict=True)]


def _mark(row: dict[Any, Any], straight: Floats, sagittal: Floats) -> _Mark:
    graded = row["status"] == "ok" and not pd.isna(row["grade"])
    grade = int(row["grade"]) if graded else 0
    measures = [row[f"height_{name}_mm"] for name in HEIGHTS]
    return _Mark(
        vertebra=int(row["vertebra"]),
        name=short_name(row),
        verdict=genant_text(row["genant"]) if graded else str(row["status"]).replace("_", " "),
        heights=tuple(f"{mm:.1f}" if np.isfinite(mm) else "n/a" for mm in measures) if graded else ("", "", ""),
        colour=GRADE_COLOURS[grade] if graded else UNGRADED_COLOUR,
        graded=graded,
        bold=grade > 0,
        straight=straight,
        sagittal=sagittal,
    )


def show_hu(axes: Axes, hu: NDArray[Any], extent: tuple[float, float, float, float] | None) -> None:
    """Show a sagittal picture in HU with the letters of its sides; extent as in SagittalView, None for pixels."""
    low, high = WINDOW_HU
    axes.imshow(hu, cmap="gray", vmin=low, vmax=high, extent=extent, aspect="auto", interpolation="bilinear")
    for letter, x, y in (("A", 0, 0.5), ("P", 1, 0.5), ("S", 0.5, 1), ("I", 0.5, 0)):
        axes.annotate(
            letter, (x, y), xycoords="axes fraction", xytext=(7 - 14 * x, 8 - 16 * y), textcoords="offset points",
            color=INK, size=8, ha="center", va="center", path_effects=_halo(),
        )  # fmt: skip


def _caption(axes: Axes, text: str) -> None:
    axes.annotate(
        text, (0, 1), xycoords="axes fraction", xytext=(0, 5), textcoords="offset points", color=FAINT, size=7.5
    )


def _halo() -> list[withStroke]:
    return [withStroke(linewidth=1.6, foreground=GROUND)]


def rulers(points: Floats, tick: float) -> Floats:
    """The strokes that show three heights: three rulers, then a tick at each keypoint; (6, 2) -> (9, 2, 2)."""
    pairs = points.reshape(3, 2, 2)
    along = pairs[:, 1] - pairs[:, 0]
    length = np.linalg.norm(along, axis=-1, keepdims=True)
    across = along[:, ::-1] * (-1, 1) / np.where(length > 0, length, 1.0) * tick / 2
    ends = pairs[:, :, None] + across[:, None, None] * np.array([-1.0, 1.0])[:, None]
    return np.concatenate([pairs, ends.reshape(6, 2, 2)])


def _rulers(axes: Axes, mark: _Mark, points: Floats, tick: float) -> None:
    lines = LineCollection(
        list(rulers(points, tick)),
        colors=mark.colour,
        linewidths=1.2 * PIXEL_PT,
        linestyles="solid" if mark.graded else [(0, (4, 3))],
        zorder=2,
    )
    lines.set_gid(f"vertebra-{mark.vertebra}")
    axes.add_collection(lines, autolim=False)


def apart(positions: Floats, gap: float) -> Floats:
    """Move labels as little as possible so that neighbours are at least ``gap`` apart; (n,) -> (n,), order kept."""
    if not len(positions):
        return positions
    order = np.argsort(positions, kind="stable")
    steps = gap * np.arange(len(positions))
    moved = np.empty(len(positions))
    moved[order] = isotonic_regression(positions[order] - steps).x + steps
    return moved


_HEIGHTS_AT = (1.28, 1.62, 1.96)
_HEADER = (
    (0.6, "G", "left"),
    *((x, text, "right") for x, text in zip(_HEIGHTS_AT, ("ant.", "mid.", "post."), strict=True)),
    (2.03, "mm", "left"),
)


def _table(sheet: _Sheet, marks: list[_Mark], geometry: StraightSlice) -> None:
    """Number, G and heights of each vertebra beside the straightened slice, joined to it by a thin line."""
    axes = sheet.table
    axes.set_xlim(0, _TABLE)
    axes.set_ylim(geometry.rows - 0.5, -0.5)
    first = "no." if all(mark.name.isdigit() for mark in marks) else "level"
    for x, text, align in ((0.22, first, "left"), *_HEADER) if marks else ((0.22, "no vertebra", "left"),):
        axes.annotate(
            text, (x, -0.5), xytext=(0, 5), textcoords="offset points", color=FAINT, size=6.5, ha=align, va="baseline"
        )
    gap = 0.15 * sheet.mm_per_inch / geometry.spacing_mm
    middles = np.array([mark.straight[4:].mean(axis=0) for mark in marks]).reshape(-1, 2)
    for mark, (column, row), y in zip(marks, middles, apart(middles[:, 1], gap), strict=True):
        edge = geometry.columns - 0.5
        if column < edge:
            sheet.straight.plot([column + 3, edge], [row, row], color=mark.colour, lw=0.35, alpha=0.45, zorder=1.5)
        axes.plot([0, 0.1, 0.18], [row, y, y], color=mark.colour, lw=0.35, alpha=0.8)
        weight = "bold" if mark.bold else "normal"
        axes.text(0.22, y, mark.name, color=mark.colour, size=7.5, weight=weight, va="center_baseline")
        axes.text(0.6, y, mark.verdict, color=mark.colour, size=7.5, weight=weight, va="center_baseline")
        for x, text in zip(_HEIGHTS_AT, mark.heights, strict=True):
            axes.text(x, y, text, color=INK, size=6.5, ha="right", va="center_baseline")


def _labels(sheet: _Sheet, marks: list[_Mark]) -> None:
    """Number and G of each vertebra in front of it in the sagittal view, where they hide no bone."""
    fronts = np.array([mark.sagittal[:2].mean(axis=0) for mark in marks]).reshape(-1, 2)
    widest = np.array([mark.sagittal[:, 0].max() for mark in marks])
    low, high = sorted(sheet.sagittal.get_ylim())
    inside = np.clip(fronts[:, 1], low + 4, high - 4)  # a vertebra at the edge keeps its label in the picture
    for mark, x, z in zip(marks, widest, apart(inside, 0.14 * sheet.mm_per_inch), strict=True):
        sheet.sagittal.text(
            x + 5, z, f"{mark.name}  {mark.verdict}", color=mark.colour, size=7, ha="right", va="center_baseline",
            weight="bold" if mark.bold else "normal", path_effects=_halo(), zorder=3, parse_math=False,
        )  # fmt: skip


def _scale_bar(axes: Axes, mm_per_inch: float) -> None:
    left, _, low, _ = axes.get_xlim() + axes.get_ylim()
    y = low - 0.14 * mm_per_inch
    axes.plot([left, left - SCALE_BAR_MM], [y, y], color=INK, lw=1.6, solid_capstyle="butt", clip_on=False)
    axes.text(left - SCALE_BAR_MM - 2, y, f"{SCALE_BAR_MM:.0f} mm", color=INK, size=7, va="center")


def _legend(figure: Figure) -> None:
    lines = [Line2D([], [], color=c, lw=1.6) for c in GRADE_COLOURS]
    lines.append(Line2D([], [], color=UNGRADED_COLOUR, lw=1.2, ls=(0, (4, 3))))
    legend = figure.legend(
        lines, [*grade_captions(), "not graded"], loc="lower center", ncols=5, frameon=False, fontsize=7,
        handlelength=1.8, columnspacing=1.6, labelcolor=INK, borderaxespad=0.6,
    )  # fmt: skip
    legend.set_gid("grades")
