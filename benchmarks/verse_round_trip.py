"""What comes back of phantoms that were written as VerSe: keypoints from their masks, or the exact ones beside them.

    python benchmarks/verse_round_trip.py --cases 6 --seed 229 --out benchmarks/verse_round_trip.csv

Each phantom is written with the mask, the centroids and the grades of VerSe, subject-based and flat, on the voxels of
its scan (0.8 to 1.8 mm across, 1 to 4 mm slices), and read by the adapter as any release is. Vertebrae are those that
lie in the scan by 2 mm. Errors are distances of single keypoints; grades are those by G, and those given in the table.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
import pandas as pd

from vertfrac import tables
from vertfrac.cohorts.phantom import Phantom, make_phantom
from vertfrac.cohorts.phantom.verse import write_verse
from vertfrac.cohorts.sources import list_scans
from vertfrac.errors import VertfracError
from vertfrac.genant import genant_index, grade
from vertfrac.geometry.keypoints import heights

WAYS: tuple[tuple[str, str, tuple[str, ...], bool], ...] = (
    ("keypoint table", "by subject", (), False),
    ("mask and subregions", "by subject", ("kpt.csv",), False),
    ("mask", "by subject", ("kpt.csv", "subreg_msk.nii.gz"), False),
    ("mask, doubtful kept", "by subject", ("kpt.csv", "subreg_msk.nii.gz"), True),
    ("keypoint table", "flat", (), False),
    ("mask", "flat", ("kpt.csv", "subreg_msk.nii.gz"), False),
)
"""What is read, in which style, which derivatives are taken away for it (they stay away), and keep_doubtful."""


def read_back(folder: Path, truth: Sequence[Phantom], keep_doubtful: bool) -> dict[str, float]:
    """Read a cohort of phantoms that was written as VerSe; the figures of one row."""
    errors, same_grade, same_given, differences = [], [], [], []
    unread = 0
    settings = {"folder": str(folder), "grades": str(folder / "grades.csv"), "keep_doubtful": keep_doubtful}
    for phantom, scan in zip(truth, list_scans("verse", settings), strict=True):
        true = {v.level: v.keypoints for v in phantom.vertebrae}
        try:
            _, rows = scan.read()
        except VertfracError as error:
            click.echo(f"{scan.case}: {error}", err=True)
            unread += 1
            continue
        for level, given, found in zip(rows["level"], rows["grade"], tables.keypoints_of(rows), strict=True):
            if level not in true:
                continue  # within 2 mm of the edge of the scan: no truth was written
            indices = genant_index(heights(true[level])), genant_index(heights(found))
            errors.append(np.linalg.norm(found - true[level], axis=-1))
            same_grade.append(grade(indices[0]) == grade(indices[1]))
            differences.append(abs(indices[0] - indices[1]))
            same_given.append(given == grade(indices[0]))
    distances = np.concatenate(errors)
    return {
        "scans": len(truth), "unread": unread, "vertebrae": sum(len(phantom.vertebrae) for phantom in truth),
        "answered": len(errors), "mean_mm": distances.mean(), "p95_mm": np.percentile(distances, 95),
        "max_mm": distances.max(), "error_of_G": np.mean(differences), "same_grade_by_G": np.mean(same_grade),
        "same_given_grade": np.mean(same_given),
    }  # fmt: skip


@click.command(help=__doc__)
@click.option("--cases", default=6, show_default=True)
@click.option("--seed", default=229, show_default=True)
@click.option("--out", type=click.Path(path_type=Path))
def main(cases: int, seed: int, out: Path | None) -> None:
    truth = [make_phantom(seed, index) for index in range(cases)]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for style in ("by subject", "flat"):
            write_verse(
                Path(folder, style), cases=cases, seed=seed, flat=style == "flat", subregions=True, keypoints=True
            )
        for name, style, absent, keep_doubtful in WAYS:
            for path in Path(folder, style).rglob("*"):
                if absent and path.name.endswith(absent):
                    path.unlink()
            rows.append({"read": name, "style": style, **read_back(Path(folder, style), truth, keep_doubtful)})
            click.echo({key: round(float(v), 4) if isinstance(v, float) else v for key, v in rows[-1].items()})
    if out:
        tables.write_csv(out, pd.DataFrame(rows))


if __name__ == "__main__":
    main()
