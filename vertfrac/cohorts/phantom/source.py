"""Phantoms as a source of scans like any other: each is made when it is read, and no file is written."""

from __future__ import annotations

from functools import partial

import pandas as pd

from vertfrac import tables
from vertfrac.cohorts.phantom.generate import case_name, make_phantom
from vertfrac.cohorts.sources import Scan
from vertfrac.geometry.grid import Grid
from vertfrac.imaging import Image, canonical


def scans(cases: int, seed: int) -> list[Scan]:
    """The phantoms of a cohort; see ``config.PhantomCohort``."""
    return [
        Scan(case_name(index), case_name(index), f"phantom {index + 1} of seed {seed}", (), partial(_read, seed, index))
        for index in range(cases)
    ]


def _read(seed: int, index: int) -> tuple[Image, pd.DataFrame]:
    phantom = make_phantom(seed, index)
    image = canonical(Image(phantom.hu, Grid(phantom.hu.shape, phantom.affine), phantom.case))
    rows = [
        {"case": phantom.case, "expert": "phantom", "vertebra": number, "level": vertebra.level}
        | tables.keypoint_values(vertebra.keypoints)
        for number, vertebra in enumerate(phantom.vertebrae, start=1)
    ]
    return image, tables.ANNOTATIONS.frame(rows)
