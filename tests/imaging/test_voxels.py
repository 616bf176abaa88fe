"""Laws of gathering slices: the values stay, in the narrowest of two types, and turning the axes costs no copy."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from vertfrac.errors import ImageError
from vertfrac.imaging.image import image_of, read_image
from vertfrac.imaging.nifti import read_nifti
from vertfrac.imaging.voxels import fits_int16, gathered

KINDS = ["uint8", "int16", ">i2", "uint16", "int32", "int64", "float32", ">f4", "float64"]
flips = st.tuples(st.booleans(), st.booleans(), st.booleans())
blocks: Any = st.sampled_from(KINDS).flatmap(
    lambda kind: arrays.arrays(kind, arrays.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=4))
)


@given(values=blocks, flipped=flips)
def test_slices_become_the_array_that_they_are_of(values: np.ndarray, flipped: tuple[bool, bool, bool]) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        single = values.astype(np.float32)
        fits = bool(((single % 1 == 0) & (single >= -32768) & (single <= 32767)).all())
    found = gathered(np.moveaxis(values, -1, 0), values.shape, flipped)
    assert found.dtype == (np.int16 if fits else np.float32)
    np.testing.assert_array_equal(found, single)
    turned = found[tuple(slice(None, None, -1) if flip else slice(None) for flip in flipped)]
    assert all(stride > 0 for stride in turned.strides)


@pytest.mark.parametrize("odd", [0.5, 40000, -40000, np.nan, np.inf])
@pytest.mark.parametrize("place", [0, 2, 4])
def test_one_value_that_does_not_fit_makes_all_float32(odd: float, place: int) -> None:
    values = np.arange(60.0).reshape(3, 4, 5) - 30
    values[1, 1, place] = odd
    assert not fits_int16(values)
    found = gathered(np.moveaxis(values, -1, 0), values.shape, (True, False, True))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, values.astype(np.float32))


@pytest.mark.parametrize("slope", [1, 2, 0.5])
def test_no_orientation_of_a_file_needs_a_copy(tmp_path: Path, slope: float) -> None:
    values = np.random.default_rng(0).integers(-1000, 1500, (3, 4, 5)).astype(np.int16)
    for order, signs in itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)):
        affine = np.zeros((4, 4))
        affine[order, range(3)], affine[3, 3] = signs, 1
        made: Any = nibabel.Nifti1Image(values, affine)
        made.header.set_slope_inter(slope, 3)
        path = tmp_path / "scan.nii"
        made.to_filename(path)
        read, world_from_index, warnings = read_nifti(path)
        image = image_of(read, world_from_index, warnings, "scan")
        assert np.shares_memory(image.hu, read)
        assert all(stride > 0 for stride in image.hu.strides)


def test_a_damaged_gzip_file_is_refused_or_reads_as_before(tmp_path: Path) -> None:
    """Some bits of gzip mean nothing for the content: the time, the operating system. All others are noticed."""
    values = np.random.default_rng(0).integers(-1000, 1500, (6, 5, 4)).astype(np.int16)
    path = tmp_path / "scan.nii.gz"
    made: Any = nibabel.Nifti1Image(values, np.diag([2.0, 2, 2, 1]))
    made.to_filename(path)
    content = path.read_bytes()
    damaged = [content[:size] for size in range(0, len(content), 7)]
    damaged += [content + tail for tail in (b"rest", b"\0\0rest", b"\x1f\x8b")]
    for place in [*range(20), *range(20, len(content) - 8, 5), *range(len(content) - 8, len(content))]:
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        damaged.append(bytes(changed))
    refusals = []
    for bad in damaged:
        path.write_bytes(bad)
        try:
            np.testing.assert_array_equal(read_image(path).hu, values)
        except ImageError as error:
            refusals.append(str(error))
    assert len(refusals) > 0.9 * len(damaged)
    assert all(reason.startswith(f"{path}: ") and "\n" not in reason for reason in refusals)
