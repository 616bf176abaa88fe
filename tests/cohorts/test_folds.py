"""Laws of the split: each case once per repeat, patients whole, severities spread, the seed decides."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from vertfrac import tables
from vertfrac.cohorts.folds import held_out_cases, published_split, split, training_cases
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


def _repeated(cohort: pd.DataFrame, *, k: int, repeats: int, seed: int) -> pd.DataFrame:
    return pd.concat([split(cohort, k=k, repeat=repeat, seed=seed) for repeat in range(repeats)], ignore_index=True)


@pytest.mark.parametrize("k", [2, 5])
def test_every_usable_case_is_held_out_once_per_repeat(k: int) -> None:
    cohort = _cohort()
    folds = _repeated(cohort, k=k, repeats=3, seed=1)
    usable = sorted(cohort.loc[cohort["status"] == "ok", "case"])
    for repeat in range(3):
        assert sorted(folds.loc[folds["repeat"] == repeat, "case"]) == usable


def test_no_patient_is_in_two_folds() -> None:
    folds = _repeated(_cohort(), k=5, repeats=3, seed=1)
    assert (folds.groupby(["repeat", "patient"])["fold"].nunique() == 1).all()


def test_training_and_held_out_cases_are_the_cohort_without_overlap() -> None:
    cohort = _cohort()
    folds = tables.FOLDS.frame(_repeated(cohort, k=4, repeats=2, seed=1))
    for fold in range(4):
        train, held = training_cases(folds, 1, fold), held_out_cases(folds, 1, fold)
        assert not train & held
        assert train | held == set(cohort.loc[cohort["status"] == "ok", "case"])


def test_folds_have_nearly_equal_numbers_of_each_grade() -> None:
    folds = _repeated(_cohort(100), k=5, repeats=2, seed=1).drop_duplicates(["repeat", "patient"])
    counts = folds.groupby(["repeat", "fold", "grade"]).size().unstack(fill_value=0)
    for _, repeat in counts.groupby(level=0):
        assert ((repeat.max() - repeat.min()) <= 1).all()


def test_a_grade_too_rare_to_spread_does_no_harm() -> None:
    cohort = _cohort(20)
    cohort["smallest_genant"] = 0.95
    cohort.loc[cohort["patient"] == "p3", "smallest_genant"] = 0.5
    folds = split(cohort, k=5, repeat=0, seed=1)
    assert folds["fold"].nunique() == 5


def test_the_grade_is_that_of_the_patients_worst_scan() -> None:
    cohort = _cohort()
    folds = split(cohort, k=2, repeat=0, seed=1)
    worst = cohort[cohort["status"] == "ok"].groupby("patient")["smallest_genant"].min()
    severe = set(worst[worst <= 0.6].index)
    assert set(folds.loc[folds["grade"] == 3, "patient"]) == severe


def test_the_same_seed_gives_the_same_split() -> None:
    first, second = (_repeated(_cohort(), k=5, repeats=2, seed=1) for _ in range(2))
    assert first.equals(second)


@pytest.mark.parametrize("other", ["seed", "repeat"])
def test_another_seed_and_another_repeat_split_differently(other: str) -> None:
    one = _repeated(_cohort(), k=5, repeats=2, seed=1)
    two = _repeated(_cohort(), k=5, repeats=2, seed=7)
    first = one[one["repeat"] == 0].set_index("case")["fold"]
    second = (two[two["repeat"] == 0] if other == "seed" else one[one["repeat"] == 1]).set_index("case")["fold"]
    assert not first.equals(second.reindex(first.index))


def test_the_order_of_cases_does_not_matter() -> None:
    cohort = _cohort()
    first, second = (
        split(table, k=5, repeat=0, seed=1).set_index("case")["fold"].sort_index() for table in (cohort, cohort[::-1])
    )
    assert first.equals(second)


def test_more_folds_than_patients_are_refused() -> None:
    with pytest.raises(CohortError, match="at most the 4 usable patients"):
        split(_cohort(4), k=5, repeat=0, seed=1)


def test_as_many_folds_as_patients_leave_one_out() -> None:
    folds = split(_cohort(5), k=5, repeat=0, seed=1)
    assert folds.groupby("fold")["patient"].nunique().tolist() == [1] * 5


def _published(*parts: str) -> pd.DataFrame:
    """Two patients in each part, one of them with two scans, and one broken scan in the first part."""
    rows = [
        {
            "case": f"{part}-{p}-{s}",
            "patient": f"{part}-{p}",
            "split": part,
            "status": "ok",
            "smallest_genant": 0.9 - 0.2 * p,
        }
        for part in parts
        for p, scans in ((0, 1), (1, 2))
        for s in range(scans)
    ]
    rows.append({"case": "broken", "patient": "broken", "split": parts[0], "status": "failed"})
    return tables.CASES.frame(rows)


@pytest.mark.parametrize(("held_out", "other"), [("test", "validation"), ("validation", "test")])
def test_the_published_split_trains_on_one_part_and_holds_out_another(held_out: str, other: str) -> None:
    cohort = _published("train", "validation", "test")
    folds = tables.FOLDS.frame(published_split(cohort, held_out=held_out))
    parts = {
        part: set(cohort.loc[(cohort["split"] == part) & (cohort["status"] == "ok"), "case"])
        for part in cohort["split"]
    }
    assert training_cases(folds, 0, 0) == parts["train"]
    assert held_out_cases(folds, 0, 0) == parts[held_out]
    assert not set(folds["case"]) & (parts[other] | {"broken"})
    assert folds.loc[folds["fold"].isna(), "case"].isin(parts["train"]).all()


def test_the_published_split_keeps_patients_and_grades(tmp_path: Path) -> None:
    folds = tables.write_table(
        tmp_path / "folds.parquet", tables.FOLDS, published_split(_published("train", "test"), held_out="test")
    )
    assert (folds.groupby("patient")["fold"].nunique(dropna=False) == 1).all()
    assert folds.set_index("case").loc["test-1-0", ["patient", "grade"]].tolist() == ["test-1", 2]
    assert set(folds["repeat"]) == {0}


def test_a_patient_in_two_parts_is_refused() -> None:
    cohort = _published("train", "test")
    cohort.loc[cohort["case"] == "test-1-1", "patient"] = "train-0"
    with pytest.raises(CohortError, match="patient train-0 is in the parts train and test, expected in one"):
        published_split(cohort, held_out="test")


def test_a_patient_in_the_part_that_takes_no_part_does_no_harm() -> None:
    cohort = _published("train", "validation", "test")
    cohort.loc[cohort["case"] == "validation-1-1", "patient"] = "train-0"
    assert len(published_split(cohort, held_out="test")) == 6


@pytest.mark.parametrize(
    ("parts", "held_out", "words"),
    [
        (("train", "validation"), "test", r"no usable case is of the part test \(found train, validation\)"),
        (("test",), "test", r"no usable case is of the part train \(found test\)"),
        (("",), "test", r"no usable case is of the part train \(found no split at all\)"),
    ],
)
def test_an_empty_part_is_refused(parts: tuple[str, ...], held_out: str, words: str) -> None:
    with pytest.raises(CohortError, match=words):
        published_split(_published(*parts), held_out=held_out)


def test_a_part_whose_cases_all_failed_is_empty() -> None:
    cohort = _published("train", "test")
    cohort.loc[cohort["split"] == "test", "status"] = "failed"
    with pytest.raises(CohortError, match="no usable case is of the part test"):
        published_split(cohort, held_out="test")
