"""Levels without the six points, and the numbering of parts in TPTBox subregion masks."""

from __future__ import annotations

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
