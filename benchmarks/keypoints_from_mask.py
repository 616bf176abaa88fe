"""How far keypoints taken from vertebra masks are from the true ones, on phantoms whose keypoints are known exactly.

    python benchmarks/keypoints_from_mask.py --cases 20 --out benchmarks/keypoints_from_mask.csv

Masks "painted" are label maps painted on isotropic voxels; masks "resampled" were painted on the voxels of the
phantom's scan (0.8 to 4 mm) and taken to isotropic voxels by the nearest neighbour. Each is measured alone and with the
subregion mask that knows the body. Counted are the vertebrae whose keypoints all lie within the scan by 2 mm; errors
are over those with status ok. Time is CPU time of measuring, without reading, writing and drawing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vertfrac.cohorts.from_mask import measure_mask
from vertfrac.cohorts.phantom import PhantomVertebra, make_masks, make_phantom
from vertfrac.genant import genant_index, grade
from vertfrac.geometry.grid import Grid
from vertfrac.geometry.keypoints import heights

Bytes = NDArray[np.uint8]
Scan = tuple[Bytes, Bytes, Grid, tuple[PhantomVertebra, ...]]


def nearest(array: Bytes, grid: Grid, spacing: float) -> tuple[Bytes, Grid]:
    """An array on isotropic voxels over the same box."""
    target = grid.resampled([spacing] * 3)
    taken = [
        np.clip(np.rint((np.arange(n) + 0.5) * spacing / old - 0.5).astype(int), 0, size - 1)
        for n, old, size in zip(target.shape, grid.spacing_mm, grid.shape, strict=True)
    ]
    return array[np.ix_(*taken)], target


def scan_of(kind: str, seed: int, index: int, spacing: float) -> Scan:
    """Label map, subregions, their grid and the true vertebrae."""
    if kind == "painted":
        masks = make_masks(seed, index, (spacing,) * 3)
        return masks.labels, masks.subregions, Grid(masks.labels.shape, masks.affine), masks.vertebrae
    phantom = make_phantom(seed, index, labels=True)
    assert phantom.labels is not None
    assert phantom.subregions is not None
    own = Grid(phantom.hu.shape, phantom.affine)
    labels, grid = nearest(phantom.labels, own, spacing)
    return labels, nearest(phantom.subregions, own, spacing)[0], grid, phantom.vertebrae


def vertebrae(scan: Scan, subregions: bool) -> Iterator[dict[str, Any]]:
    """One row for each true vertebra."""
    labels, parts, grid, truth = scan
    start = time.process_time()
    found = {v.level: v for v in measure_mask(labels, grid, parts if subregions else None)}
    seconds = time.process_time() - start
    for number, true in enumerate(truth):
        answer = found.get(true.level)
        row: dict[str, Any] = {"ok": answer is not None and answer.status == "ok", "seconds": seconds * (number == 0)}
        if answer is not None and row["ok"]:
            index, expected = genant_index(heights(answer.keypoints)), genant_index(heights(true.keypoints))
            row["doubtful"] = answer.quality == "doubtful"
            row["keypoints_mm"] = np.linalg.norm(answer.keypoints - true.keypoints, axis=1).mean()
            row["heights_mm"] = np.abs(heights(answer.keypoints) - heights(true.keypoints)).mean()
            row["genant"], row["bias"] = abs(index - expected), index - expected
            row["same_grade"] = bool(grade(index) == grade(expected))
        yield row


def summary(rows: pd.DataFrame, scans: int) -> dict[str, Any]:
    """Figures over the vertebrae of all scans."""
    ok = rows[rows["ok"]]
    return {
        "scans": scans,
        "vertebrae": len(rows),
        "answered": round(len(ok) / len(rows), 4),
        "doubtful": round(float(ok["doubtful"].mean()), 4),
        "keypoint_error_mm": round(float(ok["keypoints_mm"].mean()), 3),
        "keypoint_error_p95_mm": round(float(ok["keypoints_mm"].quantile(0.95)), 3),
        "height_error_mm": round(float(ok["heights_mm"].mean()), 3),
        "genant_error": round(float(ok["genant"].mean()), 4),
        "genant_error_p95": round(float(ok["genant"].quantile(0.95)), 4),
        "genant_bias": round(float(ok["bias"].mean()), 4),
        "same_grade": round(float(ok["same_grade"].mean()), 4),
        "cpu_seconds_per_scan": round(float(rows["seconds"].sum()) / scans, 2),
    }


@click.command()
@click.option("--cases", default=20, show_default=True)
@click.option("--seed", default=2024, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="CSV file")
def main(cases: int, seed: int, out: Path) -> None:
    """Measure the masks of phantoms and print the errors."""
    lines = []
    for kind in ("painted", "resampled"):
        for spacing in (1.0, 2.0):
            rows: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
            for index in range(cases):
                scan = scan_of(kind, seed, index, spacing)
                for subregions, into in rows.items():
                    into.extend(vertebrae(scan, subregions))
            for subregions, own in rows.items():
                head = {"masks": kind, "voxel_mm": spacing, "subregions": subregions}
                lines.append(head | summary(pd.DataFrame(own), cases))
                click.echo(pd.DataFrame(lines[-1:]).to_string(index=False))
                pd.DataFrame(lines).to_csv(out, index=False)


if __name__ == "__main__":
    main()
