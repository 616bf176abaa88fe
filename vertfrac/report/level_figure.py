"""The picture of how vertebrae are named: whether the probabilities hold, and how far off the wrong names are."""

from __future__ import annotations

from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from vertfrac.evaluation.levels import REGIONS, named_pairs
from vertfrac.report.evaluation_figures import (
    FAINT,
    INK,
    key_of,
    names_of,
    note,
    of_system,
    plain_axes,
    sheet,
    shown_name,
    stroke,
)

Floats = NDArray[np.float64]

PANELS_PER_ROW = 3
OFFSETS: tuple[str, ...] = ("≤ -3", "-2", "-1", "right", "+1", "+2", "≥ +3", "no name")
"""Columns of the confusion: places inferior to the true level."""

NO_LEVEL, NO_TRUTH, NO_PROBABILITY = (
    "no level was predicted",
    "no annotated level was found",
    "no probability of levels",
)


def draw_levels(matches: pd.DataFrame) -> Figure:
    """Draw the reliability of all systems and the confusion of each; see ``figures.levels``."""
    columns = ["system", "target", "vertebra", "level_target", "level", "level_probability", "level_runner_up"]
    rows = matches.reindex(columns=columns)
    pairs, systems = named_pairs(rows), names_of(rows) or [""]
    count = 1 + len(systems)
    across = min(count, PANELS_PER_ROW)
    down = -(-count // across)
    figure = sheet(4.6 * across if across > 2 else 10.4, 3.8 * down + 0.4)
    figure.suptitle("Matched vertebrae of known level, all repeats pooled", size=9, color=FAINT)
    panels = figure.subplots(down, across, squeeze=False).ravel()
    _reliability(panels[0], pairs, systems, why=_reason(rows, pairs))
    for axes, name in zip(panels[1:], systems, strict=False):
        mine = of_system(pairs, name)
        _confusion(axes, mine, fill(shown_name(name), 34), why=_reason(of_system(rows, name), mine))
    for axes in panels[count:]:
        axes.set_axis_off()
    return figure


def _reason(rows: pd.DataFrame, pairs: pd.DataFrame) -> str:
    """Why there is nothing to draw; empty if there is."""
    if not (rows["level"].fillna("") != "").any():
        return NO_LEVEL
    return "" if len(pairs) else NO_TRUTH


def _reliability(axes: Axes, pairs: pd.DataFrame, systems: list[str], why: str) -> None:
    """Share that is right by probability, of tenths of equally many vertebrae."""
    plain_axes(
        axes, "Levels that are right, by their probability", "probability, mean of tenths", "share that is right, %"
    )
    sure = pairs[pairs["level_probability"].notna()]
    if sure.empty:
        note(axes, why or NO_PROBABILITY)
        return
    axes.plot([0, 1], [0, 100], color=FAINT, lw=0.6, zorder=1)
    for number, name in enumerate(systems):
        mine = of_system(sure, name)
        if mine.empty:
            continue
        share, right = mine["level_probability"].to_numpy(np.float64), mine["right"].to_numpy(np.float64)
        tenths = np.array_split(np.argsort(share, kind="stable"), min(10, len(share)))
        at, height = ([float(values[part].mean()) for part in tenths] for values in (share, right))
        label = f"{fill(shown_name(name), 32)}: {int(right.sum())} of {len(right)} right"
        axes.plot(at, 100 * np.array(height), label=label, marker="osD^vPX*h<>p"[number % 12], ms=5, **stroke(number))
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-2, 102)
    key_of(axes, "system", 8 if len(systems) < 7 else 6.5)


def _confusion(axes: Axes, pairs: pd.DataFrame, title: str, why: str) -> None:
    """Shares of a region's vertebrae by how many places off their name is, with their numbers."""
    plain_axes(axes, title, "named so many places too far down", "true level")
    if why:
        note(axes, why)
        axes.tick_params(bottom=False, labelbottom=False)
        return
    counts = confusion(pairs)
    total = counts.sum(axis=1)
    seen = np.flatnonzero(total)
    share = counts[seen] / total[seen, None]
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1.25, aspect="auto")
    for row, region in enumerate(seen):
        for column in range(len(OFFSETS)):
            if counts[region, column]:
                dark = share[row, column] > 0.6
                text = _percent(share[row, column])
                axes.text(column, row, text, ha="center", va="center", size=8, color="white" if dark else INK, zorder=2)
    axes.set_xticks(range(len(OFFSETS)), OFFSETS, rotation=30)
    axes.set_yticks(range(len(seen)), [f"{list(REGIONS)[region]}\nn = {int(total[region])}" for region in seen])
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0)


def confusion(pairs: pd.DataFrame) -> Floats:
    """Vertebrae by region of the true level and by how far off the name is, (REGIONS, OFFSETS), of `named_pairs`."""
    region_of = {level: number for number, levels in enumerate(REGIONS.values()) for level in levels}
    region = pairs["level_target"].map(region_of).astype("float64")
    off = pairs["off"].clip(-3, 3) + 3
    column = off.where(pairs["off"].notna(), len(OFFSETS) - 1)
    counts = np.zeros((len(REGIONS), len(OFFSETS)))
    known = region.notna()
    np.add.at(counts, (region[known].astype(int), column[known].astype(int)), 1)
    return counts


def _percent(share: float) -> str:
    return "<1 %" if share < 0.01 else f"{100 * share:.0f} %"
