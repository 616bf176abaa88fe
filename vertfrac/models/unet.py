"""A plain U-Net in two or three dimensions (Ronneberger et al. 2015)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Skip = Literal["concatenate", "add"]


def _convolutions(dimensions: int, channels: Sequence[int]) -> nn.Sequential:
    """3-wide convolutions, each followed by batch normalisation and ReLU, through the given channel counts."""
    conv: type[nn.Module] = nn.Conv2d if dimensions == 2 else nn.Conv3d
    norm: type[nn.Module] = nn.BatchNorm2d if dimensions == 2 else nn.BatchNorm3d
    layers: list[nn.Module] = []
    for before, after in pairwise(channels):
        layers += [conv(before, after, 3, padding=1, bias=False), norm(after), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Contracting path of ``len(widths)`` levels and expanding path back to the level of ``output_stride``.

    dimensions : 2 or 3. widths : channels per level, finest first. output_stride : a power of two; 1 returns to full
    resolution, 2 stops one level before. skip : how the contracting path joins the expanding one: "concatenate" as
    published; "add" brings the coarse features to the fine level's width by a 1-wide convolution and adds them, at
    about a third of the cost. Input (batch, in_channels, *size) of any size; output
    (batch, out_channels, *ceil(size / output_stride)).
    """

    def __init__(
        self,
        dimensions: int,
        *,
        in_channels: int,
        out_channels: int,
        widths: Sequence[int],
        output_stride: int = 1,
        skip: Skip = "concatenate",
    ) -> None:
        super().__init__()
        self.skip = skip
        last_level = output_stride.bit_length() - 1
        if last_level < 0 or output_stride != 1 << last_level or last_level >= len(widths):
            raise ValueError(f"output_stride must be a power of two below 2**{len(widths)}, found {output_stride}")
        self.output_stride = output_stride
        self.pool: nn.Module = nn.MaxPool2d(2) if dimensions == 2 else nn.MaxPool3d(2)
        inputs = [in_channels, *widths[:-1]]
        self.down = nn.ModuleList(_convolutions(dimensions, (i, w, w)) for i, w in zip(inputs, widths, strict=True))
        pointwise: type[nn.Module] = nn.Conv2d if dimensions == 2 else nn.Conv3d
        self.join = nn.ModuleList()
        self.up = nn.ModuleList()
        for fine, coarse in zip(widths[last_level:-1], widths[last_level + 1 :], strict=True):
            if skip == "add":
                self.join.append(pointwise(coarse, fine, 1))
                self.up.append(_convolutions(dimensions, (fine, fine)))
            else:
                self.up.append(_convolutions(dimensions, (fine + coarse, fine, fine)))
        self.head = pointwise(widths[last_level], out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, *size) -> (batch, out_channels, *ceil(size / output_stride))."""
        output: Tensor = self.head(self.features(x))
        return output

    def features(self, x: Tensor) -> Tensor:
        """What the head, a 1-wide convolution, sees of (batch, in_channels, *size)."""
        size = x.shape[2:]
        multiple = 2 ** (len(self.down) - 1)
        padding = [p for n in reversed(size) for p in (0, -n % multiple)]
        if any(padding):
            x = F.pad(x, padding)
        skips: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else self.pool(x))
            skips.append(x)
        first = len(self.down) - 1 - len(self.up)
        for level in range(len(self.down) - 2, first - 1, -1):
            if self.skip == "add":
                x = skips[level] + F.interpolate(self.join[level - first](x), scale_factor=2.0, mode="nearest")
            else:
                x = torch.cat([skips[level], F.interpolate(x, scale_factor=2.0, mode="nearest")], dim=1)
            x = self.up[level - first](x)
        keep = tuple(slice(0, -(-n // self.output_stride)) for n in size)
        return x[(slice(None), slice(None), *keep)]
