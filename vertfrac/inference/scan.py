"""The whole chain for one scan: image -> curve -> straightened slice -> vertebrae."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vertfrac.cohorts.cache import cached_volume, straight_image
from vertfrac.errors import ImageError, NoSpineError
from vertfrac.geometry.context import context_along
from vertfrac.geometry.straighten import StraightSlice
from vertfrac.imaging import Image
from vertfrac.inference.detect import detect, names_levels
from vertfrac.inference.localize import SpineCurve, localize
from vertfrac.inference.named import measured_and_named
from vertfrac.inference.options import detect_options, localize_options
from vertfrac.inference.weights import Model
from vertfrac.report.levels import doubt_warnings

SMALLEST_EXTENT_MM = 30.0
"""A scan needs to cover about one lumbar vertebra and its discs along every axis."""


@dataclass(frozen=True, eq=False)
class ScanResult:
    """What a model says about one scan: the curve, the slice along it, the table of vertebrae, seconds per stage."""

    spine: SpineCurve
    geometry: StraightSlice
    slice_hu: NDArray[np.int16]
    vertebrae: pd.DataFrame
    warnings: tuple[str, ...]
    seconds: dict[str, float]


def analyse(image: Image, model: Model) -> ScanResult:
    """Measure every vertebra of a canonical image.

    Raises ImageError for a scan thinner than one vertebra and NoSpineError where no spine or not one vertebra is seen.
    """
    extent = image.grid.extent_mm
    if extent.min() < SMALLEST_EXTENT_MM:
        raise ImageError(
            f"scan covers {' x '.join(f'{mm:.0f}' for mm in extent)} mm, "
            f"expected at least {SMALLEST_EXTENT_MM:.0f} mm along each axis"
        )
    clock = _Clock()
    stage1, stage2 = model.system.localizer, model.system.detector
    volume, grid = cached_volume(image, stage1.input.spacing_mm)
    clock.lap("resample")
    spine = localize(
        model.localizers,
        volume,
        grid,
        **localize_options(stage1),
        device=model.device,
    )
    clock.lap("localize")
    geometry = StraightSlice.along(
        spine.curve,
        width_mm=stage2.straighten.width_mm,
        spacing_mm=model.slice_spacing_mm,
        extend_mm=stage2.straighten.extend_mm,
    )
    slice_hu = straight_image(image, geometry)
    context = context_along(image.hu, image.grid, spine.curve) if names_levels(model.detectors) else None
    clock.lap("straighten")
    options = stage2.inference
    detections = detect(
        model.detectors,
        slice_hu,
        spacing_mm=model.slice_spacing_mm,
        **detect_options(stage2, options),
        device=model.device,
        context=context,
        start_mm=geometry.start_mm,
    )
    clock.lap("detect")
    if not detections:
        raise NoSpineError(
            f"no spine found: the likeliest place, {spine.curve.length_mm:.0f} mm long, holds no vertebra"
        )
    vertebrae, _ = measured_and_named(detections, geometry, image.grid, options)
    clock.lap("measure")
    return ScanResult(spine, geometry, slice_hu, vertebrae, _warnings(image, vertebrae), clock.seconds)


def worst(vertebrae: pd.DataFrame) -> dict[str, Any]:
    """What SCAN_RESULTS says of the vertebrae with status ok: their number, the worst grade, the smallest G."""
    measured = vertebrae[vertebrae["status"] == "ok"]
    if measured.empty:
        return {"vertebrae": 0, "worst_grade": None, "smallest_genant": None}
    return {
        "vertebrae": len(measured),
        "worst_grade": int(measured["grade"].max()),
        "smallest_genant": float(measured["genant"].min()),
    }


def _warnings(image: Image, vertebrae: pd.DataFrame) -> tuple[str, ...]:
    found = list(image.warnings)
    spacing = float(image.grid.spacing_mm[2])
    if spacing > 3.0:
        found.append(f"slices are {spacing:.1f} mm apart: heights are uncertain, expected at most 3 mm")
    return (*found, *doubt_warnings(vertebrae), *ungraded(vertebrae))


def ungraded(vertebrae: pd.DataFrame) -> tuple[str, ...]:
    """Which vertebrae of a scan were not graded and why, one line for each status; what its sentence says too."""
    found = []
    for status, words in (
        ("partial", "not graded, at the edge of the scan"),
        ("low_score", "not graded, seen with too little certainty"),
        ("sacrum", "named S1, not graded"),
        ("not_measured", "found, but not measurable"),
    ):
        count = int((vertebrae["status"] == status).sum())
        if count:
            found.append(f"{count} {'vertebra' if count == 1 else 'vertebrae'} {words}")
    if not (vertebrae["status"] == "ok").any():
        found.append("vertebrae were found, but none could be measured")
    return tuple(found)


class _Clock:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = round(now - self._last, 4)
        self._last = now
