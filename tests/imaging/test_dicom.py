"""DICOM folders: slices are placed by position alone, and what is not one complete upright volume is refused."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    MRImageStorage,
    generate_uid,
)

from vertfrac.errors import ImageError
from vertfrac.imaging import read_image, write_nifti

REAL = Path(__file__).parents[3] / "shared" / "data" / "crlm1004" / "dicom"
COLUMNS, ROWS, SLICES = 7, 5, 6
PIXEL_SPACING = (0.9, 0.7)  # between rows, between columns
GAP_MM = 2.5
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
CORNER_LPS = np.array([-30.0, -40.0, -500.0])


def volume() -> np.ndarray:
    """(column, row, slice) in HU."""
    return np.random.default_rng(3).integers(-1000, 1500, (COLUMNS, ROWS, SLICES)).astype(np.int16)


def series(orientation: tuple[float, ...] = AXIAL, number: int = 1, hu: np.ndarray | None = None) -> list[Dataset]:
    """One CT series in order along the slice normal, its stored values unsigned with intercept -1024."""
    hu = volume() if hu is None else hu
    uid, frame = generate_uid(), generate_uid()
    normal = np.cross(orientation[:3], orientation[3:])
    slices: list[Dataset] = []
    for k in range(hu.shape[2]):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        one = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
        one.SOPClassUID, one.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        one.SeriesInstanceUID, one.FrameOfReferenceUID = uid, frame
        one.Modality, one.SeriesNumber, one.SeriesDescription = "CT", number, f"phase {number}"
        one.InstanceNumber = int(np.random.default_rng(k).integers(1, 999))
        one.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        one.ImageOrientationPatient = list(orientation)
        one.ImagePositionPatient = [round(float(x), 4) for x in CORNER_LPS + normal * GAP_MM * k]
        one.PixelSpacing = list(PIXEL_SPACING)
        one.Rows, one.Columns = hu.shape[1], hu.shape[0]
        one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
        one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 16, 15, 0
        one.RescaleSlope, one.RescaleIntercept = 1, -1024
        one.PixelData = (hu[:, :, k].T.astype(np.int32) + 1024).astype("<u2").tobytes()
        slices.append(one)
    return slices


def save(folder: Path, slices: list[Dataset], prefix: str = "") -> Path:
    """Write under names in random order."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, one in zip(np.random.default_rng(5).permutation(len(slices)), slices, strict=True):
        one.save_as(folder / f"{prefix}{name:03d}.dcm", enforce_file_format=True)
    return folder


def ras_affine() -> np.ndarray:
    """The affine of ``volume()``, written down by hand."""
    return np.array(
        [[-PIXEL_SPACING[1], 0, 0, 30], [0, -PIXEL_SPACING[0], 0, 40], [0, 0, GAP_MM, -500], [0, 0, 0, 1.0]]
    )


def equal(one: Any, other: Any) -> None:
    np.testing.assert_array_equal(one.hu, other.hu)
    np.testing.assert_allclose(one.grid.world_from_index, other.grid.world_from_index, atol=1e-4)


def test_agrees_with_the_nifti_of_the_same_array(tmp_path):
    nibabel.save(nibabel.Nifti1Image(volume(), ras_affine()), tmp_path / "a.nii")
    image = read_image(save(tmp_path / "d", series()))
    equal(image, read_image(tmp_path / "a.nii"))
    assert image.hu.dtype == np.int16
    assert image.warnings == ()
    assert image.source == str(tmp_path / "d")


SIGNED_AXES = [np.eye(3)[i] * sign for i in range(3) for sign in (1, -1)]
ORIENTATIONS = [tuple(float(x) for x in (*a, *b)) for a, b in itertools.product(SIGNED_AXES, repeat=2) if not a @ b]
OBLIQUE = (0.936, 0.352, 0.0, -0.352, 0.936, 0.0)


@pytest.mark.parametrize("orientation", [*ORIENTATIONS, OBLIQUE])
def test_every_voxel_lies_where_the_standard_puts_it(tmp_path, orientation):
    """PS3.3 equation C.7.6.2.1-1, for each pixel of each slice."""
    if orientation == OBLIQUE:
        unit = np.array(OBLIQUE).reshape(2, 3)
        orientation = tuple((unit / np.linalg.norm(unit, axis=1, keepdims=True)).round(6).ravel())
    slices = series(orientation)
    image = read_image(save(tmp_path, slices))
    for k, one in enumerate(slices):
        column, row = (index.ravel() for index in np.indices((COLUMNS, ROWS)))
        along_row, along_column = np.array(orientation[:3]), np.array(orientation[3:])
        lps = (
            np.array(one.ImagePositionPatient, dtype=float)
            + np.outer(column * PIXEL_SPACING[1], along_row)
            + np.outer(row * PIXEL_SPACING[0], along_column)
        )
        index = image.grid.to_index(lps * [-1, -1, 1])
        rounded = np.rint(index).astype(int)
        np.testing.assert_allclose(index, rounded, atol=1e-3)
        np.testing.assert_array_equal(image.hu[tuple(rounded.T)], volume()[column, row, k])
    assert (np.diag(image.grid.world_from_index)[:3] > 0).all()


def test_order_of_files_and_subfolders_do_not_matter(tmp_path):
    slices = series()
    plain = read_image(save(tmp_path / "plain", slices))
    save(tmp_path / "deep" / "a", slices[::2])
    save(tmp_path / "deep" / "b" / "c", slices[1::2])
    (tmp_path / "deep" / "notes.txt").write_text("no scan")
    (tmp_path / "deep" / "b" / "empty").touch()
    again = read_image(tmp_path / "deep")
    equal(plain, again)
    assert again.warnings == ()


def test_the_longest_series_is_taken_and_the_others_named(tmp_path):
    slices, short = series(number=4), series(number=9)[:3]
    save(tmp_path, [*slices, *short])
    image = read_image(tmp_path)
    equal(image, read_image(save(tmp_path / "alone", slices)))
    (warning,) = image.warnings
    assert "2 CT series" in warning
    assert "read number 4 (6 slices)" in warning
    assert "left out: number 9 (3 slices)" in warning


def test_localizers_and_unreadable_slices_are_left_out_with_a_warning(tmp_path):
    slices = series()
    slices[0].ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    save(tmp_path, slices)
    (tmp_path / "broken.dcm").write_bytes(b"not DICOM")
    image = read_image(tmp_path)
    np.testing.assert_array_equal(image.hu, volume()[::-1, ::-1, 1:])
    assert [w for w in image.warnings if "1 localizer" in w]
    assert [w for w in image.warnings if "broken.dcm" in w]


def test_each_slice_has_its_own_slope_and_intercept(tmp_path):
    slices = series()
    slices[1].RescaleSlope, slices[1].RescaleIntercept = 2, -2048
    slices[2].RescaleSlope, slices[2].RescaleIntercept = 0.5, 0
    expected = volume().astype(np.float32)
    expected[..., 1] *= 2
    expected[..., 2] = (expected[..., 2] + 1024) / 2
    image = read_image(save(tmp_path, slices))
    assert image.hu.dtype == np.float32
    np.testing.assert_array_equal(image.hu, expected[::-1, ::-1])


def test_missing_rescale_is_a_warning(tmp_path):
    slices = series()
    for one in slices:
        del one.RescaleSlope, one.RescaleIntercept
    image = read_image(save(tmp_path, slices))
    assert any("RescaleSlope" in warning for warning in image.warnings)


def test_jpeg_ls_is_decoded(tmp_path):
    slices = series()
    save(tmp_path / "plain", slices)
    for one in slices:
        one.compress(JPEGLSLossless)
    equal(read_image(save(tmp_path / "packed", slices)), read_image(tmp_path / "plain"))


def test_positions_rounded_to_a_tenth_of_a_millimetre_are_regular(tmp_path):
    slices = series()
    for k, one in enumerate(slices):
        one.ImagePositionPatient = [-30, -40, round(-500 + 1.25 * k, 1)]
    assert read_image(save(tmp_path, slices)).spacing_mm[2] == pytest.approx(1.25, abs=0.02)


def put(index: int, **values: Any) -> Any:
    def change(slices: list[Dataset]) -> list[Dataset]:
        for name, value in values.items():
            setattr(slices[index], name, value)
        return slices

    return change


def put_all(**values: Any) -> Any:
    def change(slices: list[Dataset]) -> list[Dataset]:
        for one, (name, value) in itertools.product(slices, values.items()):
            setattr(one, name, value)
        return slices

    return change


def without(index: int, name: str) -> Any:
    def change(slices: list[Dataset]) -> list[Dataset]:
        delattr(slices[index], name)
        return slices

    return change


def moved(index: int, *lps: float) -> Any:
    def change(slices: list[Dataset]) -> list[Dataset]:
        slices[index].ImagePositionPatient = list(slices[index].ImagePositionPatient + np.array(lps))
        return slices

    return change


def tilted(degrees: float) -> Any:
    def change(slices: list[Dataset]) -> list[Dataset]:
        for k, one in enumerate(slices):
            one.ImagePositionPatient = [-30, -40 + k * GAP_MM * np.tan(np.radians(degrees)).round(5), -500 + k * GAP_MM]
        return slices

    return change


def stretched(slices: list[Dataset]) -> list[Dataset]:
    """Gaps of 2.45 in the first half, 2.55 in the second: each within tolerance, their sum not."""
    far = series(hu=np.tile(volume(), (1, 1, 6)))
    for one, z in zip(far, np.cumsum([2.4] * 18 + [2.5] * 18), strict=True):
        one.ImagePositionPatient = [-30, -40, round(float(z), 3)]
    return far


def enhanced(slices: list[Dataset]) -> list[Dataset]:
    for one in slices:
        one.SOPClassUID = one.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    slices[0].SOPClassUID = slices[0].file_meta.MediaStorageSOPClassUID = MRImageStorage
    return slices


def foreign_syntax(slices: list[Dataset]) -> list[Dataset]:
    one = slices[2]
    one.PixelData = pydicom.encaps.encapsulate([bytes(64)])
    one["PixelData"].is_undefined_length = True
    one.file_meta.TransferSyntaxUID = JPEG2000Lossless
    return slices


BAD = {
    "empty folder": (lambda s: [], "no DICOM file"),
    "no CT": (enhanced, "no CT slices, found 5 x Enhanced CT Image Storage, 1 x MR Image Storage"),
    "only localizers": (put_all(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "found 6 x CT localizer"),
    "one slice": (lambda s: s[:1], "has 1 slice, expected at least 2"),
    "no position": (without(2, "ImagePositionPatient"), "ImagePositionPatient is missing, expected"),
    "no orientation": (without(2, "ImageOrientationPatient"), "ImageOrientationPatient is missing, expected"),
    "no spacing": (without(0, "PixelSpacing"), "PixelSpacing is missing, expected"),
    "empty spacing": (put_all(PixelSpacing=None), "PixelSpacing is missing, expected"),
    "spacing 0": (put_all(PixelSpacing=[0, 0.7]), "expected positive numbers"),
    "no rows": (without(0, "Rows"), "Rows is missing or 0"),
    "colours": (put(1, PhotometricInterpretation="YBR_FULL"), "PhotometricInterpretation is YBR_FULL, expected MONO"),
    "mixed sizes": (put(3, Rows=ROWS - 1), f"expected {ROWS}"),
    "mixed spacing": (put(3, PixelSpacing=[0.9, 0.9]), "PixelSpacing is [0.9, 0.9], expected [0.9, 0.7]"),
    "mixed orientation": (put(3, ImageOrientationPatient=[1, 0, 0, 0, 0, -1]), "ImageOrientationPatient is"),
    "mixed frames": (put(3, FrameOfReferenceUID="1.2.3"), "FrameOfReferenceUID"),
    "axes not perpendicular": (
        put_all(ImageOrientationPatient=[1, 0, 0, 0.5, 0.8, 0]),
        "expected two perpendicular unit vectors",
    ),
    "axes zero": (put_all(ImageOrientationPatient=[0, 0, 0, 0, 0, 0]), "expected two perpendicular unit vectors"),
    "duplicate": (moved(3, 0, 0, -GAP_MM), "both lie at (-30.00, -40.00, -495.00) (LPS mm; 1 such pairs)"),
    "missing slice": (lambda s: s[:2] + s[3:], "missing slice, gap of 5.00 mm between"),
    "irregular": (moved(3, 0, 0, 0.3), "irregular slice spacing, gap of 2."),
    "drifting": (stretched, "from its place, expected evenly spaced slices"),
    "gantry tilt": (tilted(12.0), "gantry tilt of 12.0 degrees, slices shift 2.7 mm sideways"),
    "slice aside": (moved(3, 2, 0, 0), "at (-28.00, -40.00, -492.50) (LPS mm) lies 2.0 mm beside the stack"),
    "truncated pixels": (put(2, PixelData=bytes(10)), "pixel data truncated"),
    "no pixels": (without(2, "PixelData"), "pixel data truncated, damaged"),
    "no decoder": (foreign_syntax, "transfer syntax that cannot be decoded (Unable to de"),
    "all equal": (put_all(PixelData=bytes(2 * ROWS * COLUMNS)), "all voxels equal -1024"),
}


@pytest.mark.parametrize(("change", "words"), BAD.values(), ids=BAD.keys())
def test_bad_series_is_refused_in_one_line_that_names_the_place(tmp_path, change, words):
    folder = save(tmp_path / "scan", change(series()))
    with pytest.raises(ImageError) as caught:
        read_image(folder)
    message = str(caught.value)
    assert message.startswith(str(folder))
    assert words in message
    assert "\n" not in message


@pytest.mark.parametrize("keep", [0.2, 0.6, 0.99])
def test_a_cut_file_is_refused_or_named(tmp_path, keep):
    """A file cut in its header, its geometry or its pixels never passes in silence."""
    save(tmp_path, series())
    victim = sorted(tmp_path.glob("*.dcm"))[2]
    content = victim.read_bytes()
    victim.write_bytes(content[: int(len(content) * keep)])
    try:
        warnings = read_image(tmp_path).warnings
    except ImageError as error:
        warnings = (str(error),)
    assert warnings
    assert all("\n" not in warning for warning in warnings)


def test_a_garbled_number_is_named(tmp_path):
    save(tmp_path, series())
    for file in tmp_path.glob("*.dcm"):
        file.write_bytes(file.read_bytes().replace(b"-30.0\\-40.0", b"-3a.0\\-4b.0"))
    with pytest.raises(ImageError, match=r"000\.dcm: ImagePositionPatient is \[.*-3a.*expected 3 numbers"):
        read_image(tmp_path)


def test_importing_the_package_loads_no_reader():
    """The command line starts fast: the libraries that read scans take more than a second to import."""
    code = "import sys, vertfrac.imaging; print({'nibabel', 'pydicom', 'highdicom'} & set(sys.modules))"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "set()"


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the real series is not at {REAL}")
class TestRealSeries:
    """CRLM-CT-1004 (Colorectal-Liver-Metastases, CC BY 4.0, doi 10.7937/QXK2-QG03): 41 slices of 5 mm."""

    def test_reads(self):
        image = read_image(REAL)
        assert image.hu.shape == (512, 512, 41)
        assert image.hu.dtype == np.int16
        assert image.warnings == ()
        np.testing.assert_allclose(image.spacing_mm, [0.796875, 0.796875, 5])
        # first slice of the series: LPS (-198.199997, -204, -175), the top left voxel of the highest slice
        np.testing.assert_allclose(image.grid.to_world([511, 511, 40]), [198.199997, 204, -175])
        stored = pydicom.dcmread(REAL / "1-01.dcm")
        np.testing.assert_array_equal(image.hu[::-1, ::-1, 40].T, stored.pixel_array - 1024)

    def test_round_trip_through_nifti(self, tmp_path):
        image = read_image(REAL)
        write_nifti(tmp_path / "a.nii", image)
        equal(image, read_image(tmp_path / "a.nii"))

    def test_a_missing_slice_is_found(self, tmp_path):
        for file in REAL.glob("*.dcm"):
            if file.name != "1-20.dcm":
                shutil.copy(file, tmp_path)
        with pytest.raises(ImageError, match=r"missing slice, gap of 10\.00 mm between 1-21\.dcm"):
            read_image(tmp_path)
