"""What of a call can be refused before anything heavy is imported, read or computed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vertfrac.errors import ImageError
from vertfrac.imaging import is_nifti
from vertfrac.inference.card import read_card


def check_request(scans: Sequence[Path], model: Path, *, dicom: bool) -> None:
    """Raise ImageError if DICOM objects of a NIfTI file are wanted, ModelError if there is no model in its folder."""
    if dicom and (others := [path for path in scans if is_nifti(path)]):
        raise ImageError(f"{others[0]}: a NIfTI file, expected a folder with a DICOM series: --dicom needs its study")
    read_card(model)
