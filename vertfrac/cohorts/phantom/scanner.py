"""The scanner: slice thickness, reconstruction kernel, noise, streaks, saturation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]


def thick_slices(hu: Float32, z: Float32, centers: NDArray[np.float64], thickness: float) -> Float32:
    """Average fine planes (n, y, x) at heights `z` into slices of a thickness (mm) around `centers`."""
    step = float(z[1] - z[0])
    out = np.empty((centers.size, *hu.shape[1:]), dtype=np.float32)
    for k, center in enumerate(centers):
        weight = np.clip((thickness + step) / 2 - np.abs(z - center), 0, step)
        rows = np.flatnonzero(weight > 1e-3 * step)
        if rows.size == 0:
            rows = np.array([int(np.argmin(np.abs(z - center)))])
            weight = np.ones_like(z)
        part = (weight[rows] / weight[rows].sum()).astype(np.float32)
        np.multiply(hu[rows[0]], part[0], out=out[k])
        for row, w in zip(rows[1:], part[1:], strict=True):
            out[k] += w * hu[row]
    return out


def _taps(rng: np.random.Generator, spacing: float) -> tuple[float, float]:
    """Weights of the first and second neighbour of a random reconstruction kernel, soft to sharp."""
    kind = rng.random()
    if kind < 0.25:
        return -float(rng.uniform(0.02, 0.12)), 0.0
    sigma = float(rng.uniform(0.35, 1.0)) / spacing
    first, second = np.exp(-0.5 / sigma**2), np.exp(-2.0 / sigma**2)
    total = 1 + 2 * first + 2 * second
    return float(first / total), float(second / total)


def _filter(plane: Float32, axis: int, first: float, second: float) -> Float32:
    """Symmetric filter of five taps along an axis of (y, x), ends repeated."""
    n = plane.shape[axis]
    out = plane * np.float32(1 - 2 * first - 2 * second)
    for shift, weight in ((1, first), (2, second)):
        if weight == 0.0:
            continue
        w = np.float32(weight)
        head = [slice(None)] * 2
        tail = [slice(None)] * 2
        head[axis], tail[axis] = slice(0, n - shift), slice(shift, n)
        scaled = plane * w
        out[tuple(tail)] += scaled[tuple(head)]
        out[tuple(head)] += scaled[tuple(tail)]
        edge_low, edge_high = [slice(None)] * 2, [slice(None)] * 2
        for k in range(shift):
            edge_low[axis], edge_high[axis] = slice(k, k + 1), slice(n - 1 - k, n - k)
            out[tuple(edge_low)] += scaled[tuple(edge_low)]
            out[tuple(edge_high)] += scaled[tuple(edge_high)]
    return out


def _grow(coarse: Float32, length: int, axis: int) -> Float32:
    """Linear interpolation of (y, x) along an axis to `length` samples between the first and the last node."""
    n = coarse.shape[axis]
    at = np.linspace(0, n - 1, length, dtype=np.float32)
    low = np.minimum(at.astype(np.int64), n - 2)
    share = (at - low).astype(np.float32)
    if axis == 0:
        share = share[:, None]
    start: Float32 = np.take(coarse, low, axis)
    end: Float32 = np.take(coarse, low + 1, axis)
    end -= start
    end *= share
    end += start
    return end


def scan(
    hu: Float32,
    rng: np.random.Generator,
    spacing: float,
    shoulders: NDArray[np.float64],
) -> NDArray[np.int16]:
    """Blur, noise and artefacts of slices (z, y, x); `shoulders` (z,) from 0 to 1 is where streaks are strong."""
    nz, ny, nx = hu.shape
    first, second = _taps(rng, spacing)
    sigma = float(np.exp(rng.uniform(np.log(5), np.log(60))))
    if first > 0.15:
        sigma = min(sigma, 30.0)
    gain = float(np.sqrt((1 - 2 * first - 2 * second) ** 2 + 2 * first**2 + 2 * second**2)) ** 2
    white = np.float32(0.85 * sigma / gain)
    slow = rng.standard_normal((nz, max(ny // 9, 2), max(nx // 9, 2)), dtype=np.float32)
    slow *= np.float32(rng.uniform(0.1, 0.45) * sigma)
    streak = float(rng.uniform(0.2, 1.6)) * max(sigma, 12.0) * (rng.random() < 0.7)
    nodes = max(nx // 40, 3)
    stars = _stars(rng, nz, ny, nx)
    out = np.empty((nz, ny, nx), dtype=np.int16)
    for k in range(nz):
        plane = hu[k] + white * rng.standard_normal((ny, nx), dtype=np.float32)
        plane = _filter(_filter(plane, 1, first, second), 0, first, second)
        plane += _grow(_grow(slow[k], ny, 0), nx, 1)
        if streak and shoulders[k] > 0.02:
            rows = rng.standard_normal((ny, nodes), dtype=np.float32)
            plane += np.float32(streak * shoulders[k]) * _grow(rows, nx, 1)
        for star_z, pattern in stars:
            fade = np.exp(-(((k - star_z) / 2.5) ** 2))
            if fade > 0.02:
                plane += np.float32(fade) * pattern
        np.clip(plane, -1024, 3071, out=plane)
        out[k] = np.rint(plane)
    return out


def _stars(rng: np.random.Generator, nz: int, ny: int, nx: int) -> list[tuple[int, Float32]]:
    """Metal-like streak stars: (slice, pattern (y, x) in HU)."""
    stars: list[tuple[int, Float32]] = []
    if rng.random() < 0.12:
        for _ in range(int(rng.integers(1, 4))):
            cy, cx = rng.uniform(0.2, 0.8) * ny, rng.uniform(0.2, 0.8) * nx
            y, x = np.arange(ny)[:, None] - cy, np.arange(nx)[None, :] - cx
            angle, radius = np.arctan2(y, x), np.hypot(y, x) + 1.0
            arms = sum(
                np.cos(int(n) * angle + p) for n, p in zip(rng.integers(3, 30, 4), rng.uniform(0, 6, 4), strict=True)
            )
            pattern = rng.uniform(40, 160) * arms * np.exp(-radius / rng.uniform(20, 60))
            pattern = np.where(radius < rng.uniform(2, 4), 2500, pattern)
            stars.append((int(rng.integers(0, nz)), pattern.astype(np.float32)))
    return stars
