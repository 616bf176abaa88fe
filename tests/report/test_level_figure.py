"""The picture of levels: what is drawn is what the tables hold, and what is missing is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from vertfrac import tables
from vertfrac.cohorts.levels import NAMED
from vertfrac.evaluation.levels import named_pairs
from vertfrac.report import figures
from vertfrac.report.level_figure import NO_LEVEL, NO_PROBABILITY, NO_TRUTH, OFFSETS, confusion, draw_levels


def _rows(system: str, off: int, count: int = 30, **changes: Any) -> list[dict[str, Any]]:
    """Vertebrae from T1 to T10, each named ``off`` places too far down."""
    first = NAMED.index("T1")
    return [
        {
            "system": system, "case": f"c{i // 10}", "target": i, "vertebra": i, "level_target": NAMED[first + i % 10],
            "level": NAMED[first + i % 10 + off], "level_probability": (i + 0.5) / count, **changes,
        }
        for i in range(count)
    ]  # fmt: skip


def _drawn(rows: list[dict[str, Any]]) -> list[Any]:
    return [axes for axes in draw_levels(tables.MATCHES.frame(rows)).axes if axes.axison]


def test_reliability_is_the_share_right_at_the_mean_probability_of_each_tenth() -> None:
    right, wrong = _rows("one", 0), _rows("one", 1)
    rows = [*right[15:], *wrong[:15]]
    reliability, _ = _drawn(rows)
    line = next(line for line in reliability.lines if line.get_marker() == "o")
    assert np.asarray(line.get_ydata()) == pytest.approx([0.0] * 5 + [100.0] * 5)
    assert np.asarray(line.get_xdata()) == pytest.approx([0.05 + 0.1 * k for k in range(10)])
    assert [text.get_text() for text in reliability.get_legend().get_texts()] == ["one: 15 of 30 right"]


@pytest.mark.parametrize(("off", "column"), [(0, "right"), (1, "+1"), (-2, "-2"), (5, "≥ +3")])
def test_confusion_counts_places_by_region(off: int, column: str) -> None:
    counts = confusion(named_pairs(tables.MATCHES.frame(_rows("one", off))))
    assert counts.sum(axis=1).tolist() == [0, 12, 12, 6, 0]
    assert counts[:, OFFSETS.index(column)].sum() == 30


def test_confusion_of_a_system_is_drawn_in_percent_of_its_region() -> None:
    rows = _rows("one", 0)
    rows[0]["level"] = ""
    _, panel = _drawn(rows)
    assert sorted(text.get_text() for text in panel.texts) == ["100 %", "100 %", "8 %", "92 %"]
    assert [label.get_text() for label in panel.get_yticklabels()] == [
        "T1-T4\nn = 12",
        "T5-T8\nn = 12",
        "T9-T13\nn = 6",
    ]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"level": "", "level_probability": None}, (NO_LEVEL, NO_LEVEL)),
        ({"level_target": None}, (NO_TRUTH, NO_TRUTH)),
    ],
)
def test_what_cannot_be_drawn_is_said(changes: dict[str, Any], said: tuple[str, str]) -> None:
    assert tuple(axes.texts[0].get_text() for axes in _drawn(_rows("one", 0, **changes))) == said


def test_names_without_probability_still_have_a_confusion() -> None:
    reliability, panel = _drawn(_rows("one", 0, level_probability=None))
    assert [text.get_text() for text in reliability.texts] == [NO_PROBABILITY]
    assert {text.get_text() for text in panel.texts} == {"100 %"}


def test_a_system_without_levels_keeps_its_place_among_others() -> None:
    rows = [*_rows("named", 0), *_rows("bare", 0, level="", level_probability=None)]
    _, bare, named = _drawn(rows)
    assert (bare.get_title(loc="left"), bare.texts[0].get_text()) == ("bare", NO_LEVEL)
    assert named.get_title(loc="left") == "named"


@pytest.mark.parametrize("matches", [pd.DataFrame(), tables.MATCHES.frame([])], ids=["bare", "typed"])
def test_empty_tables_say_so(matches: pd.DataFrame) -> None:
    assert {axes.texts[0].get_text() for axes in draw_levels(matches).axes} == {NO_LEVEL}


def test_writes_png(tmp_path: Path) -> None:
    figures.levels(tmp_path / "levels.png", tables.MATCHES.frame(_rows("one", 1)))
    height, width, _ = imread(tmp_path / "levels.png").shape
    assert (500 < height < 3000, 1200 < width < 2200) == (True, True)
