"""Resampling a whole image onto a coarser or finer grid over the same box."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vertfrac.geometry.grid import Grid


def resample(
    volume: NDArray[np.generic], grid: Grid, spacing_mm: ArrayLike, *, low: float, high: float
) -> tuple[NDArray[np.int16], Grid]:
    """Average down by whole factors, then interpolate linearly, axis by axis.

    volume : array on ``grid``, HU. spacing_mm : (3,), mm. low, high : HU are clipped to this range first, so that metal
    and padding do not bleed into their neighbours. Returns the int16 image and its grid.
    """
    target = grid.resampled(spacing_mm)
    spacing = target.spacing_mm
    data: NDArray[np.generic] = volume
    for axis in (2, 1, 0):
        ratio = float(spacing[axis] / grid.spacing_mm[axis])
        means, centers = _block_means(data, axis, min(max(1, int(ratio + 1e-6)), volume.shape[axis]), low, high)
        wanted: NDArray[np.float64] = (np.arange(target.shape[axis], dtype=np.float64) + 0.5) * ratio - 0.5
        data = _linear(means, axis, centers, wanted)
    return np.rint(data).astype(np.int16), target


def _block_means(
    data: NDArray[np.generic], axis: int, factor: int, low: float, high: float
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Mean of each run of ``factor`` samples along the axis, and the index of its centre; the last run may be shorter.

    Summed sample by sample to bound the memory.
    """
    length = data.shape[axis]
    runs = length // factor
    total = np.zeros([runs if i == axis else n for i, n in enumerate(data.shape)], dtype=np.float32)
    for first in range(factor):
        total += _clipped(data, axis, slice(first, first + (runs - 1) * factor + 1, factor), low, high)
    means = total / np.float32(factor)
    centers = (np.arange(runs) + 0.5) * factor - 0.5
    if length % factor:
        rest = _clipped(data, axis, slice(runs * factor, None), low, high).mean(axis=axis, keepdims=True)
        means = np.concatenate([means, rest], axis=axis)
        centers = np.append(centers, (runs * factor + length - 1) / 2)
    return means, centers


def _clipped(data: NDArray[np.generic], axis: int, part: slice, low: float, high: float) -> NDArray[np.float32]:
    index = tuple(part if i == axis else slice(None) for i in range(data.ndim))
    clipped: NDArray[np.float32] = np.clip(data[index], low, high).astype(np.float32)
    return clipped


def _linear(
    data: NDArray[np.float32], axis: int, centers: NDArray[np.float64], wanted: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Interpolate along the axis from the samples at ``centers`` to ``wanted``, constant beyond the ends."""
    position = np.clip(wanted, centers[0], centers[-1])
    left = np.clip(np.searchsorted(centers, position, side="right") - 1, 0, max(len(centers) - 2, 0))
    right = np.minimum(left + 1, len(centers) - 1)
    gap = np.maximum(centers[right] - centers[left], 1e-9)
    shape = [len(wanted) if i == axis else 1 for i in range(data.ndim)]
    weight = ((position - centers[left]) / gap).astype(np.float32).reshape(shape)
    return np.take(data, left, axis) * (1 - weight) + np.take(data, right, axis) * weight
