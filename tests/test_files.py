"""Writing: a reader sees the old content or the new, whole, and an error leaves no trace."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vertfrac.errors import TableError
from vertfrac.files import read_json, replacing, replacing_folder, write_json


class Interrupted(BaseException):
    """Stands for Ctrl-C, which no "except Exception" catches."""


def _fail_halfway(target: Path, error: type[BaseException]) -> None:
    with replacing(target) as temporary:
        temporary.write_text("half")
        raise error


def _fail_halfway_in_folder(target: Path, error: type[BaseException]) -> None:
    with replacing_folder(target) as temporary:
        (temporary / "a").write_text("half")
        raise error


def test_file_takes_its_place_whole(tmp_path: Path) -> None:
    target = tmp_path / "new" / "scan.nii.gz"
    with replacing(target) as temporary:
        assert temporary.name.endswith(".nii.gz")
        assert temporary.parent == target.parent, "another folder may be another disk, where no move is atomic"
        temporary.write_text("first")
        assert not target.exists()
    with replacing(target) as temporary:
        temporary.write_text("second")
        assert target.read_text() == "first"
    assert target.read_text() == "second"
    assert os.listdir(target.parent) == [target.name]


@pytest.mark.parametrize("error", [ValueError, Interrupted])
@pytest.mark.parametrize("old", [None, "old"])
def test_failed_file_leaves_what_was(tmp_path: Path, old: str | None, error: type[BaseException]) -> None:
    target = tmp_path / "table.parquet"
    if old is not None:
        target.write_text(old)
    with pytest.raises(error):
        _fail_halfway(target, error)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == ({target.name: old} if old else {})


def test_folder_takes_its_place_whole(tmp_path: Path) -> None:
    target = tmp_path / "new" / "model"
    with replacing_folder(target) as temporary:
        (temporary / "a").write_text("first")
        assert not target.exists()
    with replacing_folder(target) as temporary:
        (temporary / "b").write_text("second")
        assert os.listdir(target) == ["a"]
    assert {path.name: path.read_text() for path in target.iterdir()} == {"b": "second"}
    assert os.listdir(target.parent) == [target.name]


@pytest.mark.parametrize("error", [ValueError, Interrupted])
@pytest.mark.parametrize("old", [None, "old"])
def test_failed_folder_leaves_what_was(tmp_path: Path, old: str | None, error: type[BaseException]) -> None:
    target = tmp_path / "model"
    if old is not None:
        target.mkdir()
        (target / "a").write_text(old)
    with pytest.raises(error):
        _fail_halfway_in_folder(target, error)
    found = {str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    assert found == ({"model/a": old} if old else {})
    assert len(list(tmp_path.iterdir())) == (1 if old else 0)


def test_others_may_read_what_the_umask_lets_them(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with replacing(tmp_path / "file") as temporary:
            temporary.write_text("")
        with replacing_folder(tmp_path / "folder"):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o750


def test_json_there_and_back(tmp_path: Path) -> None:
    path = tmp_path / "card.json"
    value = {"name": "Wirbelsäule", "numbers": [1, 2.5, None], "b": True, "a": {}}
    write_json(path, value)
    assert read_json(path) == value
    assert list(read_json(path)) == list(value)


def test_json_without_a_value_for_nan_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "card.json"
    write_json(path, 1)
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"score": float("nan")})
    assert read_json(path) == 1
    assert os.listdir(tmp_path) == ["card.json"]


@pytest.mark.parametrize("content", [None, b"", b'{"half":', b"\xff\xfe"])
def test_unreadable_json_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "card.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TableError, match=r"card\.json: (cannot be read|not valid JSON)"):
        read_json(path)
