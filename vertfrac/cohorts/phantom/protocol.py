"""What differs between scanners and protocols beyond the usual: geometry of the scan, and errors of its values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, zoom
from scipy.spatial.transform import Rotation

Floats = NDArray[np.float64]
Float32 = NDArray[np.float32]

METAL_HU = 1800.0


@dataclass(frozen=True)
class Protocol:
    """How a scan is taken. step_z (mm) and thickness of slices over it; `around` (mm) that a small field of view leaves
    about the spine, 0 for a usual field; `tilt` of the whole scan in the room; `cupping` and `soft_mm`, see
    `image_errors`; highest value stored."""

    step_z: float
    thickness: float
    around: float
    tilt: Rotation
    cupping: float
    soft_mm: float
    highest: int


def draw_protocol(rare: np.random.Generator) -> Protocol:
    """Draw slices of 0.5 to 5 mm, with gaps, side by side or overlapping, and the rest of a protocol."""
    low, high = ((0.5, 1.0), (1.0, 2.0), (2.0, 3.2), (3.2, 5.0))[int(rare.choice(4, p=[0.2, 0.38, 0.24, 0.18]))]
    step_z = float(rare.uniform(low, high))
    thickness = float(rare.choice([rare.uniform(0.5, 0.95), 1.0, rare.uniform(1.05, 2.0)], p=[0.15, 0.45, 0.4]))
    around = float(rare.uniform(70, 130)) if rare.random() < 0.15 else 0.0
    angles = rare.normal(0, [6, 2, 2]) * (rare.random() < 0.25)
    cupping = float(rare.uniform(-40, 40)) if rare.random() < 0.3 else 0.0
    soft = float(rare.uniform(0.3, 1.2)) if rare.random() < 0.3 else 0.0
    highest = int(rare.choice([3071, 2047, 1400], p=[0.9, 0.06, 0.04]))
    return Protocol(step_z, thickness, around, Rotation.from_euler("xyz", angles, degrees=True), cupping, soft, highest)


def image_errors(hu: Float32, protocol: Protocol, spacing: float) -> None:
    """Cupping (HU that the middle of each slice lacks) and a softer kernel, in place. hu : (z, y, x)."""
    _, ny, nx = hu.shape
    if protocol.cupping:
        y, x = np.linspace(-1, 1, ny, dtype=np.float32)[:, None], np.linspace(-1, 1, nx, dtype=np.float32)
        hu += np.where(hu > -500, np.float32(protocol.cupping) * (x * x + y * y - 0.7), 0)
    if protocol.soft_mm:
        for plane in hu:
            gaussian_filter(plane, protocol.soft_mm / spacing, output=plane)


def metal_errors(hu: Float32, spacing: float, rare: np.random.Generator) -> None:
    """Bands and stars about metal, in place, from the rays that pass it: hardened beams and starved detectors.

    hu : (z, y, x). The error of each ray grows with the square of its way through metal, its noise exponentially; the
    filtered back-projection of these errors is added.
    """
    harden, starve = float(rare.uniform(0.3, 1.0)), float(rare.uniform(0.1, 0.6))
    strength = float(rare.uniform(1000, 5000))
    noise = np.random.default_rng(rare.integers(2**63))
    _, ny, nx = hu.shape
    coarse = 2
    y, x = (np.arange(0, n, coarse, dtype=np.float32) * spacing for n in (ny, nx))
    reach = int(np.hypot(y[-1], x[-1]) / 2) + 20
    angles = np.linspace(0, np.pi, 72, endpoint=False)
    ramp = np.abs(np.fft.rfftfreq(4 * reach))
    for plane in hu:
        rows, columns = np.nonzero(plane > METAL_HU)
        if rows.size < 3:
            continue
        my, mx = rows * spacing - y[-1] / 2, columns * spacing - x[-1] / 2
        error = np.zeros((y.size, x.size), np.float32)
        for angle in angles:
            c, s = np.cos(angle), np.sin(angle)
            bins = np.rint(mx * c + my * s).astype(int) + reach
            way = np.bincount(bins, minlength=2 * reach)[: 2 * reach] * spacing**2 / 10  # cm of metal in each ray
            loss = -harden * way**2 + starve * np.expm1(np.minimum(way, 4)) * noise.standard_normal(2 * reach)
            row = np.fft.irfft(np.fft.rfft(loss, 4 * reach) * ramp)[: 2 * reach]
            place = (x[None, :] - x[-1] / 2) * c + (y[:, None] - y[-1] / 2) * s + reach
            error += np.interp(place, np.arange(2 * reach), row).astype(np.float32)
        error *= np.float32(strength / len(angles))
        grown = zoom(error, (ny / y.size, nx / x.size), order=1)[:ny, :nx]
        plane += np.clip(grown, -900, 900)
