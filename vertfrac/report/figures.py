"""The pictures that vertfrac writes, each as one PNG: a measured scan, and how predictions agree with annotations.

Drawing (``scan_figure``, ``evaluation_figures``) is apart from writing, so that nothing is written if drawing fails.
matplotlib is used through its objects only: no window, no state shared between figures.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vertfrac.geometry.straighten import StraightSlice
from vertfrac.imaging import Image
from vertfrac.report.evaluation_figures import (
    draw_doubt,
    draw_error_distribution,
    draw_expert_disagreement,
    draw_genant_agreement,
    draw_roc,
)
from vertfrac.report.level_figure import draw_levels
from vertfrac.report.scan_figure import draw_overlay
from vertfrac.report.style import GRADE_COLOURS, save

__all__ = [
    "GRADE_COLOURS",
    "doubt",
    "error_distribution",
    "expert_disagreement",
    "genant_agreement",
    "levels",
    "overlay",
    "roc",
]


def overlay(
    path: Path | str,
    *,
    image: Image,
    geometry: StraightSlice,
    slice_hu: NDArray[np.int16],
    vertebrae: pd.DataFrame,
    title: str,
) -> None:
    """One scan with its measured vertebrae: the straightened slice and the sagittal view, heights drawn on both.

    image : canonical scan. slice_hu : (rows, columns) HU on ``geometry``. vertebrae : its VERTEBRAE rows, maybe none.
    """
    save(path, draw_overlay(image=image, geometry=geometry, slice_hu=slice_hu, vertebrae=vertebrae, title=title))


def genant_agreement(path: Path | str, matches: pd.DataFrame) -> None:
    """Predicted against annotated G with bias and limits of agreement.

    One system: scatter plot and Bland-Altman plot. Several: a scatter plot each.
    matches : rows of MATCHES; only matched vertebrae are drawn.
    """
    save(path, draw_genant_agreement(matches))


def error_distribution(path: Path | str, matches: pd.DataFrame, curve_errors: pd.DataFrame) -> None:
    """Histograms of keypoint, centre and curve error with their medians, one row per system.

    matches : rows of MATCHES. curve_errors : rows of CURVE_ERRORS.
    """
    save(path, draw_error_distribution(matches, curve_errors))


def roc(path: Path | str, matches: pd.DataFrame) -> None:
    """ROC curves of telling G <= 0.74 and G <= 0.8, by vertebra and by patient, all systems in one panel.

    matches : rows of MATCHES; those of several repeats are pooled into one curve.
    """
    save(path, draw_roc(matches))


def doubt(path: Path | str, matches: pd.DataFrame) -> None:
    """Whether a model knows what is wrong: a reliability curve, and what share is wrong of the most certain ones.

    Wrong is a detection that is no vertebra, by score, and a vertebra whose G is off by more than 0.1, by the spread of
    its keypoints (by score where that is unknown). matches : rows of MATCHES.
    """
    save(path, draw_doubt(matches))


def levels(path: Path | str, matches: pd.DataFrame) -> None:
    """Whether the probabilities of levels hold, and how many places the names are off, by region of the spine.

    matches : rows of MATCHES; matched vertebrae whose level is annotated are drawn.
    """
    save(path, draw_levels(matches))


def expert_disagreement(path: Path | str, matches: pd.DataFrame) -> None:
    """Difference of G between experts against its mean, and the distances between their body centres.

    matches : rows of MATCHES; only those of the system "experts" are drawn.
    """
    save(path, draw_expert_disagreement(matches))
