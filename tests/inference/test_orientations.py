"""A scan's table must not depend on how its file orders and flips its axes, fills its corners or stores its numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.spatial.transform import Rotation

from vertfrac import tables
from vertfrac.api import predict
from vertfrac.cohorts.phantom import Phantom, make_phantom, write_image
from vertfrac.imaging import read_image
from vertfrac.inference.scan import analyse
from vertfrac.inference.weights import Model, load_model

AXCODES = [
    tuple(letters[side] for letters, side in zip(order, sides, strict=True))
    for order in permutations(("LR", "PA", "IS"))
    for sides in product((0, 1), repeat=3)
]


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    """A phantom with every second voxel of each axis, so that 48 of them take seconds."""
    full = make_phantom(5, 2)
    return replace(full, hu=full.hu[::2, ::2, ::2], affine=full.affine @ np.diag([2.0, 2.0, 2.0, 1.0]))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, make_model: Callable[..., Path]) -> Model:
    return load_model(make_model(tmp_path_factory.mktemp("model") / "m", objectness=3.0), torch.device("cpu"))


def measured(phantom: Phantom, path: Path, model: Model) -> pd.DataFrame:
    write_image(phantom, path)
    return analyse(read_image(path), model).vertebrae


@pytest.fixture(scope="module")
def reference(phantom: Phantom, model: Model, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return measured(phantom.stored_as(("R", "A", "S")), tmp_path_factory.mktemp("ras") / "scan.nii.gz", model)


def test_there_is_something_to_compare(reference: pd.DataFrame) -> None:
    assert len(AXCODES) == 48
    assert len(reference) >= 3


@pytest.mark.parametrize("axcodes", AXCODES, ids="".join)
def test_any_storage_gives_the_same_table(
    axcodes: tuple[str, str, str], phantom: Phantom, model: Model, reference: pd.DataFrame, tmp_path: Path
) -> None:
    found = measured(phantom.stored_as(axcodes), tmp_path / "scan.nii.gz", model)
    assert found["status"].tolist() == reference["status"].tolist()
    np.testing.assert_allclose(tables.keypoints_of(found), tables.keypoints_of(reference), atol=0.1)


def moved_back(found: pd.DataFrame, turn: np.ndarray) -> np.ndarray:
    return tables.keypoints_of(found) @ turn  # the inverse of a rotation is its transpose


def test_a_scan_whose_planes_are_tilted_gives_the_same_table_tilted(
    phantom: Phantom, model: Model, reference: pd.DataFrame
) -> None:
    turn = Rotation.from_euler("x", 15, degrees=True).as_matrix()
    tilted = np.eye(4)
    tilted[:3, :3] = turn
    upright = phantom.stored_as(("R", "A", "S"))
    found = predict(upright.hu, tilted @ upright.affine, model=model).result.vertebrae
    assert found["status"].tolist() == reference["status"].tolist()
    np.testing.assert_allclose(moved_back(found, turn), tables.keypoints_of(reference), atol=0.1)


def test_the_value_outside_the_reconstructed_circle_changes_nothing(phantom: Phantom, model: Model) -> None:
    upright = phantom.stored_as(("R", "A", "S"))
    middle = np.linalg.inv(upright.affine) @ [*upright.vertebrae[3].keypoints[2], 1]
    apart = [np.arange(upright.hu.shape[axis]) - middle[axis] for axis in (0, 1)]
    beside = (np.hypot(apart[0][:, None], apart[1]) * upright.affine[0, 0] > 40)[..., None]
    air, padding = (
        predict(np.where(beside, np.int16(hu), upright.hu), upright.affine, model=model).result for hu in (-1024, -3024)
    )
    assert (air.slice_hu == -1024).any()
    assert np.array_equal(air.slice_hu, padding.slice_hu)
    pd.testing.assert_frame_equal(air.vertebrae, padding.vertebrae)


def test_numbers_stored_as_floats_give_the_same_table(phantom: Phantom, model: Model, reference: pd.DataFrame) -> None:
    upright = phantom.stored_as(("R", "A", "S"))
    found = predict(upright.hu.astype(np.float64), upright.affine, model=model).result.vertebrae
    assert found["status"].tolist() == reference["status"].tolist()
    np.testing.assert_allclose(tables.keypoints_of(found), tables.keypoints_of(reference), atol=0.1)
