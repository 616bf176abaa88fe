"""Everything around the spine: trunk, lungs, organs, vessels, ribs, shoulders, neck, head, pelvis, table.

Landmarks hang on fractional level indices (0 = C3, 5 = T1, 16 = T12, 21 = L5, 22 = S1); RAS mm, so the patient's
left is negative x.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from vertfrac.cohorts.phantom.anatomy import Column, Vertebra
from vertfrac.cohorts.phantom.canvas import Canvas
from vertfrac.cohorts.phantom.look import Look
from vertfrac.cohorts.phantom.vertebra import ARCH, SACRUM

Floats = NDArray[np.float64]

_LEVEL = np.array([-8, -4, -2, 0, 2, 4, 5, 6, 8, 12, 16, 19, 22, 26, 32], float)
_HALF_WIDTH = np.array([70, 76, 74, 60, 60, 74, 118, 158, 166, 158, 150, 146, 162, 176, 176], float)
_DEPTH = np.array([180, 190, 175, 118, 112, 122, 148, 172, 200, 222, 216, 204, 204, 206, 190], float)
_BEHIND = np.array([95, 84, 68, 62, 63, 67, 71, 72, 70, 68, 70, 78, 84, 86, 84], float)


class Body:
    """Smooth outlines of one patient along z, from which organs take their places."""

    def __init__(self, column: Column, look: Look, rng: np.random.Generator) -> None:
        self.column, self.look = column, look
        self.size = column.size
        top, bottom = float(column.z_at(-8.0)), float(column.z_at(32.0))
        self.z = np.arange(bottom, top, 4.0)
        self.level = column.level_at(self.z)
        first = column.vertebrae[0]
        neck = first.center + 70.0 * first.rotation[:, 2]
        centers = np.array([neck, *(v.center for v in column.vertebrae)])[::-1]
        self.spine_x = np.interp(self.z, centers[:, 2], centers[:, 0])
        self.spine_y = np.interp(self.z, centers[:, 2], centers[:, 1])
        smooth_x = gaussian_filter1d(self.spine_x, 20)
        smooth_y = gaussian_filter1d(0.5 * self.spine_y + 0.5 * gaussian_filter1d(self.spine_y, 25), 6)
        trunk = np.interp(self.level, [2, 6], [0.0, 1.0])
        extra = 1.0 + (look.girth - 1) * trunk
        self.half_width = np.interp(self.level, _LEVEL, _HALF_WIDTH) * self.size * extra
        deep = 1.0 + (look.depth - 1) * trunk
        self.depth = np.interp(self.level, _LEVEL, _DEPTH) * self.size * deep
        self.back = smooth_y - np.interp(self.level, _LEVEL, _BEHIND) * self.size
        self.back -= look.fat_back * np.interp(self.level, [2, 6], [0.3, 1.0])
        self.depth += look.fat_back * np.interp(self.level, [2, 6], [0.3, 1.0])
        self.front = self.back + self.depth
        self.x = smooth_x
        lean = np.deg2rad(rng.normal(0, 1.5))
        self.x = self.x + (self.z - self.z.mean()) * np.tan(lean) * 0.3

    def at(self, level: float, x: float = 0.0, y: float = 0.0) -> Floats:
        """Point (3,) mm at a level, offset in x from the spine and in y from the vertebral body's centre."""
        z = float(self.column.z_at(level))
        return np.array([np.interp(z, self.z, self.spine_x) + x * self.size, self._spine_y(z) + y * self.size, z])

    def _spine_y(self, z: float) -> float:
        return float(np.interp(z, self.z, self.spine_y))

    def value(self, name: str, z: float) -> float:
        """One of the outlines (`half_width`, `front`, `back`, `x`) at a height z."""
        return float(np.interp(z, self.z, getattr(self, name)))

    def span(self, upper: float, lower: float) -> tuple[float, float]:
        """(low, high) z of a range of levels."""
        return float(self.column.z_at(lower)), float(self.column.z_at(upper))


def paint_trunk(canvas: Canvas, body: Body, rng: np.random.Generator, arms_up: bool) -> None:
    """Skin, subcutaneous fat and the muscle wall of trunk, neck and head; shoulders and arms."""
    look, z = body.look, body.z
    cy, ry = (body.front + body.back) / 2, body.depth / 2
    whole = (float(z[0]), float(z[-1]))
    power = rng.uniform(2.1, 2.7)
    shoulder = body.at(6.2)
    reach = (175 if arms_up else 182) * body.size * min(look.girth, 1.15)
    for s in (-1.0, 1.0):
        joint = np.array(
            [body.value("x", shoulder[2]) + s * reach, shoulder[1] - 8, shoulder[2] + (18 if arms_up else 0)]
        )
        far = joint + (np.array([s * 18, 30, 260]) if arms_up else np.array([s * 40, 18, -300]))
        thick = rng.uniform(42, 58) * body.size
        for grow, hu in ((2.0, 20.0), (0.0, look.fat), (-0.6 * min(look.fat_side, 16), look.muscle)):
            canvas.capsule(joint, far, (thick + grow, thick * 0.8 + grow), hu)
    canvas.stack(whole, (body.x, cy), (body.half_width + 2, ry + 2), 15.0, power, z)
    canvas.stack(whole, (body.x, cy), (body.half_width, ry), look.fat, power, z)
    taper = np.interp(body.level, [0, 6], [0.45, 1.0])
    side, front, back = look.fat_side * taper, look.fat_front * taper, look.fat_back * taper
    inner = (body.front - front + body.back + back) / 2
    canvas.stack(whole, (body.x, inner), (body.half_width - side, ry - (front + back) / 2), look.muscle, power, z)


def cage(body: Body) -> tuple[Floats, Floats, Floats, Floats]:
    """Inner outline of thorax and abdomen along z: centre x, centre y, radius x, radius y."""
    look, level = body.look, body.level
    share = np.interp(level, [3.5, 5, 6, 7.5, 9.5, 12, 22, 27], [0.24, 0.46, 0.64, 0.8, 0.94, 1.0, 1.0, 0.8])
    wall = np.interp(level, [5, 12, 17, 20], [26, 14, 14, 20])
    rx = (np.interp(level, _LEVEL, _HALF_WIDTH) * body.size * look.girth - look.fat_side * 0.75 - wall) * share
    front = body.front - look.fat_front - np.interp(level, [4, 6, 9, 15, 20], [44, 38, 20, 16, 14])
    back = body.spine_y - np.interp(level, [4, 6, 10, 16, 18, 22], [20, 32, 40, 36, 22, 14]) * body.size
    return body.x, (front + back) / 2, rx, np.maximum((front - back) / 2, 12)


def paint_cavities(canvas: Canvas, body: Body, rng: np.random.Generator) -> None:
    """Lungs with vessels, mediastinum, heart, airways; abdominal fat and organs."""
    look, z, s = body.look, body.z, body.size
    cx, cy, rx, ry = cage(body)
    power = rng.uniform(2.1, 2.6)
    belly = float(rng.uniform(-112, -70)) if rng.random() < 0.75 else look.muscle - 20
    bottom = float(body.column.z_at(27.0))
    canvas.stack((bottom, float(body.column.z_at(11.5))), (cx, cy), (0.97 * rx, 0.97 * ry), belly, power, z)
    low, high = body.span(4.6, 17.9)
    rising = ry * np.interp(body.level, [11.5, 17.9], [0.0, 0.9])
    canvas.stack((low, high), (cx, cy - rising), (rx, ry - rising), look.lung, power, z)
    _paint_lung_vessels(canvas, body, (cx, cy, rx, ry), rng)
    _paint_lung_disease(canvas, body, (cx, cy, rx, ry), rng)
    _paint_mediastinum(canvas, body, rng)
    dome_z = float(body.column.z_at(rng.uniform(12.0, 14.5)))
    for side, drop in ((1.0, 0.0), (-1.0, rng.uniform(5, 25))):
        rise = np.clip((dome_z - drop - z) / (95 * s), 0, 1)
        round_ = np.sqrt(1 - (1 - rise) ** 2)
        near = np.interp(rise, [0, 1], [0.46, 0.42])
        hu = look.liver if side > 0 else belly
        part = (cx + side * near * rx, cy + 0.04 * ry)
        canvas.stack((bottom, dome_z - drop), part, (0.56 * rx * round_, 0.93 * ry * round_), hu, 2.3, z)
    _paint_abdomen(canvas, body, (cx, cy, rx, ry), dome_z, rng)


def _inside(outline: tuple[Floats, Floats, Floats, Floats], body: Body, point: Floats, share: float = 0.93) -> bool:
    cx, cy, rx, ry = (float(np.interp(point[2], body.z, o)) for o in outline)
    return bool(((point[0] - cx) / rx) ** 2 + ((point[1] - cy) / ry) ** 2 < share**2)


def _paint_lung_vessels(
    canvas: Canvas, body: Body, outline: tuple[Floats, Floats, Floats, Floats], rng: np.random.Generator
) -> None:
    look = body.look
    blood = max(look.blood, 40.0)
    for s in (-1.0, 1.0):
        hilum = body.at(9.5, s * 38, 48)
        for _ in range(int(rng.integers(26, 46))):
            direction = rng.normal(0, 1, 3) * np.array([0.6, 0.8, 1.1]) + np.array([s * 0.9, -0.1, 0])
            direction /= np.linalg.norm(direction)
            start, radius = hilum + rng.normal(0, 9, 3), rng.uniform(2.0, 4.8)
            for _ in range(8):
                direction = direction + rng.normal(0, 0.28, 3)
                direction /= np.linalg.norm(direction)
                end = start + direction * rng.uniform(10, 24)
                if radius < 0.6 or not _inside(outline, body, end):
                    break
                canvas.capsule(start, end, (radius, radius * 0.8), blood)
                if radius > 1.2:
                    twig = end + rng.normal(0, 12, 3)
                    if _inside(outline, body, twig):
                        canvas.capsule(end, twig, (radius * 0.55, 0.5), blood * 0.8)
                start, radius = end, radius * 0.8


def _paint_lung_disease(
    canvas: Canvas, body: Body, outline: tuple[Floats, Floats, Floats, Floats], rng: np.random.Generator
) -> None:
    """Denser or emptier patches, nodules and effusions, which change what lies beside the vertebrae."""
    cx, cy, rx, ry = outline
    s, z = body.size, body.z
    for _ in range(int(rng.integers(0, 9))):
        side = float(rng.choice([-1.0, 1.0]))
        patch = body.at(rng.uniform(7, 16), side * rng.uniform(35, 95), rng.uniform(-30, 90))
        if _inside(outline, body, patch, 0.7):
            hu = float(rng.choice([-960.0, -600.0, 0.0]))
            canvas.ellipsoid(patch, rng.uniform(12, 34, 3) * s, hu, keep=rng.uniform(0.6, 0.95))
    for _ in range(int(rng.integers(0, 7))):
        nodule = body.at(rng.uniform(6, 15), rng.uniform(-100, 100), rng.uniform(-30, 100))
        if _inside(outline, body, nodule, 0.85):
            canvas.ellipsoid(nodule, rng.uniform(2, 9) * rng.uniform(0.7, 1.2, 3), rng.uniform(-100, 300))
    for side in (-1.0, 1.0):
        if rng.random() < 0.12:
            top = rng.uniform(7.0, 13.5)
            fill = np.clip((body.level - top) / 4, 0, 1) * rng.uniform(0.15, 0.45)
            place = (cx + side * 0.5 * rx, cy - (0.95 - fill) * ry)
            canvas.stack(body.span(top, 18.0), place, (0.48 * rx, fill * ry), rng.uniform(0, 35), 2.0, z)


def _paint_mediastinum(canvas: Canvas, body: Body, rng: np.random.Generator) -> None:
    look, z, s, level = body.look, body.z, body.size, body.level
    fat = float(rng.uniform(-100, -20))
    front = body.front - look.fat_front - 22
    back = body.spine_y - 18 * s
    ry = (front - back) / 2
    rx = np.interp(level, [3, 5, 7, 9, 12, 17], [30, 30, 27, 25, 22, 30]) * s
    canvas.stack(body.span(3.5, 17.0), (body.spine_x * 0.6 + body.x * 0.4, (front + back) / 2), (rx, ry), fat, 2.0, z)
    chest_front = float(np.interp(body.column.z_at(11.0), z, front))
    heart = body.at(11.8, -24, 0)
    heart[1] = 0.45 * heart[1] + 0.55 * chest_front
    turn = _turn(rng.normal(-0.55, 0.15), rng.normal(0.25, 0.15))
    canvas.ellipsoid(heart, np.array([60, 50, 50]) * s, 45.0, turn)
    for _ in range(4):
        chamber = heart + turn @ (rng.uniform(-0.42, 0.42, 3) * np.array([60, 50, 50]) * s)
        canvas.ellipsoid(chamber, rng.uniform(16, 26, 3) * s, look.blood * rng.uniform(0.7, 1.1), turn)
    vein = look.vein
    canvas.chain([body.at(4.0, 20, 35), body.at(6.5, 24, 42), body.at(11, 22, 50)], 8.5 * s, vein)
    trunk = body.at(9.2, -5, 55)
    for x in (-42.0, 42.0):
        canvas.chain([trunk, body.at(9.3, x * 0.6, 42), body.at(9.8, x, 40)], [13 * s, 10 * s, 8 * s], look.blood)
    arch = [body.at(11, 0, 62), body.at(9, 14, 66), body.at(7.6, 8, 56), body.at(7.2, -8, 38), body.at(7.8, -22, 20)]
    wide = float(rng.uniform(10, 16) * s)
    canvas.chain(arch, wide * 1.1, look.blood)
    for x, y in ((12.0, 50.0), (-4.0, 44.0), (-16.0, 34.0)):
        canvas.chain(
            [body.at(7.2, x, y), body.at(4.5, x * 1.8, y - 8), body.at(1.0, np.sign(x) * 24, 22)], 4.2 * s, look.blood
        )
    swing = rng.uniform(-1, 1)
    down = [body.at(7.8, -22, 20), body.at(10, -24 + 3 * swing, 20), body.at(13, -18 + 6 * swing, 25)]
    down += [body.at(15.5, -8, 30), body.at(18, -5 + 4 * swing, 32), body.at(20.2, -3, 33)]
    canvas.chain(down, wide * 0.85, look.blood)
    for x in (-34.0, 34.0):
        canvas.chain([body.at(20.2, -2, 33), body.at(22, x * 0.7, 28), body.at(25.5, x * 1.9, 60)], 5.0 * s, look.blood)
    cava = [body.at(11.5, 20, 42), body.at(13.5, 22, 36), body.at(17, 20, 32), body.at(20.5, 14, 30)]
    canvas.chain(cava, float(rng.uniform(8, 12) * s), vein * 0.9)
    if rng.random() < 0.5:
        for _ in range(int(rng.integers(3, 26))):
            i = int(rng.integers(0, len(down) - 1))
            spot = down[i] + rng.random() * (down[i + 1] - down[i])
            angle = rng.uniform(0, 2 * np.pi)
            rim = spot + wide * 0.8 * np.array([np.cos(angle), np.sin(angle), 0])
            canvas.ellipsoid(rim, rng.uniform(0.8, 3.2, 3), rng.uniform(350, 1000))
    if rng.random() < 0.4:
        calcium = rng.uniform(200, 800)
        for _ in range(int(rng.integers(2, 8))):
            canvas.ellipsoid(
                body.at(rng.uniform(8, 10.5), rng.normal(0, 22), 45 + rng.normal(0, 6)), rng.uniform(1, 4, 3), calcium
            )
    gullet = [body.at(3, 0, 16), body.at(6, -4, 19), body.at(10, -6, 24), body.at(13, -10, 34), body.at(15, -24, 48)]
    canvas.chain(gullet, 7.5 * s, 38.0)
    if rng.random() < 0.45:
        i = int(rng.integers(0, 4))
        canvas.capsule(gullet[i], 0.5 * (gullet[i] + gullet[i + 1]), float(rng.uniform(1.5, 5)), -800.0)
    windpipe = [body.at(-2.5, 0, 26), body.at(1, 0, 30), body.at(3.5, 1, 32), body.at(6, 2, 36), body.at(8.3, 2, 38)]
    canvas.chain(windpipe, 10.5 * s, 45.0)
    canvas.chain(windpipe, 8.3 * s, -960.0)
    for x in (-1.0, 1.0):
        canvas.chain(
            [windpipe[-1], body.at(9.3, x * 24, 36), body.at(10.2, x * 46, 30)], [6.5 * s, 5.5 * s, 3.0 * s], -940.0
        )


def _turn(about_z: float, about_x: float = 0.0, about_y: float = 0.0) -> Floats:
    a, b, c = about_z, about_x, about_y
    rz = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    rx = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    ry = np.array([[np.cos(c), 0, np.sin(c)], [0, 1, 0], [-np.sin(c), 0, np.cos(c)]])
    turned: Floats = rz @ ry @ rx
    return turned


def _paint_abdomen(
    canvas: Canvas,
    body: Body,
    outline: tuple[Floats, Floats, Floats, Floats],
    dome_z: float,
    rng: np.random.Generator,
) -> None:
    look, s = body.look, body.size

    def spot(level: float, fx: float, fy: float) -> Floats:
        z = float(body.column.z_at(level))
        cx, cy, rx, ry = (float(np.interp(z, body.z, o)) for o in outline)
        return np.array([cx + fx * rx, cy + fy * ry, z])

    width = float(np.interp(dome_z - 90, body.z, outline[2]))
    deep = float(np.interp(dome_z - 90, body.z, outline[3]))
    tall = rng.uniform(70, 105) * s
    liver = spot(0, 0, 0)
    liver = np.array(
        [body.value("x", dome_z - 80) + 0.45 * width, float(np.interp(dome_z - 80, body.z, outline[1])), dome_z - tall]
    )
    canvas.ellipsoid(liver, [0.5 * width, 0.88 * deep, tall * 0.98], look.liver)
    canvas.ellipsoid(
        liver + np.array([-0.45 * width, 0.42 * deep, 0.2 * tall]), [0.5 * width, 0.42 * deep, 0.55 * tall], look.liver
    )
    for _ in range(6):
        start = liver + rng.normal(0, 14, 3)
        canvas.capsule(
            start,
            start + rng.normal(0, 34, 3),
            float(rng.uniform(2, 4.5)),
            look.liver + 0.25 * (look.vein - look.liver),
        )
    canvas.ellipsoid(
        spot(15.2, -0.72, -0.42), np.array([26, 44, 48]) * s * rng.uniform(0.85, 1.25), look.spleen, _turn(0.5)
    )
    stomach = spot(14.8, -0.38, 0.35)
    canvas.ellipsoid(stomach, np.array([48, 44, 52]) * s, 42.0, _turn(0.4))
    canvas.ellipsoid(
        stomach, np.array([42, 38, 46]) * s, float(rng.choice([15.0, 60.0, 250.0], p=[0.5, 0.4, 0.1])), _turn(0.4)
    )
    if rng.random() < 0.7:
        canvas.ellipsoid(stomach + np.array([0, 24 * s, 8]), np.array([30, 14, 30]) * s, -930.0, _turn(0.4))
    for side in (-1.0, 1.0):
        kidney = body.at(17.8 + 0.35 * (side > 0), side * 62, -4)
        turn = _turn(side * 0.5, 0.0, side * 0.25)
        canvas.ellipsoid(kidney, np.array([27, 26, 55]) * s, look.kidney, turn)
        canvas.ellipsoid(kidney - np.array([side * 9, -3, 0]), np.array([12, 11, 30]) * s, -40.0, turn)
    canvas.chain([spot(17.3, 0.25, 0.2), spot(17.0, 0, 0.12), spot(16.3, -0.4, -0.1)], 12 * s, rng.uniform(20, 90))
    for _ in range(int(rng.integers(26, 48))):
        level = rng.uniform(17.2, 25.5)
        place = spot(level, rng.uniform(-0.78, 0.78), rng.uniform(-0.05, 0.78))
        if place[1] < body.at(level)[1] + 42 * s or not _inside(outline, body, place, 0.8):
            continue
        length, radius = rng.normal(0, 24, 3) * np.array([1, 0.6, 0.7]), float(rng.uniform(8, 19) * s)
        canvas.capsule(place, place + length, radius, look.bowel + 10)
        content = float(rng.choice([-900.0, 15.0, 40.0, -150.0, 350.0], p=[0.3, 0.3, 0.25, 0.1, 0.05]))
        canvas.capsule(place, place + length, radius - rng.uniform(2, 4), content)
    for side in (-1.0, 1.0):
        colon = [spot(18, side * 0.8, 0.0), spot(20, side * 0.84, 0.05), spot(22.5, side * 0.76, 0.1)]
        radius = float(rng.uniform(15, 25) * s)
        canvas.chain(colon, radius, 40.0)
        for _ in range(9):
            i = int(rng.integers(0, 2))
            inside = colon[i] + rng.random() * (colon[i + 1] - colon[i]) + rng.normal(0, 4, 3)
            canvas.ellipsoid(inside, rng.uniform(6, 13, 3), float(rng.choice([-900.0, -200.0, 40.0, -500.0])))
    bladder = spot(27.0, 0, 0.1)
    canvas.ellipsoid(bladder, rng.uniform(30, 48, 3) * s, 8.0)
    canvas.ellipsoid(body.at(26.5, 0, 5), np.array([22, 24, 60]) * s, 40.0)
    if rng.random() < 0.5:
        canvas.ellipsoid(body.at(26.5, 2, 5), np.array([10, 10, 26]) * s, float(rng.choice([-900.0, -80.0])))


def paint_muscles(canvas: Canvas, body: Body, rng: np.random.Generator) -> None:
    """Tissue around the column, erector muscles behind it, psoas beside it, fat streaks between them."""
    look, z, s, level = body.look, body.z, body.size, body.level
    bottom, top = float(z[0]), float(z[-1])
    sx, sy = body.spine_x, body.spine_y
    strip = np.interp(level, [-2, 4, 6, 12, 16, 20], [16, 18, 18, 17.5, 22, 28]) * s * rng.uniform(0.94, 1.12)
    canvas.stack((bottom, top), (sx, sy - 14 * s), (strip, np.full(z.size, 26.0) * s), look.muscle, 2.3, z)
    lean = rng.uniform(-60, 10)
    for side in (-1.0, 1.0):
        off = np.interp(level, [-2, 4, 8, 16, 20, 24], [17, 20, 24, 30, 34, 30]) * s
        big = np.interp(level, [-2, 4, 8, 16, 20, 24, 28], [17, 19, 20, 27, 29, 24, 12]) * s
        deep = np.interp(level, [-2, 4, 8, 16, 20, 24, 28], [13, 14, 12, 15, 20, 17, 10]) * s
        y = sy - np.interp(level, [-2, 4, 8, 16, 20], [34, 36, 44, 46, 50]) * s
        canvas.stack((bottom, top), (sx + side * off, y), (big, deep), look.muscle, 2.2, z)
        for _ in range(14):
            place = body.at(rng.uniform(2, 24), side * rng.uniform(12, 52), -rng.uniform(36, 62))
            radii = np.array([rng.uniform(1, 3), rng.uniform(4, 12), rng.uniform(12, 36)])
            canvas.ellipsoid(place, radii, lean, _turn(rng.uniform(-1.5, 1.5)))
        psoas = [body.at(16.8, side * 25, 0), body.at(19, side * 36, 4), body.at(21.5, side * 48, 14)]
        psoas += [body.at(24, side * 62, 34), body.at(26.5, side * 78, 48)]
        canvas.chain(psoas, [7 * s, 17 * s, 20 * s, 17 * s, 13 * s], look.muscle)


def paint_canal(canvas: Canvas, body: Body, centers: Floats, radii: Floats, rng: np.random.Generator) -> None:
    """Epidural fat, dural sac and cord along the canal's centres (n, 3), superior first."""
    fluid, cord = rng.uniform(5, 30), rng.uniform(32, 55)
    up = centers[0] + np.array([0, 2, 60.0])
    down = centers[-1] + np.array([0, -22, -55.0])
    path = np.vstack([up, centers, down])
    wide = np.concatenate([[radii[0]], radii, [radii[-1] * 0.7]])
    canvas.chain(path, wide, rng.uniform(-60, 20))
    canvas.chain(path, wide * 0.82, fluid)
    canvas.chain(path[:16], wide[:16] * 0.55, cord)
    for i in range(16, len(path) - 1):
        canvas.capsule(path[i], path[i + 1], 3.5, (fluid + cord) / 2)


def _bone(canvas: Canvas, points: list[Floats], radius: float | list[float], look: Look, shell: float = 1.8) -> None:
    r = np.broadcast_to(np.asarray(radius, dtype=float), (len(points),))
    canvas.chain(points, r, look.cortex * look.process)
    canvas.chain(points, np.maximum(r - shell, 0.4), look.marrow + 20)


def _plate(canvas: Canvas, center: Floats, radii: Floats, turn: Floats, look: Look, shell: float = 1.6) -> None:
    canvas.ellipsoid(center, radii, look.cortex * look.process, turn)
    canvas.ellipsoid(center, radii - shell, look.marrow + 30, turn)


def paint_thorax_bones(canvas: Canvas, body: Body, rng: np.random.Generator, arms_up: bool) -> None:
    """Ribs with cartilage, sternum, clavicles, scapulae and humeri."""
    look, s = body.look, body.size
    cx, cy, rx, ry = cage(body)
    sternum_front = body.front - look.fat_front - 10
    radius, drop_scale = rng.uniform(4.2, 5.6) * s, rng.uniform(0.75, 1.25)
    cartilage = rng.uniform(70, 140)
    for number, v in enumerate(v for v in body.column.vertebrae if v.level.startswith("T")):
        lift = v.rotation @ np.array([0, -0.42 * v.depth, 0.28 * v.height])
        sweep = [150, 155, 160, 162, 165, 165, 163, 158, 150, 140, 95, 62, 40][number]
        drop = float(np.interp(number, [0, 2, 6, 11], [38, 60, 95, 70])) * drop_scale * s
        steps = np.deg2rad(np.arange(24, sweep, 9.0))
        for side in (-1.0, 1.0):
            points = [v.center + lift + v.rotation @ np.array([side * 0.47 * v.width, 0, 0])]
            points.append(v.center + lift + v.rotation @ np.array([side * (0.5 * v.width + 15 * s), -15 * s, -1]))
            for a in steps:
                z = points[0][2] - drop * (a / np.deg2rad(165)) ** 1.15 + (5 if number == 0 else 0)
                ex, ey, er, es = (float(np.interp(z, body.z, o)) for o in (cx, cy, rx, ry))
                points.append(np.array([ex + side * (er + 5) * np.sin(a), ey - (es + 5) * np.cos(a), z]))
            bony = len(points) if number > 9 else max(4, int(len(points) * 0.78))
            _bone(canvas, points[:bony], radius * (0.8 if number > 9 else 1.0), look, 1.5)
            if number < 10:
                z_end = float(body.column.z_at(8.0 + 0.75 * min(number, 6)))
                front = np.interp(z_end, body.z, sternum_front)
                end = np.array([body.value("x", z_end) + side * 18 * s, front, z_end])
                canvas.chain([*points[bony - 1 :], end], radius * 1.05, cartilage)
    breast: list[Floats] = []
    for level in np.linspace(7.0, 13.0, 7):
        z = float(body.column.z_at(level))
        breast.append(np.array([body.value("x", z), float(np.interp(z, body.z, sternum_front)), z]))
    for inset, hu in ((0.0, look.cortex * look.process * 0.8), (1.6, look.marrow)):
        for k, (upper, lower) in enumerate(pairwise(breast)):
            broad = (22.0 if k < 2 else 15.0) * s - inset
            canvas.capsule(upper, lower, broad, hu, (np.array([0, 1.0, 0]), broad / (6.0 * s - inset)))
    shoulder_z = float(body.column.z_at(6.2))
    reach = 162 * s * min(look.girth, 1.12)
    notch = np.array(
        [
            body.value("x", shoulder_z),
            float(np.interp(body.column.z_at(7.0), body.z, sternum_front)),
            float(body.column.z_at(6.6)),
        ]
    )
    for side in (-1.0, 1.0):
        x0 = body.value("x", shoulder_z)
        spine_y = float(np.interp(shoulder_z, body.z, body.spine_y))
        raised = rng.uniform(18, 45) if arms_up else rng.uniform(-5, 22)
        head = np.array([x0 + side * reach, spine_y + rng.uniform(-5, 12), shoulder_z + raised - 6])
        middle = 0.5 * (notch + head) + np.array([0, 18 * s, 6])
        acromion = head + np.array([-side * 8, -4, 27 * s])
        _bone(canvas, [notch + np.array([side * 20 * s, 0, 0]), middle, acromion], 6.2 * s, look)
        shaft = head + (np.array([side * 14, 22, 230]) if arms_up else np.array([side * 34, 12, -230]))
        _bone(canvas, [head, head + 0.16 * (shaft - head), shaft], [24 * s, 13 * s, 11.5 * s], look, 3.0)
        blade = np.array([x0 + side * 0.58 * reach, spine_y - 48 * s, float(body.column.z_at(8.6)) + 0.5 * raised])
        lean = side * rng.uniform(0.35, 0.75)
        _plate(canvas, blade, np.array([40, 4.2, 66]) * s, _turn(lean, 0.15, side * 0.2), look, 1.5)
        _bone(
            canvas,
            [blade + np.array([-side * 34, -6, 22]) * s, blade + np.array([side * 30, -14, 48]) * s, acromion],
            5.5 * s,
            look,
        )
        _bone(
            canvas,
            [blade + np.array([side * 32, 8, 42]) * s, head - np.array([side * 30, 4, 0]) * s],
            [9 * s, 15 * s],
            look,
        )


def paint_fat_planes(canvas: Canvas, body: Body, rng: np.random.Generator) -> None:
    """Streaks of fat in the muscles and of muscle or vessels in the fat of wall, neck, shoulders and mediastinum."""
    look, s = body.look, body.size
    low, high = float(canvas.z[0]), float(canvas.z[-1])
    lean = rng.uniform(0.2, 1.0)
    for _ in range(int(rng.integers(60, 150))):
        z = rng.uniform(low, high)
        half, angle = body.value("half_width", z), rng.uniform(-np.pi, np.pi)
        depth = body.value("front", z) - body.value("back", z)
        share = rng.uniform(0.72, 0.97)
        point = np.array([body.value("x", z) + share * half * np.cos(angle), 0.0, z])
        point[1] = body.value("back", z) + depth / 2 + share * depth / 2 * np.sin(angle)
        radii = np.array([rng.uniform(4, 24), rng.uniform(1.0, 3.2), rng.uniform(8, 40)]) * min(s, half / 130)
        normal = np.arctan2(depth * np.sin(angle), 2 * half * np.cos(angle)) - np.pi / 2 + rng.normal(0, 0.35)
        fat = rng.random() < 0.75
        canvas.ellipsoid(point, radii, look.fat if fat else look.muscle, _turn(normal), keep=1 - lean)
    for _ in range(int(rng.integers(15, 40))):
        level = rng.uniform(-2.0, 11.0)
        point = body.at(level, rng.normal(0, 20), rng.uniform(24, 70))
        hu = float(rng.choice([look.fat, look.muscle, look.vein], p=[0.5, 0.3, 0.2]))
        canvas.ellipsoid(point, rng.uniform(2, 8, 3) * s, hu, keep=rng.uniform(0, 0.5))


def paint_pelvis(canvas: Canvas, body: Body, sacrum: list[Vertebra], rng: np.random.Generator) -> None:
    """Sacral wings and crest, coccyx, iliac wings, sockets, femora and pubis."""
    look, s = body.look, body.size
    base = sacrum[0].keypoints[[0, 4]].mean(axis=0)
    lateral = sacrum[0].rotation[:, 0]
    centers = [v.center for v in sacrum]
    for v in sacrum:
        fore, radius = v.rotation[:, 1], np.array([0.55 * v.width, 0.55 * v.depth, 0.62 * v.height])
        canal = v.center - fore * (v.depth / 2 + 8 * s)
        back = canal - fore * 9 * s
        canvas.capsule(canal + v.rotation[:, 2] * 14, canal - v.rotation[:, 2] * 14, 8 * s, -10.0)
        for side in (-1.0, 1.0):
            wing = v.center + lateral * side * 0.62 * v.width - fore * 5 * s
            with canvas.marking(SACRUM, ARCH):
                canvas.ellipsoid(wing, radius, look.cortex * 0.7, v.rotation)
                canvas.ellipsoid(wing, radius - 1.6, look.marrow * 0.8, v.rotation)
            hole = v.center + lateral * side * 0.5 * v.width - v.rotation[:, 2] * 0.55 * v.height - fore * 4
            canvas.ellipsoid(hole, np.array([5, 9, 5]) * s, -20.0, v.rotation)
            with canvas.marking(SACRUM, ARCH):
                _bone(canvas, [wing - fore * 0.4 * v.depth, back], 4.5 * s, look)
        with canvas.marking(SACRUM, ARCH):
            _plate(canvas, back - fore * 3, np.array([5, 7, 11]) * s, v.rotation, look, 1.4)
    down, fore = -sacrum[-1].rotation[:, 2], sacrum[-1].rotation[:, 1]
    place = sacrum[-1].center + down * 14 * s
    _bone(canvas, [place, place + down * 12, place + down * 24 + fore * 10], [8.0, 6.0, 4.0], look)
    hip_z = base[2] - rng.uniform(98, 115) * s
    for side in (-1.0, 1.0):
        joint = centers[1] + lateral * side * 54 * s - fore * 8
        crest = np.array([base[0] + side * 122 * s, base[1] + 30 * s, base[2] + 20 * s])
        socket = np.array([base[0] + side * 88 * s, base[1] + 28 * s, hip_z])
        normal = np.cross(crest - joint, socket - joint)
        normal /= np.linalg.norm(normal)
        along = (crest + joint) / 2 - socket
        along /= np.linalg.norm(along)
        turn = np.column_stack([np.cross(along, normal), normal, along])
        _plate(canvas, (joint + crest + socket) / 3 + 6 * along, np.array([66, 6.5, 74]) * s, turn, look, 1.7)
        _bone(canvas, [joint, joint * 0.6 + socket * 0.4, socket], [14 * s, 11 * s, 17 * s], look, 2.0)
        _bone(canvas, [joint + np.array([0, -12, 16]), crest], [8 * s, 6.5 * s], look)
        canvas.ellipsoid(socket, np.array([34, 34, 34]) * s, look.cortex * 0.6)
        canvas.ellipsoid(socket, np.array([31, 31, 31]) * s, look.marrow)
        canvas.ellipsoid(socket, np.array([27.5, 27.5, 27.5]) * s, 40.0)
        pubis = np.array([base[0] + side * 14 * s, base[1] + 62 * s, hip_z - 32 * s])
        seat = np.array([base[0] + side * 62 * s, base[1] - 2 * s, hip_z - 68 * s])
        _bone(
            canvas,
            [socket + np.array([-side * 18, 14, -8]), pubis, seat, socket + np.array([0, -14, -22])],
            8.5 * s,
            look,
        )
        neck = socket + np.array([side * 36, -6, -22]) * s
        shaft = neck + np.array([side * 6, 0, -230]) * s
        _bone(canvas, [socket, neck], [24.5 * s, 15 * s], look, 2.0)
        _bone(
            canvas,
            [neck + np.array([side * 12, -4, 6]), neck + np.array([side * 6, 0, -40]), shaft],
            [19 * s, 15 * s, 14 * s],
            look,
            4.0,
        )
        for _ in range(5):
            at = socket + np.array([side * rng.uniform(-10, 60), -rng.uniform(30, 80), rng.uniform(-60, 90)]) * s
            canvas.ellipsoid(at, rng.uniform([3, 6, 20], [8, 25, 60]), look.fat, _turn(rng.uniform(-1, 1)))


def axis_center(column: Column) -> Floats:
    """Centre of the body of C2, (3,) mm, above the topmost vertebra of a column."""
    c3 = column.vertebrae[0]
    center: Floats = c3.keypoints[[0, 4]].mean(axis=0) + c3.rotation[:, 2] * 12 * column.size
    return center


def paint_head(canvas: Canvas, body: Body, rng: np.random.Generator) -> None:
    """C1, C2, skull base with brain, mandible, teeth, pharynx, hyoid and thyroid."""
    look, s = body.look, body.size
    c3 = body.column.vertebrae[0]
    lateral, fore, up = c3.rotation.T
    c2 = axis_center(body.column)
    for grow, hu in ((6.0, look.fat), (2.0, look.muscle)):
        canvas.ellipsoid(c2 + fore * 46 * s + up * 18 * s, np.array([52, 58, 56]) * s + grow, hu)
    throat = c2 - up * 14 * s + fore * 18 * s
    canvas.ellipsoid(throat, np.array([38, 30, 40]) * s, look.muscle)
    skull = c2 + np.array([0, 22, 0]) * s + up * 112 * s
    canvas.ellipsoid(skull, np.array([75, 95, 72]) * s, look.cortex)
    canvas.ellipsoid(skull, np.array([69, 89, 66]) * s, rng.uniform(25, 40))
    base = skull - up * 52 * s
    for side in (-1.0, 1.0):
        _plate(canvas, base + lateral * side * 44 * s, np.array([22, 16, 16]) * s, _turn(side * 0.6), look)
        for _ in range(5):
            canvas.ellipsoid(base + lateral * side * 46 * s + rng.normal(0, 8, 3), rng.uniform(1.5, 4, 3), -700.0)
        jaw = [
            c2 + lateral * side * 46 * s + fore * 22 * s + up * 42 * s,
            c2 + lateral * side * 44 * s + fore * 24 * s - up * 8 * s,
        ]
        jaw += [c2 + lateral * side * 28 * s + fore * 72 * s - up * 18 * s, c2 + fore * 92 * s - up * 22 * s]
        _bone(canvas, jaw, [7 * s, 8 * s, 8 * s, 9 * s], look, 2.4)
        for k in range(6):
            tooth = c2 + lateral * side * (32 - 5 * k) * s + fore * (58 + 5.5 * k) * s
            canvas.capsule(tooth - up * 4, tooth + up * 14, 3.2, rng.uniform(900, 2400))
        mass = c2 + up * 22 * s + lateral * side * 20 * s - fore * 4
        _plate(canvas, mass, np.array([9, 11, 9]) * s, c3.rotation, look)
        arch = [
            mass - fore * 8 * s,
            mass - lateral * side * 10 * s - fore * 26 * s,
            mass - lateral * side * 20 * s - fore * 30 * s,
        ]
        _bone(canvas, arch, 3.6 * s, look)
        _bone(canvas, [mass + fore * 8 * s, c2 + up * 24 * s + fore * 12 * s], 3.6 * s, look)
        pillar = c2 + lateral * side * 17 * s - fore * 10 * s
        _bone(canvas, [pillar + up * 6, pillar - up * 12], 5.2 * s, look)
        _bone(canvas, [pillar, c2 - fore * 30 * s - up * 4], 4.6 * s, look)
    _plate(canvas, c2 - up * 1, np.array([9.5, 8.0, 12.5]) * s, c3.rotation, look)
    _bone(canvas, [c2 + up * 6 * s, c2 + up * 27 * s], [6.5 * s, 5.0 * s], look)
    _bone(canvas, [c2 - fore * 28 * s - up * 4, c2 - fore * 42 * s - up * 8], 5.5 * s, look)
    canvas.ellipsoid(c2 + fore * 20 * s, np.array([14, 7, 34]) * s, -950.0)
    canvas.ellipsoid(c2 + fore * 56 * s + up * 40 * s, np.array([12, 34, 20]) * s, -900.0)
    hyoid = body.at(0.4, 0, 44)
    for side in (-1.0, 1.0):
        _bone(
            canvas, [hyoid + np.array([side * 18, -26, 6]), hyoid + np.array([side * 12, -5, 0]), hyoid], 2.8, look, 1.2
        )
        canvas.ellipsoid(body.at(3.4, side * 17, 32), np.array([9, 10, 20]) * s, rng.uniform(70, 160))
        canvas.ellipsoid(body.at(2.0, side * 13, 42), np.array([3, 12, 14]) * s, rng.uniform(80, 300))


def paint_implants(canvas: Canvas, body: Body, rng: np.random.Generator) -> None:
    """Rarely metal: pedicle screws with rods, a hip prosthesis, a pacemaker, wires in the sternum, a cemented body."""
    s, kind = body.size, rng.random()
    spine = body.column.vertebrae
    if kind < 0.02:
        first = int(rng.integers(14, 19))
        for side in (-1.0, 1.0):
            heads = []
            for v in spine[first : first + 3]:
                m = v.rotation
                head = v.center + m @ np.array([side * 0.55 * v.width, -0.5 * v.depth - 26, 2.0])
                canvas.capsule(head, v.center + m @ np.array([side * 0.18 * v.width, 0.2 * v.depth, 1.0]), 2.7, 3071.0)
                heads.append(head)
            canvas.chain(heads, 3.2, 3071.0)
    elif kind < 0.04:
        v = spine[int(rng.integers(12, 20))]
        for _ in range(8):
            blob = v.center + v.rotation @ (rng.uniform(-0.3, 0.3, 3) * np.array([v.width, v.depth, v.height]))
            canvas.ellipsoid(blob, rng.uniform(2, 6, 3), rng.uniform(1200, 2600))
    elif kind < 0.06:
        side = float(rng.choice([-1.0, 1.0]))
        hip = spine[-1].center + np.array([side * 88, 28, -128]) * s
        canvas.chain(
            [hip, hip + np.array([side * 34, -6, -20]), hip + np.array([side * 46, -6, -160])], [15, 9, 7], 3071.0
        )
    elif kind < 0.09:
        z = float(body.column.z_at(6.5))
        box = np.array([body.value("x", z) - 75 * s, body.value("front", z) - 14, z])
        canvas.ellipsoid(box, [22, 5, 22], 3071.0)
        canvas.chain([box, body.at(5.5, 10, 45), body.at(8, 22, 48), body.at(12.5, -5, 70)], 1.4, 2800.0)
    elif kind < 0.12:
        for level in np.linspace(7.2, 12.0, 6):
            z = float(body.column.z_at(level))
            canvas.ellipsoid(
                [body.value("x", z), body.value("front", z) - body.look.fat_front - 5, z], [7, 2, 2], 2800.0
            )


def paint_table(canvas: Canvas, body: Body, rng: np.random.Generator) -> None:
    """Curved or flat couch under the back: two thin bright skins over foam."""
    low = float(body.back.min()) - rng.uniform(4, 16)
    span, sag = rng.uniform(190, 240), rng.uniform(0, 45)
    x = canvas.x
    surface = low - sag + sag * ((x - body.x.mean()) / span) ** 2
    hu = rng.uniform(-700, -200)
    for offset in (0.0, rng.uniform(22, 60)):
        near = np.abs(canvas.y[:, None] - (surface - offset)[None, :])
        cover = np.clip(0.5 + (rng.uniform(1.2, 2.2) - near) / canvas.edge, 0, 1).astype(np.float32)
        cover[:, np.abs(x - body.x.mean()) > span] = 0
        rows = np.flatnonzero(cover.any(axis=1))
        if rows.size:
            part = canvas.hu[:, rows[0] : rows[-1] + 1]
            part += cover[rows[0] : rows[-1] + 1][None] * (np.float32(hu) - part)
