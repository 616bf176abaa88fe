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
        factor = min(max(1, int(ratio + 1e-6)), volume.shape[axis])
        data = _linear(_block_mean(data, axis, factor, low, high), axis, target.shape[axis], ratio, factor)
    return np.rint(data).astype(np.int16), target


def _block_mean(data: NDArray[np.generic], axis: int, factor: int, low: float, high: float) -> NDArray[np.float32]:
    """Mean of each whole run of ``factor`` samples along the axis, summed sample by sample to bound the memory."""
    runs = data.shape[axis] // factor
    total: NDArray[np.float32] | None = None
    for first in range(factor):
        index = [slice(None)] * data.ndim
        index[axis] = slice(first, first + (runs - 1) * factor + 1, factor)
        part = np.clip(data[tuple(index)], low, high).astype(np.float32)
        if total is None:
            total = part
        else:
            total += part
    assert total is not None
    return total / np.float32(factor)


def _linear(data: NDArray[np.float32], axis: int, count: int, ratio: float, factor: int) -> NDArray[np.float32]:
    """Interpolate at the centres of ``count`` voxels of ``ratio`` source samples; data holds runs of ``factor``."""
    source = (np.arange(count) + 0.5) * ratio / factor - 0.5
    source = np.clip(source, 0, data.shape[axis] - 1)
    left = np.minimum(source.astype(int), max(data.shape[axis] - 2, 0))
    shape = [1] * data.ndim
    shape[axis] = count
    weight = (source - left).astype(np.float32).reshape(shape)
    right = np.minimum(left + 1, data.shape[axis] - 1)
    values: NDArray[np.float32] = np.take(data, left, axis) * (1 - weight) + np.take(data, right, axis) * weight
    return values
