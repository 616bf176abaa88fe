"""Phantoms as a source of scans like any other: each is made when it is read, and no file is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path

import pandas as pd

from vertfrac import tables
from vertfrac.cohorts.lungcancer500_json import NOMINAL_SPACING_MM
from vertfrac.cohorts.phantom.generate import Phantom, case_name, make_phantom
from vertfrac.cohorts.phantom.ingredients import choose
from vertfrac.cohorts.phantom.template import read_templates
from vertfrac.cohorts.sources import Scan
from vertfrac.geometry.grid import Grid
from vertfrac.imaging import Image, canonical


def scans(
    cases: int,
    seed: int,
    difficulty: str = "usual",
    without: Sequence[str] = (),
    like: str | None = None,
    like_spacing_mm: Sequence[float] = NOMINAL_SPACING_MM,
) -> list[Scan]:
    """The phantoms of a cohort; see ``config.PhantomCohort``. Raises as `read_templates`."""
    make = partial(
        make_phantom,
        seed,
        ingredients=choose(difficulty, without),
        templates=read_templates(Path(like), like_spacing_mm) if like else (),
    )
    once = lru_cache(maxsize=1)(make)  # its landmarks are asked for right after it was read
    return [
        Scan(
            case_name(index),
            case_name(index),
            f"phantom {index + 1} of seed {seed}",
            (),
            partial(_read, once, index),
            landmarks=partial(_landmarks, once, index),
        )
        for index in range(cases)
    ]


def _read(make: Callable[[int], Phantom], index: int) -> tuple[Image, pd.DataFrame]:
    phantom = make(index)
    image = canonical(Image(phantom.hu, Grid(phantom.hu.shape, phantom.affine), phantom.case))
    rows = [
        {"case": phantom.case, "expert": "phantom", "vertebra": number, "level": vertebra.level}
        | tables.keypoint_values(vertebra.keypoints)
        for number, vertebra in enumerate(phantom.vertebrae, start=1)
    ]
    return image, tables.ANNOTATIONS.frame(rows)


def _landmarks(make: Callable[[int], Phantom], index: int) -> pd.DataFrame:
    phantom = make(index)
    return tables.LANDMARKS.frame(
        {"case": phantom.case, "level": level, **dict(zip("xyz", center.tolist(), strict=True))}
        for level, center in phantom.landmarks.items()
    )
