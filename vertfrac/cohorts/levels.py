"""Anatomical levels: their names, their order, and what people write for them."""

from __future__ import annotations

import re

LEVELS: tuple[str, ...] = (
    *(f"C{n}" for n in range(1, 8)),
    *(f"T{n}" for n in range(1, 14)),
    *(f"L{n}" for n in range(1, 7)),
)
"""From superior to inferior; T13 and L6 occur as variants."""

NAMED: tuple[str, ...] = (*LEVELS[2:], "S1")
"""The levels that a detection may be named, superior first: what the level head gives evidence for, in its order.

C1 and C2 have no six keypoints; S1 is no vertebra to be measured, but may be taken for one.
"""

LEVEL_OF: dict[int, str] = {
    **{n: f"C{n}" for n in range(1, 8)},
    **{n + 7: f"T{n}" for n in range(1, 13)},
    28: "T13",
    **{n + 19: f"L{n}" for n in range(1, 7)},
    26: "S1",
    **{n + 27: f"S{n}" for n in range(2, 6)},
    27: "coccyx",
}
"""Label -> level, superior first: VerSe (Sekuboyina et al. 2021), 26-32 as TPTBox extends it."""

LABEL_OF: dict[str, int] = {level: label for label, level in LEVEL_OF.items()}

TOTALSEGMENTATOR: dict[int, str] = {
    27 + k: level for k, level in enumerate(reversed([level for level in LEVELS if level not in ("T13", "L6")]))
}
"""Label -> level in the numbering of TotalSegmentator (Wasserthal et al. 2023), from 27 (L5) to 50 (C1)."""

_SPELLED = re.compile(r"(C|T|Th|D|L)0?(\d{1,2})", re.IGNORECASE)


def parse_level(text: str) -> str | None:
    """The level that a text names: "T7" for T7, Th7, th07 and D7 (dorsal); None if it names none."""
    match = _SPELLED.fullmatch(text.strip())
    if match is None:
        return None
    region = {"C": "C", "L": "L"}.get(match[1][0].upper(), "T")
    level = f"{region}{int(match[2])}"
    return level if level in LEVELS else None


def place(level: str) -> float:
    """Where a level is in a column without variants: C1 is 1, T1 8, L1 20, S1 25; T13 and L6 lie between neighbours."""
    if level in ("T13", "L6"):
        return {"T13": 19.5, "L6": 24.5}[level]
    return {"C": 0, "T": 7, "L": 19, "S": 24}[level[0]] + float(level[1:])
