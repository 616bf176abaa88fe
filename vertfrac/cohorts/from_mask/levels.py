"""The numbering of vertebrae in VerSe masks and of their parts in TPTBox subregion masks."""

from __future__ import annotations

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

NO_BODY: dict[str, str] = {
    "C1": "C1 has no vertebral body",
    "C2": "the body of C2 bears the dens and has no upper endplate to measure",
    **dict.fromkeys(("S1", "S2", "S3", "S4", "S5", "coccyx"), "the sacrum and the coccyx are not graded"),
}
"""Levels without the six points of Genant's method, and why."""

BODY_CODES: tuple[int, ...] = (49, 50)
"""Codes of the vertebral body in a subregion mask: its border and its inside (one of them alone will do)."""

ARCH_CODES: tuple[int, ...] = tuple(range(41, 49))
"""Codes of arch, spinous process, transverse and articular processes in a subregion mask."""
