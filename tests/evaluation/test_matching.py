"""Laws of matching: greedy by closeness, one to one, as an independent slow implementation finds it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
import shapely
from numpy.typing import NDArray
from shapely.geometry import Polygon

from vertfrac.errors import GeometryError
from vertfrac.evaluation.matching import distances, match, overlaps, plane_axes
from vertfrac.geometry.keypoints import POLYGON_ORDER, centers

Floats = NDArray[np.float64]
MakeSpine = Callable[..., Floats]
BUTTERFLY: dict[str, Any] = {"closeness": "butterfly", "threshold": 0.1}
BOX: dict[str, Any] = {"closeness": "box", "threshold": 0.1}
DISTANCE: dict[str, Any] = {"closeness": "distance", "threshold": 20.0}
EVERY = pytest.mark.parametrize("how", [BUTTERFLY, BOX, DISTANCE], ids=lambda how: how["closeness"])


def _scene(seed: int) -> tuple[Floats, Floats]:
    """Up to four upright targets at whole millimetres, so that ties are exact; predictions near them, some doubled."""
    rng = np.random.default_rng(seed)
    n, m = rng.integers(0, 5, 2)
    pool = rng.integers(0, 3, (max(n, m, 1), 3)) * np.array([0, 4, 8])
    base = np.array([[0, 8, 6], [0, 8, -6], [0, 0, 6], [0, 0, -6], [0, -8, 6], [0, -8, -6]], dtype=np.float64)
    targets, predictions = (base + pool[rng.integers(0, len(pool), k), None] for k in (n, m))
    predictions = predictions + rng.integers(-1, 2, (m, 1, 3)) * np.array([0, 4, 4])
    if rng.random() < 0.3 and m:
        predictions = np.concatenate([predictions, predictions[:1]])
    if rng.random() < 0.5:
        predictions = predictions + rng.normal(0, 1, predictions.shape) * [0, 1, 1]
    return targets, predictions


def _slow_closeness(target: Floats, prediction: Floats, closeness: str) -> float:
    """Larger is closer; the plane of an upright target is that of y and z."""
    if closeness == "distance":
        return -float(np.sqrt((((target[2] + target[3]) / 2 - (prediction[2] + prediction[3]) / 2) ** 2).sum()))
    if closeness == "box":
        shapes = [
            shapely.box(*points[:, 1:].min(axis=0), *points[:, 1:].max(axis=0)) for points in (target, prediction)
        ]
    else:
        rings = [Polygon([points[k, 1:] for k in POLYGON_ORDER]) for points in (target, prediction)]
        shapes = [ring if ring.is_valid else shapely.make_valid(ring, method="structure") for ring in rings]
    overlap = shapes[0].intersection(shapes[1]).area
    return float(overlap / (shapes[0].area + shapes[1].area - overlap))


def _slow_match(targets: Floats, predictions: Floats, closeness: str, threshold: float) -> list[tuple[int, int]]:
    left = {}
    for i, j in product(range(len(targets)), range(len(predictions))):
        close = _slow_closeness(targets[i], predictions[j], closeness)
        if close >= (-threshold if closeness == "distance" else threshold):
            left[i, j] = close
    pairs = []
    while left:
        best = max(left, key=lambda pair: (left[pair], -pair[0], -pair[1]))
        pairs.append(best)
        left = {pair: close for pair, close in left.items() if pair[0] != best[0] and pair[1] != best[1]}
    return sorted(pairs)


@EVERY
def test_pairs_are_those_of_brute_force_on_a_thousand_scenes(how: dict[str, Any]) -> None:
    how = {**how, "threshold": 8.0} if how["closeness"] == "distance" else how
    empty, several = 0, 0
    for seed in range(1000):
        targets, predictions = _scene(seed)
        pairs = match(targets, predictions, **how)
        assert pairs == _slow_match(targets, predictions, **how), f"scene {seed}"
        empty += not len(targets) or not len(predictions)
        several += len(pairs) > 1
    assert min(empty, several) > 100, "the scenes must cover both"


@EVERY
@pytest.mark.parametrize("seed", range(4))
def test_the_order_of_predictions_does_not_matter(how: dict[str, Any], seed: int, spine_keypoints: MakeSpine) -> None:
    rng = np.random.default_rng(seed)
    targets = spine_keypoints(6, bend_mm=15.0) + rng.normal(0, 0.5, (6, 6, 3))
    predictions = targets[rng.integers(0, 6, 8)] + rng.normal(0, 5, (8, 1, 3)) + rng.normal(0, 1, (8, 6, 3))
    backwards = [(i, 7 - j) for i, j in match(targets, predictions[::-1], **how)]
    assert backwards == match(targets, predictions, **how)


@EVERY
def test_equally_close_pairs_come_in_order(how: dict[str, Any], spine_keypoints: MakeSpine) -> None:
    one = spine_keypoints(1)
    twice = np.concatenate([one, one])
    assert match(one, twice, **how) == [(0, 0)]
    assert match(twice, one, **how) == [(0, 0)]
    assert match(twice, twice, **how) == [(0, 0), (1, 1)]


@EVERY
def test_everything_matches_itself(how: dict[str, Any], spine_keypoints: MakeSpine) -> None:
    keypoints = spine_keypoints(5)
    assert match(keypoints, keypoints, **how) == [(n, n) for n in range(5)]


@EVERY
@pytest.mark.parametrize(("n", "m"), [(0, 0), (3, 0), (0, 3)])
def test_an_empty_side_gives_no_pair(how: dict[str, Any], n: int, m: int, spine_keypoints: MakeSpine) -> None:
    keypoints = spine_keypoints(3)
    assert match(keypoints[:n], keypoints[:m], **how) == []


@EVERY
def test_a_missed_vertebra_stays_missed_beside_a_near_neighbour(
    how: dict[str, Any], spine_keypoints: MakeSpine
) -> None:
    """The neighbour's prediction is within 20 mm of the missed vertebra, and is used up by the neighbour."""
    targets = spine_keypoints(5, pitch=16.0)
    assert match(targets, np.delete(targets, 2, axis=0), **how) == [(0, 0), (1, 1), (3, 2), (4, 3)]


@pytest.mark.parametrize("closeness", ["butterfly", "box"])
def test_an_overlap_of_nothing_is_no_match_even_without_a_threshold(closeness: Any, spine_keypoints: MakeSpine) -> None:
    targets = spine_keypoints(2)
    assert match(targets, targets + np.array([0, 500, 0]), closeness=closeness, threshold=0.0) == []


@EVERY
def test_only_the_distance_sees_what_is_out_of_the_plane(how: dict[str, Any], spine_keypoints: MakeSpine) -> None:
    targets = spine_keypoints(2, pitch=60.0)
    assert len(match(targets, targets + np.array([20.0, 0, 0]), **how)) == 2
    assert len(match(targets, targets + np.array([21.0, 0, 0]), **how)) == (0 if how["closeness"] == "distance" else 2)


def test_centres_alone_are_enough_for_the_distance(spine_keypoints: MakeSpine) -> None:
    targets = spine_keypoints(4)
    predictions = targets[[2, 0, 3]] + np.array([1.0, -2.0, 3.0])
    expected = match(targets, predictions, **DISTANCE)
    assert expected == [(0, 1), (2, 0), (3, 2)]
    assert match(centers(targets), predictions, **DISTANCE) == expected
    assert match(centers(targets), centers(predictions), **DISTANCE) == expected


def test_distances_are_those_of_the_centres(spine_keypoints: MakeSpine) -> None:
    targets = spine_keypoints(3, pitch=30.0)
    assert np.allclose(distances(targets, targets + np.array([2.0, 3.0, 6.0])).diagonal(), 7.0)


@pytest.mark.parametrize("closeness", ["butterfly", "box"])
def test_the_overlap_of_a_vertebra_with_itself_is_one(closeness: Any, spine_keypoints: MakeSpine) -> None:
    keypoints = spine_keypoints(3, heights=[[14, 18, 20]])
    assert np.allclose(np.diag(overlaps(keypoints, keypoints, closeness)), 1.0)


@pytest.mark.parametrize("closeness", ["butterfly", "box"])
def test_overlaps_do_not_depend_on_the_frame(closeness: Any, spine_keypoints: MakeSpine) -> None:
    from scipy.spatial.transform import Rotation

    targets = spine_keypoints(3, heights=[[14, 18, 20]])
    predictions = targets + np.array([0.0, 4.0, -6.0])
    moved = [
        Rotation.from_rotvec([0.4, -1.0, 2.0]).apply(p.reshape(-1, 3)).reshape(p.shape) + 300
        for p in (targets, predictions)
    ]
    assert np.allclose(overlaps(*moved, closeness), overlaps(targets, predictions, closeness))


@pytest.mark.parametrize("seed", range(3))
def test_the_axes_of_a_plane_are_orthonormal_and_point_up_and_forward(seed: int, spine_keypoints: MakeSpine) -> None:
    points = spine_keypoints(1)[0] + np.random.default_rng(seed).normal(0, 1, (6, 3))
    axes = plane_axes(points)
    assert np.allclose(axes @ axes.T, np.eye(2))
    assert axes[0, 2] > 0.8
    assert axes[1, 1] > 0.8


def test_a_vertebra_without_depth_spans_no_plane(spine_keypoints: MakeSpine) -> None:
    flat = spine_keypoints(1) * np.array([1.0, 0.0, 1.0])
    with pytest.raises(GeometryError, match="span no plane"):
        overlaps(flat, flat)
