"""Stage 2, anchor-based: each pixel carries anchor boxes that say where the six keypoints lie relative to them.

Pisov et al. 2020, section 4: a 2D U-Net gives per pixel and anchor box an objectness and twelve coordinates relative to
the box, e = (g - a) / (width, height). A box is positive where its IoU with the axis-aligned box of the keypoints
exceeds 0.5.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vertfrac.models.detector import Candidates, Detector, Targets
from vertfrac.models.unet import Skip


def anchor_sizes(scales_px: Sequence[float], ratios: Sequence[float]) -> Tensor:
    """(height, width) of every anchor box, (scales * ratios, 2) pixels.

    A scale is the square root of the box's area, a ratio its width (anterior-posterior) over its height (along the
    spine): our reading of the scales and aspect ratios of Pisov et al. 2020, section 4.
    """
    return torch.tensor([(scale / ratio**0.5, scale * ratio**0.5) for scale in scales_px for ratio in ratios])


class AnchorBased(Detector):
    """The anchor-based stage-2 network.

    scales_px, ratios : of the anchor boxes, see ``anchor_sizes``. positive_iou : IoU above which a box is positive.
    best_anchor : a vertebra that no box reaches claims the box that overlaps it most.
    """

    def __init__(
        self,
        *,
        widths: Sequence[int],
        output_stride: int,
        scales_px: Sequence[float],
        ratios: Sequence[float],
        positive_iou: float = 0.5,
        best_anchor: bool = True,
        skip: Skip = "concatenate",
    ) -> None:
        sizes = anchor_sizes(scales_px, ratios)
        super().__init__(anchors=len(sizes), widths=widths, output_stride=output_stride, skip=skip)
        self.positive_iou = positive_iou
        self.best_anchor = best_anchor
        self.register_buffer("sizes", sizes, persistent=False)

    def encode(self, keypoints: Tensor, genant: Tensor, height: int, width: int) -> Targets:
        """Targets of annotated vertebrae; each positive box goes to the best overlap. See ``Detector.encode``."""
        parts = [self._encode_one(points, g, height, width) for points, g in zip(keypoints, genant, strict=True)]
        return Targets(
            torch.stack([part.objectness for part in parts]),
            torch.cat([part.code for part in parts]),
            torch.cat([part.genant for part in parts]),
        )

    def _encode_one(self, keypoints: Tensor, genant: Tensor, height: int, width: int) -> Targets:
        known = torch.isfinite(keypoints).all(dim=2).all(dim=1)
        keypoints, genant = keypoints[known], genant[known]
        shape = (self.anchors, height, width)
        if not len(keypoints):
            return Targets(keypoints.new_zeros(shape), keypoints, genant)
        iou = self._overlap(keypoints, height, width)
        best, vertebra = iou.max(dim=0)
        positive = best > self.positive_iou
        if self.best_anchor:
            for n in torch.bincount(vertebra[positive], minlength=len(keypoints)).eq(0).nonzero().flatten().tolist():
                claimed = iou[n].argmax()
                if iou[n].flatten()[claimed] > 0:
                    positive.view(-1)[claimed] = True
                    vertebra.view(-1)[claimed] = n
        anchor, row, column = positive.nonzero(as_tuple=True)
        centers = self.centers(height, width, keypoints.device)[row, column][:, None]
        sizes = self.get_buffer("sizes")[anchor][:, None]
        owner = vertebra[positive]
        return Targets(positive.to(keypoints.dtype), (keypoints[owner] - centers) / sizes, genant[owner])

    def _overlap(self, keypoints: Tensor, height: int, width: int) -> Tensor:
        """IoU of every anchor box with the boxes of the keypoints: (n, 6, 2) -> (n, anchors, h, w)."""
        low, high = keypoints.amin(dim=1), keypoints.amax(dim=1)  # (n, 2)
        centers = self.centers(height, width, keypoints.device)
        half = self.get_buffer("sizes") / 2
        sides = []
        for axis, places in enumerate((centers[:, 0, 0], centers[0, :, 1])):
            upper = torch.minimum(high[:, axis, None, None], places + half[:, axis, None])
            lower = torch.maximum(low[:, axis, None, None], places - half[:, axis, None])
            sides.append((upper - lower).clamp_min(0))  # (n, anchors, places)
        overlap = sides[0][:, :, :, None] * sides[1][:, :, None, :]
        areas = (high - low).prod(dim=1)[:, None] + (4 * half.prod(dim=1))
        return overlap / (areas[:, :, None, None] - overlap)

    def code(self, raw: Tensor) -> Tensor:
        """Coordinates relative to the anchor box are what the network outputs, (n, 6, 2)."""
        return raw

    def decode(self, output: Tensor) -> Candidates:
        """What every anchor box says about one image; output (anchors, 13, h, w)."""
        height, width = output.shape[2:]
        centers = self.centers(height, width, output.device).expand(self.anchors, -1, -1, -1).flatten(0, 2)
        sizes = self.get_buffer("sizes")[:, None, None].expand(-1, height, width, -1).flatten(0, 2)
        code = self.code(output[:, 1:].permute(0, 2, 3, 1).reshape(-1, 6, 2))
        scores = output[:, 0].sigmoid().flatten()
        return Candidates(scores, centers[:, None] + code * sizes[:, None], centers, torch.zeros_like(scores))
