"""Stage 1: where the spine runs through a scan, and between which axial slices.

A 3D U-Net gives one logit per voxel; the soft-argmax of each axial slice is the curve's position there
(Pisov et al. 2020, section 2.1). The limits come from the maximum of that same map (Zakharov et al. 2022), from a
channel of their own (vertfrac), or not at all (Pisov et al. 2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from vertfrac.geometry.grid import Grid
from vertfrac.models.unet import Skip, UNet

Limits = Literal["none", "max", "channel"]


AIR_HU = -1024


def edge_slices(edge_mm: float, grid: Grid) -> int:
    """Number of axial slices that make up an edge of the given height."""
    return round(edge_mm / float(grid.spacing_mm[2]))


def with_edges(volume: NDArray[np.int16], slices: int) -> NDArray[np.int16]:
    """A volume (z, y, x) with that many slices of air below and above it."""
    return np.pad(volume, ((slices, slices), (0, 0), (0, 0)), constant_values=AIR_HU)


def soft_argmax(logits: Tensor) -> Tensor:
    """Expected coordinate under the softmax of each map (Luvizon et al. 2019).

    logits : (batch, z, y, x), any float type; the softmax runs in float32.
    Returns (batch, z, 2), the (y, x) index of each axial slice, in voxels.
    """
    return softmax_moments(logits)[0]


def softmax_moments(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of the coordinate under the softmax of each map.

    logits : (batch, z, y, x). Returns two tensors (batch, z, 2), for (y, x), in voxels and voxels squared.
    """
    weights = logits.float().flatten(2).softmax(dim=-1).view(logits.shape)
    means, variances = [], []
    for size, marginal in ((logits.shape[2], weights.sum(dim=3)), (logits.shape[3], weights.sum(dim=2))):
        place = torch.arange(size, device=logits.device, dtype=torch.float32)
        mean = marginal @ place
        means.append(mean)
        variances.append((marginal * (place - mean[..., None]) ** 2).sum(dim=-1))
    return torch.stack(means, dim=-1), torch.stack(variances, dim=-1)


class LocalizerOutput(NamedTuple):
    """positions : (batch, z, 2), (y, x) in voxels of the input, and variance : of the map about them, voxels squared.
    limits : (batch, z) logits, or None without limits."""

    positions: Tensor
    variance: Tensor
    limits: Tensor | None


class Localizer(nn.Module):
    """The stage-1 network; input (batch, 1, z, y, x), scaled intensities.

    output_stride : voxels per cell of the maps; above 1, positions and limits are interpolated back to every slice.
    """

    def __init__(
        self, *, widths: Sequence[int], limits: Limits, output_stride: int = 1, skip: Skip = "concatenate"
    ) -> None:
        super().__init__()
        self.limits = limits
        channels = 2 if limits == "channel" else 1
        self.unet = UNet(3, in_channels=1, out_channels=channels, widths=widths, output_stride=output_stride, skip=skip)

    def forward(self, x: Tensor) -> LocalizerOutput:
        """(batch, 1, z, y, x) -> curve positions and slice logits."""
        maps = self.unet(x).float()
        heat = maps[:, 0]
        stride = self.unet.output_stride
        mean, variance = softmax_moments(heat)
        positions = self._every_slice(mean * stride + (stride - 1) / 2, x.shape[2])
        variance = self._every_slice(variance * stride**2, x.shape[2])
        if self.limits == "none":
            return LocalizerOutput(positions, variance, None)
        if self.limits == "max":
            logits = heat.amax(dim=(2, 3))
        else:
            attention = heat.detach().flatten(2).softmax(dim=-1)
            logits = (attention * maps[:, 1].flatten(2)).sum(dim=-1)
        return LocalizerOutput(positions, variance, self._every_slice(logits[..., None], x.shape[2])[..., 0])

    def _every_slice(self, values: Tensor, slices: int) -> Tensor:
        """Values (batch, cells, channels) interpolated linearly along z to (batch, slices, channels)."""
        stride = self.unet.output_stride
        if stride == 1:
            return values
        fine = F.interpolate(values.transpose(1, 2), scale_factor=float(stride), mode="linear", align_corners=False)
        return fine.transpose(1, 2)[:, :slices]


def localizer_loss(
    output: LocalizerOutput, positions: Tensor, inside: Tensor, spacing_mm: Tensor, *, limits_weight: float = 1.0
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean absolute error of the curve inside its limits, plus cross-entropy of the limits.

    positions : (batch, z, 2), annotated (y, x) in voxels. inside : (batch, z), 1 where the slice holds annotated spine.
    spacing_mm : (2,), in y and x. limits_weight : 1 as published. Returns the loss and its parts; the error is in mm
    (Pisov et al. 2020, eq. 1; Zakharov et al. 2022, section 3.2).
    """
    error = ((output.positions - positions) * spacing_mm).abs().mean(dim=-1)
    curve = (error * inside).sum() / inside.sum().clamp_min(1.0)
    parts = {"curve_mm": curve}
    if output.limits is None:
        return curve, parts
    parts["limits"] = F.binary_cross_entropy_with_logits(output.limits, inside)
    return curve + limits_weight * parts["limits"], parts
