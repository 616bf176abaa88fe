"""Laws of the index: every file has one row, whatever it is and wherever it lies, and a changed tree is noticed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vertfrac import tables
from vertfrac.cohorts import series_index
from vertfrac.cohorts.series_index import index_series, series_key, tree_fingerprint
from vertfrac.errors import CohortError

Study = Any  # of conftest


@pytest.fixture
def images(tmp_path: Path, lungcancer_study: Callable[[Path, str], Study]) -> Path:
    """Two series of 16 slices in folders of their own, and three files that are no slice."""
    for name in ("a", "b"):
        lungcancer_study(tmp_path, name).save()
    (tmp_path / "images" / "notes.txt").write_text("none of them " * 20)
    (tmp_path / "images" / "a" / "empty.dcm").touch()
    (tmp_path / "images" / "a" / "cut.dcm").write_bytes(next((tmp_path / "images" / "b").iterdir()).read_bytes()[:140])
    return tmp_path / "images"


@pytest.mark.parametrize("batch", [1, 7, 4096])
def test_every_file_has_a_row(images: Path, monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    monkeypatch.setattr(series_index, "_BATCH", batch)
    table = index_series(images, threads=3)
    assert table["path"].tolist() == sorted(table["path"], key=lambda path: (Path(path).parent, path))
    assert {images / path for path in table["path"]} == {path for path in images.rglob("*") if path.is_file()}
    slices = table[table["reason"] == ""]
    assert slices.groupby("series").size().tolist() == [16, 16]
    assert sorted(slices["instance"]) == sorted([*range(1, 17)] * 2)
    assert set(slices["patient"]) == {"patient of a", "patient of b"}
    assert set(slices["sop_class"]) == {"CT Image Storage"}


def test_a_file_that_is_no_slice_says_why(images: Path) -> None:
    reasons = index_series(images).set_index("path")["reason"]
    assert reasons[reasons != ""].index.tolist() == ["notes.txt", "a/cut.dcm", "a/empty.dcm"]
    assert "no SeriesInstanceUID" in reasons["a/cut.dcm"]
    assert all("\n" not in reason for reason in reasons)


def test_it_is_the_table_that_is_read_back(images: Path, tmp_path: Path) -> None:
    table = tables.write_table(tmp_path / "series.parquet", tables.SERIES, index_series(images))
    assert tables.read_table(tmp_path / "series.parquet", tables.SERIES).equals(table)


def test_links_are_followed_and_loops_end(images: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "data").symlink_to(images)
    (images / "b" / "back").symlink_to(images)
    table = index_series(tmp_path / "linked")
    assert len(table) == 35
    assert table["path"].str.startswith("data/").all()


def test_the_fingerprint_follows_the_tree(images: Path) -> None:
    before = tree_fingerprint(images)
    assert tree_fingerprint(images) == before
    found = [before]
    for change in (
        lambda: (images / "b" / "more").touch(),
        lambda: (images / "b" / "more").unlink(),
        lambda: (images / "new").mkdir(),
        lambda: (images / "a").rename(images / "c"),
    ):
        folders = [path for path in images.rglob("*") if path.is_dir()]
        for folder in (images, *folders):
            os.utime(folder, ns=(0, 0))  # whatever the resolution of the file system's clock
        found.append(tree_fingerprint(images))
        change()
        assert tree_fingerprint(images) not in found


def test_no_folder_is_refused(tmp_path: Path) -> None:
    for call in (index_series, tree_fingerprint):
        with pytest.raises(CohortError, match="nowhere: no such folder"):
            call(tmp_path / "nowhere")
    assert len(index_series(tmp_path)) == 0


def test_uids_compare_without_padding() -> None:
    assert series_key("1.2.026.") == series_key("1.2.026\0") == series_key(" 1.2.026") == "1.2.026"
