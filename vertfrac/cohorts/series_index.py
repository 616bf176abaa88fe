"""An index of a folder of DICOM files: which file belongs to which series, whatever the layout of the folder.

Only headers are read. The index is made once for a cohort (``vertfrac index``), so that no later step has to look
through hundreds of thousands of files.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd

from vertfrac import tables
from vertfrac.errors import CohortError
from vertfrac.files import walk
from vertfrac.imaging.messages import one_line

_BATCH = 4096  # headers in flight: what bounds the memory, whatever the size of the tree
_MOST = 2**31  # what a DICOM integer string may hold
_TAGS = ["SOPClassUID", "SeriesInstanceUID", "InstanceNumber", "PatientID"]


def index_series(images: Path, *, threads: int = 8) -> pd.DataFrame:
    """The table SERIES of a folder and all folders below it, symbolic links followed: one row per file.

    threads : headers read at the same time, which hides the latency of a disk or a network.
    Raises CohortError if there is no such folder or a folder cannot be listed; a file that is not readable as DICOM
    has a row with the reason.
    """
    parts = [tables.SERIES.frame([])]
    files = _files(images)
    with warnings.catch_warnings(), ThreadPoolExecutor(max_workers=threads) as pool:
        warnings.simplefilter("ignore")  # pydicom warns of each malformed value of each file
        while batch := list(islice(files, _BATCH)):
            parts.append(tables.SERIES.frame(pool.map(lambda file: _row(images, file), batch)))
    return pd.concat(parts, ignore_index=True)


def tree_fingerprint(images: Path) -> str:
    """Hash of the folders below ``images`` and the times when they changed, 12 digits; opens no file.

    It differs once a file was added, removed or renamed anywhere, not when a file was rewritten in place. Raises
    CohortError as `index_series` does.
    """
    digest = hashlib.sha256()
    for folder, _ in _folders(images):
        digest.update(f"{folder.relative_to(images).as_posix()} {folder.stat().st_mtime_ns}\n".encode())
    return digest.hexdigest()[:12]


def series_key(uid: str) -> str:
    """A SeriesInstanceUID to compare by: without padding and without the dot with which the public UIDs end."""
    return uid.strip(" \0.")


def _row(images: Path, file: Path) -> dict[str, Any]:
    import pydicom
    from pydicom.uid import MediaStorageDirectoryStorage

    row: dict[str, Any] = {"path": file.relative_to(images).as_posix()}
    try:
        header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(_TAGS))
        row["series"] = _text(header.get("SeriesInstanceUID"))
        directory = header.file_meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage
        row["patient"] = _text(header.get("PatientID"))
        row["sop_class"] = _text(getattr(header.get("SOPClassUID"), "name", None))
    except OSError as error:
        return row | {"reason": f"cannot be read ({error.strerror})"}
    except Exception as error:  # not DICOM, or a damaged header, which makes pydicom raise almost anything
        return row | {"reason": one_line(error)}
    if row["series"] is None and not directory:
        return row | {"reason": "cut short or damaged: holds no SeriesInstanceUID"}
    try:
        number = int(header.InstanceNumber)
    except Exception:  # absent, empty, no number, or damaged, of which pydicom raises almost anything
        number = _MOST
    row["instance"] = number if abs(number) < _MOST else None
    return row | {"reason": ""}


def _text(value: Any) -> str | None:
    return (str(value).strip(" \0") or None) if value is not None else None


def _files(images: Path) -> Iterator[Path]:
    """Every file below ``images``, in the order of their names."""
    for folder, names in _folders(images):
        yield from (path for name in names if (path := folder / name).is_file())


def _folders(images: Path) -> Iterator[tuple[Path, list[str]]]:
    """``images`` and every folder below it, with the names of its files."""
    if not images.is_dir():
        raise CohortError(f"{images}: no such folder, expected the one with the DICOM series")

    def refused(error: OSError) -> None:
        raise CohortError(f"{error.filename}: cannot be listed ({error.strerror}), expected a folder of DICOM files")

    return ((folder, names) for folder, _, names in walk(images, refused))
