"""What both stages share in making samples: step-seeded randomness, resident data, intensity augmentation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def step_generator(seed: int, step: int, device: torch.device) -> torch.Generator:
    """Random numbers that depend on the seed and the step alone, so that a resumed run goes on as if never stopped."""
    generator = torch.Generator(device=device)
    generator.manual_seed((seed * 1_000_003 + step) & 0x7FFF_FFFF_FFFF_FFFF)
    return generator


def uniform(generator: torch.Generator, shape: tuple[int, ...], low: float, high: float) -> Tensor:
    """Uniform random numbers on the generator's device."""
    return torch.rand(shape, generator=generator, device=generator.device) * (high - low) + low


def normal(generator: torch.Generator, shape: tuple[int, ...]) -> Tensor:
    """Standard normal random numbers on the generator's device."""
    return torch.randn(shape, generator=generator, device=generator.device)


def vary_intensity(hu: Tensor, generator: torch.Generator, strength: float) -> Tensor:
    """Random brightness, contrast, blur along the spine and noise of each image, in HU.

    hu : (batch, z, ...), the second axis running along the body. Contrast is varied around soft tissue (40 HU). The
    noise has a fine and a coarse part; the blur imitates thick slices. strength 0 returns the images unchanged.
    """
    if strength <= 0:
        return hu
    batch, ones = len(hu), (1,) * (hu.ndim - 1)
    gain = torch.exp(uniform(generator, (batch, *ones), -0.25, 0.25) * strength)
    shift = uniform(generator, (batch, *ones), -40, 40) * strength
    hu = (hu - 40) * gain + 40 + shift
    blurred = _blur_first_axis(hu, uniform(generator, (batch,), 0.0, 1.0), strength)
    amount = uniform(generator, (batch, *ones), -1.0, 1.0).clamp_min(0.0)
    hu = hu + (blurred - hu) * amount
    level = uniform(generator, (batch, *ones), 0.0, 1.0).square() * 90 * strength
    fine = normal(generator, tuple(hu.shape))
    coarse_shape = (batch, *(max(1, n // 3) for n in hu.shape[1:]))
    coarse = normal(generator, coarse_shape)
    mode = "bilinear" if hu.ndim == 3 else "trilinear"
    coarse = F.interpolate(coarse[:, None], size=tuple(hu.shape[1:]), mode=mode, align_corners=False)[:, 0]
    mix = uniform(generator, (batch, *ones), 0.0, 1.0)
    return hu + level * (fine * (1 - mix) + coarse * mix)


def _blur_first_axis(hu: Tensor, width: Tensor, strength: float) -> Tensor:
    """Each image blurred along its first axis with a Gaussian of up to 2 samples standard deviation."""
    sigma = (width * 2.0 * min(strength, 2.0)).clamp_min(0.2)
    reach = torch.arange(-4, 5, device=hu.device, dtype=hu.dtype)
    kernel = torch.exp(-0.5 * (reach / sigma[:, None]) ** 2)
    kernel = kernel / kernel.sum(dim=1, keepdim=True)
    batch, length = hu.shape[:2]
    lines = hu.reshape(1, batch, length, -1)
    padded = F.pad(lines, (0, 0, 4, 4), mode="replicate")
    return F.conv2d(padded, kernel[:, None, :, None], groups=batch).reshape(hu.shape)
