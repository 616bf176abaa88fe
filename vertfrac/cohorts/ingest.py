"""Ingestion: any source of scans becomes the canonical cohort.

A source folder holds ``cases.csv`` (case, image, optionally patient) and ``annotations.csv`` (one row per vertebra with
its six keypoints in world RAS mm). The canonical cohort holds one uncompressed RAS-ordered NIfTI in HU per case, so
that later steps can map it into memory, and two tables. A case that cannot be used keeps its row, with status and
reason.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vertfrac import tables
from vertfrac.errors import AnnotationError, CohortError, TableError, VertfracError
from vertfrac.genant import genant_index
from vertfrac.geometry.grid import Grid
from vertfrac.geometry.keypoints import heights
from vertfrac.geometry.spine import annotated_spine
from vertfrac.imaging import read_image, write_nifti


def ingest(source: Path, out: Path, *, shard: tuple[int, int] = (0, 1)) -> pd.DataFrame:
    """Read the cases k, k + n, ... of a source folder into the canonical form; returns their table.

    shard : (k, n). Writes ``out/<case>.nii`` for every usable case, ``out/cases.parquet`` and
    ``out/annotations.parquet``. Raises TableError or AnnotationError when the source's tables themselves are wrong.
    """
    scans, annotations = _read_source(source)
    out.mkdir(parents=True, exist_ok=True)
    number, count = shard
    rows, kept = [], []
    for scan in scans.iloc[number::count].to_dict("records"):
        mine = annotations[annotations["case"] == scan["case"]]
        row = _ingest_case(scan, mine, source, out)
        rows.append(row)
        if row["status"] == "ok":
            kept.append(mine)
    tables.write_table(out / "annotations.parquet", tables.ANNOTATIONS, pd.concat(kept) if kept else annotations[:0])
    return tables.write_table(out / "cases.parquet", tables.CASES, rows)


def _read_source(source: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    scans = tables.read_table(source / "cases.csv", tables.SCANS)
    annotations = tables.read_table(source / "annotations.csv", tables.ANNOTATIONS)
    for name in scans["case"]:
        if pd.isna(name) or Path(name).name != name or name == "..":
            raise TableError(
                f"{source / 'cases.csv'}: case {name!r} cannot name a file, expected a name without slashes"
            )
    duplicated = scans["case"][scans["case"].duplicated()]
    if len(duplicated):
        raise TableError(f"{source / 'cases.csv'}: case {duplicated.iloc[0]} is listed twice, expected unique cases")
    unknown = set(annotations["case"]) - set(scans["case"])
    if unknown:
        raise AnnotationError(f"{source / 'annotations.csv'}: case {min(unknown)} is not listed in cases.csv")
    scans["patient"] = scans["patient"].fillna(scans["case"])
    annotations["expert"] = annotations["expert"].fillna(tables.DEFAULT_EXPERT)
    return scans, annotations


def _ingest_case(scan: Mapping[Hashable, Any], annotations: pd.DataFrame, source: Path, out: Path) -> dict[str, Any]:
    row: dict[str, Any] = {"case": scan["case"], "patient": scan["patient"], "source": str(source / scan["image"])}
    try:
        image = read_image(source / scan["image"])
        spacing = image.grid.spacing_mm
        row |= {"slices": image.grid.shape[2], "warnings": "; ".join(image.warnings)}
        row |= {f"spacing_{axis}": float(mm) for axis, mm in zip("xyz", spacing, strict=True)}
        row |= _check_annotations(annotations, image.grid)
        name = f"{scan['case']}.nii"
        write_nifti(out / name, image)
        return row | {"image": name, "status": "ok", "reason": ""}
    except VertfracError as error:
        return row | {"image": "", "status": "failed", "reason": str(error)}


def _check_annotations(annotations: pd.DataFrame, grid: Grid) -> dict[str, Any]:
    """Facts about a case's annotations; AnnotationError says what is wrong with them."""
    if annotations.empty:
        raise AnnotationError("no annotation, expected at least two vertebrae")
    smallest, most = np.inf, 0
    for expert, rows in annotations.groupby("expert"):
        keypoints = tables.keypoints_of(rows)
        if not np.isfinite(keypoints).all():
            raise AnnotationError(f"annotation of {expert} holds a missing or infinite coordinate")
        depth = grid.distance_inside_mm(keypoints).min(axis=1)
        if (depth < 0).any():
            worst = rows["vertebra"].iloc[int(depth.argmin())]
            raise AnnotationError(
                f"annotation of {expert}: vertebra {worst} lies {-depth.min():.1f} mm outside the image, "
                "expected inside"
            )
        annotated_spine(keypoints)
        smallest, most = min(smallest, float(genant_index(heights(keypoints)).min())), max(most, len(rows))
    return {"vertebrae": most, "experts": annotations["expert"].nunique(), "smallest_genant": smallest}


def tables_and_scans(source: Path, shard: int, shards: int) -> list[str]:
    """The files that ingesting a shard of a source folder reads, as far as they exist, for the workflow to watch."""
    listed = [source / "cases.csv", source / "annotations.csv"]
    if listed[0].is_file():
        scans = tables.read_table(listed[0], tables.SCANS)
        listed += [source / image for image in scans["image"].iloc[shard::shards]]
    return [str(path) for path in listed if path.exists()]


def merge(shards: Sequence[Path], out: Path) -> pd.DataFrame:
    """Stack the tables of ingested shards, which lie in sub-folders of ``out``; returns the table of cases.

    Raises CohortError if no case at all is usable.
    """
    parts, annotations = [], []
    for shard in shards:
        part = tables.read_table(shard / "cases.parquet", tables.CASES)
        usable = part["status"] == "ok"
        part.loc[usable, "image"] = shard.name + "/" + part.loc[usable, "image"]
        parts.append(part)
        annotations.append(tables.read_table(shard / "annotations.parquet", tables.ANNOTATIONS))
    cases = pd.concat(parts).sort_values("case", ignore_index=True)
    if not (cases["status"] == "ok").any():
        first = f"; the first: {cases['reason'].iloc[0]}" if len(cases) else ""
        raise CohortError(f"{out}: none of {len(cases)} cases is usable{first}")
    tables.write_table(
        out / "annotations.parquet",
        tables.ANNOTATIONS,
        pd.concat(annotations).sort_values(["case", "expert", "vertebra"], ignore_index=True),
    )
    return tables.write_table(out / "cases.parquet", tables.CASES, cases)


def usable_cases(table: Path) -> list[tuple[str, Path]]:
    """Case and canonical image of every usable case of a table of cases, in the table's order."""
    cases = tables.read_table(table, tables.CASES)
    cases = cases[cases["status"] == "ok"]
    return [(case, table.parent / image) for case, image in zip(cases["case"], cases["image"], strict=True)]
