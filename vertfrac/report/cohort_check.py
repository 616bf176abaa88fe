"""Looking a cohort over before anything is trained on it: every case read, checked and drawn, one at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vertfrac import tables
from vertfrac.cohorts.checks import Finding, check_case, names_of
from vertfrac.cohorts.ingest import annotation_facts, image_facts
from vertfrac.cohorts.levels import LEVELS
from vertfrac.cohorts.sources import Scan, left_out, list_scans
from vertfrac.errors import ExcludedError, VertfracError
from vertfrac.genant import GRADES, genant_index, grade
from vertfrac.geometry.keypoints import heights
from vertfrac.imaging import Image
from vertfrac.report.check_page import draw_case, encoded, write_page

STATUSES = ("failed", "suspect", "excluded", "ok")
"""Worst first."""


@dataclass(frozen=True)
class Checked:
    """What was found of one case: its row of CHECKS and its picture, a WebP file; None if its image cannot be read."""

    row: dict[str, Any]
    picture: bytes | None


def check_cohort(
    kind: str,
    settings: Mapping[str, Any],
    out: Path,
    *,
    heading: str,
    jobs: int = 1,
    progress: Callable[[int], object] = lambda cases: None,
    start: Callable[[int], object] = lambda cases: None,
) -> tuple[pd.DataFrame, list[str]]:
    """Check every case of a cohort and write ``out/check.parquet`` (CHECKS) and ``out/index.html``.

    At most ``jobs`` images are in memory. start is told the number of cases, progress each that is done. Returns the
    table, worst cases first, and what was found in the cohort's folder but is no case.
    """
    others = left_out(kind, settings)
    checked = []
    cases = [scan.case for scan in list_scans(kind, settings)]
    start(len(cases))
    for one in _checked(kind, settings, cases, jobs):
        checked.append(one)
        progress(1)
    checked.sort(key=lambda one: (STATUSES.index(one.row["status"]), one.row["case"]))
    table = tables.write_table(out / "check.parquet", tables.CHECKS, [one.row for one in checked])
    write_page(out / "index.html", heading, table, [one.picture for one in checked], others)
    return table, others


def _checked(kind: str, settings: Mapping[str, Any], cases: list[str], jobs: int) -> Iterator[Checked]:
    if jobs == 1:
        yield from map(check_scan, list_scans(kind, settings))
        return
    with ProcessPoolExecutor(jobs, initializer=_list_in_worker, initargs=(kind, dict(settings))) as pool:
        yield from pool.map(_check_in_worker, cases)


_scans: dict[str, Scan] = {}
"""The cohort's scans in a worker process, which lists them itself since what reads a scan cannot be sent to it."""


def _list_in_worker(kind: str, settings: Mapping[str, Any]) -> None:
    _scans.update({scan.case: scan for scan in list_scans(kind, settings)})


def _check_in_worker(case: str) -> Checked:
    return check_scan(_scans[case])


def check_scan(scan: Scan) -> Checked:
    """Read, check and draw one case."""
    begin = time.perf_counter()
    row: dict[str, Any] = {"case": scan.case, "patient": scan.patient, "source": scan.source, "split": scan.split}
    picture = None
    try:
        image, annotations = scan.read()
        row |= _image_columns(image)
        findings = check_case(annotations, image)
        row |= _annotation_columns(annotations, findings)
        picture = encoded(draw_case(image, annotations))
        annotation_facts(annotations, findings, (), scan.annotated_in or scan.source)
        row |= {"status": "ok", "reason": ""}
        turned = [str(one) for found in findings.values() for one in found if one.orientation]
        if turned:
            row |= {"status": "suspect", "reason": f"{scan.annotated_in or scan.source}: {'; '.join(turned)}"}
    except VertfracError as error:
        row |= {"status": "excluded" if isinstance(error, ExcludedError) else "failed", "reason": str(error)}
    return Checked(row | {"seconds": time.perf_counter() - begin}, picture)


def _image_columns(image: Image) -> dict[str, Any]:
    columns, rows, _ = image.grid.shape
    return {**image_facts(image), "columns": columns, "rows": rows, "orientation": image.stored_axes}


def _annotation_columns(annotations: pd.DataFrame, findings: Mapping[str, list[Finding]]) -> dict[str, Any]:
    if annotations.empty:
        return {"vertebrae": 0, "experts": 0}
    index = genant_index(heights(tables.keypoints_of(annotations)))
    index = index[np.isfinite(index)]
    several = len(findings) > 1
    found = {f"{expert}: {one}" if several else str(one): None for expert, many in findings.items() for one in many}
    levels = sorted((name for name in names_of(annotations) if name in LEVELS), key=LEVELS.index)
    facts: dict[str, Any] = {
        "vertebrae": int(annotations.groupby("expert").size().max()),
        "experts": annotations["expert"].nunique(),
        "levels": f"{levels[0]}-{levels[-1]}" if levels else "",
        "findings": "; ".join(found),
    }
    if len(index):
        low, middle, high = np.quantile(index, [0, 0.5, 1]).tolist()
        facts |= {"smallest_genant": low, "median_genant": middle, "largest_genant": high}
    return facts | dict(zip(GRADES, np.bincount(grade(index), minlength=len(GRADES)).tolist(), strict=True))


def as_text(table: pd.DataFrame, others: list[str]) -> str:
    """A table of CHECKS for the terminal: one line per case, then what is wrong with which, then the totals."""
    shown = pd.DataFrame(
        {
            "case": table["case"],
            "status": table["status"],
            "split": table["split"].fillna(""),
            "axes": table["orientation"].fillna(""),
            "size": [_joined(sizes, "{:.0f}") for sizes in table[["columns", "rows", "slices"]].to_numpy(float)],
            "spacing mm": [_joined(mm, "{:.2f}") for mm in table[["spacing_x", "spacing_y", "spacing_z"]].to_numpy()],
            "levels": table["levels"].fillna(""),
            "vert.": [_number(value) for value in table["vertebrae"]],
            "experts": [_number(value) for value in table["experts"]],
            "G": [_joined(pair, "{:.2f}", " to ") for pair in table[["smallest_genant", "largest_genant"]].to_numpy()],
            "grades 0/1/2/3": [_joined(counts, "{:.0f}", "/") for counts in table[list(GRADES)].to_numpy(float)],
        }
    )
    for column in ("split", "levels"):
        if (shown[column] == "").all():
            shown = shown.drop(columns=column)
    lines = [shown.to_string(index=False), ""]
    records: list[dict[Any, Any]] = table.fillna({"reason": "", "findings": "", "warnings": ""}).to_dict("records")
    for row in records:
        if row["status"] != "ok":
            lines.append(f"{row['status']} {row['case']}: {row['reason']}")
        elif row["findings"] or row["warnings"]:
            lines.append(f"note {row['case']}: {'; '.join(filter(None, (row['findings'], row['warnings'])))}")
    return "\n".join([*lines, *(f"left out {line}" for line in others), totals(table)])


def totals(table: pd.DataFrame) -> str:
    """One line on all cases of a table of CHECKS."""
    counts = table["status"].value_counts()
    parts = [f"{counts[status]} {status}" for status in reversed(STATUSES) if status in counts]
    usable = table[table["status"].isin(["ok", "suspect"])]
    grades = ", ".join(f"{int(usable[name].sum())} {name}" for name in GRADES)
    return (
        f"{len(table)} cases: {', '.join(parts)}; {int(usable['vertebrae'].sum())} vertebrae in them, marks: {grades}"
    )


def _joined(values: Any, form: str, by: str = " x ") -> str:
    return "" if pd.isna(values).any() else by.join(form.format(value) for value in values)


def _number(value: Any) -> str:
    return "" if pd.isna(value) else str(value)
