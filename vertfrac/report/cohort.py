"""The figures of a cross-validation run: of one system, or of several compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from vertfrac import tables
from vertfrac.arrays import iterate_arrays
from vertfrac.errors import TableError
from vertfrac.geometry.curve import Curve
from vertfrac.geometry.straighten import StraightSlice
from vertfrac.imaging import read_image
from vertfrac.report.evaluation_figures import has_experts
from vertfrac.report.figures import (
    doubt,
    error_distribution,
    expert_disagreement,
    genant_agreement,
    levels,
    overlay,
    roc,
)


def draw_comparison(matches: pd.DataFrame, curve_errors: pd.DataFrame, out: Path) -> None:
    """Write agreement, errors, roc, doubt and levels.png over all systems, and experts.png if there are experts.

    matches : rows of MATCHES. curve_errors : rows of CURVE_ERRORS, maybe none.
    """
    genant_agreement(out / "agreement.png", matches)
    error_distribution(out / "errors.png", matches, curve_errors)
    roc(out / "roc.png", matches)
    doubt(out / "doubt.png", matches)
    levels(out / "levels.png", matches)
    if has_experts(matches):
        expert_disagreement(out / "experts.png", matches)


def draw_overlays(
    matches: pd.DataFrame, vertebrae: Sequence[Path], slices: Sequence[Path], cases: Path, out: Path
) -> None:
    """Write overlay-best.png, overlay-median.png and overlay-worst.png, the cases ranked by their keypoint error.

    matches : rows of MATCHES; those of the system and repeats in ``vertebrae`` rank the cases. vertebrae, slices :
    predictions and held-out slices of the folds, in the same order. Without a matched vertebra nothing is drawn.
    Raises TableError if the predictions are those of several systems or repeats.
    """
    predictions = tables.read_tables(vertebrae, tables.VERTEBRAE)
    runs = predictions[["system", "repeat"]].drop_duplicates()
    if len(runs) > 1:
        found = ", ".join(f"{system} r{repeat}" for system, repeat in runs.itertuples(index=False))
        raise TableError(f"{vertebrae[0]} and others: found {found}, expected the predictions of one system and repeat")
    images = tables.read_table(cases, tables.CASES).set_index("case")["image"]
    ranking = matches.merge(runs).groupby("case")["keypoint_error_mm"].mean().dropna().sort_values()
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
