"""Scans and annotations in two tables: ``cases.csv`` and ``annotations.csv`` in one folder.

``cases.csv`` (SCANS) lists case and image, a NIfTI file or a folder of one DICOM series, and optionally the patient.
``annotations.csv`` (ANNOTATIONS) has one row per vertebra and expert with its six keypoints in world RAS mm.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from vertfrac import tables
from vertfrac.cohorts.sources import Scan
from vertfrac.errors import AnnotationError, TableError
from vertfrac.imaging import Image, read_image


def scans(folder: str) -> list[Scan]:
    """The cases of a folder; raises TableError or AnnotationError where its tables themselves are wrong."""
    here = Path(folder)
    listed = tables.read_table(here / "cases.csv", tables.SCANS)
    annotations = tables.read_table(here / "annotations.csv", tables.ANNOTATIONS)
    if (nameless := listed["case"].isna()).any():
        raise TableError(f"{here / 'cases.csv'}: row {nameless.argmax() + 1} has no case, expected a name")
    unknown = set(annotations["case"]) - set(listed["case"])
    if unknown:
        raise AnnotationError(f"{here / 'annotations.csv'}: case {min(unknown)} is not listed in cases.csv")
    annotations["expert"] = annotations["expert"].fillna(tables.DEFAULT_EXPERT)
    by_case = {str(case): rows for case, rows in annotations.groupby("case", sort=False)}
    return [
        _scan(here, case, image, patient, by_case.get(case, annotations[:0]))
        for case, image, patient in zip(
            listed["case"], listed["image"], listed["patient"].fillna(listed["case"]), strict=True
        )
    ]


def _scan(folder: Path, case: str, image: str, patient: str, annotations: pd.DataFrame) -> Scan:
    path = folder / image

    def read() -> tuple[Image, pd.DataFrame]:
        return read_image(path), annotations

    return Scan(case, patient, str(path), (folder / "cases.csv", folder / "annotations.csv", path), read)
