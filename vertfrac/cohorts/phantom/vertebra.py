"""One vertebra's bone: body with cortex and endplates, posterior elements, the disc below it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vertfrac.cohorts.levels import LABEL_OF
from vertfrac.cohorts.phantom.anatomy import L1, T1, Vertebra
from vertfrac.cohorts.phantom.canvas import Canvas, Float32
from vertfrac.cohorts.phantom.look import Look

Floats = NDArray[np.float64]

BODY, ARCH = 49, 41
"""Codes of the vertebral body and of the arch in subregion masks, those of TPTBox (41-50, the body being 49 and 50)."""

SACRUM = LABEL_OF["S1"]
"""Label of the whole sacrum, without the coccyx."""


def verse_label(vertebra: Vertebra) -> int:
    """Label of a vertebra in VerSe masks: 1-7 are C1-C7, 8-19 T1-T12, 20-25 L1-L6, 28 T13."""
    return LABEL_OF[vertebra.level]


def trabeculae(rng: np.random.Generator, size: int = 72) -> Float32:
    """Periodic texture block (z, y, x) of unit variance, mostly vertical strands."""
    block = rng.standard_normal((size, size, size), dtype=np.float32)
    block += np.roll(block, 1, 0) + np.roll(block, 2, 0)
    block += 0.6 * np.roll(block, 1, 1) + 0.6 * np.roll(block, 1, 2)
    block /= block.std()
    return block


def _local(
    canvas: Canvas, vertebra: Vertebra, reach: Floats
) -> tuple[tuple[slice, slice, slice], list[Float32]] | None:
    """Bounding box of a block of half-extents `reach` in the vertebra's frame, and the voxels' local coordinates."""
    extent = np.abs(vertebra.rotation) @ reach
    box = canvas.box(vertebra.center - extent, vertebra.center + extent)
    if box is None:
        return None
    x, y, z = canvas.coordinates(box)
    c = vertebra.center.astype(np.float32)
    x, y, z = x - c[0], y - c[1], z - c[2]
    m = vertebra.rotation.astype(np.float32)
    return box, [x * m[0, k] + y * m[1, k] + z * m[2, k] for k in range(3)]


def _endplate(
    outline: Floats, rows: tuple[int, int, int], x: Float32, y: Float32, half_width: float, power: float
) -> Float32:
    """Height of an endplate over (x, y) of the vertebra's frame; exact at the three keypoints `rows`, (a, m, p)."""
    anterior, middle, posterior = outline[list(rows)]
    slope = (anterior[1] - posterior[1]) / (anterior[0] - posterior[0])
    rim = posterior[1] + slope * (y - np.float32(posterior[0]))
    depth = middle[1] - (anterior[1] + posterior[1]) / 2
    along = np.clip(np.abs(y - np.float32(middle[0])) * np.float32(2 / (anterior[0] - posterior[0])), 0, 1)
    side = np.clip(np.abs(x) / np.float32(0.95 * half_width), 0, 1)
    bowl = (1 - along ** np.float32(power)) * (1 - side * side * side)
    surface: Float32 = (rim + np.float32(depth) * bowl).astype(np.float32, copy=False)
    return surface


def _wall(vertebra: Vertebra, look: Look, x: Float32, y: Float32, z: Float32, waist: float) -> Float32:
    """Signed distance (mm, positive outside) to the side wall of a body."""
    o = vertebra.outline
    middle = o[:, 1].mean()
    tall = max(vertebra.height, 6.0)
    level = np.clip((z - np.float32(middle)) * np.float32(2 / tall), -1.15, 1.15)
    mix = 0.5 + 0.5 * level
    front = np.float32(o[1, 0]) + mix * np.float32(o[0, 0] - o[1, 0])
    back = np.float32(o[5, 0]) + mix * np.float32(o[4, 0] - o[5, 0])
    pinch = 1 - np.float32(waist) * np.clip(1 - level * level, 0, 1)
    half_depth = (front - back) * 0.5 * pinch
    half_width = np.float32(vertebra.width / 2) * pinch
    dy = y - (front + back) * 0.5
    hollow = np.float32(0.09 * vertebra.depth)
    dy = np.where(dy < 0, np.minimum(dy + hollow * (x / half_width) ** 2, 0), dy)
    power = np.float32(look.power)
    rho = (np.abs(x) / half_width) ** power
    rho += (np.abs(dy) / half_depth) ** power
    np.maximum(rho, 1e-4, out=rho)
    rho **= np.float32(1 / power)
    length = np.sqrt(x * x + dy * dy)
    wall: Float32 = length * (1 - 1 / rho)
    return np.where(rho < 0.3, -half_depth * 0.5, wall).astype(np.float32, copy=False)


def sacral_bodies(last: Vertebra, rng: np.random.Generator) -> list[Vertebra]:
    """S1 to S4 below the last lumbar vertebra: tapering bodies that bend backwards, nearly fused."""
    size = last.depth / 32.0
    down, fore, lateral = -last.rotation[:, 2], last.rotation[:, 1], last.rotation[:, 0]
    place = last.keypoints[[1, 5]].mean(axis=0)
    bodies: list[Vertebra] = []
    front = np.array([29.0, 24.0, 20.0, 17.0]) * size * rng.uniform(0.9, 1.1)
    wide = np.array([50.0, 40.0, 32.0, 27.0, 20.0]) * size
    deep = np.array([31.0, 21.0, 16.0, 12.5, 9.0]) * size
    bends = np.array([rng.uniform(0.12, 0.32), *rng.uniform(-0.12, 0.22, 3)])
    gaps = np.array([rng.uniform(4, 11), *rng.uniform(0.8, 3.5, 3)])
    for k in range(4):
        bend = bends[k] + (0.16 if k == 0 else 0.0)
        down, fore = np.cos(bend) * down - np.sin(bend) * fore, np.cos(bend) * fore + np.sin(bend) * down
        h = front[k] * np.array([1.0, 0.9, 0.88])
        top, bottom = deep[k] / 2, deep[k + 1] / 2
        y = np.array([top, bottom, 0.0, 0.0, -top, -bottom])
        outline = np.column_stack([y, np.array([h[0], -h[0], h[1], -h[1], h[2], -h[2]]) / 2])
        center = place + down * (gaps[k] + h.mean() / 2)
        bodies.append(
            Vertebra(
                level=last.level,
                shape="normal",
                outline=outline,
                depth=float(deep[k] + deep[k + 1]) / 2,
                width=float(wide[k] + wide[k + 1]) / 2,
                center=center,
                rotation=np.column_stack([lateral, fore, -down]),
                sclerosis=False,
            )
        )
        place = center + down * h.mean() / 2
    return bodies


def paint_disc(canvas: Canvas, upper: Vertebra, lower: Vertebra, look: Look, rng: np.random.Generator) -> None:
    """Fill the space between two bodies with disc, well into both (they are painted over it)."""
    base = upper.keypoints[[1, 5]].mean(axis=0)
    other = lower.keypoints[[0, 4]].mean(axis=0)
    rotation = upper.rotation + lower.rotation
    rotation = rotation / np.linalg.norm(rotation, axis=0)
    width, depth = (upper.width + lower.width) / 2, (upper.depth + lower.depth) / 2
    axis = base - other
    thick = float(np.linalg.norm(axis)) / 2 + 3.5
    bulge = rng.uniform(0.0, 1.6)
    center = (base + other) / 2
    reach = np.abs(rotation) @ np.array([width / 2 + 2, depth / 2 + 2, thick + 1])
    box = canvas.box(center - reach, center + reach)
    if box is None:
        return
    x, y, z = canvas.coordinates(box)
    c, m = center.astype(np.float32), rotation.astype(np.float32)
    x, y, z = x - c[0], y - c[1], z - c[2]
    u, v, w = (x * m[0, k] + y * m[1, k] + z * m[2, k] for k in range(3))
    rx, ry = np.float32(width / 2 + bulge), np.float32(depth / 2 + 0.6 * bulge)
    rho = np.sqrt((u / rx) ** 2 * (1 + 0.1 * (u / rx) ** 2) + (v / ry) ** 2)
    inside = np.minimum((1 - rho) * ry, np.float32(thick) - np.abs(w))
    hu = look.disc + rng.normal(0, 6)
    if rng.random() < 0.04:
        hu -= 60
    canvas.blend(box, canvas.coverage(inside), hu)


def paint_body(
    canvas: Canvas,
    vertebra: Vertebra,
    look: Look,
    block: Float32,
    rng: np.random.Generator,
    label: int = 0,
    spots: Sequence[Spot] = (),
) -> None:
    """Cancellous bone inside a cortical shell whose endplates pass through the vertebra's keypoints.

    label : of the body in the label maps, where the canvas keeps any; 0 leaves them as they are. spots : of other
    tissue, in the body alone.
    """
    tall = float(np.abs(vertebra.outline[:, 1]).max())
    found = _local(canvas, vertebra, np.array([vertebra.width / 2 + 2, vertebra.depth * 0.62 + 2, tall + 2]))
    if found is None:
        return
    box, (x, y, z) = found
    broken = vertebra.shape != "normal"
    waist = look.waist * (0.4 if broken else 1.0) + rng.normal(0, 0.01)
    power = look.endplate_power
    half = vertebra.width / 2
    wall = _wall(vertebra, look, x, y, z, waist)
    top = z - _endplate(vertebra.outline, (0, 2, 4), x, y, half, power)
    bottom = _endplate(vertebra.outline, (1, 3, 5), x, y, half, power) - z
    lid = np.maximum(top, bottom)
    corner = np.float32(look.corner)
    wall_in, lid_in = np.maximum(wall + corner, 0), np.maximum(lid + corner, 0)
    solid = np.sqrt(wall_in * wall_in + lid_in * lid_in) - corner
    solid += np.minimum(np.maximum(wall, lid) + corner, 0)
    thin = np.maximum(wall + np.float32(look.cortex_mm), lid + np.float32(look.endplate_mm))
    outer, inner = canvas.coverage(-solid), canvas.coverage(-thin)
    n = block.shape[0]
    shift = rng.integers(0, n, 3)
    takes = [(np.arange(s.stop - s.start) + o) % n for s, o in zip(box, shift, strict=True)]
    grain = block[np.ix_(*takes)]
    marrow = np.float32(look.marrow + rng.normal(0, 12)) + np.float32(look.texture) * grain
    near = np.maximum(np.minimum(-lid, -wall), 0)
    marrow += np.float32(0.35 * look.marrow + 15) * np.exp(near * np.float32(-0.45))
    if vertebra.sclerosis:
        face = top if rng.random() < 0.75 else bottom
        band = np.float32(rng.uniform(2.5, 6.0))
        marrow += np.float32(rng.uniform(60, 260)) * np.exp(-((face / band) ** 2))
    cortex = np.float32(look.cortex * rng.uniform(0.9, 1.1))
    bone = cortex + inner * (marrow - cortex)
    for spot in spots:
        away = np.sqrt(sum((a - np.float32(b)) ** 2 for a, b in zip((x, y, z), spot.center, strict=True)))
        other = np.float32(spot.hu) + np.float32(spot.coarse) * grain
        bone += canvas.coverage(np.float32(spot.radius) - away) * np.float32(spot.share) * (other - bone)
    with canvas.marking(label, BODY):
        canvas.blend(box, outer, bone)
    m, c = vertebra.rotation, vertebra.center
    if rng.random() < 0.7:
        back = c + m @ np.array([0, -vertebra.depth * 0.5, rng.normal(0, 0.5)])
        deep = c + m @ np.array([0, vertebra.depth * rng.uniform(-0.25, 0.05), 0])
        canvas.capsule(back, deep, (float(rng.uniform(1.0, 2.2)), 0.5), look.marrow * 0.5)
    if rng.random() < 0.06 and not broken:
        row = int(rng.choice([2, 3]))
        pit = np.array([rng.uniform(-0.2, 0.2) * vertebra.width, rng.choice([-0.24, 0.26]) * vertebra.depth, 0.0])
        pit[2] = vertebra.outline[row, 1] + (-1.5 if row == 2 else 1.5)
        radius = rng.uniform(1.5, 3.5)
        canvas.ellipsoid(c + m @ pit, [radius + 1, radius + 1, radius + 0.6], look.cortex * 0.6, m)
        canvas.ellipsoid(c + m @ pit, [radius, radius, radius], look.disc, m)


def paint_osteophytes(canvas: Canvas, vertebra: Vertebra, look: Look, rng: np.random.Generator, amount: float) -> None:
    """Beaks on the front and side rims of a body, outside its keypoints."""
    m, c, o = vertebra.rotation, vertebra.center, vertebra.outline
    for row, sign in ((0, 1.0), (1, -1.0)):
        if rng.random() > amount:
            continue
        for angle in rng.uniform(-1.3, 1.3, int(rng.integers(1, 4))):
            size = rng.uniform(1.5, 5.5)
            away = np.array([np.sin(angle), np.cos(angle), 0.0])
            rim = np.array([0.0, (o[0, 0] + o[4, 0]) / 2, o[row, 1]])
            rim = rim + away * np.array([vertebra.width / 2, vertebra.depth / 2, 0]) - np.array([0, 0, 2.0 * sign])
            tip = rim + away * size + np.array([0, 0, sign * (1.0 + rng.uniform(0, 0.8) * size)])
            canvas.capsule(c + m @ rim, c + m @ tip, (2.4, 1.0), look.cortex * rng.uniform(0.6, 1.0))


def canal_center(vertebra: Vertebra, look: Look) -> tuple[Floats, float]:
    """Centre (anatomy frame) and radius (mm) of the spinal canal behind a body."""
    i = vertebra.place
    radius = float(np.interp(i, [0, 4, 6, 12, 16, 19, 21], [8.2, 8.6, 8.0, 8.0, 8.8, 9.4, 9.8]))
    radius *= look.canal
    back = vertebra.outline[[4, 5], 0].mean()
    return vertebra.center + vertebra.rotation @ np.array([0, back - radius - 0.4, 0]), radius


class Spot(NamedTuple):
    """A ball of other tissue inside a body: `center` in the body's own frame and `radius`, mm; `share` of it that is
    other, `hu`, and `coarse` (HU) strands in it."""

    center: Floats
    radius: float
    hu: float
    share: float = 1.0
    coarse: float = 0.0


class Rod(NamedTuple):
    """A tapering rod, `flatness` times thinner along the direction `flat`."""

    start: Floats
    end: Floats
    radius_start: float
    radius_end: float
    flat: Floats
    flatness: float


def posterior_elements(vertebra: Vertebra, look: Look, rng: np.random.Generator) -> list[Rod]:
    """Rods that make up the arch, in the vertebra's own frame, mm."""
    i, h = vertebra.place, float(np.interp(vertebra.place, [0, 4, 6, 12, 16, 19, 21], [13, 14, 18, 21, 25, 27, 26]))
    scale = vertebra.width / float(
        np.interp(i, [0, 4, 6, 10, 12, 16, 17, 19, 21], [19, 25, 28, 27, 29.5, 38, 40, 44, 49])
    )
    h *= scale
    back = float(vertebra.outline[[4, 5], 0].mean())
    _, rc = canal_center(vertebra, look)
    cervical, lumbar = i < T1, i >= L1
    wide = rc * (1.25 if cervical else 1.15 if lumbar else 1.0)
    low = -0.12 * h
    rods: list[Rod] = []
    side, up, fore = np.array([1.0, 0, 0]), np.array([0, 0, 1.0]), np.array([0, 1.0, 0])
    thick = (
        float(np.interp(i, [0, 4, 8, 12, 16, 18, 21], [2.4, 2.8, 2.4, 2.8, 3.8, 4.2, 6.0]))
        * scale
        * rng.uniform(0.9, 1.15)
    )
    pedicle = float(np.interp(i, [0, 4, 8, 12, 16, 21], [3.2, 3.6, 5.0, 6.0, 7.6, 7.4])) * scale
    rise = 0.16 * h if not cervical else 0.0
    base = np.array([0.0, back - 1.85 * rc - 2.4, low])
    slope = np.interp(i, [0, 3, 5, 9, 12, 15, 17, 21], [20, 25, 35, 58, 55, 30, 12, 8])
    slant = np.deg2rad(np.clip(slope + look.slant + rng.normal(0, 4), -5, 72))
    bend = slant + np.deg2rad(rng.normal(3, 9))
    length = float(np.interp(i, [0, 3, 4, 6, 10, 15, 18, 20, 21], [15, 20, 30, 32, 34, 24, 27, 26, 20]))
    length *= scale * look.arch * rng.uniform(0.9, 1.1)
    knee = base + 0.55 * length * np.array([0.0, -np.cos(slant), -np.sin(slant)])
    tip = knee + 0.45 * length * np.array([rng.normal(0, 0.06), -np.cos(bend), -np.sin(bend)])
    high = float(np.interp(i, [0, 4, 8, 14, 17, 21], [3.0, 4.0, 4.5, 6.5, 9.5, 8.0])) * scale * rng.uniform(0.85, 1.15)
    thin = float(np.interp(i, [0, 4, 16, 21], [2.4, 3.0, 3.0, 3.6])) * scale * look.arch
    waist = high * rng.uniform(0.7, 1.0)
    rods.append(Rod(base, knee, high, waist, side, high / thin))
    rods.append(Rod(knee, tip, waist, high * rng.uniform(0.7, 1.15), side, high / thin))
    for s in (-1.0, 1.0):
        root = np.array([s * min(wide + 0.6 * thick, 0.36 * vertebra.width), back + 2.5, rise])
        pillar = np.array([s * (wide + thick), back - 0.95 * rc, rise])
        rods.append(Rod(root, pillar, pedicle, pedicle, side, pedicle / thick))
        plate = rng.uniform(0.34, 0.44) * h
        rods.append(
            Rod(pillar - up * (0.12 * h), base, plate, plate * 0.9, fore + s * 0.45 * side, plate / (2.6 * scale))
        )
        joint = 3.4 + (1.4 if lumbar else 0.0)
        rods.append(
            Rod(pillar, pillar + np.array([s * 1.2, -0.45 * rc, 0.52 * h]), joint + 0.6, joint * scale, fore, 1.25)
        )
        rods.append(Rod(pillar, pillar + np.array([-s * 0.8, -0.75 * rc, -0.78 * h]), joint, joint * scale, fore, 1.25))
        if cervical:
            end = pillar + np.array([s * 8.0 * scale, 5.0, -2.0])
            rods.append(Rod(pillar + np.array([0, 3.0, 0]), end, 2.8, 2.2, up, 1.0))
        elif lumbar:
            span = float(np.interp(i, [17, 19, 21], [17, 24, 22])) * scale
            rods.append(Rod(pillar, pillar + np.array([s * span, -4.0, 1.5]), 4.5, 3.4, fore, 1.7))
        else:
            span = float(np.interp(i, [5, 12, 16], [21, 17, 8])) * scale
            rods.append(Rod(pillar, pillar + np.array([s * span, -8.5 - 0.5 * rc, 3.0]), 4.4, 4.4, up, 1.0))
    return rods


def paint_arch(canvas: Canvas, vertebra: Vertebra, look: Look, rng: np.random.Generator) -> None:
    """Pedicles, laminae, facets, transverse and spinous processes: cortex first, marrow inside."""
    m, c = vertebra.rotation, vertebra.center
    rods = posterior_elements(vertebra, look, rng)
    cortex = look.cortex * look.process
    shell = 0.9 + 0.7 * look.cortex_mm
    for start, end, r0, r1, flat, k in rods:
        u = flat / np.linalg.norm(flat)
        canvas.capsule(c + m @ start, c + m @ end, (r0, r1), cortex, (m @ u, k))
    for start, end, r0, r1, flat, k in rods:
        u = flat / np.linalg.norm(flat)
        thin = min(r0, r1) / k
        inset = shell if thin > 2 * shell else 0.6 * thin
        a, b = r0 - inset, r1 - inset
        if thin - inset > 0.5:
            canvas.capsule(
                c + m @ start,
                c + m @ end,
                (a, b),
                0.7 * look.marrow + look.arch_marrow,
                (m @ u, min(a, b) / (thin - inset)),
            )
