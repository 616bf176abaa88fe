"""A LungCancer-500 study of a few small slices, to be changed and broken by tests."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROWS, COLUMNS, SLICES = 24, 20, 16


@dataclass
class Study:
    """One case on its way to disk: its slices as pydicom datasets from above, and the content of its JSON."""

    name: str
    root: Path
    slices: list[Any]
    content: Any
    folder: Path = field(init=False)
    saved: bool = False

    def __post_init__(self) -> None:
        self.folder = self.root / "images" / self.name

    @property
    def json(self) -> Path:
        return self.root / "annotations" / f"{self.name}.json"

    @property
    def vertebrae(self) -> list[Any]:
        """The vertebrae of the only expert, each a list of six voxels (row, column, slice)."""
        return self.content["Annotation"]["one"]

    def save(self) -> list[Path]:
        """Write the series under names in random order, and the JSON; returns the files of the slices, from above."""
        self.saved = True
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        names = np.random.default_rng(5).permutation(len(self.slices))
        files = [self.folder / f"{name:03d}.dcm" for name in names]
        for file, one in zip(files, self.slices, strict=True):
            one.save_as(file, enforce_file_format=True)
        self.json.parent.mkdir(parents=True, exist_ok=True)
        self.json.write_text(self.content if isinstance(self.content, str) else json.dumps(self.content))
        return files


def points(top: float) -> list[list[float]]:
    """A vertebra 3 slices tall: six voxels (row, column, slice), all in column 9."""
    return [[row, 9.0, z] for row in (8.0, 11.0, 14.0) for z in (top, top + 3.0)]


@pytest.fixture(scope="session")
def lungcancer_study() -> Callable[[Path, str], Study]:
    """Make a sound study, not yet written: 16 slices of 24 x 20 pixels, 3 x 2 x 5 mm, three vertebrae."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    def make(root: Path, name: str) -> Study:
        uid, frame = generate_uid(), generate_uid()
        hu = np.random.default_rng(3).integers(-1000, 1500, (SLICES, ROWS, COLUMNS))
        slices = []
        for k in range(SLICES):
            meta = FileMetaDataset()
            meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, CTImageStorage
            meta.MediaStorageSOPInstanceUID = generate_uid()
            one = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
            one.SOPClassUID, one.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
            one.SeriesInstanceUID, one.FrameOfReferenceUID, one.PatientID = uid, frame, f"patient of {name}"
            one.Modality, one.InstanceNumber, one.ImageType = "CT", k + 1, ["ORIGINAL", "PRIMARY", "AXIAL"]
            one.ImageOrientationPatient, one.PixelSpacing = [1, 0, 0, 0, 1, 0], [3, 2]
            one.ImagePositionPatient = [-20, -30, 500 - 5 * k]
            one.Rows, one.Columns, one.SamplesPerPixel, one.PhotometricInterpretation = ROWS, COLUMNS, 1, "MONOCHROME2"
            one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 16, 15, 0
            one.RescaleSlope, one.RescaleIntercept = 1, -1024
            one.PixelData = (hu[k] + 1024).astype("<u2").tobytes()
            slices.append(one)
        content = {
            "SeriesInstanceUID": str(uid),
            "Folder": name,
            "Annotation": {"one": [points(top) for top in (1.0, 6.0, 11.0)]},
        }
        return Study(name, root, slices, content)

    return make
