"""Stage 1 at work: a resampled volume in, the spine's curve out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

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
    weights: Literal["equal", "precision"],
    device: torch.device,
) -> SpineCurve:
    """Predict the curve of the spine between its limits, averaged over the networks.

    volume : (z, y, x) HU, on ``grid`` in (x, y, z) index order. Slices whose probability exceeds ``limit_probability``
    hold spine; their hull is kept (Zakharov et al. 2022, section 3.2). Networks without limits keep every slice.
    edge_mm of air are added above and below the scan for the network alone. weights : "precision" lets a slice's maps
    count by how narrow they are, when networks are averaged and when the curve is smoothed; "equal" does not. Raises
    NoSpineError if fewer than two slices are kept.
    """
    edge = edge_slices(edge_mm, grid)
    predictions = _predict(networks, with_edges(volume, edge), scaling, window_hu, flip, device)
    positions, variances, probability = (values[:, edge : edge + len(volume)] for values in predictions)
    trust = 1 / (1 + variances.sum(axis=2)) if weights == "precision" else np.ones(variances.shape[:2])
    positions = (trust[..., None] * positions).sum(axis=0) / trust.sum(axis=0)[:, None]
    trust, probability = trust.mean(axis=0), probability.mean(axis=0)
    keep = np.flatnonzero(probability > limit_probability)
    if len(keep) == 0 or keep[-1] - keep[0] < 1:
        raise NoSpineError(
            f"no spine found (largest slice probability {probability.max():.2f}, "
            f"expected more than {limit_probability})"
        )
    first, last = int(keep[0]), int(keep[-1])
    planes = np.arange(first, last + 1)
    index = np.column_stack([positions[planes, 1], positions[planes, 0], planes])[::-1]
    # along the scan's own axes, so that a scan whose planes are tilted in the room gives the same curve, tilted
    points = grid.to_world(smoothed(index * grid.spacing_mm, smooth_mm, trust[planes][::-1]) / grid.spacing_mm)
    points = points[np.argsort(-points[:, 2], kind="stable")]
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
) -> tuple[Floats, Floats, Floats]:
    """What the networks, with flip also on the mirrored volume, say of every slice, p predictions in all.

    Returns positions (p, z, 2) as (y, x) index, the variances of their maps (p, z, 2) in voxels squared, and the
    probability of spine (p, z), 1 for a network without limits.
    """
    hu = torch.from_numpy(volume).to(device)[None]
    images = scale_intensity(hu, scaling=scaling, window_hu=window_hu)[:, None]
    if flip:  # in one batch, for which torch takes the fast convolutions of oneDNN at every level
        images = torch.cat([images, images.flip(-1)])
    images = images.contiguous(memory_format=torch.channels_last_3d)
    parts: list[tuple[Floats, Floats, Floats]] = []
    with torch.inference_mode():
        for network in networks:
            output = network(images)
            yx, variance = (part.double().cpu().numpy() for part in (output.positions, output.variance))
            yx[1:, :, 1] = volume.shape[2] - 1 - yx[1:, :, 1]
            limits = output.limits
            inside = np.ones(yx.shape[:2]) if limits is None else limits.sigmoid().double().cpu().numpy()
            parts.append((yx, variance, inside))
    positions, variances, probability = (np.concatenate(values) for values in zip(*parts, strict=True))
    return positions, variances, probability
