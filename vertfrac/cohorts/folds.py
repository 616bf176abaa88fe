"""Which cases are held out: cross-validation by patient, or the split that was published with a cohort.

No patient is in two folds, and the folds resemble each other in fracture severity.
"""

from __future__ import annotations

import pandas as pd

from vertfrac.errors import CohortError
from vertfrac.genant import grade


def split(cases: pd.DataFrame, *, k: int, repeat: int, seed: int) -> pd.DataFrame:
    """Assign every usable case to the fold that holds it out in one repeat, which depends on no other repeat.

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
    folds = StratifiedKFold(k, shuffle=True, random_state=seed + repeat)
    for fold, (_, held_out) in enumerate(folds.split(patients.index, strata)):
        chosen = usable[usable["patient"].isin(patients.index[held_out])]
        for case, patient in chosen[["case", "patient"]].itertuples(index=False):
            rows.append({"repeat": repeat, "fold": fold, "case": case, "patient": patient, "grade": grades[patient]})
    return pd.DataFrame(rows)


def published_split(cases: pd.DataFrame, *, held_out: str) -> pd.DataFrame:
    """The published split as one fold: it holds out one part and trains on the part ``train``; others are left out.

    cases : table CASES. held_out : validation or test. Returns rows of the table FOLDS, in which the cases to train on
    have no fold. Raises CohortError where either part has no usable case, or a patient is in both.
    """
    usable = cases[cases["status"] == "ok"]
    parts = {part: usable[usable["split"] == part] for part in ("train", held_out)}
    for part, rows in parts.items():
        if rows.empty:
            found = ", ".join(sorted(set(usable["split"].fillna("")) - {""})) or "no split at all"
            raise CohortError(f"folds.split is published, but no usable case is of the part {part} (found {found})")
    shared = sorted(set(parts["train"]["patient"]) & set(parts[held_out]["patient"]))
    if shared:
        raise CohortError(f"patient {shared[0]} is in the parts train and {held_out}, expected in one of them")
    return pd.DataFrame(
        {
            "repeat": 0,
            "fold": None if part == "train" else 0,
            "case": case,
            "patient": patient,
            "grade": int(grade(smallest)),
        }
        for part, rows in parts.items()
        for case, patient, smallest in rows[["case", "patient", "smallest_genant"]].itertuples(index=False)
    )


def training_cases(folds: pd.DataFrame, repeat: int, fold: int) -> set[str]:
    """Cases that a fold trains on."""
    return set(folds.loc[(folds["repeat"] == repeat) & (folds["fold"].fillna(-1) != fold), "case"])


def held_out_cases(folds: pd.DataFrame, repeat: int, fold: int) -> set[str]:
    """Cases that a fold holds out."""
    return set(folds.loc[(folds["repeat"] == repeat) & (folds["fold"].fillna(-1) == fold), "case"])
