"""Stage 2, anchor-free: each pixel near a vertebra's centroid says where the six keypoints lie.

Zakharov et al. 2022, section 3.4: a 2D U-Net gives per pixel an objectness and twelve offsets, e = g - a, from the
pixel a to the keypoints g. ``AnchorFree.encode`` and ``AnchorFree.decode`` are the two directions of that code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vertfrac.geometry.grid import strided_centers
from vertfrac.models.unet import Skip, UNet


class Targets(NamedTuple):
    """objectness : (batch, h, w), 0 or 1. keypoints : (batch, h, w, 6, 2), (row, column) of the nearest vertebra.
    genant : (batch, h, w), G of that vertebra."""

    objectness: Tensor
    keypoints: Tensor
    genant: Tensor


class Candidates(NamedTuple):
    """Detections before suppression: scores (n,), keypoints (n, 6, 2) and anchors (n, 2), (row, column) in pixels."""

    scores: Tensor
    keypoints: Tensor
    anchors: Tensor

    def best_above(self, threshold: float) -> Candidates:
        """Those with a score above the threshold, best first."""
        order = self.scores.argsort(descending=True, stable=True)
        order = order[self.scores[order] > threshold]
        return Candidates(self.scores[order], self.keypoints[order], self.anchors[order])


def mean_candidates(parts: Sequence[Candidates]) -> Candidates:
    """Candidate by candidate mean of what several networks of one kind say about one image."""
    return Candidates(
        torch.stack([part.scores for part in parts]).mean(dim=0),
        torch.stack([part.keypoints for part in parts]).mean(dim=0),
        parts[0].anchors,
    )


class AnchorFree(nn.Module):
    """The anchor-free stage-2 network; input (batch, 1, rows, columns), scaled intensities of straightened slices.

    widths : U-Net channels. output_stride : pixels per output cell along both axes. radius_px : a cell is positive
    within this distance of a vertebra's centroid. offset_scale_px : what an output of 1 means, in pixels.
    """

    OUTPUTS = 13

    def __init__(
        self,
        *,
        widths: Sequence[int],
        output_stride: int,
        radius_px: float,
        offset_scale_px: float = 1.0,
        skip: Skip = "concatenate",
    ) -> None:
        super().__init__()
        self.radius_px = radius_px
        self.offset_scale_px = offset_scale_px
        self.unet = UNet(
            2, in_channels=1, out_channels=self.OUTPUTS, widths=widths, output_stride=output_stride, skip=skip
        )
        self.register_buffer("mean_offsets", torch.zeros(6, 2))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 1, rows, columns) -> (batch, 13, h, w): objectness logit, then the offsets (keypoint, axis)."""
        output: Tensor = self.unet(x)
        return output.float()

    def anchors(self, height: int, width: int) -> Tensor:
        """Position (row, column) of every output cell, (h, w, 2), in pixels of the input."""
        device = self.get_buffer("mean_offsets").device
        rows = torch.as_tensor(strided_centers(height, self.unet.output_stride), dtype=torch.float32, device=device)
        columns = torch.as_tensor(strided_centers(width, self.unet.output_stride), dtype=torch.float32, device=device)
        return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1)

    def keypoints(self, output: Tensor) -> Tensor:
        """Keypoints that each cell of the output votes for: (batch, 13, h, w) -> (batch, h, w, 6, 2), pixels."""
        batch, _, height, width = output.shape
        offsets = output[:, 1:].view(batch, 6, 2, height, width).permute(0, 3, 4, 1, 2) * self.offset_scale_px
        return self.anchors(height, width)[..., None, :] + self.get_buffer("mean_offsets") + offsets

    def encode(self, keypoints: Tensor, genant: Tensor, height: int, width: int) -> Targets:
        """What the network should say for annotated vertebrae.

        keypoints : (batch, n, 6, 2) in pixels, NaN for padding. genant : (batch, n). height, width : of the output.
        """
        centroids = keypoints.mean(dim=2)
        distance = (self.anchors(height, width)[None, :, :, None] - centroids[:, None, None]).norm(dim=-1)
        distance = distance.nan_to_num(nan=torch.inf)
        nearest_distance, nearest = distance.min(dim=-1)
        sample = torch.arange(len(keypoints), device=keypoints.device)[:, None, None]
        return Targets(
            (nearest_distance < self.radius_px).float(),
            keypoints[sample, nearest].nan_to_num(nan=0.0),
            genant[sample, nearest].nan_to_num(nan=1.0),
        )

    def decode(self, output: Tensor) -> Candidates:
        """What every cell says about one image; output (13, h, w)."""
        height, width = output.shape[1:]
        return Candidates(
            output[0].sigmoid().flatten(),
            self.keypoints(output[None])[0].flatten(0, 1),
            self.anchors(height, width).flatten(0, 1),
        )


def detector_loss(
    output: Tensor,
    predicted: Tensor,
    targets: Targets,
    *,
    smallest_genant: float,
    objectness_weight: float = 1.0,
    height_weight: float = 0.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy of the objectness plus the mean keypoint error of positive cells, weighted by 1/G.

    output : (batch, 13, h, w). predicted : (batch, h, w, 6, 2), pixels. G is clamped to ``smallest_genant`` from below,
    which bounds the weight. ``objectness_weight`` multiplies the cross-entropy (1 in the papers); ``height_weight``
    adds the error of the three heights (vertfrac; 0 in the papers). Returns the loss and its parts (Zakharov et al.
    2022, eq. 2).
    """
    objectness = F.binary_cross_entropy_with_logits(output[:, 0], targets.objectness)
    positive = targets.objectness > 0
    count = positive.sum().clamp_min(1)
    weight = 1 / targets.genant[positive].clamp_min(smallest_genant)
    p, g = predicted[positive], targets.keypoints[positive]
    error = (p - g).abs().mean(dim=(1, 2))
    parts = {"objectness": objectness, "keypoints_px": error.sum() / count}
    loss = objectness_weight * objectness + (error * weight).sum() / count
    if height_weight > 0:
        difference = (p[:, 0::2] - p[:, 1::2]).norm(dim=-1) - (g[:, 0::2] - g[:, 1::2]).norm(dim=-1)
        parts["heights_px"] = difference.abs().sum() / (3 * count)
        loss = loss + height_weight * (difference.abs().mean(dim=1) * weight).sum() / count
    return loss, parts
