"""Resampling a whole image onto a coarser or finer grid over the same box."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vertfrac.geometry.grid import Grid

_PLANES = 2
"""Planes of the result that are made at a time: few, so that what lies in between stays in the processor's cache."""


def resample(
    volume: NDArray[np.generic], grid: Grid, spacing_mm: ArrayLike, *, low: float, high: float
) -> tuple[NDArray[np.int16], Grid]:
    """Average down by whole factors, then interpolate linearly, axis by axis.

    volume : array on ``grid``, HU. spacing_mm : (3,), mm. low, high : HU are clipped to this range first, so that metal
    and padding do not bleed into their neighbours. Returns the int16 image, its axes in memory in the order of the
    volume's, and its grid. Only a few planes are held as float32 at a time, whatever that order.
    """
    target = grid.resampled(spacing_mm)
    slowest_first = [int(axis) for axis in np.argsort([-abs(stride) for stride in volume.strides], kind="stable")]
    stored = volume.transpose(slowest_first)
    ratio = target.spacing_mm / grid.spacing_mm
    axes = [_Axis.of(volume.shape[n], target.shape[n], float(ratio[n])) for n in slowest_first]
    result = np.empty([target.shape[n] for n in slowest_first], dtype=np.int16)
    for first in range(0, len(result), _PLANES):
        needed, planes = axes[0].part(slice(first, first + _PLANES))
        data: NDArray[np.generic] = stored[needed]
        for place in np.argsort([-n for n in slowest_first]):
            axis = planes if place == 0 else axes[place]
            data = axis.interpolated(axis.means(data, int(place), low, high), int(place))
        result[first : first + _PLANES] = np.rint(data)
    return result.transpose(np.argsort(slowest_first)), target


@dataclass(frozen=True, eq=False)
class _Axis:
    """How the samples of an axis become others: means of runs of ``factor``, then between two neighbouring means.

    left, right : (n,), the means on both sides of each new sample. weight : (n,), of the right one.
    """

    factor: int
    left: NDArray[np.intp]
    right: NDArray[np.intp]
    weight: NDArray[np.float32]

    @classmethod
    def of(cls, length: int, samples: int, ratio: float) -> _Axis:
        """From ``length`` samples to ones ``ratio`` times as far apart; constant beyond the ends."""
        factor = min(max(1, int(ratio + 1e-6)), length)
        runs = length // factor
        centers = (np.arange(runs) + 0.5) * factor - 0.5
        if length % factor:
            centers = np.append(centers, (runs * factor + length - 1) / 2)
        wanted: NDArray[np.float64] = (np.arange(samples, dtype=np.float64) + 0.5) * ratio - 0.5
        position = np.clip(wanted, centers[0], centers[-1])
        left = np.clip(np.searchsorted(centers, position, side="right") - 1, 0, max(len(centers) - 2, 0))
        right = np.minimum(left + 1, len(centers) - 1)
        gap = np.maximum(centers[right] - centers[left], 1e-9)
        return cls(factor, left, right, ((position - centers[left]) / gap).astype(np.float32))

    def part(self, wanted: slice) -> tuple[slice, _Axis]:
        """The old samples that some of the new ones need, and how those become these."""
        left, right = self.left[wanted], self.right[wanted]
        needed = slice(int(left[0]) * self.factor, (int(right[-1]) + 1) * self.factor)
        return needed, _Axis(self.factor, left - left[0], right - left[0], self.weight[wanted])

    def means(self, data: NDArray[np.generic], axis: int, low: float, high: float) -> NDArray[np.float32]:
        """Mean of each run, clipped before; the last run may be shorter."""
        runs, rest = divmod(data.shape[axis], self.factor)
        ends = runs * self.factor
        total = _clipped(data, axis, slice(0, ends, self.factor), low, high)
        for first in range(1, self.factor):
            total += _clipped(data, axis, slice(first, ends, self.factor), low, high)
        total /= np.float32(self.factor)
        if rest:
            last = _clipped(data, axis, slice(ends, None), low, high).mean(axis=axis, keepdims=True)
            total = np.concatenate([total, last], axis=axis)
        return total

    def interpolated(self, means: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
        """The new samples along the axis."""
        weight = self.weight.reshape([-1 if n == axis else 1 for n in range(means.ndim)])
        found = np.take(means, self.left, axis)
        found *= 1 - weight
        right = np.take(means, self.right, axis)
        right *= weight
        found += right
        return found


def _clipped(data: NDArray[np.generic], axis: int, part: slice, low: float, high: float) -> NDArray[np.float32]:
    values: NDArray[np.float32] = data[(slice(None),) * axis + (part,)].astype(np.float32, order="C")
    return np.clip(values, low, high, out=values)
