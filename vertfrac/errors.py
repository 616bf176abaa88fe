"""Every error that vertfrac raises on purpose.

The command line prints the message of a :class:`VertfracError` as one line and exits with 1; any other
exception is a defect of vertfrac. A message names the file or the value, what was found and what was expected.
"""

from __future__ import annotations

import re
import unicodedata

LONGEST_MESSAGE = 1000
"""Characters; a longer message, which repeats a value of any length, loses its middle."""

_UNSEEN = {"Cc", "Cs", "Zl", "Zp"}
"""Control characters, halves of characters (which stand for bytes of a file name that are no text), line ends."""


def printable(text: object) -> str:
    """A text with each character that would break a line, a terminal or an encoding as an escape such as ``\\\\n``."""
    return "".join(
        c.encode("unicode_escape").decode("ascii") if unicodedata.category(c) in _UNSEEN else c for c in str(text)
    )


def as_message(text: object) -> str:
    """A text that may repeat what a file holds as one printable line of bounded length, its beginning and its end."""
    line = str(text)
    if len(line) > LONGEST_MESSAGE:
        half = LONGEST_MESSAGE // 2
        line = f"{line[:half]} ... {line[-half:]}"
    return printable(re.sub(r"\s*[\r\n]\s*", " ", line.strip()))


class VertfracError(Exception):
    """Base class of all errors that a user can cause and mend; the message is made one by ``as_message``."""

    def __init__(self, message: object = "") -> None:
        super().__init__(as_message(message))


class ConfigError(VertfracError):
    """A configuration value is unknown, missing, of the wrong type or out of range."""


class ImageError(VertfracError):
    """A scan cannot be read or cannot be measured (truncated, not 3D, no spacing, too thin, ...)."""


class AnnotationError(VertfracError):
    """An annotation file or table does not hold what its schema promises."""


class TableError(VertfracError):
    """A table lacks a column, has a column of another type, or cannot be read."""


class GeometryError(VertfracError):
    """A geometric value is impossible (singular affine, curve with fewer than two points, ...)."""


class NoSpineError(VertfracError):
    """The localizer saw no spine in a scan."""


class ModelError(VertfracError):
    """A model folder is missing, incomplete, of another version or not one of ours."""


class CohortError(VertfracError):
    """A cohort cannot be used as asked (no usable case, more folds than patients, ...)."""


class ExcludedError(VertfracError):
    """A case is sound, but holds nothing to train on or to score: no annotation, or that of one vertebra."""
