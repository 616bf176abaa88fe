"""Hours per fold of every training schedule, from the steps that were timed.

    python benchmarks/schedules.py --out benchmarks/schedules-cpu.csv

``hours_scaled`` takes the loop's step of ``benchmarks/step.py loop``, where inputs of the published systems are small,
times the voxels of a full batch over those of the timed one: steps of U-Nets are linear in them, as long as the memory
lasts. ``hours_full_size`` are the steps of ``benchmarks/training.py`` at full size; empty where none was timed. Whole
scans have the extent that ``benchmarks/training.py`` gives them.
"""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import click
import pandas as pd
from training import CONFIG, EXTENT_MM

HERE = Path(__file__).parent
PATH = click.Path(path_type=Path, exists=True)


def batch_voxels(system: Any, stage: str) -> tuple[int, Any]:
    """Voxels of a batch at full size, and the section."""
    if stage == "detector":
        section = system.detector
        return section.training.batch * prod(round(mm) for mm in section.crop_mm), section  # slices have 1 mm pixels
    section = system.localizer
    sizes = zip(section.crop_mm or EXTENT_MM, section.input.spacing_mm, strict=True)
    return section.training.batch * prod(round(mm / step) for mm, step in sizes), section


@click.command()
@click.option("--loop", type=PATH, default=HERE / "step-loop-cpu.csv", show_default="step-loop-cpu.csv")
@click.option("--full", type=PATH, default=HERE / "training-cpu.csv", show_default="training-cpu.csv")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="CSV file")
def main(loop: Path, full: Path, out: Path) -> None:
    """Print and write the table."""
    from vertfrac.config import resolve

    timed = pd.read_csv(full).set_index(["system", "stage"])["projected_hours"]
    rows = []
    for row in pd.read_csv(loop).to_dict("records"):
        name, stage = row["system"], row["stage"]
        raw = {"name": "benchmark", "cohort": {"kind": "phantom", "cases": 9}, "systems": [name]}
        voxels, section = batch_voxels(resolve(raw, CONFIG, "benchmark").systems[name], stage)
        share = voxels / prod(int(n) for n in row["input"].split("x"))
        seconds = row["loop_s"] * share
        rows.append(
            {
                "system": name, "stage": stage, "device": row["device"], "steps": section.training.steps,
                "full_over_timed": round(share, 2), "step_s_scaled": round(seconds, 3),
                "hours_scaled": round(seconds * section.training.steps / 3600, 2),
                "hours_full_size": timed.get((name, stage)),
            }
        )  # fmt: skip
    table = pd.DataFrame(rows)
    table.to_csv(out, index=False)
    click.echo(table.to_string(index=False))


if __name__ == "__main__":
    main()
