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
    hu = (hu - 40).mul_(gain).add_(40 + shift)
    blurred = _blur_first_axis(hu, uniform(generator, (batch,), 0.0, 1.0), strength)
    amount = uniform(generator, (batch, *ones), -1.0, 1.0).clamp_min(0.0)
    hu = hu.lerp_(blurred, amount.expand_as(hu))
    level = uniform(generator, (batch, *ones), 0.0, 1.0).square() * 90 * strength
    fine = normal(generator, tuple(hu.shape))
    coarse_shape = (batch, *(max(1, n // 3) for n in hu.shape[1:]))
    coarse = normal(generator, coarse_shape)
    mode = "bilinear" if hu.ndim == 3 else "trilinear"
    coarse = F.interpolate(coarse[:, None], size=tuple(hu.shape[1:]), mode=mode, align_corners=False)[:, 0]
    mix = uniform(generator, (batch, *ones), 0.0, 1.0)
    return hu.addcmul_(fine, level * (1 - mix)).addcmul_(coarse, level * mix)


def vary_appearance(hu: Tensor, generator: torch.Generator, strength: float) -> Tensor:
    """Random density of bone and of fat, softness in the plane, uneven brightness and a cut field of view, in HU.

    hu : (batch, z, ...) as in `vary_intensity`. What phantoms have alike, such as bone of one density throughout, is
    what a network would otherwise rely on. strength 0 returns the images unchanged.
    """
    if strength <= 0:
        return hu
    batch, ones = len(hu), (1,) * (hu.ndim - 1)
    bone = torch.exp(uniform(generator, (batch, *ones), -0.45, 0.45) * strength)
    fat = torch.exp(uniform(generator, (batch, *ones), -0.3, 0.3) * strength)
    hu = hu + (hu - 130).clamp_min(0) * (bone - 1) + (hu + 20).clamp(-180, 0) * (fat - 1)
    coarse = normal(generator, (batch, *(4,) * (hu.ndim - 1)))
    mode = "bilinear" if hu.ndim == 3 else "trilinear"
    uneven = F.interpolate(coarse[:, None], size=tuple(hu.shape[1:]), mode=mode, align_corners=True)[:, 0]
    hu = hu + uneven * uniform(generator, (batch, *ones), 0, 25) * strength
    soft = hu
    for axis in range(2, hu.ndim):
        soft = _neighbours(soft, axis)
    amount = uniform(generator, (batch, *ones), -0.6, 1.0) * min(strength, 1.0)  # below 0 it sharpens
    hu = hu + (soft - hu) * amount
    return _cut_field(hu, generator, 0.15 * min(strength, 1.0))


def _neighbours(hu: Tensor, axis: int) -> Tensor:
    """Each value averaged with its two neighbours along an axis; those at the ends have themselves for one."""
    before = torch.cat([hu.narrow(axis, 0, 1), hu.narrow(axis, 0, hu.shape[axis] - 1)], dim=axis)
    after = torch.cat([hu.narrow(axis, 1, hu.shape[axis] - 1), hu.narrow(axis, hu.shape[axis] - 1, 1)], dim=axis)
    return 0.25 * before + 0.5 * hu + 0.25 * after


def _cut_field(hu: Tensor, generator: torch.Generator, share: float) -> Tensor:
    """A share of the images without what lies beyond a plane, which leaves three quarters of the last axis or more."""
    batch, ones = len(hu), (1,) * (hu.ndim - 1)
    length = hu.shape[-1]
    cut = uniform(generator, (batch, *ones), 0.75, 1.0)
    from_left = uniform(generator, (batch, *ones), 0.0, 1.0) < 0.5
    happens = uniform(generator, (batch, *ones), 0.0, 1.0) < share
    place = (torch.arange(length, device=hu.device, dtype=hu.dtype) + 0.5) / length
    place = torch.where(from_left, 1 - place, place)
    return torch.where(happens & (place > cut), -1024.0, hu)


def _blur_first_axis(hu: Tensor, width: Tensor, strength: float) -> Tensor:
    """Each image blurred along its first axis with a Gaussian of up to 2 samples standard deviation."""
    sigma = (width * 2.0 * min(strength, 2.0)).clamp_min(0.2)
    reach = torch.arange(-4, 5, device=hu.device, dtype=hu.dtype)
    kernel = torch.exp(-0.5 * (reach / sigma[:, None]) ** 2)
    kernel = kernel / kernel.sum(dim=1, keepdim=True)
    length = hu.shape[1]
    taken = (torch.arange(length, device=hu.device)[:, None] + torch.arange(-4, 5, device=hu.device)).clamp(
        0, length - 1
    )
    band = hu.new_zeros(len(hu), length, length).scatter_add_(
        2, taken.expand(len(hu), -1, -1), kernel[:, None].expand(-1, length, -1)
    )
    return torch.bmm(band, hu.flatten(2)).view(hu.shape)
