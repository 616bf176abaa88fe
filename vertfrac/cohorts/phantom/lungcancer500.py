"""Phantoms as MosMedData CT_LUNGCANCER_500 and its public annotations come: DICOM series and one JSON per study."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Unpack

import numpy as np

from vertfrac.cohorts.phantom.generate import Made, Phantom, make_phantoms
from vertfrac.files import write_json
from vertfrac.geometry.grid import Grid
from vertfrac.imaging import Image, canonical
from vertfrac.imaging.dicom_write import write_dicom

Year = Literal[2020, 2022]
EXPERT = "expert1"


def write_lungcancer500(out: Path, *, year: Year = 2022, **made: Unpack[Made]) -> None:
    """Write a cohort: ``images/phantom-0001/`` ... with DICOM files of opaque names, ``annotations/phantom-0001.json``.

    year : the format of the annotations, 2020 (points) or 2022 (segments and levels). Voxels are exact, so unlike in
    the public files the six points of a vertebra that is turned do not share one column. made : the phantoms, as for
    `make_phantoms`. Raises ConfigError as that.
    """
    seed = made["seed"]
    for index, phantom in make_phantoms(**made):
        image = canonical(Image(phantom.hu, Grid(phantom.hu.shape, phantom.affine), phantom.case))
        uid, grid = write_dicom(
            out / "images" / phantom.case,
            image,
            patient=phantom.case,
            seed=("vertfrac phantom", str(seed), str(index)),
            names=_opaque_names(seed, index, image.hu.shape[2]),
        )
        content = {
            "SeriesInstanceUID": uid,
            "Folder": phantom.case,
            "Annotation": {EXPERT: _marks(phantom, grid, year)},
        }
        write_json(out / "annotations" / f"{phantom.case}.json", content)


def _marks(phantom: Phantom, grid: Grid, year: Year) -> list[Any]:
    """The vertebrae as one expert's list, points in voxels (row, column, slice)."""
    marks: list[Any] = []
    for vertebra in phantom.vertebrae:
        voxels = np.round(grid.to_index(vertebra.keypoints), 4)
        if year == 2020:
            marks.append(voxels.tolist())
        else:
            level = vertebra.level.replace("T", "Th")
            marks.append({"segments": voxels.reshape(3, 2, 3).tolist(), "type": level})
    return marks


def _opaque_names(seed: int, index: int, count: int) -> list[str]:
    """Names of files that say nothing, not even the order."""
    rng = np.random.default_rng([seed, index, 500])
    return [f"{number:08X}" for number in rng.choice(2**32, size=count, replace=False)]
