"""Laws of the bootstrap: the intervals are those of plain resampling, and of the patients, not the vertebrae."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vertfrac.evaluation.bootstrap import intervals, mean_over_repeats, patients_of
from vertfrac.evaluation.metrics import Measure

Floats = NDArray[np.float64]


def _measure(patients: Any, x: Any, y: Any = None, statistic: Any = "mean", why: str = "") -> Measure:
    x = np.asarray(x, dtype=np.float64)
    names = np.array([f"p{patient:03d}" for patient in patients], dtype=object)
    return Measure("m", "vertebra", "all", "", statistic, names, x, x if y is None else np.asarray(y), False, why)


def _low_and_high(*measures: Measure, resamples: int = 4000, seed: int = 0) -> tuple[float, float]:
    low, high = intervals([[measure] for measure in measures], resamples=resamples, seed=seed)
    return float(low[0]), float(high[0])


def test_the_interval_is_that_of_scipy() -> None:
    from scipy.stats import bootstrap

    rng = np.random.default_rng(7)
    x = rng.normal(size=60)
    y = x + rng.normal(size=60)
    expected = bootstrap(
        (x, y), lambda a, b: np.corrcoef(a, b)[0, 1], paired=True, vectorized=False, n_resamples=4000,
        method="percentile", random_state=0,
    ).confidence_interval  # fmt: skip
    assert _low_and_high(_measure(range(60), x, y, "correlation")) == pytest.approx(tuple(expected), abs=0.02)


def test_the_interval_of_a_mean_is_that_of_a_normal_distribution() -> None:
    x = np.random.default_rng(0).normal(size=400)
    low, high = _low_and_high(_measure(range(400), x))
    half = 1.96 * x.std() / 20
    assert (low, high) == pytest.approx((x.mean() - half, x.mean() + half), abs=0.1 * half)


def test_rows_of_one_patient_bring_no_certainty() -> None:
    """Ten equal rows of each patient say no more than one."""
    x = np.random.default_rng(1).normal(size=50)
    once, often = (_measure(np.repeat(range(50), k), np.repeat(x, k)) for k in (1, 10))
    assert _low_and_high(often) == pytest.approx(_low_and_high(once))


def test_equal_repeats_have_the_interval_of_one() -> None:
    """The same patients are drawn in every repeat, so repeating a run does not narrow the interval."""
    measure = _measure(range(30), np.random.default_rng(2).normal(size=30))
    assert _low_and_high(measure, measure, measure) == pytest.approx(_low_and_high(measure))


def test_opposite_repeats_cancel() -> None:
    x = np.random.default_rng(3).normal(size=30)
    assert _low_and_high(_measure(range(30), x), _measure(range(30), -x)) == pytest.approx((0.0, 0.0))


def test_resamples_without_a_class_are_left_out() -> None:
    """One positive patient of ten: many resamples miss it, and the rest keeps the interval."""
    x = np.array([1.0, *[0.0] * 9])
    low, high = _low_and_high(_measure(range(10), x, y=np.arange(10.0)[::-1], statistic="auc"))
    assert (low, high) == (1.0, 1.0)


def test_what_is_undefined_has_no_interval() -> None:
    assert np.isnan(_low_and_high(_measure([], [], why="nothing"))).all()


def test_an_undefined_repeat_is_left_out() -> None:
    measure = _measure(range(30), np.random.default_rng(4).normal(size=30))
    assert _low_and_high(measure, _measure([], [], why="nothing")) == pytest.approx(_low_and_high(measure))


def test_one_patient_has_no_interval() -> None:
    assert np.isnan(_low_and_high(_measure([0, 0, 0], [1, 2, 3]))).all()


def test_the_seed_decides() -> None:
    measure = _measure(range(20), np.random.default_rng(5).normal(size=20))
    assert _low_and_high(measure, seed=1) == _low_and_high(measure, seed=1)
    assert _low_and_high(measure, seed=1) != _low_and_high(measure, seed=2)


def test_patients_that_occur_in_one_repeat_only_are_drawn_too() -> None:
    repeats = [[_measure([0, 1], [1.0, 2.0])], [_measure([1, 2], [3.0, 5.0])]]
    units = patients_of(repeats)
    assert units.tolist() == ["p000", "p001", "p002"]
    assert mean_over_repeats(repeats, np.ones(3), units) == pytest.approx([(1.5 + 4.0) / 2])
    assert mean_over_repeats(repeats, np.array([2.0, 1.0, 0.0]), units) == pytest.approx([(4 / 3 + 3.0) / 2])
