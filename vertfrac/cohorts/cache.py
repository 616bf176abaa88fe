"""What training reads instead of scans: resampled volumes and straightened slices, cached as arrays.

A file of volumes holds per case an int16 array (z, y, x) of HU, z growing towards superior, and the affine of its grid
in (x, y, z) index order. A file of slices holds int16 arrays (row, column) of HU.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from vertfrac import tables
from vertfrac.arrays import write_arrays
from vertfrac.cohorts.ingest import usable_cases
from vertfrac.geometry.curve import Curve
from vertfrac.geometry.grid import Grid
from vertfrac.geometry.resample import resample
from vertfrac.geometry.spine import annotated_spine
from vertfrac.geometry.straighten import StraightSlice, sample
from vertfrac.imaging import Image, read_image

AIR_HU = -1024.0
HU_RANGE = (-1024.0, 3071.0)


def cached_volume(image: Image, spacing_mm: tuple[float, float, float]) -> tuple[NDArray[np.int16], Grid]:
    """An image resampled for stage 1: HU as (z, y, x), and its grid in (x, y, z) index order."""
    low, high = HU_RANGE
    volume, grid = resample(image.hu, image.grid, spacing_mm, low=low, high=high)
    return np.ascontiguousarray(volume.transpose(2, 1, 0)), grid


def straight_image(image: Image, geometry: StraightSlice) -> NDArray[np.int16]:
    """The straightened slice of an image: HU as (row, column), air outside the scan."""
    values = sample(image.hu, image.grid, geometry.pixels_world(), outside=AIR_HU)
    return np.rint(np.clip(values, *HU_RANGE)).astype(np.int16)


def cache_volumes(cases: Path, out: Path, *, spacing_mm: tuple[float, float, float]) -> int:
    """Resample every usable case of a table of cases into one file of volumes; returns their number."""
    arrays, entries = {}, {}
    for case, path in usable_cases(cases):
        volume, grid = cached_volume(read_image(path), spacing_mm)
        arrays[case] = volume
        entries[case] = {"affine": grid.world_from_index.tolist()}
    write_arrays(out, arrays, {"kind": "volumes", "spacing_mm": list(spacing_mm), "cases": entries})
    return len(arrays)


def cache_slices(
    cases: Path,
    annotations: Path,
    out: Path,
    *,
    spacing_mm: float,
    width_mm: float,
    extend_mm: float,
    variants: int,
    jitter_mm: float,
    jitter_length_mm: float,
    seed: int,
) -> int:
    """Cut the training slices of every usable case along its annotated curve; returns their number.

    Each expert's annotation gives ``variants`` slices, the first along the curve itself, the others along smoothly
    jittered ones, as a predicted curve would be. The keypoints come along in slice pixels (row, column).
    """
    marks = tables.read_table(annotations, tables.ANNOTATIONS)
    arrays: dict[str, NDArray[np.int16]] = {}
    entries: dict[str, Any] = {}
    for case, path in usable_cases(cases):
        image = read_image(path)
        for expert, rows in marks[marks["case"] == case].groupby("expert"):
            keypoints = tables.keypoints_of(rows)
            curve = annotated_spine(keypoints).curve
            rng = np.random.default_rng([seed, *case.encode(), *str(expert).encode()])
            for variant in range(variants):
                cut = curve if variant == 0 else jittered(curve, rng, jitter_mm, jitter_length_mm)
                geometry = StraightSlice.along(cut, width_mm=width_mm, spacing_mm=spacing_mm, extend_mm=extend_mm)
                name = f"{case}/{expert}/{variant}"
                arrays[name] = straight_image(image, geometry)
                entries[name] = {
                    "case": case,
                    "keypoints": np.round(geometry.to_slice(keypoints)[..., :2], 4).tolist(),
                }
    write_arrays(out, arrays, {"kind": "slices", "spacing_mm": spacing_mm, "cases": entries})
    return len(arrays)


def jittered(curve: Curve, rng: np.random.Generator, jitter_mm: float, length_mm: float) -> Curve:
    """The curve shifted in x and y by smooth noise of the given standard deviation and correlation length, mm."""
    points = curve.evenly(1.0).points_world.copy()
    noise = gaussian_filter1d(rng.standard_normal((len(points), 2)), length_mm / 2, axis=0, mode="reflect")
    gain = np.sqrt(np.sqrt(np.pi) * length_mm)  # the filter's loss of standard deviation, undone
    points[:, :2] += noise * gain * jitter_mm
    return Curve(points)
