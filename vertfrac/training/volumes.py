"""Stage-1 samples: random crops of resident volumes with the annotated curve in their voxels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from vertfrac import tables
from vertfrac.arrays import iterate_arrays
from vertfrac.errors import CohortError
from vertfrac.geometry.grid import Grid
from vertfrac.geometry.spine import annotated_spine
from vertfrac.models.localizer import edge_slices, with_edges
from vertfrac.training.sampling import step_generator, uniform, vary_appearance, vary_intensity

AIR_HU = -1024.0


@dataclass(frozen=True)
class Volume:
    """One scan in memory: HU (z, y, x) int16; per expert the curve's (y, x) index per slice, (e, z, 2), and the limits,
    (e, z)."""

    hu: Tensor
    positions: Tensor
    inside: Tensor


class VolumeBank:
    """All training volumes of a fold, held on one device.

    files : files of volumes. annotations : table ANNOTATIONS. cases : those to keep. edge_mm : air added above and
    below each volume. Raises CohortError if none is left.
    """

    def __init__(
        self,
        files: Sequence[Path],
        annotations: pd.DataFrame,
        cases: set[str],
        *,
        device: torch.device,
        edge_mm: float = 0.0,
    ) -> None:
        self.device = device
        self.volumes: list[Volume] = []
        spacing: list[np.ndarray] = []
        marks = {case: rows for case, rows in annotations.groupby("case") if case in cases}
        for case, array, entry in iterate_arrays(files):
            if case not in marks:
                continue
            z, y, x = array.shape
            grid = Grid((x, y, z), np.asarray(entry["affine"]))
            spines = [annotated_spine(tables.keypoints_of(rows)) for _, rows in marks[case].groupby("expert")]
            positions, inside = zip(*(spine.on_grid(grid) for spine in spines), strict=True)
            edge = edge_slices(edge_mm, grid)
            self.volumes.append(
                Volume(
                    torch.from_numpy(with_edges(array, edge)).to(device),
                    torch.from_numpy(np.pad(np.stack(positions)[..., ::-1], ((0, 0), (edge, edge), (0, 0)), "edge")).to(
                        device, torch.float32
                    ),
                    torch.from_numpy(np.pad(np.stack(inside), ((0, 0), (edge, edge)))).to(device, torch.float32),
                )
            )
            spacing.append(grid.spacing_mm)
        if not self.volumes:
            raise CohortError("no training volume: none of the fold's cases has one")
        self.spacing_zyx = spacing[0][::-1].copy()

    def batch(
        self,
        step: int,
        *,
        size: int,
        crop: tuple[int, int, int] | None,
        seed: int,
        rotate_deg: float,
        tilt: float,
        scale: float,
        flip: bool,
        intensity: float,
        appearance: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The augmented samples of one step, a function of seed and step alone.

        crop : voxels (z, y, x); None takes whole volumes, in air up to the largest of the step. Returns HU
        (size, *crop), positions (size, z, 2) as (y, x) in crop voxels, and inside (size, z). The augmentation maps
        axial slices to axial slices, so that the curve stays one point per slice.
        """
        generator = step_generator(seed, step, self.device)
        draw = uniform(generator, (size, 16), 0.0, 1.0).cpu().double().numpy()
        chosen = [self.volumes[int(u[0] * len(self.volumes))] for u in draw]
        jitter = 1.0 if crop is not None else 0.0
        crop = crop or tuple(np.max([volume.hu.shape for volume in chosen], axis=0).tolist())
        samples = [
            self._sample(volume, u, crop, rotate_deg, tilt, scale, flip, jitter)
            for volume, u in zip(chosen, draw, strict=True)
        ]
        hu, positions, inside = (torch.stack(parts) for parts in zip(*samples, strict=True))
        hu = vary_appearance(hu, generator, appearance)
        return vary_intensity(hu, generator, intensity), positions, inside

    def _sample(
        self,
        volume: Volume,
        u: np.ndarray,
        crop: tuple[int, int, int],
        rotate_deg: float,
        tilt: float,
        scale: float,
        flip: bool,
        jitter: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        expert = int(u[1] * len(volume.positions))
        size = np.array(volume.hu.shape)
        signed = 2 * u - 1
        angle = math.radians(rotate_deg) * signed[2]
        zoom = 1 + scale * signed[3]  # source voxels per crop voxel
        zoom_z = zoom * (1 + 0.3 * scale * signed[4])
        mirror = -1.0 if flip and u[5] < 0.5 else 1.0
        sy, sx = self.spacing_zyx[1], self.spacing_zyx[2]
        # crop (y, x) -> source (y, x): rotation in mm, so that anisotropic pixels keep angles
        matrix = zoom * np.array(
            [
                [math.cos(angle), -math.sin(angle) * sx / sy * mirror],
                [math.sin(angle) * sy / sx, math.cos(angle) * mirror],
            ]
        )
        shear = tilt * np.array([signed[6] / sy, signed[7] / sx]) * self.spacing_zyx[0]
        room = np.maximum(size - np.array(crop) * np.array([zoom_z, zoom, zoom]), 0)
        center = (size - 1) / 2 + jitter * np.array(
            [signed[8] * (room[0] / 2 + 2), signed[9] * room[1] / 2, signed[10] * room[2] / 2]
        )
        middle = (np.array(crop) - 1) / 2

        half = np.maximum(size - 1, 1) / 2
        linear = np.zeros((3, 3))  # crop (z, y, x) offsets from the middle -> source offsets from the centre
        linear[0, 0] = zoom_z
        linear[1:, 1:] = matrix
        linear[1:, 0] = shear
        # grid_sample wants (x, y, z) in [-1, 1]: a sum of three terms, one along each axis of the crop
        steps = torch.from_numpy((linear / half[:, None])[::-1].copy()).to(self.device, torch.float32)
        origin = torch.from_numpy(((center - (size - 1) / 2) / half)[::-1].copy()).to(self.device, torch.float32)
        along_z, along_y, along_x = (
            (torch.arange(n, device=self.device) - (n - 1) / 2)[:, None] * steps[:, axis] for axis, n in enumerate(crop)
        )
        grid = ((along_z + origin)[:, None, None] + along_y[:, None] + along_x)[None]
        source = (volume.hu - AIR_HU)[None, None]  # int16 - float: float32
        hu = F.grid_sample(source, grid, mode="bilinear", padding_mode="zeros", align_corners=True)[0, 0] + AIR_HU

        offset = torch.arange(crop[0], device=self.device, dtype=torch.float32) - float(middle[0])
        z = offset * float(zoom_z) + float(center[0])
        valid = ((z >= 0) & (z <= float(size[0] - 1))).float()
        low = z.clamp(0, float(size[0] - 1)).floor().long()
        high = (low + 1).clamp(max=int(size[0] - 1))
        weight = (z - low).clamp(0, 1)[:, None]
        track = volume.positions[expert]
        yx = track[low] * (1 - weight) + track[high] * weight
        moved = yx - torch.tensor(center[1:], device=self.device, dtype=torch.float32)
        moved = moved - offset[:, None] * torch.tensor(shear, device=self.device, dtype=torch.float32)
        inverse = torch.from_numpy(np.linalg.inv(matrix)).to(self.device, torch.float32)
        positions = moved @ inverse.T + torch.tensor(middle[1:], device=self.device, dtype=torch.float32)
        inside = volume.inside[expert][torch.where(weight[:, 0] < 0.5, low, high)] * valid
        return hu, positions, inside
