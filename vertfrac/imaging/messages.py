"""What other libraries say, made fit for a message of one line."""

from __future__ import annotations


def one_line(error: BaseException) -> str:
    """The text of an error with line breaks and runs of blanks as single blanks; its type where it has no text."""
    return " ".join(str(error).split()) or type(error).__name__


def printable(text: object) -> str:
    """A text, such as a path, without what a table cannot store and a terminal would obey.

    Control characters and bytes of file names that are no UTF-8 become the replacement character.
    """
    return "".join(sign if sign.isprintable() else "\ufffd" for sign in str(text))
