"""A slice of benchmarks/fuzz.py: damaged files of every kind give a sound result or one line that names them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
INPUTS = 40
SLOW = dict.fromkeys(("predict", "predicted", "scored", "cohort-csv", "cohort-parquet", "config", "model"), 12)


@pytest.fixture(scope="module")
def fuzz() -> Iterator[ModuleType]:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import fuzz  # type: ignore[import-not-found]

        yield fuzz
    finally:
        sys.path.remove(str(BENCHMARKS))


TOLERANT = ("dicom-index", "journal")
"""Readers that pass over what is damaged, or tell it in a row."""
READERS = (
    "nifti", "nifti-gz", "labels", "dicom", "dicom-compressed", "dicom-index", "annotation-json", "markups",
    "lungcancer500-json", "verse", "cohort-csv", "cohort-parquet", "scored", "config", "model", "archive", "journal",
    "arrays", "predicted", "predict",
)  # fmt: skip


def test_every_reader_is_in_the_slice(fuzz: ModuleType) -> None:
    assert set(fuzz.READERS) == set(READERS)


@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_taken_or_refused_by_name(name: str, fuzz: ModuleType, tmp_path: Path) -> None:
    inputs = SLOW.get(name, INPUTS)
    results = list(fuzz.attempts(name, tmp_path, seed=7, numbers=range(inputs)))
    assert len(results) == inputs
    assert [result for result in results if result.kind == fuzz.FAILURE] == []
    if name not in TOLERANT:
        assert any(result.kind != "accepted" for result in results), "no input was harmed enough to be refused"


FOUND = {
    ("dicom-compressed", 642): "ImageError",
    ("dicom-compressed", 1208): "ImageError",
    ("dicom-compressed", 1414): "ImageError",
    ("dicom-compressed", 9736): "ImageError",
    ("dicom-compressed", 9818): "ImageError",
    ("dicom-index", 1415): "accepted",
}
"""Inputs of seed 1 on which a library ended the process, decoded for ten seconds or raised what nobody expects."""


@pytest.mark.parametrize(("name", "number"), FOUND)
def test_what_was_found_is_refused_or_passed_over(name: str, number: int, fuzz: ModuleType, tmp_path: Path) -> None:
    (result,) = fuzz.attempts(name, tmp_path, seed=1, numbers=range(number, number + 1))
    assert result.kind == FOUND[name, number]


def test_the_same_seed_and_number_make_the_same_input(fuzz: ModuleType) -> None:
    import mutations  # type: ignore[import-not-found]
    import numpy as np

    content = b'{"a": [1, 2, {"b": "text"}]}'
    one, other = ([mutations.harmed_json(np.random.default_rng([1, n]), content) for n in range(50)] for _ in range(2))
    assert one == other
    assert len({text for text, _ in one}) > 30, "inputs are all alike"


@pytest.mark.parametrize(
    ("result", "kind"),
    [
        (lambda folder: None, "accepted"),
        (lambda folder: _raise("ImageError", f"{folder}/x: broken"), "ImageError"),
        (lambda folder: _raise("ImageError", "broken"), "FAILURE"),
        (lambda folder: [][0], "FAILURE"),
        (lambda folder: bytearray(600 * 2**20), "FAILURE"),
        (lambda folder: _forever(), "FAILURE"),
    ],
    ids=["sound", "named", "nameless", "traceback", "memory", "hang"],
)
def test_what_is_a_failure_is_called_one(
    result: object, kind: str, fuzz: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = True

    def read(folder: Path) -> object:
        return None if sound else result(folder)  # type: ignore[operator]

    def make(folder: Path) -> None:
        (folder / "one").mkdir()
        (folder / "one" / "x.json").write_text("[1]")

    monkeypatch.setitem(fuzz.READERS, "own", fuzz.Reader(make, read))
    monkeypatch.setattr(fuzz, "LIMIT_S", 0.5)
    results = fuzz.attempts("own", tmp_path, seed=1, numbers=range(2))
    assert next(results).kind == "accepted"
    sound = False
    assert next(results).kind == kind


def _raise(name: str, text: str) -> None:
    from vertfrac import errors

    raise getattr(errors, name)(text)


def _forever() -> None:
    while True:
        pass
