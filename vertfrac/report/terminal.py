"""What ``vertfrac predict`` shows in a terminal: a table and a sentence per scan, and a bar over the scans."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import TracebackType
from typing import IO, Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from vertfrac.genant import GRADES
from vertfrac.geometry.keypoints import HEIGHTS
from vertfrac.imaging.messages import printable
from vertfrac.report.levels import differs, short_name, text_of
from vertfrac.report.sentence import genant_text
from vertfrac.report.style import GRADE_COLOURS

_NARROWEST = 80


def console(file: IO[str] | None = None, *, stderr: bool = False) -> Console:
    """A console that takes texts as they are. Colours only in a terminal, and not with NO_COLOR or TERM=dumb."""
    made = Console(file=file, stderr=stderr, highlight=False, markup=False, emoji=False)
    if not made.is_terminal:
        made.width = max(made.width, _NARROWEST)
    return made


def bar_wanted(file: IO[str]) -> bool:
    """Whether a progress bar may be drawn there: a terminal that can move the cursor, and no NO_COLOR."""
    return file.isatty() and os.environ.get("TERM") not in ("dumb", "unknown") and not os.environ.get("NO_COLOR")


def say(out: Console, text: str, style: str = "", *, wrap: bool = False) -> None:
    """Plain text, with what a terminal would obey taken out; one line, which only a terminal may wrap between words."""
    out.print(Text(printable(text), style=style), soft_wrap=not (wrap and out.is_terminal))


def show_scan(out: Console, case: str, sentence: str, vertebrae: pd.DataFrame) -> None:
    """The sentence of a scan and the table of its vertebrae under it.

    vertebrae : rows of the table VERTEBRAE of one scan.
    """
    say(out, f"{case}: {sentence}", "bold", wrap=True)
    if len(vertebrae):
        out.print(scan_table(vertebrae))
        out.print()


def scan_table(vertebrae: pd.DataFrame) -> Table:
    """Vertebrae as a table: number and level, three heights in mm, G, the grade in its colour, status, score.

    vertebrae : rows of the table VERTEBRAE of one scan. What is not graded is dim. A level in doubt has a question
    mark; the grade by the normal shape of the level follows in brackets where it differs.
    """
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("vertebra", no_wrap=True)
    for name in (*(f"{height}\nmm" for height in HEIGHTS), "G"):
        table.add_column(name, justify="right", no_wrap=True)
    rows: list[dict[Any, Any]] = vertebrae.to_dict("records")
    table.add_column("grade\n(by level)" if any(map(differs, rows)) else "grade", no_wrap=True)
    table.add_column("status", no_wrap=True)
    table.add_column("score", justify="right", no_wrap=True)
    for row in rows:
        graded = row["status"] == "ok"
        table.add_row(
            f"{row['vertebra']} {printable(short_name(row))}" if text_of(row["level"]) else str(row["vertebra"]),
            *(f"{row[f'height_{height}_mm']:.1f}" for height in HEIGHTS),
            "" if pd.isna(row["genant"]) else genant_text(float(row["genant"])),
            _grade(int(row["grade"]), _other_grade(row)) if graded else Text(""),
            str(row["status"]).replace("_", " "),
            f"{row['score']:.2f}",
            style="" if graded else "dim",
        )
    return table


def _other_grade(row: dict[Any, Any]) -> str:
    """The second opinion where it differs: "(0)"."""
    return f"({int(row['grade_level'])})" if differs(row) else ""


def _grade(grade: int, other: str = "") -> Text:
    """Black on the grade's colour, which is readable whatever the terminal's own colours are."""
    text = Text(f" {grade} {GRADES[grade]} ", style=f"#000000 on {GRADE_COLOURS[grade]}")
    return Text.assemble(text, other) if other else text


def as_stages(seconds: Mapping[str, float]) -> str:
    """Seconds by stage as one line."""
    stages = ", ".join(f"{stage} {value:.2f} s" for stage, value in seconds.items())
    return f"{stages}; together {sum(seconds.values()):.2f} s"


class ScanBar:
    """A bar over the scans of a call, with the name of the one at work; nothing at all where it is not wanted.

    While anything else is printed it is taken away (`hide`), so that neither stream is mixed up.
    """

    def __init__(self, scans: int, out: Console, *, wanted: bool) -> None:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._progress = Progress(
            *columns,
            console=out,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            refresh_per_second=4,
            disable=not wanted,
        )
        self._task = self._progress.add_task("", total=scans)

    def __enter__(self) -> ScanBar:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def begin(self, case: str) -> None:
        """Name the scan at work, and show the bar again."""
        self._progress.update(self._task, description=printable(case))
        self._progress.start()

    def hide(self) -> None:
        """Take the bar away until the next scan begins."""
        self._progress.stop()

    def advance(self) -> None:
        """One scan is done, or has failed."""
        self._progress.advance(self._task)
