"""The experts' row: each expert of a case scored as a system would be, against the other experts of the case."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from vertfrac import tables
from vertfrac.cohorts.lungcancer500_json import annotation_rows, nominal_affine, read_studies
from vertfrac.config import EXPERTS
from vertfrac.errors import AnnotationError, GeometryError
from vertfrac.evaluation import published
from vertfrac.evaluation.inputs import check_vertebrae, read_annotations
from vertfrac.evaluation.levels import anchored_cases
from vertfrac.evaluation.matching import Closeness, match
from vertfrac.evaluation.run import patients_of_cases, write_scores
from vertfrac.evaluation.score import curve_errors, match_table
from vertfrac.geometry.spine import annotated_spine

Reference = Literal["each", "first", "mean"]

MEAN_OF_OTHERS = "mean of the others"

PUBLISHED: dict[tuple[str, str, str], str] = {
    (entry.metric, entry.level, entry.subset): f"{entry.value:g}" + (f" ({entry.std:g}) mm" if entry.std else "")
    for entry in published.PUBLISHED
    if entry.system == "experts" and entry.level and entry.subset
}
"""The experts' row of Pisov et al. 2020, table 1, by metric, level and subset."""

ANY_EXPERT: dict[tuple[str, str, str], str] = {
    (f"{metric} to any expert", level, subset): PUBLISHED[metric, level, subset]
    for metric, level, subset in PUBLISHED
    if metric != "recall"
}
"""The same by the definition that those figures seem to have: all other experts at once."""


def read_experts(paths: Sequence[Path], spacing_mm: Sequence[float]) -> pd.DataFrame:
    """Annotations of several experts, with a column ``source``: tables, or folders of LungCancer500 JSON files.

    spacing_mm : distance of rows, columns and slices, for the folders, which do not hold it. Raises AnnotationError if
    an expert annotated a case in two of the sources.
    """
    parts = []
    for path in paths:
        if path.is_dir():
            rows = [
                {"source": str(file), **row}
                for file, study in read_studies(path)
                for row in annotation_rows(study, nominal_affine(spacing_mm, downwards=study.downwards))
            ]
            marks = pd.DataFrame(rows)
            read = tables.ANNOTATIONS.frame(marks.drop(columns="source")).assign(source=marks["source"])
            check_vertebrae(read, path, ["case", "expert", "vertebra"], AnnotationError)
        else:
            read = read_annotations(path).assign(source=str(path))
        parts.append(read)
        earlier = {key for part in parts[:-1] for key in part[["case", "expert"]].itertuples(index=False, name=None)}
        for case, expert in read[["case", "expert"]].drop_duplicates().itertuples(index=False):
            if (case, expert) in earlier:
                raise AnnotationError(f"{path}: {expert} annotated case {case} in an earlier source too, expected one")
    return pd.concat(parts, ignore_index=True)


def score_experts(
    marks: pd.DataFrame,
    *,
    reference: Reference = "each",
    closeness: Closeness,
    threshold: float,
    cases: Path | None = None,
    out: Path,
    warn: Callable[[str], None],
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Score experts against each other; tables MATCHES, CURVE_ERRORS, METRICS and EXPERT_CASES (cases) in ``out``.

    marks : as ``read_experts`` gives it. reference : what an expert is scored against, see :func:`comparisons`. cases :
    table of cases, for the patients. Cases of one expert are named to ``warn`` and left out. Returns MATCHES and
    CURVE_ERRORS. Raises AnnotationError if no case has two experts.
    """
    listed = [_case_row(case, rows) for case, rows in marks.groupby("case")]
    lonely = [row for row in listed if row["status"] != "ok"]
    if len(lonely) == len(listed):
        sources = ", ".join(sorted(set(marks["source"]))[:3])
        raise AnnotationError(f"{sources}: none of {len(listed)} cases has two experts, expected two in one at least")
    for row in lonely:
        warn(f"{row['case']}: {row['reason']}; left out")
    alone = {row["case"] for row in lonely}
    patient_of = patients_of_cases(set(marks["case"]), cases)
    anchored = anchored_cases(marks)
    run = {"system": EXPERTS, "repeat": 0}
    matches: list[dict[str, Any]] = []
    errors: list[dict[str, Any]] = []
    for case, rows in marks[~marks["case"].isin(alone)].groupby("case"):
        key = {**run, "case": case, "patient": patient_of[str(case)]}
        try:
            for rater, found, truth in comparisons(rows, reference, closeness=closeness, threshold=threshold):
                mine = {**key, "rater": rater}
                scored = match_table(truth, _as_predictions(found), closeness=closeness, threshold=threshold)
                matches += [{**mine, "anchored": case in anchored, **row} for row in scored]
                errors += [{**mine, **row} for row in _curve_rows(truth, found)]
        except GeometryError as error:
            raise AnnotationError(f"{rows['source'].iloc[0]}: case {case}: {error}") from error
    tables.write_table(out / "cases.parquet", tables.EXPERT_CASES, listed)
    return write_scores(out, matches, errors, run)


def _case_row(case: Any, rows: pd.DataFrame) -> dict[str, Any]:
    experts = sorted(set(rows["expert"]))
    alone = len(experts) < 2
    return {
        "case": case,
        "source": "; ".join(sorted(set(rows["source"]))),
        "experts": "; ".join(experts),
        "vertebrae": len(rows),
        "status": "one_expert" if alone else "ok",
        "reason": f"annotated by {experts[0]} only, expected two experts" if alone else "",
    }


def comparisons(
    rows: pd.DataFrame, reference: Reference, *, closeness: Closeness, threshold: float
) -> Iterator[tuple[str, pd.DataFrame, pd.DataFrame]]:
    """Who is scored against what in one case: the rater, the rater's rows, and the rows taken as the truth.

    rows : the case's rows of ANNOTATIONS. reference : "each": every expert against every other one, both ways; "first":
    the others against the first expert by name; "mean": every expert against the mean of all others, which holds each
    vertebra that any of them marked, vertebrae being the same if they match.
    """
    of = {str(expert): mine for expert, mine in rows.groupby("expert")}
    first = next(iter(of))
    for rater, mine in of.items():
        others = {expert: marks for expert, marks in of.items() if expert != rater}
        if reference == "each":
            yield rater, mine, pd.concat(others.values())
        elif reference == "mean":
            yield rater, mine, _mean_of(list(others.values()), closeness=closeness, threshold=threshold)
        elif rater != first:
            yield rater, mine, of[first]


def _mean_of(experts: Sequence[pd.DataFrame], *, closeness: Closeness, threshold: float) -> pd.DataFrame:
    """The mean keypoints of every vertebra that any of some experts marked, as rows of ANNOTATIONS, from above."""
    groups: list[list[np.ndarray]] = []
    for marks in experts:
        points = tables.keypoints_of(marks)
        means = np.array([np.mean(group, axis=0) for group in groups]).reshape(-1, 6, 3)
        group_of = {j: i for i, j in match(means, points, closeness=closeness, threshold=threshold)}
        for j, keypoints in enumerate(points):
            if j in group_of:
                groups[group_of[j]].append(keypoints)
            else:
                groups.append([keypoints])
    means = np.array([np.mean(group, axis=0) for group in groups])
    means = means[np.argsort(-means[..., 2].mean(axis=1))]
    key = {"case": experts[0]["case"].iloc[0], "expert": MEAN_OF_OTHERS}
    return tables.ANNOTATIONS.frame(
        {**key, "vertebra": n, **tables.keypoint_values(points)} for n, points in enumerate(means, start=1)
    )


def _as_predictions(marks: pd.DataFrame) -> pd.DataFrame:
    columns = [column.name for column in tables.PREDICTIONS.columns if column.name in marks.columns]
    return tables.PREDICTIONS.frame(marks[columns].assign(status="ok"))


def _curve_rows(truth: pd.DataFrame, found: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of CURVE_ERRORS without their key; where an annotation describes no curve, the reason instead of errors."""
    try:
        return [{"status": "ok", "reason": "", **row} for row in curve_errors(truth, _track(found))]
    except GeometryError as error:
        lost = {"status": "no_curve", "reason": str(error)}
        return [{**lost, "expert": expert} for expert in sorted(set(truth["expert"]))]


def _track(marks: pd.DataFrame) -> pd.DataFrame:
    """The curve that an expert's annotation describes, between its limits, as rows of CURVES."""
    spine = annotated_spine(tables.keypoints_of(marks))
    points = spine.curve.points_world[::-1]
    z = np.linspace(spine.lower_z, spine.upper_z, max(2, round(spine.upper_z - spine.lower_z) + 1))
    return pd.DataFrame({"z": z, **{name: np.interp(z, points[:, 2], points[:, k]) for k, name in enumerate("xy")}})
