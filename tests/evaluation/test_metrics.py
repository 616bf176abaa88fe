"""Laws of the metrics: known errors give known numbers, and what is undefined says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from vertfrac import tables
from vertfrac.evaluation.metrics import measures, metric_rows
from vertfrac.evaluation.score import curve_errors, match_table
from vertfrac.genant import genant_index, grade
from vertfrac.geometry.keypoints import heights as heights_of
from vertfrac.geometry.spine import annotated_spine

Floats = NDArray[np.float64]
HOW: dict[str, Any] = {"closeness": "butterfly", "threshold": 0.1}
HEIGHTS = {
    "healthy": [[20, 19, 20], [20, 18, 20], [21, 20, 22]],
    "mild": [[16, 18, 20.5], [20, 19, 20], [22, 20, 21]],
    "severe": [[11, 15, 20], [20, 19, 20], [14.5, 17, 20]],
    "moderate": [[20, 19, 20], [13.5, 16, 20], [21, 20, 21]],
}


@pytest.fixture
def truth(spine_keypoints: Callable[..., Floats]) -> dict[str, Floats]:
    return {case: spine_keypoints(3, heights=heights) for case, heights in HEIGHTS.items()}


@pytest.fixture
def score(
    annotations_of: Callable[..., pd.DataFrame], predictions_of: Callable[..., pd.DataFrame]
) -> Callable[..., pd.DataFrame]:
    """The metrics of predicted against annotated keypoints, by case."""

    def run(truth: dict[str, Floats], found: dict[str, Floats]) -> pd.DataFrame:
        matches: list[dict[str, Any]] = []
        curves: list[dict[str, Any]] = []
        for case, keypoints in truth.items():
            marks = annotations_of(keypoints, case=case).assign(grade=grade(genant_index(heights_of(keypoints))))
            rows = match_table(marks, predictions_of(found[case], case=case), **HOW)
            matches += [{"case": case, "patient": case, **row} for row in rows]
            track = pd.DataFrame(annotated_spine(keypoints).curve.points_world, columns=["x", "y", "z"])
            curves += [{"case": case, "patient": case, "status": "ok", **row} for row in curve_errors(marks, track)]
        rows = metric_rows(tables.MATCHES.frame(matches), tables.CURVE_ERRORS.frame(curves))
        return pd.DataFrame(rows).set_index(["metric", "level", "subset"])

    return run


Score = Callable[..., pd.DataFrame]


def test_perfect_predictions_have_perfect_scores(truth: dict[str, Floats], score: Score) -> None:
    metrics = score(truth, truth)
    for metric in ("ROC AUC", "sensitivity", "specificity", "precision", "recall", "correlation of G"):
        values = metrics.loc[[metric], "value"]
        assert len(values) > 1
        assert np.allclose(values, 1.0)


def test_perfect_predictions_have_no_error(truth: dict[str, Floats], score: Score) -> None:
    metrics = score(truth, truth)
    for metric in ("localisation", "centre error", "keypoint error", "error of G", "bias of G", "curve error"):
        assert np.allclose(metrics.loc[[metric], "value"], 0.0, atol=1e-9)


@pytest.mark.parametrize("shift", [(0.0, 3.0, 4.0), (0.0, -1.0, 2.0), (6.0, 0.0, 0.0)])
def test_a_common_shift_is_exactly_the_error(
    truth: dict[str, Floats], score: Score, shift: tuple[float, float, float]
) -> None:
    metrics = score(truth, {case: points + shift for case, points in truth.items()})
    expected = np.linalg.norm(shift)
    errors = metrics.loc[["localisation", "centre error", "keypoint error"]]
    assert len(errors) == 6
    assert np.allclose(errors["value"], expected)
    assert np.allclose(errors["std"], 0.0, atol=1e-7)


def test_a_shift_leaves_the_genant_index(truth: dict[str, Floats], score: Score) -> None:
    metrics = score(truth, {case: points + np.array([0, 2.0, 3.0]) for case, points in truth.items()})
    assert metrics.loc[("error of G", "vertebra", "all"), "value"] == pytest.approx(0, abs=1e-9)


def test_a_dropped_vertebra_costs_one_miss(truth: dict[str, Floats], score: Score) -> None:
    metrics = score(truth, {**truth, "mild": truth["mild"][1:]})
    assert metrics.loc[("recall", "vertebra", "all"), "value"] == pytest.approx(11 / 12)
    assert metrics.loc[("recall", "patient", "all"), "value"] == pytest.approx((3 + 2 / 3) / 4)
    assert metrics.loc[("precision", "vertebra", "all"), "value"] == 1.0


def test_a_dropped_fracture_costs_one_of_the_fractures(truth: dict[str, Floats], score: Score) -> None:
    metrics = score(truth, {**truth, "severe": truth["severe"][1:]})
    assert metrics.loc[("recall", "vertebra", "G <= 0.74"), "value"] == pytest.approx(2 / 3)


def test_an_extra_far_vertebra_costs_one_false_alarm(truth: dict[str, Floats], score: Score) -> None:
    extra = np.concatenate([truth["mild"], truth["mild"][:1] + np.array([0, 0, 80.0])])
    metrics = score(truth, {**truth, "mild": extra})
    assert metrics.loc[("precision", "vertebra", "all"), "value"] == pytest.approx(12 / 13)
    assert metrics.loc[("precision", "patient", "all"), "value"] == pytest.approx((3 + 3 / 4) / 4)
    assert metrics.loc[("recall", "vertebra", "all"), "value"] == 1.0


def test_mirrored_order_of_predictions_changes_nothing(truth: dict[str, Floats], score: Score) -> None:
    found = {case: points + np.array([0, 1.0, 1.5]) for case, points in truth.items()}
    mirrored = {case: points[::-1] for case, points in found.items()}
    assert np.allclose(score(truth, found)["value"], score(truth, mirrored)["value"], equal_nan=True)


def test_a_case_without_any_prediction_counts_in_full_as_missed(truth: dict[str, Floats], score: Score) -> None:
    metrics = score(truth, {**truth, "healthy": np.zeros((0, 6, 3))})
    assert metrics.loc[("recall", "patient", "all"), "value"] == pytest.approx(3 / 4)
    assert metrics.loc[("recall", "vertebra", "all"), "value"] == pytest.approx(9 / 12)


def test_with_one_class_only_what_needs_both_is_undefined_and_says_why(truth: dict[str, Floats], score: Score) -> None:
    healthy = {"healthy": truth["healthy"]}
    metrics = score(healthy, healthy)
    for metric in ("ROC AUC", "sensitivity"):
        rows = metrics.loc[[metric]]
        assert rows["value"].isna().all()
        assert (rows["note"].str.len() > 0).all()


def test_with_one_class_only_what_needs_just_that_class_is_defined(truth: dict[str, Floats], score: Score) -> None:
    healthy = {"healthy": truth["healthy"]}
    assert (score(healthy, healthy).loc[["specificity"], "value"] == 1.0).all()


def test_no_prediction_at_all_leaves_every_row_with_a_value_or_a_reason(truth: dict[str, Floats], score: Score) -> None:
    metrics = score(truth, {case: np.zeros((0, 6, 3)) for case in truth})
    assert (metrics["value"].notna() | (metrics["note"].str.len() > 0)).all()
    assert metrics.loc[("recall", "vertebra", "all"), "value"] == 0.0


@pytest.mark.parametrize("wrong", ["mild", "severe"])
def test_the_same_rows_come_whatever_the_predictions(truth: dict[str, Floats], score: Score, wrong: str) -> None:
    found = {**truth, wrong: np.zeros((0, 6, 3))}
    assert score(truth, found).index.tolist() == score(truth, truth).index.tolist()


def test_only_measured_vertebrae_are_matched(
    truth: dict[str, Floats],
    annotations_of: Callable[..., pd.DataFrame],
    predictions_of: Callable[..., pd.DataFrame],
) -> None:
    rows = match_table(annotations_of(truth["mild"]), predictions_of(truth["mild"], status="partial"), **HOW)
    assert [row.get("vertebra") for row in rows] == [None] * 3


def test_each_expert_is_scored_alone(
    truth: dict[str, Floats],
    annotations_of: Callable[..., pd.DataFrame],
    predictions_of: Callable[..., pd.DataFrame],
) -> None:
    marks = pd.concat(
        [annotations_of(truth["mild"], expert="a"), annotations_of(truth["mild"] + [0, 3, 4], expert="b")]
    )
    rows = pd.DataFrame(match_table(marks, predictions_of(truth["mild"]), **HOW))
    assert rows.groupby("expert")["center_error_mm"].mean().to_dict() == pytest.approx({"a": 0.0, "b": 5.0})


def test_each_prediction_knows_its_nearest_annotated_vertebra_matched_or_not(
    truth: dict[str, Floats],
    annotations_of: Callable[..., pd.DataFrame],
    predictions_of: Callable[..., pd.DataFrame],
) -> None:
    found = truth["mild"][[1, 1, 0]] + np.array([[0, 3.0, 4.0], [0, 0, 5.5], [0, 300, 0]])[:, None]
    rows = pd.DataFrame(match_table(annotations_of(truth["mild"]), predictions_of(found), **HOW))
    rows = rows[rows["vertebra"].notna()].set_index("vertebra").sort_index()
    assert rows["nearest_mm"].tolist() == pytest.approx([5.0, 5.5, 300.0])
    assert rows["nearest_genant"].tolist() == pytest.approx([0.95, 0.95, 16 / 20.5])
    assert rows["target"].notna().sum() == 1


# --- agreement with scikit-learn


def _random_matches(seed: int, *, experts: int = 1) -> pd.DataFrame:
    """Matches of 30 patients with G in steps of 0.01, so that there are ties; some missed, some false alarms."""
    rng = np.random.default_rng(seed)
    rows = []
    for patient, expert in ((p, e) for p in range(30) for e in range(experts)):
        for number in range(int(rng.integers(1, 9))):
            g = np.round(rng.beta(8, 2), 2)
            row = {"case": f"c{patient}", "patient": f"c{patient}", "expert": f"e{expert}"}
            kind = rng.choice(["hit", "miss", "extra"], p=[0.8, 0.1, 0.1])
            if kind != "extra":
                row |= {"target": number, "genant_target": g}
            if kind != "miss":
                row |= {"vertebra": number, "genant": np.round(np.clip(g + rng.normal(0, 0.08), 0.01, 1), 2)}
                row |= {"nearest_mm": rng.gamma(2), "nearest_genant": g}
            if kind == "hit":
                row |= {"center_error_mm": rng.gamma(2), "keypoint_error_mm": rng.gamma(2)}
            rows.append(row)
    return tables.MATCHES.frame(rows)


def _random_curves(matches: pd.DataFrame) -> pd.DataFrame:
    keys = matches[["case", "patient", "expert"]].drop_duplicates()
    values = np.random.default_rng(0).gamma(2, size=(2, len(keys)))
    errors = dict(zip(("curve_error_mm", "limits_error_mm"), values, strict=True))
    return tables.CURVE_ERRORS.frame(keys.assign(status="ok", reason="", **errors))


def _values(matches: pd.DataFrame) -> dict[tuple[str, str, str], float]:
    return {m.key: m.value for m in measures(matches, _random_curves(matches))}


TASKS = {"G <= 0.8": 0.8, "G <= 0.74": 0.74, "G0 vs G2-G3": 0.74}


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("experts", [1, 3])
@pytest.mark.parametrize("level", ["vertebra", "patient"])
def test_classification_agrees_with_scikit_learn(seed: int, experts: int, level: str) -> None:
    from sklearn.metrics import recall_score, roc_auc_score

    matches = _random_matches(seed, experts=experts)
    values = _values(matches)
    if level == "vertebra":
        rows = matches.dropna(subset=["target", "vertebra"])
    else:
        rows = matches.groupby(["case", "expert"])[["genant_target", "genant"]].min().fillna({"genant": 1.0}).dropna()
    for task, limit in TASKS.items():
        chosen = rows if task != "G0 vs G2-G3" else rows[~rows["genant_target"].between(0.74, 0.8, inclusive="right")]
        positive, called = chosen["genant_target"] <= limit, chosen["genant"] <= limit
        assert chosen["genant"].duplicated().any(), "ties must occur"
        assert values["ROC AUC", level, task] == pytest.approx(roc_auc_score(positive, -chosen["genant"]))
        assert values["sensitivity", level, task] == pytest.approx(recall_score(positive, called))
        assert values["specificity", level, task] == pytest.approx(recall_score(~positive, ~called))


@pytest.mark.parametrize("seed", range(10))
def test_agreement_agrees_with_scikit_learn_and_numpy(seed: int) -> None:
    from sklearn.metrics import accuracy_score, cohen_kappa_score

    matches = _random_matches(seed)
    values = _values(matches)
    pairs = matches.dropna(subset=["target", "vertebra"])
    truth, found = pairs["genant_target"].to_numpy(), pairs["genant"].to_numpy()
    grades = grade(truth), grade(found)
    assert values["kappa of the grade", "vertebra", "all"] == pytest.approx(
        cohen_kappa_score(*grades, weights="quadratic")
    )
    assert values["agreement on the grade", "vertebra", "all"] == pytest.approx(accuracy_score(*grades))
    assert values["correlation of G", "vertebra", "all"] == pytest.approx(np.corrcoef(truth, found)[0, 1])
    assert values["bias of G", "vertebra", "all"] == pytest.approx((found - truth).mean())


def test_a_patient_without_a_measured_vertebra_counts_as_unfractured(truth: dict[str, Floats], score: Score) -> None:
    metrics = score(truth, {**truth, "severe": np.zeros((0, 6, 3))})
    assert metrics.loc[("sensitivity", "patient", "G <= 0.74"), ["value", "n"]].tolist() == [0.5, 2]
    assert metrics.loc[("specificity", "patient", "G <= 0.74"), ["value", "n"]].tolist() == [1.0, 2]


def test_the_precision_of_fractures_counts_predicted_fractures(truth: dict[str, Floats], score: Score) -> None:
    extra = np.concatenate([truth["mild"], truth["severe"][:1] + np.array([0, 0, 80.0])])
    metrics = score(truth, {**truth, "mild": extra})
    assert metrics.loc[("precision", "vertebra", "G <= 0.74"), ["value", "n"]].tolist() == [3 / 4, 4]
    assert metrics.loc[("recall", "vertebra", "G <= 0.74"), ["value", "n"]].tolist() == [1.0, 3]


# --- weights


@pytest.mark.parametrize("seed", range(5))
def test_integer_weights_are_repeated_patients(seed: int) -> None:
    matches = _random_matches(seed, experts=2)
    curves = _random_curves(matches)
    units = np.unique(matches["patient"].to_numpy(dtype=object))
    weights = np.random.default_rng(seed).integers(0, 3, len(units))
    copies = [
        [
            table[table["patient"] == unit].assign(patient=f"{unit}-{k}", case=f"{unit}-{k}")
            for table in (matches, curves)
        ]
        for unit, times in zip(units, weights, strict=True)
        for k in range(times)
    ]
    repeated = measures(*(pd.concat(tables_, ignore_index=True) for tables_ in zip(*copies, strict=True)))
    for measure, other in zip(measures(matches, curves), repeated, strict=True):
        assert measure.values(weights.astype(float), units) == pytest.approx(other.value, nan_ok=True), measure.key


def test_many_weights_at_once_are_each_alone() -> None:
    matches = _random_matches(1)
    units = np.append(np.unique(matches["patient"].to_numpy(dtype=object)), "nobody")
    weights = np.random.default_rng(0).integers(0, 3, (2, 3, len(units))).astype(float)
    for measure in measures(matches, _random_curves(matches)):
        together = measure.values(weights, units)
        assert together.shape == (2, 3)
        alone = [[float(measure.values(w, units)) for w in row] for row in weights]
        assert together == pytest.approx(np.array(alone), nan_ok=True)


def test_weights_without_a_class_leave_the_area_undefined() -> None:
    matches = _random_matches(2)
    worst = matches.groupby("patient")["genant_target"].min()
    units = np.unique(matches["patient"].to_numpy(dtype=object))
    weights = (worst.reindex(units) > 0.8).to_numpy(dtype=float)
    assert 0 < weights.sum() < len(units)
    found = {m.key: m for m in measures(matches, _random_curves(matches))}
    assert np.isnan(found["ROC AUC", "vertebra", "G <= 0.74"].values(weights, units))
    assert np.isnan(found["sensitivity", "patient", "G <= 0.74"].values(weights, units))
    assert found["specificity", "patient", "G <= 0.74"].values(weights, units) <= 1.0


# --- stage 1


def _track(keypoints: Floats) -> pd.DataFrame:
    """The annotated curve, cut at the annotated limits."""
    spine = annotated_spine(keypoints)
    z = np.linspace(spine.upper_z, spine.lower_z, 200)
    points = spine.curve.points_world[::-1]
    columns = [np.interp(z, points[:, 2], points[:, axis]) for axis in (0, 1)]
    return pd.DataFrame({"x": columns[0], "y": columns[1], "z": z})


@pytest.mark.parametrize(("dx", "dy", "expected"), [(3.0, 0.0, 3.0), (0.0, -2.0, 2.0), (3.0, 4.0, 5.0)])
def test_a_shifted_curve_is_wrong_by_the_shift(
    spine_keypoints: Any, annotations_of: Any, dx: float, dy: float, expected: float
) -> None:
    keypoints = spine_keypoints(5)
    (row,) = curve_errors(annotations_of(keypoints), _track(keypoints).assign(x=40 + dx, y=50 + dy))
    assert row["curve_error_mm"] == pytest.approx(expected)
    assert row["limits_error_mm"] == pytest.approx(0.0, abs=1e-9)


def test_the_limits_error_is_the_mean_of_both_ends(spine_keypoints: Any, annotations_of: Any) -> None:
    keypoints = spine_keypoints(5)
    spine = annotated_spine(keypoints)
    track = pd.DataFrame({"x": 40.0, "y": 50.0, "z": [spine.upper_z + 6.0, spine.lower_z + 2.0]})
    (row,) = curve_errors(annotations_of(keypoints), track)
    assert row["limits_error_mm"] == pytest.approx(4.0)
    assert row["curve_error_mm"] == pytest.approx(0.0, abs=1e-9)


def test_the_order_of_the_curve_points_does_not_matter(spine_keypoints: Any, annotations_of: Any) -> None:
    keypoints = spine_keypoints(5, bend_mm=20)
    track = _track(keypoints).assign(x=43.0)
    forwards, backwards = (curve_errors(annotations_of(keypoints), t) for t in (track, track[::-1]))
    assert forwards == backwards


def test_a_curve_beside_the_annotation_has_no_curve_error_but_a_limits_error(
    spine_keypoints: Any, annotations_of: Any
) -> None:
    track = pd.DataFrame({"x": 40.0, "y": 50.0, "z": [500.0, 400.0]})
    (row,) = curve_errors(annotations_of(spine_keypoints(5)), track)
    assert np.isnan(row["curve_error_mm"])
    assert row["limits_error_mm"] > 200


def _graded(rows: list[tuple[str, object, object, float | None]]) -> pd.DataFrame:
    """Metrics of matches (patient, target or None, expert's grade, predicted G or None)."""
    matches = [
        {"case": patient, "patient": patient, "expert": "a", "target": target, "grade_target": given, "genant": found,
         "genant_target": None if target is None else 0.5, "vertebra": None if found is None else n}
        for n, (patient, target, given, found) in enumerate(rows)
    ]  # fmt: skip
    found = metric_rows(tables.MATCHES.frame(matches), tables.CURVE_ERRORS.frame([]))
    return pd.DataFrame(found).set_index(["metric", "level", "subset"])


def test_experts_grades_are_the_truth_whatever_the_annotated_index() -> None:
    metrics = _graded(
        [("p", 1, 0, 0.9), ("p", 2, 2, 0.7), ("q", 1, 3, 0.8), ("q", 2, 1, 0.6), ("q", 3, None, 0.3), ("r", 1, 0, None)]
    )
    by_vertebra = [metrics.loc[(name, "vertebra", "grade >= 2"), "value"] for name in ("sensitivity", "specificity")]
    assert by_vertebra == [0.5, 0.5]  # 0.7 of two fractured is called; 0.6 of grade 1 is called too
    assert metrics.loc[("ROC AUC", "vertebra", "grade >= 2"), ["value", "n"]].tolist() == [0.5, 4]
    clear = metrics.loc[("ROC AUC", "vertebra", "grade 0 vs 2-3")]
    assert (clear["value"], clear["n"], clear["note"]) == (1.0, 3, "2 positive")


def test_the_worst_grade_is_that_of_the_patient() -> None:
    metrics = _graded(
        [
            ("p", 1, 0, 0.95), ("p", 2, 3, 0.5), ("p", 3, 2, 0.9),
            ("q", 1, 0, 0.9), ("q", 2, None, 0.4),  # found fractured where no grade was given: no evidence
            ("r", 1, 1, 0.85), ("r", None, None, 0.7),  # a fracture where no vertebra is annotated: a false alarm
            ("s", 1, 2, None),  # nothing measured: missed
            ("t", 1, None, 0.3),
        ]
    )  # fmt: skip
    level, subset = "patient", "grade >= 2"
    rows = {name: metrics.loc[(name, level, subset)] for name in ("sensitivity", "specificity", "ROC AUC")}
    assert (rows["sensitivity"]["value"], rows["sensitivity"]["n"]) == (0.5, 2)
    assert (rows["specificity"]["value"], rows["specificity"]["n"]) == (0.5, 2)
    assert rows["ROC AUC"]["n"] == 4
    assert metrics.loc[("specificity", "patient", "grade 0 vs 2-3"), "value"] == 1.0


def test_without_grades_their_metrics_say_so() -> None:
    metrics = _graded([("p", 1, None, 0.9), ("p", None, None, 0.5)])
    for subset in ("grade >= 2", "grade 0 vs 2-3"):
        for name in ("ROC AUC", "sensitivity", "specificity"):
            for level, what in (("vertebra", "matched pair"), ("patient", "patient")):
                row = metrics.loc[(name, level, subset)]
                assert np.isnan(row["value"])
                assert row["note"] == f"no {what} with an expert's grade"


def test_a_grade_goes_with_its_vertebra_found_or_missed(
    truth: dict[str, Floats], annotations_of: Callable[..., pd.DataFrame], predictions_of: Callable[..., pd.DataFrame]
) -> None:
    marks = annotations_of(truth["mild"]).assign(grade=[3, None, 1])
    rows = tables.MATCHES.frame(match_table(marks, predictions_of(truth["mild"][:2]), **HOW))
    assert rows.set_index("target")["grade_target"].fillna(-1).to_dict() == {1: 3, 2: -1, 3: 1}
    assert rows.set_index("target")["vertebra"].isna().to_dict() == {1: False, 2: False, 3: True}
