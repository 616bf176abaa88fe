"""What age, collapse, tumours and surgeons change in a spine; all of it outside of what the keypoints measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from vertfrac.cohorts.phantom.anatomy import Vertebra
from vertfrac.cohorts.phantom.canvas import Canvas
from vertfrac.cohorts.phantom.ingredients import Ingredients
from vertfrac.cohorts.phantom.look import Look
from vertfrac.cohorts.phantom.vertebra import Spot

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Disc:
    """Where the middle of a disc is (mm), how it is turned, and its half-axes (mm): lateral, anterior, superior."""

    center: Floats
    turn: Floats
    half: Floats


def disc_between(upper: Vertebra, lower: Vertebra) -> Disc:
    """The disc between two bodies, by the corners of their endplates."""
    above, below = upper.keypoints[[1, 5]], lower.keypoints[[0, 4]]
    thick = float(np.linalg.norm(above.mean(axis=0) - below.mean(axis=0)))
    half = np.array([(upper.width + lower.width) / 4, (upper.depth + lower.depth) / 4, thick / 2])
    return Disc((above.mean(axis=0) + below.mean(axis=0)) / 2, upper.rotation, half)


def paint_disc_wear(canvas: Canvas, spine: Sequence[Vertebra], look: Look, rare: np.random.Generator) -> None:
    """Gas, calcium or bone in some discs; how many says one number per patient."""
    worn = float(rare.beta(0.7, 2.5))
    for upper, lower in pairwise(spine):
        disc = disc_between(upper, lower)
        kind = rare.choice(["", "gas", "calcium", "bone"], p=[1 - 0.75 * worn, 0.4 * worn, 0.25 * worn, 0.1 * worn])
        place = disc.center + disc.turn @ (rare.uniform(-0.3, 0.3, 3) * disc.half * [1, 1, 0.3])
        if kind == "gas":
            radii = disc.half * [rare.uniform(0.2, 0.6), rare.uniform(0.2, 0.55), rare.uniform(0.25, 0.5)]
            canvas.ellipsoid(place, radii, float(rare.uniform(-600, -100)), disc.turn)
        elif kind == "calcium":
            for _ in range(int(rare.integers(1, 4))):
                spot = place + disc.turn @ (rare.uniform(-0.4, 0.4, 3) * disc.half * [1, 1, 0.2])
                radii = np.minimum(rare.uniform(1.5, 6, 3), disc.half * [1, 1, 0.5])
                canvas.ellipsoid(spot, radii, float(rare.uniform(200, 700)), disc.turn)
        elif kind == "bone":
            canvas.ellipsoid(disc.center, disc.half * [0.8, 0.8, 1.3], look.marrow + 60, disc.turn, keep=0.2)


def paint_bridges(canvas: Canvas, spine: Sequence[Vertebra], look: Look, rare: np.random.Generator) -> None:
    """Bone that flows over the front or a side of discs, along many levels (DISH) or one."""
    first = int(rare.integers(0, len(spine) - 4))
    run = int(rare.integers(4, 10)) if rare.random() < 0.08 else int(rare.random() < 0.15)
    angle, thick = rare.normal(0.35, 0.6), rare.uniform(1.8, 4.0)
    for upper, lower in pairwise(spine[first : first + run + 1]):
        rims = []
        for v, rows in ((upper, (1, 5)), (lower, (0, 4))):
            front, back = v.outline[rows[0]], v.outline[rows[1]]
            middle, half = (front + back) / 2, (front[0] - back[0]) / 2
            out = np.array([np.sin(angle) * v.width / 2, middle[0] + np.cos(angle) * (half + 0.5 * thick), middle[1]])
            rims.append((v, out))
        (v, low), (w, high) = rims
        bulge = np.array([np.sin(angle), np.cos(angle), 0]) * thick
        path = [v.center + v.rotation @ low, v.center + v.rotation @ (low + bulge)]
        path += [w.center + w.rotation @ (high + bulge), w.center + w.rotation @ high]
        canvas.chain(path, thick, look.cortex * 0.85)
        canvas.chain(path, thick * 0.5, look.marrow + 80)


def body_spots(
    spine: Sequence[Vertebra], look: Look, ingredients: Ingredients, rare: np.random.Generator
) -> Mapping[str, list[Spot]]:
    """Other tissue inside bodies, by level: metastases, haemangiomas, cement, vacuum clefts, pits in endplates with
    their rims, sclerosis beside discs."""
    spots: dict[str, list[Spot]] = {v.level: [] for v in spine}

    def anywhere(v: Vertebra, share: float) -> Floats:
        return np.asarray(rare.uniform(-share, share, 3) * [v.width / 2, v.depth / 2, v.height / 2])

    spread = rare.choice([0.0, 0.1, 0.6], p=[0.86, 0.09, 0.05])
    pitted = float(rare.beta(0.7, 4.0))
    dense = bool(rare.random() < 0.5)
    for v in spine:
        found: list[tuple[str, Spot]] = []
        if rare.random() < spread:
            for _ in range(int(rare.integers(1, 4))):
                hu = float(rare.uniform(350, 900) if dense else rare.uniform(10, 70))
                found.append(("lesions", Spot(anywhere(v, 0.8), float(rare.uniform(3, 14)), hu, rare.uniform(0.5, 1))))
        if rare.random() < 0.02:
            strands = float(rare.uniform(60, 160))
            found.append(("lesions", Spot(anywhere(v, 0.4), float(rare.uniform(6, 13)), 20.0, 0.9, strands)))
        for row, inwards in ((2, -1.0), (3, 1.0)):
            if rare.random() < 0.03:
                radius = float(rare.uniform(5, 11))
                rim = np.array([0, rare.uniform(-0.3, 0.4) * v.depth, v.outline[row, 1] + inwards * 0.2 * radius])
                found.append(("wear", Spot(rim, radius, float(rare.uniform(250, 600)), rare.uniform(0.3, 0.8))))
            if rare.random() < pitted:
                radius = float(rare.uniform(1.5, 5))
                pit = np.array([*rare.uniform(-0.28, 0.28, 2) * [v.width, v.depth], v.outline[row, 1]])
                found.append(("wear", Spot(pit, radius + 1.3, look.cortex * 0.6, 0.8)))
                found.append(("wear", Spot(pit, radius, look.disc)))
        broken = v.genant < 0.7
        if rare.random() < (0.12 if broken else 0.004):
            for _ in range(int(rare.integers(3, 12))):
                radius = float(rare.uniform(1.5, 5))
                found.append(("metal", Spot(anywhere(v, 0.6), radius, float(rare.uniform(900, 2600)))))
        if rare.random() < (0.1 if broken else 0.0):
            for _ in range(4):
                cleft = anywhere(v, 0.5) * [1, 1, 0.3]
                found.append(("collapse", Spot(cleft, float(rare.uniform(1, 2.5)), float(rare.uniform(-500, -50)))))
        spots[v.level] = [spot for kind, spot in found if kind in ingredients]
    return spots


def paint_hardware(canvas: Canvas, spine: Sequence[Vertebra], rare: np.random.Generator) -> None:
    """Pedicle screws with rods over two to six levels, or a cage in a disc."""
    kind = rare.random()
    count = int(rare.integers(2, 7))
    first = int(rare.integers(8, len(spine) - 1))
    chosen = spine[first : first + count]
    hu = float(rare.uniform(2400, 3071))
    if kind < 0.06:
        for side in (-1.0, 1.0):
            heads: list[Floats] = []
            for v in chosen:
                if len(heads) > 1 and rare.random() < 0.15:
                    continue
                head = v.center + v.rotation @ np.array([side * 0.5 * v.width, -0.5 * v.depth - 26, rare.normal(1, 1)])
                tip = np.array([side * rare.uniform(0.05, 0.25) * v.width, rare.uniform(0, 0.35) * v.depth, 1.0])
                canvas.capsule(head, v.center + v.rotation @ tip, float(rare.uniform(2.2, 3.4)), hu)
                canvas.ellipsoid(head, [5, 5, 6], hu)
                heads.append(head)
            if len(heads) > 1:
                canvas.chain(heads, float(rare.uniform(2.4, 3.2)), hu)
    elif kind < 0.09 and len(chosen) > 1:
        disc = disc_between(chosen[0], chosen[1])
        canvas.ellipsoid(disc.center, disc.half * [0.5, 0.6, 1.0], float(rare.choice([300.0, hu])), disc.turn)
