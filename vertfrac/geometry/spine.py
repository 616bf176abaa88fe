"""The spine that six-keypoint annotations describe: its curve and its limits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vertfrac.geometry.curve import Curve, curve_through_centers
from vertfrac.geometry.grid import Grid
from vertfrac.geometry.keypoints import centers

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Spine:
    """A curve through the vertebra centres and the heights between which vertebrae are annotated.

    curve : reaches both limits, superior end first. lower_z, upper_z : world z of the limits, mm.
    """

    curve: Curve
    lower_z: float
    upper_z: float

    def on_grid(self, grid: Grid) -> tuple[Floats, NDArray[np.bool_]]:
        """Where the curve crosses each plane of the grid's third axis, and whether the plane is within the limits.

        Returns (n, 2), the index along the first and second axis, and (n,). Outside the limits the position is that of
        the nearest end.
        """
        index = grid.to_index(self.curve.points_world)
        if index[0, 2] > index[-1, 2]:
            index = index[::-1]
        z = self.curve.points_world[:, 2]
        ends = [np.abs(z - limit).argmin() for limit in (self.lower_z, self.upper_z)]
        low, high = sorted(grid.to_index(self.curve.points_world[ends])[:, 2])
        planes = np.arange(grid.shape[2], dtype=np.float64)
        position = np.column_stack([np.interp(planes, index[:, 2], index[:, axis]) for axis in (0, 1)])
        return position, (planes >= low) & (planes <= high)


def annotated_spine(keypoints: NDArray[np.floating]) -> Spine:
    """The spine of one expert's annotation of one scan.

    keypoints : (n, 6, 3), world RAS mm, n >= 2. The limits are the highest and the lowest keypoint; between the
    outermost centres and the limits the curve is prolonged along its end tangents. Raises GeometryError for fewer than
    two vertebrae or two at one height.
    """
    curve = curve_through_centers(centers(keypoints))
    z = np.asarray(keypoints)[..., 2]
    lower, upper = float(z.min()), float(z.max())
    reach = max(upper - curve.points_world[0, 2], curve.points_world[-1, 2] - lower, 0.0)
    return Spine(curve.evenly(1.0, extend_mm=2.0 * reach), lower, upper)
