"""Laws of scans in memory: an array and a nibabel image are read like their file, and refused like it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from vertfrac.errors import ImageError
from vertfrac.imaging import Image, image_from_array, image_from_nibabel, read_image

NIFTI: Any = nibabel.Nifti1Image
NIFTI2: Any = nibabel.Nifti2Image

# numbers that float32, as a header has them, holds exactly
AFFINES = {
    "RAS": np.diag([2.0, 2.0, 3.0, 1.0]),
    "LPS": np.array([[-2.0, 0, 0, 90], [0, -2, 0, 80], [0, 0, 3, -40], [0, 0, 0, 1]]),
    "permuted": np.array([[0.0, 0, 2, -9], [-2, 0, 0, 80], [0, 3, 0, -40], [0, 0, 0, 1]]),
    "tilted": np.array([[2.0, 0, 0, 5], [0, 1.875, -0.625, 7], [0, 0.625, 2.75, 11], [0, 0, 0, 1]]),
}


def numbers(kind: str) -> np.ndarray:
    values = np.random.default_rng(0).integers(-1000, 1500, size=(6, 7, 8))
    made: dict[str, np.ndarray] = {
        "int16": values.astype(np.int16),
        "float64": values + 0.25,
        "NaN": np.where(values < -900, np.nan, values).astype(np.float32),
        "4D": values.astype(np.int16)[..., None],
    }
    return made[kind]


def same(first: Image, second: Image) -> None:
    np.testing.assert_array_equal(first.hu, second.hu)
    assert first.hu.dtype == second.hu.dtype
    np.testing.assert_array_equal(first.grid.world_from_index, second.grid.world_from_index)
    assert (first.warnings, first.stored_axes) == (second.warnings, second.stored_axes)


@pytest.mark.parametrize("affine", AFFINES)
@pytest.mark.parametrize("kind", ["int16", "float64", "NaN", "4D"])
def test_a_scan_in_memory_is_the_scan_of_its_file(tmp_path: Path, affine: str, kind: str) -> None:
    made = NIFTI(numbers(kind), AFFINES[affine])
    nibabel.save(made, tmp_path / "scan.nii")
    read, loaded = read_image(tmp_path / "scan.nii"), nibabel.load(tmp_path / "scan.nii")
    same(image_from_nibabel(loaded), read)
    same(image_from_nibabel(made), read)
    same(image_from_array(np.asanyarray(loaded.dataobj), loaded.affine), read)  # type: ignore[attr-defined]
    same(image_from_array(loaded.get_fdata(), loaded.affine), read)  # type: ignore[attr-defined]


def test_slope_and_unit_count_in_memory_too(tmp_path: Path) -> None:
    made = NIFTI2(numbers("int16"), AFFINES["LPS"])
    made.header.set_slope_inter(0.5, -10)
    made.header.set_xyzt_units("meter")
    made = NIFTI2(made.dataobj, np.diag([0.001, 0.001, 0.001, 1]) @ AFFINES["LPS"], made.header)
    nibabel.save(made, tmp_path / "scan.nii.gz")
    read, loaded = read_image(tmp_path / "scan.nii.gz"), nibabel.load(tmp_path / "scan.nii.gz")
    same(image_from_nibabel(loaded), read)
    np.testing.assert_allclose(read.grid.spacing_mm, [2, 2, 3], rtol=1e-6)
    assert not loaded.in_memory, "the caller's image is left as it was"  # type: ignore[attr-defined]


def test_the_caller_may_change_the_array_afterwards() -> None:
    values = numbers("int16")
    image = image_from_array(values, np.eye(4))
    before = image.hu.copy()
    values[:] = 0
    np.testing.assert_array_equal(image.hu, before)


@pytest.mark.parametrize(
    ("values", "affine", "words"),
    [
        (np.zeros((4, 4)), np.eye(4), r"shape \(4, 4\), expected three axes"),
        (np.zeros((4, 4, 1)), np.eye(4), "at least 2 voxels"),
        (np.zeros((4, 4, 4, 3)), np.eye(4), r"shape \(4, 4, 4, 3\)"),
        (np.zeros((4, 4, 4)), np.eye(4), "all voxels equal 0"),
        (np.full((4, 4, 4), np.nan), np.eye(4), "all 64 voxels are NaN"),
        (np.zeros((4, 4, 4), dtype=complex), np.eye(4), "type complex128, expected real"),
        (np.zeros((4, 4, 4), dtype=bool), np.eye(4), "type bool"),
        ([[1, 2], [3]], np.eye(4), "cannot be taken as an array"),
        (numbers("int16"), np.eye(3), r"affine of shape \(3, 3\)"),
        (numbers("int16"), np.ones((4, 4)), "last row"),
        (numbers("int16"), np.diag([1.0, 1, 0, 1]), "singular"),
        (numbers("int16"), np.diag([1.0, 1, np.nan, 1]), "finite"),
        (numbers("int16"), [["x"] * 4] * 4, "not numeric"),
    ],
)
def test_what_is_no_scan_is_refused_by_name(values: Any, affine: Any, words: str) -> None:
    with pytest.raises(ImageError, match=f"^my array: .*{words}") as caught:
        image_from_array(values, affine, "my array")
    assert "\n" not in str(caught.value)


def _unplaced() -> Any:
    return NIFTI(numbers("int16"), None)


def _series() -> Any:
    return NIFTI(np.zeros((4, 4, 4, 2), dtype=np.int16), np.eye(4))


def _coloured() -> Any:
    return NIFTI(np.zeros((4, 4, 4), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")]), np.eye(4))


def _other_kind() -> Any:
    image: Any = nibabel.MGHImage
    return image(numbers("int16"), np.eye(4))


@pytest.mark.parametrize(
    ("make", "words"),
    [(_unplaced, "no orientation"), (_series, "4D of shape"), (_coloured, "RGB voxels"), (_other_kind, "MGHImage")],
)
def test_an_image_that_a_file_would_not_be_read_from_is_refused(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(ImageError, match=f"^nibabel image: .*{words}"):
        image_from_nibabel(make())


def test_a_file_that_was_lost_after_loading_is_named(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii"
    nibabel.save(NIFTI(numbers("int16"), np.eye(4)), path)
    loaded = nibabel.load(path)
    path.unlink()
    with pytest.raises(ImageError, match=r"scan\.nii: no such file"):
        image_from_nibabel(loaded)
