"""Names of vertebrae against annotated levels: which is right, how far off it is, and where levels can be counted from.

Sekuboyina et al. 2021 (VerSe) call an annotated vertebra identified if, of all predicted vertebrae of its scan, the one
that carries its level is the closest to it, by the centres, and not farther than 20 mm. Predictions without a level
take no part, as there are none in VerSe. (The text of the challenge and its code turn "closest" around: of the
annotated vertebrae to the prediction. Both say the same unless predictions crowd.)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vertfrac.cohorts.levels import NAMED, parse_level, place
from vertfrac.errors import VertfracError

Floats = NDArray[np.float64]

IDENTIFIED_MM = 20.0
"""How far from an annotated centre a predicted one may be to identify it."""

REGIONS: dict[str, tuple[str, ...]] = {
    "C": tuple(level for level in NAMED if level[0] == "C"),
    "T1-T4": ("T1", "T2", "T3", "T4"),
    "T5-T8": ("T5", "T6", "T7", "T8"),
    "T9-T13": ("T9", "T10", "T11", "T12", "T13"),
    "L": tuple(level for level in NAMED if level[0] == "L"),
}
"""Levels that are alike, superior first."""

_PLACE: dict[str, float] = {level: place(level) for level in NAMED}


def read_level(text: str, where: str, error: type[VertfracError]) -> str:
    """The level that a text in a table names, "" for none; else the error, whose text begins with ``where``."""
    text = text.strip()
    level = text if text in ("", *NAMED) else parse_level(text)
    if level is None:
        raise error(f"{where}: level is {text!r}, expected a level such as C7, T1, L3 or S1, or nothing")
    return level


def identified(gap: Floats, targets: Sequence[str], levels: Sequence[str]) -> list[bool | None]:
    """Whether each annotated vertebra is identified; None where its level is not known.

    gap : (n, m), distance of annotated and predicted centres, mm. targets : (n,), levels; "" unknown. levels : (m,),
    predicted; "" for a vertebra without a level, which takes no part. Two that are equally close are the first of them.
    """
    named = np.array([level != "" for level in levels], dtype=bool)
    near = np.where(named[None], gap, np.inf)
    found: list[bool | None] = []
    for target, row in zip(targets, near, strict=True):
        closest = int(row.argmin()) if len(row) else -1
        hit = closest >= 0 and row[closest] <= IDENTIFIED_MM and levels[closest] == target
        found.append(bool(hit) if target else None)
    return found


def anchored_cases(annotations: pd.DataFrame, landmarks: pd.DataFrame | None = None) -> set[str]:
    """Cases that show where to count from: the sacrum, the base of the skull, or both ends of the rib cage.

    That is a landmark S1 or C2, or T1 and a lumbar vertebra annotated. annotations : rows of ANNOTATIONS. landmarks :
    rows of LANDMARKS; without them only the rib cage is known.
    """
    marks = annotations[["case", "level"]].dropna()
    first = set(marks["case"][marks["level"] == "T1"])
    lumbar = set(marks["case"][marks["level"].str.startswith("L")])
    shown = set() if landmarks is None else set(landmarks["case"][landmarks["level"].isin(["S1", "C2"])])
    return (first & lumbar) | shown


def places_off(levels: pd.Series, targets: pd.Series) -> pd.Series:
    """How many places inferior to its true level each vertebra was named, (n,), NaN where either has no level.

    In a column without variants; the half place to or from T13 and L6 counts as a whole one.
    """
    off = levels.map(_PLACE).astype("float64") - targets.map(_PLACE).astype("float64")
    return pd.Series(np.sign(off) * np.ceil(off.abs()), index=off.index)


def named_pairs(matches: pd.DataFrame) -> pd.DataFrame:
    """Matched vertebrae whose level is annotated, one row each, and what there is to say about their names.

    matches : rows of MATCHES. Adds off (places, NaN for an unnamed one), right (one without a name is not) and doubt
    (whether there is a runner-up).
    """
    known = matches["level_target"].fillna("") != ""
    pairs = matches[known & matches["target"].notna() & matches["vertebra"].notna()]
    named = pairs["level"].fillna("")
    return pairs.assign(
        off=places_off(named, pairs["level_target"]),
        right=(named == pairs["level_target"]).astype(bool),
        doubt=(pairs["level_runner_up"].fillna("") != "").astype(bool),
    )


def columns(pairs: pd.DataFrame) -> pd.DataFrame:
    """The scans of some `named_pairs`, each as one expert annotated it: is it shifted, and does the system doubt it?

    Only vertebrae with a name count. shifted : more than half of them have a wrong level. flagged : of a column with
    wrong levels, at least half of these have a runner-up; of a column that is right throughout, any vertebra has one.
    right : no level is wrong.
    """
    named = pairs[pairs["off"].notna()]
    wrong = ~named["right"]
    named = named.assign(count=1, wrong=wrong, warned=wrong & named["doubt"])
    keys = ["patient", "case", "expert", "rater", "anchored"]
    scans = named.groupby(keys, dropna=False)[["count", "wrong", "warned", "doubt"]].sum().reset_index()
    flagged = np.where(scans["wrong"] > 0, 2 * scans["warned"] >= scans["wrong"], scans["doubt"] > 0)
    return scans.assign(
        shifted=2 * scans["wrong"] > scans["count"], right=scans["wrong"] == 0, flagged=flagged.astype(bool)
    )
