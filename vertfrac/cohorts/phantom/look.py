"""What one patient's tissues look like: every HU, thickness and proportion drawn anew for each phantom."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Look:
    """Tissue densities (HU), thicknesses (mm) and proportions of one patient."""

    cortex: float
    cortex_mm: float
    endplate_mm: float
    marrow: float
    texture: float
    disc: float
    fat: float
    muscle: float
    lung: float
    blood: float
    vein: float
    liver: float
    spleen: float
    kidney: float
    bowel: float
    process: float
    fat_side: float
    fat_front: float
    fat_back: float
    girth: float
    depth: float
    corner: float
    waist: float
    power: float
    endplate_power: float
    arch: float
    slant: float
    canal: float
    arch_marrow: float


def random_look(rng: np.random.Generator, fragile: float) -> Look:
    """Draw a patient's look; `fragile` (0 to 1) thins the bone."""
    contrast = rng.random() < 0.5
    blood = float(rng.uniform(150, 350) if contrast else rng.uniform(32, 55))
    lush = float(rng.uniform(0.35, 0.95) if contrast else 1.0)
    fatness = float(rng.beta(1.8, 2.5))
    return Look(
        cortex=float(rng.uniform(380, 950) - 120 * fragile),
        cortex_mm=float(rng.uniform(0.7, 1.7) * (1 - 0.45 * fragile)),
        endplate_mm=float(rng.uniform(0.8, 1.9) * (1 - 0.4 * fragile)),
        marrow=float(np.clip(rng.normal(215 - 165 * fragile, 30), 20, 290)),
        texture=float(rng.uniform(10, 55)),
        disc=float(rng.uniform(55, 115)),
        fat=float(rng.uniform(-118, -82)),
        muscle=float(rng.uniform(35, 65)),
        lung=float(rng.uniform(-900, -770)),
        blood=blood,
        vein=float(blood * lush if contrast else blood),
        liver=float(rng.uniform(75, 130) if contrast else rng.uniform(30, 68)),
        spleen=float(rng.uniform(85, 140) if contrast else rng.uniform(40, 58)),
        kidney=float(rng.uniform(110, 230) if contrast else rng.uniform(25, 42)),
        bowel=float(rng.uniform(10, 55)),
        process=float(rng.uniform(0.6, 1.1)),
        fat_side=6 + 40 * fatness * float(rng.uniform(0.6, 1.3)),
        fat_front=5 + 38 * fatness * float(rng.uniform(0.5, 1.4)),
        fat_back=4 + 30 * fatness * float(rng.uniform(0.5, 1.3)),
        girth=float(rng.uniform(0.86, 1.06) + 0.16 * fatness),
        depth=float(rng.uniform(0.84, 1.1) + 0.2 * fatness),
        corner=float(rng.uniform(0.6, 1.8)),
        waist=float(rng.uniform(0.03, 0.13)),
        power=float(rng.uniform(2.1, 2.9)),
        endplate_power=float(rng.uniform(2.0, 3.6)),
        arch=float(rng.uniform(0.85, 1.18)),
        slant=float(rng.normal(0, 7)),
        canal=float(rng.uniform(0.86, 1.1)),
        arch_marrow=float(rng.uniform(20, 260)),
    )


def rare_look(rare: np.random.Generator, look: Look) -> Look:
    """One look in three with bone far denser, thinner or more even than usual."""
    kind = rare.choice(["", "dense", "thin", "even"], p=[0.67, 0.11, 0.11, 0.11])
    if kind == "dense":
        return replace(look, marrow=float(rare.uniform(280, 480)), cortex=float(rare.uniform(700, 1200)))
    if kind == "thin":
        thin = float(rare.uniform(0.4, 0.8))
        return replace(look, marrow=float(rare.uniform(-30, 50)), cortex_mm=thin, endplate_mm=thin)
    if kind == "even":
        return replace(look, cortex=look.marrow + float(rare.uniform(60, 250)), texture=float(rare.uniform(2, 15)))
    return look
