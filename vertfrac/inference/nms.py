"""Non-maximum suppression of six-keypoint detections, with the winners' neighbours averaged on request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vertfrac.geometry.polygon import Overlaps, box_iou

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Detection:
    """One vertebra on a slice: score, keypoints (6, 2) as (row, column) in pixels, and their standard deviation over
    the candidates and the networks that were averaged, in pixels (0 for a single one).

    evidence : (levels,) log-likelihood of every level up to a constant, in the order of ``levels.NAMED``; None where
    the networks name none.
    """

    score: float
    keypoints: Floats
    spread: float
    evidence: Floats | None = None


def suppress(
    scores: NDArray[np.floating],
    keypoints: NDArray[np.floating],
    anchors: NDArray[np.floating],
    variance: NDArray[np.floating] | None = None,
    *,
    overlap: Literal["butterfly", "box"],
    threshold: float,
    average_px: float,
) -> list[Detection]:
    """Greedy suppression: the best remaining candidate wins and removes all that overlap it by more than ``threshold``.

    scores : (n,), descending. keypoints : (n, 6, 2). anchors : (n, 2), the cells that voted. variance : (n,), of the
    keypoints over several networks, pixels squared. With average_px > 0, a winner's keypoints become the score-weighted
    mean over the candidates it removed whose anchors are that near to its own.
    Returns the winners in order of score.
    """
    points = np.asarray(keypoints, dtype=np.float64)
    cells = np.asarray(anchors, dtype=np.float64)
    doubt = np.zeros(len(points)) if variance is None else variance
    overlaps = Overlaps(points) if overlap == "butterfly" else None
    alive = np.ones(len(points), dtype=bool)
    winners: list[Detection] = []
    for i in range(len(points)):
        if not alive[i]:
            continue
        near = i + np.flatnonzero(alive[i:])
        if overlaps is not None:
            beyond = overlaps.beyond(threshold, i, near)
        else:
            beyond = box_iou(points[i : i + 1], points[near])[0] > threshold
        beyond[0] = True  # the winner itself, which may have no area
        removed = near[beyond]
        alive[removed] = False
        winners.append(_averaged(i, removed, scores, points, doubt, cells, average_px))
    return winners


def _averaged(
    winner: int,
    removed: NDArray[np.intp],
    scores: NDArray[np.floating],
    points: Floats,
    variance: NDArray[np.floating],
    anchors: Floats,
    radius: float,
) -> Detection:
    near = removed[np.linalg.norm(anchors[removed] - anchors[winner], axis=1) <= radius]
    if len(near) < 2:
        return Detection(float(scores[winner]), points[winner], float(np.sqrt(variance[winner])))
    weights = np.asarray(scores, dtype=np.float64)[near] / float(scores[near].sum())
    mean = np.tensordot(weights, points[near], axes=1)
    between = np.tensordot(weights, ((points[near] - mean) ** 2).sum(axis=-1), axes=1).mean()
    return Detection(float(scores[winner]), mean, float(np.sqrt(between + weights @ variance[near])))
