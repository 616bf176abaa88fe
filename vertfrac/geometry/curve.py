"""The spine's centre line: a smooth curve in world space with a frame that does not twist.

The second axis of the frame stays in the sagittal plane (x = const) instead of following the curve's own normal
(Frenet), which turns abruptly where the curvature vanishes.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import CubicSpline, PchipInterpolator
from scipy.linalg import solveh_banded

from vertfrac.errors import GeometryError

Floats = NDArray[np.float64]


LONGEST_MM = 5000.0
"""More than any spine measures: centres that lie farther apart are not those of one."""

LEAST_DESCENT = 1e-3
"""mm in z per mm of length: a tangent never lies flat, where it would have no posterior axis to go with it."""


class Curve:
    """A curve through world points, parameterised by the length along their chain, superior end first.

    points_world : (n, 3), RAS mm, n >= 2, strictly descending in z. Between them x and y are cubic splines and z a
    monotone one (PCHIP), so that even a curve that jumps from side to side keeps descending; beyond the ends the curve
    is a straight line. Raises GeometryError otherwise.
    """

    def __init__(self, points_world: ArrayLike) -> None:
        points = np.array(points_world, dtype=np.float64)
        if points.ndim != 2 or points.shape[1] != 3 or len(points) < 2:
            raise GeometryError(f"a curve needs at least two 3D points, found an array of shape {points.shape}")
        if not np.isfinite(points).all():
            raise GeometryError("a curve needs finite points, found NaN or infinity")
        if (np.diff(points[:, 2]) >= 0).any():
            raise GeometryError("a curve needs points that descend in z (superior end first)")
        points.setflags(write=False)
        self.points_world = points
        self.lengths_mm: Floats = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])

    @cached_property
    def _spline(self) -> tuple[CubicSpline, PchipInterpolator]:
        """Of x and y, and of z."""
        x_y, z = self.points_world[:, :2], self.points_world[:, 2]
        return CubicSpline(self.lengths_mm, x_y, bc_type="natural"), PchipInterpolator(self.lengths_mm, z)

    @property
    def length_mm(self) -> float:
        """Length of the chain of points, mm."""
        return float(self.lengths_mm[-1])

    def _evaluate(self, s_mm: ArrayLike) -> tuple[Floats, Floats]:
        s = np.asarray(s_mm, dtype=np.float64)
        inside = np.clip(s, 0.0, self.length_mm)
        point, velocity = (
            np.concatenate([x_y(inside, order), z(inside, order)[..., None]], axis=-1)
            for x_y, z in [self._spline]
            for order in (0, 1)
        )
        velocity[..., 2] = np.minimum(velocity[..., 2], -LEAST_DESCENT)
        return point + velocity * (s - inside)[..., None], velocity

    def at(self, s_mm: ArrayLike) -> Floats:
        """World points at the lengths s_mm (...) from the superior end; returns (..., 3), RAS mm."""
        return self._evaluate(s_mm)[0]

    def frames(self, s_mm: ArrayLike) -> tuple[Floats, Floats, Floats, Floats]:
        """Point, unit tangent (towards inferior), posterior axis and lateral axis at the lengths s_mm.

        Each is (..., 3) in world RAS. The posterior axis is orthogonal to the tangent and lies in the sagittal plane;
        the lateral axis is tangent x posterior.
        """
        point, velocity = self._evaluate(s_mm)
        tangent = velocity / np.linalg.norm(velocity, axis=-1, keepdims=True)
        posterior = np.stack([np.zeros_like(tangent[..., 0]), tangent[..., 2], -tangent[..., 1]], axis=-1)
        posterior /= np.linalg.norm(posterior, axis=-1, keepdims=True)
        return point, tangent, posterior, np.cross(tangent, posterior)

    def evenly(self, step_mm: float = 1.0, extend_mm: float = 0.0) -> Curve:
        """The curve as points about ``step_mm`` apart, prolonged by ``extend_mm`` along the tangents at both ends."""
        total = self.length_mm + 2 * extend_mm
        count = max(2, round(total / step_mm) + 1)
        return Curve(self.at(np.linspace(-extend_mm, self.length_mm + extend_mm, count)))


def curve_through_centers(centers_world: ArrayLike, step_mm: float = 1.0) -> Curve:
    """The curve interpolated (PCHIP in z) through vertebra centres, as points ``step_mm`` apart in z.

    centers_world : (n, 3), RAS mm, any order, n >= 2, distinct in z. PCHIP is monotone and does not overshoot (our
    default where Pisov et al. 2020, section 2.1, say "smoothly interpolated").
    """
    centers = np.asarray(centers_world, dtype=np.float64)
    if centers.ndim != 2 or centers.shape[-1] != 3 or len(centers) < 2:
        raise GeometryError(f"a curve needs at least two vertebra centres, found {len(np.atleast_2d(centers))}")
    if not np.isfinite(centers).all():
        raise GeometryError("a curve needs finite vertebra centres, found NaN or infinity")
    centers = centers[np.argsort(centers[:, 2])]
    if (np.diff(centers[:, 2]) <= 1e-6).any():
        raise GeometryError("two vertebra centres lie at the same height z")
    if np.ptp(centers, axis=0).max() > LONGEST_MM:
        raise GeometryError(f"vertebra centres lie {np.ptp(centers, axis=0).max():g} mm apart, expected one spine")
    interpolate = PchipInterpolator(centers[:, 2], centers[:, :2])
    low, high = centers[0, 2], centers[-1, 2]
    z = np.linspace(high, low, max(2, round((high - low) / step_mm) + 1))
    return Curve(np.column_stack([interpolate(z), z]))


def smoothed(points_world: ArrayLike, scale_mm: float, weights: ArrayLike | None = None) -> Floats:
    """Smooth a chain of points in x and y as functions of z by penalising the third derivative (Whittaker-Henderson).

    points_world : (n, 3), RAS mm, descending in z; fewer than 5 points return as they are. scale_mm : the length below
    which wiggles are damped (the sixth root of the penalty); 0 returns the points as they are. Neither a Gaussian of
    that width nor a cubic smoothing spline keeps a bend (the latter flattens its ends); here every parabola stays.
    weights : (n,), positive. Raises GeometryError if the points do not descend.
    """
    points = np.array(points_world, dtype=np.float64)
    if scale_mm <= 0 or len(points) < 5:
        return points
    if not (np.diff(points[:, 2]) < 0).all():
        raise GeometryError("smoothing needs points that descend in z (superior end first)")
    z, n = points[:, 2] / scale_mm, len(points)
    third = np.eye(n)  # third derivatives at unit scale: row i from the points i .. i + 3
    for order in (1, 2, 3):
        third = np.diff(third, axis=0) / ((z[order:] - z[:-order]) / order)[:, None]
    spread = third / (np.ones(n) if weights is None else np.asarray(weights, dtype=np.float64))
    # Reinsch's form: the correction is solved for, so that what has no third derivative stays to rounding error.
    normal = spread @ third.T + np.eye(n - 3)
    bands = np.zeros((min(4, n - 3), n - 3))
    for k in range(len(bands)):
        bands[k, : n - 3 - k] = np.diagonal(normal, -k)
    points[:, :2] -= spread.T @ solveh_banded(bands, third @ points[:, :2], lower=True)
    return points
