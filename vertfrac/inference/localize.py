"""Stage 1 at work: a resampled volume in, the spine's curve out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from vertfrac.errors import NoSpineError
from vertfrac.geometry.curve import Curve, smoothed
from vertfrac.geometry.grid import Grid
from vertfrac.models.intensity import Scaling, scale_intensity
from vertfrac.models.localizer import Localizer, edge_slices, with_edges

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SpineCurve:
    """A predicted curve, its points about 1 mm apart, and the probability (n,) of spine in the axial plane of each."""

    curve: Curve
    probability: Floats


def localize(
    networks: Sequence[Localizer],
    volume: NDArray[np.int16],
    grid: Grid,
    *,
    edge_mm: float,
    scaling: Scaling,
    window_hu: tuple[float, float],
    limit_probability: float,
    smooth_mm: float,
    extend_mm: float,
    flip: bool,
    device: torch.device,
) -> SpineCurve:
    """Predict the curve of the spine between its limits, averaged over the networks.

    volume : (z, y, x) HU, on ``grid`` in (x, y, z) index order. Slices whose probability exceeds ``limit_probability``
    hold spine; their hull is kept (Zakharov et al. 2022, section 3.2). Networks without limits keep every slice.
    edge_mm of air are added above and below the scan for the network alone. Raises NoSpineError if fewer than two
    slices are kept.
    """
    edge = edge_slices(edge_mm, grid)
    positions, probability = _predict(networks, with_edges(volume, edge), scaling, window_hu, flip, device)
    positions, probability = positions[edge : edge + len(volume)], probability[edge : edge + len(volume)]
    keep = np.flatnonzero(probability > limit_probability)
    if len(keep) == 0 or keep[-1] - keep[0] < 1:
        raise NoSpineError(
            f"no spine found (largest slice probability {probability.max():.2f}, "
            f"expected more than {limit_probability})"
        )
    first, last = int(keep[0]), int(keep[-1])
    planes = np.arange(first, last + 1)
    index = np.column_stack([positions[planes, 1], positions[planes, 0], planes])
    points = grid.to_world(index)
    order = np.argsort(-points[:, 2], kind="stable")
    points = smoothed(points[order], smooth_mm)
    reach = 0.5 * float(grid.spacing_mm[2])  # the outermost slices' own half thickness
    curve = Curve(points).evenly(1.0, extend_mm=reach + extend_mm)
    at = grid.to_index(curve.points_world)[:, 2]
    return SpineCurve(curve, np.interp(at, np.arange(len(probability)), probability))


def _predict(
    networks: Sequence[Localizer],
    volume: NDArray[np.int16],
    scaling: Scaling,
    window_hu: tuple[float, float],
    flip: bool,
    device: torch.device,
) -> tuple[Floats, Floats]:
    """Mean (y, x) index (z, 2) and mean probability (z,) over the networks and, with flip, the mirrored volume."""
    hu = torch.from_numpy(volume).to(device)[None]
    images = scale_intensity(hu, scaling=scaling, window_hu=window_hu)[:, None]
    images = images.contiguous(memory_format=torch.channels_last_3d)
    positions, probabilities = [], []
    with torch.inference_mode():
        for network in networks:
            for mirrored in (False, True) if flip else (False,):
                output = network(images.flip(-1) if mirrored else images)
                yx = output.positions[0].double().cpu().numpy()
                if mirrored:
                    yx[:, 1] = volume.shape[2] - 1 - yx[:, 1]
                positions.append(yx)
                if output.limits is not None:
                    probabilities.append(output.limits[0].sigmoid().double().cpu().numpy())
    probability = np.mean(probabilities, axis=0) if probabilities else np.ones(len(volume))
    return np.mean(positions, axis=0), probability
