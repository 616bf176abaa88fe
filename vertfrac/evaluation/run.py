"""Evaluation of one repeat of the cross-validation or of a foreign system, and the summary over all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vertfrac import tables
from vertfrac.cohorts.folds import held_out_cases
from vertfrac.errors import AnnotationError, GeometryError, TableError
from vertfrac.evaluation.bootstrap import intervals
from vertfrac.evaluation.inputs import check_cases, name_some, read_annotations, read_predictions
from vertfrac.evaluation.levels import anchored_cases
from vertfrac.evaluation.matching import Closeness
from vertfrac.evaluation.metrics import NOT_GIVEN, Measure, measures, metric_rows
from vertfrac.evaluation.score import curve_errors, match_table
from vertfrac.evaluation.summary import Changes, write_tables


@dataclass(frozen=True, eq=False)
class Part:
    """The cases that are held out together, and what was predicted for them; fold is None without folds."""

    fold: int | None
    patient_of: dict[str, str]
    vertebrae: pd.DataFrame
    points: pd.DataFrame | None
    status: pd.DataFrame | None


def evaluate(
    annotations: Path,
    predictions: Sequence[Path],
    *,
    folds: Path | None = None,
    cases: Path | None = None,
    landmarks: Path | None = None,
    curves: Sequence[Path] = (),
    statuses: Sequence[Path] = (),
    closeness: Closeness,
    threshold: float,
    run: dict[str, Any],
    out: Path,
    warn: Callable[[str], None],
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Score one system and repeat; tables MATCHES, CURVE_ERRORS and METRICS in ``out``. Returns the first two.

    folds : every prediction file is that of a fold, in fold order, and holds what that fold holds out. Without folds
    the files are stacked, all annotated cases count, and the fold is missing. cases : table of cases, for the patients
    where no folds give them. landmarks : table of landmarks, of which S1 and C2 anchor the levels of a case. curves,
    statuses : one file per prediction file, or none. A case without a prediction counts as all missed, and is named to
    ``warn``.
    Raises TableError for predictions of cases that are not annotated or not held out, and for duplicate vertebrae.
    """
    marks = read_annotations(annotations)
    anchored = anchored_cases(marks, tables.read_table(landmarks, tables.LANDMARKS) if landmarks else None)
    parts = (
        _folds(marks, predictions, curves, statuses, tables.read_table(folds, tables.FOLDS), run["repeat"])
        if folds
        else [_whole(marks, annotations, predictions, curves, statuses, cases)]
    )
    matches: list[dict[str, Any]] = []
    errors: list[dict[str, Any]] = []
    for part in parts:
        for case, patient in sorted(part.patient_of.items()):
            key = {**run, "fold": part.fold, "case": case, "patient": patient}
            mine = marks[marks["case"] == case]
            found = part.vertebrae[part.vertebrae["case"] == case]
            if not (found["status"] == "ok").any():
                warn(f"{case}: no prediction, all its vertebrae count as missed")
            try:
                rows = match_table(mine, found, closeness=closeness, threshold=threshold)
                tracks = _curve_rows(case, mine, part)
            except GeometryError as error:
                raise AnnotationError(f"{annotations}: case {case}: {error}") from error
            matches += [{**key, "anchored": case in anchored, **row} for row in rows]
            errors += [{**key, **row} for row in tracks]
    return write_scores(out, matches, errors, run)


def write_scores(
    out: Path, matches: list[dict[str, Any]], errors: list[dict[str, Any]], run: dict[str, Any]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write MATCHES, CURVE_ERRORS and METRICS (by fold and of all) of a system and repeat; returns the first two."""
    matched = tables.write_table(out / "matches.parquet", tables.MATCHES, matches)
    curves = tables.write_table(out / "curve_errors.parquet", tables.CURVE_ERRORS, errors)
    metrics: list[dict[str, Any]] = []
    for fold in [*sorted(curves["fold"].dropna().unique()), None]:
        chosen = [table if fold is None else table[table["fold"] == fold] for table in (matched, curves)]
        metrics += [{**run, "fold": fold, **row} for row in metric_rows(chosen[0], chosen[1])]
    tables.write_table(out / "metrics.parquet", tables.METRICS, metrics)
    return matched, curves


def _folds(
    marks: pd.DataFrame,
    predictions: Sequence[Path],
    curves: Sequence[Path],
    statuses: Sequence[Path],
    split: pd.DataFrame,
    repeat: int,
) -> Iterator[Part]:
    mine = split[(split["repeat"] == repeat) & split["fold"].notna()]
    count = mine["fold"].nunique()
    for name, files in (("predictions", predictions), ("curves", curves), ("statuses", statuses)):
        if len(files) != count and (files or name == "predictions"):
            raise TableError(f"found {len(files)} files of {name}, expected one for each of the {count} folds")
    patient_of = dict(zip(mine["case"], mine["patient"], strict=True))
    absent = sorted(set(patient_of) - set(marks["case"]))
    if absent:
        raise TableError(f"the folds hold {name_some('case', absent)}, expected annotated cases only")
    for fold, path in enumerate(predictions):
        held_out = held_out_cases(split, repeat, fold)
        found = read_predictions(path)
        check_cases(found, path, held_out, f"cases that fold {fold} holds out")
        yield Part(
            fold, {case: patient_of[case] for case in held_out}, found,
            tables.read_table(curves[fold], tables.CURVES) if curves else None,
            tables.read_table(statuses[fold], tables.CASE_STATUS) if statuses else None,
        )  # fmt: skip


def _whole(
    marks: pd.DataFrame,
    annotations: Path,
    predictions: Sequence[Path],
    curves: Sequence[Path],
    statuses: Sequence[Path],
    cases: Path | None,
) -> Part:
    known = set(marks["case"])
    stacked = []
    for path in predictions:
        found = read_predictions(path)
        check_cases(found, path, known, f"cases of {annotations}")
        stacked.append(found)
        twice = set(found["case"]) & {case for earlier in stacked[:-1] for case in earlier["case"]}
        if twice:
            raise TableError(f"{path}: {name_some('case', sorted(twice))} is in an earlier file too, expected in one")
    return Part(
        None, patients_of_cases(known, cases), pd.concat(stacked, ignore_index=True),
        tables.read_tables(curves, tables.CURVES) if curves else None,
        tables.read_tables(statuses, tables.CASE_STATUS) if statuses else None,
    )  # fmt: skip


def patients_of_cases(known: set[str], cases: Path | None) -> dict[str, str]:
    """The patient of every known case by the table of cases; the case itself where there is no table or no row."""
    listed = {} if cases is None else tables.read_table(cases, tables.CASES).set_index("case")["patient"].to_dict()
    return {case: listed.get(case, case) for case in known}


def _curve_rows(case: str, marks: pd.DataFrame, part: Part) -> list[dict[str, Any]]:
    """Rows of CURVE_ERRORS of one case without its key; every expert has a row whatever happened."""
    track = pd.DataFrame() if part.points is None else part.points[part.points["case"] == case]
    if part.status is not None:
        listed = part.status.loc[part.status["case"] == case, ["status", "reason"]].to_dict("records")
        if len(listed) != 1:
            raise TableError(f"case {case} has {len(listed)} rows in the table of case statuses, expected 1")
        outcome = {str(name): value for name, value in listed[0].items()}
    elif part.points is None:
        outcome = {"status": NOT_GIVEN, "reason": "no curves were given"}
    elif track.empty:
        outcome = {"status": "no_curve", "reason": "no curve was given for the case"}
    else:
        outcome = {"status": "ok", "reason": ""}
    rows = curve_errors(marks, track) if len(track) else [{"expert": name} for name in sorted(set(marks["expert"]))]
    return [{**outcome, **row} for row in rows]


def summarise(matches: pd.DataFrame, curves: pd.DataFrame, *, resamples: int, seed: int) -> pd.DataFrame:
    """Mean over repeats of every metric over all held-out cases, with its deviation and its 95 % interval.

    matches, curves : tables MATCHES and CURVE_ERRORS of all systems and repeats. Returns the table SUMMARY, systems in
    the order of the rows of ``curves``.
    """
    rows: list[dict[str, Any]] = []
    for system in dict.fromkeys(curves["system"]):
        mine, tracks = (table[table["system"] == system] for table in (matches, curves))
        repeats = [
            measures(mine[mine["repeat"] == repeat], tracks[tracks["repeat"] == repeat])
            for repeat in sorted(tracks["repeat"].unique())
        ]
        low, high = intervals(repeats, resamples=resamples, seed=seed)
        for k, same in enumerate(zip(*repeats, strict=True)):
            rows.append({"system": system, "low": low[k], "high": high[k], **_over_repeats(same)})
    return tables.SUMMARY.frame(rows)


def _over_repeats(same: Sequence[Measure]) -> dict[str, Any]:
    """One metric over the repeats: those in which it is undefined are left out of the mean and told in the note."""
    defined = [measure for measure in same if not measure.why]
    values = [measure.value for measure in defined]
    reasons = "; ".join(dict.fromkeys(measure.why for measure in same if measure.why))
    note = reasons if not defined else "; ".join(dict.fromkeys(m.note for m in defined if m.note))
    if defined and reasons:
        note = "; ".join(
            filter(None, [note, f"undefined in {len(same) - len(defined)} of {len(same)} repeats: {reasons}"])
        )
    return {
        "metric": same[0].metric,
        "level": same[0].level,
        "subset": same[0].subset,
        "value": np.mean(values) if defined else None,
        "std": np.mean([measure.std for measure in defined]) if defined else None,
        "std_repeats": np.std(values, ddof=1) if len(defined) > 1 else None,
        "n": round(np.mean([measure.n for measure in same])),
        "unit": same[0].unit,
        "note": note,
    }


HEADLINE: tuple[tuple[str, str, str], ...] = (
    ("curve error", "scan", "all"),
    ("limits error", "scan", "all"),
    ("localisation", "vertebra", "all"),
    ("localisation", "vertebra", "G <= 0.74"),
    ("centre error", "vertebra", "all"),
    ("keypoint error", "vertebra", "all"),
    ("recall", "vertebra", "all"),
    ("recall", "vertebra", "G <= 0.74"),
    ("precision", "vertebra", "all"),
    ("error of G", "vertebra", "all"),
    ("bias of G", "vertebra", "all"),
    ("correlation of G", "vertebra", "all"),
    ("agreement on the grade", "vertebra", "all"),
    ("kappa of the grade", "vertebra", "all"),
    ("ROC AUC", "vertebra", "G <= 0.74"),
    ("ROC AUC", "patient", "G <= 0.74"),
)
"""What the command line prints, as (metric, level, subset); the tables hold all."""

LEVELS: tuple[tuple[str, str, str], ...] = (
    ("identification rate", "vertebra", "all"),
    ("identification rate", "vertebra", "anchored"),
    ("label accuracy", "vertebra", "all"),
    ("label accuracy", "vertebra", "anchored"),
    ("shifted by one", "vertebra", "all"),
    ("shifted columns", "scan", "all"),
    ("doubtful shifted columns", "scan", "all"),
    ("doubtful right columns", "scan", "all"),
    ("calibration error of the level", "vertebra", "all"),
)
"""Printed after the headline where the system names levels and the annotations have them."""

GRADED: tuple[tuple[str, str, str], ...] = tuple(
    (metric, level, "grade >= 2")
    for level in ("vertebra", "patient")
    for metric in ("ROC AUC", "sensitivity", "specificity")
)
"""Printed after the headline where the experts gave grades of their own."""


def headline(
    summary: pd.DataFrame, keys: Sequence[tuple[str, str, str]] = HEADLINE
) -> Iterator[tuple[tuple[str, str, str], str]]:
    """Some metrics of a summary of one system, as key and one line of text each; then GRADED and LEVELS if defined."""
    rows = {(row["metric"], row["level"], row["subset"]): row for row in summary.to_dict("records")}
    defined = [key for key in (*GRADED, *LEVELS) if key in rows and not pd.isna(rows[key]["value"])]
    for key in (*keys, *defined):
        row = rows[key]
        name = f"{key[0]} by {key[1]}" + ("" if key[2] == "all" else f", {key[2]}")
        if pd.isna(row["value"]):
            yield key, f"{name}: undefined ({row['note']}), n={row['n']}"
            continue
        spread = "" if pd.isna(row["std"]) else f" ({row['std']:z.3f})"
        unit = f" {row['unit']}" if row["unit"] else ""
        interval = "" if pd.isna(row["low"]) else f" [{row['low']:z.3f}, {row['high']:z.3f}]"
        yield key, f"{name}: {row['value']:z.3f}{spread}{unit}{interval}, n={row['n']}"


def write_summary(
    matches: Sequence[Path],
    curves: Sequence[Path],
    cases: Path,
    heading: str,
    out: Path,
    *,
    resamples: int,
    seed: int,
    changes: Changes,
) -> None:
    """Summary of all systems and repeats, given by their MATCHES and CURVE_ERRORS, and the tables made from it.

    changes : what the systems that are based on another change in it, for the table of ablations.
    """
    tracks = tables.read_tables(curves, tables.CURVE_ERRORS)
    cohort = tables.read_table(cases, tables.CASES)
    found = summarise(tables.read_tables(matches, tables.MATCHES), tracks, resamples=resamples, seed=seed)
    summary = tables.write_table(out / "summary.parquet", tables.SUMMARY, found)
    tables.write_csv(out / "summary.csv", summary)
    failed = cohort[cohort["status"] != "ok"]
    repeats = tracks["repeat"].nunique()
    remarks = [
        f"{len(cohort)} cases, {len(cohort) - len(failed)} of them usable, {tracks['case'].nunique()} scored; "
        f"{int(cohort['vertebrae'].sum())} annotated vertebrae.",
        f"Values are over all scored cases of a repeat, averaged over {repeats} repeat{'s' if repeats > 1 else ''}; "
        f"95 % intervals are from {resamples} resamples of the patients.",
        *(f"Not usable: {case}: {reason}" for case, reason in zip(failed["case"], failed["reason"], strict=True)),
    ]
    write_tables(summary, out, heading, remarks, ablations=changes)


def scores_of(summary: pd.DataFrame, system: str) -> list[dict[str, Any]]:
    """The summary rows of one system as plain values for a model card; undefined values are null."""
    rows = summary[summary["system"] == system].drop(columns="system").astype(object)
    records = rows.to_dict("records")
    return [{str(name): None if pd.isna(value) else value for name, value in row.items()} for row in records]
