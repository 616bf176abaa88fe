"""Laws of the words for levels: doubt is always told, and where nothing is named nothing is said."""

from __future__ import annotations

import pandas as pd
import pytest

from vertfrac import tables
from vertfrac.report.levels import doubt_meaning, doubt_warnings, long_name, named_levels, second_opinion, short_name

Pairs = list[tuple[str, str]]


def rows(pairs: Pairs) -> pd.DataFrame:
    """Vertebrae by level and runner-up, numbered from 1."""
    return tables.VERTEBRAE.frame(
        {"vertebra": n, "level": level, "level_runner_up": other} for n, (level, other) in enumerate(pairs, start=1)
    )


@pytest.mark.parametrize(
    ("pair", "short", "long"),
    [(("", ""), "1", "vertebra 1"), (("T12", ""), "T12", "T12"), (("T12", "T11"), "T12?", "T12 (or T11)")],
)
def test_names(pair: tuple[str, str], short: str, long: str) -> None:
    (row,) = rows([pair]).to_dict("records")
    assert (short_name(row), long_name(row)) == (short, long)


def test_a_table_of_an_earlier_version_has_no_levels() -> None:
    frame = tables.VERTEBRAE.frame([{"vertebra": 3}])
    (row,) = frame.to_dict("records")
    assert (short_name(row), long_name(row)) == ("3", "vertebra 3")
    assert named_levels(frame) is None
    assert doubt_warnings(frame) == ()
    assert second_opinion(frame) == ""


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        ([], ()),
        ([("T12", ""), ("L1", "")], ()),
        ([("T12", "T11")], ("levels in doubt: T12 may be T11",)),
        ([("", ""), ("T8", "T7"), ("T9", "T8"), ("L2", "L1")], ("levels in doubt: T8-L2 may be T7-L1",)),
        (
            [("T11", ""), ("T12", "T11"), ("L1", ""), ("L2", "L3"), ("L3", "L4")],
            ("levels in doubt: T12 may be T11, L2-L3 may be L3-L4",),
        ),
    ],
)
def test_doubt_is_told_in_one_line(pairs: Pairs, words: tuple[str, ...]) -> None:
    assert doubt_warnings(rows(pairs)) == words
    named = named_levels(rows(pairs))
    assert (named is not None and named.in_doubt) == bool(words)


def test_first_and_last_named_level() -> None:
    assert named_levels(rows([("", ""), ("T8", ""), ("", ""), ("L2", ""), ("", "")])) == ("T8", "L2", False)


@pytest.mark.parametrize(
    ("pairs", "by_one"),
    [
        ([("T12", "T11"), ("L1", "T12")], True),
        ([("L5", "S1"), ("S1", "")], True),
        ([("L1", "T13")], True),
        ([("T12", "T10")], False),
        ([("T12", "T11"), ("L1", "T11")], False),
    ],
)
def test_a_shift_by_one_is_called_so(pairs: Pairs, by_one: bool) -> None:
    meaning = doubt_meaning([a for a, _ in pairs], [b for _, b in pairs])
    assert meaning == ("levels may be shifted by one" if by_one else "levels are in doubt")


@pytest.mark.parametrize(
    ("grades", "by_level", "words"),
    [([1, 0], [0, 0], "normal"), ([2, 1], [2, 0], ""), ([0, 0], [0, 1], "mild"), ([2, 1], [1, None], "")],
)
def test_the_second_opinion_is_told_where_the_worst_grade_differs(
    grades: list[int], by_level: list[int | None], words: str
) -> None:
    frame = tables.VERTEBRAE.frame(
        {"vertebra": n, "grade": a, "grade_level": b} for n, (a, b) in enumerate(zip(grades, by_level, strict=True))
    )
    assert second_opinion(frame) == words
