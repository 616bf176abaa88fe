"""The list of an archive: every scan once, with the shard that it belongs to.

A scan keeps its shard whatever is added later, since the shard is a hash of its case. The number of shards is in the
names of the results' files, ``part-00007-of-00100``.
"""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd

from vertfrac import tables
from vertfrac.cohorts.nifti import images
from vertfrac.cohorts.sources import check_names, shard_of
from vertfrac.errors import CohortError, ConfigError


def list_archive(scans: Path, out: Path, *, shards: int) -> pd.DataFrame:
    """Write the table ARCHIVE_LIST of a folder or a table of scans, ordered by shard and case; returns it.

    Opens no scan. Raises CohortError or TableError where the folder or the table is wrong, a name occurs twice, or
    there is no scan.
    """
    found = images(folder=str(scans)) if scans.is_dir() else images(table=str(scans))
    if not found:
        raise CohortError(f"{scans}: lists no scan, expected at least one")
    check_names((case, str(image or scans)) for case, image in found)
    rows = pd.DataFrame(
        {
            "case": [case for case, _ in found],
            "source": [None if image is None else os.path.abspath(image) for _, image in found],
            "shard": [shard_of(case, shards) for case, _ in found],
        }
    )
    return tables.write_table(out, tables.ARCHIVE_LIST, rows.sort_values(["shard", "case"]))


def part_name(number: int, shards: int) -> str:
    """What the files of a shard are called."""
    return f"part-{number:05d}-of-{shards:05d}"


def check_parts(out: Path, *, shards: int) -> None:
    """Refuse, by ConfigError, a folder of results in another number of shards, which would hold scans twice."""
    ending = part_name(0, shards).removeprefix("part-00000")
    for path in (out / "scans").glob("part-*.parquet"):
        if not path.stem.endswith(ending):
            was = int(path.stem.rpartition("-")[2])
            raise ConfigError(
                f"{out}: holds results in {was} shards, found shards: {shards}; expected {was} or a new out"
            )
