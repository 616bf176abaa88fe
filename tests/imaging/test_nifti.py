"""NIfTI: the same voxel at the same world point whatever the file's axes, and a named refusal of everything else."""

from __future__ import annotations

import gzip
import itertools
import os
from pathlib import Path

import nibabel
import numpy as np
import pytest

from vertfrac.errors import ImageError
from vertfrac.geometry.grid import Grid
from vertfrac.imaging import Image, canonical, case_name, read_image, write_nifti

SPACING = np.array([0.8, 0.9, 2.5])
SHAPE = (4, 5, 6)


def volume() -> np.ndarray:
    return np.random.default_rng(0).integers(-1000, 1500, SHAPE).astype(np.int16)


def affine() -> np.ndarray:
    matrix = np.diag([*SPACING, 1.0])
    matrix[:3, 3] = -100.5, 40.25, -300
    return matrix


def oblique() -> np.ndarray:
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]]
    return turn @ affine()


def save(path: Path, values: np.ndarray, matrix: np.ndarray | None = None, **header: object) -> Path:
    """Write with nibabel, then set raw header fields, which nibabel itself would refuse or mend."""
    image = nibabel.Nifti1Image(values, affine() if matrix is None else matrix)
    slope, inter = header.pop("slope", None), header.pop("inter", None)
    image.header.set_slope_inter(slope, inter)
    content = bytearray(image.to_bytes())
    raw = nibabel.Nifti1Header(bytes(content[:348]), check=False)
    raw["magic"] = b"n+1"
    for name, value in header.items():
        raw[name] = value
    content[:348] = raw.binaryblock
    path.write_bytes(gzip.compress(content) if path.name.endswith(".gz") else content)
    return path


def same_in_world(image: Image, values: np.ndarray, matrix: np.ndarray) -> bool:
    """Whether each voxel of the array lies in the image at its world point with its value."""
    index = np.indices(values.shape).reshape(3, -1).T
    there = image.grid.to_index(Grid(values.shape, matrix).to_world(index))
    rounded = np.rint(there).astype(int)
    assert np.abs(there - rounded).max() < 1e-3
    return np.array_equal(image.hu[tuple(rounded.T)], values.reshape(-1))


ORIENTATIONS = [(p, f) for p in itertools.permutations(range(3)) for f in itertools.product((1, -1), repeat=3)]


@pytest.mark.parametrize("matrix", [affine(), oblique()], ids=["upright", "oblique"])
@pytest.mark.parametrize(("order", "flips"), ORIENTATIONS)
def test_every_orientation_gives_the_same_voxel_at_the_same_world_point(tmp_path, order, flips, matrix):
    ornt = np.array(list(zip(order, flips, strict=True)))
    turned = nibabel.orientations.apply_orientation(volume(), ornt)
    turned_affine = matrix @ nibabel.orientations.inv_ornt_aff(ornt, SHAPE)
    image = read_image(save(tmp_path / "case.nii", turned, turned_affine))
    np.testing.assert_array_equal(image.hu, volume())
    np.testing.assert_allclose(image.grid.world_from_index, matrix, atol=1e-4)
    assert same_in_world(image, turned, turned_affine)
    assert all(stride > 0 for stride in image.hu.strides)
    assert image.warnings == ()


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "B.NII.GZ", "with space.v2.nii"])
@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_write_then_read_gives_the_image_back(tmp_path, name, dtype):
    values = volume().astype(dtype) + (dtype(0.25) if dtype is np.float32 else 0)
    image = Image(values, Grid(SHAPE, oblique()), "made")
    path = tmp_path / "new" / name
    write_nifti(path, image)
    again = read_image(path)
    assert again.hu.dtype == dtype
    np.testing.assert_array_equal(again.hu, values)
    np.testing.assert_allclose(again.grid.world_from_index, oblique(), atol=1e-4)
    header = nibabel.load(path).header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 1)
    assert header.get_xyzt_units()[0] == "mm"
    assert header.get_data_dtype() == dtype
    assert (path.read_bytes()[:2] == b"\x1f\x8b") == name.lower().endswith(".gz")
    assert os.listdir(path.parent) == [name]


def test_write_refuses_other_endings(tmp_path):
    with pytest.raises(ImageError, match=r"a\.mha: .*expected a name that ends in \.nii"):
        write_nifti(tmp_path / "a.mha", Image(volume(), Grid(SHAPE, affine()), "made"))


def test_image_refuses_a_grid_of_another_shape():
    with pytest.raises(ImageError, match=r"made: .*\(4, 5, 6\), expected \(4, 5, 7\)"):
        Image(volume(), Grid((4, 5, 7), affine()), "made")


def test_canonical_is_its_own_fixed_point():
    flipped = Image(
        volume()[::-1], Grid(SHAPE, affine() @ [[-1, 0, 0, 3], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), ""
    )
    once = canonical(flipped)
    np.testing.assert_array_equal(once.hu, volume())
    np.testing.assert_allclose(once.grid.world_from_index, affine())
    twice = canonical(once)
    np.testing.assert_array_equal(twice.hu, once.hu)
    np.testing.assert_array_equal(twice.grid.world_from_index, once.grid.world_from_index)


@pytest.mark.parametrize(
    ("stored", "slope", "inter", "dtype"),
    [
        (np.uint16, 1.0, -1024.0, np.int16),
        (np.int16, 2.0, 5.0, np.int16),
        (np.int16, 0.5, 0.0, np.float32),
        (np.int16, 0.0, 7.0, np.int16),  # slope 0 means: not scaled
        (np.float64, 1.0, 0.0, np.int16),
        (np.uint8, 10.0, -1000.0, np.int16),
        (np.int32, 1.0, 40000.0, np.float32),
    ],
)
def test_slope_and_intercept_are_applied(tmp_path, stored, slope, inter, dtype):
    raw = np.random.default_rng(1).integers(0, 250, SHAPE).astype(stored)
    image = read_image(save(tmp_path / "a.nii.gz", raw, scl_slope=slope, scl_inter=inter))
    expected = raw.astype(float) * slope + inter if slope else raw
    assert image.hu.dtype == dtype
    np.testing.assert_array_equal(image.hu, expected)


def test_big_endian_and_nifti_2_are_read(tmp_path):
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(np.int16)
    nibabel.save(nibabel.Nifti1Image(volume(), affine(), header), tmp_path / "big.nii")
    nibabel.save(nibabel.Nifti2Image(volume(), affine()), tmp_path / "two.nii.gz")
    for name in ("big.nii", "two.nii.gz"):
        image = read_image(tmp_path / name)
        assert image.hu.dtype == np.int16
        assert image.hu.dtype.isnative
        np.testing.assert_array_equal(image.hu, volume())


def test_trailing_axis_of_length_one_is_dropped(tmp_path):
    image = read_image(save(tmp_path / "a.nii", volume()[..., None]))
    np.testing.assert_array_equal(image.hu, volume())


@pytest.mark.parametrize(("code", "factor"), [(0, 1), (1, 1000), (2, 1), (3, 0.001), (2 | 8, 1), (1 | 16, 1000)])
def test_units_become_millimetres(tmp_path, code, factor):
    in_unit = affine()
    in_unit[:3] /= factor
    image = read_image(save(tmp_path / "a.nii", volume(), in_unit, xyzt_units=code))
    np.testing.assert_allclose(image.grid.world_from_index, affine(), rtol=1e-5)


def test_qform_is_used_where_there_is_no_sform(tmp_path):
    image = nibabel.Nifti1Image(volume(), None)
    image.set_qform(oblique(), code=1)
    image.set_sform(None, code=0)
    nibabel.save(image, tmp_path / "a.nii")
    np.testing.assert_allclose(read_image(tmp_path / "a.nii").grid.world_from_index, oblique(), atol=1e-4)


def test_padding_stays(tmp_path):
    values = volume()
    values[0] = -3024
    assert read_image(save(tmp_path / "a.nii", values)).hu.min() == -3024


def test_broken_voxels_become_air_with_a_warning(tmp_path):
    values = volume().astype(np.float32)
    values[0, 0, 0], values[1, 1, 1], values[2, 2, 2] = np.nan, np.inf, -np.inf
    image = read_image(save(tmp_path / "a.nii", values))
    assert image.hu.dtype == np.int16
    assert image.hu[0, 0, 0] == image.hu[1, 1, 1] == image.hu[2, 2, 2] == -1024
    assert "3 of 120 voxels" in image.warnings[0]


@pytest.mark.parametrize(
    ("values", "header", "words"),
    [
        (volume() // 100, {}, "narrower than any CT"),
        (volume() + 1024, {}, "perhaps not in HU"),
        (volume(), {"pixdim": [1, 1, 1, 1, 0, 0, 0, 0]}, "affine used"),
        (volume(), {"qform_code": 1, "qoffset_x": 5}, "sform used"),
    ],
)
def test_doubts_are_warnings(tmp_path, values, header, words):
    image = read_image(save(tmp_path / "a.nii", values, **header))
    assert len(image.warnings) == 1
    assert words in image.warnings[0]


def test_a_scan_of_millimetres_in_metres_is_refused(tmp_path):
    with pytest.raises(ImageError, match=r"a\.nii: covers .* expected at most 3000 mm"):
        read_image(save(tmp_path / "a.nii", volume(), xyzt_units=1))


def cut(path: Path, size: int) -> Path:
    path.write_bytes(path.read_bytes()[:size])
    return path


def with_bytes(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def flipped_byte(path: Path) -> Path:
    content = bytearray(path.read_bytes())
    content[-8] ^= 0xFF  # the checksum at the end of gzip
    path.write_bytes(content)
    return path


def rgb() -> np.ndarray:
    return np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])


def placed(**rows: list[float]) -> dict[str, object]:
    return {"sform_code": 1, "qform_code": 0, **rows}


BAD = {
    "missing": (lambda d: d / "gone.nii.gz", "no such file"),
    "missing folder": (lambda d: d / "gone", "no such file or folder"),
    "empty": (lambda d: with_bytes(d / "a.nii", b""), "empty file"),
    "empty gz": (lambda d: with_bytes(d / "a.nii.gz", b""), "empty file"),
    "text": (lambda d: with_bytes(d / "a.nii", b"hello " * 100), "no NIfTI signature"),
    "text named gz": (lambda d: with_bytes(d / "a.nii.gz", b"hello " * 100), "not gzip data"),
    "gzipped text": (lambda d: with_bytes(d / "a.nii.gz", gzip.compress(b"hello " * 100)), "no NIfTI signature"),
    "gzipped, named nii": (
        lambda d: save(d / "a.nii.gz", volume()).rename(d / "a.nii"),
        "gzip data, expected an uncompressed",
    ),
    "only a piece of a header": (lambda d: cut(save(d / "a.nii", volume()), 100), "truncated, 100 bytes"),
    "truncated": (lambda d: cut(save(d / "a.nii", volume()), 500), "truncated, at most 500 bytes"),
    "truncated gz": (lambda d: cut(save(d / "a.nii.gz", volume()), 200), "truncated or damaged gzip"),
    "truncated before gzip": (
        lambda d: with_bytes(d / "a.nii.gz", gzip.compress(save(d / "b.nii", volume()).read_bytes()[:-9])),
        "cannot be read (Expected 240 bytes, got 231",
    ),
    "wrong checksum": (lambda d: flipped_byte(save(d / "a.nii.gz", volume())), "CRC"),
    "two-file header": (lambda d: save(d / "a.nii", volume(), magic=b"ni1"), "two-file NIfTI"),
    "2D": (lambda d: save(d / "a.nii", volume()[0]), "found 2D of shape (5, 6)"),
    "one slice": (lambda d: save(d / "a.nii", volume()[..., :1]), "shape (4, 5, 1)"),
    "4D": (lambda d: save(d / "a.nii", np.stack([volume()] * 2, -1)), "found 4D of shape (4, 5, 6, 2)"),
    "no dimensions": (lambda d: save(d / "a.nii", volume(), dim=[0] * 8), "dim[0] is 0"),
    "huge": (lambda d: save(d / "a.nii.gz", volume(), dim=[3, 32000, 32000, 32000, 1, 1, 1, 1]), "truncated"),
    "complex": (lambda d: save(d / "a.nii", volume().astype(np.complex64)), "complex64 voxels"),
    "RGB": (lambda d: save(d / "a.nii", rgb()), "RGB voxels"),
    "unknown type": (lambda d: save(d / "a.nii", volume(), datatype=77), "unknown data type code 77"),
    "spacing 0": (lambda d: save(d / "a.nii", volume(), pixdim=[1, 1, 0, 1, 0, 0, 0, 0]), "voxel spacing 1 x 0 x 1"),
    "spacing < 0": (lambda d: save(d / "a.nii", volume(), pixdim=[1, 1, 1, -2, 0, 0, 0, 0]), "spacing 1 x 1 x -2"),
    "spacing NaN": (lambda d: save(d / "a.nii", volume(), pixdim=[1, np.nan, 1, 1, 0, 0, 0, 0]), "spacing nan x"),
    "spacing inf": (lambda d: save(d / "a.nii", volume(), pixdim=[1, np.inf, 1, 1, 0, 0, 0, 0]), "spacing inf x"),
    "singular": (lambda d: save(d / "a.nii", volume(), **placed(srow_z=[0, 0, 0, 5])), "affine is singular"),
    "affine NaN": (lambda d: save(d / "a.nii", volume(), **placed(srow_x=[np.nan, 0, 0, 5])), "NaN or infinity"),
    "bad quaternion": (
        lambda d: save(d / "a.nii", volume(), sform_code=0, qform_code=1, quatern_b=5, quatern_c=5),
        "cannot be read (w2 should be positive",
    ),
    "no orientation": (
        lambda d: save(d / "a.nii", volume(), sform_code=0, qform_code=0),
        "no orientation (sform and qform codes are 0)",
    ),
    "slope without intercept": (
        lambda d: save(d / "a.nii", volume(), scl_slope=1, scl_inter=np.nan),
        "Valid slope but invalid intercept",
    ),
    "all equal": (lambda d: save(d / "a.nii", np.full(SHAPE, -7, np.int16)), "all voxels equal -7"),
    "all NaN": (lambda d: save(d / "a.nii", np.full(SHAPE, np.nan, np.float32)), "all 120 voxels are NaN"),
    "other ending": (lambda d: with_bytes(d / "a.mha", b"ObjectType = Image"), "neither NIfTI by name"),
    "one DICOM file": (lambda d: with_bytes(d / "a", bytes(128) + b"DICM"), "a single DICOM file, expected the folder"),
}


@pytest.mark.parametrize(("make", "words"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_refused_in_one_line_that_names_the_file(tmp_path, make, words):
    path = make(tmp_path)
    with pytest.raises(ImageError) as caught:
        read_image(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert words in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/d/case 1.nii.gz", "case_1"),
        ("/d/Case-2.v1.NII", "Case-2.v1"),
        ("/d/LUNG1-001/", "LUNG1-001"),
        ("/d/á/b:c.nii", "b_c"),
        ("/d/.nii", "_"),
        ("/d/x.gz", "x.gz"),
        ("/d/e/..", "d"),
    ],
)
def test_case_name_is_safe(path, name):
    assert case_name(Path(path)) == name
