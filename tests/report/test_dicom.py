"""Laws of the DICOM objects: numbers are those of the table, patient and study of the source, and validators agree.

dciodvfy (package dicom3tools) and dsrdump (package dcmtk) judge the files where they are installed.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydicom
import pytest
from highdicom import sr
from numpy.typing import NDArray
from pydicom.uid import Comprehensive3DSRStorage, SecondaryCaptureImageStorage

from vertfrac import tables
from vertfrac.cohorts.levels import LEVELS
from vertfrac.errors import ImageError
from vertfrac.genant import genant_index, grade
from vertfrac.geometry.grid import Grid
from vertfrac.geometry.keypoints import HEIGHTS, heights
from vertfrac.imaging import Image, read_image
from vertfrac.imaging.dicom_source import DicomSource, read_source
from vertfrac.imaging.dicom_write import write_dicom
from vertfrac.inference.named import apply_levels
from vertfrac.report import dicom_codes
from vertfrac.report.dicom import RESEARCH_USE, Author, write_picture, write_report

Floats = NDArray[np.float64]
REAL = Path(__file__).parents[3] / "shared" / "data" / "crlm1004" / "dicom"
PAGE = Path(__file__).parents[2] / "docs" / "exchange.md"
STATUSES = ("partial", "ok", "ok", "low_score", "ok", "not_measured")
LEVEL_NAMES = ("", "T12", "", "L6", "L3", "")
AUTHOR = Author("1.2.3", "demo\\1\n", "0123456789ab")
WARNINGS = ("slices are 5.0 mm apart", "left out: B-Serie Übersicht 胸 \x1b[31m")
PICTURE = np.random.default_rng(0).integers(0, 255, (31, 20, 3)).astype(np.uint8)
JAPANESE = "Yamada^Tarou=山田^太郎=やまだ^たろう"

real = pytest.mark.skipif(not REAL.is_dir(), reason=f"the real series is not at {REAL}")


def _needs(program: str, package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} (package {package}) is not installed")


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small CT of 41 slices, 4 mm apart."""
    affine = np.diag([20.0, 20.0, 4.0, 1.0])
    affine[:3, 3] = [-20.5, 12.25, -130.125]
    hu = np.random.default_rng(1).integers(-900, 900, (4, 5, 41)).astype(np.int16)
    folder = tmp_path_factory.mktemp("study") / "series"
    names = [f"{number:02d}.dcm" for number in range(41)]
    write_dicom(folder, Image(hu, Grid(hu.shape, affine), "made"), patient="p", seed=("test",), names=names)
    return folder


@pytest.fixture
def edited(series: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the series with other attributes in all slices, or in the first; None deletes one."""

    def edit(first_only: bool = False, **attributes: Any) -> Path:
        folder = tmp_path / "edited"
        for number, file in enumerate(sorted(series.iterdir())):
            one = pydicom.dcmread(file)
            for name, value in attributes.items() if number == 0 or not first_only else ():
                if value is None:
                    delattr(one, name)
                else:
                    setattr(one, name, value)
            folder.mkdir(exist_ok=True)
            one.save_as(folder / file.name)
        return folder

    return edit


@pytest.fixture(scope="module")
def vertebrae(spine_keypoints: Callable[..., Floats]) -> pd.DataFrame:
    """Six vertebrae with statuses; those that are ok of grade 0, 1 and 3."""
    tall = [[20, 20, 20], [20, 19, 20 + 1 / 3], [16, 18, 21], [20, 20, 20], [9, 15, 20], [1] * 3]
    keypoints = spine_keypoints(6, top=10.0, pitch=24.0, heights=tall) + np.random.default_rng(2).normal(size=(6, 1, 3))
    keypoints[5, 2] = np.nan
    rows = []
    for number, (points, status, level) in enumerate(zip(keypoints, STATUSES, LEVEL_NAMES, strict=True), start=1):
        h = heights(points)
        index = float(genant_index(h))
        rows.append(
            {
                "case": "c", "vertebra": number, "level": level, "status": status, "genant": index,
                "grade": int(grade(index)) if status == "ok" else None,
                **{f"height_{name}_mm": mm for name, mm in zip(HEIGHTS, h, strict=True)},
                **tables.keypoint_values(points),
            }
        )  # fmt: skip
    return tables.VERTEBRAE.frame(rows)


@pytest.fixture(scope="module")
def source(series: Path) -> DicomSource:
    return read_source(read_image(series).files)


@pytest.fixture(scope="module")
def report(source: DicomSource, vertebrae: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("out") / "measurements.dcm"
    write_report(path, source, vertebrae, WARNINGS, AUTHOR)
    return path


@pytest.fixture(scope="module")
def picture(source: DicomSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("out") / "overlay.dcm"
    write_picture(path, source, PICTURE, AUTHOR)
    return path


def _groups(path: Path) -> list[Any]:
    found: list[Any] = sr.srread(path).content.get_image_measurement_groups()
    return found


def _values(group: Any) -> dict[str, float]:
    return {one.name.value: one.value for one in group.get_measurements()}


def test_the_numbers_of_graded_vertebrae_are_those_of_the_table(report: Path, vertebrae: pd.DataFrame) -> None:
    for group, row in zip(_groups(report), vertebrae.to_dict("records"), strict=True):
        expected = {f"HEIGHT_{part.upper()}": row[f"height_{part}_mm"] for part in HEIGHTS}
        assert _values(group) == ({**expected, "GENANT_INDEX": row["genant"]} if row["status"] == "ok" else {})
        assert {one.unit.value for one in group.get_measurements()} <= {"mm", "{ratio}"}


def test_every_vertebra_has_a_group_that_says_its_number_site_status_and_grade(
    report: Path, vertebrae: pd.DataFrame
) -> None:
    said = [
        {one.name.value: one.value.value for one in group.get_qualitative_evaluations()} for group in _groups(report)
    ]
    assert [group.tracking_identifier for group in _groups(report)] == [
        "vertebra 1", "vertebra 2 (T12)", "vertebra 3", "vertebra 4 (L6)", "vertebra 5 (L3)", "vertebra 6"
    ]  # fmt: skip
    sites = [group.finding_sites[0].value.meaning for group in _groups(report)]
    assert sites == ["Vertebra", "T12 vertebra", "Vertebra", "Vertebra", "L3 vertebra", "Vertebra"]
    assert [one["STATUS"] for one in said] == ["PARTIAL", "OK", "OK", "LOW_SCORE", "OK", "NOT_MEASURED"]
    assert [one.get("GENANT_GRADE") for one in said] == [None, "GRADE_0", "GRADE_1", None, "GRADE_3", None]
    assert [one.get("246112005") for one in said] == [None, "17621005", "255604002", None, "24484000", None]


def test_rulers_lie_in_the_frame_of_reference_of_the_scan(report: Path, series: Path, vertebrae: pd.DataFrame) -> None:
    frame = pydicom.dcmread(next(series.iterdir())).FrameOfReferenceUID
    for group, points in zip(_groups(report), tables.keypoints_of(vertebrae), strict=True):
        rulers = [one.referenced_coordinates[0] for one in group.get_measurements()[:3]]
        for ruler, pair in zip(rulers, points.reshape(3, 2, 3)[: len(rulers)], strict=True):
            assert (ruler.graphic_type.value, ruler.frame_of_reference_uid) == ("POLYLINE", frame)
            np.testing.assert_allclose(ruler.value, pair * [-1, -1, 1], atol=1e-4)  # DICOM holds them as float32


def test_the_slices_that_a_vertebra_refers_to_are_those_that_it_lies_in(
    report: Path, series: Path, vertebrae: pd.DataFrame
) -> None:
    z = {one.SOPInstanceUID: float(one.ImagePositionPatient[2]) for one in map(pydicom.dcmread, series.iterdir())}
    for group, points in zip(_groups(report), tables.keypoints_of(vertebrae), strict=True):
        found = sorted(z[one.referenced_sop_instance_uid] for one in group.source_images)
        if not np.isfinite(points).all():
            assert found == []
            continue
        low, high = points[:, 2].min(), points[:, 2].max()
        assert set(found) >= {place for place in z.values() if low <= place <= high}
        assert low - found[0] <= 2.0
        assert found[-1] - high <= 2.0
    evidence = pydicom.dcmread(report).CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    assert {one.ReferencedSOPInstanceUID for one in evidence.ReferencedSOPSequence} == set(z)


def _texts(dataset: Any) -> Iterator[tuple[str, str]]:
    for item in dataset.get("ContentSequence", ()):
        if item.ValueType == "TEXT":
            yield item.ConceptNameCodeSequence[0].CodeMeaning, item.TextValue
        yield from _texts(item)


def test_the_report_says_who_measured_what_is_unusual_and_that_it_is_research(report: Path) -> None:
    texts = list(_texts(pydicom.dcmread(report)))
    comments = [text for name, text in texts if name == "Comment"]
    assert comments == [RESEARCH_USE, WARNINGS[0], "left out: B-Serie Übersicht 胸 \\x1b[31m"]
    assert ("Device Observer Model Name", "vertfrac 1.2.3, model demo\\1\\n") in texts
    assert ("Algorithm Version", "1.2.3") in texts
    dataset = pydicom.dcmread(report)
    assert dataset.SOPClassUID == Comprehensive3DSRStorage
    assert (dataset.CompletionFlag, dataset.VerificationFlag) == ("COMPLETE", "UNVERIFIED")
    assert "research" in dataset.SeriesDescription


def test_the_picture_is_kept_pixel_by_pixel(picture: Path) -> None:
    dataset = pydicom.dcmread(picture)
    np.testing.assert_array_equal(dataset.pixel_array, PICTURE)
    assert dataset.SOPClassUID == SecondaryCaptureImageStorage
    assert dataset.ImageComments == RESEARCH_USE
    assert "PixelSpacing" not in dataset, "distances in a picture of two panels mean nothing"
    assert len(dataset.SourceImageSequence) == 41


def test_both_are_new_series_of_the_same_study(
    report: Path, picture: Path, series: Path, source: DicomSource, vertebrae: pd.DataFrame, tmp_path: Path
) -> None:
    write_report(tmp_path / "again.dcm", source, vertebrae, WARNINGS, AUTHOR)
    paths = [next(series.iterdir()), report, picture, tmp_path / "again.dcm"]
    datasets = [pydicom.dcmread(path) for path in paths]
    assert len({one.StudyInstanceUID for one in datasets}) == 1
    assert len({one.SeriesInstanceUID for one in datasets}) == 4
    assert len({one.SOPInstanceUID for one in datasets}) == 4
    assert not list(report.parent.glob(".writing-*"))


PATIENT_AND_STUDY: dict[str, Any] = {
    "PatientName": "Doe^Jane^^Dr", "PatientID": "007", "PatientBirthDate": "19400229", "PatientSex": "F",
    "PatientAge": "084Y", "StudyDate": "20240229", "StudyTime": "235959.5", "StudyID": "S 1", "AccessionNumber": "A-1",
    "StudyDescription": "CT 'chest' <b>", "ReferringPhysicianName": "Who^", "PatientIdentityRemoved": "NO",
}  # fmt: skip


@pytest.mark.parametrize(
    "attributes",
    [
        PATIENT_AND_STUDY,
        {"SpecificCharacterSet": ["", "ISO 2022 IR 87"], "PatientName": JAPANESE, "StudyDescription": "胸部"},
        {"SpecificCharacterSet": "ISO_IR 144", "PatientName": "Иванов^Пётр", "PatientID": "ЖЖ"},
        {"SpecificCharacterSet": "ISO_IR 100", "PatientName": "Müller^Zoë"},
        {"PatientID": ["A", "B"], "AccessionNumber": "0123456789-0123456789", "StudyID": "=cmd|' /C calc'!A0"},
        {"PatientName": "x" * 80, "PatientSex": "unknown to me, sorry"},
        {"PatientID": "", "PatientName": "", "StudyDate": ""},
        {"PatientBirthDate": None, "PatientSex": None, "StudyDate": None, "StudyTime": None, "PatientID": None,
         "StudyID": None, "AccessionNumber": None, "ReferringPhysicianName": None, "PatientName": None},
    ],
    ids=["plain", "Japanese", "Cyrillic", "Latin 1", "hostile", "over-long", "anonymised", "without type 2"],
)  # fmt: skip
def test_patient_and_study_are_those_of_the_source(
    edited: Callable[..., Path], vertebrae: pd.DataFrame, tmp_path: Path, attributes: dict[str, Any]
) -> None:
    with pydicom.config.disable_value_validation():
        folder = edited(**attributes)
        found = read_source(read_image(folder).files)
        write_report(tmp_path / "r.dcm", found, vertebrae, WARNINGS, AUTHOR)
        write_picture(tmp_path / "p.dcm", found, PICTURE, AUTHOR)
        for path in (tmp_path / "r.dcm", tmp_path / "p.dcm"):
            dataset = pydicom.dcmread(path)
            for name, value in attributes.items():
                if name == "SpecificCharacterSet":
                    assert dataset[name].value == "ISO_IR 192"
                else:
                    assert name in dataset
                    assert dataset.get(name) == ("" if value is None else value) or (
                        not value and not dataset[name].value
                    )
    odd = {"PatientID": ["A", "B"], "AccessionNumber": "0123456789-0123456789", "PatientName": "x" * 80}
    doubted = [name for name, value in odd.items() if attributes.get(name) == value]
    for name in doubted:
        assert any(line.startswith(name) and "copied as" in line for line in found.warnings), found.warnings
    assert bool(found.warnings) == bool(doubted)


@pytest.mark.parametrize(
    ("attributes", "first_only", "words"),
    [
        ({"FrameOfReferenceUID": None}, False, "FrameOfReferenceUID is missing, expected a UID"),
        ({"StudyInstanceUID": ""}, False, "StudyInstanceUID is missing, expected a UID"),
        ({"SOPInstanceUID": "1.2.x"}, True, "SOPInstanceUID is 1.2.x, expected a UID"),
        ({"StudyInstanceUID": "1.2.3"}, True, "another StudyInstanceUID than"),
        ({"PatientID": "q"}, True, "another PatientID than"),
        ({"SOPInstanceUID": "1.2.3"}, False, "the SOPInstanceUID of"),
    ],
)
def test_a_series_that_cannot_be_referred_to_is_refused_by_the_name_of_the_file(
    edited: Callable[..., Path], attributes: dict[str, Any], first_only: bool, words: str
) -> None:
    with pydicom.config.disable_value_validation():
        folder = edited(first_only, **attributes)
        files = read_image(folder).files
    with pytest.raises(ImageError) as error:
        read_source(files)
    assert words in str(error.value)
    assert str(error.value).startswith(str(folder))
    assert "\n" not in str(error.value)


def test_a_slice_that_is_gone_since_is_named(series: Path, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"gone\.dcm: header cannot be read"):
        read_source([*read_image(series).files, tmp_path / "gone.dcm"])


def test_what_was_no_dicom_series_is_refused() -> None:
    with pytest.raises(ImageError, match="expected a scan that was read from a DICOM series"):
        read_source(())


@pytest.mark.parametrize("level", [*LEVELS, "S1"])
def test_levels_have_the_codes_of_snomed(level: str) -> None:
    code = dicom_codes.vertebra(level)
    assert code.meaning == {"T13": "Vertebra", "L6": "Vertebra", "S1": "Sacrum"}.get(level, f"{level} vertebra")
    assert code.scheme_designator == "SCT"


@pytest.fixture(scope="module")
def named(vertebrae: pd.DataFrame) -> pd.DataFrame:
    """The same six with levels, the third and the fourth in doubt, the last named S1."""
    levels, others = ["L1", "L2", "L3", "L4", "L6", "S1"], ["", "", "L2", "L3", "", ""]
    return apply_levels(vertebrae, levels, [0.9, 0.95, 0.55, 0.6, 0.9, 0.99], others)


@pytest.fixture(scope="module")
def named_report(source: DicomSource, named: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("named") / "measurements.dcm"
    write_report(path, source, named, WARNINGS, AUTHOR)
    return path


def test_levels_are_coded_with_their_probability_and_what_else_they_may_be(
    named_report: Path, named: pd.DataFrame
) -> None:
    groups = _groups(named_report)
    sites = [group.finding_sites[0].value.value for group in groups]
    assert sites == ["66794005", "14293000", "36470004", "11994002", "51282000", "54735007"]
    assert [group.tracking_identifier for group in groups][2:] == [
        "vertebra 3 (L3 or L2)", "vertebra 4 (L4 or L3)", "vertebra 5 (L6)", "vertebra 6 (S1)"
    ]  # fmt: skip
    said = [{one.name.value: one.value.value for one in group.get_qualitative_evaluations()} for group in groups]
    assert [one.get("LEVEL_RUNNER_UP") for one in said] == [None, None, "14293000", "36470004", None, None]
    assert said[5]["STATUS"] == "SACRUM"
    for group, one, row in zip(groups, said, named.to_dict("records"), strict=True):
        values = _values(group)
        assert values.pop("LEVEL_PROB") == row["level_probability"]
        assert ("GENANT_LEVEL" in values) == ("GRADE_LEVEL" in one) == (row["status"] == "ok") == bool(values)
        if values:
            assert values["GENANT_LEVEL"] == row["genant_level"]
            assert one["GRADE_LEVEL"] == f"GRADE_{row['grade_level']}"


def test_private_codes_fit_and_are_documented() -> None:
    names = [
        dicom_codes.GENANT_INDEX, dicom_codes.GENANT_GRADE, dicom_codes.STATUS, dicom_codes.GENANT_LEVEL,
        dicom_codes.GRADE_LEVEL, dicom_codes.LEVEL_PROBABILITY, dicom_codes.LEVEL_RUNNER_UP,
    ]  # fmt: skip
    values = [*dicom_codes.HEIGHT_CODES.values(), *dicom_codes.GRADE_CODES, *dicom_codes.STATUS_CODES.values()]
    page = PAGE.read_text(encoding="utf-8")
    for code in (*names, *values):
        assert len(code.value) <= 16
        assert len(code.meaning) <= 64
        assert f"| `{code.value}` | {code.meaning} |" in page


# --- other people's tools


def _errors(path: Path) -> list[str]:
    """What dciodvfy calls an error; it prints the name of the IOD that it has checked."""
    done = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False, errors="replace")
    said = (done.stdout + done.stderr).splitlines()
    assert any(line in ("Comprehensive3DSR", "SCImage") for line in said), said
    return [line for line in said if line.startswith("Error")]


@_needs("dciodvfy", "dicom3tools")
def test_dciodvfy_finds_no_error(report: Path, named_report: Path, picture: Path) -> None:
    assert _errors(report) == []
    assert _errors(named_report) == []
    assert _errors(picture) == []


@real
@_needs("dciodvfy", "dicom3tools")
def test_dciodvfy_finds_no_error_in_objects_of_a_real_series(vertebrae: pd.DataFrame, tmp_path: Path) -> None:
    found = read_source(read_image(REAL).files)
    write_report(tmp_path / "r.dcm", found, vertebrae, WARNINGS, AUTHOR)
    write_picture(tmp_path / "p.dcm", found, PICTURE, AUTHOR)
    assert _errors(tmp_path / "r.dcm") == []
    assert _errors(tmp_path / "p.dcm") == []


@_needs("dsrdump", "dcmtk")
def test_dsrdump_prints_the_numbers_of_the_table(report: Path, vertebrae: pd.DataFrame) -> None:
    done = subprocess.run(["dsrdump", report], capture_output=True, text=True, check=True)
    printed = [float(text) for text in re.findall(r'contains NUM:\(.*?\)="([^"]+)"', done.stdout)]
    graded = vertebrae[vertebrae["status"] == "ok"]
    expected = graded[[*(f"height_{part}_mm" for part in HEIGHTS), "genant"]].to_numpy(dtype=np.float64)
    np.testing.assert_allclose(np.reshape(printed, (-1, 4)), expected, rtol=0, atol=1e-12)
    assert done.stdout.count("Measurement Group") == len(vertebrae)
