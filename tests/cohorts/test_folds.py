"""Laws of the split: each case once per repeat, patients whole, severities spread, the seed decides."""

import numpy as np
import pandas as pd
import pytest

from vertfrac import tables
from vertfrac.cohorts.folds import held_out_cases, split, training_cases
from vertfrac.errors import CohortError


def _cohort(patients: int = 40, seed: int = 0) -> pd.DataFrame:
    """Patients with one to three scans each, and one scan that cannot be used."""
    rng = np.random.default_rng(seed)
    rows = [
        {"case": f"p{p}-s{s}", "patient": f"p{p}", "status": "ok", "smallest_genant": float(rng.uniform(0.4, 1.0))}
        for p in range(patients)
        for s in range(int(rng.integers(1, 4)))
    ]
    rows.append({"case": "broken", "patient": "p0", "status": "failed"})
    return tables.CASES.frame(rows)


@pytest.mark.parametrize("k", [2, 5])
def test_every_usable_case_is_held_out_once_per_repeat(k: int) -> None:
    cohort = _cohort()
    folds = split(cohort, k=k, repeats=3, seed=1)
    usable = sorted(cohort.loc[cohort["status"] == "ok", "case"])
    for repeat in range(3):
        assert sorted(folds.loc[folds["repeat"] == repeat, "case"]) == usable


def test_no_patient_is_in_two_folds() -> None:
    folds = split(_cohort(), k=5, repeats=3, seed=1)
    assert (folds.groupby(["repeat", "patient"])["fold"].nunique() == 1).all()


def test_training_and_held_out_cases_are_the_cohort_without_overlap() -> None:
    cohort = _cohort()
    folds = tables.FOLDS.frame(split(cohort, k=4, repeats=2, seed=1))
    for fold in range(4):
        train, held = training_cases(folds, 1, fold), held_out_cases(folds, 1, fold)
        assert not train & held
        assert train | held == set(cohort.loc[cohort["status"] == "ok", "case"])


def test_folds_have_nearly_equal_numbers_of_each_grade() -> None:
    folds = split(_cohort(100), k=5, repeats=2, seed=1).drop_duplicates(["repeat", "patient"])
    counts = folds.groupby(["repeat", "fold", "grade"]).size().unstack(fill_value=0)
    for _, repeat in counts.groupby(level=0):
        assert ((repeat.max() - repeat.min()) <= 1).all()


def test_a_grade_too_rare_to_spread_does_no_harm() -> None:
    cohort = _cohort(20)
    cohort["smallest_genant"] = 0.95
    cohort.loc[cohort["patient"] == "p3", "smallest_genant"] = 0.5
    folds = split(cohort, k=5, repeats=1, seed=1)
    assert folds["fold"].nunique() == 5


def test_the_grade_is_that_of_the_patients_worst_scan() -> None:
    cohort = _cohort()
    folds = split(cohort, k=2, repeats=1, seed=1)
    worst = cohort[cohort["status"] == "ok"].groupby("patient")["smallest_genant"].min()
    severe = set(worst[worst <= 0.6].index)
    assert set(folds.loc[folds["grade"] == 3, "patient"]) == severe


def test_the_same_seed_gives_the_same_split() -> None:
    first, second = (split(_cohort(), k=5, repeats=2, seed=1) for _ in range(2))
    assert first.equals(second)


@pytest.mark.parametrize("other", ["seed", "repeat"])
def test_another_seed_and_another_repeat_split_differently(other: str) -> None:
    one = split(_cohort(), k=5, repeats=2, seed=1)
    two = split(_cohort(), k=5, repeats=2, seed=7)
    first = one[one["repeat"] == 0].set_index("case")["fold"]
    second = (two[two["repeat"] == 0] if other == "seed" else one[one["repeat"] == 1]).set_index("case")["fold"]
    assert not first.equals(second.reindex(first.index))


def test_the_order_of_cases_does_not_matter() -> None:
    cohort = _cohort()
    first, second = (
        split(table, k=5, repeats=1, seed=1).set_index("case")["fold"].sort_index() for table in (cohort, cohort[::-1])
    )
    assert first.equals(second)


def test_more_folds_than_patients_are_refused() -> None:
    with pytest.raises(CohortError, match="at most the 4 usable patients"):
        split(_cohort(4), k=5, repeats=1, seed=1)


def test_as_many_folds_as_patients_leave_one_out() -> None:
    folds = split(_cohort(5), k=5, repeats=1, seed=1)
    assert folds.groupby("fold")["patient"].nunique().tolist() == [1] * 5
