"""Training of stage 1."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vertfrac.models.device import on_device
from vertfrac.models.intensity import Scaling, scale_intensity
from vertfrac.models.localizer import Localizer, localizer_loss
from vertfrac.training.fit import FitSettings, fit
from vertfrac.training.volumes import VolumeBank


class LocalizerSample(NamedTuple):
    """images : (size, 1, z, y, x), scaled. positions : (size, z, 2), (y, x) in voxels. inside : (size, z), 0 or 1."""

    images: Tensor
    positions: Tensor
    inside: Tensor


def train_localizer(
    network: Localizer,
    files: Sequence[Path],
    annotations: pd.DataFrame,
    cases: set[str],
    *,
    limits_weight: float,
    edge_mm: float,
    scaling: Scaling,
    window_hu: tuple[float, float],
    crop_mm: tuple[float, float, float] | None,
    batch: int,
    rotate_deg: float,
    tilt: float,
    scale: float,
    flip: bool,
    intensity: float,
    appearance: float,
    settings: FitSettings,
    work: Path,
    device: torch.device,
) -> Localizer:
    """Train a localizer on the volumes of ``cases``; returns it in evaluation mode, on the CPU.

    crop_mm : (x, y, z); None takes whole volumes.
    """
    network = on_device(network, device, torch.channels_last_3d)
    bank = VolumeBank(files, annotations, cases, device=device, edge_mm=edge_mm)
    spacing = torch.tensor(bank.spacing_zyx[1:].copy(), dtype=torch.float32, device=device)
    crop = None if crop_mm is None else in_voxels(crop_mm, bank.spacing_zyx)

    def sample(step: int) -> LocalizerSample:
        hu, positions, inside = bank.batch(
            step,
            size=batch,
            crop=crop,
            seed=settings.seed,
            rotate_deg=rotate_deg,
            tilt=tilt,
            scale=scale,
            flip=flip,
            intensity=intensity,
            appearance=appearance,
        )
        images = scale_intensity(hu, scaling=scaling, window_hu=window_hu)[:, None]
        return LocalizerSample(images.contiguous(memory_format=torch.channels_last_3d), positions, inside)

    def loss(network: nn.Module, seen: LocalizerSample) -> tuple[Tensor, dict[str, Tensor]]:
        return localizer_loss(network(seen.images), seen.positions, seen.inside, spacing, limits_weight=limits_weight)

    fit(network, sample, loss, settings, work=work, device=device)
    return network.cpu().eval()


def in_voxels(crop_mm: tuple[float, float, float], spacing_zyx: NDArray[np.float64]) -> tuple[int, int, int]:
    """A crop (x, y, z) in mm as voxels (z, y, x), at least one along each axis."""
    z, y, x = (max(1, round(mm / step)) for mm, step in zip(reversed(crop_mm), spacing_zyx, strict=True))
    return z, y, x
