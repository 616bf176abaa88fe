"""Writing phantoms as VerSe is released: CT, vertebra masks, centroids and grades, split into three parts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import pandas as pd

from vertfrac import tables
from vertfrac.cohorts.levels import LABEL_OF
from vertfrac.cohorts.phantom.generate import Made, Phantom, make_phantoms, write_image
from vertfrac.cohorts.verse.centroids import CHALLENGE_AXES, directions, oriented
from vertfrac.files import write_json
from vertfrac.genant import genant_index, grade
from vertfrac.geometry.grid import Grid
from vertfrac.geometry.keypoints import centers, heights

PARTS = ("training", "validation", "test", "training")
"""The parts that phantoms go to in turn: half of them train, as in VerSe'19."""

GRADES = "grades.csv"


def write_verse(
    out: Path, *, flat: bool = False, subregions: bool = False, keypoints: bool = False, **made: Unpack[Made]
) -> None:
    """Write a cohort of phantoms verse001, verse002, ... with the folders of VerSe'19, and ``grades.csv``.

    flat : one folder per part with centroids in millimetres, as in the challenge; else by subject (BIDS) with centroids
    in voxels. subregions : masks of body and arch too. keypoints : the exact ones too (``_seg-vert_kpt.csv``). made :
    the phantoms, as for ``make_phantoms``; of a shard, its cases and their grades only. Raises ConfigError as that.
    """
    graded: list[dict[str, Any]] = []
    for index, phantom in make_phantoms(labels=True, **made):
        name, where = f"verse{index + 1:03d}", PARTS[index % len(PARTS)]
        _write_scan(Path(out) / f"dataset-verse19{where}", name, phantom, flat, subregions, keypoints)
        graded += [{"patient_id": f"sub-{name}", "scan_id": name, "split": where, **row} for row in _grades(phantom)]
    columns = ["patient_id", "scan_id", "vertebra", "genant_grade", "split"]
    tables.write_csv(Path(out) / GRADES, pd.DataFrame(graded, columns=columns))


def _grades(phantom: Phantom) -> list[dict[str, Any]]:
    return [
        {"vertebra": v.level, "genant_grade": int(grade(genant_index(heights(v.keypoints))))} for v in phantom.vertebrae
    ]


def _write_scan(folder: Path, name: str, phantom: Phantom, flat: bool, subregions: bool, keypoints: bool) -> None:
    stem = name if flat else f"sub-{name}"
    raw, derived = (folder, folder) if flat else (folder / "rawdata" / stem, folder / "derivatives" / stem)
    raw.mkdir(parents=True, exist_ok=True)
    derived.mkdir(parents=True, exist_ok=True)
    write_image(phantom, raw / f"{stem}{'' if flat else '_ct'}.nii.gz")
    _write_mask(phantom, phantom.labels, derived / f"{stem}{'_seg' if flat else '_seg-vert_msk'}.nii.gz")
    if subregions:
        _write_mask(phantom, phantom.subregions, derived / f"{stem}_seg-subreg_msk.nii.gz")
    write_json(derived / f"{stem}{'_ctd' if flat else '_seg-subreg_ctd'}.json", _centroids(phantom, flat))
    if keypoints:
        rows = [
            {"case": stem, "expert": "phantom", "vertebra": number, "level": v.level}
            | tables.keypoint_values(v.keypoints)
            for number, v in enumerate(phantom.vertebrae, start=1)
        ]
        tables.write_csv(derived / f"{stem}_seg-vert_kpt.csv", tables.ANNOTATIONS.frame(rows))


def _write_mask(phantom: Phantom, mask: Any, path: Path) -> None:
    write_image(replace(phantom, hu=mask), path)


def _centroids(phantom: Phantom, flat: bool) -> list[dict[str, Any]]:
    """Body centres of the whole vertebrae: in voxels with their direction, or as in the challenge in mm without it."""
    grid = Grid(phantom.hu.shape, phantom.affine)
    turned = oriented(grid, CHALLENGE_AXES) if flat else grid
    entries: list[dict[str, Any]] = [] if flat else [{"direction": list(directions(grid))}]
    for v in phantom.vertebrae:
        point = turned.to_index(centers(v.keypoints)) * (turned.spacing_mm if flat else np.ones(3))
        x, y, z = (round(float(value), 1) for value in point)
        entries.append({"label": LABEL_OF[v.level], "X": x, "Y": y, "Z": z})
    return entries
