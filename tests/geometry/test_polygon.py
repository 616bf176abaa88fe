"""Laws of vertfrac.geometry.polygon, against plain scalar computations."""

from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from shapely.geometry import Polygon

from vertfrac.errors import GeometryError
from vertfrac.geometry.keypoints import POLYGON_ORDER
from vertfrac.geometry.polygon import Overlaps, box_iou, boxes, butterflies, butterfly_iou

seeds = st.integers(0, 2**31)


def vertebrae(rng: np.random.Generator, count: int) -> np.ndarray:
    """Vertebra-like hexagons near each other: (count, 6, 2)."""
    base = np.array([[-14, -10], [-14, 10], [0, -9], [0, 9], [14, -10], [14, 10]], dtype=float)
    angle = rng.uniform(-0.5, 0.5, count)
    turn = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], axis=-1).reshape(-1, 2, 2)
    points = (base + rng.normal(0, 2.0, (count, 6, 2))) @ turn
    return points * rng.uniform(0.5, 1.5, (count, 1, 1)) + rng.uniform(-25, 25, (count, 1, 2))


def scattered(rng: np.random.Generator, count: int) -> np.ndarray:
    """Random point sets, most of them self-intersecting."""
    return rng.uniform(-30, 30, (count, 6, 2))


def crossed(rng: np.random.Generator, count: int) -> np.ndarray:
    """Vertebrae with the ends of one or more heights swapped: bow ties."""
    points = vertebrae(rng, count)
    for i, height in enumerate(rng.integers(0, 3, count)):
        points[i, [2 * height, 2 * height + 1]] = points[i, [2 * height + 1, 2 * height]]
    return points


def degenerate(rng: np.random.Generator, count: int) -> np.ndarray:
    """All points equal, on one line, or equal in pairs."""
    points = scattered(rng, count)
    points[0::4] = points[0::4, :1]
    points[1::4] = points[1::4, :1] * rng.integers(-3, 4, points[1::4, :, :1].shape)
    points[2::4, 1::2] = points[2::4, 0::2]
    points[3::4] = np.round(points[3::4] / 15)
    return points


def mixed(seed: int, count: int = 16) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.concatenate([make(rng, count // 4) for make in (vertebrae, scattered, crossed, degenerate)])


def scalar_polygon(points: np.ndarray) -> Polygon:
    polygon = Polygon([tuple(points[k]) for k in POLYGON_ORDER])
    return polygon if polygon.is_valid else shapely.make_valid(polygon, method="structure", keep_collapsed=False)


def scalar_iou(a: Polygon, b: Polygon) -> float:
    overlap = a.intersection(b).area
    union = a.area + b.area - overlap
    return float(overlap / union) if union > 0 else 0.0


@pytest.mark.parametrize("block", range(8))
def test_equals_the_plain_scalar_computation(block: int) -> None:
    """8 blocks of 15 x 16 + 16: 2048 hexagons, each compared with 16 others, a quarter of them of each kind."""
    for part in range(8):
        a, b = mixed(1000 * block + part), mixed(1000 * block + part + 500)
        expected = [[scalar_iou(p, q) for q in map(scalar_polygon, b)] for p in map(scalar_polygon, a)]
        np.testing.assert_allclose(butterfly_iou(a, b), expected, atol=1e-9, rtol=0)


@given(seeds)
def test_symmetric_bounded_and_one_with_itself(seed: int) -> None:
    a, b = mixed(seed), mixed(seed + 1)
    iou = butterfly_iou(a, b)
    np.testing.assert_allclose(butterfly_iou(b, a).T, iou, atol=1e-9)
    own = np.diagonal(butterfly_iou(a, a))
    solid = shapely.area(butterflies(a)) > 1e-6
    np.testing.assert_allclose(own[solid], 1, atol=1e-9)
    for values in (iou, own):
        assert values.min() >= 0
        assert values.max() <= 1 + 1e-12


@given(seeds, st.floats(-np.pi, np.pi), st.floats(0.01, 100))
def test_invariant_to_similarity(seed: int, angle: float, scale: float) -> None:
    rng = np.random.default_rng(seed)
    a, b = vertebrae(rng, 6), np.concatenate([vertebrae(rng, 4), scattered(rng, 4)])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shift = rng.uniform(-200, 200, 2)
    moved = butterfly_iou(scale * a @ turn + shift, scale * b @ turn + shift)
    np.testing.assert_allclose(moved, butterfly_iou(a, b), atol=1e-7)
    mirrored = [1.0, -1.0]
    np.testing.assert_allclose(butterfly_iou(a * mirrored, b * mirrored), butterfly_iou(a, b), atol=1e-9)
    np.testing.assert_allclose(butterfly_iou(a[:, ::-1], b[:, ::-1]), butterfly_iou(a, b), atol=1e-9)


def winding(points: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Winding number of the butterfly ring around (k, 2) points, from the angles that its edges subtend."""
    ring = points[list(POLYGON_ORDER)]
    d = ring[None] - at[:, None]
    e = np.roll(d, -1, axis=1)
    turn = np.arctan2(d[..., 0] * e[..., 1] - d[..., 1] * e[..., 0], (d * e).sum(axis=-1))
    return np.asarray(np.round(turn.sum(axis=1) / (2 * np.pi)))


@pytest.mark.parametrize("make", [vertebrae, scattered, crossed])
def test_agrees_with_counting_points_inside(make: Any) -> None:
    """Independent of shapely: inside is where the ring winds around, whichever way, once or more."""
    rng = np.random.default_rng(5)
    a, b = make(rng, 8), make(rng, 8)
    low, high = np.minimum(a.min(axis=(0, 1)), b.min(axis=(0, 1))), np.maximum(a.max(axis=(0, 1)), b.max(axis=(0, 1)))
    steps = [np.linspace(lo, hi, 150) for lo, hi in zip(low, high, strict=True)]
    at = np.stack(np.meshgrid(*steps), axis=-1).reshape(-1, 2) + 1e-4
    in_a, in_b = (np.array([winding(p, at) != 0 for p in set_]) for set_ in (a, b))
    both = (in_a[:, None] & in_b[None]).sum(axis=-1)
    either = (in_a[:, None] | in_b[None]).sum(axis=-1)
    np.testing.assert_allclose(butterfly_iou(a, b), both / either, atol=0.03)
    cell = np.prod((high - low) / 149)
    np.testing.assert_allclose(shapely.area(butterflies(a)), in_a.sum(axis=1) * cell, rtol=0.03, atol=15)


@given(seeds, st.sampled_from([0.0, 0.1, 0.5, 0.9]), st.sampled_from([0.2, 1.0]))
def test_boxes_never_contradict_the_intersection(seed: int, threshold: float, apart: float) -> None:
    points = mixed(seed)
    points += (apart - 1) * points.mean(axis=1, keepdims=True)
    iou, overlaps, all_ = butterfly_iou(points, points), Overlaps(points), np.arange(len(points))
    found = np.stack([overlaps.beyond(threshold, one, all_) for one in all_])
    clear = np.abs(iou - threshold) > 1e-6
    np.testing.assert_array_equal(found[clear], (iou > threshold)[clear])


def test_known_overlaps() -> None:
    box = np.array([[0, 0], [0, 2], [1, 0], [1, 2], [2, 0], [2, 2]], dtype=float)
    right = np.array([1.0, 0.0])
    others = np.stack([box, box + right, box + 2 * right, box + 50 * right, box / 2])
    np.testing.assert_allclose(butterfly_iou(box[None], others)[0], [1, 1 / 3, 0, 0, 1 / 4], atol=1e-12)
    np.testing.assert_allclose(box_iou(box[None], others)[0], [1, 1 / 3, 0, 0, 1 / 4], atol=1e-12)


def test_a_vertebra_without_area_overlaps_nothing() -> None:
    point, line = np.full((6, 2), 3.0), np.repeat(np.arange(6.0), 2).reshape(6, 2)
    flat, some = np.stack([point, line]), vertebrae(np.random.default_rng(0), 5)
    np.testing.assert_array_equal(
        butterfly_iou(flat, np.concatenate([flat, some, scattered(np.random.default_rng(1), 5)])), 0
    )


def test_a_bow_tie_keeps_both_its_wings() -> None:
    tie = np.array([[0, 0], [0, 2], [1, 1], [1, 1], [2, 2], [2, 0]], dtype=float)
    assert shapely.area(butterflies(tie[None]))[0] == pytest.approx(2.0)


def test_empty_sets_and_missing_points() -> None:
    some, none = vertebrae(np.random.default_rng(0), 3), np.zeros((0, 6, 2))
    for iou in (butterfly_iou, box_iou):
        assert iou(some, none).shape == (3, 0)
        assert iou(none, some).shape == (0, 3)
        assert iou(none, none).shape == (0, 0)
    some[1, 2] = np.nan
    with pytest.raises(GeometryError, match="finite"):
        butterfly_iou(some, some)


@given(seeds)
def test_box_iou_equals_a_plain_loop(seed: int) -> None:
    a, b = mixed(seed), mixed(seed + 1)
    result = box_iou(a, b)
    for i, p in enumerate(a):
        for j, q in enumerate(b):
            sides, size_p, size_q = [], 1.0, 1.0
            for k in (0, 1):
                sides.append(max(0.0, min(p[:, k].max(), q[:, k].max()) - max(p[:, k].min(), q[:, k].min())))
                size_p *= p[:, k].max() - p[:, k].min()
                size_q *= q[:, k].max() - q[:, k].min()
            overlap = sides[0] * sides[1]
            union = size_p + size_q - overlap
            assert result[i, j] == pytest.approx(overlap / union if union > 0 else 0.0, abs=1e-12)


@given(seeds)
def test_box_iou_is_symmetric_and_boxes_hold_their_points(seed: int) -> None:
    a, b = mixed(seed), mixed(seed + 1)
    np.testing.assert_array_equal(box_iou(a, b), box_iou(b, a).T)
    edges = boxes(a)[:, None]
    assert ((a >= edges[..., :2]) & (a <= edges[..., 2:])).all()
    assert box_iou(a, b).min() >= 0
    assert box_iou(a, b).max() <= 1
