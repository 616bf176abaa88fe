"""Laws of evaluating a repeat and of its summary: every held-out case counts, tables keep their schema."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from vertfrac import tables
from vertfrac.evaluation.run import evaluate_repeat, scores_of, write_summary
from vertfrac.evaluation.summary import HEADLINE, as_markdown, summarise
from vertfrac.geometry.spine import annotated_spine

Floats = NDArray[np.float64]
CASES = ("a", "b", "c", "d")


@pytest.fixture
def evaluated(
    tmp_path: Path,
    spine_keypoints: Callable[..., Floats],
    annotations_of: Callable[..., pd.DataFrame],
    predictions_of: Callable[..., pd.DataFrame],
) -> Path:
    """Four cases in two folds, predicted perfectly, but for case d, in which no spine was found."""
    marks, splits = [], []
    files: dict[str, list[Path]] = {"predictions": [], "curves": [], "statuses": []}
    for fold in range(2):
        vertebrae, points, statuses = [], [], []
        for case in CASES[fold::2]:
            keypoints = spine_keypoints(4, heights=[[20, 19, 20], [13, 17, 20], [18, 19, 20], [20, 20, 20]])
            marks.append(annotations_of(keypoints, case=case))
            splits.append({"repeat": 0, "fold": fold, "case": case, "patient": case, "grade": 0})
            if case == "d":
                statuses.append({"case": case, "status": "no_spine", "reason": "no spine found"})
                continue
            statuses.append({"case": case, "status": "ok", "reason": ""})
            vertebrae.append(predictions_of(keypoints, case=case))
            track = annotated_spine(keypoints).curve.points_world
            points += [{"case": case, "point": i, "x": x, "y": y, "z": z} for i, (x, y, z) in enumerate(track)]
        for name, schema, rows in (
            ("predictions", tables.VERTEBRAE, pd.concat(vertebrae)),
            ("curves", tables.CURVES, points),
            ("statuses", tables.CASE_STATUS, statuses),
        ):
            path = tmp_path / f"{name}-{fold}.parquet"
            tables.write_table(path, schema, rows)
            files[name].append(path)
    tables.write_table(tmp_path / "annotations.parquet", tables.ANNOTATIONS, pd.concat(marks))
    tables.write_table(tmp_path / "folds.parquet", tables.FOLDS, splits)
    evaluate_repeat(
        tmp_path / "annotations.parquet", tmp_path / "folds.parquet", **files, smallest_iou=0.1,
        largest_distance_mm=20.0, run={"system": "s", "repeat": 0}, out=tmp_path / "out",
    )  # fmt: skip
    return tmp_path / "out"


def test_every_target_of_every_case_has_one_row(evaluated: Path) -> None:
    matches = tables.read_table(evaluated / "matches.parquet", tables.MATCHES)
    assert matches.groupby("case")["target"].nunique().to_dict() == dict.fromkeys(CASES, 4)


def test_a_case_without_prediction_is_missed_in_full(evaluated: Path) -> None:
    matches = tables.read_table(evaluated / "matches.parquet", tables.MATCHES)
    lost = matches[matches["case"] == "d"]
    assert lost["vertebra"].isna().all()
    assert lost["genant_target"].notna().all()


def test_a_case_without_a_curve_keeps_its_row_and_reason(evaluated: Path) -> None:
    errors = tables.read_table(evaluated / "curve_errors.parquet", tables.CURVE_ERRORS).set_index("case")
    assert len(errors) == 4
    assert errors.loc["d", "status"] == "no_spine"
    assert errors.loc["d", "reason"] == "no spine found"
    assert np.isnan(errors.loc["d", "curve_error_mm"])


def _metric(out: Path, metric: str, level: str, subset: str = "all", fold: int | None = None) -> pd.Series:
    metrics = tables.read_table(out / "metrics.parquet", tables.METRICS)
    metrics = metrics[metrics["fold"].isna() if fold is None else metrics["fold"] == fold]
    return metrics.set_index(["metric", "level", "subset"]).loc[(metric, level, subset)]


def test_metrics_are_over_each_fold_and_over_all(evaluated: Path) -> None:
    recalls = [_metric(evaluated, "recall", "vertebra", fold=fold)["value"] for fold in (0, 1, None)]
    assert recalls == pytest.approx([1.0, 0.5, 0.75])


def test_scans_without_a_curve_are_counted(evaluated: Path) -> None:
    row = _metric(evaluated, "scans without a curve", "scan")
    assert (row["value"], row["n"]) == (1.0, 4)


def test_the_summary_holds_what_the_metrics_hold(evaluated: Path) -> None:
    metrics = tables.read_table(evaluated / "metrics.parquet", tables.METRICS)
    summary = tables.SUMMARY.frame(summarise(metrics))
    whole = metrics[metrics["fold"].isna()]
    assert np.allclose(summary["value"], whole["value"], equal_nan=True)
    assert summary["n"].tolist() == whole["n"].tolist()


def _repeats(values: list[float]) -> pd.DataFrame:
    return tables.METRICS.frame(
        [
            {"system": "s", "repeat": r, "fold": None, "metric": "recall", "level": "vertebra", "subset": "all",
             "value": value, "n": 10, "unit": "", "note": ""}
            for r, value in enumerate(values)
        ]
    )  # fmt: skip


def test_the_summary_is_mean_and_deviation_over_repeats() -> None:
    (row,) = summarise(_repeats([0.8, 0.9, 1.0]))
    assert (row["value"], row["std_repeats"]) == pytest.approx((0.9, 0.1))


def test_a_single_repeat_has_no_deviation() -> None:
    (row,) = summarise(_repeats([0.8]))
    assert row["std_repeats"] is None


def test_an_undefined_repeat_is_left_out_of_the_mean() -> None:
    (row,) = summarise(_repeats([0.8, np.nan]))
    assert row["value"] == pytest.approx(0.8)


def test_the_markdown_has_one_line_per_headline_and_one_column_per_system(evaluated: Path) -> None:
    metrics = tables.read_table(evaluated / "metrics.parquet", tables.METRICS)
    both = pd.concat([metrics, metrics.assign(system="t")])
    lines = as_markdown(tables.SUMMARY.frame(summarise(both)), "Heading", ["a remark"]).splitlines()
    rows = [line for line in lines if line.startswith("| ")]
    assert lines[0] == "# Heading"
    assert len(rows) == len(HEADLINE) + 1
    assert {line.count("|") for line in rows} == {4}
    assert "- a remark" in lines


def test_an_undefined_value_says_why_in_the_markdown() -> None:
    metrics = _repeats([np.nan]).assign(note="nothing to count")
    assert "undefined (nothing to count), n=10" in as_markdown(tables.SUMMARY.frame(summarise(metrics)), "h")


def _cases() -> list[dict[str, Any]]:
    good = [{"case": case, "status": "ok", "reason": "", "vertebrae": 4} for case in CASES]
    return [*good, {"case": "e", "status": "failed", "reason": "truncated"}]


def test_write_summary_names_the_unusable_cases(evaluated: Path, tmp_path: Path) -> None:
    tables.write_table(tmp_path / "cases.parquet", tables.CASES, _cases())
    write_summary([evaluated / "metrics.parquet"], tmp_path / "cases.parquet", "h", tmp_path / "summary")
    text = (tmp_path / "summary" / "summary.md").read_text()
    assert "Not usable: e: truncated" in text
    assert "5 cases, 4 of them usable" in text
    assert "16 annotated vertebrae" in text


def test_scores_for_a_model_card_are_json(evaluated: Path) -> None:
    summary = tables.SUMMARY.frame(summarise(tables.read_table(evaluated / "metrics.parquet", tables.METRICS)))
    scores = scores_of(summary, "s")
    assert len(scores) == len(summary)
    json.dumps(scores, allow_nan=False)
