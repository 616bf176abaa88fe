"""A scan's table must not depend on how the scanner's file happens to order and flip its axes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from vertfrac import tables
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
