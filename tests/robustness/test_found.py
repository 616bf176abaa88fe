"""The smallest form of every input that benchmarks/fuzz.py found to end in a traceback, a hang or much memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest

from vertfrac import errors, tables
from vertfrac.arrays import iterate_pairs, read_description, write_arrays
from vertfrac.cohorts.lungcancer500_json import read_study
from vertfrac.cohorts.markups import read_markups
from vertfrac.cohorts.nifti import scans
from vertfrac.cohorts.series_index import index_series
from vertfrac.cohorts.verse.centroids import read_centroids
from vertfrac.cohorts.verse.files import identity
from vertfrac.cohorts.verse.grades import level_of, read_grades
from vertfrac.config import Evaluation, parse_json, read_yaml
from vertfrac.errors import AnnotationError, ConfigError, GeometryError, ImageError, TableError
from vertfrac.files import read_json
from vertfrac.geometry.grid import Grid
from vertfrac.imaging import image_from_array, read_image
from vertfrac.imaging.dicom_write import write_dicom


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# --- messages


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a.nii: two\n  lines", "a.nii: two lines"),
        ("a.nii: \x1b[31m\x00\ud800", "a.nii: \\x1b[31m\\x00\\ud800"),
        ("a  b.nii: é 脊", "a  b.nii: é 脊"),
    ],
)
def test_a_message_is_one_printable_line(text: str, shown: str) -> None:
    assert str(ImageError(text)) == shown


def test_a_long_message_keeps_both_ends() -> None:
    text = str(TableError(f"a.csv: found {'x' * 100_000}, expected 1"))
    assert len(text) < 1.1 * errors.LONGEST_MESSAGE
    assert text.startswith("a.csv: found xx")
    assert text.endswith("xx, expected 1")


# --- JSON


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "[" * 200 + "]" * 200])
def test_deep_json_is_refused(text: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", text)
    with pytest.raises(TableError, match=r"a\.json: JSON of too many levels"):
        read_json(path)


def test_json_of_usual_depth_and_size_is_read(tmp_path: Path) -> None:
    value = {"a": [1, 2**62 - 1, -5, 1.5, None, "x"], "deep": json.loads("[" * 90 + "]" * 90)}
    assert read_json(write(tmp_path / "a.json", json.dumps(value))) == value


HUGE = "1" + "0" * 400


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (lambda path: read_markups([path], "a"), json.dumps({"markups": [
            {"type": "Line", "name": "L1", "controlPoints": [{"position": [0, 0, "HUGE"]}]}]})),
        (read_centroids, json.dumps([{"label": 20, "X": 0, "Y": 0, "Z": "HUGE"}])),
        (read_centroids, json.dumps([{"label": "HUGE", "X": 0, "Y": 0, "Z": 0}])),
        (read_study, json.dumps({"Folder": "a", "SeriesInstanceUID": "1", "Annotation": {"e": [[["HUGE"] * 3] * 6]}})),
    ],
    ids=["markups", "centroid", "label", "study"],
)  # fmt: skip
def test_numbers_beyond_any_float_are_refused(read: Callable[[Path], Any], text: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", text.replace('"HUGE"', HUGE))
    with pytest.raises(AnnotationError, match=r"a\.json"):
        read(path)


# --- YAML


@pytest.mark.parametrize(
    "text",
    [
        "a: 2020-13-45", "a: !!float x", "a: !!int ''", "a: !!timestamp x", "{" * 2000, "- " * 2000,
        "a: &a [*a]", "a: 0x" + "f" * 5000,
        "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)),
    ],
    ids=["date", "float", "int", "timestamp", "braces", "dashes", "endless", "huge", "laughs"],
)  # fmt: skip
def test_yaml_that_means_nothing_or_too_much_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a\.yaml"):
        read_yaml(write(tmp_path / "a.yaml", text))


def test_yaml_with_a_few_aliases_is_read(tmp_path: Path) -> None:
    text = "a: &a {x: 1}\nb: {<<: *a, y: 2}\nc: *a\n"
    assert read_yaml(write(tmp_path / "a.yaml", text)) == {"a": {"x": 1}, "b": {"x": 1, "y": 2}, "c": {"x": 1}}


@pytest.mark.parametrize("text", ["[" * 100_000, '{"resamples": 1' + "0" * 5000 + "}", '{"match_iou": NaN}'])
def test_settings_on_the_command_line_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--settings"):
        parse_json(Evaluation, text, "--settings")


@pytest.mark.parametrize("value", ["Infinity", "-Infinity", "NaN", "1e999"])
def test_a_setting_is_a_finite_number(value: str) -> None:
    with pytest.raises(ConfigError, match="match_distance_mm"):
        parse_json(Evaluation, f'{{"match_distance_mm": {value}}}', "--settings")


# --- images


def nifti(path: Path, change: Callable[[Any], None] = lambda header: None) -> Path:
    image: Any = nibabel.Nifti1Image(np.arange(27, dtype=np.int16).reshape(3, 3, 3) * 50, np.eye(4))
    nibabel.save(image, path)
    content = path.read_bytes()
    header: Any = nibabel.Nifti1Header(content[:348], check=False)
    change(header.structarr)
    path.write_bytes(header.structarr.tobytes() + content[348:])
    return path


@pytest.mark.parametrize("offset", [np.inf, -np.inf, np.nan, 3e38])
def test_voxels_that_begin_nowhere_are_refused(offset: float, tmp_path: Path) -> None:
    def change(header: Any) -> None:
        header["vox_offset"] = offset

    with pytest.raises(ImageError, match=r"a\.nii"):
        read_image(nifti(tmp_path / "a.nii", change))


def test_a_header_that_ends_after_its_signature_is_refused(tmp_path: Path) -> None:
    image: Any = nibabel.Nifti2Image(np.zeros((3, 3, 3), np.int16), np.eye(4))
    nibabel.save(image, tmp_path / "a.nii")
    path = write(tmp_path / "a.nii", (tmp_path / "a.nii").read_bytes()[:400])
    with pytest.raises(ImageError, match=r"a\.nii"):
        read_image(path)


@pytest.mark.parametrize("scale", [1e-38, 1e-5, 1e38])
def test_axes_that_are_nearly_parallel_are_refused(scale: float, tmp_path: Path) -> None:
    def change(header: Any) -> None:
        header["srow_x"] = [1.0, 1.0, 0.0, 0.0]
        header["srow_y"] = [1.0, 1.0 + scale, 0.0, 0.0]
        header["sform_code"] = 1

    with pytest.raises(ImageError, match=r"a\.nii"):
        read_image(nifti(tmp_path / "a.nii", change))


def test_a_strongly_anisotropic_or_sheared_grid_is_not_singular() -> None:
    assert Grid((2, 2, 2), np.diag([0.05, 0.05, 20.0, 1])).spacing_mm[2] == 20
    sheared = np.eye(4)
    sheared[0, 1] = 20.0  # 87 degrees
    assert Grid((2, 2, 2), sheared).spacing_mm[1] > 20
    sheared[0, 1] = 1e5
    with pytest.raises(GeometryError, match="singular"):
        Grid((2, 2, 2), sheared)


@pytest.mark.parametrize("spacing", [(1000, 1, 1), (200, 200, 200)])
def test_a_scan_larger_than_any_patient_is_refused(spacing: tuple[float, float, float]) -> None:
    """Its 500 voxels would be resampled to GBs."""
    hu = np.arange(8**3).reshape(8, 8, 8)
    with pytest.raises(ImageError, match=r"array: covers .* mm, expected at most"):
        image_from_array(hu, np.diag([*map(float, spacing), 1]))


def test_a_scan_of_a_whole_patient_is_not_too_large() -> None:
    hu = np.arange(20**3).reshape(20, 20, 20) - 1000
    image = image_from_array(hu, np.diag([35.0, 35.0, 100.0, 1]))
    assert image.grid.extent_mm.max() == 2000
    assert ["unusual for CT" in warning for warning in image.warnings] == [True]


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "x" * 5000 + ".nii"])
def test_a_name_that_no_file_can_have_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ImageError):
        read_image(tmp_path / name)


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "x" * 5000 + ".json"])
def test_an_annotation_whose_name_no_file_can_have_is_a_fault_of_its_case(name: str, tmp_path: Path) -> None:
    nifti(tmp_path / "a.nii")
    rows = pd.DataFrame({"case": ["a"], "image": ["a.nii"], "annotation": [name]})
    (scan,) = scans(table=str(write(tmp_path / "cases.csv", rows.to_csv(index=False))))
    with pytest.raises(AnnotationError, match="no such file, expected the annotation of case a"):
        scan.read()


def test_a_case_named_as_no_file_can_be_has_no_annotation_in_a_folder(tmp_path: Path) -> None:
    nifti(tmp_path / "a.nii")
    (tmp_path / "annotations").mkdir()
    rows = pd.DataFrame({"case": ["x" * 5000], "image": ["a.nii"]})
    (scan,) = scans(table=str(write(tmp_path / "cases.csv", rows.to_csv(index=False))))
    assert len(scan.read()[1]) == 0


@pytest.mark.parametrize("number", ["inf", "1e308", "9" * 400, "-2147483648", "x"])
def test_a_slice_whose_number_is_none_has_none_in_the_index(number: str, tmp_path: Path) -> None:
    import pydicom

    hu = np.arange(8 * 8 * 2, dtype=np.int16).reshape(8, 8, 2)
    write_dicom(tmp_path / "a", image_from_array(hu, np.eye(4)), patient="p", seed=["s"], names=["1.dcm", "2.dcm"])
    content = (tmp_path / "a" / "1.dcm").read_bytes()
    data = number.encode() + b" " * (len(number) % 2)
    element = b"\x20\x00\x13\x00IS"
    start = content.index(element)
    rest = start + 8 + int.from_bytes(content[start + 6 : start + 8], "little")
    harmed = content[:start] + element + len(data).to_bytes(2, "little") + data + content[rest:]
    (tmp_path / "a" / "1.dcm").write_bytes(harmed)
    assert "InstanceNumber" in pydicom.dcmread(tmp_path / "a" / "1.dcm", stop_before_pixels=True)
    rows = index_series(tmp_path / "a", threads=1)
    assert rows["instance"].tolist() == [pd.NA, 2]
    assert rows["reason"].tolist() == ["", ""]


# --- tables, caches


@pytest.mark.parametrize("cell", ["inf", "-inf", "1e20", "1.5", "99999999999999999999"])
def test_what_is_no_integer_is_refused(cell: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", f"repeat,fold,case,patient,grade\n0,0,a,a,0\n{cell},0,b,b,0\n")
    with pytest.raises(TableError, match=r"a\.csv: column repeat"):
        tables.read_table(path, tables.FOLDS)


@pytest.mark.parametrize("description", ["1", "[]", '{"cases": 1}', '{"cases": {"two": {}}}', "[" * 100_000])
def test_a_cache_whose_description_does_not_fit_is_refused(description: str, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"one": np.zeros(3)}, tmp_path / "a.safetensors", metadata={"description": description})
    with pytest.raises(TableError, match=r"a\.safetensors"):
        list(iterate_pairs([tmp_path / "a.safetensors"]))


def test_a_sound_cache_is_read(tmp_path: Path) -> None:
    write_arrays(tmp_path / "a.safetensors", {"one": np.arange(3)}, {"cases": {"one": {"x": 1}}})
    assert read_description(tmp_path / "a.safetensors") == {"cases": {"one": {"x": 1}}}
    [(name, array, beside, entry)] = list(iterate_pairs([tmp_path / "a.safetensors"]))
    assert (name, array.tolist(), beside, entry) == ("one", [0, 1, 2], None, {"x": 1})


@pytest.mark.parametrize("line", ["{", "[1]", "null", "{}", '{"scan": {"case": 1}, "vertebrae": []}', "[" * 10_000])
def test_a_damaged_line_of_a_journal_is_no_news_and_the_others_hold(line: str, tmp_path: Path) -> None:
    from vertfrac.inference.archive import _read_journal

    sound = [{"scan": {"case": name, "status": "failed"}, "vertebrae": []} for name in "ab"]
    path = write(tmp_path / "a.jsonl", f"{json.dumps(sound[0])}\n{line}\n\xff\n{json.dumps(sound[1])}\n")
    assert _read_journal(path) == sound


@pytest.mark.parametrize(
    "change",
    [{"spacing_mm": [float("inf"), 1, 1]}, {"spacing_mm": ["x"]}, {"shape": [None]}, {"shape": 3}, {"model": []}],
)
def test_a_card_of_a_scan_with_other_values_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    from vertfrac.report.page import _facts

    sound = {"shape": [2, 2, 2], "spacing_mm": [1, 1, 1], "model": {"name": "m"}, "versions": {"vertfrac": "1"}}
    path = write(tmp_path / "scan.json", json.dumps(sound))
    assert _facts(path) == {"shape": [2, 2, 2], "spacing": [1, 1, 1], "model": "m", "version": "1"}
    with pytest.raises(TableError, match=r"scan\.json"):
        _facts(write(path, json.dumps({**sound, **change})))


def test_a_page_of_a_scan_without_a_name_is_refused(tmp_path: Path) -> None:
    from vertfrac.report.page import write_report

    rows = pd.DataFrame({"case": ["a", None], "source": ["a.nii", "b.nii"], "status": ["failed", "failed"]})
    tables.SCAN_RESULTS.frame(rows).to_parquet(tmp_path / "scans.parquet")
    with pytest.raises(TableError, match=r"scans\.parquet: row 2 has no case, expected a name"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


# --- VerSe


@pytest.mark.parametrize("text", ["9" * 5000, "²", "verse" + "1" * 5000])
def test_numbers_that_are_none_name_no_level(text: str) -> None:
    assert level_of(text) is None


def test_a_scan_may_have_any_number() -> None:
    assert identity("007.0") == "verse007"
    assert identity("verse0015") == identity("15") == "verse015"
    assert identity("9" * 5000) == "verse" + "9" * 5000


@pytest.mark.parametrize("grade", ["9" * 5000, "4", "2.5"])
def test_a_grade_that_is_none_is_a_fault_of_its_scan(grade: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", f"scan_id,vertebra,grade\n15,T12,{grade}\n16,T12,02.0\n")
    found = read_grades(path)
    assert found["verse016"].grades == {"T12": 2}
    assert len(found["verse015"].faults) == 1


def test_rows_of_a_table_are_not_lost_on_the_way(tmp_path: Path) -> None:
    """That a table of extreme but sound numbers is taken: limits are not drawn too tightly."""
    rows = pd.DataFrame({"case": ["a"], "level": ["S1"], "x": [-1500.25], "y": [0.0], "z": [1e4]})
    tables.write_csv(tmp_path / "a.csv", tables.LANDMARKS.frame(rows))
    assert tables.read_table(tmp_path / "a.csv", tables.LANDMARKS)["z"].tolist() == [1e4]
