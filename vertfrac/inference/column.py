"""The names of a column of vertebrae: the most probable sequence of levels, how sure it is, and the runner-up.

A network gives every detection evidence for each level on its own; a spine has each level once, in one order. The
decoder looks at whole columns. A column names its detections with strictly inferior levels from one named detection to
the next, and leaves the others unnamed. Its score, in nats, is the sum of

- the evidence of every named detection for its level, over ``temperature``: neighbours are seen by one network in one
  context, so that their evidence is less than that of independent witnesses;
- minus ``unnamed`` for every detection that is no vertebra, and ``sacrum`` for one that is S1: detectors are trained on
  what is to be graded, so that they seldom find it;
- minus the price of every step from a named detection to the next, the cheapest way through the anatomy below:
  ``missing`` for every vertebra passed over, ``variant`` for every numeric variant, and a log-normal price, at most
  ``pitch_limit``, for a distance that does not fit the number of vertebrae passed.

Anatomy: one place at a time from C3 to T12, L1 to L5 and S1, free of charge from T12 to L1 and from L5 to S1. At the
price of a variant: T13 after T12 and L6 after L5 (also where the column begins with them), L1 after T11, S1 after L4.

Both ends are open. A column may begin and end with any level at no price: where a scan cuts the spine says nothing
about its levels, and what shows that nothing of it was cut (skull base, sacrum) is the network's evidence, not counted
twice. Arrays are [detection, level], superior first; levels are those of ``levels.NAMED``.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple, TypedDict, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vertfrac.cohorts.levels import NAMED
from vertfrac.errors import GeometryError, ModelError
from vertfrac.geometry.keypoints import centers, heights

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

EQUAL = 1e-9
"""Scores that differ by no more, in nats, count as equal."""

SURE = 1e6
"""More than any column can cost, in nats."""

UNNAMED = -1
"""Stands for no level in arrays of levels."""

PITCH_PER_HEIGHT = 1.14
"""Distance of direct neighbours' body centres over the mean of their posterior heights.

The middle between 1.03 (T5-T6) and 1.26 (L2-L3, C4-C5), the medians of levels in the annotations of LungCancer500
(Zakharov et al. 2022), so that none is off by more than 11 %; benchmarks/level_pitch.py.
"""


class Prices(TypedDict):
    """What a column costs, in nats, but for temperature, at least 1 in practice, and pitch_spread, the standard
    deviation of ln(pitch); see ``config.LevelDecoding``."""

    temperature: float
    missing: float
    variant: float
    unnamed: float
    sacrum: float
    pitch_spread: float
    pitch_limit: float


class ColumnLevels(NamedTuple):
    """The names of n detections.

    levels : the most probable column, "" where unnamed. probability : (n,), that of each given level over all columns;
    NaN where unnamed. runner_up : the best of the columns that name some detection otherwise where both name it; all ""
    if there is none. runner_up_share : P(runner-up) / (P(winner) + P(runner-up)), 0 to 0.5. second : per detection the
    most probable other level over all columns, "" where unnamed or nothing else is possible: many columns may agree on
    it, none of which is the runner-up. second_share : (n,), its probability over that of both levels, 0 where there is
    none. doubt : per detection its second level where that one is near, else "".
    """

    levels: tuple[str, ...]
    probability: Floats
    runner_up: tuple[str, ...]
    runner_up_share: float
    second: tuple[str, ...]
    second_share: Floats
    doubt: tuple[str, ...]


class Weights(NamedTuple):
    """Log-weights of all columns of n detections.

    named : (n, levels), for each named detection. first : (n, levels), for beginning there. steps : item j is
    (j, levels, levels), from detection i < j with a level to j with another, with what lies unnamed between. last :
    (n,), for ending there. empty : for naming none.
    """

    named: Floats
    first: Floats
    steps: tuple[Floats, ...]
    last: Floats
    empty: float


def name_column(
    log_evidence: ArrayLike,
    pitch: ArrayLike,
    *,
    near: float,
    **prices: Unpack[Prices],
) -> ColumnLevels:
    """Name a column; exact, by dynamic programming over the last named detection and its level.

    log_evidence : (n, levels), log-probabilities; -inf rules a level out. pitch : (n - 1,), distance of neighbouring
    body centres over that of direct neighbours (1: direct, 2: one missing between); NaN where unknown. near : smallest
    share of a second level that puts a level in doubt.

    Of equally good columns (up to EQUAL at each step of the search) the one wins that, from the last detection upwards,
    first names where another does not, or has the more superior level. Raises ModelError for evidence of another shape
    or with a value that is no log-probability (NaN, as of a network that diverged), GeometryError for a wrong pitch.
    """
    evidence, gaps = _checked(log_evidence, pitch)
    weights = _weights(evidence, gaps, **prices)
    best, score = _search(weights)
    second, second_score = _search(weights, best)
    share = float(np.exp(second_score - np.logaddexp(score, second_score)))
    marginals = _marginals(weights)
    known = best != UNNAMED
    probability = np.full(len(best), np.nan)
    probability[known] = marginals[known, best[known]]
    nearest, nearness = _second(marginals, best)
    doubt = doubtful(_names(nearest), nearness, near)
    return ColumnLevels(_names(best), probability, _names(second), share, _names(nearest), nearness, doubt)


def log_likelihood(
    log_evidence: ArrayLike,
    pitch: ArrayLike,
    levels: tuple[str, ...],
    **prices: Unpack[Prices],
) -> float:
    """The logarithm of P(every detection has the level given for it) over all columns, what settings are fitted by.

    levels : per detection, "" where nothing is known: it may have any level, or none. The others are as in
    `name_column`, with the same errors. Returns -inf where the levels are impossible together.
    """
    evidence, gaps = _checked(log_evidence, pitch)
    weights = _weights(evidence, gaps, **prices)
    known = np.array([level != "" for level in levels], dtype=bool)
    given = known[:, None] & (np.array(levels, dtype=object)[:, None] != np.array(NAMED, dtype=object))
    # a reward for naming what is known, so large that columns which leave it unnamed do not count
    rewarded = np.where(given, -np.inf, weights.named) + SURE * known[:, None]
    right = _forward(weights._replace(named=rewarded))[1] - SURE * known.sum()
    return right - _forward(weights)[1] if right > -SURE / 2 else -np.inf


def doubtful(second: tuple[str, ...], share: Floats, near: float) -> tuple[str, ...]:
    """The second level of each detection where it has that share; else ""."""
    return tuple(level if level and has >= near else "" for level, has in zip(second, share.tolist(), strict=True))


def expected_pitch(keypoints: ArrayLike) -> Floats:
    """Distance of neighbouring body centres over that of direct neighbours of their size.

    keypoints : (n, 6, 3), world mm, superior first. Returns (n - 1,), NaN where keypoints are not finite or a posterior
    height, which compression changes least, is not positive.
    """
    points = np.asarray(keypoints, dtype=np.float64).reshape(-1, 6, 3)
    return pitch_of(centers(points), heights(points)[:, 2])


def pitch_of(centers_mm: ArrayLike, posterior_heights_mm: ArrayLike) -> Floats:
    """As `expected_pitch`, from the body centres (n, 3) and the posterior heights (n,), mm. Returns (n - 1,)."""
    middle = np.asarray(centers_mm, dtype=np.float64).reshape(-1, 3)
    tall = np.asarray(posterior_heights_mm, dtype=np.float64)
    distance = np.linalg.norm(np.diff(middle, axis=0), axis=1)
    size = (tall[:-1] + tall[1:]) / 2
    usable = np.isfinite(distance) & (tall[:-1] > 0) & (tall[1:] > 0) & np.isfinite(size)
    pitch: Floats = np.divide(distance, PITCH_PER_HEIGHT * size, out=np.full(len(distance), np.nan), where=usable)
    return pitch


def _checked(log_evidence: ArrayLike, pitch: ArrayLike) -> tuple[Floats, Floats]:
    evidence = np.asarray(log_evidence, dtype=np.float64)
    if evidence.size == 0:
        evidence = evidence.reshape(0, len(NAMED))
    if evidence.ndim != 2 or evidence.shape[1] != len(NAMED):
        raise ModelError(f"evidence for levels has the shape {evidence.shape}, expected (detections, {len(NAMED)})")
    wrong = ~(evidence < np.inf)
    if wrong.any():
        i, level = (int(k) for k in np.argwhere(wrong)[0])
        raise ModelError(
            f"detection {i + 1}: evidence for {NAMED[level]} is {evidence[i, level]}, expected a log-probability"
        )
    gaps = np.array([np.nan if gap is None else gap for gap in np.asarray(pitch, dtype=object).ravel()], np.float64)
    if len(gaps) != max(len(evidence) - 1, 0):
        raise GeometryError(f"found {len(gaps)} distances of {len(evidence)} detections, expected one less")
    if (gaps < 0).any() or np.isinf(gaps).any():
        raise GeometryError(f"distances of neighbours are {gaps.tolist()}, expected finite numbers, none below 0")
    return evidence, gaps


def _ways() -> tuple[NDArray[np.bool_], Floats, Floats]:
    """The anatomy as a graph, walked: variants that a step needs, by the places that it goes.

    Returns whether a level begins only as a variant, (levels,); and of every pair of levels and each of the possible
    numbers of places between them, (levels, levels, ways): the places, and the fewest variants, inf for no way.
    """
    order = {level: k for k, level in enumerate(NAMED)}
    extra = np.isin(NAMED, ("T13", "L6"))
    usual = [level for level in NAMED if level not in ("T13", "L6")]
    edges = dict.fromkeys(itertools.pairwise(usual), 0.0)
    edges |= {("T12", "T13"): 1.0, ("T13", "L1"): 0.0, ("L5", "L6"): 1.0, ("L6", "S1"): 0.0}
    edges |= {("T11", "L1"): 1.0, ("L4", "S1"): 1.0}
    single = np.full((len(NAMED), len(NAMED)), np.inf)
    for (above, below), variants in edges.items():
        single[order[above], order[below]] = variants
    walked = [single]
    while np.isfinite(walked[-1]).any():
        walked.append((walked[-1][:, :, None] + single[None]).min(axis=1))
    by_places = np.stack(walked[:-1], axis=-1)  # item k: of k + 1 places
    ways = int(np.isfinite(by_places).sum(axis=-1).max())
    first = np.argsort(~np.isfinite(by_places), axis=-1, kind="stable")[..., :ways]
    return extra, first.astype(np.float64) + 1.0, np.take_along_axis(by_places, first, axis=-1)


_EXTRA, _PLACES, _VARIANTS = _ways()
_SACRUM = np.isin(NAMED, ["S1"])


def _weights(
    evidence: Floats,
    pitch: Floats,
    *,
    temperature: float,
    missing: float,
    variant: float,
    unnamed: float,
    sacrum: float,
    pitch_spread: float,
    pitch_limit: float,
) -> Weights:
    count = len(evidence)
    walk = missing * (_PLACES - 1) + np.where(np.isinf(_VARIANTS), np.inf, variant * np.nan_to_num(_VARIANTS, posinf=0))
    along = np.concatenate([[0.0], np.cumsum(np.where(np.isnan(pitch), 0.0, pitch))])[:count]
    unknown = np.concatenate([[0], np.cumsum(np.isnan(pitch))])[:count]
    steps = []
    for j in range(count):
        gap = np.where(unknown[:j] == unknown[j], along[j] - along[:j], np.nan)
        with np.errstate(divide="ignore"):
            off = (np.log(gap)[:, None, None, None] - np.log(_PLACES)) / pitch_spread
        misfit = np.nan_to_num(np.minimum(off**2 / 2, pitch_limit), nan=0.0)
        between = unnamed * np.arange(j - 1, -1, -1.0)
        steps.append(-(walk + misfit).min(axis=-1) - between[:, None, None])
    before = unnamed * np.arange(count, dtype=np.float64)
    first = np.where(_EXTRA, -variant, 0.0) - before[:, None]
    named = evidence / temperature - np.where(_SACRUM, sacrum, 0.0)
    return Weights(named, first, tuple(steps), -before[::-1], -unnamed * count)


def _search(weights: Weights, reference: Ints | None = None) -> tuple[Ints, float]:
    """The best column as an index of a level per detection, and its score (Viterbi).

    With a reference column, the best of those that name some detection otherwise where both name it, with the score
    -inf if there is none. States are (level, whether the column differs from the reference so far): a level that
    differs makes it so, another one keeps what it was.
    """
    count, levels = weights.named.shape
    differs = np.zeros((count, levels), dtype=bool)
    if reference is not None:
        differs = (reference[:, None] != np.arange(levels)) & (reference[:, None] != UNNAMED)
    score = np.full((count, levels, 2), -np.inf)
    back = np.full((count, levels, 2), UNNAMED, dtype=np.intp)
    for j in range(count):
        ways = (score[:j, :, :, None] + weights.steps[j][:, :, None])[::-1].reshape(-1, levels)  # the nearest one first
        ways = np.concatenate([ways, weights.first[j][None]])
        differed = (np.arange(len(ways)) % 2 == 1)[:, None]
        for flag, allowed in enumerate((~differed & ~differs[j], differed | differs[j])):
            chosen = _first_best(np.where(allowed, ways, -np.inf))
            taken = np.take_along_axis(ways, chosen[None], axis=0)[0]
            possible = np.take_along_axis(allowed, chosen[None], axis=0)[0]
            score[j, :, flag] = np.where(possible, weights.named[j] + taken, -np.inf)
            back[j, :, flag] = _previous(chosen, j, 2 * levels)
    wanted = int(reference is not None)
    score[:, :, 1 - wanted] = -np.inf
    ends = (score + weights.last[:, None, None])[::-1].ravel()
    ends = np.append(ends, -np.inf if wanted else weights.empty)
    chosen = _first_best(ends)
    column = np.full(count, UNNAMED, dtype=np.intp)
    at = int(_previous(chosen, count, 2 * levels))
    while at != UNNAMED and ends[chosen] > -np.inf:
        detection, state = divmod(at, 2 * levels)
        column[detection] = state // 2
        at = int(back[detection, state // 2, state % 2])
    return column, float(ends[chosen])


def _first_best(scores: Floats) -> Ints:
    """The first along axis 0 that is as good as the best."""
    index: Ints = np.argmax(scores >= scores.max(axis=0) - EQUAL, axis=0)
    return index


def _previous(chosen: Ints, j: int, states: int) -> Ints:
    """Index over (detection, state) of a choice among those before j, nearest first; UNNAMED for the beginning."""
    before, state = np.divmod(chosen, states)
    return np.where(chosen == j * states, UNNAMED, (j - 1 - before) * states + state)


def _forward(weights: Weights) -> tuple[Floats, float]:
    """Log-weights of all beginnings of columns, by the last named detection and its level, and of all columns."""
    count, levels = weights.named.shape
    forward = np.full((count, levels), -np.inf)
    for j in range(count):
        ways = (forward[:j, :, None] + weights.steps[j]).reshape(-1, levels)
        forward[j] = weights.named[j] + _log_sum(np.concatenate([ways, weights.first[j][None]]))
    return forward, float(_log_sum(np.append((forward + weights.last[:, None]).ravel(), weights.empty)))


def _marginals(weights: Weights) -> Floats:
    """P(detection is named a level) over all columns, (n, levels), by the forward-backward algorithm."""
    count, levels = weights.named.shape
    forward, total = _forward(weights)
    backward = np.repeat(weights.last[:, None], levels, axis=1)
    for j in range(count - 1, 0, -1):
        onward = weights.steps[j] + (weights.named[j] + backward[j])
        backward[:j] = np.logaddexp(backward[:j], _log_sum(np.moveaxis(onward, -1, 0)))
    probability: Floats = np.exp(forward + backward - total)
    return np.minimum(probability, 1.0)


def _second(marginals: Floats, best: Ints) -> tuple[Ints, Floats]:
    """Of every named detection the most probable other level and its share of both; UNNAMED and 0 where none is."""
    rows = np.arange(len(best))
    others = marginals.copy()
    others[rows, best] = 0.0
    index = others.argmax(axis=1) if len(best) else best
    first, second = marginals[rows, best], others[rows, index]
    possible = (best != UNNAMED) & (second > 0)
    share = np.divide(second, first + second, out=np.zeros(len(best)), where=possible)
    return np.where(possible, index, UNNAMED), share


def _log_sum(values: Floats) -> Floats:
    total: Floats = np.logaddexp.reduce(values, axis=0)
    return total


def _names(column: Ints) -> tuple[str, ...]:
    return tuple("" if level == UNNAMED else NAMED[level] for level in column.tolist())
