"""Laws of model folders and of ``predict``: what is written is read back, what is broken is named, nothing is lost."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydicom
import pytest
import torch
from highdicom import sr
from matplotlib.image import imread

from vertfrac import tables
from vertfrac.config import System
from vertfrac.errors import ImageError, ModelError, VertfracError
from vertfrac.imaging import case_name, read_image
from vertfrac.imaging.dicom_write import write_dicom
from vertfrac.inference.predict import predict_scans
from vertfrac.inference.scan import analyse
from vertfrac.inference.weights import build_detector, build_localizer, load_model, save_weights

CPU = torch.device("cpu")
MakeModel = Callable[..., Path]
WriteScan = Callable[..., Path]


@pytest.fixture
def model(tmp_path: Path, make_model: MakeModel) -> Path:
    return make_model(tmp_path / "model", objectness=3.0)


@pytest.fixture
def scan(tmp_path: Path, write_scan: WriteScan) -> Path:
    return write_scan(tmp_path / "scans" / "one.nii.gz", lambda x, y, z: 40 * np.sin(x / 9) + y + 30 * np.cos(z / 7))


# --- model folders


def test_a_loaded_model_answers_like_the_exported_networks(
    tmp_path: Path, make_model: MakeModel, tiny_system: Any
) -> None:
    loaded = load_model(make_model(tmp_path / "model", folds=2), CPU)
    system = System.model_validate(tiny_system)
    for fold in range(2):
        localizer = build_localizer(system.localizer.network, seed=fold)
        detector = build_detector(system.detector.network, 1.0, seed=fold)
        volume, image = torch.randn(1, 1, 9, 10, 11), torch.randn(1, 1, 20, 30)
        torch.testing.assert_close(loaded.localizers[fold](volume).positions, localizer.eval()(volume).positions)
        assert torch.allclose(loaded.detectors[fold](image), detector.eval()(image), atol=1e-6)


def test_the_buffers_of_a_detector_come_back(tmp_path: Path, make_model: MakeModel) -> None:
    detector = load_model(make_model(tmp_path / "model"), CPU).detectors[0]
    assert detector.get_buffer("mean_offsets")[0].tolist() == [-9, -13]


def test_a_loaded_model_is_in_evaluation_mode(model: Path) -> None:
    loaded = load_model(model, CPU)
    assert not any(network.training for network in (*loaded.localizers, *loaded.detectors))


def test_exporting_again_replaces_the_folder(tmp_path: Path, make_model: MakeModel) -> None:
    make_model(tmp_path / "model", folds=2)
    make_model(tmp_path / "model", folds=1)
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == [
        "detector-0.safetensors", "localizer-0.safetensors", "model.json"
    ]  # fmt: skip


def _card(folder: Path, **changes: Any) -> None:
    path = folder / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _tamper(folder: Path) -> str:
    path = folder / "detector-0.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    return path.name


def _lose(folder: Path) -> str:
    (folder / "localizer-0.safetensors").unlink()
    return "localizer-0.safetensors"


def _other_format(folder: Path) -> str:
    _card(folder, format=99)
    return "model.json"


def _not_json(folder: Path) -> str:
    (folder / "model.json").write_text("{")
    return "model.json"


def _no_card(folder: Path) -> str:
    (folder / "model.json").unlink()
    return str(folder)


def _a_list(folder: Path) -> str:
    (folder / "model.json").write_text("[]")
    return "model.json"


def _no_detector(folder: Path) -> str:
    _card(folder, detectors=[])
    return "model.json"


def _no_name(folder: Path) -> str:
    card = json.loads((folder / "model.json").read_text())
    del card["name"]
    (folder / "model.json").write_text(json.dumps(card))
    return "model.json"


def _unknown_setting(folder: Path) -> str:
    card = json.loads((folder / "model.json").read_text())
    card["system"]["detector"]["from_the_future"] = 1
    (folder / "model.json").write_text(json.dumps(card))
    return "model.json"


def _other_widths(folder: Path) -> str:
    card = json.loads((folder / "model.json").read_text())
    card["system"]["localizer"]["network"]["widths"] = [5, 6]
    (folder / "model.json").write_text(json.dumps(card))
    return "localizer-0.safetensors"


@pytest.mark.parametrize(
    "harm",
    [
        _tamper, _lose, _other_format, _not_json, _no_card, _a_list, _no_detector, _no_name, _unknown_setting,
        _other_widths,
    ],
)  # fmt: skip
def test_a_harmed_model_folder_is_refused_by_the_name_of_the_file(model: Path, harm: Callable[[Path], str]) -> None:
    name = harm(model)
    with pytest.raises(ModelError) as caught:
        load_model(model, CPU)
    assert name in str(caught.value)


def test_a_file_instead_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ModelError, match="file"):
        load_model(tmp_path / "file", CPU)


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nowhere"):
        load_model(tmp_path / "nowhere", CPU)


def test_weights_of_the_wrong_kind_are_refused(tmp_path: Path, make_model: MakeModel, tiny_system: Any) -> None:
    import hashlib

    folder = make_model(tmp_path / "model")
    system = System.model_validate(tiny_system)
    path = folder / "detector-0.safetensors"
    save_weights(path, build_localizer(system.localizer.network), kind="localizer", settings={})
    _card(folder, detectors=[{"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}])
    with pytest.raises(
        ModelError, match=r"detector-0\.safetensors: holds weights of kind localizer, expected detector"
    ):
        load_model(folder, CPU)


def test_what_is_not_safetensors_is_refused(tmp_path: Path, make_model: MakeModel) -> None:
    import hashlib

    folder = make_model(tmp_path / "model")
    path = folder / "detector-0.safetensors"
    path.write_bytes(b"\x80\x04pickle")
    _card(folder, detectors=[{"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}])
    with pytest.raises(ModelError, match="detector-0"):
        load_model(folder, CPU)


# --- one scan


def test_a_scan_thinner_than_a_vertebra_is_refused(tmp_path: Path, model: Path, write_scan: WriteScan) -> None:
    thin = write_scan(tmp_path / "thin.nii", lambda x, y, z: x + y + z, shape=(40, 40, 10))
    with pytest.raises(ImageError, match="80 x 80 x 20 mm"):
        analyse(read_image(thin), load_model(model, CPU))


def test_every_vertebra_of_an_analysed_scan_has_a_status(model: Path, scan: Path) -> None:
    vertebrae = analyse(read_image(scan), load_model(model, CPU)).vertebrae
    assert len(vertebrae) > 2
    assert set(vertebrae["status"]) <= {"ok", "partial", "low_score", "not_measured"}


def test_the_same_scan_twice_gives_the_same_table(model: Path, scan: Path) -> None:
    first, second = (analyse(read_image(scan), load_model(model, CPU)).vertebrae for _ in range(2))
    assert first.equals(second)


# --- many scans


def _predict(scans: list[Path], out: Path, model: Path, *, dicom: bool = False) -> tuple[bool, list[str]]:
    said: list[str] = []
    return predict_scans(scans, out, model, device=CPU, tell=said.append, dicom=dicom), said


def test_predict_writes_the_promised_files(tmp_path: Path, scan: Path, model: Path) -> None:
    succeeded, _ = _predict([scan], tmp_path / "out", model)
    assert succeeded
    assert {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file()} == {
        "report.html", "scans.parquet", "scans.csv", "vertebrae.parquet", "vertebrae.csv", "one/vertebrae.parquet",
        "one/vertebrae.csv", "one/curve.parquet", "one/scan.json", "one/overlay.png", "one/rulers.mrk.json",
        "one/views.json",
    }  # fmt: skip


def test_the_scan_table_agrees_with_the_vertebrae(tmp_path: Path, scan: Path, model: Path) -> None:
    _predict([scan], tmp_path / "out", model)
    row = tables.read_table(tmp_path / "out" / "scans.parquet", tables.SCAN_RESULTS).iloc[0]
    vertebrae = tables.read_table(tmp_path / "out" / "one" / "vertebrae.parquet", tables.VERTEBRAE)
    measured = vertebrae[vertebrae["status"] == "ok"]
    assert len(measured) > 0
    assert (row["vertebrae"], row["worst_grade"]) == (len(measured), measured["grade"].max())
    assert row["smallest_genant"] == measured["genant"].min()


def test_the_table_of_all_vertebrae_is_those_of_the_scans(tmp_path: Path, scan: Path, model: Path) -> None:
    other = scan.with_name("two.nii.gz")
    other.write_bytes(scan.read_bytes())
    _predict([scan, scan.with_name("missing.nii"), other], tmp_path / "out", model)
    parts = [tmp_path / "out" / case / "vertebrae.parquet" for case in ("one", "two")]
    both = tables.read_table(tmp_path / "out" / "vertebrae.parquet", tables.VERTEBRAE)
    pd.testing.assert_frame_equal(both, tables.read_tables(parts, tables.VERTEBRAE))
    columns = (tmp_path / "out" / "vertebrae.csv").read_text().splitlines()
    assert columns[0] == (tmp_path / "out" / "one" / "vertebrae.csv").read_text().splitlines()[0]
    assert len(columns) == 1 + len(both)


def test_the_sentence_of_a_scan_is_in_its_row_and_on_its_card(tmp_path: Path, scan: Path, model: Path) -> None:
    missing = scan.with_name("missing.nii")
    _, said = _predict([scan, missing], tmp_path / "out", model)
    rows = tables.read_table(tmp_path / "out" / "scans.parquet", tables.SCAN_RESULTS)
    card = json.loads((tmp_path / "out" / "one" / "scan.json").read_text())
    sentence = card["sentence"]
    assert card["levels"] is None, "this model names none"
    assert set(card["counts"]) == {"ok", "partial", "low_score", "sacrum", "not_measured"}
    assert rows["sentence"].tolist() == [sentence, f"Not measured: {rows['reason'][1].removeprefix(f'{missing}: ')}."]
    assert sentence.startswith(f"{rows['vertebrae'][0]} vertebrae measured; ")
    assert said[0] == f"one: {sentence}"


@pytest.mark.parametrize("name", ["scans.parquet", "vertebrae.csv"])
def test_no_folder_of_a_scan_is_in_the_way_of_a_table(tmp_path: Path, scan: Path, model: Path, name: str) -> None:
    other = scan.rename(scan.with_name(f"{name}.nii.gz"))
    assert _predict([other], tmp_path / "out", model)[0]
    assert (tmp_path / "out" / f"{name}-2" / "scan.json").is_file()


@pytest.fixture
def series(tmp_path: Path, scan: Path) -> Path:
    """The scan as a DICOM series."""
    image = read_image(scan)
    names = [f"{number}.dcm" for number in range(image.hu.shape[2])]
    write_dicom(tmp_path / "dicom" / "study", image, patient="p", seed=("s",), names=names)
    return tmp_path / "dicom" / "study"


def test_dicom_objects_of_a_series_say_what_the_tables_say(tmp_path: Path, series: Path, model: Path) -> None:
    succeeded, said = _predict([series], tmp_path / "out", model, dicom=True)
    assert succeeded, said
    vertebrae = tables.read_table(tmp_path / "out" / "study" / "vertebrae.parquet", tables.VERTEBRAE)
    groups = sr.srread(tmp_path / "out" / "study" / "measurements.dcm").content.get_image_measurement_groups()
    measured = vertebrae[vertebrae["status"] == "ok"]
    assert 0 < len(measured) < len(vertebrae) == len(groups)
    columns = ["height_anterior_mm", "height_middle_mm", "height_posterior_mm", "genant"]
    values = [[one.value for one in group.get_measurements()] for group in groups]
    assert [line for line in values if line] == measured[columns].to_numpy(dtype=float).tolist()
    picture = pydicom.dcmread(tmp_path / "out" / "study" / "overlay.dcm")
    drawn = imread(tmp_path / "out" / "study" / "overlay.png")[..., :3]
    assert picture.pixel_array.shape == drawn.shape
    below = np.s_[drawn.shape[0] // 4 :]  # titles differ
    np.testing.assert_allclose(picture.pixel_array[below] / 255, drawn[below], atol=0.01)


def test_dicom_objects_of_a_nifti_file_are_refused_before_any_work(tmp_path: Path, scan: Path, series: Path) -> None:
    with pytest.raises(ImageError, match=rf"{scan.name}: a NIfTI file, expected a folder with a DICOM series"):
        _predict([series, scan], tmp_path / "out", tmp_path / "no model", dicom=True)
    assert not (tmp_path / "out").exists()


def test_a_series_without_frame_of_reference_has_no_dicom_objects_and_says_why(
    tmp_path: Path, series: Path, model: Path
) -> None:
    for file in series.iterdir():
        one = pydicom.dcmread(file)
        del one.FrameOfReferenceUID
        one.save_as(file)
    succeeded, said = _predict([series], tmp_path / "out", model, dicom=True)
    assert not succeeded
    assert "FrameOfReferenceUID is missing" in said[0]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "report.html", "scans.csv", "scans.parquet", "vertebrae.csv", "vertebrae.parquet",
    ]  # fmt: skip


def test_file_names_break_neither_folders_nor_tables(tmp_path: Path, scan: Path, model: Path) -> None:
    hostile = scan.parent / "=1+1|\n\x1b[31m, x.nii.gz"
    hostile.write_bytes(scan.read_bytes())
    missing = [Path("=cmd|' C'!A0.nii.gz"), Path(os.fsdecode(b"-\xff.nii.gz")), Path("\r\n.nii.gz")]
    _, said = _predict([hostile, *missing], tmp_path / "out", model)
    rows = tables.read_table(tmp_path / "out" / "scans.csv", tables.SCAN_RESULTS)
    assert rows["status"].tolist() == ["ok", "failed", "failed", "failed"]
    assert all(str(text).isprintable() for text in rows["source"].tolist() + rows["reason"].dropna().tolist() + said)
    assert rows["source"][1] == str(missing[0])
    with (tmp_path / "out" / "scans.csv").open(encoding="utf-8", newline="") as file:
        cells = [cell for line in csv.reader(file) for cell in line]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "@"))]
    assert re.fullmatch(r"[A-Za-z0-9._-]+", rows["case"][0])
    assert (tmp_path / "out" / rows["case"][0] / "vertebrae.csv").is_file()


def test_a_missing_scan_has_its_row_and_the_others_go_on(tmp_path: Path, scan: Path, model: Path) -> None:
    missing = tmp_path / "scans" / "missing.nii.gz"
    succeeded, said = _predict([missing, scan], tmp_path / "out", model)
    rows = tables.read_table(tmp_path / "out" / "scans.parquet", tables.SCAN_RESULTS)
    assert not succeeded
    assert rows["status"].tolist() == ["failed", "ok"]
    assert str(missing) in rows["reason"][0]
    assert len(said) == 2


def test_a_scan_without_a_vertebra_is_told_so(tmp_path: Path, scan: Path, make_model: MakeModel) -> None:
    succeeded, said = _predict([scan], tmp_path / "out", make_model(tmp_path / "model", objectness=-9.0))
    assert not succeeded
    assert len(said) == 1
    assert "holds no vertebra" in said[0]


def test_nothing_half_written_is_left(tmp_path: Path, scan: Path, model: Path) -> None:
    thin = tmp_path / "scans" / "broken.nii.gz"
    thin.write_bytes(scan.read_bytes()[:2000])
    _predict([thin, scan], tmp_path / "out", model)
    assert not list(tmp_path.rglob(".writing-*"))


def test_scans_of_one_name_get_folders_of_their_own(tmp_path: Path, scan: Path, model: Path) -> None:
    other = tmp_path / "elsewhere" / scan.name
    other.parent.mkdir()
    other.write_bytes(scan.read_bytes())
    _predict([scan, other], tmp_path / "out", model)
    rows = tables.read_table(tmp_path / "out" / "scans.parquet", tables.SCAN_RESULTS)
    assert rows["case"].tolist() == ["one", "one-2"]
    assert all((tmp_path / "out" / case / "scan.json").is_file() for case in rows["case"])


def test_predicting_again_replaces_the_results(tmp_path: Path, scan: Path, model: Path) -> None:
    _predict([scan], tmp_path / "out", model)
    first = (tmp_path / "out" / "one" / "vertebrae.csv").read_bytes()
    succeeded, _ = _predict([scan], tmp_path / "out", model)
    assert succeeded
    assert (tmp_path / "out" / "one" / "vertebrae.csv").read_bytes() == first


def test_a_folder_that_holds_something_else_is_not_replaced(tmp_path: Path, scan: Path, model: Path) -> None:
    """For example the DICOM folder itself, when the results are to lie beside it."""
    precious = tmp_path / "scans" / "one" / "slice-1.dcm"
    precious.parent.mkdir()
    precious.write_text("precious")
    succeeded, said = _predict([scan], tmp_path / "scans", model)
    assert precious.read_text() == "precious"
    assert not succeeded
    assert str(precious.parent) in said[0]


@pytest.mark.parametrize("name", ["..nii.gz", "...nii", ".nii"])
def test_no_scan_is_named_like_a_folder_above(name: str) -> None:
    assert case_name(Path("scans") / name).strip(".") != ""


def test_errors_of_a_scan_keep_their_kind_and_gain_the_path(tmp_path: Path, model: Path, write_scan: WriteScan) -> None:
    thin = write_scan(tmp_path / "thin.nii", lambda x, y, z: x + y + z, shape=(40, 40, 10))
    _, said = _predict([thin], tmp_path / "out", model)
    assert str(thin) in said[0]


def test_an_unusable_model_is_told_before_any_scan_is_read(tmp_path: Path, scan: Path) -> None:
    with pytest.raises(VertfracError):
        _predict([scan], tmp_path / "out", tmp_path / "no model")
    assert not (tmp_path / "out").exists()
