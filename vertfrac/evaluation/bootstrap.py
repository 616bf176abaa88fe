"""Percentile bootstrap over patients: what the metrics would be, had other patients of the same kind been drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vertfrac.evaluation.metrics import Measure, patients_of

Floats = NDArray[np.float64]

CONFIDENCE = 0.95


def mean_over_repeats(repeats: Sequence[Sequence[Measure]], weights: Floats, units: NDArray[np.object_]) -> Floats:
    """Every metric under patient weights, averaged over the repeats in which it is defined at all.

    repeats : the measures of each repeat, in one order. weights : (..., patients). Returns (metrics, ...), NaN where
    the weights leave a metric undefined in one of those repeats.
    """
    rows = []
    for same in zip(*repeats, strict=True):
        defined = [measure.values(weights, units) for measure in same if not measure.why]
        rows.append(np.mean(defined, axis=0) if defined else np.full(weights.shape[:-1], np.nan))
    return np.stack(rows)


def intervals(repeats: Sequence[Sequence[Measure]], *, resamples: int, seed: int) -> tuple[Floats, Floats]:
    """95 % intervals of all metrics' means over the repeats: percentiles over resamples of the patients.

    A resample draws the same patients in every repeat. Those that leave a metric undefined (a class without a patient)
    are left out of its percentiles. Returns the lower and the upper ends, (metrics,), NaN where a metric is undefined
    or fewer than two patients were scored.
    """
    units = patients_of(repeats)
    low, high = np.full((2, len(repeats[0])), np.nan)
    if len(units) < 2:
        return low, high
    # How often n draws with replacement hit each of n patients.
    weights = np.random.default_rng(seed).multinomial(len(units), np.full(len(units), 1 / len(units)), size=resamples)
    drawn = mean_over_repeats(repeats, weights.astype(np.float64), units)
    for k, replicates in enumerate(drawn):
        known = replicates[~np.isnan(replicates)]
        if len(known):
            low[k], high[k] = np.quantile(known, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return low, high
