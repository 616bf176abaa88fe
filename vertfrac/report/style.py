"""What all pictures share: the colours of the grades and of the systems, and writing a figure as PNG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from vertfrac.files import replacing
from vertfrac.genant import GRADE_LIMITS, GRADES

DPI = 150
PIXEL_PT = 72 / DPI
"""One pixel of a saved picture, in points."""

_COMPRESSION = 3
"""Of PNG files, 0 to 9: half the time of zlib's usual 6 for a seventh more bytes."""

GRADE_COLOURS: tuple[str, ...] = ("#3fc1c9", "#ffe14d", "#ff9a1f", "#ff3d5e")
"""Colour of grade 0 to 3 on a dark ground: apart in lightness too, for readers who do not tell red from green."""

UNGRADED_COLOUR = "#a8adb3"
"""Colour of a vertebra that is not graded."""

SYSTEM_COLOURS: tuple[str, ...] = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#8a6d00", "#444444")
"""Colours of systems on a light ground (after Okabe and Ito), used in turn."""


def grade_captions() -> tuple[str, ...]:
    """Name and range of G of grade 0 to 3, for legends."""
    upper = [None, *GRADE_LIMITS]
    lower = [*GRADE_LIMITS, None]
    captions = []
    for name, low, high in zip(GRADES, lower, upper, strict=True):
        above = "" if low is None else f"{low:.2f} < "
        captions.append(f"{name}  G > {low:.2f}" if high is None else f"{name}  {above}G ≤ {high:.2f}")
    return tuple(captions)


def pixels(figure: Figure) -> NDArray[np.uint8]:
    """A figure as the picture that `save` writes, (rows, columns, 3), RGB."""
    figure.set_dpi(DPI)
    canvas: Any = FigureCanvasAgg(figure)  # has no types
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]


def save(path: Path | str, figure: Figure) -> None:
    """Write a figure as PNG at DPI dots per inch, atomically."""
    with replacing(path) as temporary:
        FigureCanvasAgg(figure)
        figure.savefig(
            temporary,
            format="png",
            dpi=DPI,
            facecolor=figure.get_facecolor(),
            pil_kwargs={"compress_level": _COMPRESSION},
        )
