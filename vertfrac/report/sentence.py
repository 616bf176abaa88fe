"""What was found in a scan, as one sentence in plain words."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from vertfrac.genant import GRADES, grade
from vertfrac.report.levels import doubt_meaning, second_opinion, text_of

_UNGRADED = {
    "partial": "at the edge of the scan not graded",
    "low_score": "seen with too little certainty not graded",
    "sacrum": "named S1 not graded",
    "not_measured": "found, but not measurable",
}
"""What is said of vertebrae by their status, in this order."""


def scan_sentence(vertebrae: pd.DataFrame) -> str:
    """The vertebrae of one scan in words: how many were measured, which are fractured, which were not graded and why.

    vertebrae : rows of the table VERTEBRAE of one scan, maybe none. "14 vertebrae measured; moderate fracture (grade 2,
    G 0.70) at vertebra 9; 2 vertebrae at the edge of the scan not graded." Where levels are known they name vertebrae,
    in doubt with what else they may be: "T12 (or T11: levels may be shifted by one)". The second opinion by the normal
    shapes of the levels is told only where the worst grade differs by it.
    """
    measured = vertebrae[vertebrae["status"] == "ok"]
    parts = [f"{_count(len(measured))} measured" if len(measured) else "No vertebra measured"]
    parts += _fractures(measured) + _second_opinion(measured)
    for status, words in _UNGRADED.items():
        if count := int((vertebrae["status"] == status).sum()):
            parts.append(f"{_count(count)} {words}")
    return "; ".join(parts) + "."


def failure_sentence(reason: str, source: str = "") -> str:
    """Why a scan was not measured, in words; without the path of the scan, by which a message begins."""
    words = reason.removeprefix(f"{source}: ") if source else reason
    return f"Not measured: {words.rstrip('.')}."


def genant_text(index: float) -> str:
    """The Genant index with two decimals, or with as many more as it takes to have the grade of the index itself."""
    for digits in range(2, 7):
        text = f"{index:.{digits}f}"
        if grade(float(text)) == grade(index):
            return text
    return repr(float(index))


def _fractures(measured: pd.DataFrame) -> list[str]:
    """What is said of the measured vertebrae by grade, the worst first; of a scan without fracture that there is none.

    Of several vertebrae only the smallest G is told.
    """
    if measured.empty:
        return []
    found: list[str] = []
    for severity in range(len(GRADES) - 1, 0, -1):
        rows = measured[measured["grade"] == severity]
        if rows.empty:
            continue
        many = len(rows) > 1
        noun = f"{len(rows)} {GRADES[severity]} fractures" if many else f"{GRADES[severity]} fracture"
        smallest = f"{'smallest ' if many else ''}G {genant_text(rows['genant'].min())}"
        found.append(f"{noun} (grade {severity}, {smallest}) at {_places(rows, explained=bool(found))}")
    if found:
        return found
    least = measured.loc[[measured["genant"].idxmin()]]
    where = f"smallest G {genant_text(least['genant'].min())}, {_place(least)}" if len(measured) > 1 else (
        f"G {genant_text(least['genant'].min())}"
    )  # fmt: skip
    return [f"no fracture ({where})"]


def _place(row: pd.DataFrame) -> str:
    """One vertebra inside of brackets: "T12", "T12 or T11" in doubt, "vertebra 9"."""
    names = [text_of(row[column].iloc[0]) for column in ("level", "level_runner_up")]
    return " or ".join(filter(None, names)) or f"vertebra {row['vertebra'].iloc[0]}"


def _second_opinion(measured: pd.DataFrame) -> list[str]:
    grade_name = second_opinion(measured)
    if not grade_name:
        return []
    shape = "its level's normal shape" if (measured["grade"] > 0).sum() == 1 else "the normal shapes of the levels"
    return [f"by {shape}: {grade_name}"]


def _places(rows: pd.DataFrame, *, explained: bool = False) -> str:
    """Vertebrae by level where it is known, else by number: "vertebrae 3 and 5", "T12 and vertebra 9".

    Levels in doubt have what else they may be in brackets, the first with what that means, unless explained before.
    """
    levels = rows["level"].fillna("").tolist()
    others = rows["level_runner_up"].fillna("").tolist()
    numbers = [str(number) for number in rows["vertebra"]]
    if not any(levels):
        return f"{'vertebra' if len(numbers) == 1 else 'vertebrae'} {_listed(numbers)}"
    names = [level or f"vertebra {number}" for level, number in zip(levels, numbers, strict=True)]
    if not any(others):
        return _listed(names)
    meaning = "" if explained else f": {doubt_meaning(levels, others)}"
    if all(others):
        return f"{_listed(names)} (or {_listed(others)}{meaning})"
    doubted = [f"{name} (or {other})" if other else name for name, other in zip(names, others, strict=True)]
    return _listed(doubted)


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _count(number: int) -> str:
    return f"{number} {'vertebra' if number == 1 else 'vertebrae'}"
