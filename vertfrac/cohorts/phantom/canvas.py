"""Painting soft-edged shapes into a voxel grid, each inside its own bounding box.

A canvas is an array (z, y, x) of HU over an axis-aligned grid in mm; a shape is blended in with the share of a voxel
that it covers, estimated from its signed distance.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float32 = NDArray[np.float32]
Box = tuple[slice, slice, slice]
Bytes = NDArray[np.uint8]


class Canvas:
    """HU on a regular grid; `x`, `y`, `z` are the increasing coordinates (mm) of the voxel centres.

    `labels`, `subregions` : arrays like `hu` once `keep_labels` was called: what `marking` said of the shape that
    covered at least half of a voxel last.
    """

    def __init__(self, x: ArrayLike, y: ArrayLike, z: ArrayLike, air: float = -1000.0) -> None:
        self.x, self.y, self.z = (np.asarray(a, dtype=np.float32) for a in (x, y, z))
        self.hu = np.full((self.z.size, self.y.size, self.x.size), air, dtype=np.float32)
        self.edge = float(self.x[1] - self.x[0] + self.z[1] - self.z[0]) / 2
        self.labels: Bytes | None = None
        self.subregions: Bytes | None = None
        self._mark: tuple[int, int] | None = None
        self._muted = False

    def keep_labels(self) -> None:
        """Keep label maps from now on."""
        self.labels, self.subregions = np.zeros(self.hu.shape, np.uint8), np.zeros(self.hu.shape, np.uint8)

    @contextmanager
    def marking(self, label: int, subregion: int) -> Iterator[None]:
        """Shapes blended inside the context get these labels, where labels are kept at all; label 0 marks nothing."""
        before, self._mark = self._mark, (label, subregion) if label else None
        try:
            yield
        finally:
            self._mark = before

    @contextmanager
    def only_if(self, wanted: bool) -> Iterator[None]:
        """Unless wanted, shapes inside the context leave no trace, while whoever paints them draws the same numbers."""
        before, self._muted = self._muted, self._muted or not wanted
        try:
            yield
        finally:
            self._muted = before

    def box(self, low: ArrayLike, high: ArrayLike) -> Box | None:
        """Slices (z, y, x) of the voxels between two corners (x, y, z) in mm; None if none are there or wanted."""
        if self._muted:
            return None
        lower, upper = np.asarray(low, dtype=float), np.asarray(high, dtype=float)
        slices = []
        for axis, lo, hi in zip((self.z, self.y, self.x), lower[::-1], upper[::-1], strict=True):
            first, step = float(axis[0]), float(axis[1] - axis[0])
            start = max(int(np.ceil((lo - first) / step)), 0)
            stop = min(int(np.floor((hi - first) / step)) + 1, axis.size)
            if stop <= start:
                return None
            slices.append(slice(start, stop))
        return slices[0], slices[1], slices[2]

    def coordinates(self, box: Box) -> tuple[Float32, Float32, Float32]:
        """x, y, z of a box's voxels, shaped to broadcast to (z, y, x)."""
        return self.x[box[2]][None, None, :], self.y[box[1]][None, :, None], self.z[box[0]][:, None, None]

    def blend(self, box: Box, cover: Float32, hu: float | Float32) -> None:
        """Replace the share `cover` (0 to 1) of each voxel of a box by `hu`."""
        view = self.hu[box]
        change = np.subtract(hu, view, dtype=np.float32)
        change *= cover
        view += change
        if self._mark and self.labels is not None and self.subregions is not None:
            solid = cover >= 0.5
            self.labels[box][solid], self.subregions[box][solid] = self._mark

    def coverage(self, depth: Float32) -> Float32:
        """Share of a voxel inside a surface that lies `depth` mm outwards of its centre; overwrites `depth`."""
        depth *= np.float32(1 / self.edge)
        depth += np.float32(0.5)
        return np.clip(depth, 0, 1, out=depth)

    def stack(
        self,
        z_range: tuple[float, float],
        center: tuple[ArrayLike, ArrayLike],
        radii: tuple[ArrayLike, ArrayLike],
        hu: float,
        power: float = 2.0,
        z_knots: ArrayLike | None = None,
    ) -> None:
        """Superellipse in every axial slice of a z range; centre and radii are numbers or values at `z_knots`."""
        inside = self.box((self.x[0], self.y[0], z_range[0]), (self.x[-1], self.y[-1], z_range[1]))
        if inside is None:
            return
        z = self.z[inside[0]]

        def along(value: ArrayLike) -> Float32:
            if np.ndim(value) == 0 or z_knots is None:
                return np.full(z.size, value, dtype=np.float32)
            knots = np.asarray(z_knots)
            order = np.argsort(knots)
            return np.asarray(np.interp(z, knots[order], np.asarray(value)[order]), dtype=np.float32)

        cx, cy, rx, ry = along(center[0]), along(center[1]), along(radii[0]), along(radii[1])
        rx, ry = np.maximum(rx, 0.5), np.maximum(ry, 0.5)
        low = ((cx - rx).min() - 2, (cy - ry).min() - 2, z_range[0])
        box = self.box(low, ((cx + rx).max() + 2, (cy + ry).max() + 2, z_range[1]))
        if box is None:
            return
        across = (np.abs(self.x[box[2]][None] - cx[:, None]) / rx[:, None]) ** np.float32(power)
        along_y = (np.abs(self.y[box[1]][None] - cy[:, None]) / ry[:, None]) ** np.float32(power)
        sharp = (np.sqrt(rx * ry) / (power * self.edge))[:, None]
        across, along_y = across * -sharp, along_y * -sharp + sharp + np.float32(0.5)
        cover = across[:, None, :] + along_y[:, :, None]
        np.clip(cover, 0, 1, out=cover)
        self.blend(box, cover, hu)

    def ellipsoid(
        self,
        center: ArrayLike,
        radii: ArrayLike,
        hu: float,
        axes: ArrayLike | None = None,
        keep: float = 0.0,
    ) -> None:
        """Ellipsoid with its axes in the columns of `axes`; `keep` > 0 leaves that share of what was there."""
        c, r = np.asarray(center, dtype=float), np.maximum(np.asarray(radii, dtype=float), 0.3)
        turn = np.eye(3) if axes is None else np.asarray(axes, dtype=float)
        reach = np.sqrt(((turn * r) ** 2).sum(axis=1)) + self.edge
        box = self.box(c - reach, c + reach)
        if box is None:
            return
        x, y, z = self.coordinates(box)
        x, y, z = x - np.float32(c[0]), y - np.float32(c[1]), z - np.float32(c[2])
        if axes is None:
            rho = (x / np.float32(r[0])) ** 2 + (y / np.float32(r[1])) ** 2 + (z / np.float32(r[2])) ** 2
        else:
            m = (turn / r).astype(np.float32)
            rho = (x * m[0, 0] + y * m[1, 0] + z * m[2, 0]) ** 2
            rho += (x * m[0, 1] + y * m[1, 1] + z * m[2, 1]) ** 2
            rho += (x * m[0, 2] + y * m[1, 2] + z * m[2, 2]) ** 2
        np.sqrt(rho, out=rho)
        cover = self.coverage(np.multiply(1 - rho, np.float32(r.min()), dtype=np.float32))
        if keep:
            cover *= np.float32(1 - keep)
        self.blend(box, cover, hu)

    def capsule(
        self,
        start: ArrayLike,
        end: ArrayLike,
        radius: float | tuple[float, float],
        hu: float,
        flat: tuple[ArrayLike, float] | None = None,
    ) -> None:
        """Round-ended rod; `flat` = (unit vector, k) makes it k times thinner along that direction."""
        p, q = np.asarray(start, dtype=float), np.asarray(end, dtype=float)
        r0, r1 = radius if isinstance(radius, tuple) else (radius, radius)
        reach = max(r0, r1) + self.edge
        box = self.box(np.minimum(p, q) - reach, np.maximum(p, q) + reach)
        if box is None:
            return
        x, y, z = self.coordinates(box)
        x, y, z = x - np.float32(p[0]), y - np.float32(p[1]), z - np.float32(p[2])
        d = (q - p).astype(np.float32)
        t = (x * d[0] + y * d[1] + z * d[2]) * np.float32(1 / max(float(d @ d), 1e-6))
        np.clip(t, 0, 1, out=t)
        vx, vy, vz = x - t * d[0], y - t * d[1], z - t * d[2]
        distance = vx * vx + vy * vy + vz * vz
        if flat is not None:
            u = np.asarray(flat[0], dtype=np.float32)
            distance += np.float32(flat[1] ** 2 - 1) * (vx * u[0] + vy * u[1] + vz * u[2]) ** 2
        np.sqrt(distance, out=distance)
        if r0 == r1:
            depth = np.subtract(np.float32(r0), distance, out=distance)
        else:
            depth = t * np.float32(r1 - r0)
            depth += np.float32(r0)
            depth -= distance
        self.blend(box, self.coverage(depth), hu)

    def chain(self, points: ArrayLike, radii: float | Sequence[float] | NDArray[np.float64], hu: float) -> None:
        """Rods from point to point; points (n, 3), radii one number or (n,)."""
        path = np.asarray(points, dtype=float)
        r = np.broadcast_to(np.asarray(radii, dtype=float), (len(path),))
        for i in range(len(path) - 1):
            self.capsule(path[i], path[i + 1], (float(r[i]), float(r[i + 1])), hu)
