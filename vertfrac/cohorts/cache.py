"""What training reads instead of scans: resampled volumes and straightened slices, cached as arrays.

A file of volumes holds per case an int16 array (z, y, x) of HU, z growing towards superior, and the affine of its grid
in (x, y, z) index order. A file of slices holds int16 arrays (row, column) of HU and, where vertebrae are to be named,
beside each the views of its context.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from vertfrac import tables
from vertfrac.arrays import beside, write_arrays
from vertfrac.cohorts.ingest import usable_cases
from vertfrac.cohorts.levels import NAMED
from vertfrac.geometry.context import Context, context_along
from vertfrac.geometry.curve import Curve
from vertfrac.geometry.grid import Grid
from vertfrac.geometry.keypoints import centers
from vertfrac.geometry.resample import resample
from vertfrac.geometry.spine import annotated_spine
from vertfrac.geometry.straighten import StraightSlice, sample
from vertfrac.imaging import Image, read_image

AIR_HU = -1024.0
HU_RANGE = (-1024.0, 3071.0)
LANDMARK_MM = 10.0
"""A landmark farther than this from the plane of a slice is not seen on it."""


def cached_volume(image: Image, spacing_mm: tuple[float, float, float]) -> tuple[NDArray[np.int16], Grid]:
    """An image resampled for stage 1: HU as (z, y, x), and its grid in (x, y, z) index order."""
    low, high = HU_RANGE
    volume, grid = resample(image.hu, image.grid, spacing_mm, low=low, high=high)
    return np.ascontiguousarray(volume.transpose(2, 1, 0)), grid


def straight_image(image: Image, geometry: StraightSlice) -> NDArray[np.int16]:
    """The straightened slice of an image: HU as (row, column), air outside the scan."""
    values = sample(image.hu, image.grid, geometry.pixels_world(), outside=AIR_HU, limits=HU_RANGE)
    return np.rint(values).astype(np.int16)


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
    landmarks: Path | None = None,
) -> int:
    """Cut the training slices of every usable case along its annotated curve; returns their number.

    Each expert's annotation gives ``variants`` slices, the first along the curve itself, the others along smoothly
    jittered ones, as a predicted curve would be. The keypoints come along in slice pixels (row, column).
    landmarks : table LANDMARKS; with it, what naming vertebrae is learned from comes along too.
    """
    marks = tables.read_table(annotations, tables.ANNOTATIONS)
    arrays: dict[str, NDArray[Any]] = {}
    entries: dict[str, Any] = {}
    places = None if landmarks is None else _nameable(landmarks)
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
                if places is not None:
                    context = context_along(image.hu, image.grid, cut)
                    arrays[beside(name)] = context.views
                    entries[name] |= _names(rows, places[places["case"] == case], geometry, context)
    write_arrays(out, arrays, {"kind": "slices", "spacing_mm": spacing_mm, "cases": entries})
    return len(entries)


def _nameable(landmarks: Path) -> pd.DataFrame:
    """The landmarks whose level a vertebra may be named."""
    table = tables.read_table(landmarks, tables.LANDMARKS)
    return table[table["level"].isin(NAMED)]


def _names(
    rows: pd.DataFrame, landmarks: pd.DataFrame, geometry: StraightSlice, context: Context
) -> dict[str, list[Any]]:
    """What is learned of levels: of the annotated vertebrae, then of the landmarks near the slice.

    Levels are places in ``NAMED``, -1 where none is known; landmarks are slice pixels (row, column).
    """
    places = geometry.to_slice(landmarks[["x", "y", "z"]].to_numpy(dtype=np.float64))
    near = np.abs(places[:, 2]) < LANDMARK_MM
    found = np.concatenate([geometry.to_slice(centers(tables.keypoints_of(rows)))[:, :2], places[near, :2]])
    levels = [*rows["level"].fillna(""), *landmarks["level"][near]]
    return {
        "landmarks": np.round(places[near, :2], 4).tolist(),
        "levels": [NAMED.index(level) if level in NAMED else -1 for level in levels],
        "context_rows": np.round(context.rows_at(geometry.start_mm + found[:, 0] * geometry.spacing_mm), 4).tolist(),
    }


def jittered(curve: Curve, rng: np.random.Generator, jitter_mm: float, length_mm: float) -> Curve:
    """The curve shifted in x and y by smooth noise of the given standard deviation and correlation length, mm."""
    points = curve.evenly(1.0).points_world.copy()
    noise = gaussian_filter1d(rng.standard_normal((len(points), 2)), length_mm / 2, axis=0, mode="reflect")
    gain = np.sqrt(np.sqrt(np.pi) * length_mm)  # the filter's loss of standard deviation, undone
    points[:, :2] += noise * gain * jitter_mm
    return Curve(points)
