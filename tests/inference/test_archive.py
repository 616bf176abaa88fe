"""Laws of a shard: what holds is kept, what does not is computed, and one bad scan costs no other."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from filelock import FileLock

from vertfrac import tables
from vertfrac.cohorts.archive import check_parts, list_archive
from vertfrac.cohorts.sources import shard_of
from vertfrac.errors import CohortError, ConfigError, TableError
from vertfrac.inference import predict
from vertfrac.inference.archive import measure_shard, summarise

NAME = "part-00000-of-00001"


class Archive:
    """Two small scans and a tiny model, and what a user does with them."""

    def __init__(self, folder: Path, make_model: Callable[..., Path], write_scan: Callable[..., Path]) -> None:
        self.scans, self.out, self.model = folder / "scans", folder / "out", folder / "model"
        self.make_model = make_model
        make_model(self.model, objectness=3.0)
        for name in ("a", "b"):
            write_scan(self.scans / f"{name}.nii", lambda x, y, z: 40 * np.sin(x / 9) + y + 30 * np.cos(z / 7))
        self.said: list[str] = []

    @property
    def journal(self) -> Path:
        return self.out / "journals" / f"{NAME}.jsonl"

    def add(self, case: str, content: bytes | None = None) -> None:
        (self.scans / f"{case}.nii").write_bytes((self.scans / "a.nii").read_bytes() if content is None else content)

    def measure(self, *, scans: Path | None = None, **options: Any) -> dict[str, int]:
        list_archive(scans or self.scans, self.out / "list.parquet", shards=1)
        settings = {"pictures": False, "retry": False, "compute_on": lambda: torch.device("cpu"), **options}
        return measure_shard(
            self.out / "list.parquet", self.out, self.model, shard=(0, 1), warn=self.said.append, **settings
        )

    def read(self, dataset: str) -> pd.DataFrame:
        return pd.read_parquet(self.out / dataset)


@pytest.fixture
def archive(tmp_path: Path, make_model: Callable[..., Path], write_scan: Callable[..., Path]) -> Archive:
    return Archive(tmp_path, make_model, write_scan)


# --- what is kept


def test_a_shard_without_news_changes_nothing_and_loads_no_weights(archive: Archive) -> None:
    assert archive.measure()["computed"] == 2
    written = {path: path.read_bytes() for path in archive.out.glob("*/*.parquet")}
    (archive.model / "detector-0.safetensors").unlink()
    assert archive.measure() == {"scans": 2, "ok": 2, "failed": 0, "computed": 0, "resumed": 0, "kept": 2}
    assert {path: path.read_bytes() for path in archive.out.glob("*/*.parquet")} == written


def test_a_new_scan_joins_the_others_unchanged(archive: Archive) -> None:
    archive.measure()
    before = archive.read("vertebrae")
    archive.add("c")
    assert archive.measure()["computed"] == 1
    after = archive.read("vertebrae")
    assert set(after["case"]) == {"a", "b", "c"}
    pd.testing.assert_frame_equal(after[after["case"] != "c"].reset_index(drop=True), before)


def test_a_scan_written_again_is_computed_again(archive: Archive) -> None:
    archive.measure()
    os.utime(archive.scans / "a.nii", (1, 1))
    found = archive.measure()
    assert (found["computed"], found["kept"]) == (1, 1)


def test_a_scan_that_is_no_longer_listed_leaves_both_datasets(archive: Archive) -> None:
    archive.measure()
    (archive.scans / "a.nii").unlink()
    assert archive.measure()["kept"] == 1
    assert set(archive.read("scans")["case"]) == set(archive.read("vertebrae")["case"]) == {"b"}


def test_another_model_computes_all_again(archive: Archive) -> None:
    archive.measure()
    before = archive.read("scans")["computed_by"].unique()
    archive.make_model(archive.model, objectness=2.0)
    assert archive.measure()["computed"] == 2
    after = archive.read("scans")["computed_by"].unique()
    assert len(before) == len(after) == 1
    assert before[0] != after[0]


def test_a_scan_that_failed_is_kept_until_retry(archive: Archive) -> None:
    archive.add("broken", b"not a scan")
    assert archive.measure()["failed"] == 1
    assert archive.measure()["computed"] == 0
    found = archive.measure(retry=True)
    assert (found["computed"], found["kept"]) == (1, 2)


def test_pictures_wanted_later_compute_those_that_have_none(archive: Archive) -> None:
    archive.measure()
    assert not (archive.out / "folders").exists()
    assert archive.measure(pictures=True)["computed"] == 2
    folder = Path(archive.read("scans")["folder"].iloc[0])
    assert (folder / "overlay.png").stat().st_size > 1000
    assert archive.measure(pictures=True)["computed"] == 0
    assert archive.measure()["computed"] == 0


# --- the journal


def stop_after(archive: Archive, monkeypatch: pytest.MonkeyPatch, scans: int) -> None:
    """Let a call be stopped, as by a signal, after so many scans."""
    calls = []
    true = predict.predict_scan

    def counted(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) > scans:
            raise KeyboardInterrupt
        return true(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(predict, "predict_scan", counted)
        with pytest.raises(KeyboardInterrupt):
            archive.measure()


def test_a_line_that_was_cut_short_is_computed_again(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    archive.add("c")
    stop_after(archive, monkeypatch, 2)
    content = archive.journal.read_bytes()
    assert content.count(b"\n") == 2
    archive.journal.write_bytes(content[:-10])
    found = archive.measure()
    assert (found["resumed"], found["computed"]) == (1, 2)
    assert sorted(archive.read("scans")["case"]) == ["a", "b", "c"]
    assert not archive.journal.exists()


def test_what_goes_through_the_journal_keeps_every_digit(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    archive.measure()
    directly = archive.read("vertebrae")
    for path in archive.out.glob("*/*.parquet"):
        path.unlink()
    stop_after(archive, monkeypatch, 1)
    assert archive.measure()["resumed"] == 1
    pd.testing.assert_frame_equal(archive.read("vertebrae"), directly, check_exact=True)


def test_a_journal_of_another_model_is_not_resumed(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_after(archive, monkeypatch, 1)
    archive.make_model(archive.model, objectness=2.0)
    found = archive.measure()
    assert (found["resumed"], found["computed"]) == (0, 2)


def test_two_processes_never_work_on_one_shard(archive: Archive) -> None:
    lock = archive.journal.with_suffix(".lock")
    lock.parent.mkdir(parents=True)
    with FileLock(lock), pytest.raises(CohortError, match=NAME):
        archive.measure()


# --- scans that fail


def test_a_defect_in_one_scan_is_its_reason_and_the_others_go_on(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = predict.predict_scan

    def broken(case: str, *rest: Any) -> Any:
        if case == "a":
            raise ZeroDivisionError("nobody thought of that")
        return true(case, *rest)

    monkeypatch.setattr(predict, "predict_scan", broken)
    assert archive.measure()["failed"] == 1
    rows = archive.read("scans").set_index("case")
    assert rows.loc["a", "reason"] == "ZeroDivisionError: nobody thought of that"
    assert rows.loc["a", "source"] == str(archive.scans / "a.nii")
    assert rows.loc["b", "status"] == "ok"
    assert any("Traceback" in line for line in archive.said)


def test_scans_of_a_table_that_are_missing_have_rows(archive: Archive, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("case,image\nnowhere,scans/nowhere.nii\nnothing,\ngood,scans/a.nii\n")
    assert archive.measure(scans=table)["failed"] == 2
    reasons = archive.read("scans").set_index("case")["reason"]
    assert "nowhere.nii: no such file" in reasons["nowhere"]
    assert "has no image" in reasons["nothing"]


def test_the_summary_counts_and_refuses_a_part_that_is_missing(archive: Archive) -> None:
    for case in ("x", "y"):
        archive.add(case, b"short" * (1 + (case == "y")))
    archive.measure()
    text = summarise(archive.out / "list.parquet", archive.out)
    assert text.startswith("4 scans: 2 ok, 2 failed\n")
    table = tables.read_table(archive.out / "summary.parquet", tables.ARCHIVE_SUMMARY)
    assert table.groupby("what")["scans"].sum().to_dict() == {"status": 4, "worst_grade": 2, "reason": 2}
    assert (table["what"] == "reason").sum() == 1  # the two differ by path and numbers alone
    archive.add("later")
    list_archive(archive.scans, archive.out / "list.parquet", shards=1)
    with pytest.raises(TableError, match="4 rows are not the 5 scans listed"):
        summarise(archive.out / "list.parquet", archive.out)


# --- the list


def test_a_case_has_the_same_shard_everywhere_and_shards_are_even() -> None:
    assert [shard_of(case, 100) for case in ("a", "b", "p0001_ct")] == [50, 46, 52]
    sizes = Counter(shard_of(f"p{number:05d}", 10) for number in range(10_000))
    assert min(sizes.values()) > 900
    assert max(sizes.values()) < 1100


def test_the_list_does_not_look_at_annotations(archive: Archive) -> None:
    (archive.scans / "annotations.csv").write_text("nonsense")
    list_archive(archive.scans, archive.out / "list.parquet", shards=3)
    rows = tables.read_table(archive.out / "list.parquet", tables.ARCHIVE_LIST)
    assert sorted(rows["case"]) == ["a", "b"]
    assert all(Path(source).is_absolute() for source in rows["source"])
    assert rows["shard"].is_monotonic_increasing


def test_two_scans_of_one_name_are_refused(archive: Archive) -> None:
    (archive.scans / "a.nii.gz").write_bytes(b"")
    with pytest.raises(CohortError, match="case a is that of"):
        list_archive(archive.scans, archive.out / "list.parquet", shards=3)


def test_results_in_another_number_of_shards_are_refused(archive: Archive) -> None:
    archive.measure()
    check_parts(archive.out, shards=1)
    with pytest.raises(ConfigError, match="holds results in 1 shards, found shards: 12"):
        check_parts(archive.out, shards=12)
