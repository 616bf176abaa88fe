"""Laws of matching: greedy by overlap, one to one, blind to the order of the predictions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import shapely
from numpy.typing import NDArray
from shapely.geometry import Polygon

from vertfrac.evaluation.matching import match, overlaps, plane_of
from vertfrac.geometry.keypoints import POLYGON_ORDER, centers

Floats = NDArray[np.float64]
MakeSpine = Callable[..., Floats]
LIMITS = {"smallest_iou": 0.1, "largest_distance_mm": 20.0}


def _scene(seed: int, make: MakeSpine) -> tuple[Floats, Floats]:
    """Targets, and predictions scattered around them, some doubled and some lost, in any order."""
    rng = np.random.default_rng(seed)
    targets = make(6, bend_mm=15.0) + rng.normal(0, 0.5, (6, 6, 3))
    chosen = rng.integers(0, 6, 8)
    return targets, targets[chosen] + rng.normal(0, 5, (8, 1, 3)) + rng.normal(0, 1, (8, 6, 3))


def _slow_iou(target: Floats, prediction: Floats) -> float:
    origin = target.mean(axis=0)
    up = target[[0, 2, 4]].mean(axis=0) - target[[1, 3, 5]].mean(axis=0)
    up /= np.linalg.norm(up)
    forward = target[[0, 1]].mean(axis=0) - target[[4, 5]].mean(axis=0)
    forward -= forward @ up * up
    forward /= np.linalg.norm(forward)
    shapes = []
    for points in (target, prediction):
        flat = [((p - origin) @ up, (p - origin) @ forward) for p in points]
        polygon = Polygon([flat[k] for k in POLYGON_ORDER])
        shapes.append(polygon if polygon.is_valid else shapely.make_valid(polygon, method="structure"))
    return float(shapes[0].intersection(shapes[1]).area / shapes[0].union(shapes[1]).area)


def _slow_match(targets: Floats, predictions: Floats) -> list[tuple[int, int]]:
    left = {}
    for i, target in enumerate(targets):
        for j, prediction in enumerate(predictions):
            iou = _slow_iou(target, prediction)
            near = np.linalg.norm(centers(target) - centers(prediction)) <= LIMITS["largest_distance_mm"]
            if iou >= LIMITS["smallest_iou"] and near:
                left[i, j] = iou
    pairs = []
    while left:
        best = max(left, key=lambda pair: left[pair])
        pairs.append(best)
        left = {pair: iou for pair, iou in left.items() if pair[0] != best[0] and pair[1] != best[1]}
    return sorted(pairs)


@pytest.mark.parametrize("seed", range(8))
def test_pairs_are_those_of_a_plain_greedy_loop(seed: int, spine_keypoints: MakeSpine) -> None:
    targets, predictions = _scene(seed, spine_keypoints)
    assert match(targets, predictions, **LIMITS) == _slow_match(targets, predictions)


@pytest.mark.parametrize("seed", range(4))
def test_the_order_of_predictions_does_not_matter(seed: int, spine_keypoints: MakeSpine) -> None:
    targets, predictions = _scene(seed, spine_keypoints)
    backwards = [(i, len(predictions) - 1 - j) for i, j in match(targets, predictions[::-1], **LIMITS)]
    assert backwards == match(targets, predictions, **LIMITS)


@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_matched_twice(seed: int, spine_keypoints: MakeSpine) -> None:
    pairs = match(*_scene(seed, spine_keypoints), **LIMITS)
    assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == len(pairs)


def test_everything_matches_itself(spine_keypoints: MakeSpine) -> None:
    keypoints = spine_keypoints(5)
    assert match(keypoints, keypoints, **LIMITS) == [(n, n) for n in range(5)]


def test_an_overlap_of_nothing_is_no_match_even_without_a_threshold(spine_keypoints: MakeSpine) -> None:
    targets = spine_keypoints(2)
    assert match(targets, targets + np.array([0, 500, 0]), smallest_iou=0.0, largest_distance_mm=1e6) == []


def test_what_is_too_far_sideways_is_no_match(spine_keypoints: MakeSpine) -> None:
    """Out of the plane the overlap does not fall; the distance of the centres decides."""
    targets = spine_keypoints(2)
    assert len(match(targets, targets + np.array([19.0, 0, 0]), **LIMITS)) == 2
    assert match(targets, targets + np.array([21.0, 0, 0]), **LIMITS) == []


@pytest.mark.parametrize(("n", "m"), [(0, 0), (3, 0), (0, 3)])
def test_an_empty_side_gives_no_pair(n: int, m: int, spine_keypoints: MakeSpine) -> None:
    keypoints = spine_keypoints(3)
    assert match(keypoints[:n], keypoints[:m], **LIMITS) == []


def test_the_overlap_of_a_vertebra_with_itself_is_one(spine_keypoints: MakeSpine) -> None:
    keypoints = spine_keypoints(3, heights=[[14, 18, 20]])
    assert np.allclose(np.diag(overlaps(keypoints, keypoints)), 1.0)


@pytest.mark.parametrize("seed", range(3))
def test_the_axes_of_a_plane_are_orthonormal_and_point_up_and_forward(seed: int, spine_keypoints: MakeSpine) -> None:
    points = spine_keypoints(1)[0] + np.random.default_rng(seed).normal(0, 1, (6, 3))
    _, axes = plane_of(points)
    assert np.allclose(axes @ axes.T, np.eye(2))
    assert axes[0, 2] > 0.8
    assert axes[1, 1] > 0.8
