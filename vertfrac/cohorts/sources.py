"""What every source of scans has in common: a list of cases, each of which knows how it is read.

An adapter is the module of ``vertfrac.cohorts`` that is named like the cohort's ``kind``. Its function
``scans(**settings)`` takes the keys of the cohort's section of the configuration and lists the cases without reading
one image, so that listing is quick and a broken case fails alone, when it is read.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from vertfrac import tables
from vertfrac.errors import CohortError
from vertfrac.imaging import Image


def no_landmarks() -> pd.DataFrame:
    """Rows of LANDMARKS of a scan that has none."""
    return tables.LANDMARKS.frame([])


@dataclass(frozen=True)
class Scan:
    """One case of a source.

    case : its name, unique in the cohort and fit to name a file. patient : whose scan it is.
    source : the file or folder that holds the image, for people to find it.
    files : all files that reading depends on, for the workflow to watch; none of them needs to exist.
    read : returns the image in canonical order and its annotation, rows of ANNOTATIONS, none if there is none;
        raises a VertfracError that names the file, what was found and what was expected.
    landmarks : called after ``read``, returns rows of LANDMARKS: of vertebrae without keypoints, and of the sacrum.
    split : the part of a published split, train, validation or test; "" where there is no such split.
    annotated_in : the file or folder that holds the annotation, for people to find it; "" where that is ``source``.
    listed : all that reading depends on in what it shares with other cases, such as its rows of a table. The workflow
        watches this text and not the table, in which another case may change.
    """

    case: str
    patient: str
    source: str
    files: tuple[Path, ...]
    read: Callable[[], tuple[Image, pd.DataFrame]]
    split: str = ""
    annotated_in: str = ""
    listed: str = ""
    landmarks: Callable[[], pd.DataFrame] = no_landmarks


def list_scans(kind: str, settings: Mapping[str, Any]) -> list[Scan]:
    """The cases of a cohort, by name. Raises CohortError where a name is unfit or occurs twice, or there is no case."""
    scans: list[Scan] = _adapter(kind).scans(**settings)
    check_names((scan.case, scan.source) for scan in scans)
    if not scans:
        raise CohortError(f"cohort of kind {kind}: found no case, expected at least one ({dict(settings)})")
    return sorted(scans, key=lambda scan: scan.case)


def shard_of(case: str, shards: int) -> int:
    """The shard of a case, from 0: by its name alone, so that a new case changes no shard but its own."""
    return int.from_bytes(hashlib.sha256(case.encode()).digest()[:8]) % shards


def in_shard(case: str, shard: tuple[int, int]) -> bool:
    """Whether a case belongs to shard k of n."""
    number, count = shard
    return shard_of(case, count) == number


def check_names(cases: Iterable[tuple[str, str]]) -> None:
    """Refuse, by CohortError, a name that is unfit or occurs twice. cases : name and source of each."""
    seen: dict[str, str] = {}
    for case, source in cases:
        if not case or Path(case).name != case or case == "..":
            raise CohortError(f"{source}: case {case!r} cannot name a file, expected a name without slashes")
        if case in seen:
            raise CohortError(f"{source}: case {case} is that of {seen[case]} too")
        seen[case] = source


def left_out(kind: str, settings: Mapping[str, Any]) -> list[str]:
    """What an adapter found and did not take for a case, one line each; empty where it tells nothing of the kind."""
    tell = getattr(_adapter(kind), "left_out", None)
    lines: list[str] = tell(**settings) if tell else []
    return lines


def _adapter(kind: str) -> Any:
    """The module that lists the cases of a kind.

    Of phantoms it is a module of their package, which does not import it: who only makes phantoms reads no scans, and a
    change in how scans are read does not make phantoms stale.
    """
    module = importlib.import_module(f"{__package__}.{kind}")
    return module if hasattr(module, "scans") else importlib.import_module(f"{module.__name__}.source")
