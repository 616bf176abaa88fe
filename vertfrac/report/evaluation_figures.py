"""Pictures of how predictions agree with annotations, over all cases: G, and distances in mm."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from vertfrac.genant import GRADE_LIMITS, GRADES
from vertfrac.report.style import GRADE_COLOURS, SYSTEM_COLOURS

Floats = NDArray[np.float64]

NOTHING = "no matched vertebra"
INK, FAINT = "#22272d", "#6b747d"
_MARKERS = "osD^vP"


def draw_genant_agreement(matches: pd.DataFrame) -> Figure:
    """Draw predicted against annotated G and the Bland-Altman plot; see ``figures.genant_agreement``."""
    figure = Figure(figsize=(10.4, 5.2), layout="constrained", facecolor="white")
    scatter, bland = figure.subplots(1, 2)
    _plain(scatter, "Genant index G: predicted against annotated", "annotated G", "predicted G")
    _plain(bland, "Bland-Altman", "mean of annotated and predicted G", "predicted - annotated G")
    pairs = matches.reindex(columns=["system", "target", "vertebra", "genant_target", "genant"])
    pairs = pairs.dropna(subset=["target", "vertebra", "genant_target", "genant"])
    if pairs.empty:
        for axes in (scatter, bland):
            _note(axes, NOTHING)
        return figure
    values = pairs[["genant_target", "genant"]].to_numpy(dtype=np.float64)
    low = min(0.5, np.floor((values.min() - 0.02) * 10) / 10)
    _grade_ground(scatter, low)
    alpha = float(np.clip(12 / np.sqrt(len(pairs)), 0.25, 0.85))
    texts = []
    for name, colour, marker, rows in _systems(pairs):
        target, found = rows[["genant_target", "genant"]].to_numpy(dtype=np.float64).T
        look = {"s": 14, "color": colour, "marker": marker, "alpha": alpha, "linewidths": 0, "zorder": 2}
        scatter.scatter(target, found, label=f"{name} (n = {len(rows)} pairs)", **look)
        bland.scatter((target + found) / 2, found - target, **look)
        bias, lower, upper = limits_of_agreement(target, found)
        bland.axhline(bias, color=colour, lw=1.3, zorder=3)
        for limit in (lower, upper):
            if np.isfinite(limit):
                bland.axhline(limit, color=colour, lw=0.9, ls=(0, (5, 3)), zorder=3)
        within = f"[{lower:+.3f}, {upper:+.3f}]" if np.isfinite(lower) else "undefined for one pair"
        texts.append((f"{name}: bias {bias:+.3f}, 95 % limits {within}", colour))
    scatter.set_xlim(low, 1.03)
    scatter.set_ylim(low, 1.03)
    scatter.set_aspect("equal")
    _key(scatter, "upper left")
    reach = 1.05 * max(np.abs(values[:, 1] - values[:, 0]).max(), 0.1)
    room = 0.075 * len(texts)  # share of the panel that the numbers need
    bland.set_ylim(-reach, reach * (1 + 2 * room / (1 - room)))
    bland.axhline(0, color=FAINT, lw=0.6, zorder=1)
    for i, (text, colour) in enumerate(texts):
        bland.text(
            0.02, 0.975 - 0.055 * i, text, transform=bland.transAxes, color=colour, size=8.5, va="top", parse_math=False
        )
    return figure


def limits_of_agreement(target: Floats, found: Floats) -> tuple[float, float, float]:
    """Bias and 95 % limits of agreement of found - target (Bland and Altman 1986): mean, mean -/+ 1.96 SD.

    target, found : (n,), n >= 1; the limits are NaN for n = 1.
    """
    difference = found - target
    bias = float(difference.mean())
    reach = 1.96 * float(difference.std(ddof=1)) if len(difference) > 1 else np.nan
    return bias, bias - reach, bias + reach


def draw_error_distribution(matches: pd.DataFrame, curve_errors: pd.DataFrame) -> Figure:
    """Draw three histograms with medians; see ``figures.error_distribution``."""
    figure = Figure(figsize=(12.6, 4.2), layout="constrained", facecolor="white")
    matched = matches.reindex(columns=["system", "target", "vertebra", "keypoint_error_mm", "center_error_mm"])
    matched = matched.dropna(subset=["target", "vertebra"])
    curves = curve_errors.reindex(columns=["system", "curve_error_mm"])
    systems = _all_names(matched, curves)
    panels = (
        (matched, "keypoint_error_mm", "Keypoint error", "mean distance of the six keypoints, mm", "vertebrae"),
        (matched, "center_error_mm", "Centre error", "distance of the body centres, mm", "vertebrae"),
        (curves, "curve_error_mm", "Curve error", "mean in-plane distance to the annotated curve, mm", "scans"),
    )
    for axes, (rows, column, title, label, counted) in zip(figure.subplots(1, 3), panels, strict=True):
        _plain(axes, title, label, f"share of {counted}, %")
        _histograms(axes, rows.dropna(subset=[column]), column, systems, NOTHING if rows is matched else "no curve")
    return figure


def _histograms(axes: Axes, rows: pd.DataFrame, column: str, systems: list[str], nothing: str) -> None:
    if rows.empty:
        _note(axes, nothing)
        return
    values = rows[column].to_numpy(dtype=np.float64)
    last = max(float(np.quantile(values, 0.99)) * 1.15, 1e-3)
    edges = np.linspace(0, last, int(np.clip(np.sqrt(len(values)) * 1.5, 12, 40)) + 1).tolist()
    for _, colour, _, part in _systems(rows, systems):
        x = part[column].to_numpy(dtype=np.float64)
        weights = np.full(len(x), 100 / len(x))
        clipped = np.minimum(x, last)
        axes.hist(clipped, edges, weights=weights, color=colour, alpha=0.18, histtype="stepfilled", zorder=2)
        axes.hist(clipped, edges, weights=weights, color=colour, lw=1.1, histtype="step", zorder=3)
    top = axes.get_ylim()[1]
    for name, colour, _, part in _systems(rows, systems):
        median = float(part[column].median())
        label = f"{name} (n = {len(part)}): median {median:.2f} mm"
        axes.plot([median, median], [0, top], color=colour, lw=1.3, ls=(0, (5, 3)), zorder=4, label=label)
    axes.set_xlim(0, last)
    axes.set_ylim(0, top * (1.06 + 0.07 * rows["system"].nunique(dropna=False)))
    _key(axes, "upper right")
    beyond = int((values > last).sum())
    if beyond:
        text = f"{beyond} beyond {last:.1f} mm (up to {values.max():.1f}) in the last bin"
        axes.set_title(text, size=7, color=FAINT, loc="right")


def _names(rows: pd.DataFrame) -> list[str]:
    return sorted(rows["system"].fillna("").astype(str).unique())


def _all_names(*frames: pd.DataFrame) -> list[str]:
    """Names of all systems in order, so that each keeps its colour in every panel."""
    return sorted({name for rows in frames for name in _names(rows)})


def _systems(rows: pd.DataFrame, names: list[str] | None = None) -> Iterator[tuple[str, str, str, pd.DataFrame]]:
    """Name, colour, marker and rows of each system that has rows."""
    system = rows["system"].fillna("").astype(str)
    for i, name in enumerate(_names(rows) if names is None else names):
        part = rows[system == name]
        if len(part):
            shown = f" {name}" if name.startswith("_") else name  # matplotlib hides what begins with _ from legends
            yield shown or "system", SYSTEM_COLOURS[i % len(SYSTEM_COLOURS)], _MARKERS[i % len(_MARKERS)], part


def _grade_ground(axes: Axes, low: float) -> None:
    """Identity line, grade limits on both axes, and a tint where both agree on the grade."""
    bounds = [1.03, *GRADE_LIMITS, min(low, GRADE_LIMITS[-1])]
    for name, colour, high, bottom in zip(GRADES, GRADE_COLOURS, bounds, bounds[1:], strict=False):
        side = high - bottom
        axes.add_patch(Rectangle((bottom, bottom), side, side, facecolor=colour, alpha=0.16, lw=0, zorder=0))
        axes.text(high - 0.006, bottom + 0.006, name, color=FAINT, size=6.5, ha="right", va="bottom", zorder=1)
    for limit in GRADE_LIMITS:
        axes.axhline(limit, color=FAINT, lw=0.6, ls=(0, (2, 3)), zorder=1)
        axes.axvline(limit, color=FAINT, lw=0.6, ls=(0, (2, 3)), zorder=1)
    axes.axline((0.5, 0.5), slope=1, color=INK, lw=0.9, zorder=1)


def _plain(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, size=10, color=INK, loc="left")
    axes.set_xlabel(x, size=9, color=INK)
    axes.set_ylabel(y, size=9, color=INK)
    axes.tick_params(labelsize=8, colors=INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _key(axes: Axes, where: Literal["upper left", "upper right"]) -> None:
    for text in axes.legend(loc=where, fontsize=8, frameon=False, handlelength=1.4, borderaxespad=0.2).get_texts():
        text.set_parse_math(False)


def _note(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", size=12, color=FAINT)
    axes.set_xticks([])
    axes.set_yticks([])
