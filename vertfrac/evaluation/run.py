"""Evaluation of a whole repeat of the cross-validation, and the summary over all of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from vertfrac import tables
from vertfrac.cohorts.folds import held_out_cases
from vertfrac.evaluation.metrics import metric_rows
from vertfrac.evaluation.score import curve_errors, match_table
from vertfrac.evaluation.summary import as_markdown, summarise
from vertfrac.files import replacing


def evaluate_repeat(
    annotations: Path,
    folds: Path,
    *,
    predictions: Sequence[Path],
    curves: Sequence[Path],
    statuses: Sequence[Path],
    smallest_iou: float,
    largest_distance_mm: float,
    run: dict[str, Any],
    out: Path,
) -> None:
    """Score every held-out case of one system and repeat; tables MATCHES, CURVE_ERRORS and METRICS in ``out``.

    predictions, curves, statuses : one file per fold, in fold order. A case without a prediction counts as all missed.
    """
    marks = tables.read_table(annotations, tables.ANNOTATIONS)
    split = tables.read_table(folds, tables.FOLDS)
    matches: list[dict[str, Any]] = []
    errors: list[dict[str, Any]] = []
    metrics: list[dict[str, Any]] = []
    for fold, paths in enumerate(zip(predictions, curves, statuses, strict=True)):
        vertebrae = tables.read_table(paths[0], tables.VERTEBRAE)
        points = tables.read_table(paths[1], tables.CURVES)
        status = tables.read_table(paths[2], tables.CASE_STATUS).set_index("case")
        for case in sorted(held_out_cases(split, run["repeat"], fold)):
            key = {**run, "fold": fold, "case": case}
            mine = marks[marks["case"] == case]
            found = vertebrae[vertebrae["case"] == case]
            matches += [
                {**key, **row}
                for row in match_table(mine, found, smallest_iou=smallest_iou, largest_distance_mm=largest_distance_mm)
            ]
            outcome = {"status": status.loc[case, "status"], "reason": status.loc[case, "reason"]}
            track = points[points["case"] == case]
            rows = curve_errors(mine, track) if len(track) else [{"expert": e} for e in sorted(set(mine["expert"]))]
            errors += [{**key, **outcome, **row} for row in rows]
    matched = tables.write_table(out / "matches.parquet", tables.MATCHES, matches)
    curve_table = tables.write_table(out / "curve_errors.parquet", tables.CURVE_ERRORS, errors)
    for fold in [*range(len(predictions)), None]:
        chosen = [table if fold is None else table[table["fold"] == fold] for table in (matched, curve_table)]
        metrics += [{**run, "fold": fold, **row} for row in metric_rows(chosen[0], chosen[1])]
    tables.write_table(out / "metrics.parquet", tables.METRICS, metrics)


def write_summary(metrics: Sequence[Path], cases: Path, heading: str, out: Path) -> None:
    """Summary of all systems and repeats as Parquet, CSV and Markdown."""
    table = tables.read_tables(metrics, tables.METRICS)
    cohort = tables.read_table(cases, tables.CASES)
    summary = tables.write_table(out / "summary.parquet", tables.SUMMARY, summarise(table))
    tables.write_csv(out / "summary.csv", summary)
    failed = cohort[cohort["status"] != "ok"]
    remarks = [
        f"{len(cohort)} cases, {len(cohort) - len(failed)} of them usable and each held out once per repeat; "
        f"{int(cohort['vertebrae'].sum())} annotated vertebrae.",
        "Values are over all held-out cases of a repeat, averaged over "
        f"{table['repeat'].nunique()} repeat{'s' if table['repeat'].nunique() > 1 else ''}.",
        *(f"Not usable: {case}: {reason}" for case, reason in zip(failed["case"], failed["reason"], strict=True)),
    ]
    with replacing(out / "summary.md") as temporary:
        temporary.write_text(as_markdown(summary, heading, remarks), encoding="utf-8")


def scores_of(summary: pd.DataFrame, system: str) -> list[dict[str, Any]]:
    """The summary rows of one system as plain values for a model card; undefined values are null."""
    rows = summary[summary["system"] == system].drop(columns="system").astype(object)
    records = rows.to_dict("records")
    return [{str(name): None if pd.isna(value) else value for name, value in row.items()} for row in records]
