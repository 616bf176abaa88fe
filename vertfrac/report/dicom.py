"""DICOM objects of a measured scan, to be filed with it: a structured report (TID 1500) and a secondary capture.

Both are new series of the study that the scan belongs to. Their UIDs are fresh ones (2.25, from random UUIDs): an
object says when it was made, so that a second run makes other objects, which must not share a UID with the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import highdicom
import numpy as np
import pandas as pd
from highdicom import sr
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import UID, generate_uid

from vertfrac import tables
from vertfrac.files import replacing
from vertfrac.geometry.keypoints import HEIGHTS
from vertfrac.imaging.dicom import quiet_pydicom
from vertfrac.imaging.dicom_source import LPS_FROM_RAS, UTF_8, DicomSource
from vertfrac.imaging.messages import printable
from vertfrac.report import dicom_codes as concepts
from vertfrac.report.levels import text_of

if TYPE_CHECKING:
    from highdicom.base import SOPClass

RESEARCH_USE = "Research use only, not for diagnosis: vertfrac is research software and not a medical device."
_REPORT_SERIES, _PICTURE_SERIES = 9801, 9802
"""SeriesNumber: above those of scanners."""
_EMPTY_IF_UNKNOWN = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
    "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip
"""Type 2 in every object: there, but empty if the source does not say."""


@dataclass(frozen=True)
class Author:
    """What measured: the version of vertfrac, the name of the model and its digest (``card.model_digest``)."""

    version: str
    model: str
    digest: str


def write_report(
    path: Path | str, source: DicomSource, vertebrae: pd.DataFrame, warnings: Sequence[str], author: Author
) -> None:
    """Write the measurements of a scan as a Comprehensive 3D SR, atomically.

    vertebrae : rows of VERTEBRAE, at least one. Those with status ok have heights, G and grade; of the others the
    report says that they were found and why they were not graded. warnings : of the scan, which become comments.
    """
    with quiet_pydicom():
        _save(path, measurement_report(source, vertebrae, warnings, author))


def write_picture(path: Path | str, source: DicomSource, rgb: NDArray[np.uint8], author: Author) -> None:
    """Write a sagittal picture, (rows, columns, 3), anterior at left and superior above, as a secondary capture."""
    with quiet_pydicom():
        _save(path, secondary_capture(source, rgb, author))


def _save(path: Path | str, instance: SOPClass) -> None:
    with replacing(path) as temporary:
        instance.save_as(temporary, enforce_file_format=True)


def measurement_report(
    source: DicomSource, vertebrae: pd.DataFrame, warnings: Sequence[str], author: Author
) -> sr.Comprehensive3DSR:
    """The structured report; see ``write_report``."""
    algorithm = sr.AlgorithmIdentification(
        name="vertfrac", version=author.version, parameters=[f"model {printable(author.model)} ({author.digest})"]
    )
    records: list[dict[Any, Any]] = vertebrae.to_dict("records")
    groups = [
        _group(row, points, source, algorithm)
        for row, points in zip(records, tables.keypoints_of(vertebrae), strict=True)
    ]
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=_observer(author)),
        procedure_reported=codes.LN.CTUnspecifiedBodyRegion,
        imaging_measurements=groups,
    )
    content[0].ContentSequence.append(_comments([RESEARCH_USE, *warnings]))
    report = sr.Comprehensive3DSR(
        evidence=[_nobody(source), *source.slices[1:]],
        content=content,
        series_instance_uid=_fresh(),
        series_number=_REPORT_SERIES,
        sop_instance_uid=_fresh(),
        instance_number=1,
        is_complete=True,
        series_description="vertfrac: vertebral heights (research use)",
        **_made_by(author),
    )
    _file_under(report, source)
    return report


def secondary_capture(source: DicomSource, rgb: NDArray[np.uint8], author: Author) -> highdicom.sc.SCImage:
    """The secondary capture; see ``write_picture``."""
    nobody = _nobody(source)
    picture = highdicom.sc.SCImage(
        pixel_array=np.ascontiguousarray(rgb),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("P", "F"),
        study_instance_uid=nobody.StudyInstanceUID,
        series_instance_uid=_fresh(),
        series_number=_PICTURE_SERIES,
        sop_instance_uid=_fresh(),
        instance_number=1,
        series_description="vertfrac: rulers (research use)",
        **_made_by(author),
    )
    picture.ConversionType = "WSD"  # made by a workstation; highdicom says digital interface
    picture.BodyPartExamined = "SPINE"
    picture.BurnedInAnnotation = "NO"  # of the patient there is the anatomy alone
    picture.ImageComments = RESEARCH_USE
    picture.DerivationDescription = (
        "Rulers of vertebral heights on a slice straightened along the spine, and on the scan"
    )
    picture.SourceImageSequence = [_reference(one) for one in source.slices]
    _file_under(picture, source)
    return picture


def _group(
    row: dict[Any, Any], points: NDArray[np.float64], source: DicomSource, algorithm: sr.AlgorithmIdentification
) -> sr.MeasurementsAndQualitativeEvaluations:
    """What is said of one vertebra; points (6, 3), world RAS mm."""
    level, runner_up = text_of(row["level"]), text_of(row["level_runner_up"])
    told = f"{level} or {runner_up}" if level and runner_up else level
    name = f"vertebra {row['vertebra']}" + (f" ({printable(told)})" if told else "")
    graded = row["status"] == "ok" and not pd.isna(row["grade"])
    evaluations = [sr.QualitativeEvaluation(concepts.STATUS, concepts.STATUS_CODES[str(row["status"])])]
    if level and runner_up:
        evaluations.append(sr.QualitativeEvaluation(concepts.LEVEL_RUNNER_UP, concepts.vertebra(runner_up)))
    if graded:
        grade = int(row["grade"])
        evaluations.append(sr.QualitativeEvaluation(concepts.GENANT_GRADE, concepts.GRADE_CODES[grade]))
        evaluations.append(sr.QualitativeEvaluation(concepts.SEVERITY, concepts.SEVERITIES[grade]))
    if graded and not pd.isna(row["grade_level"]):
        by_level = concepts.GRADE_CODES[int(row["grade_level"])]
        evaluations.append(sr.QualitativeEvaluation(concepts.GRADE_LEVEL, by_level))
    images = source.slices_through(points) if np.isfinite(points).all() else []
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=_fresh(), identifier=name),
        finding_sites=[sr.FindingSite(concepts.vertebra(level))],
        algorithm_id=algorithm,
        measurements=[
            *(_measurements(row, points, source.frame_of_reference) if graded else ()),
            *_ratios(row, {concepts.LEVEL_PROBABILITY: "level_probability"}),
        ]
        or None,
        qualitative_evaluations=evaluations,
        source_images=[sr.SourceImageForMeasurementGroup(one.SOPClassUID, one.SOPInstanceUID) for one in images],
    )


def _measurements(row: dict[Any, Any], points: NDArray[np.float64], frame: str) -> list[sr.Measurement]:
    """Three heights with the ends of their rulers, G, and G by the level where there is one."""
    rulers = points.reshape(3, 2, 3) * LPS_FROM_RAS
    heights = [
        sr.Measurement(
            name=concepts.HEIGHT_CODES[part],
            value=float(row[f"height_{part}_mm"]),
            unit=codes.UCUM.Millimeter,
            referenced_coordinates=[
                sr.CoordinatesForMeasurement3D(
                    graphic_type=sr.GraphicTypeValues3D.POLYLINE, graphic_data=ends, frame_of_reference_uid=frame
                )
            ],
        )
        for part, ends in zip(HEIGHTS, rulers, strict=True)
    ]
    return [
        *heights,
        *_ratios(row, {concepts.GENANT_INDEX: "genant", concepts.GENANT_LEVEL: "genant_level"}),
    ]


def _ratios(row: dict[Any, Any], columns: dict[Code, str]) -> list[sr.Measurement]:
    """Those numbers of a row that are known."""
    return [
        sr.Measurement(name, float(row[column]), codes.UCUM.Ratio)
        for name, column in columns.items()
        if not pd.isna(row[column])
    ]


def _observer(author: Author) -> sr.ObserverContext:
    """vertfrac with this model, which is the same device in every report."""
    return sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=generate_uid(prefix=None, entropy_srcs=["vertfrac", author.version, author.digest]),
            name="vertfrac",
            manufacturer_name="vertfrac",
            model_name=f"vertfrac {author.version}, model {printable(author.model)}",
            serial_number=author.digest,
        ),
    )


def _comments(texts: Sequence[str]) -> sr.ContainerContentItem:
    container = sr.ContainerContentItem(
        name=concepts.QUALITATIVE_EVALUATIONS, relationship_type=sr.RelationshipTypeValues.CONTAINS
    )
    container.ContentSequence = sr.ContentSequence(
        [sr.TextContentItem(codes.DCM.Comment, printable(text), sr.RelationshipTypeValues.CONTAINS) for text in texts]
    )
    return container


def _made_by(author: Author) -> dict[str, Any]:
    return {
        "manufacturer": "vertfrac",
        "manufacturer_model_name": "vertfrac",
        "software_versions": author.version,
        "device_serial_number": author.digest,
        "specific_character_set": UTF_8,
        "coding_schemes": [
            CodingSchemeIdentificationItem(
                designator=concepts.SCHEME, name=concepts.SCHEME_NAME, responsible_organization="vertfrac"
            )
        ],
    }


def _nobody(source: DicomSource) -> Dataset:
    """The first slice as evidence with an empty patient: highdicom refuses values that `_file_under` copies anyway."""
    nobody = Dataset()
    for name in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        setattr(nobody, name, source.slices[0][name].value)
    for name in _EMPTY_IF_UNKNOWN:
        setattr(nobody, name, None)
    return nobody


def _file_under(instance: SOPClass, source: DicomSource) -> None:
    """Give an object the patient and the study of the source, every attribute as it is there."""
    instance.copy_patient_and_study_information(source.header)
    for name in _EMPTY_IF_UNKNOWN:
        if name not in instance:
            setattr(instance, name, None)


def _reference(one: Dataset) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = one.SOPClassUID, one.SOPInstanceUID
    return reference


def _fresh() -> UID:
    return generate_uid(prefix=None)
