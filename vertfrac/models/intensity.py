"""Hounsfield units -> what a network sees."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Scaling = Literal["window", "min_max", "unit_variance"]


def scale_intensity(hu: Tensor, *, scaling: Scaling, window_hu: tuple[float, float]) -> Tensor:
    """Clip to a window of Hounsfield units, then scale.

    hu : (batch, ...), any type. "window" maps the window to [0, 1], "min_max" each image's own range (both are readings
    of Zakharov et al. 2022, stage 1); "unit_variance" gives each image of the batch zero mean and unit variance (Pisov
    et al. 2020; Zakharov et al. 2022, stage 2). Returns float32 of the same shape.
    """
    low, high = window_hu
    values = hu.to(torch.float32).clamp(low, high)
    if scaling == "window":
        return (values - low) / (high - low)
    axes = tuple(range(1, values.ndim))
    if scaling == "min_max":
        least, most = values.amin(dim=axes, keepdim=True), values.amax(dim=axes, keepdim=True)
        return (values - least) / (most - least).clamp_min(1.0)
    mean = values.mean(dim=axes, keepdim=True)
    deviation = values.std(dim=axes, keepdim=True, correction=0)
    return (values - mean) / deviation.clamp_min(1e-3)


def scale_context(views: Tensor) -> Tensor:
    """Views of a context as they are stored, uint8 (``vertfrac.geometry.context``), scaled to [-1, 1]; air is -1."""
    return views.to(torch.float32) / 127.5 - 1
