"""Laws of the suppression: it is the greedy one, whatever the index structure; only near candidates are averaged."""

from typing import Literal

import numpy as np
import pytest
import shapely
from numpy.typing import NDArray
from shapely.geometry import Polygon, box

from vertfrac.geometry.keypoints import POLYGON_ORDER
from vertfrac.inference.nms import suppress

Floats = NDArray[np.float64]
Overlap = Literal["butterfly", "box"]
SHAPE = np.array([[-9, -12], [9, -12], [-8, 0], [8, 0], [-9, 12], [9, 12]], dtype=np.float64)


def _candidates(seed: int, count: int = 60) -> tuple[Floats, Floats, Floats]:
    rng = np.random.default_rng(seed)
    anchors = rng.uniform([20, 20], [140, 60], (count, 2))
    keypoints = anchors[:, None] + SHAPE * rng.uniform(0.6, 1.3, (count, 1, 2)) + rng.normal(0, 2.5, (count, 6, 2))
    return np.sort(rng.uniform(0, 1, count))[::-1], keypoints, anchors


def _shape(points: Floats, overlap: Overlap) -> shapely.Geometry:
    if overlap == "box":
        return box(*points.min(axis=0), *points.max(axis=0))
    polygon = Polygon(points[list(POLYGON_ORDER)])
    return polygon if polygon.is_valid else shapely.make_valid(polygon, method="structure", keep_collapsed=False)


def _iou(a: shapely.Geometry, b: shapely.Geometry) -> float:
    union = a.union(b).area
    return a.intersection(b).area / union if union > 0 else 0.0


def _greedy(keypoints: Floats, overlap: Overlap, threshold: float) -> list[list[int]]:
    """Winner and those it removes, one by one."""
    shapes = [_shape(points, overlap) for points in keypoints]
    alive, groups = list(range(len(keypoints))), []
    while alive:
        first = alive[0]
        group = [j for j in alive if j == first or _iou(shapes[first], shapes[j]) > threshold]
        groups.append(group)
        alive = [j for j in alive if j not in group]
    return groups


@pytest.mark.parametrize("overlap", ["butterfly", "box"])
@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("seed", range(4))
def test_winners_are_those_of_a_plain_greedy_loop(seed: int, threshold: float, overlap: Overlap) -> None:
    scores, keypoints, anchors = _candidates(seed)
    found = suppress(scores, keypoints, anchors, overlap=overlap, threshold=threshold, average_px=0.0)
    winners = [group[0] for group in _greedy(keypoints, overlap, threshold)]
    assert [d.score for d in found] == scores[winners].tolist()


@pytest.mark.parametrize("overlap", ["butterfly", "box"])
@pytest.mark.parametrize("seed", range(3))
def test_a_winner_is_the_weighted_mean_of_its_near_followers(seed: int, overlap: Overlap) -> None:
    scores, keypoints, anchors = _candidates(seed, count=150)
    found = suppress(scores, keypoints, anchors, overlap=overlap, threshold=0.1, average_px=8.0)
    groups, averaged = _greedy(keypoints, overlap, 0.1), 0
    for detection, group in zip(found, groups, strict=True):
        near = [j for j in group if np.linalg.norm(anchors[j] - anchors[group[0]]) <= 8.0]
        averaged += len(near) > 1
        assert np.allclose(detection.keypoints, np.average(keypoints[near], axis=0, weights=scores[near]))
    assert averaged > 3


def test_without_averaging_the_winners_keep_their_keypoints() -> None:
    scores, keypoints, anchors = _candidates(1)
    found = suppress(scores, keypoints, anchors, overlap="butterfly", threshold=0.1, average_px=0.0)
    for detection in found:
        assert np.array_equal(detection.keypoints, keypoints[scores.tolist().index(detection.score)])
        assert detection.spread == 0.0


def test_the_spread_of_two_candidates_is_half_their_distance() -> None:
    keypoints = np.stack([SHAPE, SHAPE + np.array([0.0, 2.0])]) + 50
    found = suppress(
        np.array([0.8, 0.8]), keypoints, np.full((2, 2), 50.0), overlap="butterfly", threshold=0.1, average_px=1.0
    )
    assert found[0].spread == pytest.approx(1.0)


@pytest.mark.parametrize("overlap", ["butterfly", "box"])
def test_nothing_in_nothing_out(overlap: Overlap) -> None:
    empty = suppress(np.zeros(0), np.zeros((0, 6, 2)), np.zeros((0, 2)), overlap=overlap, threshold=0.1, average_px=4.0)
    assert empty == []


@pytest.mark.parametrize("overlap", ["butterfly", "box"])
def test_of_equal_candidates_with_equal_scores_the_first_alone_stays(overlap: Overlap) -> None:
    keypoints = np.repeat(SHAPE[None] + 40, 5, axis=0)
    found = suppress(np.full(5, 0.9), keypoints, np.full((5, 2), 40.0), overlap=overlap, threshold=0.1, average_px=0.0)
    assert len(found) == 1


@pytest.mark.parametrize("overlap", ["butterfly", "box"])
def test_candidates_apart_all_stay(overlap: Overlap) -> None:
    keypoints = SHAPE[None] + np.arange(4)[:, None, None] * [30.0, 0.0]
    found = suppress(np.full(4, 0.9), keypoints, np.zeros((4, 2)), overlap=overlap, threshold=0.0, average_px=4.0)
    assert [d.keypoints[0, 0] for d in found] == keypoints[:, 0, 0].tolist()


@pytest.mark.parametrize("overlap", ["butterfly", "box"])
@pytest.mark.parametrize("collapse", [np.zeros((6, 2)), np.array([[r, 0.0] for r in range(6)])], ids=["point", "line"])
def test_collapsed_candidates_do_no_harm(collapse: Floats, overlap: Overlap) -> None:
    keypoints = np.stack([collapse, collapse, SHAPE]) + 40
    found = suppress(
        np.array([0.9, 0.8, 0.7]), keypoints, np.zeros((3, 2)), overlap=overlap, threshold=0.1, average_px=4.0
    )
    assert any(np.array_equal(d.keypoints, SHAPE + 40) for d in found)


@pytest.mark.parametrize("overlap", ["butterfly", "box"])
def test_suppressing_the_winners_again_changes_nothing(overlap: Overlap) -> None:
    scores, keypoints, anchors = _candidates(2)
    once = suppress(scores, keypoints, anchors, overlap=overlap, threshold=0.1, average_px=0.0)
    again = suppress(
        np.array([d.score for d in once]), np.stack([d.keypoints for d in once]), np.zeros((len(once), 2)),
        overlap=overlap, threshold=0.1, average_px=0.0,
    )  # fmt: skip
    assert len(again) == len(once)


@pytest.mark.parametrize("average_px", [0.0, 8.0])
def test_the_spread_adds_what_the_networks_disagree_on(average_px: float) -> None:
    scores, keypoints, anchors = _candidates(1)
    alone, together = (
        suppress(scores, keypoints, anchors, variance, overlap="butterfly", threshold=0.1, average_px=average_px)
        for variance in (None, np.full(len(scores), 9.0))
    )
    for one, many in zip(alone, together, strict=True):
        assert many.spread**2 == pytest.approx(one.spread**2 + 9.0)
        assert np.array_equal(one.keypoints, many.keypoints)
