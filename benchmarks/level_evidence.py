"""The evidence for levels in the cross-validation of a run, for `benchmarks/level_temperature.py`.

    python benchmarks/level_evidence.py results/pretrain --out evidence.npz

Of every case by the network that had not seen it. The run must have one system, one that names vertebrae.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import torch
from scipy.spatial import cKDTree

from vertfrac import tables
from vertfrac.config import read_yaml, resolve
from vertfrac.geometry.keypoints import centers
from vertfrac.inference.held_out import name_vertebrae
from vertfrac.inference.weights import load_detector

NEAR_MM = 10.0
"""A detection whose centre is this near to an annotated one is that vertebra."""


@click.command()
@click.argument("run", type=click.Path(path_type=Path, exists=True))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="file to write")
def main(run: Path, out: Path) -> None:
    """Detect on the held-out slices of RUN, and write what was seen of the levels and what they are."""
    config = resolve(read_yaml(run / "config.yaml"), run, str(run / "config.yaml"))
    ((name, system),) = config.systems.items()
    marks = tables.read_table(run / "cohort" / "annotations.parquet", tables.ANNOTATIONS)
    spacing_mm, device = config.slices.spacing_mm, torch.device("cpu")
    parts = []
    for slices in sorted((run / "held_out" / name).glob("*.safetensors")):
        weights = run / "training" / name / slices.stem / "detector.safetensors"
        network = load_detector(weights, system.detector.network, spacing_mm, device)
        settings = system.detector
        for case, found, evidence in name_vertebrae(
            [slices], network, settings, settings.inference, spacing_mm=spacing_mm, device=device
        ):
            if found.empty:
                continue
            if evidence is None:
                raise click.ClickException(f"{run}: {name} names no vertebrae, expected a system with levels")
            truth = marks[marks["case"] == case]
            middle = found[["center_x", "center_y", "center_z"]].to_numpy(dtype=np.float64)
            distance, which = cKDTree(centers(tables.keypoints_of(truth))).query(middle)
            levels = truth["level"].fillna("").to_numpy(dtype=str)
            parts.append(
                {
                    "case": np.full(len(found), case),
                    "log_evidence": evidence,
                    "center": middle,
                    "posterior_height_mm": found["height_posterior_mm"].to_numpy(dtype=np.float64),
                    "level_target": np.where(distance <= NEAR_MM, levels[which], ""),
                }
            )
    np.savez(out, **{key: np.concatenate([part[key] for part in parts]) for key in parts[0]})  # type: ignore[arg-type]  # numpy's stubs take a bool for one of the names
    click.echo(f"{out}: {len(parts)} cases")


if __name__ == "__main__":
    main()
