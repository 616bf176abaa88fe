"""Ways in which a study breaks: each leaves a row of its case that names the file and says why; the others go on."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pydicom
import pytest
from pydicom.uid import JPEG2000Lossless, MRImageStorage

from vertfrac import tables
from vertfrac.cohorts.ingest import ingest
from vertfrac.cohorts.sources import list_scans

Study = Any  # of conftest
Change = Callable[[Study], object]


def put(*indices: int, **values: Any) -> Change:
    """Set attributes of some slices, or of all if none is named."""

    def change(study: Study) -> None:
        for k in indices or range(len(study.slices)):
            for name, value in values.items():
                setattr(study.slices[k], name, value)

    return change


def without(name: str, *indices: int) -> Change:
    def change(study: Study) -> None:
        for k in indices or range(len(study.slices)):
            delattr(study.slices[k], name)

    return change


def moved(index: int, **lps: float) -> Change:
    def change(study: Study) -> None:
        place = study.slices[index].ImagePositionPatient
        study.slices[index].ImagePositionPatient = [
            float(mm) + lps.get(axis, 0.0) for axis, mm in zip("xyz", place, strict=True)
        ]

    return change


def tilted(study: Study) -> None:
    for k, one in enumerate(study.slices):
        one.ImagePositionPatient = [-20, -30 + 5 * k * math.tan(math.radians(10)), 500 - 5 * k]


def turned(study: Study) -> None:
    """A second pile of slices under the same UID, coronal instead of axial."""
    for one in study.slices[8:]:
        one.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]


def numbered(numbers: Callable[[int], Any]) -> Change:
    def change(study: Study) -> None:
        for k, one in enumerate(study.slices):
            one.InstanceNumber = numbers(k)

    return change


def written(content: bytes | Callable[[bytes], bytes], index: int = 5) -> Change:
    """Replace the content of a slice's file."""

    def change(study: Study) -> None:
        file = study.save()[index]
        file.write_bytes(content if isinstance(content, bytes) else content(file.read_bytes()))

    return change


def beside(name: str, content: bytes) -> Change:
    """Put another file beside the slices."""

    def change(study: Study) -> None:
        study.save()
        (study.folder / name).write_bytes(content)

    return change


def garbled_number(study: Study) -> None:
    study.slices[5].InstanceNumber = 77
    file = study.save()[5]
    file.write_bytes(file.read_bytes().replace(b"\x20\x00\x13\x00IS\x02\x0077", b"\x20\x00\x13\x00IS\x02\x00ab"))


def unknown_syntax(study: Study) -> None:
    file = study.save()[5]
    one = pydicom.dcmread(file)
    one.file_meta.TransferSyntaxUID = "1.2.3.4.5"
    one.save_as(file, implicit_vr=False, little_endian=True)


def damaged_frame(study: Study) -> None:
    one = study.slices[5]
    one.PixelData = pydicom.encaps.encapsulate([bytes(64)])
    one["PixelData"].is_undefined_length = True
    one.file_meta.TransferSyntaxUID = JPEG2000Lossless


def content(value: Any) -> Change:
    """Another content of the JSON: text as it is, anything else as JSON."""

    def change(study: Study) -> None:
        study.content = value

    return change


def key(name: str, value: Any) -> Change:
    def change(study: Study) -> None:
        study.content[name] = value

    return change


def point(vertebra: int, number: int, value: Any) -> Change:
    """Another voxel for one keypoint."""

    def change(study: Study) -> None:
        study.vertebrae[vertebra][number] = value

    return change


def named(*levels: str) -> Change:
    """The 2022 format, with these levels."""

    def change(study: Study) -> None:
        study.content["Annotation"]["one"] = [
            {"segments": [voxels[k : k + 2] for k in (0, 2, 4)], "type": level}
            for voxels, level in zip(study.vertebrae, levels, strict=True)
        ]

    return change


def experts(**vertebrae: Any) -> Change:
    return key("Annotation", vertebrae)


def all_points(change: Callable[[list[float]], list[float]]) -> Change:
    def apply(study: Study) -> None:
        for voxels in study.vertebrae:
            voxels[:] = [change(voxel) for voxel in voxels]

    return apply


def same_vertebra_twice(study: Study) -> None:
    study.vertebrae[1] = study.vertebrae[0]


def one_vertebra(study: Study) -> None:
    del study.vertebrae[1:]


def of_series(uid: str) -> Change:
    def change(study: Study) -> None:
        study.content["SeriesInstanceUID"] = uid

    return change


BROKEN: list[tuple[str, Change, str]] = [
    ("a slice without spacing", without("PixelSpacing", 5), "PixelSpacing is missing, expected 2 numbers"),
    ("no slice with spacing", without("PixelSpacing"), "PixelSpacing is missing, expected 2 numbers"),
    ("a slice without position", without("ImagePositionPatient", 5), "ImagePositionPatient is missing, expected 3"),
    ("no slice with position", without("ImagePositionPatient"), "ImagePositionPatient is missing, expected 3"),
    ("a slice without orientation", without("ImageOrientationPatient", 5), "ImageOrientationPatient is missing"),
    ("spacing of zero", put(PixelSpacing=[0, 2]), "expected positive numbers"),
    ("mixed spacing", put(5, PixelSpacing=[3, 3]), "PixelSpacing is [3.0, 3.0], expected [3.0, 2.0]"),
    ("mixed sizes", put(5, Rows=20), "Rows is 20, expected 24"),
    ("a position twice", moved(5, z=5.0), "duplicate positions"),
    ("a slice missing", lambda study: study.slices.pop(5), "missing slice, gap of 10.00 mm"),
    ("a slice out of line", moved(5, x=4.0), "4.0 mm beside the stack"),
    ("irregular gaps", moved(5, z=1.0), "irregular slice spacing"),
    ("tilted gantry", tilted, "gantry tilt of 10.0 degrees"),
    ("one slice", lambda study: study.slices.__delitem__(slice(1, None)), "has 1 slice, expected at least 2"),
    ("half of another series", put(*range(8, 16), SeriesInstanceUID="1.2.77"), "outside the image, expected 0 to 7"),
    ("every other slice of another", put(*range(0, 16, 2), SeriesInstanceUID="1.2.78"), "expected 0 to 7"),
    ("two orientations of one UID", turned, "ImageOrientationPatient is [1.0, 0.0, 0.0, 0.0, 1.0, 0.0], expected ["),
    ("wrong UID", key("SeriesInstanceUID", "1.2.3"), "no DICOM file of SeriesInstanceUID 1.2.3 below"),
    ("a study twice", of_series("1.2.99"), "is that of the same study.json too, expected one each"),
    ("the same study", of_series("1.2.99"), "is that of a study twice.json too, expected one each"),
    ("two patients", put(5, PatientID="somebody"), "and somebody in one series, expected one"),
    ("an MR slice", put(5, SOPClassUID=MRImageStorage), "no CT slice but MR Image Storage"),
    ("an MR series", put(SOPClassUID=MRImageStorage), "no CT slice but MR Image Storage"),
    ("a localizer", put(5, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "no CT slice but CT localizer"),
    ("zero bytes", written(b""), "not readable as DICOM"),
    ("text named .dcm", beside("notes.dcm", b"see the other folder\n" * 20), "not readable as DICOM"),
    ("cut in the header", written(lambda content: content[:150]), "not readable as DICOM"),
    ("truncated pixels", written(lambda content: content[:-100]), "pixel data truncated"),
    ("no pixels", without("PixelData", 5), "pixel data truncated, damaged"),
    ("unknown transfer syntax", unknown_syntax, "transfer syntax that cannot be decoded"),
    ("damaged compressed frame", damaged_frame, "pixel data truncated, damaged"),
    ("a slice without InstanceNumber", without("InstanceNumber", 5), "InstanceNumber is missing or no integer"),
    ("no slice with InstanceNumber", without("InstanceNumber"), "InstanceNumber is missing or no integer"),
    ("InstanceNumber no number", garbled_number, "InstanceNumber is missing or no integer"),
    ("an InstanceNumber twice", put(5, InstanceNumber=5), "InstanceNumber is 5, that of"),
    ("InstanceNumber against position", numbered(lambda k: k ^ 1), "expected numbers that run with the position"),
    ("InstanceNumber the other way", numbered(lambda k: 99 - k), "mm below anterior_inferior in the image"),
    ("huge HU", put(RescaleSlope=1000), "after RescaleSlope and RescaleIntercept, expected Hounsfield units"),
    ("infinite slope", put(RescaleSlope="1e308"), "after RescaleSlope and RescaleIntercept, expected Hounsfield"),
    ("negative HU", put(RescaleIntercept=-9000), "all below water, expected Hounsfield units"),
    ("constant image", put(PixelData=bytes(2 * 24 * 20)), "all voxels equal -1024, expected a CT scan"),
    ("empty JSON", content(""), "not valid JSON"),
    ("JSON cut short", content('{"Folder": "c", "Annot'), "not valid JSON"),
    ("JSON is a list", content([]), "found a list of 0, expected an object"),
    ("no Annotation", key("Annotation", None), "Annotation is missing"),
    ("no expert", key("Annotation", {}), "Annotation is a dict of 0"),
    ("no SeriesInstanceUID", key("SeriesInstanceUID", None), "SeriesInstanceUID is missing"),
    ("an empty expert", experts(one=[]), "one: found a list of 0, expected a list of vertebrae"),
    ("vertebrae as text", experts(one="none"), "one: found a str of 4, expected a list of vertebrae"),
    ("five points", lambda study: study.vertebrae[1].pop(), "found points of shape (5, 3), expected (6, 3)"),
    ("a point of two numbers", point(1, 2, [8.0, 9.0]), "vertebra 2: holds something else than points of three"),
    ("a point as text", point(1, 2, ["8", "9", "x"]), "vertebra 2: holds something else than points of three"),
    ("a missing coordinate", point(1, 2, [8.0, None, 6.0]), "vertebra 2: holds a coordinate that is not finite"),
    ("an infinite coordinate", point(1, 2, [8.0, math.inf, 6.0]), "vertebra 2: holds a coordinate that is not finite"),
    ("a NaN coordinate", point(1, 2, [8.0, math.nan, 6.0]), "vertebra 2: holds a coordinate that is not finite"),
    ("rows outside", all_points(lambda v: [v[0] + 12, v[1], v[2]]), "row 26, outside the image, expected 0 to 23"),
    ("columns outside", all_points(lambda v: [v[0], v[1] + 11, v[2]]), "column 20, outside the image, expected 0"),
    ("slices outside", all_points(lambda v: [v[0], v[1], v[2] + 4]), "slice 18, outside the image, expected 0 to 15"),
    ("negative slices", all_points(lambda v: [v[0], v[1], v[2] - 2]), "slice -1, outside the image, expected 0 to 15"),
    ("inferior above superior", point(1, 2, [11.0, 9.0, 10.0]), "expected the superior end first"),
    ("all upside down", all_points(lambda v: [v[0], v[1], 15 - v[2]]), "mm below anterior_inferior in the image"),
    ("rows and columns swapped", all_points(lambda v: [v[1], v[0], v[2]]), "in rows 9, 9, 9, expected them in this"),
    ("front and back swapped", all_points(lambda v: [22 - v[0], v[1], v[2]]), "in rows 14, 11, 8, expected them in"),
    ("a point beside its plane", point(1, 2, [11.0, 12.0, 6.0]), "beside the plane of the six keypoints"),
    ("a level twice", named("Th1", "Th1", "Th2"), "level T1 occurs twice"),
    ("an unknown level", named("Th1", "S2", "Th3"), "type is 'S2', expected a level such as C7"),
    ("a vertebra twice", same_vertebra_twice, "annotation of one: centres of 1 and 2 are 0.0 mm apart"),
    ("one vertebra", one_vertebra, "one annotated vertebra, expected at least two"),
]  # fmt: skip
"""What is wrong, how it is made, words of the reason."""

EXCLUDED = {"one vertebra"}
"""Sound, but nothing to train on."""


@pytest.fixture(scope="module")
def cohort(
    tmp_path_factory: pytest.TempPathFactory, lungcancer_study: Callable[[Path, str], Study]
) -> tuple[pd.DataFrame, dict[str, Study]]:
    """The table of cases of one run over two good studies and a broken one of every kind, by case."""
    root = tmp_path_factory.mktemp("broken")
    studies = {name: lungcancer_study(root, name) for name in ("good", "good-2", *(what for what, _, _ in BROKEN))}
    for what, change, _ in BROKEN:
        change(studies[what])
    for study in studies.values():
        if not study.saved:
            study.save()
    scans = list_scans("lungcancer500", {"annotations": str(root / "annotations"), "images": str(root / "images")})
    return ingest(scans, root / "out").set_index("case"), studies


def test_there_is_a_row_for_every_study(cohort: tuple[pd.DataFrame, dict[str, Study]]) -> None:
    table, studies = cohort
    assert len(BROKEN) == len(studies) - 2 >= 32
    assert set(table.index) == set(studies)


@pytest.mark.parametrize(("what", "words"), [(what, words) for what, _, words in BROKEN], ids=lambda text: text[:40])
def test_a_broken_study_says_why(cohort: tuple[pd.DataFrame, dict[str, Study]], what: str, words: str) -> None:
    table, studies = cohort
    row, study = table.loc[what], studies[what]
    assert row["status"] == ("excluded" if what in EXCLUDED else "failed")
    assert words in row["reason"]
    assert str(study.folder) in row["reason"] or str(study.json) in row["reason"]
    assert "\n" not in row["reason"]
    assert pd.isna(row["image"]) or row["image"] == ""


@pytest.mark.parametrize("case", ["good", "good-2"])
def test_the_good_studies_stay(cohort: tuple[pd.DataFrame, dict[str, Study]], case: str) -> None:
    table, studies = cohort
    assert table.loc[case, "status"] == "ok"
    assert table.loc[case, "vertebrae"] == 3
    kept = tables.read_table(studies[case].root / "out" / "annotations.parquet", tables.ANNOTATIONS)
    assert set(kept["case"]) == {"good", "good-2"}
