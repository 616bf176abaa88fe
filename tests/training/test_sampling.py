"""Laws of the sample makers: randomness belongs to the step, keypoints and curves follow the image."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from vertfrac import tables
from vertfrac.arrays import write_arrays
from vertfrac.errors import CohortError
from vertfrac.training.sampling import _blur_first_axis, step_generator, vary_appearance, vary_intensity
from vertfrac.training.slices import SliceBank, _cubic
from vertfrac.training.volumes import VolumeBank

CPU = torch.device("cpu")
K = 8
"""HU per voxel of a ramp."""

LENGTHS, COLUMNS, CROP = (230, 200), 128, (120, 96)
SHAPE = np.array([[-9, -12], [9, -12], [-8, 0], [8, 0], [-9, 12], [9, 12]], dtype=np.float64)

STILL: dict[str, Any] = {
    "rotate_deg": 0.0, "scale": 0.0, "elastic_px": 0.0, "elastic_length_px": 16.0, "shift_px": 0.0, "intensity": 0.0,
    "appearance": 0.0,
}  # fmt: skip
AUGMENTED: dict[str, Any] = {
    "rotate_deg": 12.0, "scale": 0.15, "elastic_px": 1.2, "elastic_length_px": 16.0, "shift_px": 6.0, "intensity": 0.0,
    "appearance": 0.0,
}  # fmt: skip


def _slice_keypoints(number: int) -> NDArray[np.float64]:
    """Vertebrae of slice ``number``, apart from those of the other one."""
    count = 6 - number
    places = np.column_stack([np.linspace(30, LENGTHS[number] - 30, count), np.full(count, 60.0 + 7 * number)])
    return places[:, None] + SHAPE * (1 + 0.1 * number)


def _slice_bank(path: Path, what: str, cases: set[str] | None = None) -> SliceBank:
    """Two slices of different length whose HU is a ramp along rows or columns, or the slice's number."""
    arrays, entries = {}, {}
    for number, length in enumerate(LENGTHS):
        rows, columns = np.meshgrid(np.arange(length), np.arange(COLUMNS), indexing="ij")
        values = {"row": rows * K, "column": columns * K, "number": np.full_like(rows, number * 100)}[what]
        arrays[f"c{number}/a/0"] = values.astype(np.int16)
        entries[f"c{number}/a/0"] = {"case": f"c{number}", "keypoints": _slice_keypoints(number).tolist()}
    write_arrays(path / f"{what}.safetensors", arrays, {"cases": entries})
    return SliceBank([path / f"{what}.safetensors"], cases or {"c0", "c1"}, device=CPU)


def _at(images: Tensor, points: Tensor) -> Tensor:
    """Bilinear values of images (b, h, w) at points (b, n, 2) as (row, column)."""
    span = torch.tensor([images.shape[1] - 1, images.shape[2] - 1])
    where = (points / span * 2 - 1).flip(-1)[:, None]
    return F.grid_sample(images[:, None], where, mode="bilinear", align_corners=True)[:, 0, 0]


@pytest.mark.parametrize("options", [STILL, AUGMENTED], ids=["still", "augmented"])
def test_keypoints_follow_the_slice(tmp_path: Path, options: dict[str, Any]) -> None:
    banks = {what: _slice_bank(tmp_path, what) for what in ("row", "column", "number")}
    seen = 0
    for step in range(6):
        made = {w: b.batch(step, size=4, crop=CROP, seed=3, **options) for w, b in banks.items()}
        points = made["row"][1]
        flat = points.flatten(1, 2).nan_to_num(nan=-1.0)
        within = ((flat >= 0) & (flat <= torch.tensor(CROP) - 1)).all(dim=-1)
        found = torch.stack([_at(made[w][0], flat) / K for w in ("row", "column")], dim=-1)
        numbers = (made["number"][0].amax(dim=(1, 2)) / 100).round().long()
        original = banks["row"].keypoints[numbers].flatten(1, 2)
        seen += int(within.sum())
        assert float((found - original)[within].abs().max()) < 0.01
    assert seen > 300


def test_a_vertebra_is_there_exactly_if_its_centroid_is_in_the_crop(tmp_path: Path) -> None:
    bank = _slice_bank(tmp_path, "row", {"c0"})
    for step in range(4):
        hu, points, _ = bank.batch(step, size=2, crop=CROP, seed=1, **STILL)
        top = float(hu[0, 0, 0]) / K
        rows = torch.tensor(_slice_keypoints(0)).mean(dim=1)[:, 0] - top
        expected = (rows >= 0) & (rows <= CROP[0] - 1)
        assert torch.equal(points[0].isfinite().all(dim=(1, 2)), expected)


def test_beyond_a_slice_there_is_air(tmp_path: Path) -> None:
    bank = _slice_bank(tmp_path, "number", {"c1"})
    hu, *_ = bank.batch(0, size=2, crop=(400, 200), seed=1, **STILL)
    assert float(hu.amin()) == -1024
    assert int((hu == 100).sum()) > 0.9 * 2 * (LENGTHS[1] - 1) * (COLUMNS - 1)


@pytest.mark.parametrize("intensity", [0.0, 1.0])
def test_a_slice_batch_is_a_function_of_seed_and_step(tmp_path: Path, intensity: float) -> None:
    bank = _slice_bank(tmp_path, "row")
    options = {**AUGMENTED, "intensity": intensity, "appearance": intensity}
    first = bank.batch(7, size=3, crop=CROP, seed=1, **options)
    bank.batch(8, size=3, crop=CROP, seed=1, **options)
    again = bank.batch(7, size=3, crop=CROP, seed=1, **options)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1].nan_to_num(), again[1].nan_to_num())


@pytest.mark.parametrize(("seed", "step"), [(1, 8), (2, 7)])
def test_another_seed_or_step_gives_another_slice_batch(tmp_path: Path, seed: int, step: int) -> None:
    bank = _slice_bank(tmp_path, "row")
    first = bank.batch(7, size=3, crop=CROP, seed=1, **AUGMENTED)[0]
    assert not torch.equal(first, bank.batch(step, size=3, crop=CROP, seed=seed, **AUGMENTED)[0])


def test_mean_offsets_are_those_of_the_known_vertebrae(tmp_path: Path) -> None:
    bank = _slice_bank(tmp_path, "row")
    relative = np.concatenate([k - k.mean(axis=1, keepdims=True) for k in map(_slice_keypoints, (0, 1))])
    assert torch.allclose(bank.mean_offsets(), torch.tensor(relative.mean(axis=0), dtype=torch.float32), atol=1e-4)


def test_a_bank_holds_the_asked_cases_only(tmp_path: Path) -> None:
    bank = _slice_bank(tmp_path, "number", {"c1"})
    assert set(bank.batch(0, size=4, crop=(40, 40), seed=0, **STILL)[0].unique().tolist()) == {100.0}


def test_a_fold_without_a_slice_is_named(tmp_path: Path) -> None:
    with pytest.raises(CohortError, match="no training slice"):
        _slice_bank(tmp_path, "row", {"somebody else"})


# --- volumes

SPACING = np.array([3.0, 2.0, 4.0])
"""Of the volumes, x, y, z; anisotropic in every plane."""
SIZE_ZYX = (40, 60, 44)


def _annotations(count: int = 5) -> pd.DataFrame:
    """A spine that bends in x and y, inside the volume."""
    rows = []
    for n in range(count):
        z = 130.0 - 24 * n
        middle = np.array([66 + 0.1 * (z - 80), 60 + 8 * np.sin(z / 40), z])
        points = middle + np.column_stack([np.zeros(6), -SHAPE[:, 1], -SHAPE[:, 0]])
        rows.append({"case": "c", "expert": "a", "vertebra": n + 1, **tables.keypoint_values(points)})
    return tables.ANNOTATIONS.frame(rows)


def _volume_bank(path: Path, axis: int | None, *, cases: set[str] | None = None, edge_mm: float = 0.0) -> VolumeBank:
    """One volume whose HU is a ramp along z (0), y (1) or x (2)."""
    index = np.indices(SIZE_ZYX)
    values = np.zeros(SIZE_ZYX) if axis is None else index[axis] * K
    entry = {"affine": np.diag([*SPACING, 1.0]).tolist()}
    file = path / f"{axis}-{edge_mm}.safetensors"
    write_arrays(file, {"c": values.astype(np.int16)}, {"cases": {"c": entry}})
    return VolumeBank([file], _annotations(), cases or {"c"}, device=CPU, edge_mm=edge_mm)


VOLUME_STILL: dict[str, Any] = {
    "rotate_deg": 0.0, "tilt": 0.0, "scale": 0.0, "flip": False, "intensity": 0.0, "appearance": 0.0
}  # fmt: skip
VOLUME_AUGMENTED: dict[str, Any] = {
    "rotate_deg": 15.0, "tilt": 0.15, "scale": 0.15, "flip": True, "intensity": 0.0, "appearance": 0.0
}  # fmt: skip
VOLUME_CROP = (24, 40, 30)


def _interpolated(track: NDArray[np.float64], z: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.column_stack([np.interp(z, np.arange(len(track)), track[:, i]) for i in (0, 1)])


@pytest.mark.parametrize("edge_mm", [0.0, 12.0])
@pytest.mark.parametrize("options", [VOLUME_STILL, VOLUME_AUGMENTED], ids=["still", "augmented"])
def test_positions_follow_the_volume(tmp_path: Path, options: dict[str, Any], edge_mm: float) -> None:
    banks = [_volume_bank(tmp_path, axis, edge_mm=edge_mm) for axis in range(3)]
    volume, edge = banks[0].volumes[0], round(edge_mm / SPACING[2])
    seen = 0
    for step in range(8):
        made = [bank.batch(step, size=3, crop=VOLUME_CROP, seed=2, **options) for bank in banks]
        for b in range(3):
            positions, inside = made[0][1][b], made[0][2][b]
            source = torch.stack([_at(m[0][b], positions[:, None])[:, 0] / K for m in made], dim=1).double().numpy()
            size_yx = torch.tensor(VOLUME_CROP[1:])
            within = (inside > 0) & (positions >= 0).all(dim=1) & (positions <= size_yx - 1).all(dim=1)
            chosen = within.numpy() & (source[:, 0] > 0.5) & (source[:, 0] < SIZE_ZYX[0] - 1.5)
            expected = _interpolated(volume.positions[0].numpy(), source[:, 0] + edge)
            seen += int(chosen.sum())
            assert np.abs(source[chosen, 1:] - expected[chosen]).max(initial=0.0) < 0.05
    assert seen > 150


def test_the_volume_is_rotated_scaled_and_mirrored_but_never_sheared_in_plane(tmp_path: Path) -> None:
    banks = [_volume_bank(tmp_path, axis) for axis in (1, 2)]
    mirrored = set()
    for step in range(8):
        y, x = (bank.batch(step, size=1, crop=(3, 16, 12), seed=4, **VOLUME_AUGMENTED)[0][0, 1] / K for bank in banks)
        jacobian = torch.stack([torch.stack([v[9, 6] - v[8, 6], v[8, 7] - v[8, 6]]) for v in (y, x)]).double().numpy()
        in_mm = np.diag(SPACING[[1, 0]]) @ jacobian @ np.diag(1 / SPACING[[1, 0]])
        gram = in_mm.T @ in_mm
        mirrored.add(bool(np.linalg.det(in_mm) < 0))
        assert np.allclose(gram, gram[0, 0] * np.eye(2), atol=2e-3)
    assert mirrored == {True, False}


def test_a_slice_is_inside_where_the_nearest_annotated_one_is(tmp_path: Path) -> None:
    bank = _volume_bank(tmp_path, 0)
    volume = bank.volumes[0]
    for step in range(5):
        hu, _, inside = bank.batch(step, size=1, crop=(60, 8, 8), seed=2, **VOLUME_STILL)
        top = float(hu[0, 30, 4, 4]) / K - 30
        z = top + np.arange(60)
        nearest = np.clip(np.rint(z), 0, SIZE_ZYX[0] - 1).astype(int)
        clear = np.abs(z - np.floor(z) - 0.5) > 1e-3
        expected = volume.inside[0].numpy()[nearest] * ((z >= 0) & (z <= SIZE_ZYX[0] - 1))
        assert np.array_equal(inside[0].numpy()[clear], expected[clear])


def test_edges_are_air_outside_the_limits(tmp_path: Path) -> None:
    plain, edged = (_volume_bank(tmp_path, 1, edge_mm=mm).volumes[0] for mm in (0.0, 12.0))
    assert torch.equal(edged.hu[3:-3], plain.hu)
    assert bool((edged.hu[:3] == -1024).all())
    assert torch.equal(edged.inside[:, 3:-3], plain.inside)
    assert float(edged.inside[:, :3].sum() + edged.inside[:, -3:].sum()) == 0
    assert torch.equal(edged.positions[:, 3:-3], plain.positions)


def test_the_limits_of_a_volume_are_the_annotated_ones(tmp_path: Path) -> None:
    inside = _volume_bank(tmp_path, None).volumes[0].inside[0].numpy()
    keypoints = tables.keypoints_of(_annotations())
    z = np.arange(SIZE_ZYX[0]) * SPACING[2]
    clear = np.minimum(np.abs(z - keypoints[..., 2].min()), np.abs(z - keypoints[..., 2].max())) > 1.0
    expected = (z >= keypoints[..., 2].min()) & (z <= keypoints[..., 2].max())
    assert np.array_equal(inside[clear] > 0, expected[clear])


@pytest.mark.parametrize("intensity", [0.0, 1.0])
def test_a_volume_batch_is_a_function_of_seed_and_step(tmp_path: Path, intensity: float) -> None:
    bank = _volume_bank(tmp_path, 1)
    options = {**VOLUME_AUGMENTED, "intensity": intensity, "appearance": intensity}
    first = bank.batch(7, size=2, crop=VOLUME_CROP, seed=1, **options)
    bank.batch(8, size=2, crop=VOLUME_CROP, seed=1, **options)
    again = bank.batch(7, size=2, crop=VOLUME_CROP, seed=1, **options)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize(("seed", "step"), [(1, 8), (2, 7)])
def test_another_seed_or_step_gives_another_volume_batch(tmp_path: Path, seed: int, step: int) -> None:
    bank = _volume_bank(tmp_path, 1)
    first = bank.batch(7, size=2, crop=VOLUME_CROP, seed=1, **VOLUME_AUGMENTED)[0]
    assert not torch.equal(first, bank.batch(step, size=2, crop=VOLUME_CROP, seed=seed, **VOLUME_AUGMENTED)[0])


def test_a_crop_larger_than_the_volume_is_filled_with_air(tmp_path: Path) -> None:
    hu, _, inside = _volume_bank(tmp_path, None).batch(0, size=1, crop=(80, 90, 70), seed=0, **VOLUME_STILL)
    assert hu.shape == (1, 80, 90, 70)
    assert float(hu[0, 0].max()) == -1024
    assert float(inside[0, 0]) == 0


def test_a_fold_without_a_volume_is_named(tmp_path: Path) -> None:
    with pytest.raises(CohortError, match="no training volume"):
        _volume_bank(tmp_path, 0, cases={"somebody else"})


# --- intensity


Vary = Callable[[torch.Tensor, torch.Generator, float], torch.Tensor]


@pytest.mark.parametrize("vary", [vary_intensity, vary_appearance])
@pytest.mark.parametrize("shape", [(2, 9, 12), (2, 6, 9, 12)])
def test_intensity_of_strength_zero_changes_nothing(vary: Vary, shape: tuple[int, ...]) -> None:
    hu = torch.randn(shape) * 100
    assert torch.equal(vary(hu, step_generator(0, 0, CPU), 0.0), hu)


@pytest.mark.parametrize("vary", [vary_intensity, vary_appearance])
@pytest.mark.parametrize("shape", [(2, 9, 12), (2, 6, 9, 12), (1, 1, 1)])
def test_intensity_keeps_the_shape_and_stays_finite(vary: Vary, shape: tuple[int, ...]) -> None:
    for step in range(5):
        varied = vary(torch.full(shape, 500.0), step_generator(0, step, CPU), 3.0)
        assert varied.shape == shape
        assert bool(torch.isfinite(varied).all())


@pytest.mark.parametrize("vary", [vary_intensity, vary_appearance])
def test_more_strength_changes_an_image_more(vary: Vary) -> None:
    hu = torch.randn(4, 32, 32, generator=torch.Generator().manual_seed(0)) * 200
    change = [
        float(np.mean([(vary(hu, step_generator(0, s, CPU), x) - hu).abs().mean() for s in range(10)]))
        for x in (0.2, 0.6, 1.0)
    ]
    assert change == sorted(change)


@pytest.mark.parametrize("length", [3, 20])
def test_the_blur_is_gaussian_and_repeats_the_ends(length: int) -> None:
    hu = torch.randn(3, length, 5, 4, generator=torch.Generator().manual_seed(1)) * 100
    width = torch.tensor([0.0, 0.4, 1.0])
    blurred = _blur_first_axis(hu, width, 1.0)
    for image, found, sigma in zip(hu, blurred, (0.2, 0.8, 2.0), strict=True):
        expected = gaussian_filter1d(image.numpy(), sigma, axis=0, mode="nearest", radius=4)
        assert np.allclose(found.numpy(), expected, atol=1e-3)


def test_two_matrices_are_cubic_interpolation_in_the_plane() -> None:
    knots = torch.randn(2, 2, 7, 5, generator=torch.Generator().manual_seed(1))
    expected = F.interpolate(knots, size=(40, 24), mode="bicubic", align_corners=True)
    assert torch.allclose(_cubic(7, 40, CPU) @ knots @ _cubic(5, 24, CPU).T, expected, atol=1e-5)


def test_no_two_images_of_a_batch_look_alike_and_soft_tissue_stays_between_fat_and_bone() -> None:
    tissues = torch.tensor([-110.0, 40.0, 250.0, 900.0]).repeat_interleave(16)
    hu = tissues.expand(8, 32, 64).contiguous()
    varied = vary_appearance(hu, step_generator(0, 0, CPU), 1.0)
    means = varied.reshape(8, 32, 4, 16)[..., 4:12].mean(dim=(1, 3))
    whole = means[(means > -1000).all(dim=1)]  # those whose field is not cut
    assert len(whole) >= 4
    assert bool((whole.diff(dim=1) > 30).all())
    assert float(whole[:, 3].std()) > 50
    assert len({tuple(row.tolist()) for row in means}) == 8


def test_a_cut_field_leaves_three_quarters() -> None:
    hu = torch.full((64, 4, 40), 100.0)
    varied = vary_appearance(hu, step_generator(0, 0, CPU), 1.0)
    lost = (varied == -1024).float().mean(dim=(1, 2))
    assert 2 <= int((lost > 0).sum()) <= 25
    assert float(lost.max()) <= 0.25 + 1e-6
