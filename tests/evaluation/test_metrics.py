"""Laws of the metrics: known errors give known numbers, and what is undefined says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from vertfrac import tables
from vertfrac.evaluation.metrics import metric_rows
from vertfrac.evaluation.score import curve_errors, match_table
from vertfrac.geometry.spine import annotated_spine

Floats = NDArray[np.float64]
LIMITS = {"smallest_iou": 0.1, "largest_distance_mm": 20.0}
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
            marks = annotations_of(keypoints, case=case)
            rows = match_table(marks, predictions_of(found[case], case=case), **LIMITS)
            matches += [{"case": case, **row} for row in rows]
            track = pd.DataFrame(annotated_spine(keypoints).curve.points_world, columns=["x", "y", "z"])
            curves += [{"case": case, "status": "ok", **row} for row in curve_errors(marks, track)]
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
    for metric in ("centre error", "keypoint error", "error of G", "curve error"):
        assert np.allclose(metrics.loc[[metric], "value"], 0.0, atol=1e-9)


@pytest.mark.parametrize("shift", [(0.0, 3.0, 4.0), (0.0, -1.0, 2.0), (6.0, 0.0, 0.0)])
def test_a_common_shift_is_exactly_the_error(
    truth: dict[str, Floats], score: Score, shift: tuple[float, float, float]
) -> None:
    metrics = score(truth, {case: points + shift for case, points in truth.items()})
    expected = np.linalg.norm(shift)
    assert np.allclose(metrics.loc[["centre error", "keypoint error"], "value"], expected)
    assert np.allclose(metrics.loc[["centre error", "keypoint error"], "std"], 0.0, atol=1e-9)


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
    rows = match_table(annotations_of(truth["mild"]), predictions_of(truth["mild"], status="partial"), **LIMITS)
    assert [row.get("vertebra") for row in rows] == [None] * 3


def test_each_expert_is_scored_alone(
    truth: dict[str, Floats],
    annotations_of: Callable[..., pd.DataFrame],
    predictions_of: Callable[..., pd.DataFrame],
) -> None:
    marks = pd.concat(
        [annotations_of(truth["mild"], expert="a"), annotations_of(truth["mild"] + [0, 3, 4], expert="b")]
    )
    rows = pd.DataFrame(match_table(marks, predictions_of(truth["mild"]), **LIMITS))
    assert rows.groupby("expert")["center_error_mm"].mean().to_dict() == pytest.approx({"a": 0.0, "b": 5.0})


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
