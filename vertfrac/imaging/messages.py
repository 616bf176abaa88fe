"""What other libraries and file systems say, made fit for a message or a cell of one line."""

from __future__ import annotations

import unicodedata

_UNSEEN = {"Cc", "Cs", "Zl", "Zp"}
"""Control characters, halves of characters (which stand for bytes of a file name that are no text), line ends."""


def one_line(error: BaseException) -> str:
    """The text of an error with line breaks and runs of blanks as single blanks; its type where it has no text."""
    return printable(" ".join(str(error).split())) or type(error).__name__


def printable(text: object) -> str:
    """A text with each character that would break a line, a terminal or an encoding as an escape such as ``\\\\n``."""
    return "".join(
        c.encode("unicode_escape").decode("ascii") if unicodedata.category(c) in _UNSEEN else c for c in str(text)
    )
