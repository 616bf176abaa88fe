"""Laws of vertfrac from Python: numbers do not depend on the way in, objects hold what files hold, errors are ours."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import vertfrac
from vertfrac import load_model, predict, tables
from vertfrac.cli import main
from vertfrac.errors import ConfigError, ImageError, ModelError, NoSpineError
from vertfrac.geometry.keypoints import centers, heights
from vertfrac.inference.prediction import Prediction

MakeModel = Callable[..., Path]
WriteScan = Callable[..., Path]
Nifti: Any = nibabel.Nifti1Image


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("api")


@pytest.fixture(scope="module")
def model(folder: Path, make_model: MakeModel) -> Path:
    return make_model(folder / "model", objectness=3.0)


@pytest.fixture(scope="module")
def scan(folder: Path, write_scan: WriteScan) -> Path:
    return write_scan(folder / "my scan.nii.gz", lambda x, y, z: 40 * np.sin(x / 9) + y + 30 * np.cos(z / 7))


@pytest.fixture(scope="module")
def found(scan: Path, model: Path) -> Prediction:
    return predict(scan, model=model, device="cpu")


@pytest.fixture(scope="module")
def written(folder: Path, scan: Path, model: Path) -> Path:
    """The folder of the scan as the command line writes it."""
    arguments = ["predict", str(scan), "--out", str(folder / "out"), "--model", str(model), "--device", "cpu"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    return folder / "out" / "my_scan"


def test_importing_the_package_imports_nothing_else() -> None:
    code = (
        "import sys; before = set(sys.modules); import vertfrac; dir(vertfrac); "
        "print(sorted(name for name in set(sys.modules) - before if 'vertfrac' in name), 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['vertfrac'] False"


def test_what_the_package_offers_is_there() -> None:
    assert set(vertfrac.__all__) <= set(dir(vertfrac))
    assert all(getattr(vertfrac, name) for name in vertfrac.__all__)
    with pytest.raises(AttributeError, match="surprise"):
        vertfrac.surprise  # type: ignore[attr-defined]  # noqa: B018  # asking for it is the test


@pytest.mark.parametrize("way", ["text", "nibabel", "made", "array", "mirrored"])
def test_numbers_do_not_depend_on_the_way_in(scan: Path, model: Path, found: Prediction, way: str) -> None:
    loaded: Any = nibabel.load(scan)
    hu, affine = np.asanyarray(loaded.dataobj), loaded.affine
    ways: dict[str, tuple[Any, ...]] = {
        "text": (str(scan),),
        "nibabel": (loaded,),
        "made": (Nifti(hu.astype(np.float64), affine),),
        "array": (hu.astype(np.float32), affine),
        "mirrored": (hu[::-1], affine @ _mirror(len(hu))),
    }
    other = predict(*ways[way], model=load_model(model, device="cpu"), case="my scan")
    pd.testing.assert_frame_equal(other.table, found.table, check_exact=True)
    np.testing.assert_array_equal(other.curve, found.curve)
    assert (other.sentence, other.warnings, other.case) == (found.sentence, found.warnings, found.case)


def _mirror(columns: int) -> np.ndarray:
    mirror = np.diag([-1.0, 1, 1, 1])
    mirror[0, 3] = columns - 1
    return mirror


def test_objects_hold_what_the_table_holds(found: Prediction) -> None:
    table = found.table
    assert len(found.vertebrae) == len(table) > 2
    points = tables.keypoints_of(table)
    for vertebra, row, keypoints in zip(found.vertebrae, table.itertuples(), points, strict=True):
        np.testing.assert_array_equal(vertebra.keypoints, keypoints)
        np.testing.assert_allclose(vertebra.heights, heights(keypoints))
        np.testing.assert_allclose(vertebra.center, centers(keypoints))
        assert (vertebra.number, vertebra.status, vertebra.score) == (row.vertebra, row.status, row.score)
        assert (vertebra.grade is None) == (row.status != "ok")
        assert vertebra.grade_name == (None if vertebra.grade is None else ["normal", "mild"][vertebra.grade])
        assert vertebra.genant == row.genant
        assert vertebra.level is None
    assert found.worst_grade == table["grade"].max()
    assert found.smallest_genant == table.loc[table["status"] == "ok", "genant"].min()
    assert repr(found) == f"<Prediction of my_scan: {found.sentence}>"


def test_nothing_can_be_changed(found: Prediction) -> None:
    vertebra = found.vertebrae[0]
    for array in (vertebra.keypoints, vertebra.center, found.curve, found.curve_probability):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        vertebra.grade = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        found.seconds["read"] = 0  # type: ignore[index]
    table = found.table
    table["score"] = 0.0
    assert (found.table["score"] > 0).all()


def test_saving_writes_what_the_command_line_writes(found: Prediction, written: Path, tmp_path: Path) -> None:
    saved = found.save(tmp_path / "saved")
    assert sorted(path.name for path in saved.iterdir()) == sorted(path.name for path in written.iterdir())
    for name in ("vertebrae.csv", "vertebrae.parquet", "curve.parquet", "overlay.png"):
        assert (saved / name).read_bytes() == (written / name).read_bytes(), name
    cards = [json.loads((path / "scan.json").read_text()) for path in (saved, written)]
    assert [sorted(card.pop("seconds")) for card in cards] == [sorted(found.seconds)] * 2
    assert cards[0] == cards[1]
    assert cards[0]["sentence"] == found.sentence
    pd.testing.assert_frame_equal(found.table, tables.read_table(saved / "vertebrae.parquet", tables.VERTEBRAE))
    curve = tables.read_table(saved / "curve.parquet", tables.CURVES)
    np.testing.assert_array_equal(found.curve, curve[["x", "y", "z"]])
    np.testing.assert_array_equal(found.curve_probability, curve["probability"])


def test_saving_replaces_nothing_but_a_result(found: Prediction, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "precious").write_text("")
    with pytest.raises(ConfigError, match="other: exists"):
        found.save(tmp_path / "other")


def test_a_model_folder_is_read_once_as_long_as_it_does_not_change(tmp_path: Path, make_model: MakeModel) -> None:
    folder = make_model(tmp_path / "model", objectness=3.0)
    first = load_model(folder, device="cpu")
    assert load_model(str(folder), device="cpu") is first
    make_model(folder, objectness=2.0)
    assert load_model(folder, device="cpu") is not first


def test_where_the_model_of_vertfrac_is_gone_it_is_named(
    scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vertfrac.inference.card.PRETRAINED", tmp_path / "pretrained")
    with pytest.raises(ModelError, match=r"pretrained: not a model folder, expected a model\.json"):
        predict(scan)


def test_the_model_that_comes_with_vertfrac_is_the_default(
    scan: Path, model: Path, found: Prediction, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vertfrac.inference.card.PRETRAINED", model)
    pd.testing.assert_frame_equal(predict(scan, device="cpu").table, found.table)


@pytest.mark.parametrize(
    ("scan", "affine", "words"),
    [
        ("nowhere.nii", None, r"nowhere\.nii: no such file"),
        ("scan.nii", np.eye(4), r"scan\.nii: found an affine beside a path"),
        (np.zeros((9, 9, 9)), None, "ndarray: found no affine"),
        (None, None, "NoneType: found no affine"),
        (np.zeros((9, 9)), np.eye(4), r"array: found an array of shape \(9, 9\)"),
        (np.indices((9, 9, 9))[0], np.eye(4), "array: scan covers 9 x 9 x 9 mm"),
    ],
)
def test_what_is_no_scan_is_an_image_error(scan: Any, affine: Any, words: str, model: Path) -> None:
    with pytest.raises(ImageError, match=words):
        predict(scan, affine, model=model, device="cpu")


def test_a_scan_without_spine_is_told_so(scan: Path, tmp_path: Path, make_model: MakeModel) -> None:
    with pytest.raises(NoSpineError, match=r"my scan\.nii\.gz: .*holds no vertebra"):
        predict(scan, model=make_model(tmp_path / "model", objectness=-9.0), device="cpu")


def test_a_device_that_is_not_there_is_a_model_error(scan: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ModelError, match="no usable GPU"):
        predict(scan, model=model, device="cuda")
    with pytest.raises(ModelError, match="was loaded on cpu, expected it on cuda"):
        predict(scan, model=load_model(model, device="cpu"), device="cuda")
    with pytest.raises(ModelError, match="expected one of auto, cpu, cuda"):
        predict(scan, model=model, device="tpu")  # type: ignore[arg-type]
