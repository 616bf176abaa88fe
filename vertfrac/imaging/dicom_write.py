"""Writing a scan as a DICOM series of axial CT slices, one file each, with the same bytes whenever it is done."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vertfrac.errors import ImageError
from vertfrac.files import replacing_folder
from vertfrac.geometry.grid import Grid
from vertfrac.imaging.image import Image

if TYPE_CHECKING:
    from pydicom.dataset import FileDataset
    from pydicom.uid import UID

RESCALE_INTERCEPT = -1024
_AXIAL_TOLERANCE = 1e-5  # of the image's axes from the patient's


def write_dicom(
    folder: Path,
    image: Image,
    *,
    patient: str,
    seed: Sequence[str],
    names: Sequence[str],
) -> tuple[str, Grid]:
    """Write a canonical image as one CT series; returns its SeriesInstanceUID and the grid of (row, column, slice).

    Rows run to the posterior, columns to the left, slices downwards with InstanceNumber 1 on top. The grid maps such
    voxels to world RAS mm as a reader of the headers will.
    seed : the texts that all UIDs are derived from. names : the name of each slice's file, from above.
    Raises ImageError if the image is not axial, its values do not fit or the names are not as many as its slices.
    """
    matrix = image.grid.world_from_index
    spacing = image.grid.spacing_mm
    if np.abs(matrix[:3, :3] / spacing - np.eye(3)).max() > _AXIAL_TOLERANCE:
        raise ImageError(f"{image.source}: axes are not right, anterior and superior, expected a canonical axial image")
    stored = image.hu.astype(np.int32) - RESCALE_INTERCEPT
    limits = np.iinfo(np.int16)
    if (
        not np.array_equal(stored + RESCALE_INTERCEPT, image.hu)
        or stored.min() < limits.min
        or stored.max() > limits.max
    ):
        raise ImageError(
            f"{image.source}: values from {image.hu.min():g} to {image.hu.max():g}, expected 16-bit integers"
        )
    if len(names) != stored.shape[2]:
        raise ImageError(f"{folder}: {len(names)} names for {stored.shape[2]} slices, expected as many")
    voxels = stored[::-1, ::-1, ::-1].transpose(1, 0, 2).astype("<i2")  # (row, column, slice)
    # Headers hold decimals, so the grid is what they say, not what they were made from.
    rows, columns, slices = (float(_decimal(mm)) for mm in (spacing[1], spacing[0], spacing[2]))
    x, y, z = (float(_decimal(mm)) for mm in image.grid.to_world(np.array(image.hu.shape) - 1.0))
    world_from_voxel = np.array([[0, -columns, 0, x], [-rows, 0, 0, y], [0, 0, -slices, z], [0, 0, 0, 1.0]])
    with replacing_folder(folder) as temporary:
        for number, name in enumerate(names):
            one = _slice(voxels[:, :, number], number, patient, seed)
            one.PixelSpacing = [_decimal(rows), _decimal(columns)]
            one.SliceThickness = _decimal(slices)
            one.ImagePositionPatient = [_decimal(-x), _decimal(-y), _decimal(z - slices * number)]
            one.save_as(temporary / name, enforce_file_format=True)
    return str(_uid(seed, "series")), Grid((voxels.shape[0], voxels.shape[1], voxels.shape[2]), world_from_voxel)


def _slice(pixels: np.ndarray, number: int, patient: str, seed: Sequence[str]) -> FileDataset:
    """One slice (row, column) but for its place; number counts from 0."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, CTImageStorage
    meta.MediaStorageSOPInstanceUID = _uid(seed, f"slice {number}")
    one = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    values: dict[str, Any] = {
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "StudyInstanceUID": _uid(seed, "study"),
        "SeriesInstanceUID": _uid(seed, "series"),
        "FrameOfReferenceUID": _uid(seed, "frame"),
        "PositionReferenceIndicator": "",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "Modality": "CT",
        "Manufacturer": "vertfrac",
        "PatientID": patient,
        "PatientName": patient,
        "PatientBirthDate": "",
        "PatientSex": "",
        "PatientPosition": "HFS",
        "StudyID": "1",
        "StudyDate": "",
        "StudyTime": "",
        "AccessionNumber": "",
        "ReferringPhysicianName": "",
        "SeriesNumber": 1,
        "InstanceNumber": number + 1,
        "KVP": "",
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "RescaleSlope": 1,
        "RescaleIntercept": RESCALE_INTERCEPT,
        "RescaleType": "HU",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 1,
    }
    for name, value in values.items():
        setattr(one, name, value)
    one.PixelData = pixels.tobytes()
    return one


def _uid(seed: Sequence[str], what: str) -> UID:
    from pydicom.uid import generate_uid

    return generate_uid(entropy_srcs=[*seed, what])


def _decimal(value: float) -> str:
    """A decimal string of at most 16 characters, to a billionth."""
    text = f"{value:.9f}"
    return text if len(text) <= 16 else f"{value:.16g}"[:16]
