"""How levels and doubts about them are worded, the same in every output.

A level is in doubt where ``level_runner_up`` names another one: the second likeliest, given the whole column.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from vertfrac.cohorts.levels import place
from vertfrac.genant import GRADES


def text_of(value: Any) -> str:
    """A cell of text, "" where it is missing."""
    return "" if value is None or pd.isna(value) else str(value)


def short_name(row: Mapping[Any, Any]) -> str:
    """A row in the least room: "T12", "T12?" in doubt, or its number where it has no level.

    row : of VERTEBRAE, or of MASK_VERTEBRAE, whose levels know no doubt.
    """
    level = text_of(row["level"])
    return f"{level}{'?' if text_of(row.get('level_runner_up', '')) else ''}" if level else str(row["vertebra"])


def long_name(row: Mapping[Any, Any]) -> str:
    """A row of VERTEBRAE in a sentence: "T12", "T12 (or T11)", or "vertebra 9" where it has no level."""
    level, other = text_of(row["level"]), text_of(row["level_runner_up"])
    return f"{level} (or {other})" if level and other else level or f"vertebra {row['vertebra']}"


class NamedLevels(NamedTuple):
    """First and last level that is named in a scan, and whether any of them is in doubt."""

    first: str
    last: str
    in_doubt: bool


def named_levels(vertebrae: pd.DataFrame) -> NamedLevels | None:
    """The levels of one scan, rows of VERTEBRAE superior first; None where none is named."""
    named = vertebrae[vertebrae["level"].fillna("") != ""]
    if named.empty:
        return None
    levels = named["level"].tolist()
    return NamedLevels(levels[0], levels[-1], bool((named["level_runner_up"].fillna("") != "").any()))


def doubt_warnings(vertebrae: pd.DataFrame) -> tuple[str, ...]:
    """Which levels of a scan are in doubt and what they may be, as no line or one.

    "levels in doubt: T8-L2 may be T7-L1"; where levels without doubt lie between, each run is told.
    vertebrae : rows of VERTEBRAE of one scan, superior first.
    """
    named = vertebrae[vertebrae["level"].fillna("") != ""]
    runs: list[list[tuple[str, str]]] = [[]]
    for level, other in zip(named["level"], named["level_runner_up"].fillna(""), strict=True):
        if other:
            runs[-1].append((str(level), str(other)))
        elif runs[-1]:
            runs.append([])
    told = [f"{_span([a for a, _ in run])} may be {_span([b for _, b in run])}" for run in runs if run]
    return (f"levels in doubt: {', '.join(told)}",) if told else ()


def doubt_meaning(levels: Sequence[str], others: Sequence[str]) -> str:
    """What it means that levels may be others: "levels may be shifted by one", if that explains all of them.

    levels, others : (n,) names, "" for none.
    """
    pairs = [(a, b) for a, b in zip(levels, others, strict=True) if a and b]
    by_one = all(abs(place(a) - place(b)) <= 1 for a, b in pairs)
    return "levels may be shifted by one" if by_one else "levels are in doubt"


def _span(levels: list[str]) -> str:
    return levels[0] if len(levels) == 1 else f"{levels[0]}-{levels[-1]}"


def differs(row: Mapping[Any, Any]) -> bool:
    """Whether a graded row of VERTEBRAE has another grade by the normal shape of its level."""
    return not pd.isna(row["grade"]) and not pd.isna(row["grade_level"]) and row["grade"] != row["grade_level"]


def second_opinion(vertebrae: pd.DataFrame) -> str:
    """The worst grade of a scan by the normal shapes of the levels; "" where it is the same or some level has no shape.

    vertebrae : rows of VERTEBRAE with status ok.
    """
    if vertebrae.empty or vertebrae["grade_level"].isna().any():
        return ""
    worst, other = int(vertebrae["grade"].max()), int(vertebrae["grade_level"].max())
    return "" if worst == other else GRADES[other]
