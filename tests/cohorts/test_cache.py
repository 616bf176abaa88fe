"""Laws of the caches: values stay where they are in the world, keypoints land on their pixels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from vertfrac import tables
from vertfrac.arrays import iterate_arrays, iterate_pairs, read_description
from vertfrac.cohorts.cache import AIR_HU, cache_slices, cache_volumes, cached_volume, jittered
from vertfrac.cohorts.levels import NAMED
from vertfrac.geometry.context import STEP_MM
from vertfrac.geometry.curve import Curve
from vertfrac.geometry.grid import Grid
from vertfrac.geometry.keypoints import heights
from vertfrac.imaging import read_image

Floats = NDArray[np.float64]
OPTIONS: dict[str, Any] = {
    "spacing_mm": 1.0, "width_mm": 60.0, "extend_mm": 8.0, "variants": 3, "jitter_mm": 2.0, "jitter_length_mm": 36.0,
    "seed": 1,
}  # fmt: skip


def _ramp(x: Floats, y: Floats, z: Floats) -> Floats:
    return 5 * y - 4 * z


@pytest.fixture
def cohort(
    tmp_path: Path,
    spine_keypoints: Callable[..., Floats],
    annotations_of: Callable[..., pd.DataFrame],
    write_scan: Callable[..., Path],
) -> Path:
    """Two cases on anisotropic grids whose HU is a ramp along y and z, the first with two experts; one unusable."""
    rows, marks = [], []
    for n, case in enumerate(("a", "b")):
        write_scan(tmp_path / f"{case}.nii", _ramp, shape=(54, 50, 54), spacing=(1.5, 2.0, 3.0), origin=(n, -n, 0.0))
        rows.append({"case": case, "image": f"{case}.nii", "status": "ok"})
        marks.append(annotations_of(spine_keypoints(5, bend_mm=6.0, heights=[17, 18, 20]), case=case))
    marks.append(annotations_of(spine_keypoints(4), case="a", expert="second"))
    rows.append({"case": "failed", "image": "", "status": "failed"})
    tables.write_table(tmp_path / "cases.parquet", tables.CASES, rows)
    tables.write_table(tmp_path / "annotations.parquet", tables.ANNOTATIONS, pd.concat(marks))
    return tmp_path


def _slices(cohort: Path, **changes: Any) -> Path:
    out = cohort / "slices.safetensors"
    cache_slices(cohort / "cases.parquet", cohort / "annotations.parquet", out, **{**OPTIONS, **changes})
    return out


def _world(cohort: Path, name: str) -> Floats:
    marks = tables.read_table(cohort / "annotations.parquet", tables.ANNOTATIONS)
    case, expert, _ = name.split("/")
    return tables.keypoints_of(marks[(marks["case"] == case) & (marks["expert"] == expert)])


@pytest.mark.parametrize("spacing_mm", [1.0, 0.7])
def test_keypoints_lie_on_the_pixels_that_show_them(cohort: Path, spacing_mm: float) -> None:
    for name, array, entry in iterate_arrays([_slices(cohort, spacing_mm=spacing_mm)]):
        points = np.array(entry["keypoints"])
        found = map_coordinates(array.astype(float), points.reshape(-1, 2).T, order=1).reshape(points.shape[:-1])
        expected = _ramp(*np.moveaxis(_world(cohort, name), -1, 0))
        steepest = np.hypot(5, 4)
        # exact on the annotated curve; a jittered curve passes keypoints at some lateral distance
        assert np.abs(found - expected).max() < steepest * (0.2 if name.endswith("/0") else 1.0)


def test_distances_between_keypoints_survive_straightening_near_the_curve(cohort: Path) -> None:
    for name, _, entry in iterate_arrays([_slices(cohort, spacing_mm=0.5)]):
        if name.endswith("/0"):
            found = heights(np.array(entry["keypoints"])) * 0.5
            assert np.abs(found[:, 1] - heights(_world(cohort, name))[:, 1]).max() < 0.1


def test_each_expert_has_as_many_slices_as_variants(cohort: Path) -> None:
    names = [name for name, _, _ in iterate_arrays([_slices(cohort)])]
    assert sorted(names) == sorted(f"{who}/{v}" for who in ("a/a", "a/second", "b/a") for v in range(3))


def test_every_slice_is_as_wide_as_asked(cohort: Path) -> None:
    widths = {array.shape[1] for _, array, _ in iterate_arrays([_slices(cohort, spacing_mm=0.5)])}
    assert widths == {120}


def test_slices_depend_on_the_seed_but_for_the_first_variant(cohort: Path) -> None:
    one = {name: array for name, array, _ in iterate_arrays([_slices(cohort)])}
    two = {name: array for name, array, _ in iterate_arrays([_slices(cohort, seed=2)])}
    same = {name for name in one if one[name].shape == two[name].shape and np.array_equal(one[name], two[name])}
    assert same == {name for name in one if name.endswith("/0")}


def test_the_same_seed_gives_the_same_file(cohort: Path) -> None:
    assert _slices(cohort).read_bytes() == _slices(cohort).read_bytes()


def test_jitter_has_the_asked_deviation_and_leaves_the_heights() -> None:
    z = np.arange(400.0, 0.0, -1.0)
    curve = Curve(np.column_stack([np.zeros_like(z), np.zeros_like(z), z]))
    rng = np.random.default_rng(0)
    shifts = np.stack([jittered(curve, rng, 2.5, 36.0).points_world for _ in range(200)])
    assert shifts[..., :2].std() == pytest.approx(2.5, rel=0.1)
    assert np.allclose(shifts[..., 2], curve.points_world[:, 2])


def test_no_jitter_is_the_curve_itself() -> None:
    z = np.arange(100.0, 0.0, -1.0)
    curve = Curve(np.column_stack([np.sin(z / 20), np.cos(z / 20), z]))
    same = jittered(curve, np.random.default_rng(0), 0.0, 36.0).points_world
    assert np.allclose(same, curve.evenly(1.0).points_world)


def test_volumes_hold_every_usable_case_with_its_grid(cohort: Path) -> None:
    out = cohort / "volumes.safetensors"
    assert cache_volumes(cohort / "cases.parquet", out, spacing_mm=(4.0, 4.0, 6.0)) == 2
    for _, array, entry in iterate_arrays([out]):
        z, y, x = array.shape
        grid = Grid((x, y, z), np.array(entry["affine"]))
        world = grid.to_world(np.moveaxis(np.indices(grid.shape), 0, -1))
        inner = (slice(1, -1),) * 3
        expected = _ramp(*np.moveaxis(world, -1, 0))
        assert np.abs(array.transpose(2, 1, 0) - expected)[inner].max() <= 0.51
    assert read_description(out)["spacing_mm"] == [4.0, 4.0, 6.0]


def test_a_cached_volume_is_contiguous_and_superior_last(cohort: Path) -> None:
    image = read_image(cohort / "a.nii")
    volume, grid = cached_volume(image, (4.0, 4.0, 4.0))
    assert volume.flags["C_CONTIGUOUS"]
    assert volume.shape == grid.shape[::-1]
    assert volume[0].mean() > volume[-1].mean()


def test_beyond_the_scan_a_slice_is_air(cohort: Path) -> None:
    for _, array, _ in iterate_arrays([_slices(cohort, extend_mm=60.0, variants=1)]):
        assert (array[0] == AIR_HU).all()
        assert (array[-1] == AIR_HU).all()


def test_contexts_come_along_with_landmarks_and_levels_are_those_of_the_vertebrae(cohort: Path) -> None:
    marks = tables.read_table(cohort / "annotations.parquet", tables.ANNOTATIONS)
    marks.loc[marks["case"] == "b", "level"] = ["T11", "", "L1", "L2", "L3"]
    tables.write_table(cohort / "annotations.parquet", tables.ANNOTATIONS, marks)
    points = tables.keypoints_of(marks[marks["case"] == "b"])
    below = {**dict(zip("xyz", points[-1].mean(axis=0) - [0, 0, 12], strict=True)), "case": "b"}
    aside = {**below, "x": below["x"] + 30.0}
    tables.write_table(
        cohort / "landmarks.parquet",
        tables.LANDMARKS,
        [{**below, "level": "S1"}, {**below, "level": "C2"}, {**aside, "level": "L6"}],
    )
    plain = _slices(cohort)
    described = {name: entry for name, _, entry in iterate_arrays([plain])}
    assert all(second is None for _, _, second, _ in iterate_pairs([plain]))
    assert all(set(entry) == {"case", "keypoints"} for entry in described.values())
    named = _slices(cohort, landmarks=cohort / "landmarks.parquet")
    for name, array, views, entry in iterate_pairs([named]):
        assert views is not None
        assert views.dtype == np.uint8
        assert entry["keypoints"] == described[name]["keypoints"]
        expected = [NAMED.index(level) if level else -1 for level in ("T11", "", "L1", "L2", "L3")]
        if not name.startswith("b/"):
            assert (entry["landmarks"], set(entry["levels"])) == ([], {-1})
            continue
        assert entry["levels"] == [*expected, NAMED.index("S1")]
        assert len(entry["landmarks"]) == 1
        row = np.array(entry["landmarks"])[0, 0]
        assert np.array(entry["keypoints"])[-1, :, 0].mean() < row < len(array) + 10
        offsets = np.array(entry["context_rows"]) * STEP_MM - np.append(
            np.array(entry["keypoints"]).mean(axis=1)[:, 0], row
        )
        assert np.ptp(offsets[:-1]) < 1.5  # both count along one curve; a body centre is not quite the centroid
        assert len(entry["context_rows"]) == 6
