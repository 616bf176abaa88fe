"""Cross-validation by patient: no patient is in two folds, and the folds resemble each other in fracture severity."""

from __future__ import annotations

import pandas as pd

from vertfrac.errors import CohortError
from vertfrac.genant import grade


def split(cases: pd.DataFrame, *, k: int, repeats: int, seed: int) -> pd.DataFrame:
    """Assign every usable case to the fold that holds it out, once per repeat.

    cases : table CASES. Stratified by the worst Genant grade of the patient. Returns rows of the table FOLDS; raises
    CohortError when there are more folds than patients.
    """
    from sklearn.model_selection import StratifiedKFold

    usable = cases[cases["status"] == "ok"]
    patients = usable.groupby("patient", sort=True)["smallest_genant"].min()
    if k > len(patients):
        raise CohortError(f"folds.k is {k}, expected at most the {len(patients)} usable patients of the cohort")
    grades = pd.Series(grade(patients.to_numpy()), index=patients.index)
    count = grades.value_counts()
    strata = grades.where(
        grades.map(count) >= k, count.idxmax()
    )  # a grade with fewer patients than folds cannot be spread
    rows = []
    for repeat in range(repeats):
        folds = StratifiedKFold(k, shuffle=True, random_state=seed + repeat)
        for fold, (_, held_out) in enumerate(folds.split(patients.index, strata)):
            chosen = patients.index[held_out]
            for case, patient in usable.loc[usable["patient"].isin(chosen), ["case", "patient"]].itertuples(
                index=False
            ):
                rows.append(
                    {"repeat": repeat, "fold": fold, "case": case, "patient": patient, "grade": grades[patient]}
                )
    return pd.DataFrame(rows)


def training_cases(folds: pd.DataFrame, repeat: int, fold: int) -> set[str]:
    """Cases that a fold trains on."""
    return set(folds.loc[(folds["repeat"] == repeat) & (folds["fold"] != fold), "case"])


def held_out_cases(folds: pd.DataFrame, repeat: int, fold: int) -> set[str]:
    """Cases that a fold holds out."""
    return set(folds.loc[(folds["repeat"] == repeat) & (folds["fold"] == fold), "case"])
