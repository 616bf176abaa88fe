"""Tables: what is written is read back, missing values included, and what is wrong with a file is named."""

from __future__ import annotations

import csv
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vertfrac import tables
from vertfrac.errors import TableError

VALUES: dict[Any, tuple[Any, Any]] = {
    tables.STRING: ("007", "ü, \"x\"; 'y'"),
    tables.INT: (0, -(2**40)),
    tables.FLOAT: (0.1, -1e300),
    tables.BOOL: (True, False),
}


def full_rows(schema: tables.Schema) -> list[dict[str, Any]]:
    """Two rows with a value in every column."""
    return [{column.name: VALUES[column.type][i] for column in schema.columns} for i in range(2)]


def annotation_rows() -> pd.DataFrame:
    return tables.ANNOTATIONS.frame(
        {"case": case, "expert": "a", "vertebra": i, **tables.keypoint_values(np.full((6, 3), i + 0.5))}
        for case in ("one", "two")
        for i in (1, 2, 3)
    )


@pytest.mark.parametrize("schema", tables.ALL, ids=lambda schema: schema.name)
def test_written_and_read_back(schema: tables.Schema, tmp_path: Path) -> None:
    written = tables.write_table(tmp_path / "table.parquet", schema, [*full_rows(schema), {}])
    read = tables.read_table(tmp_path / "table.parquet", schema)
    pd.testing.assert_frame_equal(read, written)
    assert list(read.columns) == [column.name for column in schema.columns]
    assert read.iloc[2].isna().all(), "the row without values"
    assert not read.iloc[:2].isna().any().any()
    assert read.iloc[:2].to_dict("records") == full_rows(schema)


@pytest.mark.parametrize("schema", tables.ALL, ids=lambda schema: schema.name)
def test_table_without_rows_keeps_its_types(schema: tables.Schema, tmp_path: Path) -> None:
    tables.write_table(tmp_path / "table.parquet", schema, [])
    read = tables.read_table(tmp_path / "table.parquet", schema)
    assert len(read) == 0
    pd.testing.assert_series_equal(read.dtypes, schema.frame(full_rows(schema)).dtypes)


def test_parquet_carries_units_and_meanings(tmp_path: Path) -> None:
    tables.write_table(tmp_path / "table.parquet", tables.ANNOTATIONS, [])
    field = pq.read_schema(tmp_path / "table.parquet").field("anterior_superior_x")
    assert field.metadata == {b"unit": b"mm", b"meaning": b"world RAS coordinate of the anterior superior keypoint"}


def test_csv_keeps_names_as_text_and_fills_what_is_not_required(tmp_path: Path) -> None:
    (tmp_path / "cases.csv").write_text("image,case\na.nii,007\nb.nii,1e3\n")
    read = tables.read_table(tmp_path / "cases.csv", tables.SCANS)
    assert read["case"].tolist() == ["007", "1e3"]
    assert list(read.columns) == ["case", "image", "patient", "annotation", "split"]
    assert read[["patient", "annotation", "split"]].isna().all(axis=None)


def test_csv_there_and_back_to_four_decimals(tmp_path: Path) -> None:
    rows = annotation_rows()
    rows.loc[0, "anterior_superior_x"] = 1 / 3
    rows.loc[1, "level"] = "T12"
    tables.write_csv(tmp_path / "table.csv", rows)
    read = tables.read_table(tmp_path / "table.csv", tables.ANNOTATIONS)
    pd.testing.assert_frame_equal(read, rows, rtol=0, atol=5e-5)


FORMULAS = (
    "=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\uff1d1+1", "=HYPERLINK(\"http://x\")",
    "-0.2 of 1",
)  # fmt: skip
HARMLESS = ("007", "-1", "+1.5e-3", "-", "a=b", "'quoted'", "x\ny", "ü \"x\"; 'y'", "'", "''=x", "'=x", "'-1")


def test_no_cell_of_a_csv_is_a_formula_and_all_come_back(tmp_path: Path) -> None:
    rows = tables.SCAN_RESULTS.frame(
        [{"case": f"c{i}", "source": text, "smallest_genant": -0.5} for i, text in enumerate(FORMULAS + HARMLESS)]
        + [{}]
    )
    tables.write_csv(tmp_path / "t.csv", rows)
    with (tmp_path / "t.csv").open(encoding="utf-8", newline="") as file:
        cells = [line["source"] for line in csv.DictReader(file)]
    assert cells[: len(FORMULAS)] == [f"'{text}" for text in FORMULAS]
    assert cells[len(FORMULAS) : -4] == list(HARMLESS[:-3])
    read = tables.read_table(tmp_path / "t.csv", tables.SCAN_RESULTS)
    pd.testing.assert_frame_equal(read, rows)


@settings(deadline=None)
@given(st.lists(st.text(st.sampled_from("=+-@\t\r\n' a1.\uff1d"), min_size=1), min_size=1))
def test_any_text_survives_a_csv(texts: list[str]) -> None:
    rows = tables.SCANS.frame([{"case": text, "image": "i"} for text in texts])
    with tempfile.TemporaryDirectory() as folder:
        tables.write_csv(Path(folder) / "t.csv", rows)
        read = tables.read_table(Path(folder) / "t.csv", tables.SCANS)
    assert read["case"].tolist() == texts


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_missing_file_is_named(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"nowhere.{ending}"
    with pytest.raises(TableError, match=f"^{re.escape(str(path))}: no such file, expected the table of folds$"):
        tables.read_table(path, tables.FOLDS)


@pytest.mark.parametrize("kept", [0, 4, 0.5, -1])
def test_truncated_parquet_is_named(tmp_path: Path, kept: float) -> None:
    path = tmp_path / "table.parquet"
    tables.write_table(path, tables.ANNOTATIONS, annotation_rows())
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if kept == 0.5 else int(kept)])
    with pytest.raises(TableError, match=f"^{re.escape(str(path))}: cannot be read as a table of annotations") as error:
        tables.read_table(path, tables.ANNOTATIONS)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("ending", ["parquet", "csv"])
@pytest.mark.parametrize("column", ["vertebra", "posterior_inferior_z"])
def test_missing_column_is_named(tmp_path: Path, ending: str, column: str) -> None:
    path = tmp_path / f"table.{ending}"
    data = annotation_rows().drop(columns=[column, "expert"])
    data.to_parquet(path) if ending == "parquet" else data.to_csv(path, index=False)
    with pytest.raises(TableError, match=f"^{re.escape(str(path))}: column {column} is missing, expected the columns"):
        tables.read_table(path, tables.ANNOTATIONS)


@pytest.mark.parametrize("ending", ["parquet", "csv"])
@pytest.mark.parametrize(("column", "value"), [("vertebra", "L1"), ("vertebra", 1.5), ("middle_inferior_y", "left")])
def test_wrong_type_is_named(tmp_path: Path, ending: str, column: str, value: Any) -> None:
    path = tmp_path / f"table.{ending}"
    data = annotation_rows().assign(**{column: value})
    data.to_parquet(path) if ending == "parquet" else data.to_csv(path, index=False)
    with pytest.raises(TableError, match=f"^{re.escape(str(path))}: column {column}: expected ") as error:
        tables.read_table(path, tables.ANNOTATIONS)
    assert "\n" not in str(error.value)


def test_unknown_column_is_refused_and_nothing_written(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"table folds: unknown columns \['extra'\]"):
        tables.write_table(tmp_path / "table.parquet", tables.FOLDS, [{"case": "one", "extra": 1}])
    assert not list(tmp_path.iterdir())


def test_tables_are_stacked_in_order(tmp_path: Path) -> None:
    rows = annotation_rows()
    for case, part in rows.groupby("case"):
        tables.write_table(tmp_path / f"{case}.parquet", tables.ANNOTATIONS, part)
    read = tables.read_tables([tmp_path / "one.parquet", tmp_path / "two.parquet"], tables.ANNOTATIONS)
    pd.testing.assert_frame_equal(read, rows)


def test_keypoints_there_and_back() -> None:
    keypoints = np.random.default_rng(0).normal(size=(4, 6, 3))
    rows = tables.ANNOTATIONS.frame({"case": "one", **tables.keypoint_values(points)} for points in keypoints)
    np.testing.assert_array_equal(tables.keypoints_of(rows), keypoints)


def test_fingerprint_follows_the_rows_and_not_their_order() -> None:
    rows = annotation_rows()
    rows.loc[2, "level"] = "L1"
    shuffled = rows.sample(frac=1, random_state=0)
    assert shuffled.index.tolist() != rows.index.tolist()
    assert tables.fingerprint(shuffled) == tables.fingerprint(rows)
    assert tables.fingerprint(shuffled.reset_index(drop=True)) == tables.fingerprint(rows)
    changed = rows.copy()
    changed.loc[2, "level"] = "L2"
    fewer, twice = rows.iloc[1:], pd.concat([rows, rows.iloc[:1]])
    assert len({tables.fingerprint(data) for data in (rows, changed, fewer, twice)}) == 4
