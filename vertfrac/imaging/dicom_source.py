"""What DICOM objects about a CT series take over from it: patient and study, and what its slices are called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vertfrac.errors import ImageError
from vertfrac.imaging.dicom import quiet_pydicom
from vertfrac.imaging.messages import one_line, printable

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

Floats = NDArray[np.float64]

UTF_8 = "ISO_IR 192"
LPS_FROM_RAS = np.array([-1.0, -1.0, 1.0])
"""Multiplied with world RAS mm it gives the patient coordinates of DICOM, and the other way round."""

_UIDS = ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")
_OF_SLICE = ["SOPClassUID", *_UIDS, "PatientID", "ImagePositionPatient"]


@dataclass(frozen=True, eq=False)
class DicomSource:
    """A CT series, for objects that refer to it.

    header : of its first slice, without pixels; all text of it can be written as UTF-8. slices : of each slice the UIDs
    and the place. normal_lps, along_mm : the normal of the slices, (3,), and the place of each along it, (n,).
    warnings : what is unusual about patient and study but is copied as it is, one sentence each.
    """

    header: Dataset
    slices: tuple[Dataset, ...]
    normal_lps: Floats
    along_mm: Floats
    warnings: tuple[str, ...]

    @property
    def frame_of_reference(self) -> str:
        """The FrameOfReferenceUID of all slices."""
        return str(self.slices[0].FrameOfReferenceUID)

    def slices_through(self, points_world: ArrayLike) -> list[Dataset]:
        """The slices between the lowest and the highest of some points (..., 3), world RAS mm, the nearest included."""
        along = (np.asarray(points_world, dtype=np.float64).reshape(-1, 3) * LPS_FROM_RAS) @ self.normal_lps
        nearest = [int(np.abs(self.along_mm - end).argmin()) for end in (along.min(), along.max())]
        return list(self.slices[min(nearest) : max(nearest) + 1])


def read_source(files: Sequence[Path]) -> DicomSource:
    """Read the headers of the slices of one series, in the order of `Image.files`.

    Raises ImageError, naming the file, for a slice without one of its UIDs or with that of another slice, and for
    slices of several studies or patients.
    """
    if not files:
        raise ImageError("no DICOM file, expected a scan that was read from a DICOM series")
    with quiet_pydicom():
        slices = tuple(_header(file, _OF_SLICE) for file in files)
        header = _header(files[0], None)
        for file, one in zip(files, slices, strict=True):
            _check(file, one, slices[0], files[0].name)
        _check_distinct(files, slices)
        axes = np.array(header.ImageOrientationPatient, dtype=np.float64).reshape(2, 3)
        positions = np.array([one.ImagePositionPatient for one in slices], dtype=np.float64)
        normal = np.cross(*axes)
        header.SpecificCharacterSet = UTF_8  # all text was decoded before
        return DicomSource(header, slices, normal, positions @ normal, tuple(_doubts(header)))


def _header(file: Path, tags: list[str] | None) -> Dataset:
    import pydicom

    try:
        header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=tags)
        header.decode()
    except Exception as error:  # gone or changed since the scan was read; pydicom raises almost anything
        raise ImageError(
            f"{file}: header cannot be read ({one_line(error)}), expected a slice of the series"
        ) from error
    return header


def _check(file: Path, one: Dataset, first: Dataset, first_name: str) -> None:
    from pydicom.uid import UID

    for name in _UIDS:
        uid = one.get(name)
        if not uid or not UID(str(uid)).is_valid:
            found = printable(str(uid)) if uid else "missing"
            raise ImageError(f"{file}: {name} is {found}, expected a UID, by which a report refers to the scan")
    for name in ("StudyInstanceUID", "PatientID"):
        if one.get(name) != first.get(name):
            raise ImageError(f"{file}: another {name} than {first_name}, expected slices of one study of one patient")


def _check_distinct(files: Sequence[Path], slices: Sequence[Dataset]) -> None:
    seen: dict[str, Path] = {}
    for file, one in zip(files, slices, strict=True):
        other = seen.setdefault(str(one.SOPInstanceUID), file)
        if other is not file:
            raise ImageError(f"{file}: the SOPInstanceUID of {other.name} too, expected one for each slice")


def _doubts(header: Dataset) -> list[str]:
    """What DICOM does not allow in the text by which patient and study are found; no value is told."""
    from pydicom import config
    from pydicom.multival import MultiValue
    from pydicom.valuerep import validate_value

    doubts = []
    for name in ("PatientID", "PatientName", "AccessionNumber", "StudyID", "PatientBirthDate", "PatientSex"):
        if name not in header:
            continue
        element: Any = header[name]
        several = isinstance(element.value, MultiValue)
        try:
            for value in element.value if several else [element.value]:
                validate_value(element.VR, str(value) if element.VR == "PN" else value, config.RAISE)
        except ValueError:
            doubts.append(f"{name} is longer than DICOM allows or not of its form; copied as it is")
        if several:
            doubts.append(f"{name} holds {len(element.value)} values, expected 1; copied as they are")
    return doubts
