"""Stage 2, anchor-free: each pixel near a vertebra's centroid says where the six keypoints lie.

Zakharov et al. 2022, section 3.2: a 2D U-Net gives per pixel an objectness and twelve offsets, e = g - a, from the
pixel a to the keypoints g.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from vertfrac.models.detector import Candidates, Detector, Targets
from vertfrac.models.levels import LevelHead
from vertfrac.models.unet import Skip


class AnchorFree(Detector):
    """The anchor-free stage-2 network, one anchor per output cell.

    radius_px : a cell is positive within this distance of a vertebra's centroid. offset_scale_px : what an output of 1
    means, in pixels. mean_offsets : outputs are differences from the mean vertebra of the training cases. context :
    channels and columns of the views by which vertebrae are named, of ``LevelHead``; None names none.
    """

    def __init__(
        self,
        *,
        widths: Sequence[int],
        output_stride: int,
        radius_px: float,
        offset_scale_px: float = 1.0,
        mean_offsets: bool = False,
        skip: Skip = "concatenate",
        context: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(anchors=1, widths=widths, output_stride=output_stride, skip=skip)
        self.radius_px = radius_px
        self.offset_scale_px = offset_scale_px
        self.uses_mean = mean_offsets
        self.register_buffer("mean_offsets", torch.zeros(6, 2))
        if context is not None:
            self.levels = LevelHead(features=widths[output_stride.bit_length() - 1], **context)

    def learn_shape(self, mean_offsets: Tensor) -> None:
        """Take over the mean vertebra, (6, 2) pixels about its centroid, if the outputs are differences from it."""
        if self.uses_mean:
            self.get_buffer("mean_offsets").copy_(mean_offsets)

    def encode(self, keypoints: Tensor, genant: Tensor, height: int, width: int) -> Targets:
        """Targets of annotated vertebrae; a positive cell belongs to the nearest centroid. See ``Detector.encode``."""
        centers = self.centers(height, width, keypoints.device)
        sample, vertebra, row, column = self.near(keypoints.mean(dim=2), height, width)
        positive = torch.zeros(len(keypoints), height, width, device=keypoints.device)
        positive[sample, row, column] = 1
        return Targets(
            positive[:, None],
            keypoints[sample, vertebra] - centers[row, column][:, None],
            genant[sample, vertebra],
        )

    def near(self, points: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The cells near to points (batch, n, 2), pixels, NaN for padding: those positive for a vertebra there.

        height, width : of the output. Returns the sample, the nearest point, the row and the column of each, (m,).
        """
        centers = self.centers(height, width, points.device)
        distance = (centers[None, :, :, None] - points[:, None, None]).norm(dim=-1).nan_to_num(nan=torch.inf)
        nearest_distance, nearest = distance.min(dim=-1)
        sample, row, column = (nearest_distance < self.radius_px).nonzero(as_tuple=True)
        return sample, nearest[sample, row, column], row, column

    def code(self, raw: Tensor) -> Tensor:
        """Offsets in pixels from network outputs (n, 6, 2)."""
        return raw * self.offset_scale_px + self.get_buffer("mean_offsets")

    def decode(self, output: Tensor) -> Candidates:
        """What every cell says about one image; output (1, 13, h, w)."""
        height, width = output.shape[2:]
        centers = self.centers(height, width, output.device).flatten(0, 1)
        code = self.code(output[0, 1:].flatten(1).T.reshape(-1, 6, 2))
        scores = output[0, 0].sigmoid().flatten()
        return Candidates(scores, centers[:, None] + code, centers, torch.zeros_like(scores))
