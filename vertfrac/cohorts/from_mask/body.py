"""The vertebral body: its axis from both endplates, its mid-sagittal plane from its sides and the canal, its corners.

In the mid-sagittal plane the canal parts the body from the arch, so that neither pedicles nor ribs nor processes need
to be cut off. There the six points are put as the six-point method of Genant et al. (1993) does: at the corners, where
the endplate meets the front and the back wall, and half way between them. Both are fitted apart from the rounded rim
and prolonged to where they meet, so that neither a rounded rim nor a beak moves a point; a corner that would lie off
the bone is brought back to it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vertfrac.cohorts.from_mask.canal import Shadow
from vertfrac.cohorts.from_mask.field import Frame, MaskField, polynomial, robust_fit, way_out

Floats = NDArray[np.float64]

STEP_MM = 0.4
_FARTHEST_MM = 45.0
_RIM_MM = 1.0
_ROUNDING_MM, _ROUNDING_VOXELS = 0.5, 0.9
"""How far within a corner its mask's surface lies: by the bone's own rounded rim, and by voxels and smoothing (which
moves the half level of a right angle inwards by half a voxel, of a sharp edge by more)."""
_MOST_ROUNDING_MM = 2.5
_FLAT_RIM_MM = 1.8
"""With voxels of this size or more a few steps make up an endplate's outer part: too few to tell how it bends."""
_FARTHEST_CORNER_MM = 8.0
_DOUBTFUL_CORNER_MM = 5.0


class BodyNotFoundError(Exception):
    """A mask has nothing like a vertebral body where the body should be; the message says what is missing."""


@dataclass(frozen=True, eq=False)
class Body:
    """A measured body.

    keypoints : (6, 3), world RAS mm, in the order of geometry.keypoints. frame : its origin lies in the body.
    depth_mm, width_mm : at mid height. doubts : why it may be wrong, empty if nothing seems so.
    """

    keypoints: Floats
    frame: Frame
    depth_mm: float
    width_mm: float
    doubts: tuple[str, ...]


def measure_body(field: MaskField, shadow: Shadow) -> Body:
    """Put the six keypoints on a body.

    field : of the vertebra, or of its body alone. Raises BodyNotFoundError.
    """
    frame = Frame.looking(shadow.body, shadow.direction, _ahead(shadow))
    for _ in range(3):
        frame = _level(field, frame, shadow.radius_mm)
        frame = _centre(field, frame, shadow)
    section = _Section(field, frame, _width(field, frame))
    points, doubts = section.corners_and_middles()
    local = np.column_stack([np.zeros(6), points])
    return Body(frame.to_world(local), frame, section.depth_mm, section.width_mm, doubts)


def _ahead(shadow: Shadow) -> Floats:
    return np.array([0.0, 1.0, 0.0]) if shadow.behind is None else shadow.body - shadow.behind


def _rays(field: MaskField, frame: Frame, starts: Floats, direction: Floats, reach_mm: float) -> Floats:
    """Distance (...), mm, from local points (..., 3) to the surface along a local direction (3,)."""
    lengths = np.arange(0.0, reach_mm, STEP_MM)
    points = starts[..., None, :] + lengths[:, None] * direction
    return way_out(field.at(frame.to_world(points)), STEP_MM)


def _level(field: MaskField, frame: Frame, radius: float) -> Frame:
    """Turn the superior axis to the mean of both endplates' normals and move the origin half way between them."""
    side = np.arange(-0.7 * radius, 0.7 * radius + 0.5, 1.5)
    grid = np.stack(np.meshgrid(side, side, [0.0], indexing="ij"), axis=-1).reshape(-1, 3)
    grid = grid[np.hypot(grid[:, 0], grid[:, 1]) <= 0.7 * radius]
    slopes, levels = [], []
    for sign in (1.0, -1.0):
        height = sign * _rays(field, frame, grid, np.array([0.0, 0.0, sign]), _FARTHEST_MM)
        known = np.isfinite(height)
        if known.sum() < 0.4 * len(grid) or known.sum() < 6:
            raise BodyNotFoundError("no two endplates in front of the canal")
        design = np.column_stack([np.ones(known.sum()), grid[known, :2]])
        coefficients, _ = robust_fit(design, height[known], tolerance_mm=0.5)
        levels.append(coefficients[0])
        slopes.append(coefficients[1:])
    slope = np.clip(np.mean(slopes, axis=0), -0.7, 0.7)
    superior = frame.superior - slope[0] * frame.lateral - slope[1] * frame.anterior
    return Frame.looking(frame.origin + np.mean(levels) * frame.superior, superior, frame.anterior)


def _sides(field: MaskField, frame: Frame, ahead: Floats, height: float) -> tuple[Floats, Floats]:
    """Distance to the right and to the left surface from points of the mid-plane; (levels, n) each."""
    levels = np.array([-0.2, 0.0, 0.2]) * height
    starts = np.zeros((3, len(ahead), 3))
    starts[..., 1], starts[..., 2] = ahead, levels[:, None]
    right = _rays(field, frame, starts, np.array([1.0, 0.0, 0.0]), _FARTHEST_MM)
    left = _rays(field, frame, starts, np.array([-1.0, 0.0, 0.0]), _FARTHEST_MM)
    return right, left


def _height(field: MaskField, frame: Frame) -> float:
    origin = np.zeros(3)
    up = _rays(field, frame, origin, np.array([0.0, 0.0, 1.0]), _FARTHEST_MM)
    down = _rays(field, frame, origin, np.array([0.0, 0.0, -1.0]), _FARTHEST_MM)
    height = float(up + down)
    if not np.isfinite(height):
        raise BodyNotFoundError("no endplate above or below the middle of the body")
    return height


def _centre(field: MaskField, frame: Frame, shadow: Shadow) -> Frame:
    """Turn and move the mid-sagittal plane to the middle between the body's sides and through the canal's middle."""
    front = float(_rays(field, frame, np.zeros(3), np.array([0.0, 1.0, 0.0]), _FARTHEST_MM))
    front = front if np.isfinite(front) else shadow.radius_mm
    ahead = np.linspace(-0.25 * shadow.radius_mm, 0.75 * front, 9)
    right, left = _sides(field, frame, ahead, _height(field, frame))
    width, middle = right + left, (right - left) / 2
    known = np.isfinite(width)
    if known.sum() < 5:
        raise BodyNotFoundError("no two sides of the body")
    known &= width > 0.6 * np.nanmedian(width)
    x, y = np.broadcast_to(ahead, middle.shape)[known], middle[known]
    if shadow.behind is None:
        offset, turn = float(np.median(y)), 0.0
    else:
        lateral, behind, _ = frame.to_local(shadow.behind)
        weight = max(1, len(x) // 2)  # the canal counts half as much as the sides: it is far off and sets the turn
        x, y = np.append(x, [behind] * weight), np.append(y, [lateral] * weight)
        offset, turn = robust_fit(polynomial(x, 1), y, tolerance_mm=0.7)[0]
    anterior = frame.anterior + np.clip(turn, -0.3, 0.3) * frame.lateral
    return Frame.looking(frame.origin + offset * frame.lateral, frame.superior, anterior)


def _width(field: MaskField, frame: Frame) -> float:
    right, left = _sides(field, frame, np.linspace(0.0, 6.0, 4), _height(field, frame))
    width = float(np.nanmedian(right + left)) if np.isfinite(right + left).any() else np.nan
    if not np.isfinite(width):
        raise BodyNotFoundError("no two sides of the body")
    return width


class _Section:
    """The body in its mid-sagittal plane, as rays in (anterior, superior) mm of its frame.

    The field is averaged over a slab about the plane, whose thickness grows with the body's width.
    """

    def __init__(self, field: MaskField, frame: Frame, width_mm: float) -> None:
        self.field, self.frame, self.width_mm = field, frame, width_mm
        sigma = float(np.clip(0.06 * width_mm, 1.0, 2.5))
        self._offsets = np.linspace(-1.6, 1.6, 5) * sigma
        weights = np.exp(-0.5 * (self._offsets / sigma) ** 2)
        self._weights = weights / weights.sum()
        in_plane = np.abs(field.grid.world_from_index[:3, :3]).T @ np.abs(frame.superior)
        spacing = float(in_plane.max())
        self.margin_mm = _RIM_MM + 0.5 * (spacing - 1.0)
        self.rounding_mm = min(_ROUNDING_MM + _ROUNDING_VOXELS * spacing, _MOST_ROUNDING_MM)
        self.rim_degree = 2 if spacing < _FLAT_RIM_MM else 1
        self._find_walls()

    def _at(self, plane: Floats) -> Floats:
        """Field at points (..., 2) of the plane, averaged over the slab."""
        points = np.empty((len(self._offsets), *plane.shape[:-1], 3))
        points[..., 0] = self._offsets.reshape(-1, *(1,) * (plane.ndim - 1))
        points[..., 1:] = plane
        values: Floats = np.tensordot(self._weights, self.field.at(self.frame.to_world(points)), axes=1)
        return values

    def _rays(self, starts: Floats, directions: Floats, reach_mm: float) -> Floats:
        """Distance (n,) from points (n, 2) of the plane to the surface along unit vectors (n, 2)."""
        lengths = np.arange(0.0, reach_mm, STEP_MM)
        return way_out(self._at(starts[:, None] + lengths[:, None] * directions[:, None]), STEP_MM)

    def _find_walls(self) -> None:
        """Rough front and back at mid height, following a body that bends."""
        start = np.zeros((2, 2))
        reach = self._rays(start, np.array([[1.0, 0.0], [-1.0, 0.0]]), _FARTHEST_MM)
        if not np.isfinite(reach).all():
            raise BodyNotFoundError("no front or back wall of the body")
        self.front, self.back = float(reach[0]), -float(reach[1])

    @property
    def depth_mm(self) -> float:
        return self.front - self.back

    def corners_and_middles(self) -> tuple[Floats, tuple[str, ...]]:
        """Keypoints (6, 2) as (anterior, superior) mm of the frame, and what is doubtful about them."""
        for _ in range(2):
            ahead, top, bottom = self._endplates()
            front, back = self._walls(ahead, top, bottom)
        points = np.empty((6, 2))
        spreads, gaps = [], []
        for row, edge in ((0, top), (1, bottom)):
            for first, wall, side in ((0, front, 1.0), (4, back, -1.0)):
                points[first + row], gap, spread = self._corner(ahead, edge, wall, side)
                spreads.append(spread)
                gaps.append(gap)
            points[2 + row] = self._middle(ahead, edge, points[[row, 4 + row], 0].mean())
        return points, self._doubts(max(gaps), max(spreads))

    def _endplates(self) -> tuple[Floats, Floats, Floats]:
        """Anterior position of rays and the superior position of both endplates there, (n,) each."""
        ahead = np.arange(self.back + 0.5, self.front - 0.3, 0.5)
        starts = np.column_stack([ahead, np.zeros_like(ahead)])
        up = self._rays(starts, np.broadcast_to([0.0, 1.0], starts.shape), _FARTHEST_MM)
        down = -self._rays(starts, np.broadcast_to([0.0, -1.0], starts.shape), _FARTHEST_MM)
        known = np.isfinite(up) & np.isfinite(down)
        if known.sum() < 8:
            raise BodyNotFoundError("no endplates in the mid-sagittal plane")
        return ahead[known], up[known], down[known]

    def _walls(self, ahead: Floats, top: Floats, bottom: Floats) -> tuple[Floats, Floats]:
        """Front and back wall, each a parabola (3,): anterior position as a polynomial of the superior one."""
        rims = [self._rim_line(ahead, edge) for edge in (top, bottom)]
        middle = (self.front + self.back) / 2
        levels = np.linspace(0.12, 0.88, 25)
        walls = []
        for side in (1.0, -1.0):
            ends = [line[0] + line[1] * np.array([middle, middle + side]) for line in rims]  # (2,) each
            path = ends[1] + levels[:, None] * (ends[0] - ends[1])  # superior at the middle and 1 mm farther
            direction = np.column_stack([np.full(len(levels), side), path[:, 1] - path[:, 0]])
            direction /= np.linalg.norm(direction, axis=1, keepdims=True)
            starts = np.column_stack([np.full(len(levels), middle), path[:, 0]])
            reach = self._rays(starts, direction, _FARTHEST_MM)
            known = np.isfinite(reach)
            if known.sum() < 5:
                raise BodyNotFoundError("no front or back wall of the body")
            a, s = (starts + reach[:, None] * direction)[known].T
            degree = 2 if np.ptp(s) > 6 else 1 if np.ptp(s) > 2.5 else 0
            fit = np.zeros(3)
            fit[: degree + 1] = robust_fit(polynomial(s, degree), a)[0]
            walls.append(fit)
            if side > 0:
                self.front = float(np.median(a))
            else:
                self.back = float(np.median(a))
        return walls[0], walls[1]

    def _rim_line(self, ahead: Floats, edge: Floats) -> tuple[float, float]:
        """Line (constant, slope) through the parts of an endplate near the front and near the back."""
        zone = np.clip((ahead - self.back) / self.depth_mm, 0, 1)
        spots = []
        for low, high in ((0.06, 0.25), (0.75, 0.94)):
            part = (zone >= low) & (zone <= high)
            if not part.any():
                raise BodyNotFoundError("no endplate near the rim")
            spots.append((float(np.median(ahead[part])), float(np.median(edge[part]))))
        (a0, s0), (a1, s1) = spots
        slope = (s1 - s0) / max(a1 - a0, 1e-6)
        return s0 - slope * a0, slope

    def _corner(self, ahead: Floats, edge: Floats, wall: Floats, side: float) -> tuple[Floats, float, float]:
        """A corner (2,), how far the first try was off the bone, mm, and the spread of the endplate's residuals, mm.

        Where a parabola leads far off the bone, as it may on the steps of thick slices, a line takes its place.
        """
        found: list[tuple[Floats, float, float]] = []
        for degree in range(self.rim_degree, 0, -1):
            fit, spread = self._rim(ahead, edge, side, degree)
            meeting = self._meet(fit, wall, self.front if side > 0 else self.back)
            found.append((*self._onto_bone(meeting), spread))
            if found[-1][1] <= self.rounding_mm + _DOUBTFUL_CORNER_MM:
                break
        corner, gap, spread = min(found, key=lambda tried: tried[1])
        if not np.isfinite(gap):
            raise BodyNotFoundError("a corner of the body lies off the bone")
        return corner, found[0][1], spread

    def _rim(self, ahead: Floats, edge: Floats, side: float, degree: int) -> tuple[Floats, float]:
        """Polynomial (3,) of an endplate's outer part, without the rounded rim, and the spread of its residuals, mm."""
        inwards = (self.front - ahead) if side > 0 else (ahead - self.back)
        part = (inwards >= self.margin_mm) & (inwards <= 0.5 * self.depth_mm)
        if part.sum() < 5:
            raise BodyNotFoundError("the body is too shallow to see its endplates")
        coefficients, spread = robust_fit(polynomial(ahead[part], degree), edge[part])
        return np.pad(coefficients, (0, 2 - degree)), spread

    @staticmethod
    def _meet(rim: Floats, wall: Floats, start: float) -> Floats:
        """Where an endplate (superior of anterior) and a wall (anterior of superior) meet, (2,)."""
        a = start
        s = 0.0
        for _ in range(6):
            s = float(polynomial(np.array([a]), 2)[0] @ rim)
            a = float(np.clip(polynomial(np.array([s]), 2)[0] @ wall, start - 5, start + 5))
        return np.array([a, s])

    def _onto_bone(self, corner: Floats) -> tuple[Floats, float]:
        """A corner (2,), brought so near to the bone as a rounded corner is, and how far off it was, mm (or inf)."""
        side = np.arange(-_FARTHEST_CORNER_MM, _FARTHEST_CORNER_MM + 0.1, 0.25)
        around = np.stack(np.meshgrid(side, side, indexing="ij"), axis=-1).reshape(-1, 2)
        around = around[np.argsort(np.hypot(*around.T), kind="stable")]
        bone = self._at(corner + around) >= 0.5
        if not bone.any():
            return corner, np.inf
        step = around[bone.argmax()]
        gap = float(np.hypot(*step))
        return corner + step * max(0.0, 1 - self.rounding_mm / max(gap, 1e-6)), gap

    def _middle(self, ahead: Floats, edge: Floats, at: float) -> Floats:
        part = np.abs(ahead - at) <= max(0.22 * self.depth_mm, 2.0)
        if part.sum() < 5:
            raise BodyNotFoundError("no endplate half way between front and back")
        fit, _ = robust_fit(polynomial(ahead[part] - at, 2), edge[part])
        return np.array([at, fit[0]])

    def _doubts(self, gap: float, spread: float) -> tuple[str, ...]:
        doubts = []
        if gap > self.rounding_mm + _DOUBTFUL_CORNER_MM:
            doubts.append("an endplate and a wall, prolonged, meet far off the bone")
        if spread > 0.8:
            doubts.append(f"uneven endplates ({spread:.1f} mm)")
        return tuple(doubts)
