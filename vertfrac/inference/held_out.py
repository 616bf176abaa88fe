"""Inference for the held-out cases of a fold, a file per step: a changed setting repeats only what it touches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from vertfrac import tables
from vertfrac.arrays import beside, iterate_arrays, iterate_pairs, write_arrays
from vertfrac.cohorts.cache import straight_image
from vertfrac.config import Detector, DetectorInference, Localizer
from vertfrac.errors import VertfracError
from vertfrac.geometry.context import Context, context_along
from vertfrac.geometry.curve import Curve
from vertfrac.geometry.grid import Grid
from vertfrac.geometry.straighten import StraightSlice
from vertfrac.imaging import read_image
from vertfrac.inference.detect import detect
from vertfrac.inference.localize import localize
from vertfrac.inference.named import measured_and_named
from vertfrac.inference.options import detect_options, localize_options
from vertfrac.inference.weights import load_detector, load_localizer
from vertfrac.models.detector import Detector as DetectorModule


def predict_curves(
    volumes: Sequence[Path],
    cases: set[str],
    weights: Path,
    settings: Localizer,
    *,
    curves: Path,
    statuses: Path,
    device: torch.device,
) -> None:
    """Predict the curve of every given case from its cached volume; tables CURVES and CASE_STATUS."""
    network = load_localizer(weights, settings.network, device)
    points: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for case, volume, entry in iterate_arrays(volumes):
        if case not in cases:
            continue
        z, y, x = volume.shape
        try:
            spine = localize(
                [network],
                volume,
                Grid((x, y, z), np.asarray(entry["affine"])),
                **localize_options(settings),
                device=device,
            )
        except VertfracError as error:
            rows.append({"case": case, "status": "no_spine", "reason": str(error)})
            continue
        rows.append({"case": case, "status": "ok", "reason": ""})
        points += curve_rows(case, spine.curve, spine.probability)
    tables.write_table(curves, tables.CURVES, points)
    tables.write_table(statuses, tables.CASE_STATUS, rows)


def curve_rows(case: str, curve: Curve, probability: np.ndarray) -> list[dict[str, Any]]:
    """A predicted curve as rows of the table CURVES."""
    return [
        {"case": case, "point": i, "x": x, "y": y, "z": z, "probability": p}
        for i, ((x, y, z), p) in enumerate(zip(curve.points_world.tolist(), probability.tolist(), strict=True))
    ]


def cut_slices(
    cases: Path,
    curves: Path,
    out: Path,
    *,
    spacing_mm: float,
    width_mm: float,
    extend_mm: float,
    context: bool = False,
) -> int:
    """Cut the straightened slice of every case that has a predicted curve; returns their number.

    Each slice carries what maps it back: its curve, its geometry and the grid of its scan. context : cut the context,
    by which vertebrae are named, too.
    """
    table = tables.read_table(cases, tables.CASES).set_index("case")
    arrays: dict[str, NDArray[Any]] = {}
    entries: dict[str, dict[str, Any]] = {}
    for case, points in tables.read_table(curves, tables.CURVES).groupby("case"):
        name = str(case)
        image = read_image(cases.parent / str(table.loc[name, "image"]))
        curve = Curve(points.sort_values("point")[["x", "y", "z"]].to_numpy())
        geometry = StraightSlice.along(curve, width_mm=width_mm, spacing_mm=spacing_mm, extend_mm=extend_mm)
        arrays[name] = straight_image(image, geometry)
        entries[name] = {
            "curve": curve.points_world.tolist(),
            "start_mm": geometry.start_mm,
            "spacing_mm": spacing_mm,
            "shape": list(image.grid.shape),
            "affine": image.grid.world_from_index.tolist(),
        }
        if context:
            around = context_along(image.hu, image.grid, curve)
            arrays[beside(name)] = around.views
            entries[name]["context_start_mm"] = around.start_mm
    write_arrays(out, arrays, {"kind": "held-out slices", "spacing_mm": spacing_mm, "cases": entries})
    return len(entries)


def detect_vertebrae(
    slices: Path,
    weights: Path,
    settings: Detector,
    options: DetectorInference,
    *,
    spacing_mm: float,
    run: dict[str, Any],
    out: Path,
    device: torch.device,
) -> pd.DataFrame:
    """Detect and measure the vertebrae on every slice of a file; table VERTEBRAE.

    run : the values of system, repeat and fold.
    """
    network = load_detector(weights, settings.network, spacing_mm, device)
    named = name_vertebrae([slices], network, settings, options, spacing_mm=spacing_mm, device=device)
    found = [vertebrae.assign(**run, case=case) for case, vertebrae, _ in named]
    return tables.write_table(out, tables.VERTEBRAE, pd.concat([tables.VERTEBRAE.frame([]), *found]))


def name_vertebrae(
    slices: Sequence[Path],
    network: DetectorModule,
    settings: Detector,
    options: DetectorInference,
    *,
    spacing_mm: float,
    device: torch.device,
) -> Iterator[tuple[str, pd.DataFrame, NDArray[np.float64] | None]]:
    """Every case of some held-out slices with what ``measured_and_named`` says of it."""
    for case, image, views, entry in iterate_pairs(slices):
        geometry = StraightSlice(
            Curve(entry["curve"]), image.shape[0], image.shape[1], spacing_mm, float(entry["start_mm"])
        )
        detections = detect(
            [network],
            image,
            spacing_mm=spacing_mm,
            **detect_options(settings, options),
            device=device,
            context=None if views is None else Context(views, float(entry["context_start_mm"])),
            start_mm=geometry.start_mm,
        )
        scan = Grid(tuple(entry["shape"]), np.asarray(entry["affine"]))
        yield case, *measured_and_named(detections, geometry, scan, options)
