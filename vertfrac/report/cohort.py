"""The figures of a cross-validation run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vertfrac import tables
from vertfrac.arrays import iterate_arrays
from vertfrac.geometry.curve import Curve
from vertfrac.geometry.straighten import StraightSlice
from vertfrac.imaging import read_image
from vertfrac.report.figures import error_distribution, genant_agreement, overlay


def draw_figures(
    matches: Sequence[Path],
    curve_errors: Sequence[Path],
    vertebrae: Sequence[Path],
    slices: Sequence[Path],
    cases: Path,
    out: Path,
) -> None:
    """Write agreement.png, errors.png and overlay-best/-median/-worst.png, the cases ranked by their keypoint error.

    vertebrae, slices : predictions and held-out slices of the folds whose overlays are drawn, in the same order.
    """
    matched = tables.read_tables(matches, tables.MATCHES)
    genant_agreement(out / "agreement.png", matched)
    error_distribution(out / "errors.png", matched, tables.read_tables(curve_errors, tables.CURVE_ERRORS))
    predictions = tables.read_tables(vertebrae, tables.VERTEBRAE)
    images = tables.read_table(cases, tables.CASES).set_index("case")["image"]
    ranking = matched.groupby("case")["keypoint_error_mm"].mean().dropna().sort_values()
    ranking = ranking[ranking.index.isin(predictions["case"])]
    if ranking.empty:
        return
    chosen = {"best": ranking.index[0], "median": ranking.index[len(ranking) // 2], "worst": ranking.index[-1]}
    for name, array, entry in iterate_arrays(slices):
        for rank in (rank for rank, case in chosen.items() if case == name):
            curve = Curve(np.asarray(entry["curve"]))
            overlay(
                out / f"overlay-{rank}.png",
                image=read_image(cases.parent / images[name]),
                geometry=StraightSlice(
                    curve, array.shape[0], array.shape[1], float(entry["spacing_mm"]), float(entry["start_mm"])
                ),
                slice_hu=array,
                vertebrae=predictions[predictions["case"] == name],
                title=f"{name} ({rank}: mean keypoint error {ranking[name]:.2f} mm)",
            )
