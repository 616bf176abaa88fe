"""Laws of ingestion: every case has a row, what cannot be used says why, what is used is where it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from vertfrac import tables
from vertfrac.cohorts.ingest import ingest as ingest_scans
from vertfrac.cohorts.ingest import merge, usable_cases
from vertfrac.cohorts.sources import list_scans
from vertfrac.errors import AnnotationError, CohortError, TableError
from vertfrac.imaging import read_image

Floats = NDArray[np.float64]
BAD = {
    "missing": "no such file",
    "truncated": "truncated",
    "outside": "outside the image",
    "single": "at least two",
    "blank": "missing or infinite coordinate",
    "unannotated": "no annotation",
}
EXCLUDED = ("single", "unannotated")
"""Of those the sound ones, which hold nothing to train on."""


@pytest.fixture
def source(
    tmp_path: Path,
    spine_keypoints: Callable[..., Floats],
    annotations_of: Callable[..., pd.DataFrame],
    write_scan: Callable[..., Path],
) -> Path:
    """A folder with two good cases and one of every bad kind."""
    folder = tmp_path / "source"
    keypoints = spine_keypoints(5)
    marks = []
    for case in ("good-1", "good-2", *BAD):
        image = folder / f"{case}.nii.gz"
        if case != "missing":
            write_scan(image, lambda x, y, z: x + 2 * y - z)
        points = keypoints.copy()
        if case == "truncated":
            image.write_bytes(image.read_bytes()[:1000])
        if case == "outside":
            points[1, 0, 1] = 400.0
        if case == "blank":
            points[2, 3, 0] = np.nan
        if case == "single":
            points = points[:1]
        if case != "unannotated":
            marks.append(annotations_of(points, case=case))
    cases = pd.DataFrame({"case": ["good-1", "good-2", *BAD]})
    cases.assign(image=cases["case"] + ".nii.gz").to_csv(folder / "cases.csv", index=False)
    pd.concat(marks).to_csv(folder / "annotations.csv", index=False)
    return folder


def ingest(source: Path, out: Path, *, shard: tuple[int, int] = (0, 1)) -> pd.DataFrame:
    number, count = shard
    return ingest_scans(list_scans("nifti", {"folder": str(source)})[number::count], out)


def _keep(source: Path, *cases: str) -> None:
    for name in ("cases.csv", "annotations.csv"):
        table = pd.read_csv(source / name)
        table[table["case"].isin(cases)].to_csv(source / name, index=False)


def test_every_case_has_a_row_good_or_bad(source: Path, tmp_path: Path) -> None:
    table = ingest(source, tmp_path / "out").set_index("case")
    bad = {case: "excluded" if case in EXCLUDED else "failed" for case in BAD}
    assert table["status"].to_dict() == {"good-1": "ok", "good-2": "ok", **bad}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_case_says_why(source: Path, tmp_path: Path, case: str) -> None:
    _keep(source, case)
    (reason,) = ingest(source, tmp_path / "out")["reason"]
    assert BAD[case] in reason
    assert "\n" not in reason


def test_only_usable_cases_have_images_and_annotations(source: Path, tmp_path: Path) -> None:
    ingest(source, tmp_path / "out")
    kept = tables.read_table(tmp_path / "out" / "annotations.parquet", tables.ANNOTATIONS)
    assert {p.stem for p in (tmp_path / "out").glob("*.nii")} == set(kept["case"]) == {"good-1", "good-2"}


def test_nothing_half_written_is_left(source: Path, tmp_path: Path) -> None:
    ingest(source, tmp_path / "out")
    assert not list(tmp_path.rglob(".writing-*"))


def test_a_usable_image_is_the_source_image(source: Path, tmp_path: Path) -> None:
    ingest(source, tmp_path / "out")
    stored, original = read_image(tmp_path / "out" / "good-1.nii"), read_image(source / "good-1.nii.gz")
    assert np.array_equal(stored.hu, original.hu)
    assert np.allclose(stored.grid.world_from_index, original.grid.world_from_index)


def test_facts_about_a_case_are_those_of_its_files(source: Path, tmp_path: Path) -> None:
    row = ingest(source, tmp_path / "out").set_index("case").loc["good-1"]
    assert (row["slices"], row["vertebrae"], row["experts"]) == (80, 5, 1)
    assert (row["spacing_x"], row["smallest_genant"]) == pytest.approx((2.0, 1.0))


def test_the_patient_is_the_case_and_the_expert_has_a_name_by_default(source: Path, tmp_path: Path) -> None:
    _keep(source, "good-1")
    marks = pd.read_csv(source / "annotations.csv")
    marks.drop(columns="expert").to_csv(source / "annotations.csv", index=False)
    table = ingest(source, tmp_path / "out")
    stored = tables.read_table(tmp_path / "out" / "annotations.parquet", tables.ANNOTATIONS)
    assert table["patient"].tolist() == ["good-1"]
    assert set(stored["expert"]) == {tables.DEFAULT_EXPERT}


def test_a_case_listed_twice_is_refused(source: Path, tmp_path: Path) -> None:
    cases = pd.read_csv(source / "cases.csv")
    pd.concat([cases, cases[:1]]).to_csv(source / "cases.csv", index=False)
    with pytest.raises(CohortError, match=r"case good-1 is that of .*good-1\.nii\.gz too"):
        ingest(source, tmp_path / "out")


def test_an_annotation_of_an_unknown_case_is_refused(source: Path, tmp_path: Path) -> None:
    cases = pd.read_csv(source / "cases.csv")
    cases[1:].to_csv(source / "cases.csv", index=False)
    with pytest.raises(AnnotationError, match=r"annotations\.csv: case good-1"):
        ingest(source, tmp_path / "out")


def test_a_missing_column_is_named(source: Path, tmp_path: Path) -> None:
    pd.read_csv(source / "annotations.csv").drop(columns="middle_inferior_y").to_csv(
        source / "annotations.csv", index=False
    )
    with pytest.raises(TableError, match="middle_inferior_y"):
        ingest(source, tmp_path / "out")


def test_numeric_case_names_stay_text(source: Path, tmp_path: Path) -> None:
    _keep(source, "good-1")
    for name in ("cases.csv", "annotations.csv"):
        table = pd.read_csv(source / name)
        table.assign(case="007").to_csv(source / name, index=False)
    assert ingest(source, tmp_path / "out")["case"].tolist() == ["007"]


@pytest.mark.parametrize("name", ["../escaped", "a/b", "/tmp/absolute"])
def test_a_case_name_never_leads_out_of_the_folder(source: Path, tmp_path: Path, name: str) -> None:
    _keep(source, "good-1")
    for file in ("cases.csv", "annotations.csv"):
        table = pd.read_csv(source / file)
        table.assign(case=name).to_csv(source / file, index=False)
    with pytest.raises(CohortError, match="cannot name a file"):
        ingest(source, tmp_path / "out")
    assert not list(tmp_path.rglob("*.nii"))


@pytest.mark.parametrize("shards", [1, 2, 3])
def test_shards_together_are_the_whole(source: Path, tmp_path: Path, shards: int) -> None:
    folders = [tmp_path / "out" / str(k) for k in range(shards)]
    for k, folder in enumerate(folders):
        ingest(source, folder, shard=(k, shards))
    merged = merge(folders, tmp_path / "out")
    assert sorted(merged["case"]) == sorted(["good-1", "good-2", *BAD])
    assert all(path.is_file() for _, path in usable_cases(tmp_path / "out" / "cases.parquet"))


def test_merging_gives_the_same_tables_whatever_the_sharding(source: Path, tmp_path: Path) -> None:
    found = []
    for shards in (1, 3):
        folders = [tmp_path / str(shards) / str(k) for k in range(shards)]
        for k, folder in enumerate(folders):
            ingest(source, folder, shard=(k, shards))
        merge(folders, tmp_path / str(shards))
        found.append(tables.read_table(tmp_path / str(shards) / "annotations.parquet", tables.ANNOTATIONS))
    assert found[0].equals(found[1])


def test_a_cohort_without_a_usable_case_is_refused(source: Path, tmp_path: Path) -> None:
    _keep(source, "missing", "blank")
    ingest(source, tmp_path / "out" / "0")
    with pytest.raises(CohortError, match="none of 2 cases is usable"):
        merge([tmp_path / "out" / "0"], tmp_path / "out")


def test_an_empty_source_table_is_refused(source: Path, tmp_path: Path) -> None:
    _keep(source)
    with pytest.raises(CohortError, match="found no case"):
        ingest(source, tmp_path / "out" / "0")


def test_every_expert_is_checked(source: Path, tmp_path: Path, annotations_of: Any, spine_keypoints: Any) -> None:
    _keep(source, "good-1")
    second = annotations_of(spine_keypoints(4, heights=[20, 12, 20]), case="good-1", expert="b")
    both = pd.concat([pd.read_csv(source / "annotations.csv"), second])
    both.to_csv(source / "annotations.csv", index=False)
    (row,) = ingest(source, tmp_path / "out").to_dict("records")
    assert (row["experts"], row["vertebrae"]) == (2, 5)
    assert row["smallest_genant"] == pytest.approx(0.6)


def test_a_warning_stays_one_line_whatever_an_expert_is_called(
    source: Path, tmp_path: Path, annotations_of: Any, spine_keypoints: Any
) -> None:
    _keep(source, "good-1")
    strange = annotations_of(spine_keypoints(4, heights=[10, 20, 20]), case="good-1", expert="a\nb")
    strange.to_csv(source / "annotations.csv", index=False)
    (row,) = ingest(source, tmp_path / "out").to_dict("records")
    assert "a b: median G" in row["warnings"]
    assert "\n" not in row["warnings"]
