"""A table of broken inputs: each case says what is wrong and where, and a good case beside it stays good."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from vertfrac import tables
from vertfrac.cohorts.annotation_json import annotation_rows, write_annotation
from vertfrac.cohorts.ingest import ingest
from vertfrac.cohorts.markups import write_rulers
from vertfrac.cohorts.sources import list_scans
from vertfrac.errors import VertfracError

Floats = NDArray[np.float64]
Break = Callable[["Cohort"], None]


@dataclass
class Cohort:
    """Two cases, ``good`` and ``bad``, in a folder with cases.csv and annotations/."""

    folder: Path
    keypoints: Floats

    @property
    def image(self) -> Path:
        return self.folder / "bad.nii.gz"

    @property
    def annotation(self) -> Path:
        return self.folder / "annotations" / "bad.json"

    @property
    def cases(self) -> Path:
        return self.folder / "cases.csv"

    def list_bad(self, image: str) -> None:
        self.cases.write_text(f"case,image\ngood,good.nii.gz\nbad,{image}\n")

    def mark(self, keypoints: Floats, levels: tuple[str, ...] = ("",) * 5) -> None:
        marks = [("r", level, points) for level, points in zip(levels, keypoints, strict=True)]
        write_annotation(self.annotation, annotation_rows("bad", marks))

    def markups(self, change: Callable[[list[dict[str, Any]]], Any]) -> None:
        """The bad case's annotation as rulers, changed."""
        path = self.annotation.with_name("bad.mrk.json")
        write_rulers(path, annotation_rows("bad", [("r", "", one) for one in self.keypoints]))
        self.annotation.unlink()
        content = json.loads(path.read_text())
        change(content["markups"])
        path.write_text(json.dumps(content))


@pytest.fixture
def cohort(tmp_path: Path, spine_keypoints: Callable[..., Floats], write_scan: Callable[..., Path]) -> Cohort:
    keypoints = spine_keypoints(5, heights=[20, 17, 21])
    cohort = Cohort(tmp_path / "source", keypoints)
    for case in ("good", "bad"):
        write_scan(cohort.folder / f"{case}.nii.gz", lambda x, y, z: x + 2 * y - z)
        rows = annotation_rows(case, [("r", "", one) for one in keypoints])
        write_annotation(cohort.folder / "annotations" / f"{case}.json", rows)
    cohort.list_bad("bad.nii.gz")
    return cohort


def _image(values: Any, spacing: Any = (2, 2, 2)) -> Break:
    def change(cohort: Cohort) -> None:
        image = nibabel.Nifti1Image(np.asarray(values, dtype=np.int16), np.diag([2, 2, 2, 1]))
        image.header["pixdim"][1:4] = spacing
        content = bytearray(image.to_bytes())
        content[76:92] = np.array([1, *spacing], dtype="<f4").tobytes()
        cohort.image.write_bytes(gzip.compress(bytes(content)))

    return change


RAMP = np.arange(40 * 50 * 80).reshape(40, 50, 80) % 1000


def _moved(change: Callable[[Floats], Floats], levels: tuple[str, ...] = ("",) * 5) -> Break:
    return lambda cohort: cohort.mark(change(cohort.keypoints.copy()), levels)


def _set(index: Any, value: Any) -> Callable[[Floats], Floats]:
    def change(keypoints: Floats) -> Floats:
        keypoints[index] = value
        return keypoints

    return change


def _tall(keypoints: Floats) -> Floats:
    keypoints[2, 0, 2] += 100
    keypoints[2, 1, 2] -= 60
    return keypoints


def _text(text: str) -> Break:
    return lambda cohort: _none(cohort.annotation.write_text(text))


def _none(_: Any) -> None:
    return None


def _first(**changes: Any) -> Break:
    return lambda cohort: cohort.markups(lambda markups: markups[0].update(changes))


def _five_points(markups: list[dict[str, Any]]) -> None:
    points = [
        {"label": f"L1-{part}{end}", "position": [-40, y, z]}
        for part, y in (("a", -63), ("m", -50), ("p", -37))
        for end, z in (("s", 80), ("i", 60))
    ]
    markups[:] = [{"type": "Fiducial", "coordinateSystem": "LPS", "controlPoints": points[:5]}]


CASES: dict[str, tuple[Break, tuple[str, ...]]] = {
    # the image
    "missing file": (lambda c: c.image.unlink(), ("bad.nii.gz", "no such file")),
    "zero bytes": (lambda c: _none(c.image.write_bytes(b"")), ("bad.nii.gz", "0 bytes")),
    "truncated gz": (lambda c: _none(c.image.write_bytes(c.image.read_bytes()[:900])), ("bad.nii.gz", "truncated")),
    "no gz": (lambda c: _none(c.image.write_bytes(b"x" * 500)), ("bad.nii.gz", "not gzip data")),
    "wrong extension": (
        lambda c: (c.list_bad("bad.img"), _none(c.image.rename(c.folder / "bad.img")))[0],
        ("bad.img", "neither NIfTI by name nor a folder"),
    ),
    "2D": (_image(RAMP[:, :, 0]), ("bad.nii.gz", "2D of shape (40, 50)")),
    "4D": (_image(np.stack([RAMP, RAMP], -1)), ("bad.nii.gz", "4D of shape (40, 50, 80, 2)")),
    "NaN spacing": (_image(RAMP, (np.nan, 2, 2)), ("bad.nii.gz", "voxel spacing nan x 2 x 2")),
    "zero spacing": (_image(RAMP, (2, 0, 2)), ("bad.nii.gz", "voxel spacing 2 x 0 x 2")),
    "all constant": (_image(np.full((40, 50, 80), 7)), ("bad.nii.gz", "all voxels equal 7")),
    "no image": (lambda c: c.list_bad(""), ("cases.csv", "has no image")),
    "folder without DICOM": (
        lambda c: (c.image.unlink(), c.image.mkdir())[1],
        ("bad.nii.gz", "no DICOM file in this folder"),
    ),
    # the annotation's file
    "empty JSON": (_text(""), ("bad.json", "not valid JSON")),
    "empty object": (_text("{}"), ("bad.json", "vertfrac-annotation/1")),
    "JSON of another format": (_text('{"Folder": "bad", "Annotation": {}}'), ("bad.json", "found format None")),
    "a later version": (_text('{"format": "vertfrac-annotation/9"}'), ("bad.json", "vertfrac-annotation/9")),
    "annotation of another case": (
        lambda c: _none(c.annotation.write_text((c.folder / "annotations" / "good.json").read_text())),
        ("bad.json", "annotation of case 'good', expected that of 'bad'"),
    ),
    "markups with 5 points": (lambda c: c.markups(_five_points), ("bad.mrk.json", "L1 has 5 points, expected 6")),
    "markups with 2 rulers": (lambda c: c.markups(lambda m: m.pop()), ("bad.mrk.json", "vertebra 5 has 2 rulers")),
    "unknown label": (
        _first(name="my ruler", controlPoints=[{"position": [0, 0, 0]}, {"position": [0, 0, 9]}]),
        ("bad.mrk.json", "unknown label"),
    ),
    "unknown coordinate system": (_first(coordinateSystem="IJK"), ("bad.mrk.json", "coordinateSystem 'IJK'")),
    "unknown markup": (_first(type="ROI"), ("bad.mrk.json", "type is 'ROI'")),
    # the keypoints
    "points outside": (_moved(_set((1, 0, 1), 400.0)), ("bad.json", "vertebra 2 lies outside the image")),
    "swapped axes": (_moved(lambda k: k[..., [1, 0, 2]]), ("bad.json", "from the sagittal one", "axes exchanged")),
    "reversed axes": (_moved(lambda k: k[..., ::-1]), ("bad.json", "with x and z exchanged all would lie inside")),
    "LPS taken for RAS": (_moved(lambda k: k * [-1, -1, 1]), ("bad.json", "LPS taken for RAS) all would lie inside")),
    "front-back flip": (_moved(lambda k: k[:, [4, 5, 2, 3, 0, 1]]), ("bad.json", "anterior points behind")),
    "up-down flip": (_moved(lambda k: k[:, [1, 0, 3, 2, 5, 4]]), ("bad.json", "superior points below the inferior")),
    "levels that run upwards": (
        _moved(lambda k: k, ("L2", "L1", "T12", "T11", "T10")),
        ("bad.json", "levels run upwards", "expected below"),
    ),
    "duplicate levels": (_moved(lambda k: k, ("L1", "L2", "L2", "L3", "L4")), ("bad.json", "level L2 occurs twice")),
    "heights of 200 mm": (
        _moved(_tall), ("bad.json", "vertebra 3 measures 180.0 mm in anterior height, expected 1 to 60 mm"),
    ),
    "no depth": (_moved(lambda k: np.where([0, 1, 0], (k - 50) / 10 + 50, k)), ("bad.json", "depth, expected 4 to 80")),
    "non-coplanar points": (_moved(_set((0, 2, 0), 75.0)), ("bad.json", "off the best plane through its six")),
    "one vertebra marked twice": (
        _moved(lambda k: np.stack([*k[:4], k[3] + (0, 0, 1)])), ("bad.json", "one vertebra marked twice"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", CASES)
def test_a_broken_case_fails_alone_and_says_why(cohort: Cohort, tmp_path: Path, what: str) -> None:
    break_it, words = CASES[what]
    break_it(cohort)
    scans = list_scans("nifti", {"folder": str(cohort.folder)})
    cases = ingest(scans, tmp_path / "out").set_index("case")
    assert cases["status"].to_dict() == {"bad": "failed", "good": "ok"}
    reason = cases["reason"]["bad"]
    assert all(word in reason for word in words), reason
    assert "\n" not in reason
    kept = tables.read_table(tmp_path / "out" / "annotations.parquet", tables.ANNOTATIONS)
    assert set(kept["case"]) == {"good"}


@pytest.mark.parametrize("what", ["none", "empty", "one vertebra"])
def test_a_case_with_too_little_annotation_is_excluded(cohort: Cohort, tmp_path: Path, what: str) -> None:
    cohort.annotation.unlink()
    if what == "empty":
        cohort.annotation.with_name("bad.mrk.json").write_text('{"markups": []}')
    if what == "one vertebra":
        cohort.mark(cohort.keypoints[:1], ("",))
    cases = ingest(list_scans("nifti", {"folder": str(cohort.folder)}), tmp_path / "out").set_index("case")
    assert cases["status"].to_dict() == {"bad": "excluded", "good": "ok"}
    assert "expected at least two" in cases["reason"]["bad"]


def _table(name: str, change: Callable[[pd.DataFrame], pd.DataFrame]) -> Break:
    def apply(cohort: Cohort) -> None:
        rows = [
            annotation_rows(case, [("r", "", one) for one in cohort.keypoints]).astype({"vertebra": object})
            for case in ("good", "bad")
        ]
        pd.concat(rows).to_csv(cohort.folder / "annotations.csv", index=False)
        path = cohort.folder / name
        change(pd.read_csv(path)).to_csv(path, index=False)

    return apply


TABLES: dict[str, tuple[Break, str]] = {
    "missing column": (_table("cases.csv", lambda t: t.drop(columns="image")), "cases.csv: column image is missing"),
    "misspelled column": (
        _table("cases.csv", lambda t: t.assign(Anotation="x")),
        "cases.csv: unknown column 'Anotation', expected 'annotation'",
    ),
    "misspelled expert": (
        _table("annotations.csv", lambda t: t.rename(columns={"expert": "experts"})),
        "annotations.csv: unknown column 'experts', expected 'expert'",
    ),
    "no case": (_table("cases.csv", lambda t: t.assign(case=["good", None])), "cases.csv: row 2 has no case"),
    "duplicate case": (_table("cases.csv", lambda t: pd.concat([t, t[:1]])), "case good is that of"),
    "case with slashes": (_table("cases.csv", lambda t: pd.concat([t, t[:1].assign(case="a/b")])), "case 'a/b' cannot"),
    "unknown split": (
        _table("cases.csv", lambda t: t.assign(split=["train", "training"])),
        "cases.csv: split of case bad is 'training', expected one of train, validation, test",
    ),
    "annotation of unknown case": (
        _table("annotations.csv", lambda t: t.replace({"case": {"bad": "worse"}})),
        "annotations.csv: case worse is not listed in cases.csv",
    ),
    "annotation of no case": (
        _table("annotations.csv", lambda t: t.replace({"case": {"bad": None}})), "annotations.csv: row 6 has no case",
    ),
    "missing coordinate column": (
        _table("annotations.csv", lambda t: t.drop(columns="middle_superior_y")), "column middle_superior_y is missing",
    ),
    "text for a number": (
        _table("annotations.csv", lambda t: t.astype(object).replace({"middle_superior_y": {50.0: "left"}})),
        "annotations.csv: column middle_superior_y: expected double",
    ),
    "no table": (_table("cases.csv", lambda t: t[:0].drop(columns=["case", "image"])), "cannot be read as a table"),
}  # fmt: skip


@pytest.mark.parametrize("what", TABLES)
def test_a_broken_table_is_one_line(cohort: Cohort, what: str) -> None:
    break_it, words = TABLES[what]
    break_it(cohort)
    with pytest.raises(VertfracError) as error:
        list_scans("nifti", {"folder": str(cohort.folder)})
    assert words in str(error.value)
    assert "\n" not in str(error.value)
