"""Ingestion: any source of scans becomes the canonical cohort.

The canonical cohort holds one uncompressed RAS-ordered NIfTI in HU per case, so that later steps can map it into
memory, and two tables. A case that cannot be used keeps its row, with status and reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vertfrac import tables
from vertfrac.cohorts.checks import Finding, check_case
from vertfrac.cohorts.sources import Scan
from vertfrac.errors import AnnotationError, CohortError, ExcludedError, GeometryError, VertfracError, as_message
from vertfrac.files import clear_unfinished
from vertfrac.genant import genant_index
from vertfrac.geometry.keypoints import heights
from vertfrac.geometry.spine import annotated_spine
from vertfrac.imaging import Image, write_nifti


def ingest(scans: Sequence[Scan], out: Path) -> pd.DataFrame:
    """Read the cases of a source into the canonical form, one at a time; returns their table.

    Writes ``out/<case>.nii`` for every usable case, ``out/cases.parquet``, ``out/annotations.parquet`` and
    ``out/landmarks.parquet``.
    """
    out.mkdir(parents=True, exist_ok=True)
    clear_unfinished(out)
    rows, kept, landmarks = [], [tables.ANNOTATIONS.frame([])], [tables.LANDMARKS.frame([])]
    for scan in scans:
        row, annotations = _ingest_case(scan, out)
        rows.append(row)
        kept.append(annotations)
        if row["status"] == "ok":
            landmarks.append(scan.landmarks())
    tables.write_table(out / "landmarks.parquet", tables.LANDMARKS, pd.concat(landmarks))
    tables.write_table(out / "annotations.parquet", tables.ANNOTATIONS, pd.concat(kept))
    return tables.write_table(out / "cases.parquet", tables.CASES, rows)


def _ingest_case(scan: Scan, out: Path) -> tuple[dict[str, Any], pd.DataFrame]:
    """The row of one case, and its annotations if it is usable."""
    row: dict[str, Any] = {"case": scan.case, "patient": scan.patient, "source": scan.source, "split": scan.split}
    try:
        image, annotations = scan.read()
        row |= image_facts(image)
        findings = check_case(annotations, image)
        row |= annotation_facts(annotations, findings, image.warnings, scan.annotated_in or scan.source)
        name = f"{scan.case}.nii"
        write_nifti(out / name, image)
        return row | {"image": name, "status": "ok", "reason": ""}, annotations
    except VertfracError as error:
        status = "excluded" if isinstance(error, ExcludedError) else "failed"
        return row | {"image": "", "status": status, "reason": str(error)}, tables.ANNOTATIONS.frame([])


def image_facts(image: Image) -> dict[str, Any]:
    """The columns of CASES that the image alone decides."""
    spacing = zip("xyz", image.grid.spacing_mm.tolist(), strict=True)
    facts = {f"spacing_{axis}": mm for axis, mm in spacing}
    return {**facts, "slices": image.grid.shape[2], "warnings": "; ".join(image.warnings)}


def annotation_facts(
    annotations: pd.DataFrame, findings: Mapping[str, Sequence[Finding]], image_warnings: Sequence[str], where: str
) -> dict[str, Any]:
    """The columns of CASES that the annotation decides, warnings included.

    findings : by expert, of ``check_case``. where : the file that holds the annotation. Raises AnnotationError with
    what is wrong with it, ExcludedError if it holds too little to train on.
    """
    if annotations.empty:
        raise ExcludedError(f"{where}: no annotation, expected at least two vertebrae")
    if (annotations.groupby("expert").size() == 1).all():
        raise ExcludedError(f"{where}: one annotated vertebra, expected at least two, between which the curve runs")
    for name, found in findings.items():
        errors = [finding.message for finding in found if finding.severity == "error"]
        if errors:
            raise AnnotationError(f"{where}: annotation of {name}: {'; '.join(errors)}")
    smallest, most = np.inf, 0
    for expert, rows in annotations.groupby("expert"):
        keypoints = tables.keypoints_of(rows)
        try:
            annotated_spine(keypoints)
        except GeometryError as error:
            raise AnnotationError(f"{where}: annotation of {expert}: {error}") from error
        smallest, most = min(smallest, float(genant_index(heights(keypoints)).min())), max(most, len(rows))
    told = (as_message(f"{who}: {finding}") for who, found in findings.items() for finding in found)
    warnings = [*image_warnings, *told]
    return {
        "vertebrae": most,
        "experts": annotations["expert"].nunique(),
        "smallest_genant": smallest,
        "warnings": "; ".join(warnings),
    }


def merge(shards: Sequence[Path], out: Path) -> pd.DataFrame:
    """Stack the tables of ingested shards, which lie in sub-folders of ``out``; returns the table of cases.

    Raises CohortError if no case at all is usable.
    """
    parts, annotations, landmarks = [], [], []
    for shard in shards:
        part = tables.read_table(shard / "cases.parquet", tables.CASES)
        usable = part["status"] == "ok"
        part.loc[usable, "image"] = shard.name + "/" + part.loc[usable, "image"]
        parts.append(part)
        annotations.append(tables.read_table(shard / "annotations.parquet", tables.ANNOTATIONS))
        landmarks.append(tables.read_table(shard / "landmarks.parquet", tables.LANDMARKS))
    cases = pd.concat(parts).sort_values("case", ignore_index=True)
    if not (cases["status"] == "ok").any():
        first = f"; the first: {cases['reason'].iloc[0]}" if len(cases) else ""
        raise CohortError(f"{out}: none of {len(cases)} cases is usable{first}")
    tables.write_table(
        out / "annotations.parquet",
        tables.ANNOTATIONS,
        pd.concat(annotations).sort_values(["case", "expert", "vertebra"], ignore_index=True),
    )
    tables.write_table(
        out / "landmarks.parquet",
        tables.LANDMARKS,
        pd.concat(landmarks).sort_values(["case", "level"], ignore_index=True),
    )
    return tables.write_table(out / "cases.parquet", tables.CASES, cases)


def usable_cases(table: Path) -> list[tuple[str, Path]]:
    """Case and canonical image of every usable case of a table of cases, in the table's order."""
    cases = tables.read_table(table, tables.CASES)
    cases = cases[cases["status"] == "ok"]
    return [(case, table.parent / image) for case, image in zip(cases["case"], cases["image"], strict=True)]
