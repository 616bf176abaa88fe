"""Laws of the decoder of a column's levels: it finds what enumeration finds, and prices do what they say."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vertfrac.cohorts.levels import NAMED
from vertfrac.config import LevelDecoding
from vertfrac.errors import GeometryError, ModelError
from vertfrac.inference.column import (
    PITCH_PER_HEIGHT,
    ColumnLevels,
    doubtful,
    expected_pitch,
    log_likelihood,
    name_column,
    pitch_of,
)

Floats = NDArray[np.float64]
Column = tuple[str, ...]

PRICES: dict[str, float] = {
    "temperature": 1.5, "missing": 3.0, "variant": 4.0, "unnamed": 6.0, "sacrum": 0.5, "pitch_spread": 0.15,
    "pitch_limit": 8.0, "near": 0.1,
}  # fmt: skip
USUAL = [level for level in NAMED if level not in ("T13", "L6")]


def _name(evidence: Floats, pitch: Any = None, **changes: float) -> ColumnLevels:
    gaps = np.full(max(len(evidence) - 1, 0), np.nan) if pitch is None else pitch
    return name_column(evidence, gaps, **{**PRICES, **changes})


def _evidence(levels: Column | list[str], certainty: float = 9.0) -> Floats:
    """Log-probabilities that favour one level each; flat for ""."""
    logits = np.zeros((len(levels), len(NAMED)))
    for i, level in enumerate(levels):
        if level:
            logits[i, NAMED.index(level)] = certainty
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


# --- against enumeration: the prices of a column, written down once more without dynamic programming


def _step_price(above: str, below: str, gap: float, prices: dict[str, float]) -> float:
    """The cheapest of all spines that hold both levels: each is a list of levels and the variants that it has."""
    found = np.inf
    for thoracic, lumbar in itertools.product((11, 12, 13), (4, 5, 6)):
        spine = [f"C{n}" for n in range(3, 8)]
        spine += [f"T{n}" for n in range(1, thoracic + 1)] + [f"L{n}" for n in range(1, lumbar + 1)] + ["S1"]
        if above not in spine or below not in spine or spine.index(above) >= spine.index(below):
            continue
        i, j = spine.index(above), spine.index(below)
        passed = spine[i + 1 : j + 1]
        variants = ("T13" in passed) + ("L6" in passed)
        variants += thoracic == 11 and above[0] in "CT" and below[0] in "LS"
        variants += lumbar == 4 and above != "S1" and below == "S1"
        misfit = 0.0
        if not np.isnan(gap):
            off = np.log(gap / (j - i)) / prices["pitch_spread"] if gap > 0 else np.inf
            misfit = min(off**2 / 2, prices["pitch_limit"])
        found = min(found, prices["missing"] * (j - i - 1) + prices["variant"] * variants + misfit)
    return found


def _score(column: Column, evidence: Floats, pitch: Floats, prices: dict[str, float]) -> float:
    named = [i for i, level in enumerate(column) if level]
    score = -prices["unnamed"] * (len(column) - len(named))
    score += sum(evidence[i, NAMED.index(column[i])] / prices["temperature"] for i in named)
    score -= prices["sacrum"] * column.count("S1")
    if named and column[named[0]] in ("T13", "L6"):
        score -= prices["variant"]
    for i, j in itertools.pairwise(named):
        score -= _step_price(column[i], column[j], float(np.sum(pitch[i:j])), prices)
    return float(score)


def _columns(count: int, levels: list[str]) -> Iterator[Column]:
    """All columns of some levels, in the order in which ties are broken: compared from the last detection upwards."""
    for reverse in itertools.product([*levels, ""], repeat=count):
        column = reverse[::-1]
        named = [NAMED.index(level) for level in column if level]
        if all(a < b for a, b in itertools.pairwise(named)):
            yield column


def _differ(a: Column, b: Column) -> bool:
    return any(x and y and x != y for x, y in zip(a, b, strict=True))


def _check(evidence: Floats, pitch: Floats, levels: list[str], prices: dict[str, float]) -> None:
    """Every promise of name_column about a column, by enumeration; other levels than these must be ruled out."""
    found = name_column(evidence, pitch, **prices)
    columns = list(_columns(len(evidence), levels))
    scores = np.array([_score(column, evidence, pitch, prices) for column in columns])
    best = int(np.argmax(scores >= scores.max() - 1e-9))
    assert found.levels == columns[best]
    weights = np.exp(scores - scores.max())
    for i, level in enumerate(found.levels):
        share = sum(w for w, column in zip(weights, columns, strict=True) if column[i] == level) / weights.sum()
        assert found.probability[i] == (pytest.approx(share, abs=1e-9) if level else pytest.approx(np.nan, nan_ok=True))
        other = {name: 0.0 for name in levels if level and name != level}
        for w, column in zip(weights, columns, strict=True):
            if column[i] in other:
                other[column[i]] += w / weights.sum()
        second = max(other.values(), default=0.0)
        assert found.second_share[i] == pytest.approx(second / (second + share) if second else 0.0, abs=1e-9)
        assert other.get(found.second[i], 0.0) == pytest.approx(second, abs=1e-9)
        assert found.doubt[i] == (found.second[i] if found.second_share[i] >= prices["near"] else "")
    known = tuple(level if i % 2 == 0 else "" for i, level in enumerate(found.levels))
    fits = [all(k in ("", level) for k, level in zip(known, column, strict=True)) for column in columns]
    settings = {name: price for name, price in prices.items() if name != "near"}
    total = log_likelihood(evidence, pitch, known, **settings)
    assert total == pytest.approx(np.log(weights[fits].sum() / weights.sum()), abs=1e-6)
    others = [k for k, column in enumerate(columns) if _differ(column, columns[best]) and scores[k] > -np.inf]
    if not others:
        assert (set(found.runner_up) <= {""}, found.runner_up_share) == (True, 0.0)
        return
    top = max(scores[k] for k in others)
    assert found.runner_up == columns[next(k for k in others if scores[k] >= top - 1e-9)]
    assert found.runner_up_share == pytest.approx(1 / (1 + np.exp(scores[best] - top)), abs=1e-9)


WINDOWS = [
    ["C6", "C7", "T1", "T2", "T3"],
    ["T10", "T11", "T12", "T13", "L1", "L2"],
    ["T11", "T12", "T13", "L1"],
    ["L3", "L4", "L5", "L6", "S1"],
    ["T11", "L1", "L4", "S1"],
    ["C3", "T4", "T12", "L6", "S1"],
]


def _random_pitch(rng: np.random.Generator, count: int) -> Floats:
    pitch = rng.choice([0.5, 1.0, 1.1, 2.0, 2.9, np.nan], max(count - 1, 0), p=[0.15, 0.3, 0.15, 0.15, 0.1, 0.15])
    return np.asarray(pitch, dtype=np.float64)


@pytest.mark.parametrize("seed", range(10))
def test_random_columns_are_named_as_enumeration_names_them(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(25):
        count, levels = int(rng.integers(0, 5)), WINDOWS[rng.integers(len(WINDOWS))]
        evidence = np.full((count, len(NAMED)), -np.inf)
        seen = [NAMED.index(level) for level in levels]
        evidence[:, seen] = np.log(rng.dirichlet(np.full(len(seen), 0.5), count))
        evidence[rng.random(evidence.shape) < 0.1] = -np.inf
        prices = {
            "temperature": rng.uniform(0.5, 4), "missing": rng.uniform(0, 5), "variant": rng.uniform(0, 5),
            "unnamed": rng.uniform(0, 8), "sacrum": rng.uniform(0, 5), "pitch_spread": rng.uniform(0.05, 0.5),
            "pitch_limit": rng.uniform(1, 20), "near": 0.1,
        }  # fmt: skip
        _check(evidence, _random_pitch(rng, count), levels, prices)


@pytest.mark.parametrize("seed", range(4))
def test_ties_are_broken_from_the_last_detection_upwards(seed: int) -> None:
    """Small whole numbers everywhere, so that many columns are exactly as good as the best."""
    rng = np.random.default_rng(seed)
    prices = {**PRICES, "temperature": 1.0, "missing": 1.0, "variant": 1.0, "unnamed": 2.0, "sacrum": 1.0}
    for _ in range(25):
        count, levels = int(rng.integers(1, 5)), WINDOWS[rng.integers(len(WINDOWS))]
        evidence = np.full((count, len(NAMED)), -np.inf)
        evidence[:, [NAMED.index(level) for level in levels]] = -rng.integers(0, 3, (count, len(levels)))
        _check(evidence, np.full(max(count - 1, 0), np.nan), levels, prices)


# --- what the prices mean


def test_no_detection_is_no_column() -> None:
    found = name_column([], [], **PRICES)
    assert (found.levels, found.runner_up, found.runner_up_share, found.doubt) == ((), (), 0.0, ())
    assert found.probability.shape == (0,)


def test_one_vertebra_has_the_level_of_its_evidence() -> None:
    evidence = _evidence(["T7"], 3.0)
    found = _name(evidence, temperature=1.0, unnamed=50.0)
    assert found.levels == ("T7",)
    extra = np.isin(NAMED, ("T13", "L6"))
    weights = np.exp(evidence[0]) * np.where(extra, np.exp(-PRICES["variant"]), 1.0)
    weights[NAMED.index("S1")] *= np.exp(-PRICES["sacrum"])
    assert found.probability[0] == pytest.approx(weights[NAMED.index("T7")] / weights.sum())


def test_thirty_detections_are_named_as_far_as_there_are_levels() -> None:
    """Five false ones among all 25 levels."""
    levels: list[str] = list(NAMED)
    for at in (2, 9, 15, 22, 29):
        levels.insert(at, "")
    found = _name(_evidence(levels, 12.0))
    assert found.levels == tuple(levels)
    assert np.isnan(found.probability).sum() == 5
    assert np.nanmin(found.probability) > 0.8  # a false one may take the place of its neighbour


def test_more_detections_than_levels_without_evidence_still_end() -> None:
    found = _name(_evidence([""] * 30), np.ones(29))
    assert 0 < sum(map(bool, found.levels)) <= len(NAMED)


@pytest.mark.parametrize("count", [1, 3])
def test_all_stay_unnamed_where_no_level_is_possible(count: int) -> None:
    found = _name(np.full((count, len(NAMED)), -np.inf), np.ones(count - 1))
    assert found.levels == found.runner_up == found.doubt == ("",) * count
    assert (np.isnan(found.probability).all(), found.runner_up_share) == (True, 0.0)


def test_the_normal_column_is_free_of_charge() -> None:
    """From C3 to S1 with the pitch of direct neighbours: nothing but the evidence is paid."""
    found = _name(_evidence(USUAL, 4.0), np.ones(len(USUAL) - 1), missing=1e6, variant=1e6, unnamed=1e6)
    assert found.levels == tuple(USUAL)


def test_a_vertebra_missed_in_the_middle_is_passed_over() -> None:
    levels = ["T5", "T6", "T8", "T9"]
    assert _name(_evidence(levels), [1.0, 2.0, 1.0]).levels == tuple(levels)
    assert _name(_evidence(levels)).levels == tuple(levels)


@pytest.mark.parametrize(
    "levels",
    [
        ["T10", "T11", "L1", "L2"],
        ["T11", "T12", "T13", "L1"],
        ["L3", "L4", "S1"],
        ["L4", "L5", "L6", "S1"],
        ["T13", "L1", "L2"],
        ["T11", "T12", "T13", "L1", "L2", "L3", "L4", "L5", "L6", "S1"],
    ],
    ids="-".join,
)
def test_a_numeric_variant_is_named_where_the_evidence_pays_for_it(levels: list[str]) -> None:
    pitch = np.ones(len(levels) - 1)
    assert _name(_evidence(levels), pitch).levels == tuple(levels)
    normal = _name(_evidence(levels), pitch, variant=200.0, missing=200.0, pitch_limit=200.0).levels
    assert not {"T13", "L6"} & set(normal)
    assert ("T11", "L1") not in itertools.pairwise(normal)
    assert ("L4", "S1") not in itertools.pairwise(normal)


def test_t11_to_l1_is_a_variant_or_a_missed_t12_whatever_is_cheaper() -> None:
    """The price of the step shows in the odds against leaving the last one unnamed."""
    evidence = np.full((2, len(NAMED)), -np.inf)
    evidence[0, NAMED.index("T11")] = evidence[1, NAMED.index("L1")] = 0.0
    for pitch, prices, step in (
        (np.nan, {"missing": 3.0, "variant": 4.0}, 3.0),
        (np.nan, {"missing": 5.0, "variant": 4.0}, 4.0),
        (1.0, {"missing": 1.0, "variant": 4.0}, 4.0),
        (2.0, {"missing": 3.0, "variant": 1.0}, 3.0),
    ):
        found = _name(evidence, [pitch], **prices)
        both, single, none = np.exp(-step), np.exp(-PRICES["unnamed"]), np.exp(-2 * PRICES["unnamed"])
        assert found.probability[0] == pytest.approx((both + single) / (both + 2 * single + none))


def test_the_distance_tells_whether_one_is_missing() -> None:
    """Evidence sees T5 and T6, then T7 or T8 as likely; the distance decides."""
    evidence = _evidence(["T5", "T6", "", ""])
    evidence[2:] = -20.0
    for i, levels in ((2, ("T7", "T8")), (3, ("T8", "T9"))):
        evidence[i, [NAMED.index(level) for level in levels]] = np.log(0.5)
    direct, skipped = (_name(evidence, [1.0, gap, 1.0]) for gap in (1.0, 2.0))
    assert direct.levels == ("T5", "T6", "T7", "T8")
    assert skipped.levels == ("T5", "T6", "T8", "T9")
    assert min(direct.probability[2], skipped.probability[2]) > 0.98
    assert _name(evidence, [1.0, 1.42, 1.0]).probability[2] < direct.probability[2]


def test_a_false_detection_between_neighbours_is_known_by_the_distances() -> None:
    evidence = _evidence(["T5", "", "T6", "T7"], 5.0)
    found = _name(evidence, [0.5, 0.5, 1.0])
    assert found.levels == ("T5", "", "T6", "T7")


@pytest.mark.parametrize("pitch", [[None, 1.0], [np.nan, 1.0]])
def test_an_unknown_distance_says_nothing(pitch: list[Any]) -> None:
    evidence = _evidence(["T5", "T6", "T7"], 2.0)
    assert _name(evidence, pitch).levels == ("T5", "T6", "T7")


def test_flat_evidence_is_in_doubt_and_sharp_evidence_is_not() -> None:
    levels = ["T8", "T9", "T10", "T11"]
    sharp = _name(_evidence(levels), np.ones(3))
    assert sharp.levels == tuple(levels)
    assert sharp.runner_up_share < 1e-3
    assert sharp.doubt == ("",) * 4
    flat = _name(_evidence([""] * 4), np.ones(3))
    assert flat.runner_up_share == pytest.approx(0.5)
    assert all(flat.doubt)


def test_a_column_that_may_be_shifted_by_one_is_in_doubt_as_a_whole() -> None:
    """Each vertebra is as likely one place lower, but for a little: the runner-up is the whole column shifted."""
    levels, lower = ["T8", "T9", "T10", "T11"], ["T9", "T10", "T11", "T12"]
    evidence = np.full((4, len(NAMED)), -15.0)
    for i in range(4):
        evidence[i, NAMED.index(levels[i])], evidence[i, NAMED.index(lower[i])] = np.log([0.52, 0.48])
    found = _name(evidence, np.ones(3), temperature=1.0)
    assert (found.levels, found.runner_up, found.doubt) == (tuple(levels), tuple(lower), tuple(lower))
    assert found.runner_up_share == pytest.approx(1 / (1 + (0.52 / 0.48) ** 4))


def test_temperature_is_the_number_of_witnesses_that_count_as_one() -> None:
    levels, lower = ["T8", "T9"], ["T9", "T10"]
    evidence = np.full((2, len(NAMED)), -np.inf)
    for i in range(2):
        evidence[i, NAMED.index(levels[i])], evidence[i, NAMED.index(lower[i])] = np.log([0.8, 0.2])
    shares = [_name(evidence, [1.0], temperature=t).runner_up_share for t in (1.0, 2.0)]
    assert shares == pytest.approx([1 / 17, 1 / 5])


def test_unnaming_a_vertebra_is_no_other_name() -> None:
    evidence = np.full((2, len(NAMED)), -np.inf)
    evidence[0, NAMED.index("T5")] = evidence[1, NAMED.index("T6")] = 0.0
    found = _name(evidence, unnamed=0.1)
    assert (found.levels, found.runner_up, found.runner_up_share) == (("T5", "T6"), ("", ""), 0.0)


def test_doubt_is_where_the_second_level_is_near() -> None:
    assert doubtful(("T6", "", "T8"), np.array([0.1, 0.0, 0.09]), 0.1) == ("T6", "", "")


def test_the_same_column_comes_again_and_the_input_is_left_alone() -> None:
    evidence, pitch = _evidence(["T5", "", "T6", "T7"], 1.0), np.ones(3)
    before = evidence.copy()
    first, second = _name(evidence, pitch), _name(evidence, pitch)
    assert first.levels == second.levels
    assert np.array_equal(first.probability, second.probability, equal_nan=True)
    assert np.array_equal(evidence, before)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda e: e.__setitem__((1, 3), np.nan), "detection 2: evidence for C6 is nan, expected a log-probability"),
        (lambda e: e.__setitem__((0, 0), np.inf), "detection 1: evidence for C3 is inf"),
    ],
)
def test_evidence_that_is_no_probability_is_an_error_of_the_model(change: Callable[[Floats], None], words: str) -> None:
    evidence = _evidence(["T5", "T6"])
    change(evidence)
    with pytest.raises(ModelError, match=words):
        _name(evidence)


def test_evidence_for_other_levels_is_an_error_of_the_model() -> None:
    with pytest.raises(ModelError, match=r"shape \(2, 24\), expected \(detections, 25\)"):
        _name(np.zeros((2, 24)))


@pytest.mark.parametrize(("pitch", "words"), [([1.0, 1.0], "found 2 distances of 2"), ([-1.0], "none below 0")])
def test_impossible_distances_are_refused(pitch: list[float], words: str) -> None:
    with pytest.raises(GeometryError, match=words):
        _name(_evidence(["T5", "T6"]), pitch)


def test_the_settings_are_the_keywords_and_name_a_usual_column() -> None:
    vertebrae = USUAL[:-1]  # a detection that is S1 is seldom
    found = name_column(_evidence(vertebrae, 5.0), np.ones(len(vertebrae) - 1), **LevelDecoding().model_dump())
    assert found.levels == tuple(vertebrae)
    assert found.doubt == ("",) * len(vertebrae)


def test_what_is_impossible_has_no_likelihood() -> None:
    evidence, settings = _evidence(["T5", "T6"]), {name: price for name, price in PRICES.items() if name != "near"}
    assert log_likelihood(evidence, [1.0], ("T6", "T5"), **settings) == -np.inf
    assert log_likelihood(evidence, [1.0], ("", ""), **settings) == pytest.approx(0.0, abs=1e-9)
    assert log_likelihood([], [], (), **settings) == 0.0


# --- distances of neighbours


def test_pitch_is_one_for_neighbours_and_two_for_a_gap(spine_keypoints: Callable[..., Floats]) -> None:
    keypoints = spine_keypoints(5, pitch=20.0 * PITCH_PER_HEIGHT)
    assert expected_pitch(keypoints) == pytest.approx(np.ones(4))
    assert expected_pitch(keypoints[[0, 1, 3, 4]]) == pytest.approx([1.0, 2.0, 1.0])


def test_a_collapse_in_front_leaves_the_pitch(spine_keypoints: Callable[..., Floats]) -> None:
    crushed = spine_keypoints(3, pitch=20.0 * PITCH_PER_HEIGHT, heights=[[20, 20, 20], [8, 12, 20], [20, 20, 20]])
    assert expected_pitch(crushed) == pytest.approx(np.ones(2))


def test_pitch_does_not_depend_on_the_frame(spine_keypoints: Callable[..., Floats]) -> None:
    keypoints = spine_keypoints(4)
    turned = keypoints[..., [2, 0, 1]] * [1, -1, 1] + [5.0, -80.0, 3.0]
    assert expected_pitch(turned) == pytest.approx(expected_pitch(keypoints))


@pytest.mark.parametrize("count", [0, 1])
def test_few_vertebrae_have_no_pitch(count: int, spine_keypoints: Callable[..., Floats]) -> None:
    assert expected_pitch(spine_keypoints(count)).shape == (0,)


def test_pitch_is_unknown_where_a_size_is() -> None:
    centers = np.array([[0, 0, 0], [0, 0, -23], [0, 0, -46], [0, 0, -69]], dtype=np.float64)
    pitch = pitch_of(centers, [20.0, 20.0, 0.0, np.nan])
    assert np.isnan(pitch).tolist() == [False, True, True]
