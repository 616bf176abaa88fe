"""What both stage-2 networks share: anchors on a grid, each with an objectness and a code of six keypoints.

A code is what the network says of the keypoints as seen from an anchor. ``encode`` turns annotated vertebrae into
targets and ``decode`` turns an output into candidates; the anchor-free and the anchor-based detector differ in the
anchors and in the code alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vertfrac.geometry.grid import strided_centers
from vertfrac.models.levels import LevelHead
from vertfrac.models.unet import Skip, UNet

CHANNELS = 13
"""Outputs per anchor: the objectness logit, then the code (keypoint, axis)."""


class Targets(NamedTuple):
    """What an output should be. objectness : (batch, anchors, h, w), 0 or 1. code : (positives, 6, 2) and genant :
    (positives,), the code and G of the vertebra of each positive anchor, in the order of ``objectness.nonzero()``."""

    objectness: Tensor
    code: Tensor
    genant: Tensor


class Candidates(NamedTuple):
    """Detections before suppression: scores (n,), keypoints (n, 6, 2) and anchors (n, 2), (row, column) in pixels.

    variance : (n,), mean squared distance of the keypoints from their mean over several networks, pixels squared.
    """

    scores: Tensor
    keypoints: Tensor
    anchors: Tensor
    variance: Tensor

    def best_above(self, threshold: float, most: int | None = None) -> Candidates:
        """Those with a score above the threshold, best first, and no more than ``most``."""
        order = self.scores.argsort(descending=True, stable=True)
        order = order[self.scores[order] > threshold][:most]
        return Candidates(*(values[order] for values in self))


def mean_candidates(parts: Sequence[Candidates]) -> Candidates:
    """Candidate by candidate mean of what several networks of one kind say about one image."""
    keypoints = torch.stack([part.keypoints for part in parts])
    mean = keypoints.mean(dim=0)
    return Candidates(
        torch.stack([part.scores for part in parts]).mean(dim=0),
        mean,
        parts[0].anchors,
        (keypoints - mean).square().sum(dim=-1).mean(dim=(0, 2)),
    )


class Detector(nn.Module, ABC):
    """A stage-2 network; input (batch, 1, rows, columns), scaled intensities of straightened slices.

    anchors : anchors per output cell. widths : U-Net channels. output_stride : pixels per output cell along both axes.
    """

    levels: LevelHead | None
    """What names vertebrae, if anything does."""

    def __init__(self, *, anchors: int, widths: Sequence[int], output_stride: int, skip: Skip) -> None:
        super().__init__()
        self.anchors = anchors
        self.levels = None
        self.unet = UNet(
            2, in_channels=1, out_channels=anchors * CHANNELS, widths=widths, output_stride=output_stride, skip=skip
        )

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 1, rows, columns) -> (batch, anchors, 13, h, w)."""
        return self.output(self.unet.features(x))

    def output(self, features: Tensor) -> Tensor:
        """(batch, channels, h, w) features of the U-Net -> (batch, anchors, 13, h, w)."""
        output: Tensor = self.unet.head(features)
        batch, _, height, width = output.shape
        return output.float().view(batch, self.anchors, CHANNELS, height, width)

    def objectness(self, features: Tensor) -> Tensor:
        """Logits (batch, anchors, h, w) of all anchors, from the features of the U-Net, (batch, channels, h, w)."""
        weight, bias = self._head()
        return F.conv2d(features, weight[:, 0, :, None, None], bias[:, 0]).float()

    def codes(self, features: Tensor, chosen: Tensor) -> Tensor:
        """Codes (n, 6, 2) of the chosen anchors alone, (batch, anchors, h, w) bool, which are few among many."""
        weight, bias = self._head()
        sample, anchor, row, column = chosen.nonzero(as_tuple=True)
        seen = features.permute(0, 2, 3, 1)[sample, row, column].float()
        raw = torch.einsum("nc,nkc->nk", seen, weight[anchor, 1:]) + bias[anchor, 1:]
        return self.code(raw.view(-1, 6, 2))

    def _head(self) -> tuple[Tensor, Tensor]:
        """Weight (anchors, 13, channels) and bias (anchors, 13) of the U-Net's last layer."""
        weight, bias = self.unet.head.weight, self.unet.head.bias
        assert isinstance(weight, Tensor)
        assert isinstance(bias, Tensor)
        return weight.view(self.anchors, CHANNELS, -1), bias.view(self.anchors, CHANNELS)

    def centers(self, height: int, width: int, device: torch.device) -> Tensor:
        """Position (row, column) of every output cell, (h, w, 2), in pixels of the input."""
        rows, columns = (
            torch.as_tensor(strided_centers(size, self.unet.output_stride), dtype=torch.float32, device=device)
            for size in (height, width)
        )
        return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1)

    def learn_shape(self, mean_offsets: Tensor) -> None:
        """Take over the mean position of the keypoints about their vertebra's centroid, (6, 2) pixels, if of use."""

    @abstractmethod
    def encode(self, keypoints: Tensor, genant: Tensor, height: int, width: int) -> Targets:
        """What the network should say for annotated vertebrae.

        keypoints : (batch, n, 6, 2), (row, column) in pixels, NaN for padding. genant : (batch, n). height, width : of
        the output.
        """

    @abstractmethod
    def code(self, raw: Tensor) -> Tensor:
        """Network outputs (n, 6, 2) as codes."""

    @abstractmethod
    def decode(self, output: Tensor) -> Candidates:
        """What every anchor says about one image; output (anchors, 13, h, w)."""


def detector_loss(
    logits: Tensor,
    codes: Tensor,
    targets: Targets,
    *,
    smallest_genant: float,
    objectness_weight: float = 1.0,
    height_weight: float = 0.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy of the objectness plus the mean error of the positive anchors' codes, weighted by 1/G.

    logits : (batch, anchors, h, w). codes : (positives, 6, 2), what the network says for the targets' positive anchors,
    in their order. L = BCE(o) + (1/N+) sum over positives of MAE(e) / G (Pisov et al. 2020, eq. 3;
    Zakharov et al. 2022, section 3.2). G is clamped to ``smallest_genant`` from below, which bounds the weight.
    ``objectness_weight`` multiplies the cross-entropy (1 in the papers); ``height_weight`` adds the error of the three
    heights of translation codes (vertfrac; 0 in the papers). Returns the loss and its parts.
    """
    objectness = F.binary_cross_entropy_with_logits(logits, targets.objectness)
    count = max(1, len(codes))
    weight = 1 / targets.genant.clamp_min(smallest_genant)
    error = (codes - targets.code).abs().mean(dim=(1, 2))
    parts = {"objectness": objectness, "code": error.sum() / count}
    loss = objectness_weight * objectness + (error * weight).sum() / count
    if height_weight > 0:
        difference = _heights(codes) - _heights(targets.code)
        parts["heights_px"] = difference.abs().sum() / (3 * count)
        loss = loss + height_weight * (difference.abs().mean(dim=1) * weight).sum() / count
    return loss, parts


def _heights(points: Tensor) -> Tensor:
    lengths: Tensor = (points[:, 0::2] - points[:, 1::2]).norm(dim=-1)
    return lengths
