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
from vertfrac.errors import TableError, VertfracError
from vertfrac.evaluation.run import GRADED, HEADLINE, evaluate, headline, scores_of, summarise, write_summary
from vertfrac.geometry.keypoints import KEYPOINTS as ENDS
from vertfrac.geometry.spine import annotated_spine

Floats = NDArray[np.float64]
CASES = ("a", "b", "c", "d")
HOW: dict[str, Any] = {"closeness": "butterfly", "threshold": 0.1}


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
    told: list[str] = []
    evaluate(
        tmp_path / "annotations.parquet", files["predictions"], folds=tmp_path / "folds.parquet",
        curves=files["curves"], statuses=files["statuses"], **HOW, run={"system": "s", "repeat": 0},
        out=tmp_path / "out", warn=told.append,
    )  # fmt: skip
    assert told == ["d: no prediction, all its vertebrae count as missed"]
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
    assert (row["value"], row["n"]) == (0.25, 4)


def _summary(*folders: Path, resamples: int = 20, **more: Any) -> pd.DataFrame:
    matches = tables.read_tables([folder / "matches.parquet" for folder in folders], tables.MATCHES)
    curves = tables.read_tables([folder / "curve_errors.parquet" for folder in folders], tables.CURVE_ERRORS)
    return summarise(matches, curves, resamples=resamples, seed=0, **more)


def test_the_summary_holds_what_the_metrics_hold(evaluated: Path) -> None:
    metrics = tables.read_table(evaluated / "metrics.parquet", tables.METRICS)
    summary = _summary(evaluated)
    whole = metrics[metrics["fold"].isna()]
    for column in ("value", "std"):
        assert np.allclose(summary[column], whole[column], equal_nan=True)
    for column in ("metric", "level", "subset", "n", "unit", "note"):
        assert summary[column].tolist() == whole[column].tolist()


def test_every_value_of_the_summary_is_in_its_interval_or_missing_with_a_reason(evaluated: Path) -> None:
    summary = _summary(evaluated)
    known = summary[summary["value"].notna()]
    assert ((known["low"] <= known["value"] + 1e-12) & (known["value"] <= known["high"] + 1e-12)).all()
    rest = summary[summary["value"].isna()]
    assert (rest["note"].str.len() > 0).all()
    assert rest[["low", "high", "std_repeats"]].isna().all().all()


@pytest.fixture
def three_repeats(evaluated: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The same four cases three times; repeat r loses r vertebrae of case a."""
    matches = tables.read_table(evaluated / "matches.parquet", tables.MATCHES)
    curves = tables.read_table(evaluated / "curve_errors.parquet", tables.CURVE_ERRORS)
    parts = []
    for repeat in range(3):
        part = matches.assign(repeat=repeat)
        lost = (part["case"] == "a") & (part["target"] <= repeat)
        part.loc[lost, ["vertebra", "genant", "nearest_mm"]] = pd.NA
        parts.append(part)
    return pd.concat(parts), pd.concat([curves.assign(repeat=repeat) for repeat in range(3)])


def _row(summary: pd.DataFrame, *key: str) -> pd.Series:
    return summary.set_index(["metric", "level", "subset"]).loc[key]


def test_the_summary_is_mean_and_deviation_over_repeats(three_repeats: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    row = _row(summarise(*three_repeats, resamples=20, seed=0), "recall", "vertebra", "all")
    expected = [12 / 16, 11 / 16, 10 / 16]
    assert row["value"] == pytest.approx(np.mean(expected))
    assert row["std_repeats"] == pytest.approx(np.std(expected, ddof=1))


def test_a_single_repeat_has_no_deviation(evaluated: Path) -> None:
    assert _summary(evaluated)["std_repeats"].isna().all()


def test_an_undefined_repeat_is_left_out_of_the_mean_and_told(
    three_repeats: tuple[pd.DataFrame, pd.DataFrame],
) -> None:
    matches, curves = three_repeats
    without = matches.copy()
    without.loc[without["repeat"] == 1, ["vertebra", "genant", "nearest_mm", "center_error_mm"]] = pd.NA
    row = _row(summarise(without, curves, resamples=20, seed=0), "precision", "vertebra", "all")
    assert row["value"] == 1.0
    assert row["note"] == "undefined in 1 of 3 repeats: no prediction"


def test_systems_keep_their_order_and_do_not_touch_each_other(evaluated: Path) -> None:
    matches = tables.read_table(evaluated / "matches.parquet", tables.MATCHES)
    curves = tables.read_table(evaluated / "curve_errors.parquet", tables.CURVE_ERRORS)
    alone = _summary(evaluated)
    empty = matches[matches["target"].notna()].assign(system="a", vertebra=pd.NA, genant=np.nan, nearest_mm=np.nan)
    both = summarise(pd.concat([matches, empty]), pd.concat([curves, curves.assign(system="a")]), resamples=20, seed=0)
    assert list(dict.fromkeys(both["system"])) == ["s", "a"]
    pd.testing.assert_frame_equal(both[both["system"] == "s"], alone)
    assert _row(both[both["system"] == "a"], "recall", "vertebra", "all")["value"] == 0.0


def test_the_headline_has_one_line_per_metric_each_with_its_n(evaluated: Path) -> None:
    lines = dict(headline(_summary(evaluated)))
    assert tuple(lines) == HEADLINE
    assert all("n=" in line for line in lines.values())
    assert lines["recall", "vertebra", "all"].startswith("recall by vertebra: 0.750 [")


def test_grades_of_experts_are_in_the_headline_only_where_given(evaluated: Path) -> None:
    matches = tables.read_table(evaluated / "matches.parquet", tables.MATCHES)
    curves = tables.read_table(evaluated / "curve_errors.parquet", tables.CURVE_ERRORS)
    numbers = matches["target"].notna().cumsum()
    graded = matches.assign(grade_target=(numbers % 2 * 2).where(matches["target"].notna()).astype("Int64"))
    lines = dict(headline(summarise(graded, curves, resamples=20, seed=0)))
    assert set(lines) - set(HEADLINE) <= set(GRADED)
    assert ("ROC AUC", "vertebra", "grade >= 2") in lines
    assert not set(dict(headline(_summary(evaluated)))) & set(GRADED)


def _cases() -> list[dict[str, Any]]:
    good = [{"case": case, "status": "ok", "reason": "", "vertebrae": 4} for case in CASES]
    return [*good, {"case": "e", "status": "failed", "reason": "truncated"}]


def test_write_summary_names_the_unusable_cases(evaluated: Path, tmp_path: Path) -> None:
    tables.write_table(tmp_path / "cases.parquet", tables.CASES, _cases())
    files = [[evaluated / name] for name in ("matches.parquet", "curve_errors.parquet")]
    write_summary(*files, tmp_path / "cases.parquet", "h", tmp_path / "summary", resamples=20, seed=0, changes={})
    text = (tmp_path / "summary" / "summary.md").read_text()
    assert "Not usable: e: truncated" in text
    assert "5 cases, 4 of them usable" in text
    assert "16 annotated vertebrae" in text


def test_scores_for_a_model_card_are_json(evaluated: Path) -> None:
    summary = _summary(evaluated)
    scores = scores_of(summary, "s")
    assert len(scores) == len(summary)
    json.dumps(scores, allow_nan=False)


# --- without folds: another system's predictions


@pytest.fixture
def foreign(tmp_path: Path, spine_keypoints: Any, annotations_of: Any) -> Callable[..., pd.DataFrame]:
    """Score a CSV of nothing but cases and keypoints, after a change, against two annotated cases; returns MATCHES."""
    columns = list(tables.PREDICTIONS.required)
    truth = pd.concat([annotations_of(spine_keypoints(4), case=case) for case in "ab"], ignore_index=True)
    tables.write_table(tmp_path / "truth.parquet", tables.ANNOTATIONS, truth)

    def run(change: Callable[[pd.DataFrame], pd.DataFrame] = lambda rows: rows, **more: Any) -> pd.DataFrame:
        change(truth[columns]).to_csv(tmp_path / "found.csv", index=False)
        matches, _ = evaluate(
            tmp_path / "truth.parquet", [tmp_path / "found.csv"], **HOW, run={"system": "f", "repeat": 0},
            out=tmp_path / "foreign", warn=more.pop("warn", print), **more,
        )  # fmt: skip
        return matches

    return run


def test_cases_and_keypoints_are_enough(foreign: Callable[..., pd.DataFrame]) -> None:
    matches = foreign()
    assert matches["vertebra"].tolist() == matches["target"].tolist() == [1, 2, 3, 4] * 2
    assert (matches["score"] == 1.0).all()
    assert matches["fold"].isna().all()
    assert matches["patient"].tolist() == matches["case"].tolist()


def test_without_curves_their_errors_are_missing_with_a_reason(
    foreign: Callable[..., pd.DataFrame], tmp_path: Path
) -> None:
    foreign()
    summary = _summary(tmp_path / "foreign")
    for metric in ("curve error", "limits error", "scans without a curve"):
        row = _row(summary, metric, "scan", "all")
        assert pd.isna(row["value"])
        assert row["note"] == "no curves were given"
    assert _row(summary, "recall", "vertebra", "all")["value"] == 1.0


def test_a_case_without_predictions_is_missed_and_named(foreign: Callable[..., pd.DataFrame]) -> None:
    told: list[str] = []
    matches = foreign(lambda rows: rows[rows["case"] == "a"], warn=told.append)
    assert matches.loc[matches["case"] == "b", "vertebra"].isna().all()
    assert len(told) == 1
    assert told[0].startswith("b: ")


def test_patients_come_from_the_table_of_cases(foreign: Callable[..., pd.DataFrame], tmp_path: Path) -> None:
    rows = [{"case": case, "patient": "p", "status": "ok"} for case in "ab"]
    tables.write_table(tmp_path / "cases.parquet", tables.CASES, rows)
    assert set(foreign(cases=tmp_path / "cases.parquet")["patient"]) == {"p"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: rows.replace({"case": {"b": "z"}}), ("unknown case z", "truth.parquet")),
        (lambda rows: rows.assign(vertebra=1), ("case a vertebra 1 occurs twice", "cases a, b")),
        (lambda rows: rows.assign(vertebra=[1, 2, 3, None] * 2), ("row 4 has no vertebra",)),
        (lambda rows: rows.assign(middle_superior_z=np.nan), ("case a vertebra 1 has the heights", "finite")),
        (lambda rows: rows.drop(columns="middle_superior_z"), ("middle_superior_z is missing",)),
    ],
)
def test_wrong_predictions_are_one_line_naming_file_and_cases(
    foreign: Callable[..., pd.DataFrame], change: Callable[[pd.DataFrame], pd.DataFrame], words: tuple[str, ...]
) -> None:
    with pytest.raises(TableError) as error:
        foreign(change)
    for word in ("found.csv", *words):
        assert word in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda marks: marks.assign(vertebra=7), ("case a expert a vertebra 7 occurs twice",)),
        (lambda marks: marks[:0], ("no annotation",)),
        (lambda marks: marks.assign(**{f"{end}_y": 0.0 for end in ENDS}), ("case a", "span no plane")),
    ],
)
def test_wrong_annotations_are_one_line_naming_file_and_case(
    foreign: Callable[..., pd.DataFrame], tmp_path: Path, change: Any, words: tuple[str, ...]
) -> None:
    path = tmp_path / "truth.parquet"
    tables.write_table(path, tables.ANNOTATIONS, change(tables.read_table(path, tables.ANNOTATIONS)))
    with pytest.raises(VertfracError) as error:
        foreign()
    for word in ("truth.parquet", *words):
        assert word in str(error.value)


def test_a_prediction_for_a_case_that_a_fold_does_not_hold_out_is_refused(evaluated: Path, tmp_path: Path) -> None:
    """Files in the wrong order of folds would else score training cases."""
    found = [tmp_path / f"predictions-{fold}.parquet" for fold in (1, 0)]
    with pytest.raises(TableError, match=r"predictions-1.parquet: predictions for unknown case b, expected .* fold 0"):
        evaluate(
            tmp_path / "annotations.parquet", found, folds=tmp_path / "folds.parquet", **HOW,
            run={"system": "s", "repeat": 0}, out=tmp_path / "again", warn=print,
        )  # fmt: skip


def test_the_number_of_files_must_be_that_of_the_folds(evaluated: Path, tmp_path: Path) -> None:
    with pytest.raises(TableError, match="found 1 files of predictions, expected one for each of the 2 folds"):
        evaluate(
            tmp_path / "annotations.parquet", [tmp_path / "predictions-0.parquet"], folds=tmp_path / "folds.parquet",
            **HOW, run={"system": "s", "repeat": 0}, out=tmp_path / "again", warn=print,
        )  # fmt: skip
