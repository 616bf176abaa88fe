"""Laws of ``vertfrac keypoints-from-mask``: tables and a picture for good masks, one line and no files for bad ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from vertfrac import tables
from vertfrac.cli import main
from vertfrac.cohorts.phantom import SpineMasks, make_masks
from vertfrac.geometry.grid import Grid
from vertfrac.geometry.keypoints import HEIGHTS, heights
from vertfrac.imaging import Image, write_nifti

LUMBAR = (20, 21)
Write = Callable[..., Path]


@pytest.fixture(scope="module")
def masks() -> SpineMasks:
    """Two vertebrae of a phantom, cropped."""
    for index in range(20):
        whole = make_masks(4, index, (2.0, 2.0, 2.0))
        if {"L1", "L2"} <= {v.level for v in whole.vertebrae}:
            break
    kept = np.isin(whole.labels, LUMBAR)
    low, high = np.argwhere(kept).min(axis=0) - 2, np.argwhere(kept).max(axis=0) + 3
    box = tuple(slice(max(0, a), b) for a, b in zip(low, high, strict=True))
    affine = whole.affine.copy()
    affine[:3, 3] += 2.0 * np.maximum(low, 0)
    labels, parts = np.where(kept, whole.labels, 0)[box], np.where(kept, whole.subregions, 0)[box]
    return SpineMasks(labels, parts, affine, whole.vertebrae)


@pytest.fixture
def write(tmp_path: Path, masks: SpineMasks) -> Write:
    def write(name: str, values: Any, affine: Any = None) -> Path:
        values = np.asarray(values)
        path = tmp_path / name
        write_nifti(path, Image(values, Grid(values.shape, masks.affine if affine is None else affine), "test"))
        return path

    return write


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(main, ["keypoints-from-mask", *(str(a) for a in arguments)])


def is_refused(result: Result, out: Path, *words: str) -> None:
    assert result.exit_code == 1, result.output
    assert len(result.stderr.strip().splitlines()) == 1
    for word in words:
        assert word in result.stderr
    assert not out.exists()


def test_a_mask_gives_tables_a_picture_and_a_line_each(write: Write, masks: SpineMasks, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = (write("mask.nii.gz", masks.labels), "--out", out)
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["L1", "L2"]
    assert {p.name for p in out.iterdir()} == {"vertebrae.parquet", "vertebrae.csv", "overlay.png"}
    table = tables.read_table(out / "vertebrae.parquet", tables.MASK_VERTEBRAE)
    assert table["label"].tolist() == list(LUMBAR)
    assert set(table["status"]) == {"ok"}
    measured = table[[f"height_{name}_mm" for name in HEIGHTS]].to_numpy()
    assert np.allclose(measured, heights(tables.keypoints_of(table)))
    assert np.allclose(tables.keypoints_of(tables.read_table(out / "vertebrae.csv", tables.MASK_VERTEBRAE)),
                       tables.keypoints_of(table), atol=1e-4)  # fmt: skip
    assert run(*arguments).exit_code == 0  # an earlier result is replaced


def test_subregions_and_scan_are_taken(write: Write, masks: SpineMasks, tmp_path: Path) -> None:
    scan = write("ct.nii.gz", np.where(masks.labels > 0, 400, -50).astype(np.int16))
    parts = write("parts.nii.gz", masks.subregions)
    out = tmp_path / "out"
    result = run(write("mask.nii", masks.labels), "--out", out, "--subregions", parts, "--scan", scan)
    assert result.exit_code == 0, result.output
    assert (out / "overlay.png").stat().st_size > 1000


def test_nothing_measurable_is_still_told_and_drawn(write: Write, masks: SpineMasks, tmp_path: Path) -> None:
    result = run(write("mask.nii.gz", np.where(masks.labels == 20, 1, 0).astype(np.uint8)), "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("C1")
    assert "not_measured" in result.stdout
    assert (tmp_path / "out" / "overlay.png").is_file()


def test_bad_masks_are_one_line_and_leave_nothing(write: Write, masks: SpineMasks, tmp_path: Path) -> None:
    out = tmp_path / "out"
    is_refused(run(tmp_path / "none.nii.gz", "--out", out), out, "none.nii.gz", "no such file")
    (tmp_path / "mask.txt").write_text("mask")
    is_refused(run(tmp_path / "mask.txt", "--out", out), out, "mask.txt", ".nii.gz")
    halves = write("half.nii.gz", (masks.labels * 0.5).astype(np.float32))
    is_refused(run(halves, "--out", out), out, "half.nii.gz", "not integer", "10.5")
    is_refused(run(write("zero.nii.gz", masks.labels * 0), "--out", out), out, "zero.nii.gz", "no label but 0")
    unknown = write("unknown.nii.gz", np.where(masks.labels == 20, 99, 0).astype(np.uint8))
    is_refused(run(unknown, "--out", out), out, "unknown.nii.gz", "unknown labels 99")
    negative = write("negative.nii.gz", -masks.labels.astype(np.int16))
    is_refused(run(negative, "--out", out), out, "negative.nii.gz", "-21")


def test_companions_on_another_grid_are_refused(write: Write, masks: SpineMasks, tmp_path: Path) -> None:
    out, mask = tmp_path / "out", write("mask.nii.gz", masks.labels)
    shorter = write("short.nii.gz", masks.subregions[:-1])
    is_refused(run(mask, "--out", out, "--subregions", shorter), out, "short.nii.gz", "found shape", "mask.nii.gz")
    aside = write("aside.nii.gz", masks.subregions, masks.affine + np.array([[0, 0, 0, 5.0]] + [[0] * 4] * 3))
    is_refused(run(mask, "--out", out, "--subregions", aside), out, "aside.nii.gz", "5.0 mm", "mask.nii.gz")
    bodiless = write("bodiless.nii.gz", np.where(masks.subregions > 0, 41, 0).astype(np.uint8))
    is_refused(run(mask, "--out", out, "--subregions", bodiless), out, "bodiless.nii.gz", "[0, 41]", "49")
    ct = write("ct.nii.gz", np.where(masks.labels > 0, 400, -50).astype(np.int16)[:, :-2])
    is_refused(run(mask, "--out", out, "--scan", ct), out, "ct.nii.gz", "found shape")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes.txt").write_text("mine")
    result = run(mask, "--out", tmp_path / "taken")
    assert result.exit_code == 1
    assert (tmp_path / "taken" / "notes.txt").read_text() == "mine"
