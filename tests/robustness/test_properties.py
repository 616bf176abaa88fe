"""Laws of the pure modules, for whatever hypothesis thinks of: motion, scale, order, bounds, a plain reference.

Laws of geometry, of G and of CSV files are in tests/geometry, test_genant.py and test_tables.py; here are the others.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from scipy.stats import pearsonr
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from vertfrac import tables
from vertfrac.cohorts.checks import check_annotation
from vertfrac.cohorts.folds import held_out_cases, split, training_cases
from vertfrac.cohorts.levels import LEVEL_OF, LEVELS, NAMED, parse_level, place
from vertfrac.cohorts.sources import in_shard, shard_of
from vertfrac.config import LevelDecoding, _merged
from vertfrac.errors import LONGEST_MESSAGE, GeometryError, VertfracError, printable
from vertfrac.evaluation.bootstrap import intervals
from vertfrac.evaluation.levels import identified, places_off
from vertfrac.evaluation.matching import distances, match, overlaps
from vertfrac.evaluation.metrics import Measure
from vertfrac.files import read_json, write_json
from vertfrac.genant import GRADES, genant_index, grade
from vertfrac.geometry.context import STEP_MM, context_along
from vertfrac.geometry.curve import Curve, curve_through_centers
from vertfrac.geometry.grid import Grid
from vertfrac.geometry.keypoints import centers
from vertfrac.geometry.spine import annotated_spine
from vertfrac.geometry.straighten import StraightSlice
from vertfrac.imaging import case_name
from vertfrac.inference.column import expected_pitch, name_column
from vertfrac.inference.nms import suppress
from vertfrac.level_shape import TYPICAL, genant_level
from vertfrac.models.intensity import scale_context, scale_intensity
from vertfrac.report.sentence import failure_sentence, genant_text, scan_sentence

Floats = NDArray[np.float64]
quick = settings(deadline=None, derandomize=True, max_examples=20, suppress_health_check=list(HealthCheck))
seeds = st.integers(0, 2**31)
texts = st.text(st.characters(codec=None), max_size=60)


def spine(rng: np.random.Generator, count: int = 6) -> Floats:
    """Vertebrae of unequal heights along a bent spine, (n, 6, 3), superior first, world RAS mm."""
    points = np.zeros((count, 6, 3))
    for n in range(count):
        middle = np.array([3 * np.sin(n), 8 * np.sin(n / 2), -26.0 * n])
        for k, depth in enumerate((13.0, 0.0, -13.0)):
            half = rng.uniform(6, 11)
            points[n, 2 * k : 2 * k + 2] = middle + np.array([[0, depth, half], [0, depth, -half]])
    return points


def moved(points: Floats, rng: np.random.Generator) -> Floats:
    """The points turned and shifted as a whole."""
    return points @ Rotation.random(rng=rng).as_matrix().T + rng.uniform(-300, 300, 3)


# --- errors, files, config


@quick
@given(texts)
def test_any_message_is_one_line_that_can_be_written_and_stays_when_it_is_told_again(text: str) -> None:
    told = str(VertfracError(text))
    assert "\n" not in told
    assert "\r" not in told
    assert told.encode("utf-8").decode("utf-8") == told
    assert len(told.splitlines()) <= 1
    assert str(VertfracError(told)) == told
    assert printable(printable(text)) == printable(text)


@quick
@given(texts, st.integers(1, 50))
def test_no_message_is_long(text: str, times: int) -> None:
    assert len(str(VertfracError("file.nii: " + text * 100 * times))) <= 10 * (LONGEST_MESSAGE + 5)
    assert str(VertfracError("file.nii: " + text * 100 * times)).startswith("file.nii:")


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**17), 10**17) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@quick
@given(plain)
def test_what_is_written_as_json_is_read_back(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    path = tmp_path_factory.mktemp("json") / "a.json"
    write_json(path, value)
    assert read_json(path) == json.loads(path.read_text()) == value


trees = st.recursive(st.integers(), lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3))


@quick
@given(trees, trees, trees)
def test_merging_settings_changes_what_is_stated_and_nothing_else(a: Any, b: Any, c: Any) -> None:
    assert _merged(a, a) == a
    assert _merged(_merged(a, b), b) == _merged(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        assert set(_merged(a, b)) == set(a) | set(b)
        assert all(_merged(a, b)[key] == a[key] for key in set(a) - set(b))
        if isinstance(c, dict) and not set(a) & set(c):
            assert _merged(_merged(a, b), c).keys() == _merged(a, _merged(b, c)).keys()


@quick
@given(texts)
def test_the_name_of_any_scan_is_a_plain_file_name(text: str) -> None:
    name = case_name(Path("folder") / text.replace("\0", "") / "x")
    assert name == "x"
    name = case_name("folder/" + text.replace("/", "").replace("\0", ""))
    assert name == Path(name).name
    assert name not in ("", ".", "..")
    assert name.isascii()
    assert case_name(name) in (name, name.removesuffix(".gz").removesuffix(".nii"))


# --- levels, folds, shards


@quick
@given(texts)
def test_any_text_names_a_level_or_none_and_spelling_does_not_matter(text: str) -> None:
    level = parse_level(text)
    assert level is None or level in LEVELS
    assert parse_level(f" {text.lower()} ") == parse_level(text.lower())


def test_levels_parse_to_themselves_and_their_places_are_in_order() -> None:
    assert [parse_level(level) for level in LEVELS] == list(LEVELS)
    for thoracic in (f"T{n}" for n in range(1, 14)):
        assert parse_level(f"Th{thoracic[1:]}") == parse_level(f"d{int(thoracic[1:]):02d}") == thoracic
    places = [place(level) for level in (*LEVELS, "S1")]
    assert all(a < b for a, b in itertools.pairwise(places))
    labelled = [place(level) for level in LEVEL_OF.values() if level in LEVELS]
    assert len(set(labelled)) == len(labelled) == len(LEVELS)


@quick
@given(st.lists(st.sampled_from(NAMED), min_size=1), seeds)
def test_places_off_are_whole_and_change_sign_with_the_roles(levels: list[str], seed: int) -> None:
    one = pd.Series(levels)
    other = one.sample(frac=1, random_state=seed).reset_index(drop=True)
    there, back = places_off(one, other), places_off(other, one)
    assert (there == -back).all()
    assert (there == there.round()).all()
    assert ((there == 0) == (one == other)).all()


@quick
@given(st.integers(2, 6), st.integers(6, 40), seeds)
def test_folds_part_the_patients_whatever_the_cohort(k: int, patients: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    of = np.concatenate([np.arange(patients), rng.integers(0, patients, patients // 2)])
    cases = pd.DataFrame({
        "case": [f"c{n}" for n in range(len(of))], "patient": [f"p{n}" for n in of],
        "status": rng.choice(["ok", "ok", "failed"], len(of)), "smallest_genant": rng.uniform(0.3, 1, len(of)),
    })  # fmt: skip
    usable = cases[cases["status"] == "ok"]
    if usable["patient"].nunique() < k:
        return
    folds = split(cases, k=k, repeat=0, seed=seed % 1000)
    assert sorted(folds["case"]) == sorted(usable["case"])
    assert (folds.groupby("patient")["fold"].nunique() == 1).all()
    sizes = folds.groupby("fold")["patient"].nunique()
    assert len(sizes) == k
    for fold in range(k):
        train, test = training_cases(folds, 0, fold), held_out_cases(folds, 0, fold)
        assert not train & test
        assert train | test == set(usable["case"])


@quick
@given(st.text(st.characters(exclude_categories=["Cs"])), st.integers(1, 50))
def test_a_case_is_in_exactly_one_shard(case: str, shards: int) -> None:
    assert [n for n in range(shards) if in_shard(case, (n, shards))] == [shard_of(case, shards)]


# --- geometry of whole spines


@quick
@given(seeds, st.permutations(range(6)))
def test_a_spine_moves_with_its_vertebrae_in_any_order(seed: int, order: list[int]) -> None:
    rng = np.random.default_rng(seed)
    points, shift = spine(rng), rng.uniform(-400, 400, 3)
    there, here = annotated_spine(points[order] + shift), annotated_spine(points)
    assert there.upper_z - shift[2] == pytest.approx(here.upper_z)
    assert there.lower_z - shift[2] == pytest.approx(here.lower_z)
    s = np.linspace(0, here.curve.length_mm, 20)
    np.testing.assert_allclose(there.curve.at(s) - shift, here.curve.at(s), atol=1e-6)


@quick
@given(st.floats(1e4, 1e308), seeds)
def test_what_is_longer_than_any_spine_is_refused_and_takes_no_memory(far: float, seed: int) -> None:
    points = np.array([[0, 0, 0.0], [0, 0, -25.0], [0, 0, -25.0 - far]])
    with pytest.raises(GeometryError):
        curve_through_centers(points)
    upright = StraightSlice.along(Curve(points[:2]), width_mm=64)
    away = np.random.default_rng(seed).normal(size=3)
    with pytest.raises(GeometryError):
        upright.to_slice(away / np.abs(away).max() * 10 * far)


@settings(quick, max_examples=5)
@given(seeds)
def test_a_context_of_a_shifted_scan_is_the_same(seed: int) -> None:
    rng = np.random.default_rng(seed)
    hu = rng.integers(-1000, 1500, (12, 12, 20)).astype(np.int16)
    affine = np.diag([8.0, 8, 8, 1])
    points = np.array([[44.0, 44, 120], [48.0, 40, 40]])
    shift = rng.uniform(-500, 500, 3)
    there = affine.copy()
    there[:3, 3] = shift
    one = context_along(hu, Grid((12, 12, 20), affine), Curve(points))
    other = context_along(hu, Grid((12, 12, 20), there), Curve(points + shift))
    assert np.abs(one.views.astype(int) - other.views).max() <= 1
    assert one.start_mm == pytest.approx(other.start_mm)
    assert one.rows_at(np.array([one.start_mm, one.start_mm + STEP_MM])).tolist() == pytest.approx([0, 1])


@quick
@given(seeds)
def test_a_sound_annotation_stays_sound_when_it_is_shifted_with_its_scan(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points, shift = spine(rng, 5), rng.uniform(-500, 500, 3)
    affine = np.diag([2.0, 2, 2, 1])
    affine[:3, 3] = -100, -100, -180
    there = affine.copy()
    there[:3, 3] += shift
    names = [f"vertebra {n}" for n in range(5)]
    here = check_annotation(points, names, Grid((100, 100, 120), affine))
    assert check_annotation(points + shift, names, Grid((100, 100, 120), there)) == here
    assert not [finding for finding in here if finding.severity == "error"]


# --- heights, levels of shapes, columns


@quick
@given(st.lists(st.sampled_from(list(TYPICAL)), min_size=1, max_size=8), seeds, st.floats(0.1, 10))
def test_a_second_opinion_is_that_of_g_for_a_box_shaped_norm_and_sees_no_size(
    levels: list[str], seed: int, scale: float
) -> None:
    heights = np.random.default_rng(seed).uniform(5, 40, (len(levels), 3))
    index = genant_level(heights, levels)
    assert ((index > 0) & (index <= 1)).all()
    np.testing.assert_allclose(genant_level(heights * scale, levels), index)
    norms = np.array([(*TYPICAL[level], 1.0) for level in levels])
    np.testing.assert_allclose(genant_level(heights * norms, levels), genant_index(heights))


decoding = LevelDecoding().model_dump()


@quick
@given(seeds, st.integers(1, 12))
def test_a_named_column_descends_and_its_probabilities_are_some(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 4, (count, len(NAMED)))
    evidence = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    pitch = rng.uniform(0.5, 3, count - 1)
    found = name_column(evidence, pitch, **decoding)
    named = [NAMED.index(level) for level in found.levels if level]
    assert all(a < b for a, b in itertools.pairwise(named))
    known = np.array([level != "" for level in found.levels])
    assert np.isnan(found.probability[~known]).all()
    assert ((found.probability[known] >= 0) & (found.probability[known] <= 1 + 1e-9)).all()
    assert all(doubt == "" or doubt != level for doubt, level in zip(found.doubt, found.levels, strict=True))


@quick
@given(seeds, st.floats(0.2, 5))
def test_the_pitch_sees_no_motion_and_no_size(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    points = spine(rng)
    np.testing.assert_allclose(expected_pitch(moved(points, rng) * scale), expected_pitch(points), rtol=1e-6)


# --- detections, matching


def candidates(rng: np.random.Generator, count: int) -> tuple[Floats, Floats, Floats]:
    """Descending scores, keypoints (n, 6, 2) and anchors (n, 2) of candidates about a few vertebrae."""
    body = np.array([[-8, -12], [8, -12], [-8, 0], [8, 0], [-8, 12], [8, 12]], dtype=float)
    middle = np.column_stack([rng.integers(0, 4, count) * 30 + rng.normal(0, 2, count), rng.normal(0, 2, count)])
    points = body + middle[:, None] + rng.normal(0, 0.5, (count, 6, 2))
    return np.sort(rng.uniform(0.1, 1, count))[::-1], points, middle


@quick
@given(seeds, st.integers(0, 30), st.sampled_from(["butterfly", "box"]), st.floats(0.05, 0.6))
def test_suppression_again_changes_nothing_and_sees_no_shift(
    seed: int, count: int, overlap: Any, threshold: float
) -> None:
    scores, points, anchors = candidates(np.random.default_rng(seed), count)
    options: dict[str, Any] = {"overlap": overlap, "threshold": threshold, "average_px": 0.0}
    winners = suppress(scores, points, anchors, **options)
    kept = np.array([w.score for w in winners])
    assert (np.diff(kept) <= 0).all()
    if winners:
        assert winners[0].score == scores[0]
        left = np.stack([w.keypoints for w in winners])
        again = suppress(kept, left, left.mean(axis=1), **options)
        assert [w.score for w in again] == kept.tolist()
    shifted = suppress(scores, points + 1000.0, anchors + 1000.0, **options)
    assert [w.score for w in shifted] == kept.tolist()


@quick
@given(seeds, st.sampled_from(["butterfly", "box", "distance"]), st.integers(0, 7), st.integers(0, 7))
def test_a_matching_is_one_to_one_and_sees_no_motion_and_no_order(
    seed: int, closeness: Any, targets: int, predictions: int
) -> None:
    rng = np.random.default_rng(seed)
    truth = spine(rng, 7)[rng.permutation(7)[:targets]]
    found = (spine(rng, 7) + rng.normal(0, 4, (7, 1, 3)) * [0, 1, 1])[rng.permutation(7)[:predictions]]
    threshold = 20.0 if closeness == "distance" else 0.1
    pairs = match(truth, found, closeness=closeness, threshold=threshold)
    assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == len(pairs) <= min(targets, predictions)
    both = np.concatenate([truth.reshape(-1, 3), found.reshape(-1, 3)])
    turned = moved(both, rng).reshape(-1, 6, 3)
    assert match(turned[:targets], turned[targets:], closeness=closeness, threshold=threshold) == pairs
    order = rng.permutation(targets)
    shuffled = match(truth[order], found, closeness=closeness, threshold=threshold)
    assert sorted((int(order[i]), j) for i, j in shuffled) == pairs
    if targets and predictions and closeness != "distance":
        iou = overlaps(truth, found, closeness)
        assert ((iou >= 0) & (iou <= 1 + 1e-9)).all()
        assert np.allclose(np.diag(overlaps(truth, truth, closeness)), 1)


@quick
@given(seeds)
def test_distances_are_a_metric(seed: int) -> None:
    points = np.random.default_rng(seed).normal(0, 100, (6, 3))
    gap = distances(points, points)
    assert np.allclose(gap, gap.T)
    assert np.allclose(np.diag(gap), 0)
    assert (gap[:, None, :] <= gap[:, :, None] + gap[None] + 1e-9).all()


@quick
@given(seeds, st.floats(0, 30))
def test_who_is_identified_is_near_and_has_the_right_name(seed: int, noise: float) -> None:
    rng = np.random.default_rng(seed)
    points = spine(rng)
    gap = distances(points, centers(points) + rng.normal(0, noise, (6, 3)))
    levels = [f"L{n}" for n in range(1, 7)]
    given_levels = list(rng.permutation([*levels[:4], "", "T1"]))
    found = identified(gap, levels, given_levels)
    for row, target, hit in zip(gap, levels, found, strict=True):
        near = [k for k, level in enumerate(given_levels) if level]
        nearest = min(near, key=lambda k: row[k])
        assert hit == (row[nearest] <= 20 and given_levels[nearest] == target)
    assert identified(gap, [""] * 6, given_levels) == [None] * 6


# --- metrics, bootstrap


def measure(statistic: Any, x: Floats, y: Floats, patients: NDArray[np.object_]) -> Measure:
    return Measure("m", "", "", "", statistic, patients, x, y, True, "")


REFERENCES: dict[str, Callable[[Floats, Floats], float]] = {
    "mean": lambda x, y: float(x.mean()),
    "correlation": lambda x, y: float(pearsonr(x, y).statistic),
    "kappa": lambda x, y: float(cohen_kappa_score(x, y, weights="quadratic", labels=[0, 1, 2, 3])),
    "auc": lambda x, y: float(roc_auc_score(x, y)),
}


def rows_of(statistic: str, rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
    if statistic == "kappa":
        return rng.integers(0, 4, n).astype(float), rng.integers(0, 4, n).astype(float)
    x = rng.integers(0, 2, n).astype(float) if statistic == "auc" else rng.normal(0, 3, n)
    x[:2] = 0, 1
    return x, np.round(rng.normal(0, 1, n) + x, 1)


@quick
@given(seeds, st.sampled_from(list(REFERENCES)), st.integers(4, 40))
def test_a_metric_is_the_plain_one_in_any_order_of_rows(seed: int, statistic: str, n: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rows_of(statistic, rng, n)
    patients = np.array([f"p{k}" for k in rng.integers(0, 5, n)], dtype=object)
    expected = REFERENCES[statistic](x, y)
    assert measure(statistic, x, y, patients).value == pytest.approx(expected, abs=1e-9, nan_ok=True)
    order = rng.permutation(n)
    assert measure(statistic, x[order], y[order], patients[order]).value == pytest.approx(
        expected, abs=1e-9, nan_ok=True
    )


@quick
@given(seeds, st.sampled_from(["auc", "correlation"]), st.floats(0.01, 100), st.floats(-50, 50))
def test_what_ranks_or_correlates_sees_no_scale_of_the_score(
    seed: int, statistic: str, scale: float, offset: float
) -> None:
    rng = np.random.default_rng(seed)
    x, y = rows_of(statistic, rng, 30)
    patients = np.array([f"p{k % 5}" for k in range(30)], dtype=object)
    value = measure(statistic, x, y, patients).value
    assert measure(statistic, x, y * scale + offset, patients).value == pytest.approx(value, abs=1e-6)
    flipped = measure(statistic, x, -y, patients).value
    assert flipped == pytest.approx(1 - value if statistic == "auc" else -value, abs=1e-9)


@settings(quick, max_examples=10)
@given(seeds, st.integers(2, 12), st.floats(0.1, 10), st.floats(-100, 100))
def test_an_interval_holds_the_mean_of_resamples_and_moves_with_the_values(
    seed: int, patients: int, scale: float, offset: float
) -> None:
    rng = np.random.default_rng(seed)
    whose = np.array([f"p{k}" for k in np.concatenate([np.arange(patients), rng.integers(0, patients, 20)])], object)
    x = rng.normal(0, 1, len(whose))
    here, there = (measure("mean", values, values, whose) for values in (x, x * scale + offset))
    low, high = (float(end[0]) for end in intervals([[here]], resamples=200, seed=seed))
    assert x.min() - 1e-9 <= low <= high <= x.max() + 1e-9
    other = [float(end[0]) for end in intervals([[there]], resamples=200, seed=seed)]
    assert other == pytest.approx([low * scale + offset, high * scale + offset], abs=1e-6)


# --- intensities, sentences, tables


@quick
@given(seeds, st.sampled_from(["window", "min_max", "unit_variance"]), st.floats(-900, 0), st.floats(1, 2000))
def test_scaled_intensities_are_bounded_monotone_and_blind_beyond_the_window(
    seed: int, scaling: Any, low: float, width: float
) -> None:
    window = (low, low + width)
    hu = torch.from_numpy(np.random.default_rng(seed).integers(-2000, 4000, (2, 1, 6, 7)).astype(np.int16))
    scaled = scale_intensity(hu, scaling=scaling, window_hu=window)
    assert bool(torch.isfinite(scaled).all())
    if scaling != "unit_variance":
        assert float(scaled.min()) >= 0
        assert float(scaled.max()) <= 1 + 1e-6
    for values, result in zip(hu, scaled, strict=True):
        order = values.flatten().argsort()
        assert bool((result.flatten()[order].diff() >= -1e-6).all())
    clipped = hu.to(torch.float32).clamp(*window)
    assert torch.allclose(scale_intensity(clipped, scaling=scaling, window_hu=window), scaled, atol=1e-5)


def test_a_scaled_context_covers_minus_one_to_one_in_order() -> None:
    scaled = scale_context(torch.arange(256, dtype=torch.uint8))
    assert float(scaled[0]) == -1
    assert float(scaled[-1]) == 1
    assert bool((scaled.diff() > 0).all())


@quick
@given(st.floats(0, 1))
def test_the_number_told_has_the_grade_of_the_number_meant(index: float) -> None:
    text = genant_text(index)
    assert grade(float(text)) == grade(index)
    assert abs(float(text) - index) <= 0.005 + 1e-9


statuses = st.sampled_from(["ok", "ok", "ok", "partial", "low_score", "sacrum", "not_measured"])


@quick
@given(st.lists(st.tuples(statuses, st.floats(0.2, 1)), max_size=12), st.booleans())
def test_a_sentence_counts_all_and_tells_the_worst(rows: list[tuple[str, float]], named: bool) -> None:
    vertebrae = tables.VERTEBRAE.frame(
        {
            "vertebra": n, "status": status, "genant": index, "level": NAMED[n] if named else "", "case": "c",
            "grade": int(grade(index)) if status == "ok" else None,
        }
        for n, (status, index) in enumerate(rows, start=1)
    )  # fmt: skip
    sentence = scan_sentence(vertebrae)
    assert sentence.endswith(".")
    assert printable(sentence) == sentence
    graded = [int(grade(index)) for status, index in rows if status == "ok"]
    if graded and max(graded):
        assert f"grade {max(graded)}" in sentence
        assert GRADES[max(graded)] in sentence
        assert all(f"grade {severity}" not in sentence for severity in range(max(graded) + 1, 4))
    assert ("no fracture" in sentence) == bool(graded and not max(graded))


@quick
@given(texts, texts)
def test_a_failure_is_a_sentence_that_ends_once(reason: str, source: str) -> None:
    told = failure_sentence(f"{source}: {reason}", source)
    assert told.startswith("Not measured: ")
    assert told.endswith(".")
    assert not told.endswith("..")


@quick
@given(seeds, st.integers(0, 5))
def test_keypoints_go_through_columns_and_back(seed: int, count: int) -> None:
    points = np.random.default_rng(seed).normal(0, 1e3, (count, 6, 3))
    rows = tables.ANNOTATIONS.frame({"case": "c", "vertebra": 1, **tables.keypoint_values(one)} for one in points)
    np.testing.assert_array_equal(tables.keypoints_of(rows).reshape(-1, 6, 3), points)
