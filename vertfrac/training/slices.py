"""Stage-2 samples: random, deformed crops of resident straightened slices with their keypoints."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vertfrac.arrays import iterate_pairs
from vertfrac.errors import CohortError
from vertfrac.models.intensity import scale_context
from vertfrac.training.context import vary_context
from vertfrac.training.sampling import normal, step_generator, uniform, vary_appearance, vary_intensity

AIR_HU = -1024


class Names(NamedTuple):
    """What naming vertebrae is learned from.

    points : (size, n, 2), where vertebrae and landmarks are, crop pixels, NaN where none is. levels : (size, n), their
    classes, -1 where unknown. rows : (size, n), their rows in the context. context : (size, channels, rows, columns).
    """

    points: Tensor
    levels: Tensor
    rows: Tensor
    context: Tensor


class Samples(NamedTuple):
    """hu : (size, rows, columns). keypoints : (size, n, 6, 2) in crop pixels, NaN where a vertebra does not exist or
    its centroid lies outside the crop. names : None where vertebrae are not named."""

    hu: Tensor
    keypoints: Tensor
    names: Names | None


class SliceBank:
    """All training slices of a fold, held on one device as one padded tensor.

    files : files of slices. cases : those to keep. named : hold what naming vertebrae is learned from too. Raises
    CohortError if no slice is left, or one lacks its context.
    """

    def __init__(self, files: Sequence[Path], cases: set[str], *, device: torch.device, named: bool = False) -> None:
        arrays, keypoints, contexts, entries = [], [], [], []
        for name, array, context, entry in iterate_pairs(files, paired=named):
            if entry["case"] in cases:
                arrays.append(torch.from_numpy(array))
                keypoints.append(torch.tensor(entry["keypoints"], dtype=torch.float32))
                if named and context is None:
                    raise CohortError(f"training slice {name}: has no context, expected one, to name vertebrae by")
                contexts.append(context)
                entries.append(entry)
        if not arrays:
            raise CohortError("no training slice: none of the fold's cases has one")
        rows, most = max(len(a) for a in arrays), max(len(k) for k in keypoints)
        self.device = device
        self.columns = arrays[0].shape[1]
        self.lengths = torch.tensor([len(a) for a in arrays], device=device)
        self.hu = torch.full((len(arrays), rows, self.columns), AIR_HU, dtype=torch.int16)
        self.keypoints = torch.full((len(arrays), most, 6, 2), torch.nan)
        for i, (image, points) in enumerate(zip(arrays, keypoints, strict=True)):
            self.hu[i, : len(image)] = image
            self.keypoints[i, : len(points)] = points
        self.hu, self.keypoints = self.hu.to(device), self.keypoints.to(device)
        self.names = _names(contexts, keypoints, entries, most, device) if named else None

    def mean_offsets(self) -> Tensor:
        """Mean position of the six keypoints about their vertebra's centroid, (6, 2), pixels."""
        return (self.keypoints - self.keypoints.mean(dim=2, keepdim=True)).nanmean(dim=(0, 1))

    def level_counts(self, classes: int) -> Tensor:
        """How many vertebrae and landmarks have each level, (classes,)."""
        assert self.names is not None
        return torch.bincount(self.names.levels[self.names.levels >= 0], minlength=classes).float()

    def batch(
        self,
        step: int,
        *,
        size: int,
        crop: tuple[int, int],
        seed: int,
        rotate_deg: float,
        scale: float,
        elastic_px: float,
        elastic_length_px: float,
        shift_px: float,
        intensity: float,
        appearance: float,
        coronal: int = 0,
    ) -> Samples:
        """The augmented samples of one step, a function of seed and step alone.

        crop : pixels (rows, columns). coronal : channels of the context that run across the body.
        """
        generator = step_generator(seed, step, self.device)
        chosen = torch.randint(len(self.hu), (size,), generator=generator, device=self.device)
        height, width = crop
        angle = uniform(generator, (size,), -1, 1) * math.radians(rotate_deg)
        zoom = 1 + uniform(generator, (size, 2), -1, 1) * scale
        cosine, sine = angle.cos(), angle.sin()
        # crop offset from its middle -> slice offset from its centre
        matrix = torch.stack([cosine, -sine, sine, cosine], dim=1).view(size, 2, 2) * zoom[:, None, :]
        room = (self.lengths[chosen] - height * zoom[:, 0]).clamp_min(20.0)
        center = torch.stack(
            [
                (self.lengths[chosen] - 1) / 2 + uniform(generator, (size,), -0.5, 0.5) * room,
                (self.columns - 1) / 2 + uniform(generator, (size,), -1, 1) * shift_px,
            ],
            dim=1,
        )
        coarse = (size, 2, math.ceil(height / elastic_length_px) + 3, math.ceil(width / elastic_length_px) + 3)
        knots = normal(generator, coarse) * elastic_px * uniform(generator, (size, 1, 1, 1), 0, 1.5)
        # (size, 2, h, w): displacement of the slice position that a crop pixel reads
        bend = _cubic(coarse[2], height, self.device) @ knots @ _cubic(coarse[3], width, self.device).T
        middle = torch.tensor([(height - 1) / 2, (width - 1) / 2], device=self.device)
        rows = torch.arange(height, device=self.device, dtype=torch.float32)
        columns = torch.arange(width, device=self.device, dtype=torch.float32)
        pixels = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1) - middle
        source = torch.einsum("bij,hwj->bhwi", matrix, pixels) + center[:, None, None] + bend.permute(0, 2, 3, 1)
        span = torch.tensor([self.hu.shape[1] - 1, self.columns - 1], device=self.device, dtype=torch.float32)
        sampling = (source / span * 2 - 1).flip(-1)  # grid_sample wants (x, y) in [-1, 1]
        images = (self.hu[chosen] - float(AIR_HU))[:, None]
        hu = F.grid_sample(images, sampling, mode="bilinear", padding_mode="zeros", align_corners=True)[:, 0] + AIR_HU

        marked = self.keypoints
        if self.names is not None:  # a landmark moves like a vertebra whose keypoints are all in one place
            marked = torch.cat([marked, self.names.points[:, marked.shape[1] :, None].expand(-1, -1, 6, -1)], dim=1)
        target = marked[chosen] - center[:, None, None]
        inverse = torch.linalg.inv(matrix)
        points = _straightened(target, inverse, middle, bend)
        centroid = points.mean(dim=2, keepdim=True)
        limit = torch.tensor([height - 1, width - 1], device=self.device)
        visible = ((centroid >= 0) & (centroid <= limit)).all(dim=-1, keepdim=True)
        points = torch.where(visible, points, torch.nan)
        hu = vary_intensity(vary_appearance(hu, generator, appearance), generator, intensity)
        names = None
        if self.names is not None:
            centroid = points.mean(dim=2)
            levels, rows, views = self.names.levels[chosen], self.names.rows[chosen], self.names.context[chosen]
            shown = torch.where(torch.isfinite(centroid).all(dim=-1), rows, torch.nan)
            context = vary_context(scale_context(views), generator, shown, coronal=coronal, intensity=intensity)
            names = Names(centroid, levels, rows, context)
        return Samples(hu, points[:, : self.keypoints.shape[1]], names)


def _names(
    contexts: Sequence[Any],
    keypoints: Sequence[Tensor],
    entries: Sequence[dict[str, Any]],
    most: int,
    device: torch.device,
) -> Names:
    """All that is known of levels, padded: vertebrae in the order of their keypoints, landmarks behind ``most``."""
    rows = max(views.shape[1] for views in contexts)
    more = max(len(entry["landmarks"]) for entry in entries)
    shape = (len(contexts), most + more)
    points, levels = torch.full((*shape, 2), torch.nan), torch.full(shape, -1)
    places = torch.full(shape, torch.nan)
    stacked = torch.zeros((len(contexts), contexts[0].shape[0], rows, contexts[0].shape[2]), dtype=torch.uint8)
    for i, (views, vertebrae, entry) in enumerate(zip(contexts, keypoints, entries, strict=True)):
        stacked[i, :, : views.shape[1]] = torch.from_numpy(views)
        count, landmarks = len(vertebrae), torch.tensor(entry["landmarks"], dtype=torch.float32).reshape(-1, 2)
        where = [*range(count), *range(most, most + len(landmarks))]
        points[i, where] = torch.cat([vertebrae.mean(dim=1), landmarks])
        levels[i, where] = torch.tensor(entry["levels"])
        places[i, where] = torch.tensor(entry["context_rows"], dtype=torch.float32)
    return Names(points.to(device), levels.to(device), places.to(device), stacked.to(device))


def _cubic(coarse: int, fine: int, device: torch.device) -> Tensor:
    """Matrix (fine, coarse) of cubic interpolation between knots, the ends upon each other; along one axis."""
    knots = torch.eye(coarse, device=device)[:, None, None]
    curves = F.interpolate(knots, size=(1, fine), mode="bicubic", align_corners=True)
    return curves[:, 0, 0].T


def _straightened(target: Tensor, inverse: Tensor, middle: Tensor, bend: Tensor) -> Tensor:
    """Where crop pixels are that read given places of a slice: inverse @ (target - bend(points)) + middle = points.

    target : (b, n, k, 2), (row, column) about the crop's centre in the slice, NaN where there is none. inverse :
    (b, 2, 2). middle : (2,), of the crop. bend : (b, 2, h, w). Returns (b, n, k, 2), crop pixels. The displacement
    depends on where the point ends up: a fixed-point iteration.
    """
    half = (torch.tensor(bend.shape[2:], device=bend.device) - 1) / 2  # grid_sample wants (x, y) in [-1, 1]
    wanted = target.flatten(1, 2).transpose(1, 2).nan_to_num(0.0)  # (b, 2, n * k)
    normalised = (inverse / half[:, None]).flip(1)
    shift = (middle / half - 1).flip(0)[:, None]
    moved = torch.zeros_like(wanted)
    for _ in range(20):
        at = torch.baddbmm(shift, normalised, wanted - moved).transpose(1, 2)[:, None]
        moved = F.grid_sample(bend, at, mode="bilinear", padding_mode="border", align_corners=True)[:, :, 0]
    points = (inverse @ (wanted - moved)).transpose(1, 2).reshape(target.shape) + middle
    return torch.where(target.isfinite(), points, torch.nan)
