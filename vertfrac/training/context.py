"""Augmentation of the context by which vertebrae are named."""

from __future__ import annotations

import torch
from torch import Tensor

from vertfrac.training.sampling import normal, uniform

_MARGIN = 8.0
"""Rows of context that are kept beyond the vertebrae of a sample."""
WATER = 100 / 127.5 - 1
"""0 HU on the scale of the networks, see ``vertfrac.geometry.context``."""


def vary_context(
    context: Tensor, generator: torch.Generator, rows: Tensor, *, coronal: int, intensity: float
) -> Tensor:
    """Random mirroring of left and right, contrast, noise, and cut fields of view.

    context : (batch, channels, rows, columns) in [-1, 1], the first ``coronal`` channels across the body. rows :
    (batch, n), where the vertebrae of the sample are, NaN for padding: what lies around them stays. intensity :
    strength of contrast and noise.
    """
    batch, _, length, columns = context.shape
    device = context.device
    mirror = uniform(generator, (batch, 1, 1, 1), 0, 1) < 0.5
    across = context[:, :coronal]
    context = torch.cat([torch.where(mirror, across.flip(-1), across), context[:, coronal:]], dim=1)
    gain = torch.exp(uniform(generator, (batch, 1, 1, 1), -0.3, 0.3) * intensity)
    shift = uniform(generator, (batch, 1, 1, 1), -0.04, 0.04) * intensity
    noise = normal(generator, tuple(context.shape)).mul_(uniform(generator, (batch, 1, 1, 1), 0, 0.06) * intensity)
    body = (context - WATER).mul_(gain).add_(WATER + shift).add_(noise)
    context = torch.where(context > -0.99, body, context)
    outside = torch.zeros(1, dtype=torch.bool, device=device)
    place = torch.arange(length, device=device)[None, None, :, None]
    for sign in (-1.0, 1.0):  # above, below
        edge = (rows * sign).nan_to_num(nan=-torch.inf).amax(dim=1) + _MARGIN  # the last row that stays, times sign
        last = torch.full_like(edge, length - 1.0 if sign > 0 else 0.0) * sign
        cut = edge + (last - edge).clamp_min(0) * uniform(generator, (batch,), 0, 1)
        cut = torch.where(uniform(generator, (batch,), 0, 1) < 0.4, cut, torch.inf)
        outside = outside | (place * sign > cut[:, None, None, None])
    beside = (torch.arange(columns, device=device) - (columns - 1) / 2).abs()
    narrow = uniform(generator, (batch,), 0, 1) < 0.3
    half = torch.where(narrow, uniform(generator, (batch,), 0.2, 1) * columns / 2, torch.inf)
    return context.masked_fill_(outside | (beside > half[:, None, None, None]), -1.0)
