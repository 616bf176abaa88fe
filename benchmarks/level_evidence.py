"""The evidence for levels that a model gives on annotated scans, for `benchmarks/level_temperature.py`.

    python benchmarks/level_evidence.py MODEL COHORT --out evidence.npz

COHORT is the folder of a canonical cohort, such as ``results/pretrain/transfer/unseen/cohort``.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import torch
from scipy.spatial import cKDTree

from vertfrac import tables
from vertfrac.cohorts.ingest import usable_cases
from vertfrac.errors import VertfracError
from vertfrac.geometry.keypoints import centers
from vertfrac.imaging import read_image
from vertfrac.inference.scan import analyse
from vertfrac.inference.weights import load_model

NEAR_MM = 10.0
"""A detection whose centre is this near to an annotated one is that vertebra."""


@click.command()
@click.argument("model", type=click.Path(path_type=Path, exists=True))
@click.argument("cohort", type=click.Path(path_type=Path, exists=True))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="file to write")
def main(model: Path, cohort: Path, out: Path) -> None:
    """Measure every usable case of COHORT with MODEL, and write what it saw of the levels and what they are."""
    trained = load_model(model, torch.device("cpu"))
    marks = tables.read_table(cohort / "annotations.parquet", tables.ANNOTATIONS)
    found: dict[str, list[np.ndarray]] = {
        name: [] for name in ("case", "log_evidence", "center", "posterior_height_mm", "level_target")
    }
    for case, image in usable_cases(cohort / "cases.parquet"):
        try:
            result = analyse(read_image(image), trained)
        except VertfracError as error:
            click.echo(f"{case}: {error}")
            continue
        if result.evidence is None:
            raise click.ClickException(f"{model}: names no vertebrae, expected a model with a level head")
        rows, truth = result.vertebrae, marks[marks["case"] == case]
        middle = rows[["center_x", "center_y", "center_z"]].to_numpy(dtype=np.float64)
        distance, which = cKDTree(centers(tables.keypoints_of(truth))).query(middle)
        levels = truth["level"].fillna("").to_numpy(dtype=str)
        found["case"].append(np.full(len(rows), case))
        found["log_evidence"].append(result.evidence)
        found["center"].append(middle)
        found["posterior_height_mm"].append(rows["height_posterior_mm"].to_numpy(dtype=np.float64))
        found["level_target"].append(np.where(distance <= NEAR_MM, levels[which], ""))
    np.savez(out, **{name: np.concatenate(parts) for name, parts in found.items()})
    click.echo(f"{out}: {len(found['case'])} scans")


if __name__ == "__main__":
    main()
