"""Every perturbation says truly where the patient has gone: a spot is where its map of the world puts it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from vertfrac.geometry.grid import Grid
from vertfrac.imaging import Image

SPOT = np.array([9.0, -14.0, -5.0])
SHAPE = (56, 60, 100)


def load() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "perturbations.py"
    spec = importlib.util.spec_from_file_location("perturbations", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


tool = load()
ALL = list(tool.perturbations())


@pytest.fixture(scope="module")
def case() -> Any:
    """Five bodies one above the other in a block of soft tissue, and a bright spot beside them."""
    affine = np.eye(4)
    affine[:3, 3] = -(np.array(SHAPE) - 1) / 2
    grid = Grid(SHAPE, affine)
    world = grid.to_world(np.stack(np.indices(SHAPE), axis=-1))
    hu = 900 * np.exp(-((world - SPOT) ** 2).sum(axis=-1) / (2 * 4.0**2))
    body = np.array([[0, y, z] for y in (-4, -10, -16) for z in (5, -5)], dtype=float)
    keypoints = np.stack([body + np.array([0, 4, z]) for z in (40, 20, 0, -20, -40)])
    return tool.Case("block", Image(np.rint(hu).astype(np.int16), grid, "block"), tuple("ABCDE"), keypoints)


def seen(perturbed: Any) -> np.ndarray:
    """World point of the spot's middle, of what is brighter than the noise."""
    weight = np.clip(np.asarray(perturbed.hu, dtype=float) - perturbed.hu.max() / 2, 0, None)
    world = Grid(weight.shape, perturbed.affine).to_world(np.stack(np.indices(weight.shape), axis=-1))
    middle: np.ndarray = np.average(world.reshape(-1, 3), axis=0, weights=weight.reshape(-1))
    return middle


@pytest.mark.parametrize("perturbation", ALL, ids=lambda one: one.name)
def test_the_patient_is_where_the_perturbation_says(perturbation: Any, case: Any) -> None:
    perturbed = perturbation.make(case)
    if perturbation.kind in ("screws", "cage"):
        assert (perturbed.hu > 2000).sum() > 50
        assert np.array_equal(perturbed.affine, case.affine)
        return
    if Grid(perturbed.hu.shape, perturbed.affine).distance_inside_mm(SPOT) < 10 and "50%" in perturbation.strength:
        assert (perturbed.hu < 900).all()
        return
    off = seen(perturbed) - tool.placed(SPOT, perturbed.moved)
    assert np.linalg.norm(off) < 0.8  # mm; half a voxel off in all directions would be 0.87, of coarse ones more


def test_names_and_files_are_distinct_and_references_exist() -> None:
    names, files = [one.name for one in ALL], [one.file for one in ALL]
    assert len(set(names)) == len(set(files)) == len(ALL)
    assert {one.reference for one in ALL} <= set(names)


def test_what_left_the_scan_is_not_missed_and_what_is_cut_should_not_be_graded(case: Any, tmp_path: Path) -> None:
    answers: dict[str, Any] = {"as it is": [0, 1, 2, 3, 4], "both ends cropped in a body": [1, 2, 4]}
    by_name = {one.name: one for one in ALL}
    tool.write_json(tmp_path / "truth.json", {"levels": case.levels, "keypoints": case.keypoints.tolist()})
    for name, found in answers.items():
        perturbed = by_name[name].make(case)
        tool.write_json(
            tmp_path / by_name[name].file,
            {
                "affine": perturbed.affine.tolist(),
                "shape": perturbed.hu.shape,
                "moved": perturbed.moved.tolist(),
                "vertebrae": [
                    {
                        "status": "ok",
                        "level": "ABCDE"[k],
                        "doubt": False,
                        "genant": 1.0 - 0.1 * (name != "as it is"),
                        "grade": 0,
                        "keypoints": case.keypoints[k].tolist(),
                    }
                    for k in found
                ],
            },
        )
    row = tool.compared([tmp_path], by_name["both ends cropped in a body"])
    # A and E have left, B and D are cut, of which B got a grade; the ruler on E is false
    assert (row["whole"], row["found"], row["cut"], row["cut_graded"], row["false"]) == (1, 1, 2, 1, 1)
    assert row["dg_median"] == pytest.approx(0.1)
