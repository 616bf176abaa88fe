"""Pictures of how predictions agree with annotations, over all cases: G, distances in mm, ROC curves, experts.

Several systems stand side by side in small panels of one scale. Where they share a panel (ROC curves), each has a
colour, a line style and a marker of its own, so that none is known by its colour alone.
"""

from __future__ import annotations

from textwrap import fill
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from vertfrac.genant import GRADE_LIMITS, GRADES
from vertfrac.report.style import GRADE_COLOURS, SYSTEM_COLOURS

Floats = NDArray[np.float64]

NOTHING = "no matched vertebra"
EXPERTS = "experts"
"""Name of the system in whose rows every expert is scored against the others."""

INK, FAINT = "#22272d", "#6b747d"
_DASHED = (0, (5, 3))
_MARKERS = "osD^vPX*h<>p"
_LINES: tuple[str | tuple[int, tuple[float, ...]], ...] = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (6, 2, 1, 2)))
_PAIR = ["system", "target", "vertebra", "genant_target", "genant"]


def draw_genant_agreement(matches: pd.DataFrame) -> Figure:
    """Draw predicted against annotated G with limits of agreement; see ``figures.genant_agreement``."""
    pairs, systems = _by_vertebra(matches), names_of(matches)
    if len(systems) > 1:
        return _agreement_of_many(pairs, systems)
    figure = sheet(10.4, 5.2)
    scatter, bland = figure.subplots(1, 2)
    plain_axes(scatter, "Genant index G: predicted against annotated", "annotated G", "predicted G")
    plain_axes(bland, "Bland-Altman", "mean of annotated and predicted G", "predicted - annotated G")
    if pairs.empty:
        for axes in (scatter, bland):
            note(axes, NOTHING)
        return figure
    target, found = _indices(pairs)
    _scatter(scatter, target, found, _lowest(pairs), SYSTEM_COLOURS[0])
    _text(scatter, f"{shown_name(systems[0])} (n = {len(pairs)} pairs)")
    _bland_altman(bland, target, found)
    return figure


def _agreement_of_many(pairs: pd.DataFrame, systems: list[str]) -> Figure:
    """One scatter plot per system on one scale; bias and limits of agreement are parallels to the identity line."""
    columns = min(len(systems), 4)
    rows = -(-len(systems) // columns)
    figure = sheet(3.3 * columns + 0.4, 3.6 * rows + 0.3)
    figure.suptitle(
        "Genant index G: predicted against annotated. Black: equal; orange: bias (solid) and 95 % limits of agreement",
        size=10, color=INK,
    )  # fmt: skip
    figure.supxlabel("annotated G", size=9, color=INK)
    figure.supylabel("predicted G", size=9, color=INK)
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    low = _lowest(pairs)
    for axes, name in zip(panels, systems, strict=False):
        part = of_system(pairs, name)
        plain_axes(axes, fill(shown_name(name), 34), "", "")
        if part.empty:
            note(axes, NOTHING)
            continue
        target, found = _indices(part)
        _scatter(axes, target, found, low, SYSTEM_COLOURS[0])
        bias, lower, upper = limits_of_agreement(target, found)
        for shift, width, style in ((bias, 1.2, "-"), (lower, 0.9, _DASHED), (upper, 0.9, _DASHED)):
            if np.isfinite(shift):
                axes.axline((0.5, 0.5 + shift), slope=1, color=SYSTEM_COLOURS[1], lw=width, ls=style, zorder=3)
        _text(axes, f"n = {len(part)} pairs\nbias {_signed(bias)}\nlimits {_within(lower, upper)}")
    for axes in panels[len(systems) :]:
        axes.set_axis_off()
    for axes in panels[max(len(systems) - columns, 0) : len(systems)]:
        axes.tick_params(labelbottom=True)
    for axes in panels[: len(systems) : columns]:
        axes.tick_params(labelleft=True)
    return figure


def limits_of_agreement(target: Floats, found: Floats) -> tuple[float, float, float]:
    """Bias and 95 % limits of agreement of found - target (Bland and Altman 1986): mean, mean -/+ 1.96 SD.

    target, found : (n,), n >= 1; the limits are NaN for n = 1.
    """
    difference = found - target
    bias = float(difference.mean())
    reach = 1.96 * float(difference.std(ddof=1)) if len(difference) > 1 else np.nan
    return bias, bias - reach, bias + reach


def _signed(difference: float) -> str:
    """A difference of G as printed, never -0.000."""
    return f"{round(difference, 3) + 0.0:+.3f}"


def _within(lower: float, upper: float) -> str:
    return f"[{_signed(lower)}, {_signed(upper)}]" if np.isfinite(lower) else "undefined for one pair"


def _indices(pairs: pd.DataFrame) -> tuple[Floats, Floats]:
    """Annotated and predicted G of matched pairs, (n,) each."""
    return tuple(pairs[["genant_target", "genant"]].to_numpy(dtype=np.float64).T)  # type: ignore[return-value]  # two columns


def _lowest(pairs: pd.DataFrame) -> float:
    """Lower end of an axis of G."""
    return min(0.5, float(np.floor((pairs[["genant_target", "genant"]].min().min() - 0.02) * 10) / 10))


def _alpha(count: int) -> float:
    return float(np.clip(12 / np.sqrt(count), 0.2, 0.85))


def _scatter(axes: Axes, target: Floats, found: Floats, low: float, colour: str) -> None:
    _grade_ground(axes, low)
    axes.scatter(target, found, s=12, color=colour, alpha=_alpha(len(target)), linewidths=0, zorder=2)
    axes.set_xlim(low, 1.03)
    axes.set_ylim(low, 1.03)
    axes.set_aspect("equal")


def _bland_altman(axes: Axes, first: Floats, second: Floats) -> None:
    """Difference against mean of two readings of G, (n,) each, with bias and limits of agreement."""
    difference = second - first
    axes.scatter(
        (first + second) / 2,
        difference,
        s=12,
        color=SYSTEM_COLOURS[0],
        alpha=_alpha(len(first)),
        linewidths=0,
        zorder=2,
    )
    bias, lower, upper = limits_of_agreement(first, second)
    for height, width, style in ((bias, 1.3, "-"), (lower, 0.9, _DASHED), (upper, 0.9, _DASHED)):
        if np.isfinite(height):
            axes.axhline(height, color=SYSTEM_COLOURS[1], lw=width, ls=style, zorder=3)
    axes.axhline(0, color=FAINT, lw=0.6, zorder=1)
    reach = 1.05 * max(float(np.abs(difference).max()), 0.1)
    axes.set_ylim(-reach, 1.2 * reach)
    _text(axes, f"bias {_signed(bias)}, 95 % limits {_within(lower, upper)}")


_ERRORS = (
    ("keypoint_error_mm", "Keypoint error", "mean distance of the six keypoints, mm", "vertebrae"),
    ("center_error_mm", "Centre error", "distance of the body centres, mm", "vertebrae"),
    ("curve_error_mm", "Curve error", "distance to the annotated curve, mm", "scans"),
)


def draw_error_distribution(matches: pd.DataFrame, curve_errors: pd.DataFrame) -> Figure:
    """Draw a row of three histograms per system; see ``figures.error_distribution``."""
    matched = matches.reindex(columns=["system", "target", "vertebra", "keypoint_error_mm", "center_error_mm"])
    matched = matched.dropna(subset=["target", "vertebra"])
    curves = curve_errors.reindex(columns=["system", "curve_error_mm"])
    systems = sorted({*names_of(matches), *names_of(curves)}) or [""]
    many = len(systems) > 1
    figure = sheet(12.6, 1.45 * len(systems) + 0.8 if many else 4.2)
    panels = figure.subplots(len(systems), 3, squeeze=False, sharex="col", sharey="col")
    for column, (name, title, label, counted) in enumerate(_ERRORS):
        rows, nothing = (curves, "no curve") if name == "curve_error_mm" else (matched, NOTHING)
        known = rows.dropna(subset=[name])
        edges = _bins(known[name].to_numpy(dtype=np.float64))
        for row, system in enumerate(systems):
            axes = panels[row, column]
            last = row == len(systems) - 1
            plain_axes(axes, title if row == 0 else "", label if last else "", "share, %" if last else "")
            _histogram(axes, of_system(known, system)[name], edges, counted, nothing)
        tallest = max((bar.get_height() for axes in panels[:, column] for bar in axes.patches), default=1)
        panels[0, column].set_ylim(0, 1.15 * tallest)
        panels[0, column].set_xlim(edges[0], edges[-1])
    for axes, system in zip(panels[:, 0], systems, strict=True):
        label = fill(shown_name(system), 22)
        axes.annotate(
            label, (0, 0.5), xycoords="axes fraction", xytext=(-48, 0), textcoords="offset points", size=9, color=INK,
            ha="right", va="center", parse_math=False,
        )  # fmt: skip
    return figure


def _bins(values: Floats) -> Floats:
    """Edges of histograms that reach a little beyond the 99th percentile."""
    if not len(values):
        return np.linspace(0, 1, 13)
    last = max(float(np.quantile(values, 0.99)) * 1.15, 1e-3)
    return np.linspace(0, last, int(np.clip(np.sqrt(len(values)) * 1.5, 12, 40)) + 1)


def _histogram(axes: Axes, known: pd.Series, edges: Floats, counted: str, nothing: str) -> None:
    """Shares in percent with the median; what lies beyond the axis is counted in the last bin, and said so."""
    values = known.to_numpy(dtype=np.float64)
    if not len(values):
        note(axes, nothing)
        return
    weights = np.full(len(values), 100 / len(values))
    clipped = np.minimum(values, edges[-1])
    axes.hist(clipped, edges.tolist(), weights=weights, color=SYSTEM_COLOURS[0], alpha=0.6, zorder=2)
    median = float(np.median(values))
    axes.axvline(median, color=SYSTEM_COLOURS[1], lw=1.3, ls=_DASHED, zorder=3)
    text = f"{len(values)} {counted}\nmedian {median:.2f} mm"
    beyond = int((values > edges[-1]).sum())
    if beyond:
        text += f"\n{beyond} beyond {edges[-1]:.1f} mm (up to {values.max():.1f})\nin the last bin"
    _text(axes, text, "right")


ROC_LIMITS = (0.74, 0.8)
"""Limits of G at or below which a vertebra or patient is positive."""


def draw_roc(matches: pd.DataFrame) -> Figure:
    """Draw ROC curves by vertebra and by patient; see ``figures.roc``."""
    figure = sheet(11.4, 11.6)
    figure.set_layout_engine("constrained", h_pad=0.1)
    figure.suptitle(
        "All repeats pooled. Marker: where the predicted G is at or below the same limit", size=9, color=FAINT
    )
    for line, level, rows in zip(
        figure.subplots(2, 2), ("vertebra", "patient"), (_by_vertebra(matches), _by_patient(matches)), strict=True
    ):
        for axes, limit in zip(line, ROC_LIMITS, strict=True):
            plain_axes(axes, f"By {level}, G <= {limit}", "1 - specificity", "sensitivity")
            _roc(
                axes,
                rows,
                names_of(matches),
                limit,
                "no matched vertebra" if level == "vertebra" else "no annotated patient",
            )
    return figure


def _by_vertebra(matches: pd.DataFrame) -> pd.DataFrame:
    """System, annotated and predicted G of every matched pair."""
    return matches.reindex(columns=_PAIR).dropna(subset=_PAIR[1:])


def _by_patient(matches: pd.DataFrame) -> pd.DataFrame:
    """Smallest annotated and smallest predicted G of every annotated patient, the latter 1 if none was measured.

    A patient counts once per repeat and per expert (P20 5.1: the most severe vertebra gives the patient's grade).
    """
    keys = ["system", "repeat", "patient", "expert", "rater"]
    rows = matches.reindex(columns=[*keys, "case", "genant_target", "genant"])
    rows["patient"] = rows["patient"].astype("string").fillna(rows["case"].astype("string"))
    smallest = rows.astype({"genant_target": "float64", "genant": "float64"}).groupby(keys, dropna=False)
    worst = smallest[["genant_target", "genant"]].min().reset_index()
    return worst.dropna(subset=["genant_target"]).fillna({"genant": 1.0})


def _roc(axes: Axes, rows: pd.DataFrame, systems: list[str], limit: float, nothing: str) -> None:
    if rows.empty:
        note(axes, nothing)
        return
    from sklearn.metrics import auc, roc_curve  # here: it takes a second, which predictions should not pay

    axes.plot([0, 1], [0, 1], color=FAINT, lw=0.6, zorder=1)
    for i, name in enumerate(systems):
        truth, found = _indices(of_system(rows, name))
        positive, called = truth <= limit, found <= limit
        count = f"({int(positive.sum())} of {len(positive)})"
        label = fill(shown_name(name), 32, subsequent_indent="  ")
        if positive.all() or not positive.any():
            why = nothing if not len(positive) else f"no {'negative' if positive.all() else 'positive'}"
            axes.plot([], [], " ", label=f"{label}: undefined, {why} {count}")
            continue
        false, true, _ = roc_curve(positive, -found)
        colour, line = SYSTEM_COLOURS[i % len(SYSTEM_COLOURS)], _LINES[i % len(_LINES)]
        key = Line2D(
            [called[~positive].mean()], [called[positive].mean()], color=colour, lw=1.4, ls=line, zorder=3,
            marker=_MARKERS[i % len(_MARKERS)], ms=6, mec="white", mew=0.6,
            label=f"{label}: {auc(false, true):.3f} {count}",
        )  # fmt: skip
        axes.plot(false, true, color=colour, lw=1.4, ls=line, zorder=2)
        axes.add_line(key)
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.01)
    axes.set_aspect("equal")
    key_of(axes, "AUC (positive of all)", 8 if len(systems) < 7 else 6.5)


OFF = 0.1
"""An error of G from which on a measured vertebra counts as wrong."""


def draw_doubt(matches: pd.DataFrame) -> Figure:
    """Draw whether scores and spreads say what is wrong; see ``figures.doubt``."""
    columns = ["system", "target", "score", "spread_mm", "genant_target", "genant"]
    found = matches.reindex(columns=columns).dropna(subset=["score"])
    found = found[found["system"] != EXPERTS]
    real = found["target"].notna()
    off = (found["genant"] - found["genant_target"]).abs() > OFF
    figure = sheet(13.2, 4.8 + 0.17 * len(names_of(found)))
    figure.suptitle("All repeats pooled", size=9, color=FAINT)
    reliability, invented, wrong = figure.subplots(1, 3)
    kept, bad_of_kept = "share kept, the {} first, %", "of those kept, %"
    plain_axes(
        reliability, "Detections that are vertebrae, by score", "score, mean of tenths", "share that is right, %"
    )
    plain_axes(invented, "Detections that are no vertebra", kept.format("highest scores"), bad_of_kept)
    plain_axes(wrong, f"G off by more than {OFF}, of vertebrae", kept.format("smallest spreads"), bad_of_kept)
    # by the score where spreads are equal, or none is known
    by_spread = found.assign(score=-found["spread_mm"].fillna(0.0) + 1e-6 * found["score"])
    for axes, rows, bad in ((invented, found, ~real), (wrong, by_spread[real], off[real])):
        for i, (name, score, error) in enumerate(_scored(rows, bad)):
            shares = 100 * np.cumsum(error[np.argsort(-score, kind="stable")]) / np.arange(1, len(error) + 1)
            label = f"{fill(shown_name(name), 32)}: {int(error.sum())} of {len(error)}"
            axes.plot(100 * np.arange(1, len(error) + 1) / len(error), shares, label=label, **stroke(i))
        axes.set_xlim(0, 101)
        axes.set_ylim(0)
        key_of(axes, "wrong of all", 8, below=True) if len(rows) else note(axes, "no detection")
    for i, (name, score, right) in enumerate(_scored(found, real)):
        tenths = np.array_split(np.argsort(score, kind="stable"), min(10, len(score)))
        at, share = ([float(values[part].mean()) for part in tenths] for values in (score, right))
        marker = {"marker": _MARKERS[i % len(_MARKERS)], "ms": 5, "label": fill(shown_name(name), 32)}
        reliability.plot(at, 100 * np.array(share), **marker, **stroke(i))
    key_of(reliability, "system", 8, below=True) if len(found) else note(reliability, "no detection")
    return figure


def _scored(rows: pd.DataFrame, flag: pd.Series) -> list[tuple[str, Floats, Floats]]:
    """Name, scores and a flag as 0 or 1 of each system's detections."""
    parts = [(name, rows["system"].fillna("").astype(str) == name) for name in names_of(rows)]
    return [(name, rows["score"][part].to_numpy(np.float64), flag[part].to_numpy(np.float64)) for name, part in parts]


def stroke(number: int) -> dict[str, Any]:
    colour = SYSTEM_COLOURS[number % len(SYSTEM_COLOURS)]
    return {"color": colour, "ls": _LINES[number % len(_LINES)], "lw": 1.4, "zorder": 2}


def has_experts(matches: pd.DataFrame) -> bool:
    """Whether some rows compare an expert with another."""
    return EXPERTS in names_of(matches)


def draw_expert_disagreement(matches: pd.DataFrame) -> Figure:
    """Draw how experts differ in G and in place; see ``figures.expert_disagreement``."""
    rows = matches[matches["system"] == EXPERTS]
    pairs = rows.dropna(subset=_PAIR[1:])
    figure = sheet(10.4, 4.6)
    bland, distances = figure.subplots(1, 2)
    plain_axes(bland, "Experts: G of one against another", "mean of both readings of G", "difference of G")
    plain_axes(distances, "Experts: place", "distance of the body centres, mm", "share, %")
    known = pairs["center_error_mm"].dropna()
    edges = _bins(known.to_numpy(dtype=np.float64))
    _histogram(distances, known, edges, "pairs", NOTHING)
    distances.set_xlim(edges[0], edges[-1])
    if pairs.empty:
        note(bland, NOTHING)
        return figure
    _bland_altman(bland, *_indices(pairs))
    figure.supxlabel(
        f"{len(pairs)} ordered pairs of readings in {pairs['case'].nunique()} cases: every two experts twice, "
        "once each way, so that the bias is 0",
        size=8, color=FAINT,
    )  # fmt: skip
    return figure


def sheet(width_in: float, height_in: float) -> Figure:
    return Figure(figsize=(width_in, height_in), layout="constrained", facecolor="white")


def names_of(rows: pd.DataFrame) -> list[str]:
    """Names of the systems of some rows, sorted, so that each keeps its place in every panel."""
    return sorted(rows.reindex(columns=["system"])["system"].fillna("").astype(str).unique())


def of_system(rows: pd.DataFrame, system: str) -> pd.DataFrame:
    """The rows of a system."""
    return rows[rows["system"].fillna("") == system]


def shown_name(name: str) -> str:
    """A name as printed; matplotlib hides what begins with _ from legends."""
    return f" {name}" if name.startswith("_") else name or "system"


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


def plain_axes(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, size=10, color=INK, loc="left", parse_math=False)
    axes.set_xlabel(x, size=9, color=INK)
    axes.set_ylabel(y, size=9, color=INK)
    axes.tick_params(labelsize=8, colors=INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _text(axes: Axes, text: str, side: Literal["left", "right"] = "left") -> None:
    """What a panel shows in numbers, in an upper corner."""
    axes.text(
        0.02 if side == "left" else 0.99, 0.98, text, transform=axes.transAxes, color=INK, size=8, ha=side, va="top",
        parse_math=False, zorder=4,
    )  # fmt: skip


def key_of(axes: Axes, title: str, size: float, below: bool = False) -> None:
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (0, -0.14)} if below else {"loc": "lower right"}
    legend = axes.legend(
        title=title, title_fontsize=size, alignment="left", fontsize=size, framealpha=0.85, edgecolor="none",
        handlelength=3.2, **place,
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)


def note(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", size=10, color=FAINT)
    axes.tick_params(left=False, labelleft=False)
