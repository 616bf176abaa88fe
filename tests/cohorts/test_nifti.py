"""Laws of a cohort of one's own: however scans are listed and annotated, the same cases come out."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from numpy.typing import NDArray

from vertfrac import tables
from vertfrac.cohorts.annotation_json import write_annotation
from vertfrac.cohorts.ingest import ingest, merge
from vertfrac.cohorts.markups import write_rulers
from vertfrac.cohorts.nifti import is_mask
from vertfrac.cohorts.sources import left_out, list_scans
from vertfrac.config import parse_cohort
from vertfrac.errors import AnnotationError, CohortError, ConfigError, TableError

Floats = NDArray[np.float64]
PAGE = Path(__file__).parents[2] / "docs" / "cohorts" / "nifti.md"
EXAMPLES = dict(re.findall(r"```\w+ (\S+)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL))
CRLM = Path(__file__).parents[3] / "shared" / "data" / "crlm1004" / "dicom"
WriteScan = Callable[..., Path]


def ramp(x: Floats, y: Floats, z: Floats) -> Floats:
    return x + 2 * y - z


@pytest.fixture
def rows(spine_keypoints: Callable[..., Floats], annotations_of: Callable[..., pd.DataFrame]) -> pd.DataFrame:
    return annotations_of(spine_keypoints(3, heights=[20, 17.5, 22]), case="one")


# --- the examples of the documentation


@pytest.fixture
def documented(tmp_path: Path, write_scan: WriteScan) -> Path:
    """The folder that the page describes, with all its examples and a scan."""
    write_scan(tmp_path / "scans" / "one.nii.gz", ramp)
    for name, text in EXAMPLES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_the_page_has_the_examples_that_are_tried_here() -> None:
    assert sorted(EXAMPLES) == sorted(
        [
            "folder.yaml",
            "table.yaml",
            "cases.csv",
            "annotations.csv",
            "ward7-01.json",
            "points.mrk.json",
            "rulers.mrk.json",
        ]
    )


@pytest.mark.parametrize("name", ["folder.yaml", "table.yaml"])
def test_documented_configurations_are_valid(name: str) -> None:
    assert parse_cohort(json.dumps(yaml.safe_load(EXAMPLES[name])), name).kind == "nifti"


@pytest.mark.parametrize("name", ["ward7-01.json", "points.mrk.json", "rulers.mrk.json", "annotations.csv"])
def test_documented_annotations_all_say_the_same(documented: Path, name: str) -> None:
    expected = tables.read_table(documented / "annotations.csv", tables.ANNOTATIONS)
    settings: dict[str, Any] = {"folder": str(documented)}
    if name != "annotations.csv":
        settings["annotations"] = str(documented / "annotations")
        (documented / "annotations").mkdir()
        (documented / name).rename(documented / "annotations" / f"ward7-01{''.join(Path(name).suffixes)}")
    (scan,) = list_scans("nifti", settings)
    image, found = scan.read()
    assert (scan.case, scan.patient, image.grid.shape) == ("ward7-01", "p1", (40, 50, 80))
    assert found["level"].tolist() == ["T12", "L1"]
    np.testing.assert_allclose(tables.keypoints_of(found), tables.keypoints_of(expected), atol=1e-9)
    assert ingest([scan], documented / "out")["status"].tolist() == ["ok"]


# --- where the scans are


def test_every_scan_of_a_folder_is_a_case_and_masks_are_told(tmp_path: Path, write_scan: WriteScan) -> None:
    for name in ("a.nii", "p1/ct.nii.gz", "p2/ct.nii.gz", "p2/sub-1_seg-vert_msk.nii.gz", "a_mask.nii", ".b/c.nii"):
        write_scan(tmp_path / name, ramp)
    (tmp_path / "notes.txt").write_text("nothing")
    scans = list_scans("nifti", {"folder": str(tmp_path)})
    assert [(scan.case, scan.patient) for scan in scans] == [(name, name) for name in ("a", "p1_ct", "p2_ct")]
    others = left_out("nifti", {"folder": str(tmp_path)})
    assert [line.split(":")[0] for line in others] == [
        str(tmp_path / "a_mask.nii"),
        str(tmp_path / "p2" / "sub-1_seg-vert_msk.nii.gz"),
    ]


def test_linked_folders_are_followed_and_loops_end(tmp_path: Path, write_scan: WriteScan) -> None:
    write_scan(tmp_path / "disk" / "p1" / "ct.nii", ramp)
    (tmp_path / "ward").mkdir()
    (tmp_path / "ward" / "data").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "loop").symlink_to(tmp_path / "ward")
    assert [scan.case for scan in list_scans("nifti", {"folder": str(tmp_path / "ward")})] == ["data_p1_ct"]


def test_a_folder_of_dicom_files_is_a_case_with_all_below(tmp_path: Path) -> None:
    for name in ("p1/study/series/1", "p2/x.dcm", "p2/more/y.dcm"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"\0" * 128 + b"DICM")
    (tmp_path / "p3").mkdir()
    (tmp_path / "p3" / "readme").write_text("no DICOM")
    cases = {scan.case: scan.source for scan in list_scans("nifti", {"folder": str(tmp_path)})}
    assert cases == {"p1_study_series": str(tmp_path / "p1" / "study" / "series"), "p2": str(tmp_path / "p2")}


@pytest.mark.skipif(not CRLM.is_dir(), reason=f"the DICOM series is not at {CRLM}")
def test_a_real_series_is_read_and_excluded_for_lack_of_annotation(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "crlm").symlink_to(CRLM)
    (tmp_path / "source" / "cases.csv").write_text("case,image\ncrlm,crlm\n")
    (row,) = ingest(list_scans("nifti", {"folder": str(tmp_path / "source")}), tmp_path / "out").to_dict("records")
    assert (row["status"], row["slices"], row["spacing_z"]) == ("excluded", 41, pytest.approx(5.0))
    assert "no annotation" in row["reason"]
    (scan,) = list_scans("nifti", {"folder": str(CRLM)})
    assert (scan.case, scan.source) == (CRLM.name, str(CRLM))


@pytest.mark.parametrize(
    ("name", "mask"),
    [
        ("sub-verse004_seg-vert_msk.nii.gz", True), ("x_seg.nii", True), ("x-mask2.nii.gz", True), ("Labels.nii", True),
        ("a b segmentation.nii.gz", True), ("sub-1_label-22_ct.nii.gz", False), ("masked_patient.nii", False),
        ("segal.nii.gz", False), ("ct.nii", False),
    ],
)  # fmt: skip
def test_a_mask_is_known_by_its_name(name: str, mask: bool) -> None:
    assert is_mask(name) == mask


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_table_lists_scans_anywhere(tmp_path: Path, write_scan: WriteScan, rows: pd.DataFrame, ending: str) -> None:
    image = write_scan(tmp_path / "far" / "away.nii", ramp)
    (tmp_path / "lists").mkdir()
    write_annotation(tmp_path / "lists" / "one.json", rows)
    write_rulers(tmp_path / "two.mrk.json", rows)
    listed = pd.DataFrame(
        {
            "case": ["one", "two", "three"],
            "image": [str(image), "../far/away.nii", "../far/away.nii"],
            "patient": ["p", "p", None],
            "annotation": ["one.json", "../two.mrk.json", None],
            "split": ["train", "test", None],
            "ward": ["7", "8", "9"],
        }
    )
    table = tmp_path / "lists" / f"march.{ending}"
    listed.to_csv(table, index=False) if ending == "csv" else listed.to_parquet(table)
    scans = list_scans("nifti", {"table": str(table)})
    cases = ingest(scans, tmp_path / "out").set_index("case")
    assert cases["status"].to_dict() == {"one": "ok", "two": "ok", "three": "excluded"}
    assert cases["split"].to_dict() == {"one": "train", "two": "test", "three": ""}
    assert cases["patient"].to_dict() == {"one": "p", "two": "p", "three": "three"}
    kept = tables.read_table(tmp_path / "out" / "annotations.parquet", tables.ANNOTATIONS)
    one, two = (tables.keypoints_of(kept[kept["case"] == case]) for case in ("one", "two"))
    np.testing.assert_allclose(one, two, atol=1e-9)


def test_the_workflow_watches_all_that_a_case_is_read_from(
    tmp_path: Path, write_scan: WriteScan, rows: pd.DataFrame
) -> None:
    image = write_scan(tmp_path / "one.nii", ramp)
    write_annotation(tmp_path / "annotations" / "one.json", rows)
    (tmp_path / "cases.csv").write_text("case,image\none,one.nii\n")
    (scan,) = list_scans("nifti", {"folder": str(tmp_path)})
    assert set(scan.files) == {tmp_path / "annotations" / "one.json", image}
    (tmp_path / "cases.csv").unlink()
    (scan,) = list_scans("nifti", {"folder": str(tmp_path)})
    assert set(scan.files) == {tmp_path / "annotations" / "one.json", image}


def test_of_a_table_the_workflow_watches_the_rows_of_the_case_alone(
    tmp_path: Path, write_scan: WriteScan, rows: pd.DataFrame
) -> None:
    def listed(patient: str, shift: float) -> dict[str, str]:
        (tmp_path / "cases.csv").write_text(f"case,image,patient\none,one.nii,p\ntwo,two.nii,{patient}\n")
        moved = rows.assign(case="two", anterior_superior_x=rows["anterior_superior_x"] + shift)
        pd.concat([rows.assign(case="one"), moved]).to_csv(tmp_path / "annotations.csv", index=False)
        scans = list_scans("nifti", {"folder": str(tmp_path)})
        assert {scan.case: scan.files for scan in scans} == {"one": (images[0],), "two": (images[1],)}
        return {scan.case: scan.listed for scan in scans}

    images = [write_scan(tmp_path / name, ramp) for name in ("one.nii", "two.nii")]
    before = listed("p", 0.0)
    for changed in (listed("q", 0.0), listed("p", 0.25)):
        assert changed["one"] == before["one"]
        assert changed["two"] != before["two"]
    assert listed("p", 0.0) == before


# --- where the annotations are


def test_readers_of_one_case_have_a_folder_each(tmp_path: Path, write_scan: WriteScan, rows: pd.DataFrame) -> None:
    write_scan(tmp_path / "one.nii", ramp)
    write_rulers(tmp_path / "annotations" / "one" / "anna" / "upper.mrk.json", rows[:2])
    write_rulers(tmp_path / "annotations" / "one" / "anna" / "lower.mrk.json", rows[2:])
    write_rulers(tmp_path / "annotations" / "one" / "boris" / "all.mrk.json", rows)
    (scan,) = list_scans("nifti", {"folder": str(tmp_path)})
    found = scan.read()[1]
    assert found.groupby("expert").size().to_dict() == {"anna": 3, "boris": 3}
    for _, own in found.groupby("expert"):
        np.testing.assert_allclose(tables.keypoints_of(own), tables.keypoints_of(rows), atol=1e-9)


def test_two_annotations_of_one_case_are_refused_for_that_case(
    tmp_path: Path, write_scan: WriteScan, rows: pd.DataFrame
) -> None:
    for case in ("one", "two"):
        write_scan(tmp_path / f"{case}.nii", ramp)
        write_annotation(tmp_path / "annotations" / f"{case}.json", rows.assign(case=case))
    write_rulers(tmp_path / "annotations" / "one.mrk.json", rows)
    cases = ingest(list_scans("nifti", {"folder": str(tmp_path)}), tmp_path / "out").set_index("case")
    assert cases["status"].to_dict() == {"one": "failed", "two": "ok"}
    assert "one.mrk.json holds an annotation of case one too" in cases["reason"]["one"]


def test_a_named_place_goes_before_what_lies_beside_the_scans(
    tmp_path: Path, write_scan: WriteScan, rows: pd.DataFrame
) -> None:
    write_scan(tmp_path / "scans" / "one.nii", ramp)
    (tmp_path / "scans" / "annotations.csv").write_text("nonsense")
    tables.write_table(tmp_path / "mine.parquet", tables.ANNOTATIONS, rows)
    settings = {"folder": str(tmp_path / "scans"), "annotations": str(tmp_path / "mine.parquet")}
    (scan,) = list_scans("nifti", settings)
    assert len(scan.read()[1]) == 3
    with pytest.raises(TableError, match=r"annotations\.csv: column case is missing"):
        list_scans("nifti", {"folder": str(tmp_path / "scans")})
    with pytest.raises(AnnotationError, match=r"nowhere: no such file or folder"):
        list_scans("nifti", {**settings, "annotations": str(tmp_path / "nowhere")})


def test_a_file_of_an_unknown_case_is_refused(tmp_path: Path, write_scan: WriteScan, rows: pd.DataFrame) -> None:
    write_scan(tmp_path / "one.nii", ramp)
    write_annotation(tmp_path / "annotations" / "oen.json", rows)
    with pytest.raises(AnnotationError, match=r"oen\.json: annotation of case oen, which is not among the scans of"):
        list_scans("nifti", {"folder": str(tmp_path)})


def test_a_folder_without_scans_or_none_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CohortError, match=r"holds neither cases\.csv nor a scan"):
        list_scans("nifti", {"folder": str(tmp_path)})
    with pytest.raises(CohortError, match="nowhere: no such folder"):
        list_scans("nifti", {"folder": str(tmp_path / "nowhere")})
    with pytest.raises(TableError, match=r"nowhere\.csv: no such file"):
        list_scans("nifti", {"table": str(tmp_path / "nowhere.csv")})


@pytest.mark.parametrize("text", ['{"kind": "nifti"}', '{"kind": "nifti", "folder": "a", "table": "b"}'])
def test_a_configuration_names_a_folder_or_a_table(text: str) -> None:
    with pytest.raises(ConfigError, match="expected folder or table, found"):
        parse_cohort(text, "--cohort")


LANDMARKS = "case,level,x,y,z\na,S1,1,2,3\n"


@pytest.fixture
def marked(tmp_path: Path, write_scan: WriteScan, rows: pd.DataFrame) -> Path:
    """Two annotated scans, one of them with a landmark."""
    for case in ("a", "b"):
        write_scan(tmp_path / f"{case}.nii.gz", ramp)
    pd.concat([rows.assign(case=case) for case in ("a", "b")]).to_csv(tmp_path / "annotations.csv", index=False)
    (tmp_path / "landmarks.csv").write_text(LANDMARKS)
    return tmp_path


def test_landmarks_beside_the_scans_belong_to_their_case(marked: Path) -> None:
    one, other = list_scans("nifti", {"folder": str(marked)})
    assert one.landmarks().to_dict("records") == [{"case": "a", "level": "S1", "x": 1.0, "y": 2.0, "z": 3.0}]
    assert other.landmarks().empty
    before = {scan.case: scan.listed for scan in (one, other)}
    (marked / "landmarks.csv").write_text(LANDMARKS.replace("1,2,3", "1,2,4"))
    after = {scan.case: scan.listed for scan in list_scans("nifti", {"folder": str(marked)})}
    assert before["a"] != after["a"]
    assert before["b"] == after["b"]


def test_landmarks_go_with_the_ingested_cases(marked: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ingest(list_scans("nifti", {"folder": str(marked)}), out / "0")
    merge([out / "0"], out)
    stored = tables.read_table(out / "landmarks.parquet", tables.LANDMARKS)
    assert stored.to_dict("records") == [{"case": "a", "level": "S1", "x": 1.0, "y": 2.0, "z": 3.0}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("case,level,x,y,z\na,S9,1,2,3\n", "level of a landmark of case a is 'S9', expected C1 to S1"),
        ("case,level,x,y,z\na,,1,2,3\n", "level of a landmark of case a"),
        ("case,level,x,y,z\na,S1,1,,3\n", "a coordinate is missing or infinite"),
        ("case,level,x,y,z\nc,S1,1,2,3\n", "case c is not listed"),
        ("case,level,x,y,z\n,S1,1,2,3\n", "case without name is not listed"),
        ("case,level,x,y\na,S1,1,2\n", "column z is missing"),
        ("case,level,x,y,z\na,S1,one,2,3\n", "column x"),
        ("", "cannot be read as a table of landmarks"),
    ],
)
def test_a_wrong_table_of_landmarks_stops_everything(marked: Path, text: str, message: str) -> None:
    (marked / "landmarks.csv").write_text(text)
    with pytest.raises(TableError, match=message):
        list_scans("nifti", {"folder": str(marked)})
