"""A second opinion on the Genant index: heights over those that are normal at the level of the vertebra.

G = min / max of the three heights takes a body of three equal heights for the normal one. No level has such a body: the
middle is lower than the ends everywhere, and at mid-thoracic levels the front is lower than the back, so that G calls
many normal wedges mild. Here each height is divided by what is typical at its level first: a body of typical shape has
1, whatever its size.

The typical shapes come from the public six-keypoint annotations of 75 chest CTs (MosMedData CT_LUNGCANCER_500, 2 to 4
experts each, CC BY-NC 4.0) of Pisov et al. 2020 (doi 10.1007/978-3-030-59725-2_70) and Zakharov et al. 2022 (doi
10.1016/j.media.2022.102646). ``benchmarks/level_shape.py`` prints them and says how they are made; ``docs/levels.md``
shows what they change. They are no reference values of a healthy population.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vertfrac.genant import genant_index

Floats = NDArray[np.float64]

TYPICAL: dict[str, tuple[float, float]] = {
    "C3": (0.973, 0.865),
    "C4": (0.973, 0.864),
    "C5": (0.973, 0.863),
    "C6": (0.973, 0.862),
    "C7": (0.981, 0.858),
    "T1": (0.967, 0.858),
    "T2": (0.977, 0.866),
    "T3": (0.961, 0.856),
    "T4": (0.930, 0.852),
    "T5": (0.911, 0.847),
    "T6": (0.884, 0.843),
    "T7": (0.873, 0.844),
    "T8": (0.898, 0.852),
    "T9": (0.925, 0.858),
    "T10": (0.944, 0.863),
    "T11": (0.930, 0.859),
    "T12": (0.933, 0.864),
    "T13": (0.940, 0.865),
    "L1": (0.947, 0.865),
    "L2": (0.957, 0.865),
    "L3": (1.001, 0.872),
    "L4": (1.027, 0.895),
    "L5": (1.098, 0.955),
    "L6": (1.098, 0.955),
}
"""Level -> typical anterior / posterior and middle / posterior height.

C3 to C5 and L3 to L6 are assumed, since there are too few annotations or none: they go on from C6 and L2 as the healthy
bodies of phantoms do. T13 lies between T12 and L1.
"""


def typical_heights(levels: Sequence[str]) -> Floats:
    """Typical anterior, middle and posterior height of each level over the posterior one, (n, 3), NaN without a shape.

    levels : names such as T7; empty, S1 and any other name have no shape.
    """
    unknown = (np.nan, np.nan)
    return np.array([(*TYPICAL.get(level, unknown), 1.0) for level in levels], dtype=np.float64).reshape(-1, 3)


def genant_level(heights_mm: ArrayLike, levels: Sequence[str]) -> Floats:
    """Genant index of the heights over those that are typical at their level: 1 for a body of typical shape.

    heights_mm : (n, 3), anterior, middle, posterior, mm. levels : (n,). Returns (n,), NaN where a level has no shape or
    G itself is NaN. ``genant.grade`` makes a grade of it.
    """
    h = np.asarray(heights_mm, dtype=np.float64).reshape(-1, 3)
    return genant_index(h / typical_heights(levels))
