"""Stage 2, anchor-free: each pixel near a vertebra's centroid says where the six keypoints lie.

Zakharov et al. 2022, section 3.2: a 2D U-Net gives per pixel an objectness and twelve offsets, e = g - a, from the
pixel a to the keypoints g.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vertfrac.models.detector import Candidates, Detector, Targets
from vertfrac.models.unet import Skip


class AnchorFree(Detector):
    """The anchor-free stage-2 network, one anchor per output cell.

    radius_px : a cell is positive within this distance of a vertebra's centroid. offset_scale_px : what an output of 1
    means, in pixels. mean_offsets : outputs are differences from the mean vertebra of the training cases.
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
    ) -> None:
        super().__init__(anchors=1, widths=widths, output_stride=output_stride, skip=skip)
        self.radius_px = radius_px
        self.offset_scale_px = offset_scale_px
        self.uses_mean = mean_offsets
        self.register_buffer("mean_offsets", torch.zeros(6, 2))

    def learn_shape(self, mean_offsets: Tensor) -> None:
        """Take over the mean vertebra, (6, 2) pixels about its centroid, if the outputs are differences from it."""
        if self.uses_mean:
            self.get_buffer("mean_offsets").copy_(mean_offsets)

    def encode(self, keypoints: Tensor, genant: Tensor, height: int, width: int) -> Targets:
        """Targets of annotated vertebrae; a positive cell belongs to the nearest centroid. See ``Detector.encode``."""
        centers = self.centers(height, width, keypoints.device)
        centroids = keypoints.mean(dim=2)
        distance = (centers[None, :, :, None] - centroids[:, None, None]).norm(dim=-1)
        nearest_distance, nearest = distance.nan_to_num(nan=torch.inf).min(dim=-1)
        positive = nearest_distance < self.radius_px
        sample, row, column = positive.nonzero(as_tuple=True)
        vertebra = nearest[positive]
        return Targets(
            positive.float()[:, None],
            keypoints[sample, vertebra] - centers[row, column][:, None],
            genant[sample, vertebra],
        )

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
