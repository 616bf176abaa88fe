"""The page of ``vertfrac cohort check``: a picture per case with its facts and findings, in one file without links."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from vertfrac import __version__, tables
from vertfrac.cohorts.checks import names_of
from vertfrac.errors import GeometryError
from vertfrac.files import replacing
from vertfrac.genant import GRADES, genant_index, grade
from vertfrac.geometry.curve import Curve
from vertfrac.geometry.keypoints import centers, heights
from vertfrac.geometry.spine import annotated_spine
from vertfrac.imaging import Image
from vertfrac.report.scan_figure import GROUND, INK, TICK_MM, apart, rulers, sagittal_view, show_hu
from vertfrac.report.style import GRADE_COLOURS, UNGRADED_COLOUR, grade_captions
from vertfrac.report.templating import template

Floats = NDArray[np.float64]

_PX_PER_MM, _DPI, _LONGEST_MM = 2.0, 100, 480.0
_BEYOND_MM = 60.0
"""How far beyond the scan keypoints are still drawn."""
_LINE_STYLES: tuple[Any, ...] = ("solid", (0, (3, 1.5)), (0, (1, 1)), (0, (4, 1, 1, 1)))
"""Of the first expert, the second, ..."""


def draw_case(image: Image, annotations: pd.DataFrame) -> Figure:
    """The sagittal view that follows the annotated spine, with the rulers of all experts.

    annotations : rows of ANNOTATIONS, right or wrong; without any the middle of the scan is shown.
    """
    marks = [(tables.keypoints_of(rows), names_of(rows)) for _, rows in annotations.groupby("expert", sort=False)]
    marks = [_finite(points, names) for points, names in marks]
    points = np.concatenate([np.empty((0, 6, 3)), *(points for points, _ in marks)])
    curve, upper_z, lower_z = _line_of_sight(image, points)
    view = sagittal_view(image, curve, upper_z, lower_z)
    anterior, posterior, low, high = view.extent
    near = points[(image.grid.distance_inside_mm(points) > -_BEYOND_MM).all(axis=1)] if len(points) else points
    if len(near):
        seen = near[..., 1:]
        anterior = float(np.clip(seen[..., 0].max() + 5, anterior, anterior + _BEYOND_MM))
        posterior = float(np.clip(seen[..., 0].min() - 5, posterior - _BEYOND_MM, posterior))
        high = float(np.clip(seen[..., 1].max() + 5, high, high + _BEYOND_MM))
        low = float(np.clip(seen[..., 1].min() - 5, low - _BEYOND_MM, low))
    size_mm = np.array([anterior - posterior, high - low])
    px_per_mm = _PX_PER_MM * min(1.0, _LONGEST_MM / float(size_mm.max()))
    figure = Figure(figsize=tuple(size_mm * px_per_mm / _DPI), dpi=_DPI, facecolor=GROUND)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    show_hu(axes, view.hu, view.extent)
    axes.set_xlim(anterior, posterior)
    axes.set_ylim(low, high)
    for number, (own, names) in enumerate(marks):
        grades = grade(genant_index(heights(own)))
        colours = [GRADE_COLOURS[g] if g >= 0 else UNGRADED_COLOUR for g in grades]
        for keypoints, colour in zip(own, colours, strict=True):
            strokes = LineCollection(
                list(rulers(keypoints[:, 1:], TICK_MM)), colors=colour, linewidths=1.3 if number == 0 else 0.9,
                linestyles=[_LINE_STYLES[number % len(_LINE_STYLES)]],
            )  # fmt: skip
            axes.add_collection(strokes, autolim=False)
        if number == 0:
            levels_at = apart(own[:, :2, 2].mean(axis=1), 14 / px_per_mm)
            for name, x, z, colour in zip(names, own[..., 1].max(axis=1), levels_at, colours, strict=True):
                axes.text(
                    x + 4, z, name, color=colour, size=8, ha="right", va="center", parse_math=False, clip_on=True,
                    path_effects=[withStroke(linewidth=1.6, foreground=GROUND)],
                )  # fmt: skip
    if not len(points):
        axes.text(
            0.5, 0.02, "no annotation", color=INK, size=9, ha="center", va="bottom", transform=axes.transAxes,
            path_effects=[withStroke(linewidth=1.6, foreground=GROUND)],
        )  # fmt: skip
    return figure


def _finite(points: Floats, names: list[str]) -> tuple[Floats, list[str]]:
    kept: NDArray[np.bool_] = np.asarray(np.isfinite(points).all(axis=(1, 2)))
    return points[kept], [name for name, keep in zip(names, kept, strict=True) if keep]


def _line_of_sight(image: Image, points: Floats) -> tuple[Curve, float, float]:
    """The curve that the view follows and the limits around which it is cropped.

    That is the annotated spine, or the middle of the scan if most of the spine lies outside. points : (n, 6, 3), of all
    experts.
    """
    shape = np.array(image.grid.shape)
    bottom, top = image.grid.to_world([(shape - 1) * (0.5, 0.5, 0.0), (shape - 1) * (0.5, 0.5, 1.0)])
    points = points[image.grid.distance_inside_mm(centers(points)) >= 0] if len(points) else points
    try:
        spine = annotated_spine(points[np.unique(np.round(centers(points)[:, 2]), return_index=True)[1]])
        return spine.curve, min(spine.upper_z, top[2]), max(spine.lower_z, bottom[2])
    except GeometryError:
        if len(points):
            bottom[:2] = top[:2] = np.median(centers(points)[:, :2], axis=0)
    return Curve(np.stack([top, bottom])), float(top[2]), float(bottom[2])


def encoded(figure: Figure) -> bytes:
    """A figure as WebP."""
    FigureCanvasAgg(figure)
    stream = io.BytesIO()
    figure.savefig(stream, format="webp", facecolor=figure.get_facecolor(), pil_kwargs={"quality": 72, "method": 4})
    return stream.getvalue()


def write_page(
    path: Path | str, heading: str, table: pd.DataFrame, pictures: list[bytes | None], others: list[str]
) -> None:
    """Write the page atomically.

    table : rows of CHECKS in the order of the page. pictures : of each a WebP file. others : lines on what is no case.
    """
    cases: list[dict[Any, Any]] = table.astype(object).where(table.notna(), None).to_dict("records")
    for case, picture in zip(cases, pictures, strict=True):
        case["picture"] = None if picture is None else base64.b64encode(picture).decode("ascii")
    page = template("cohort_check.html").render(
        heading=heading,
        version=__version__,
        cases=cases,
        counts=table["status"].value_counts().to_dict(),
        others=others,
        grades=GRADES,
        legend=list(zip(GRADE_COLOURS, grade_captions(), strict=True)),
    )
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
