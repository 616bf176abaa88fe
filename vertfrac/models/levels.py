"""Which vertebra is it: evidence for every level, from the detector's own features and from the context of the spine.

Not in Pisov et al. 2020 or Zakharov et al. 2022, whose networks name no vertebra; Zakharov et al. show levels that
come from elsewhere.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIDE = 2
"""Rows of the context per row of what the head sees of it."""
_DILATIONS = (1, 2, 4, 8, 16)


class LevelHead(nn.Module):
    """Logits of all levels for vertebrae of which the cell and the row of the context are known.

    features : channels of the detector's features. coronal, sagittal : channels of the two views of the context, whose
    columns mean different things. columns : of both. classes : levels.
    """

    def __init__(self, *, features: int, coronal: int, sagittal: int, columns: int, classes: int) -> None:
        super().__init__()
        self.coronal = coronal
        self.classes = classes
        width = 64
        self.at_cell = nn.Sequential(nn.Linear(features, width), nn.ReLU(inplace=True), nn.Linear(width, classes))
        self.views = nn.ModuleList(_view(channels) for channels in (coronal, sagittal))
        self.join = nn.Conv1d(2 * 32 * (columns // 8), width, 1)
        self.along = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation, bias=False),
                nn.BatchNorm1d(width),
                nn.ReLU(inplace=True),
            )
            for dilation in _DILATIONS
        )
        self.out = nn.Conv1d(width, classes, 1)
        self.register_buffer("seen", torch.zeros(classes))

    def learn_shares(self, counts: Tensor) -> None:
        """Take over how often each level occurs in the training cases, (classes,); all 0: no level is known."""
        self.get_buffer("seen").copy_(counts)

    @property
    def trained(self) -> bool:
        """Whether the training cases had any level."""
        return bool(self.get_buffer("seen").sum() > 0)

    def rows(self, context: Tensor) -> Tensor:
        """What the context says of each of its rows.

        context : (batch, coronal + sagittal, rows, columns), scaled to [-1, 1]. Returns logits
        (batch, classes, ceil(rows / STRIDE)).
        """
        context = F.pad(context, (0, 0, 0, -context.shape[2] % STRIDE), value=-1.0)
        parts = (context[:, : self.coronal], context[:, self.coronal :])
        seen = [view(part).permute(0, 1, 3, 2).flatten(1, 2) for view, part in zip(self.views, parts, strict=True)]
        x = self.join(torch.cat(seen, dim=1))
        for block in self.along:
            x = x + block(x)
        logits: Tensor = self.out(x)
        return logits.float()

    def forward(self, cells: Tensor, rows: Tensor, sample: Tensor, place: Tensor) -> Tensor:
        """Logits (n, classes) of n vertebrae.

        cells : (n, features), the detector's features where they are. rows : what ``rows`` returns. sample : (n,), the
        image each is in. place : (n,), its row in the context, not rounded.
        """
        fine = ((place - (STRIDE - 1) / 2) / STRIDE).clamp(0, rows.shape[2] - 1)
        low = fine.floor().long().clamp_max(max(0, rows.shape[2] - 2))
        high = (low + 1).clamp_max(rows.shape[2] - 1)
        share = (fine - low)[:, None]
        around = rows[sample, :, low] * (1 - share) + rows[sample, :, high] * share
        logits: Tensor = self.at_cell(cells).float() + around
        return logits

    def evidence(self, logits: Tensor) -> Tensor:
        """Log-likelihoods of the levels up to a constant, (n, classes): the posterior over the shares in training.

        The shares are drawn halfway to equal ones: a level that training hardly had is not to win by that alone.
        """
        counts = self.get_buffer("seen")
        shares = 0.5 * counts / counts.sum().clamp_min(1.0) + 0.5 / self.classes
        return logits.log_softmax(dim=-1) - shares.log()


def _view(channels: int) -> nn.Sequential:
    """(batch, channels, rows, columns) -> (batch, 32, rows / STRIDE, columns / 8)."""
    layers: list[nn.Module] = []
    for before, after, pool in ((channels, 16, (STRIDE, 2)), (16, 24, (1, 2)), (24, 32, (1, 2)), (32, 32, None)):
        layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
        if pool is not None:
            layers.append(nn.MaxPool2d(pool))
    return nn.Sequential(*layers)


def level_loss(logits: Tensor, levels: Tensor) -> Tensor:
    """Mean cross-entropy of (n, classes) logits; levels : (n,) classes. 0 where there is none."""
    if not len(levels):
        return logits.sum() * 0
    return F.cross_entropy(logits, levels)
