"""The spinal canal: the hole that a vertebra's body and arch leave open when one looks along the canal.

No single plane closes the ring of body, pedicles and laminae, but its shadow along the canal does. The direction in
which the hole of the shadow is largest is that of the canal, for a vertebra without neighbours too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_closing, distance_transform_edt, label

Floats = NDArray[np.float64]

PIXEL_MM = 1.5
SMALLEST_HOLE_MM2 = 60.0
_MOST_POINTS = 10000
_TURN_DEG = 70.0
_FEWEST_ARCH_PIXELS = 40


@dataclass(frozen=True, eq=False)
class Shadow:
    """A vertebra seen along a direction.

    direction : (3,), unit, towards superior. behind : (3,), a point on the canal's middle line; where the shadow has no
    hole, the middle of all that lies behind the body, or None if nothing does. hole_mm2 : size of the hole, 0 for none.
    body : (3,), a point on the axis of the largest circle that fits into the shadow in front of the canal; radius_mm :
    its radius. All in world RAS mm; `behind` and `body` lie level with the middle of the body.
    """

    direction: Floats
    behind: Floats | None
    hole_mm2: float
    body: Floats
    radius_mm: float


def across(direction: Floats) -> tuple[Floats, Floats]:
    """Two unit vectors that make a right-handed frame with a unit vector, the second one as anterior as can be."""
    ahead = np.array([0.0, 1.0, 0.0]) if abs(direction[1]) < 0.9 else np.array([0.0, 0.0, 1.0])
    ahead = ahead - direction * (direction @ ahead)
    ahead /= np.linalg.norm(ahead)
    return np.cross(ahead, direction), ahead


def find_shadow(points: Floats, guess: Floats, cone_deg: float, body_points: Floats | None = None) -> Shadow:
    """Look along the directions within a cone for the one with the largest hole.

    points : (n, 3), world RAS mm, that fill the mask no farther than PIXEL_MM apart. guess : (3,), unit, towards
    superior. body_points : (m, 3), those of the body where they are known. Without any hole the guess itself is taken.
    """
    chosen = np.random.default_rng(0).permutation(len(points))[:_MOST_POINTS]
    thin = points[np.sort(chosen)]
    center = thin.mean(axis=0)
    best, best_hole = guess, 0.0
    for step_deg, reach_deg in ((6.0, cone_deg), (2.5, 5.0)):
        for direction in _cone(best, reach_deg, step_deg):
            hole = _holes(_draw(thin - center, direction)[0])[1]
            if hole > best_hole:
                best, best_hole = direction, hole
    return _interpret(thin, center, best, body_points)


def _cone(axis: Floats, reach_deg: float, step_deg: float) -> list[Floats]:
    first, second = across(axis)
    steps = np.arange(-np.floor(reach_deg / step_deg + 1e-9), np.floor(reach_deg / step_deg + 1e-9) + 1) * step_deg
    tilts = [(a, b) for a in steps for b in steps if a * a + b * b <= reach_deg * reach_deg + 1e-9]
    tilts.sort(key=lambda tilt: tilt[0] ** 2 + tilt[1] ** 2)
    directions = [axis + np.tan(np.deg2rad(a)) * first + np.tan(np.deg2rad(b)) * second for a, b in tilts]
    return [direction / np.linalg.norm(direction) for direction in directions]


def _draw(offsets: Floats, direction: Floats) -> tuple[NDArray[np.bool_], Floats]:
    """The shadow as an image (right, anterior), and where its pixel (0, 0) lies, mm."""
    flat = np.stack(across(direction)) @ offsets.T
    low = flat.min(axis=1) - 3 * PIXEL_MM
    index = ((flat - low[:, None]) / PIXEL_MM + 0.5).astype(np.intp)
    image = np.zeros(index.max(axis=1) + 4, dtype=bool)
    image[index[0], index[1]] = True
    return binary_closing(image, np.ones((2, 2), dtype=bool)), low


def _onto(shape: tuple[int, ...], low: Floats, offsets: Floats, direction: Floats) -> NDArray[np.bool_]:
    """The shadow of other points in the image that `_draw` made."""
    index = np.rint((offsets @ np.stack(across(direction), axis=1) - low) / PIXEL_MM).astype(int)
    image = np.zeros(shape, dtype=bool)
    image[tuple(np.clip(index, 0, np.array(shape) - 1).T)] = True
    return binary_closing(image, np.ones((2, 2), dtype=bool))


def _holes(image: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], float]:
    """The largest hole of an image and its area, mm2; nothing and 0 where it is too small for a canal."""
    parts, _ = label(~image)
    sizes = np.bincount(parts.ravel())
    sizes[[0, parts[0, 0]]] = 0  # the shadow itself, and what is around it: its edge is always empty
    area = float(sizes.max()) * PIXEL_MM**2
    return (parts == sizes.argmax(), area) if area >= SMALLEST_HOLE_MM2 else (np.zeros_like(image), 0.0)


def _interpret(points: Floats, center: Floats, direction: Floats, body_points: Floats | None) -> Shadow:
    right, ahead = across(direction)
    image, low = _draw(points - center, direction)
    whole = image
    hole, area = _holes(image)
    if body_points is not None:
        points = body_points
        image = _onto(image.shape, low, points - center, direction)
    depth = distance_transform_edt(image) * PIXEL_MM
    pixels = np.moveaxis(np.indices(image.shape), 0, -1) * PIXEL_MM + low  # (..., 2): right, anterior
    middle = pixels[hole].mean(axis=0) if area else None
    if middle is not None:
        away = pixels - middle
        in_front = away[..., 1] > np.hypot(away[..., 0], away[..., 1]) * np.cos(np.deg2rad(_TURN_DEG))
        depth = np.where(in_front, depth, 0.0)
    # The middle of all that is nearly as deep: the deepest pixel alone jumps along the axis of an oval.
    deep = depth >= 0.93 * depth.max()
    body, radius = pixels[deep].mean(axis=0), float(depth.max())
    if middle is None:
        arch = np.argwhere(whole) * PIXEL_MM + low
        arch = arch[arch[:, 1] < body[1] - 1.3 * radius]
        middle = arch.mean(axis=0) if len(arch) > _FEWEST_ARCH_PIXELS else None
    offsets = points - center
    flat = offsets @ np.stack([right, ahead], axis=1)
    inside = np.hypot(*(flat - body).T) < 0.6 * radius
    level = float(np.median((offsets @ direction)[inside])) if inside.any() else 0.0
    origin = center + level * direction

    def place(spot: Floats) -> Floats:
        world: Floats = origin + spot[0] * right + spot[1] * ahead
        return world

    return Shadow(direction, None if middle is None else place(middle), area, place(body), radius)
