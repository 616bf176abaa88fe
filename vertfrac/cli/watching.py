"""What ``vertfrac predict`` prints while it works, in four styles."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Literal

from vertfrac.inference.predict import Outcome, as_line
from vertfrac.inference.scan import ungraded
from vertfrac.report.scan_json import scan_line
from vertfrac.report.terminal import ScanBar, as_stages, bar_wanted, console, say, show_scan

Style = Literal["usual", "verbose", "quiet", "json"]


class Printing:
    """A watcher of `predict_scans`: results on standard output, failures, times and the bar on standard error.

    usual : a sentence and a table per scan, and what is unusual about it. verbose : the time of each stage too. quiet :
    failures alone, and no bar. json : one line per scan, failed ones too, and nothing else on standard output.
    """

    def __init__(self, scans: int, style: Style) -> None:
        self._style = style
        self._out = console()
        self._errors = console(stderr=True)
        self._bar = ScanBar(scans, self._errors, wanted=style != "quiet" and bar_wanted(sys.stderr))

    def __enter__(self) -> Printing:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.hide()

    def begin(self, case: str) -> None:
        """Show which scan is at work."""
        self._bar.begin(case)

    def done(self, outcome: Outcome) -> None:
        """Print what came of a scan."""
        self._bar.advance()
        self._bar.hide()
        failed = outcome.row["status"] != "ok"
        if failed:
            say(self._errors, as_line(outcome.row))
        if self._style == "json":
            print(_as_json(outcome), flush=True)
        elif not failed and self._style != "quiet":
            self._show(outcome)
        if self._style == "verbose" and not failed:
            say(self._errors, f"{outcome.row['case']}: {as_stages(outcome.seconds)}", "dim")

    def _show(self, outcome: Outcome) -> None:
        show_scan(self._out, outcome.row["case"], outcome.row["sentence"], outcome.vertebrae)
        told = ungraded(outcome.vertebrae)
        for warning in outcome.warnings:
            if warning not in told:
                say(self._out, f"warning: {warning}")


def _as_json(outcome: Outcome) -> str:
    return scan_line(
        outcome.row, outcome.vertebrae, warnings=outcome.warnings, stages=outcome.seconds, folder=outcome.folder
    )
