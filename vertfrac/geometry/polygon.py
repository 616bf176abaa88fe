"""Butterfly polygons of six keypoints and their intersection over union (Zakharov et al. 2022, "BIoU").

The polygon runs along the three superior points and back along the three inferior ones. A self-intersecting one is
repaired (``shapely.make_valid``), so that its area is always defined.
"""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray

from vertfrac.errors import GeometryError
from vertfrac.geometry.keypoints import POLYGON_ORDER

Floats = NDArray[np.float64]
Polygons = NDArray[np.object_]


def butterflies(keypoints: NDArray[np.floating]) -> Polygons:
    """Valid shapely geometries of (n, 6, 2) keypoints, as (n,) objects. Raises GeometryError on NaN or infinity."""
    rings = np.asarray(keypoints, dtype=np.float64)[:, POLYGON_ORDER, :]
    if not np.isfinite(rings).all():
        raise GeometryError("a butterfly polygon needs finite keypoints, found NaN or infinity")
    polygons = np.atleast_1d(np.asarray(shapely.polygons(rings), dtype=object))
    invalid = ~shapely.is_valid(polygons)
    if invalid.any():
        polygons[invalid] = shapely.make_valid(polygons[invalid], method="structure", keep_collapsed=False)
    return polygons


def iou_pairs(a: Polygons, b: Polygons) -> Floats:
    """Intersection over union of broadcast arrays of valid polygons; 0 where both are empty."""
    overlap = shapely.area(shapely.intersection(a, b))
    union = shapely.area(a) + shapely.area(b) - overlap
    iou: Floats = np.divide(overlap, union, out=np.zeros_like(union), where=union > 0)
    return iou


def butterfly_iou(a: NDArray[np.floating], b: NDArray[np.floating]) -> Floats:
    """BIoU of every pair of two sets of vertebrae.

    a : (n, 6, 2), b : (m, 6, 2), in one plane, any unit. Returns (n, m) in [0, 1].
    """
    first, second = butterflies(a), butterflies(b)
    result = np.zeros((len(first), len(second)))
    tree = shapely.STRtree(second)
    i, j = tree.query(first, predicate="intersects")
    result[i, j] = iou_pairs(first[i], second[j])
    return result


class Overlaps:
    """Which vertebrae of a set overlap one of them; bounding boxes settle it for most, without any intersection.

    Two areas A and B in a common box J, whose own boxes share I, have in common at least A + B - J and at most I.
    """

    def __init__(self, keypoints: NDArray[np.floating]) -> None:
        """keypoints : (n, 6, 2), in one plane, any unit. Raises GeometryError on NaN or infinity."""
        self._polygons = butterflies(keypoints)
        self._areas: Floats = shapely.area(self._polygons)
        # minima, then negative maxima: the minimum of two columns is their common box, the maximum what they share
        self._corners = np.ascontiguousarray((boxes(keypoints) * [1, 1, -1, -1]).T)

    def beyond(self, threshold: float, one: int, others: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Whether the BIoU of one vertebra and each of others (m,) is larger than a threshold, 0 to 1; (m,)."""
        corners, corner = self._corners[:, others], self._corners[:, one, None]
        common, shared = np.minimum(corners, corner), np.maximum(corners, corner)
        common, shared = common[:2] + common[2:], np.minimum(shared[:2] + shared[2:], 0)
        total = self._areas[others] + self._areas[one]
        least, most = total - common[0] * common[1], shared[0] * shared[1]
        needed, rounding = threshold / (1 + threshold) * total, 1e-9 * total
        found: NDArray[np.bool_] = least > needed + rounding
        unclear = np.flatnonzero(~found & (most > needed - rounding) & (most > 0))
        if len(unclear):
            found[unclear] = iou_pairs(self._polygons[one], self._polygons[others[unclear]]) > threshold
        return found


def boxes(keypoints: NDArray[np.floating]) -> Floats:
    """Axis-aligned bounding boxes of (n, 6, 2) keypoints, as (n, 4): minima, then maxima."""
    points = np.asarray(keypoints, dtype=np.float64)
    return np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1)


def box_iou(a: NDArray[np.floating], b: NDArray[np.floating]) -> Floats:
    """IoU of the bounding boxes of every pair; (n, 6, 2) and (m, 6, 2) keypoints -> (n, m)."""
    first, second = boxes(a)[:, None], boxes(b)[None]
    sides = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2])
    overlap = np.clip(sides, 0, None).prod(axis=-1)
    areas = [(box[..., 2:] - box[..., :2]).prod(axis=-1) for box in (first, second)]
    union = areas[0] + areas[1] - overlap
    iou: Floats = np.divide(overlap, union, out=np.zeros_like(union), where=union > 0)
    return iou
