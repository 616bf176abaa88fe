"""A scan written as DICOM is read back, in its place; what such a series cannot hold is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest

from vertfrac.errors import ImageError
from vertfrac.geometry.grid import Grid
from vertfrac.imaging import Image, read_image, read_series
from vertfrac.imaging.dicom_write import write_dicom

SHAPE = (5, 7, 4)
NAMES = ("d", "a", "c", "b")


def scan(spacing: tuple[float, float, float] = (0.7031250001, 1 / 3, 1.25), turn: float = 0.0) -> Image:
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = [-123.456789, 87.654321, -1234.56789]
    turned = np.eye(4)
    turned[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    hu = np.random.default_rng(0).integers(-3024, 31743, SHAPE).astype(np.int16)
    return Image(hu, Grid(SHAPE, turned @ affine), "scan")


def test_it_comes_back(tmp_path: Path) -> None:
    image = scan()
    uid, grid = write_dicom(tmp_path / "s", image, patient="p", seed=("a",), names=NAMES)
    again = read_image(tmp_path / "s")
    assert np.array_equal(again.hu, image.hu)
    assert np.allclose(again.grid.world_from_index, image.grid.world_from_index, atol=1e-6)
    assert again.warnings == ()
    _, stack = read_series([tmp_path / "s" / name for name in NAMES], tmp_path)
    assert np.allclose(stack.world_from_ranked(), grid.world_from_index, atol=1e-6)
    top = pydicom.dcmread(tmp_path / "s" / NAMES[0])
    assert (top.InstanceNumber, top.SeriesInstanceUID, top.RescaleIntercept) == (1, uid, -1024)
    assert top.ImagePositionPatient[2] == pytest.approx(image.grid.to_world([0, 0, 3])[2])


def test_the_seed_alone_decides_the_bytes(tmp_path: Path) -> None:
    for name, seed in (("one", "a"), ("same", "a"), ("other", "b")):
        write_dicom(tmp_path / name, scan(), patient="p", seed=(seed,), names=NAMES)
    one, same, other = ([(tmp_path / name / file).read_bytes() for file in NAMES] for name in ("one", "same", "other"))
    assert one == same
    assert one != other


@pytest.mark.parametrize(
    ("image", "names", "words"),
    [
        (scan(turn=0.1), NAMES, "expected a canonical axial image"),
        (scan(), NAMES[:3], "3 names for 4 slices"),
        (Image(np.full(SHAPE, 32000, np.int16), scan().grid, "scan"), NAMES, "values from 32000 to 32000, expected"),
        (Image(np.full(SHAPE, 0.5, np.float32), scan().grid, "scan"), NAMES, "values from 0.5 to 0.5, expected"),
    ],
    ids=["oblique", "too few names", "too high", "not whole"],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, image: Image, names: tuple[str, ...], words: str) -> None:
    with pytest.raises(ImageError, match=words):
        write_dicom(tmp_path / "s", image, patient="p", seed=("a",), names=names)
    assert not list(tmp_path.iterdir())
