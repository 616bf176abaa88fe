"""Random spines as pure numbers: levels, sizes, fractures, curvature, field of view and exact keypoints.

Anatomy frame: RAS+, mm, origin at the middle of the sacral endplate; x to the right, y anterior, z superior.
A vertebra's own frame: its columns are the lateral (right), anterior and superior directions of its body.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vertfrac.cohorts.phantom.ingredients import Ingredients
from vertfrac.genant import genant_index
from vertfrac.geometry.keypoints import heights

Floats = NDArray[np.float64]

LEVELS: tuple[str, ...] = (
    *(f"C{i}" for i in range(3, 8)),
    *(f"T{i}" for i in range(1, 13)),
    *(f"L{i}" for i in range(1, 6)),
)
PLACES: dict[str, float] = {level: float(i) for i, level in enumerate(LEVELS)} | {"T13": 16.5, "L6": 21.5}
"""Where each level stands in the order of those that everybody has; variants stand between."""

SHAPES: tuple[str, ...] = ("normal", "wedge", "biconcave", "crush")
T1, T12, L1, L5, S1 = 5, 16, 17, 21, 22

_KNOTS = np.array([0, 4, 6, 10, 12, 16, 17, 19, 20, 21], float)
_ANTERIOR = np.array([14.4, 14.7, 17.9, 18.3, 19.5, 24.3, 25.9, 28.3, 28.4, 28.6])
_MIDDLE = np.array([12.6, 12.8, 15.8, 17.2, 18.1, 22.5, 23.6, 23.9, 24.0, 24.1])
_POSTERIOR = np.array([14.7, 15.0, 18.4, 20.5, 21.5, 26.6, 27.9, 27.8, 27.2, 25.6])
_DEPTH = np.array([14.5, 14.5, 17.0, 24.0, 27.0, 28.0, 29.0, 30.5, 31.5, 32.0])
_WIDTH = np.array([19.0, 25.0, 28.0, 27.0, 29.5, 38.0, 40.0, 44.0, 46.5, 49.0])
_GAP = np.array([4.0, 4.0, 3.2, 3.0, 3.4, 5.0, 6.0, 8.0, 8.6, 8.4])

_FRACTURE_WEIGHT = np.array([1, 1, 1, 1, 2, 2, 3, 4, 6, 8, 12, 12, 10, 7, 7, 11, 16, 16, 10, 6, 5, 4], float)


def typical_size(level: str) -> tuple[float, float, float, float]:
    """Anterior, middle and posterior height and depth (mm) of a healthy body of average size."""
    anterior, middle, posterior, depth = (
        float(np.interp(PLACES[level], _KNOTS, table)) for table in (_ANTERIOR, _MIDDLE, _POSTERIOR, _DEPTH)
    )
    return anterior, middle, posterior, depth


FIELDS: tuple[str, ...] = ("chest", "abdomen", "trunk", "neck", "lumbar")
_FIELD_SHARE = (0.44, 0.22, 0.12, 0.14, 0.08)


@dataclass(frozen=True)
class Vertebra:
    """One vertebral body and where it stands; everything in mm, `rotation` maps its own frame to the anatomy frame.

    `outline` : (6, 2), (anterior, superior) coordinates of the keypoints in the vertebra's mid-sagittal plane.
    """

    level: str
    shape: str
    outline: Floats
    depth: float
    width: float
    center: Floats
    rotation: Floats
    sclerosis: bool

    @property
    def keypoints(self) -> Floats:
        """(6, 3) keypoints in the anatomy frame, in the order of geometry.keypoints.KEYPOINTS."""
        local = np.column_stack([np.zeros(6), self.outline])
        points: Floats = self.center + local @ self.rotation.T
        return points

    @property
    def genant(self) -> float:
        """Genant index of the exact keypoints."""
        return float(genant_index(heights(self.outline)))

    @property
    def height(self) -> float:
        """Mean of the three heights."""
        return float(heights(self.outline).mean())

    @property
    def place(self) -> float:
        """0 (C3) to 21 (L5); 16.5 is T13 and 21.5 is L6."""
        return PLACES[self.level]


@dataclass(frozen=True)
class Column:
    """A spine from C3 to its last lumbar vertebra, superior first, with the z range that the scan covers."""

    vertebrae: tuple[Vertebra, ...]
    field: str
    z_low: float
    z_high: float
    cobb: float
    kyphosis: float
    lordosis: float
    fragile: float
    size: float

    def z_at(self, level: float | Floats) -> Floats:
        """Height z of a fractional level index (0 = C3 ... 21 = L5, 22 = S1; beyond both ends too)."""
        places = np.array([v.place for v in self.vertebrae])
        inner = np.array([v.center[2] for v in self.vertebrae])
        above = inner[0] + 18.0 * self.size * np.arange(8, 0, -1)
        below = inner[-1] - 29.0 * self.size * np.arange(1, 12)
        index = np.concatenate([np.arange(-8.0, 0.0), places, np.arange(22.0, 33.0)])
        return np.asarray(np.interp(level, index, np.concatenate([above, inner, below])), dtype=np.float64)

    def level_at(self, z: Floats) -> Floats:
        """Fractional level index at heights z, the inverse of `z_at`."""
        index = np.arange(-8.0, 33.0)
        levels: Floats = np.interp(-np.asarray(z), -self.z_at(index), index)
        return levels

    def visible(self, margin: float = 2.0) -> tuple[Vertebra, ...]:
        """Vertebrae whose six keypoints lie in the z range of the scan by `margin` mm."""
        return tuple(
            v
            for v in self.vertebrae
            if v.keypoints[:, 2].min() >= self.z_low + margin and v.keypoints[:, 2].max() <= self.z_high - margin
        )


def _levels_in_view(rng: np.random.Generator, field: str) -> tuple[float, float]:
    """Fractional level indices at the upper and the lower end of the scan."""
    if field == "chest":
        return rng.uniform(2.6, 5.3), rng.uniform(15.5, 19.5)
    if field == "abdomen":
        return rng.uniform(11.0, 15.5), rng.uniform(22.0, 30.0)
    if field == "trunk":
        return rng.uniform(2.5, 9.0), rng.uniform(20.5, 26.0)
    if field == "neck":
        return rng.uniform(-6.0, 1.5), rng.uniform(7.5, 17.0)
    return rng.uniform(14.0, 17.5), rng.uniform(20.5, 24.5)


def _target_index(rng: np.random.Generator) -> float:
    """Genant index of a fracture: most moderate, some mild, a tail of severe ones."""
    kind = rng.choice(3, p=[0.18, 0.52, 0.30])
    low, high = ((0.74, 0.80), (0.6, 0.74), (0.35, 0.6))[kind]
    return float(rng.triangular(low, high, high)) if kind == 2 else float(rng.uniform(low, high))


def _levels(rare: np.random.Generator) -> tuple[str, ...]:
    """The levels of one spine with a variant in one of six."""
    variant = rare.choice(["", "no T12", "T13", "no L5", "L6"], p=[0.83, 0.04, 0.03, 0.04, 0.06])
    if variant.startswith("no"):
        return tuple(level for level in LEVELS if level != variant[3:])
    return tuple(sorted((*LEVELS, variant), key=PLACES.__getitem__)) if variant else LEVELS


def _plan_fractures(rng: np.random.Generator, top: float, bottom: float) -> dict[int, tuple[str, float]]:
    """Level index -> (shape, target Genant index) of one patient's fractures; empty for 40 % of patients."""
    if rng.random() < 0.4:
        return {}
    inside = np.arange(len(LEVELS), dtype=float)
    weight = _FRACTURE_WEIGHT * np.where((inside > top + 0.5) & (inside < bottom - 0.5), 1.0, 0.02)
    count = int(rng.choice([1, 2, 3, 4], p=[0.12, 0.17, 0.27, 0.44]))
    count = min(count, max(1, round((bottom - top) * 0.45)))
    chosen: dict[int, tuple[str, float]] = {}
    for _ in range(count):
        free = weight * np.array([i not in chosen for i in range(len(LEVELS))])
        near = np.array([min((abs(i - c) for c in chosen), default=9) for i in range(len(LEVELS))])
        free = free * np.where(near <= 2, 1.8, 1.0)
        level = int(rng.choice(len(LEVELS), p=free / free.sum()))
        shares = [0.3, 0.5, 0.2] if level >= 18 else [0.55, 0.3, 0.15]
        chosen[level] = (str(rng.choice(SHAPES[1:], p=shares)), _target_index(rng))
    return chosen


def _deform(rng: np.random.Generator, h: Floats, shape: str, target: float) -> Floats:
    """Heights (anterior, middle, posterior) after a fracture whose Genant index is `target`."""
    anterior, middle, posterior = h
    if shape == "wedge":
        posterior *= rng.uniform(0.92, 1.0)
        anterior = target * posterior
        middle = max(anterior, (anterior + posterior) / 2 * rng.uniform(0.84, 0.98))
    elif shape == "biconcave":
        tallest = max(anterior, posterior) * rng.uniform(0.9, 1.0)
        other = rng.uniform(max(target, 0.88), 1.0) * tallest
        anterior, posterior = (other, tallest) if rng.random() < 0.6 else (tallest, other)
        middle = target * tallest
    else:
        anterior = max(anterior, posterior) * rng.uniform(0.72, 0.93)
        posterior = target * anterior
        middle = max(posterior, (anterior + posterior) / 2 * rng.uniform(0.86, 1.0))
    return np.array([anterior, middle, posterior])


def _outline(rng: np.random.Generator, h: Floats, intact: Floats, depth: float) -> Floats:
    """(6, 2) keypoints in a body's own mid-sagittal plane; lost height is taken mostly from one endplate."""
    share = rng.beta(2.5, 1.2) if rng.random() < 0.75 else rng.uniform(0.0, 1.0)
    lost = intact - h
    top, bottom = intact / 2 - share * lost, -intact / 2 + (1 - share) * lost
    skew = rng.normal(0.0, 0.012, 4) * depth
    y_top = np.array([depth / 2 + skew[0], 0.0, -depth / 2 + skew[1]])
    y_bottom = np.array([depth / 2 + skew[2], 0.0, -depth / 2 + skew[3]])
    y_top[1], y_bottom[1] = y_top[[0, 2]].mean(), y_bottom[[0, 2]].mean()
    outline = np.empty((6, 2))
    outline[0::2] = np.column_stack([y_top, top])
    outline[1::2] = np.column_stack([y_bottom, bottom])
    shift = np.array([outline[:, 0].mean(), outline[[2, 3], 1].mean()])
    centered: Floats = outline - shift
    return centered


def _slope(outline: Floats, anterior: int, posterior: int) -> float:
    """Angle (rad) by which an endplate rises from posterior to anterior in its vertebra's frame."""
    run, rise = outline[anterior] - outline[posterior]
    return float(np.arctan2(rise, run))


def _frame(sagittal: float, coronal: float, axial: float) -> Floats:
    """Rotation matrix of a vertebra that leans anterior, right and turns about its axis by these angles (rad)."""
    up = np.array([np.sin(coronal), np.sin(sagittal) * np.cos(coronal), np.cos(sagittal) * np.cos(coronal)])
    lateral = np.array([np.cos(axial), np.sin(axial), 0.0])
    lateral -= up * (lateral @ up)
    lateral /= np.linalg.norm(lateral)
    return np.column_stack([lateral, np.cross(up, lateral), up])


def _scoliosis(rng: np.random.Generator, places: Floats, cobb: float) -> tuple[Floats, Floats]:
    """Coronal tilt and axial turn (rad) of the levels for a Cobb angle (deg)."""
    period, phase = rng.uniform(10, 20), rng.uniform(0, 2 * np.pi)
    envelope = np.exp(-(((places - rng.uniform(9, 18)) / rng.uniform(6, 11)) ** 2))
    tilt = envelope * np.cos(2 * np.pi * places / period + phase)
    tilt *= np.deg2rad(cobb) / max(float(np.ptp(tilt)), 1e-6)
    turn = 0.5 * np.cumsum(tilt - tilt.mean()) * 2 * np.pi / period
    return tilt, turn + rng.normal(0, np.deg2rad(1.0), len(places))


@dataclass(frozen=True)
class Rarities:
    """What is rare in a spine. `levels` of the spine; `cobb`, `kyphosis` (deg) instead of usual ones, 0 for these;
    `slip` (mm) by which a level has slid forward on the one below; `crushed`, a Genant index for one of the fractures,
    0 for none."""

    levels: tuple[str, ...] = LEVELS
    cobb: float = 0.0
    kyphosis: float = 0.0
    slip: tuple[str, float] = ("", 0.0)
    crushed: float = 0.0


def draw_rarities(rare: np.random.Generator, ingredients: Ingredients) -> Rarities:
    """Draw what is rare; without an ingredient everything else is drawn as with it."""
    levels = _levels(rare)
    cobb = float(rare.uniform(25, 60)) if rare.random() < 0.15 else 0.0
    kyphosis = float(rare.uniform(60, 80)) if rare.random() < 0.15 else 0.0
    slip = (str(rare.choice(["L3", "L4", "L5"], p=[0.2, 0.5, 0.3])), float(rare.uniform(2, 9)))
    slipped = rare.random() < 0.06
    crushed = float(rare.uniform(0.2, 0.35)) if rare.random() < 0.12 else 0.0
    if "deformity" not in ingredients:
        cobb = kyphosis = 0.0
    return Rarities(
        levels if "variants" in ingredients else LEVELS,
        cobb,
        kyphosis,
        slip if slipped and "deformity" in ingredients else ("", 0.0),
        crushed if "collapse" in ingredients else 0.0,
    )


def random_column(rng: np.random.Generator, rarities: Rarities = Rarities()) -> Column:
    """Draw one spine: sizes, curvature, fractures and the scanned z range, by stacking endplate on endplate.

    Each body keeps its wedge angle, discs take up the rest of the wanted kyphosis and lordosis, so a fracture bends
    the column where it lies. Returns a :class:`Column` in the anatomy frame, tilted as the patient lies.
    """
    field = str(rng.choice(FIELDS, p=_FIELD_SHARE))
    top, bottom = _levels_in_view(rng, field)
    fragile = float(rng.beta(1.3, 1.3))
    plan = _plan_fractures(rng, top, bottom)
    if plan:
        fragile = max(fragile, float(rng.uniform(0.3, 1.0)))
        if rarities.crushed:
            level = next(iter(plan))
            plan[level] = (plan[level][0], rarities.crushed)
    size = float(np.clip(rng.normal(1.0, 0.08), 0.8, 1.22))
    ratio = rng.normal(0.0, [0.018, 0.028, 0.012])
    levels = rarities.levels
    count, index = len(levels), np.array([PLACES[level] for level in levels])
    table = np.column_stack([np.interp(index, _KNOTS, t) for t in (_ANTERIOR, _MIDDLE, _POSTERIOR)])
    table = table * size * (1 + rng.normal(0, 0.02, (count, 1))) * (1 + ratio + rng.normal(0, 0.021, table.shape))
    depth = np.interp(index, _KNOTS, _DEPTH) * size * rng.normal(1, 0.06) * (1 + rng.normal(0, 0.03, count))
    width = np.interp(index, _KNOTS, _WIDTH) * size * rng.normal(1, 0.06) * (1 + rng.normal(0, 0.03, count))
    gap = np.interp(index, _KNOTS, _GAP) * np.clip(rng.normal(1, 0.14), 0.65, 1.35)
    gap = gap * np.where(rng.random(count) < 0.08, rng.uniform(0.4, 0.7), rng.normal(1, 0.08, count))
    gap = np.maximum(gap, 1.5)

    outlines: list[Floats] = []
    shapes: list[str] = []
    wedges, intact_wedges = np.zeros(count), np.zeros(count)
    for i in range(count):
        h = intact = table[i]
        fracture = plan.get(int(index[i])) if index[i] == int(index[i]) else None
        shapes.append(fracture[0] if fracture else "normal")
        if fracture:
            h = _deform(rng, intact, *fracture)
            depth[i] *= rng.uniform(1.0, 1.07)
        outlines.append(_outline(rng, h, np.maximum(intact, h), float(depth[i])))
        wedges[i] = _slope(outlines[i], 1, 5) - _slope(outlines[i], 0, 4)
        intact_wedges[i] = (intact[2] - intact[0]) / depth[i]

    kyphosis, lordosis = np.deg2rad(rng.triangular(20, 40, 68)), np.deg2rad(rng.triangular(20, 42, 62))
    kyphosis = np.deg2rad(rarities.kyphosis) if rarities.kyphosis else kyphosis
    wanted = np.zeros(count)
    neck = np.deg2rad(rng.uniform(-5, 30))
    cervical, lumbar = index < T1, index >= L1
    thoracic = ~cervical & ~lumbar
    wanted[cervical] = -(neck + intact_wedges[cervical].sum()) / T1
    wanted[thoracic] = (kyphosis - intact_wedges[thoracic].sum()) / thoracic.sum()
    share = np.interp(np.linspace(0, 4, lumbar.sum()), np.arange(5), [0.1, 0.15, 0.2, 0.26, 0.29])
    wanted[lumbar] = -share / share.sum() * (lordosis + intact_wedges[lumbar].sum())
    extra = wedges - intact_wedges
    wanted -= 0.22 * extra
    wanted[:-1] -= 0.22 * extra[1:]
    most = 2 * (gap - 1.1) / depth
    disc = np.clip(wanted + rng.normal(0, np.deg2rad(0.7), count), -most, most)

    cobb = float(rng.uniform(12, 40) if rng.random() < 0.15 else rng.triangular(0, 2, 11))
    cobb = rarities.cobb or cobb
    tilt, turn = _scoliosis(rng, index, cobb)
    frames: list[Floats] = []
    centers: list[Floats] = []
    lean = 0.0
    corner = np.array([0.0, -depth[-1] / 2, 0.0])
    for i in reversed(range(count)):
        outline = outlines[i]
        half = lean + disc[i] / 2
        lean += disc[i]
        sagittal = lean + _slope(outline, 1, 5)
        lean = sagittal - _slope(outline, 0, 4)
        frame = _frame(sagittal, tilt[i], turn[i])
        corner = corner + (gap[i] + depth[i] / 2 * np.sin(disc[i])) * _frame(half, tilt[i], turn[i])[:, 2]
        corner = corner + frame[:, 1] * rng.normal(0, 0.35)
        if levels[i] == rarities.slip[0]:
            corner = corner + frame[:, 1] * rarities.slip[1]
        center = corner - frame[:, 1:] @ outline[5]
        corner = center + frame[:, 1:] @ outline[4]
        frames.insert(0, frame)
        centers.insert(0, center)

    place = np.array(centers)
    rise = place[4] - place[-1]
    balance = np.arctan2(rise[1], rise[2]) + np.deg2rad(rng.normal(2.0, 3.5))
    sideways = np.arctan2(rise[0], rise[2]) + np.deg2rad(rng.normal(0, 2.0))
    turn_all = np.deg2rad(rng.normal(0, 3.0))
    whole = _frame(-balance, -sideways, turn_all)
    vertebrae = tuple(
        Vertebra(
            level=levels[i],
            shape=shapes[i],
            outline=outlines[i],
            depth=float(depth[i]),
            width=float(width[i]),
            center=whole @ place[i],
            rotation=whole @ frames[i],
            sclerosis=bool(shapes[i] != "normal" and rng.random() < 0.45),
        )
        for i in range(count)
    )
    column = Column(
        vertebrae, field, 0.0, 0.0, cobb, float(np.rad2deg(kyphosis)), float(np.rad2deg(lordosis)), fragile, size
    )
    high, low = float(column.z_at(top)), float(column.z_at(bottom))
    length = float(np.clip(high - low, 180.0, 480.0))
    if field == "trunk":
        low = high - length
    else:
        middle = (high + low) / 2
        low, high = middle - length / 2, middle + length / 2
    return replace(column, z_low=low, z_high=high)
