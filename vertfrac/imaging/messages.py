"""What other libraries and file systems say, made fit for a message or a cell of one line."""

from __future__ import annotations

from vertfrac.errors import printable

__all__ = ["one_line", "printable"]


def one_line(error: BaseException) -> str:
    """The text of an error with line breaks and runs of blanks as single blanks; its type where it has no text."""
    return printable(" ".join(str(error).split())) or type(error).__name__
