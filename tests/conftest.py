"""What several test folders share: a spine of known geometry, a tiny system, small scans on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of long tests first, so that no core waits at the end for the last of them."""
    items.sort(key=lambda item: item.path.parent.name != "workflow")


@pytest.fixture(scope="session")
def spine_keypoints() -> Callable[..., Floats]:
    """Keypoints (n, 6, 3) of vertebrae along z: ``pitch`` mm apart, the first at ``top``; heights (n, 3) or 20 mm."""

    def make(
        count: int = 5,
        *,
        top: float = 130.0,
        pitch: float = 26.0,
        x: float = 40.0,
        y: float = 50.0,
        heights: Any = 20.0,
        bend_mm: float = 0.0,
    ) -> Floats:
        tall = np.broadcast_to(np.asarray(heights, dtype=np.float64), (count, 3))
        points = np.zeros((count, 6, 3))
        for n in range(count):
            z = top - n * pitch
            forward = bend_mm * np.sin(n / max(1, count - 1) * np.pi)
            for k, depth in enumerate((13.0, 0.0, -13.0)):
                points[n, 2 * k] = [x, y + forward + depth, z + tall[n, k] / 2]
                points[n, 2 * k + 1] = [x, y + forward + depth, z - tall[n, k] / 2]
        return points

    return make


@pytest.fixture(scope="session")
def annotations_of() -> Callable[..., pd.DataFrame]:
    """Rows of ANNOTATIONS for keypoints (n, 6, 3) of one case and expert."""
    from vertfrac import tables

    def make(keypoints: Floats, *, case: str = "c", expert: str = "a") -> pd.DataFrame:
        return tables.ANNOTATIONS.frame(
            [
                {"case": case, "expert": expert, "vertebra": n + 1, "level": "", **tables.keypoint_values(points)}
                for n, points in enumerate(keypoints)
            ]
        )

    return make


@pytest.fixture(scope="session")
def predictions_of() -> Callable[..., pd.DataFrame]:
    """Rows of VERTEBRAE for predicted keypoints (n, 6, 3) of one case, all with status ok."""
    from vertfrac import tables
    from vertfrac.genant import genant_index
    from vertfrac.geometry.keypoints import heights

    def make(keypoints: Floats, *, case: str = "c", status: str = "ok") -> pd.DataFrame:
        rows = [
            {
                "case": case, "vertebra": n + 1, "status": status, "score": 0.9,
                "genant": float(genant_index(heights(points))), **tables.keypoint_values(points),
            }
            for n, points in enumerate(keypoints)
        ]  # fmt: skip
        return tables.VERTEBRAE.frame(rows)

    return make


@pytest.fixture(scope="session")
def tiny_system() -> dict[str, Any]:
    """Plain values of a System whose networks have a few hundred weights."""
    training = {"steps": 2, "batch": 1, "learning_rate": 0.001}
    return {
        "localizer": {
            "input": {"spacing_mm": [4, 4, 4], "scaling": "window", "window_hu": [-500, 1000], "edge_mm": 8},
            "network": {"widths": [2, 3], "limits": "none"},
            "crop_mm": [64, 64, 64],
            "training": dict(training),
            "inference": {"smooth_mm": 40, "flip": True},
        },
        "detector": {
            "input": {"scaling": "window", "window_hu": [-250, 850]},
            "network": {"kind": "anchor_free", "widths": [2, 3], "output_stride": 2, "mean_offsets": True},
            "crop_mm": [64, 48],
            "straighten": {"width_mm": 64},
            "training": dict(training),
            "inference": {"score": 0.5, "low_score": 0.25, "average_mm": 2},
        },
    }


@pytest.fixture(scope="session")
def write_scan() -> Callable[..., Path]:
    """Write a NIfTI whose HU is a function of world x, y, z; returns its path."""
    from vertfrac.geometry.grid import Grid
    from vertfrac.imaging import Image, write_nifti

    def write(
        path: Path,
        hu: Callable[[Floats, Floats, Floats], Any],
        *,
        shape: tuple[int, int, int] = (40, 50, 80),
        spacing: tuple[float, float, float] = (2.0, 2.0, 2.0),
        origin: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ) -> Path:
        affine = np.diag([*spacing, 1.0])
        affine[:3, 3] = origin
        grid = Grid(shape, affine)
        world = grid.to_world(np.moveaxis(np.indices(shape), 0, -1))
        values = np.rint(np.broadcast_to(hu(*np.moveaxis(world, -1, 0)), shape)).astype(np.int16)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_nifti(path, Image(values, grid, "test"))
        return path

    return write


@pytest.fixture(scope="session")
def make_model(tiny_system: dict[str, Any]) -> Callable[..., Path]:
    """Write a model folder of untrained tiny networks; ``objectness`` is the logit of every cell of the detector."""
    import torch

    from vertfrac.config import System
    from vertfrac.inference.weights import build_detector, build_localizer, export_model, save_weights

    def make(folder: Path, *, folds: int = 1, objectness: float | None = None, **changes: Any) -> Path:
        system = System.model_validate({**tiny_system, **changes})
        weights: dict[str, list[Path]] = {"localizer": [], "detector": []}
        for fold in range(folds):
            localizer = build_localizer(system.localizer.network, seed=fold)
            detector = build_detector(system.detector.network, 1.0, seed=fold)
            shape = [[-9, -13], [9, -13], [-8, 0], [8, 0], [-9, 13], [9, 13]]
            detector.get_buffer("mean_offsets").copy_(torch.tensor(shape))
            head = detector.unet.head
            if objectness is not None:
                with torch.no_grad():
                    head.weight.zero_()
                    head.bias.zero_()
                    head.bias[0] = objectness
            for kind, network, settings in (
                ("localizer", localizer, system.localizer.network),
                ("detector", detector, system.detector.network),
            ):
                path = folder.parent / "weights" / f"{kind}-{fold}.safetensors"
                path.parent.mkdir(parents=True, exist_ok=True)
                save_weights(path, network, kind=kind, settings=settings.model_dump(mode="json"))
                weights[kind].append(path)
        export_model(
            folder, name="tiny", system=system, slice_spacing_mm=1.0, localizers=weights["localizer"],
            detectors=weights["detector"], cohort={"cases": 1}, scores=[],
        )  # fmt: skip
        return folder

    return make


@pytest.fixture(scope="session")
def lumbar_masks() -> Any:
    """Label maps of L1 (wedged, grade 2), L2 and L3 of a phantom, and their exact keypoints; see ``SpineMasks``."""
    from dataclasses import replace

    from vertfrac.cohorts.phantom.generate import make_masks

    masks = make_masks(3, 16, (1.25, 1.25, 1.25))
    keep = np.isin(masks.labels, (20, 21, 22))
    box = tuple(
        slice(max(0, int(side.min()) - 4), int(side.max()) + 5)
        for side in (np.unique(axis) for axis in np.nonzero(keep))
    )
    labels, subregions = (np.where(keep, mask, 0).astype(np.uint8)[box] for mask in (masks.labels, masks.subregions))
    affine = masks.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [side.start for side in box]
    whole = tuple(v for v in masks.vertebrae if v.level in ("L1", "L2", "L3"))
    return replace(masks, labels=labels, subregions=subregions, affine=affine, vertebrae=whole)


@pytest.fixture(scope="session")
def save_nifti() -> Callable[..., Path]:
    """Write any array with an affine as NIfTI, whatever its type; returns the path."""
    import nibabel

    def save(path: Path, values: Any, affine: Floats) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        image = nibabel.Nifti1Image(values, affine)
        image.set_sform(affine, code=1)
        nibabel.save(image, path)
        return path

    return save
