"""Laws of the terminal: numbers are the table's, colours and the bar stay in terminals, nothing printed is obeyed."""

from __future__ import annotations

import io
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from vertfrac import tables
from vertfrac.genant import GRADES
from vertfrac.report.style import GRADE_COLOURS
from vertfrac.report.terminal import ScanBar, as_stages, bar_wanted, console, say, show_scan


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLORTERM", "truecolor")


@pytest.fixture
def vertebrae() -> pd.DataFrame:
    rows: list[dict[str, Any]] = [
        {
            "vertebra": n + 1, "level": "T12" if n == 1 else "", "status": "ok", "score": 0.9, "genant": index,
            "grade": grade, "height_anterior_mm": 20.25 + n, "height_middle_mm": 15.0, "height_posterior_mm": 31.75,
        }
        for n, (grade, index) in enumerate(enumerate((0.9, 0.77, 0.7, 0.5)))
    ]  # fmt: skip
    edge = {**rows[0], "vertebra": 5, "status": "low_score", "grade": None, "genant": None}
    return tables.VERTEBRAE.frame([*rows, edge])


def shown(vertebrae: pd.DataFrame, stream: io.StringIO) -> str:
    show_scan(console(stream), "a case", "A sentence.", vertebrae)
    return stream.getvalue()


def test_a_row_has_the_numbers_of_the_table(vertebrae: pd.DataFrame) -> None:
    lines = shown(vertebrae, io.StringIO()).splitlines()
    assert lines[0] == "a case: A sentence."
    cells = [line.split() for line in lines if line[:1].isdigit()]
    assert cells[1] == ["2", "T12", "21.2", "15.0", "31.8", "0.77", "1", "mild", "ok", "0.90"]
    assert cells[4] == ["5", "20.2", "15.0", "31.8", "low", "score", "0.90"]
    assert len(cells) == len(vertebrae)
    assert max(map(len, lines)) <= 80, "it fits the narrowest usual terminal"
    assert "\N{HORIZONTAL ELLIPSIS}" not in "".join(lines)


def test_doubt_has_a_question_mark_and_another_grade_by_level_stands_in_brackets(vertebrae: pd.DataFrame) -> None:
    plain = shown(vertebrae, io.StringIO())
    assert "?" not in plain
    assert "(" not in plain
    vertebrae["level_runner_up"] = pd.array(["", "T11", "", "", ""], dtype="string")
    vertebrae["grade_level"] = pd.array([0, 0, 2, 2, None], dtype="Int64")
    lines = shown(vertebrae, io.StringIO()).splitlines()
    cells = [line.split() for line in lines if line[:1].isdigit()]
    assert cells[1] == ["2", "T12?", "21.2", "15.0", "31.8", "0.77", "1", "mild", "(0)", "ok", "0.90"]
    assert [next((cell for cell in row if "(" in cell), "") for row in cells] == ["", "(0)", "", "(2)", ""]
    assert "(by level)" in "".join(lines)
    assert max(map(len, lines)) <= 80


def test_a_grade_has_its_colour_in_a_terminal(vertebrae: pd.DataFrame) -> None:
    text = shown(vertebrae, Terminal())
    for grade, colour in enumerate(GRADE_COLOURS):
        red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
        assert f"48;2;{red};{green};{blue}m {grade} {GRADES[grade]}" in text


def test_there_is_no_colour_outside_of_a_terminal(vertebrae: pd.DataFrame) -> None:
    assert "\x1b" not in shown(vertebrae, io.StringIO())


def test_there_is_no_colour_with_no_color(vertebrae: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert "48;2" not in shown(vertebrae, Terminal())


def test_what_a_terminal_would_obey_is_taken_out() -> None:
    stream = io.StringIO()
    say(console(stream), "a\x1b[31mred\x07 [bold]b[/bold] \udc80" + "x" * 200)
    assert stream.getvalue() == "a\\x1b[31mred\\x07 [bold]b[/bold] \\udc80" + "x" * 200 + "\n"


@pytest.mark.parametrize(
    ("stream", "environment", "wanted"),
    [
        (Terminal(), {}, True),
        (io.StringIO(), {}, False),
        (io.StringIO(), {"FORCE_COLOR": "1"}, False),
        (Terminal(), {"NO_COLOR": "1"}, False),
        (Terminal(), {"TERM": "dumb"}, False),
    ],
)
def test_a_bar_is_drawn_in_terminals_only(
    stream: io.StringIO, environment: dict[str, str], wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert bar_wanted(stream) == wanted


def bar_text(wanted: bool) -> str:
    stream = Terminal()
    with ScanBar(2, console(stream), wanted=wanted) as bar:
        bar.begin("first")
        bar.advance()
        bar.hide()
        stream.write("RESULT\n")
        bar.begin("second")
    return stream.getvalue()


def test_the_bar_names_the_scan_and_is_gone_before_anything_else_is_printed() -> None:
    before, after = bar_text(True).split("RESULT")
    assert "first" in before
    assert before.rstrip().endswith("\x1b[2K"), "the line of the bar is erased"
    assert "second" in after
    assert "1/2" in after


def test_a_bar_that_is_not_wanted_prints_nothing() -> None:
    assert bar_text(False) == "RESULT\n"


def test_stages_are_named_with_their_seconds_and_sum() -> None:
    assert as_stages({"read": 1.0, "detect": 0.25}) == "read 1.00 s, detect 0.25 s; together 1.25 s"


def test_a_console_is_never_too_narrow_for_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    assert console(io.StringIO()).width == 80
    assert isinstance(console(Terminal()), Console)
