"""Training of stage 2."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from vertfrac.models.detector import Detector, detector_loss
from vertfrac.models.device import on_device
from vertfrac.models.intensity import Scaling, scale_intensity
from vertfrac.training.fit import FitSettings, fit
from vertfrac.training.slices import SliceBank


def train_detector(
    network: Detector,
    files: Sequence[Path],
    cases: set[str],
    *,
    spacing_mm: float,
    scaling: Scaling,
    window_hu: tuple[float, float],
    smallest_genant: float,
    objectness_weight: float,
    height_weight: float,
    crop_mm: tuple[float, float],
    batch: int,
    rotate_deg: float,
    scale: float,
    elastic_mm: float,
    elastic_length_mm: float,
    shift_mm: float,
    intensity: float,
    appearance: float,
    settings: FitSettings,
    work: Path,
    device: torch.device,
) -> Detector:
    """Train a detector on the slices of ``cases``; returns it in evaluation mode, on the CPU."""
    bank = SliceBank(files, cases, device=device)
    network = on_device(network, device, torch.channels_last)
    network.learn_shape(bank.mean_offsets())

    def loss(network: nn.Module, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        assert isinstance(network, Detector)
        hu, keypoints = bank.batch(
            step,
            size=batch,
            crop=(round(crop_mm[0] / spacing_mm), round(crop_mm[1] / spacing_mm)),
            seed=settings.seed,
            rotate_deg=rotate_deg,
            scale=scale,
            elastic_px=elastic_mm / spacing_mm,
            elastic_length_px=elastic_length_mm / spacing_mm,
            shift_px=shift_mm / spacing_mm,
            intensity=intensity,
            appearance=appearance,
        )
        images = scale_intensity(hu, scaling=scaling, window_hu=window_hu)[:, None]
        features = network.unet.features(images.contiguous(memory_format=torch.channels_last))
        targets = network.encode(keypoints, _genant(keypoints), *features.shape[2:])
        return detector_loss(
            network.objectness(features),
            network.codes(features, targets.objectness > 0),
            targets,
            smallest_genant=smallest_genant,
            objectness_weight=objectness_weight,
            height_weight=height_weight,
        )

    fit(network, loss, settings, work=work, device=device)
    return network.cpu().eval()


def _genant(keypoints: Tensor) -> Tensor:
    """Genant index of (batch, n, 6, 2) keypoints, (batch, n), NaN for padding."""
    heights: Tensor = (keypoints[..., 0::2, :] - keypoints[..., 1::2, :]).norm(dim=-1)
    return heights.amin(dim=-1) / heights.amax(dim=-1)
