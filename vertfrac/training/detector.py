"""Training of stage 2."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vertfrac.models.anchor_free import AnchorFree
from vertfrac.models.detector import Detector, Targets, detector_loss
from vertfrac.models.device import on_device
from vertfrac.models.intensity import Scaling, scale_intensity
from vertfrac.models.levels import level_loss
from vertfrac.training.fit import FitSettings, fit
from vertfrac.training.slices import Names, SliceBank


class NamedCells(NamedTuple):
    """Cells that the level head learns from: sample, row and column of each, its row (place) in the context, not
    rounded, and its level, all (n,). context : (size, channels, rows, columns) in [-1, 1]."""

    sample: Tensor
    row: Tensor
    column: Tensor
    place: Tensor
    levels: Tensor
    context: Tensor


class DetectorSample(NamedTuple):
    """images : (size, 1, rows, columns), scaled. named : None where vertebrae are not named."""

    images: Tensor
    targets: Targets
    named: NamedCells | None


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
    level_weight: float,
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
    bank = SliceBank(files, cases, device=device, named=network.levels is not None)
    network = on_device(network, device, torch.channels_last)
    network.learn_shape(bank.mean_offsets())
    if network.levels is not None and level_weight > 0:  # an untrained head is to name nothing
        network.levels.learn_shares(bank.level_counts(network.levels.classes))

    def sample(step: int) -> DetectorSample:
        hu, keypoints, names = bank.batch(
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
            coronal=0 if network.levels is None else network.levels.coronal,
        )
        images = scale_intensity(hu, scaling=scaling, window_hu=window_hu)[:, None]
        height, width = (-(-pixels // network.unet.output_stride) for pixels in hu.shape[1:])
        return DetectorSample(
            images.contiguous(memory_format=torch.channels_last),
            network.encode(keypoints, _genant(keypoints), height, width),
            None if names is None else _named_cells(network, names, height, width),
        )

    def loss(network: nn.Module, seen: DetectorSample) -> tuple[Tensor, dict[str, Tensor]]:
        assert isinstance(network, Detector)
        features = network.unet.features(seen.images)
        total, parts = detector_loss(
            network.objectness(features),
            network.codes(features, seen.targets.objectness > 0),
            seen.targets,
            smallest_genant=smallest_genant,
            objectness_weight=objectness_weight,
            height_weight=height_weight,
        )
        if seen.named is None:
            return total, parts
        parts["levels"] = _level_loss(network, features, seen.named)
        return total + level_weight * parts["levels"], parts

    fit(network, sample, loss, settings, work=work, device=device)
    return network.cpu().eval()


def _named_cells(network: Detector, names: Names, height: int, width: int) -> NamedCells:
    """The output cells (of height x width) of the vertebrae and landmarks whose level is known."""
    assert isinstance(network, AnchorFree)
    known = torch.where((names.levels >= 0)[..., None], names.points, torch.nan)
    sample, which, row, column = network.near(known, height, width)
    return NamedCells(sample, row, column, names.rows[sample, which], names.levels[sample, which], names.context)


def _level_loss(network: Detector, features: Tensor, named: NamedCells) -> Tensor:
    """Cross-entropy of the levels at their cells."""
    assert network.levels is not None
    cells = features.permute(0, 2, 3, 1)[named.sample, named.row, named.column].float()
    logits = network.levels(cells, network.levels.rows(named.context), named.sample, named.place)
    return level_loss(logits, named.levels)


def _genant(keypoints: Tensor) -> Tensor:
    """Genant index of (batch, n, 6, 2) keypoints, (batch, n), NaN for padding."""
    heights: Tensor = (keypoints[..., 0::2, :] - keypoints[..., 1::2, :]).norm(dim=-1)
    return heights.amin(dim=-1) / heights.amax(dim=-1)
