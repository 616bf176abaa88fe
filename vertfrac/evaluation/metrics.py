"""Metrics of a set of scored cases, in long form: one row per metric, level and subset, with its n."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd

FRACTURED = 0.74
"""A vertebra with G at or below it counts as fractured (moderate or severe)."""


def metric_rows(matches: pd.DataFrame, curves: pd.DataFrame) -> list[dict[str, Any]]:
    """All metrics of one set of held-out cases (table METRICS without its run columns).

    matches : rows of MATCHES. curves : rows of CURVE_ERRORS, one per case and expert, whatever the case's status.
    A metric that is undefined is a row without a value and with the reason in ``note``.
    """
    return [*_stage_one(curves), *_localisation(matches), *_detection(matches, curves), *_grading(matches)]


def _row(metric: str, level: str, subset: str, value: float, n: int, unit: str = "", **more: Any) -> dict[str, Any]:
    row = {"metric": metric, "level": level, "subset": subset, "value": value, "std": np.nan, "n": n, "unit": unit}
    return {**row, "note": "", **more}


def _undefined(metric: str, level: str, subset: str, n: int, why: str) -> dict[str, Any]:
    return _row(metric, level, subset, np.nan, n, note=why)


def _mean(metric: str, level: str, subset: str, values: pd.Series, unit: str = "mm") -> dict[str, Any]:
    known = values.dropna().to_numpy(dtype=np.float64)
    if not len(known):
        return _undefined(metric, level, subset, 0, "nothing to average")
    return _row(metric, level, subset, float(known.mean()), len(known), unit, std=float(known.std()))


def _stage_one(curves: pd.DataFrame) -> Iterator[dict[str, Any]]:
    yield _mean("curve error", "scan", "all", curves["curve_error_mm"])
    yield _mean("limits error", "scan", "all", curves["limits_error_mm"])
    failed = curves.drop_duplicates("case")
    yield _row("scans without a curve", "scan", "all", float((failed["status"] != "ok").sum()), len(failed))


def _subsets(matches: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    yield "all", matches
    yield f"G <= {FRACTURED}", matches[matches["genant_target"] <= FRACTURED]


def _localisation(matches: pd.DataFrame) -> Iterator[dict[str, Any]]:
    for subset, rows in _subsets(matches):
        yield _mean("centre error", "vertebra", subset, rows["center_error_mm"])
        yield _mean("keypoint error", "vertebra", subset, rows["keypoint_error_mm"])


def _detection(matches: pd.DataFrame, curves: pd.DataFrame) -> Iterator[dict[str, Any]]:
    target, predicted = matches["target"].notna(), matches["vertebra"].notna()
    hit = target & predicted
    for subset, rows in _subsets(matches):
        wanted = rows["target"].notna()
        yield _share("recall", "vertebra", subset, int((wanted & rows["vertebra"].notna()).sum()), int(wanted.sum()))
    yield _share("precision", "vertebra", "all", int(hit.sum()), int(predicted.sum()))
    counts = pd.DataFrame({"case": matches["case"], "target": target, "predicted": predicted, "hit": hit})
    per_case = counts.groupby("case")[["target", "predicted", "hit"]].sum()
    per_case = per_case.reindex(sorted(set(curves["case"]) | set(per_case.index)), fill_value=0)
    for metric, base in (("recall", "target"), ("precision", "predicted")):
        cases = per_case[per_case[base] > 0]
        yield _mean(metric, "patient", "all", cases["hit"] / cases[base], unit="")


def _share(metric: str, level: str, subset: str, part: int, whole: int) -> dict[str, Any]:
    if whole == 0:
        return _undefined(metric, level, subset, 0, "nothing to count")
    return _row(metric, level, subset, part / whole, whole)


def _grading(matches: pd.DataFrame) -> Iterator[dict[str, Any]]:
    pairs = matches[matches["target"].notna() & matches["vertebra"].notna()]
    truth, found = (pairs[name].to_numpy(dtype=np.float64) for name in ("genant_target", "genant"))
    yield _mean("error of G", "vertebra", "all", pd.Series(np.abs(truth - found)), unit="")
    yield _correlation("vertebra", truth, found)
    targets = matches[matches["target"].notna()].groupby("case")["genant_target"].min()
    predictions = matches[matches["vertebra"].notna()].groupby("case")["genant"].min()
    predictions = predictions.reindex(targets.index)
    both = pd.DataFrame({"target": targets, "found": predictions}).dropna()
    patient_truth, patient_found = both["target"].to_numpy(), both["found"].to_numpy()
    yield _correlation("patient", patient_truth, patient_found)
    for level, g_truth, g_found in (("vertebra", truth, found), ("patient", *_per_patient(targets, predictions))):
        for limit in (0.8, FRACTURED):
            yield from _classification(level, f"G <= {limit}", g_truth, g_found, limit)


def _per_patient(targets: pd.Series, predictions: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Smallest G of every annotated patient, annotated and predicted; 1 where nothing was measured."""
    return targets.to_numpy(dtype=np.float64), predictions.astype("float64").fillna(1.0).to_numpy()


def _correlation(level: str, truth: np.ndarray, found: np.ndarray) -> dict[str, Any]:
    if len(truth) < 3 or np.ptp(truth) == 0 or np.ptp(found) == 0:
        return _undefined("correlation of G", level, "all", len(truth), "needs three different values")
    return _row("correlation of G", level, "all", float(np.corrcoef(truth, found)[0, 1]), len(truth))


def _classification(
    level: str, subset: str, truth: np.ndarray, found: np.ndarray, limit: float
) -> Iterator[dict[str, Any]]:
    """ROC AUC, sensitivity and specificity of "G at or below the limit" over matched vertebrae or over patients."""
    from sklearn.metrics import recall_score, roc_auc_score

    positive = truth <= limit
    scores: dict[str, Callable[[], float]] = {
        "ROC AUC": lambda: roc_auc_score(positive, -found),
        "sensitivity": lambda: recall_score(positive, found <= limit),
        "specificity": lambda: recall_score(~positive, found > limit),
    }
    for metric, compute in scores.items():
        needs = {"sensitivity": positive.sum(), "specificity": (~positive).sum()}.get(
            metric, min(positive.sum(), (~positive).sum())
        )
        if needs == 0:
            yield _undefined(metric, level, subset, len(truth), "no positive or no negative to tell apart")
        else:
            yield _row(metric, level, subset, float(compute()), len(truth), note=f"{int(positive.sum())} positive")
