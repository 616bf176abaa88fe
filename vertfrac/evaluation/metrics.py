"""Metrics of scored cases: each is one of five statistics over rows that belong to patients.

A :class:`Measure` holds the rows of one metric; its value follows from one weight per patient. Weights of 1 give the
metric itself, the counts of a resample of the patients give a bootstrap replicate: both take the same path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from vertfrac.evaluation.levels import columns, named_pairs
from vertfrac.genant import GRADE_LIMITS, grade

Floats = NDArray[np.float64]
Statistic = Literal["mean", "correlation", "kappa", "auc", "calibration"]

MILD, FRACTURED = GRADE_LIMITS[:2]
"""G at or below the first is at least mild; at or below the second, moderate or severe: it counts as fractured."""

ALL, BELOW_MILD, BELOW_FRACTURED = "all", f"G <= {MILD}", f"G <= {FRACTURED}"
NORMAL_OR_FRACTURED = "G0 vs G2-G3"
GRADED_FRACTURED, GRADED_NORMAL_OR_FRACTURED = "grade >= 2", "grade 0 vs 2-3"
"""Subsets by the expert's own grade, which may disagree with the G of the annotation."""

ANCHORED = "anchored"
"""Subset of the scans that show where levels can be counted from; see `levels.anchored_cases`."""

BINS = 10
"""Of the calibration error: intervals of the probability, equally wide."""


@dataclass(frozen=True, eq=False)
class Measure:
    """One metric of one set of cases.

    patients : (rows,), whose row it is. x, y : (rows,), by ``statistic``: "mean" averages x; "correlation" is Pearson's
    of x and y; "kappa" is Cohen's with quadratic weights of the grades x and y; "auc" is the area under the ROC curve
    of the score y for the classes x (0 or 1); "calibration" is the expected calibration error of the probability y of
    the event x (Guo et al. 2017): its mean distance to the share of events, over BINS equal intervals. spread :
    whether the standard deviation of the rows means something. why : the reason if the metric is undefined, else empty.
    note : what else to know about a defined one.
    """

    metric: str
    level: str
    subset: str
    unit: str
    statistic: Statistic
    patients: NDArray[np.object_]
    x: Floats
    y: Floats
    spread: bool
    why: str
    note: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        """What is measured: metric, level and subset."""
        return self.metric, self.level, self.subset

    @property
    def n(self) -> int:
        """Number of rows counted."""
        return len(self.x)

    @property
    def value(self) -> float:
        """The metric itself; NaN where it is undefined, for the reason ``why``."""
        units = np.unique(self.patients)
        return float(self.values(np.ones(len(units)), units))

    @property
    def std(self) -> float:
        """Standard deviation over the rows, for means of errors; else NaN."""
        return float(self.x.std()) if self.spread and not self.why else np.nan

    def values(self, weights: Floats, units: NDArray[np.object_]) -> Floats:
        """The metric if each patient counted as often as its weight says.

        weights : (..., patients), for the sorted patients ``units``, which may hold others than the measure's own.
        Returns (...), NaN where the weights leave the metric undefined.
        """
        if self.why:
            return np.full(weights.shape[:-1], np.nan)
        own, _ = self._by_patient
        return _FORMULAS[self.statistic](weights[..., np.searchsorted(units, own)], self)

    @cached_property
    def _by_patient(self) -> tuple[NDArray[np.object_], NDArray[np.intp]]:
        """The measure's own patients, sorted, and the index of each row's patient among them."""
        own, index = np.unique(self.patients, return_inverse=True)
        return own, index

    @cached_property
    def sums(self) -> Floats:
        """Per patient: rows, and sums of x, y, xx, yy, xy after subtraction of the means; (patients, 6)."""
        own, index = self._by_patient
        x, y = self.x - self.x.mean(), self.y - self.y.mean()
        columns = (np.ones_like(x), x, y, x * x, y * y, x * y)
        return np.column_stack([np.bincount(index, values, len(own)) for values in columns])

    @cached_property
    def concordance(self) -> Floats:
        """Per pair of patients: pairs of a positive row of the first and a negative row of the second in which the
        positive one has the higher score, ties counting half; (patients, patients)."""
        own, index = self._by_patient
        positive = self.x > 0
        scores, whose = self.y[positive], index[positive]
        counts = np.zeros((len(own), len(own)))
        for other in np.unique(index[~positive]):
            negatives = np.sort(self.y[~positive & (index == other)])
            below = (np.searchsorted(negatives, scores, "left") + np.searchsorted(negatives, scores, "right")) / 2
            counts[:, other] = np.bincount(whose, below, len(own))
        return counts

    @cached_property
    def classes(self) -> Floats:
        """Positive and negative rows per patient, (patients, 2)."""
        own, index = self._by_patient
        return np.column_stack([np.bincount(index, side, len(own)) for side in (self.x > 0, self.x <= 0)])

    @cached_property
    def bins(self) -> Floats:
        """Per patient and interval of the probability y: rows, and sums of x - y; (patients, 2, BINS)."""
        own, index = self._by_patient
        interval = np.clip((self.y * BINS).astype(np.intp), 0, BINS - 1)
        sums = np.zeros((len(own), 2, BINS))
        np.add.at(sums[:, 0], (index, interval), 1.0)
        np.add.at(sums[:, 1], (index, interval), self.x - self.y)
        return sums


def _ratio(part: Floats, whole: Floats, smallest: float = 0.0) -> Floats:
    """part / whole; NaN where whole is not above ``smallest``."""
    part, whole = np.asarray(part), np.asarray(whole)
    ratio: Floats = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > smallest)
    return ratio


def _mean(weights: Floats, measure: Measure) -> Floats:
    sums = weights @ measure.sums[:, :2]
    mean: Floats = _ratio(sums[..., 1], sums[..., 0]) + measure.x.mean()
    return mean


def _moments(weights: Floats, measure: Measure) -> tuple[Floats, Floats, Floats, Floats]:
    """Variance of x and of y, covariance, and the difference of the means (of y and x)."""
    sums = weights @ measure.sums
    x, y, xx, yy, xy = (_ratio(sums[..., k], sums[..., 0]) for k in range(1, 6))
    return xx - x * x, yy - y * y, xy - x * y, y - x + (measure.y.mean() - measure.x.mean())


def _correlation(weights: Floats, measure: Measure) -> Floats:
    var_x, var_y, covariance, _ = _moments(weights, measure)
    rounding = 1e-12 * float(measure.x.var() * measure.y.var())
    return _ratio(covariance, np.sqrt(np.maximum(var_x * var_y, 0.0)), np.sqrt(rounding))


def _kappa(weights: Floats, measure: Measure) -> Floats:
    """1 - (mean square difference) / (that of independent raters), which is 2 cov / (var + var + difference^2)."""
    var_x, var_y, covariance, shift = _moments(weights, measure)
    return _ratio(2 * covariance, var_x + var_y + shift**2, 1e-12)


def _auc(weights: Floats, measure: Measure) -> Floats:
    ordered = ((weights @ measure.concordance) * weights).sum(axis=-1)
    return _ratio(ordered, (weights @ measure.classes).prod(axis=-1))


def _calibration(weights: Floats, measure: Measure) -> Floats:
    sums = np.tensordot(weights, measure.bins, axes=1)
    return _ratio(np.abs(sums[..., 1, :]).sum(axis=-1), sums[..., 0, :].sum(axis=-1))


_FORMULAS: dict[Statistic, Callable[[Floats, Measure], Floats]] = {
    "mean": _mean, "correlation": _correlation, "kappa": _kappa, "auc": _auc, "calibration": _calibration,
}  # fmt: skip


def metric_rows(matches: pd.DataFrame, curves: pd.DataFrame) -> list[dict[str, Any]]:
    """All metrics of one set of held-out cases (table METRICS without its run columns); see :func:`measures`."""
    return [row_of(measure) for measure in measures(matches, curves)]


def row_of(measure: Measure) -> dict[str, Any]:
    """One metric as a row of METRICS without its run columns."""
    return {
        "metric": measure.metric,
        "level": measure.level,
        "subset": measure.subset,
        "value": measure.value,
        "std": measure.std,
        "n": measure.n,
        "unit": measure.unit,
        "note": measure.why or measure.note,
    }


def measures(matches: pd.DataFrame, curves: pd.DataFrame) -> list[Measure]:
    """All metrics of one set of held-out cases, always the same ones in the same order.

    matches : rows of MATCHES of one system and repeat. curves : its rows of CURVE_ERRORS. The rows of all experts are
    pooled: at vertebra level a row is a vertebra as one expert annotated it, at patient level a patient as one expert
    did. A metric that is undefined is a measure that says why.
    """
    frame = matches.assign(rater=matches["rater"].fillna(""))
    return [
        *_stage_one(curves),
        *_localisation(frame),
        *_detection(frame),
        *_any_expert(frame),
        *_agreement(frame),
        *_fractures(frame),
        *_graded_fractures(frame),
        *_levels(frame),
    ]


def _measure(
    name: tuple[str, str, str],
    rows: pd.DataFrame,
    x: ArrayLike,
    *,
    y: ArrayLike | None = None,
    unit: str = "",
    statistic: Statistic = "mean",
    spread: bool = False,
    empty: str,
    note: str = "",
) -> Measure:
    """A measure over the rows, whose patients are in a column; without any row it is undefined for the reason empty."""
    first = np.asarray(x, dtype=np.float64)
    second = first if y is None else np.asarray(y, dtype=np.float64)
    if not len(first):
        why = empty
    elif statistic == "auc" and not 0 < (first > 0).sum() < len(first):
        why = "no positive" if not (first > 0).any() else "no negative"
    elif statistic == "correlation" and len(first) < 3:
        why = f"{len(first)} pairs, expected at least 3"
    elif statistic == "correlation" and (np.ptp(first) == 0 or np.ptp(second) == 0):
        why = "all values are equal"
    elif statistic == "kappa" and np.ptp(first) == np.ptp(second) == 0 and first[0] == second[0]:
        why = "all have one grade"
    else:
        why = ""
    patients = rows["patient"].to_numpy(dtype=object)
    return Measure(*name, unit, statistic, patients, first, second, spread, why, note)


def _known(name: tuple[str, str, str], rows: pd.DataFrame, column: str, empty: str, unit: str = "mm") -> Measure:
    """The mean of a column of errors over the rows that have one."""
    known = rows[rows[column].notna()]
    return _measure(name, known, known[column], unit=unit, spread=True, empty=empty)


NOT_GIVEN = "not_given"
"""Status of a case in CURVE_ERRORS if the system offers no curves at all."""


def _stage_one(curves: pd.DataFrame) -> Iterator[Measure]:
    reasons = "; ".join(sorted(set(curves["reason"].dropna()) - {""}))
    for name, column in (("curve error", "curve_error_mm"), ("limits error", "limits_error_mm")):
        yield _known((name, "scan", ALL), curves, column, reasons or "no curve")
    scans = curves[curves["status"] != NOT_GIVEN].drop_duplicates("case")
    empty = reasons or "no scan"
    yield _measure(("scans without a curve", "scan", ALL), scans, scans["status"] != "ok", empty=empty)


def _localisation(matches: pd.DataFrame) -> Iterator[Measure]:
    found = matches[matches["vertebra"].notna()]
    pairs = found[found["target"].notna()]
    for name, column, rows, genant, empty in (
        ("localisation", "nearest_mm", found, "nearest_genant", "no prediction"),
        ("centre error", "center_error_mm", pairs, "genant_target", "no matched pair"),
        ("keypoint error", "keypoint_error_mm", pairs, "genant_target", "no matched pair"),
    ):
        yield _known((name, "vertebra", ALL), rows, column, empty)
        fractured = rows[rows[genant] <= FRACTURED]
        yield _known((name, "vertebra", BELOW_FRACTURED), fractured, column, f"{empty} with {BELOW_FRACTURED}")


def _any_expert(matches: pd.DataFrame) -> Iterator[Measure]:
    """Each prediction against all experts at once: the closest vertebra that any of them marked, and whether it exists.

    So are the localisation and the precision of Pisov et al. 2020, table 1, for several experts a study, as far as the
    published annotations tell. With one expert they are localisation and precision.
    """
    found = matches[matches["vertebra"].notna()].sort_values("nearest_mm", kind="stable")
    found = found.assign(hit=found["target"].notna())
    closest = found.groupby(["patient", "case", "rater", "vertebra"], sort=False).agg(
        {"nearest_mm": "first", "nearest_genant": "first", "hit": "any"}
    )
    closest = closest.reset_index()
    fractured = closest[closest["nearest_genant"] <= FRACTURED]
    for subset, rows in ((ALL, closest), (BELOW_FRACTURED, fractured)):
        yield _known(("localisation to any expert", "vertebra", subset), rows, "nearest_mm", "no prediction")
    yield _measure(("precision to any expert", "vertebra", ALL), closest, closest["hit"], empty="no prediction")


_PATIENT = ["patient", "expert", "rater"]
"""A row at patient level: a patient as one expert annotated it (and, among experts, another one marked it)."""


def _detection(matches: pd.DataFrame) -> Iterator[Measure]:
    """Recall over annotated vertebrae, the subset by their G; precision over predictions, the subset by theirs."""
    for name, counted, genant, empty in (
        ("recall", "target", "genant_target", "no annotated vertebra"),
        ("precision", "vertebra", "genant", "no prediction"),
    ):
        rows = matches[matches[counted].notna()]
        rows = rows.assign(hit=rows["target"].notna() & rows["vertebra"].notna())
        fractured = rows[rows[genant] <= FRACTURED]
        for subset, chosen, why in (
            (ALL, rows, empty),
            (BELOW_FRACTURED, fractured, f"{empty} with {BELOW_FRACTURED}"),
        ):
            yield _measure((name, "vertebra", subset), chosen, chosen["hit"], empty=why)
            shares = chosen.groupby(_PATIENT)["hit"].mean().reset_index()
            yield _measure((name, "patient", subset), shares, shares["hit"], spread=True, empty=why)


def _agreement(matches: pd.DataFrame) -> Iterator[Measure]:
    pairs, empty = _pairs(matches), "no matched pair"
    truth, found = pairs["genant_target"], pairs["genant"]
    yield _measure(("error of G", "vertebra", ALL), pairs, (found - truth).abs(), spread=True, empty=empty)
    yield _measure(("bias of G", "vertebra", ALL), pairs, found - truth, spread=True, empty=empty)
    yield _measure(("correlation of G", "vertebra", ALL), pairs, truth, y=found, statistic="correlation", empty=empty)
    patients = _worst(matches).dropna()
    name = ("correlation of G", "patient", ALL)
    yield _measure(
        name, patients, patients["genant_target"], y=patients["genant"], statistic="correlation",
        empty="no patient both annotated and measured",
    )  # fmt: skip
    grades = grade(truth), grade(found)
    yield _measure(("agreement on the grade", "vertebra", ALL), pairs, grades[0] == grades[1], empty=empty)
    yield _measure(
        ("kappa of the grade", "vertebra", ALL), pairs, grades[0], y=grades[1], statistic="kappa", empty=empty
    )


def _pairs(matches: pd.DataFrame) -> pd.DataFrame:
    return matches[matches["target"].notna() & matches["vertebra"].notna()]


def _worst(matches: pd.DataFrame) -> pd.DataFrame:
    """Smallest annotated and smallest predicted G of every annotated patient; missing where nothing was measured."""
    groups = matches.groupby(_PATIENT)[["genant_target", "genant"]].min().reset_index()
    return groups[groups["genant_target"].notna()]


def _fractures(matches: pd.DataFrame) -> Iterator[Measure]:
    """Telling fractured from other vertebrae (matched ones) and patients (by their smallest G; 1 if not measured)."""
    for level, rows in (("vertebra", _pairs(matches)), ("patient", _worst(matches).fillna({"genant": 1.0}))):
        empty = "no matched pair" if level == "vertebra" else "no annotated patient"
        clear = rows[(rows["genant_target"] <= FRACTURED) | (rows["genant_target"] > MILD)]
        for subset, chosen, limit in (
            (BELOW_MILD, rows, MILD),
            (BELOW_FRACTURED, rows, FRACTURED),
            (NORMAL_OR_FRACTURED, clear, FRACTURED),
        ):
            positive = chosen["genant_target"] <= limit
            yield from _classified((level, subset), chosen, positive, chosen["genant"] <= limit, empty)


def _graded_fractures(matches: pd.DataFrame) -> Iterator[Measure]:
    """The predicted G against the experts' own grades, fractured from grade 2 on; at patient level the worst of each.

    Of a patient all predictions count but those of annotated vertebrae without a grade; G is 1 if none is left.
    """
    graded = matches[matches["grade_target"].notna() | matches["target"].isna()]
    patients = graded.groupby(_PATIENT).agg({"grade_target": "max", "genant": "min"}).reset_index()
    patients = patients[patients["grade_target"].notna()].fillna({"genant": 1.0})
    for level, rows in (("vertebra", _pairs(graded)), ("patient", patients)):
        empty = "no matched pair with an expert's grade" if level == "vertebra" else "no patient with an expert's grade"
        truth = rows["grade_target"].astype("float64")
        for subset, chosen in ((GRADED_FRACTURED, rows), (GRADED_NORMAL_OR_FRACTURED, rows[truth != 1])):
            positive = truth[chosen.index] >= 2
            yield from _classified((level, subset), chosen, positive, chosen["genant"] <= FRACTURED, empty)


def _classified(
    where: tuple[str, str], rows: pd.DataFrame, positive: pd.Series, called: pd.Series, empty: str
) -> Iterator[Measure]:
    """ROC AUC of -G, sensitivity and specificity; where : level and subset."""
    yield _measure(
        ("ROC AUC", *where), rows, positive, y=-rows["genant"], statistic="auc", empty=empty,
        note=f"{int(positive.sum())} positive",
    )  # fmt: skip
    for name, side, right, none in (
        ("sensitivity", positive, called, "no positive"),
        ("specificity", ~positive, ~called, "no negative"),
    ):
        yield _measure((name, *where), rows[side], right[side], empty=none if len(rows) else empty)


def _levels(matches: pd.DataFrame) -> Iterator[Measure]:
    """Names of vertebrae against annotated levels, over all scans and over those with an anchor; see `levels`.

    Of a system that names no level at all they are undefined. If it names some, an annotated vertebra that was missed
    or left without a name counts as not identified. Doubt and calibration need a system that gives probabilities.
    """
    known = matches[matches["level_target"].notna()]
    why = "" if (matches["level"].fillna("") != "").any() else "the system names no level"
    why = "no annotated level" if known.empty else why
    silent = why or ("" if matches["level_probability"].notna().any() else "the system gives no probability of levels")
    pairs = named_pairs(matches)
    whole = known, pairs, columns(pairs)
    anchored = [rows[rows["anchored"].fillna(False)] for rows in whole]
    for subset, (marked, chosen, scans) in ((ALL, whole), (ANCHORED, anchored)):
        empty = "no annotated level" if subset == ALL else "no scan with an anchor and annotated levels"
        unpaired = why or (empty if marked.empty else "no matched pair with an annotated level")
        yield _measure(
            ("identification rate", "vertebra", subset), *_if_defined(why, marked, "identified"), empty=why or empty
        )
        yield _measure(("label accuracy", "vertebra", subset), *_if_defined(why, chosen, "right"), empty=unpaired)
        off = chosen.assign(by_one=chosen["off"].abs() == 1)
        yield _measure(("shifted by one", "vertebra", subset), *_if_defined(why, off, "by_one"), empty=unpaired)
        yield _measure(("shifted columns", "scan", subset), *_if_defined(why, scans, "shifted"), empty=unpaired)
        named = chosen[chosen["off"].notna()]
        for name, level, rows, none in (
            ("doubtful wrong levels", "vertebra", named[~named["right"]], "no wrong level"),
            ("doubtful right levels", "vertebra", named[named["right"]], "no right level"),
            ("doubtful shifted columns", "scan", scans[scans["shifted"]], "no shifted column"),
            ("doubtful right columns", "scan", scans[scans["right"]], "no column that is right throughout"),
        ):
            flag = "doubt" if level == "vertebra" else "flagged"
            reason = silent or (none if len(named) else unpaired)
            yield _measure((name, level, subset), *_if_defined(silent, rows, flag), empty=reason)
        sure = named[named["level_probability"].notna()]
        share, right = sure["level_probability"].astype("float64"), sure["right"].astype("float64")
        reason = silent or (unpaired if named.empty else "no level with a probability")
        yield _measure(
            ("calibration error of the level", "vertebra", subset), sure, right, y=share, statistic="calibration",
            empty=reason,
        )  # fmt: skip
        yield _measure(("Brier score of the level", "vertebra", subset), sure, (share - right) ** 2, empty=reason)


def _if_defined(why: str, rows: pd.DataFrame, column: str) -> tuple[pd.DataFrame, pd.Series]:
    """Rows and a column of them; none of them if there is a reason why it is undefined."""
    chosen = rows.iloc[:0] if why else rows
    return chosen, chosen[column]


def patients_of(sets: Sequence[Sequence[Measure]]) -> NDArray[np.object_]:
    """All patients that occur in some measures, sorted."""
    patients = [measure.patients for measure_set in sets for measure in measure_set]
    return np.unique(np.concatenate(patients)) if patients else np.empty(0, dtype=object)
