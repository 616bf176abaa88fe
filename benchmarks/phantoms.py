"""How fast phantoms are made and how much memory that takes, on one core.

    python benchmarks/phantoms.py --out benchmarks/phantoms-cpu.csv

Every phantom is made in a process of its own at 1.5 mm isotropic voxels, and as its own protocol says.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import resource
import time
from pathlib import Path
from typing import Any

import click
import pandas as pd

from vertfrac.cohorts.phantom import make_phantom
from vertfrac.cohorts.phantom.ingredients import DIFFICULTIES


def make(job: tuple[int, int, str, float | None]) -> dict[str, Any]:
    """Seconds, voxels and peak memory (MiB) of one phantom."""
    seed, index, difficulty, spacing = job
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    start = time.perf_counter()
    phantom = make_phantom(seed, index, ingredients=DIFFICULTIES[difficulty], spacing_mm=spacing)
    seconds = time.perf_counter() - start
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "voxels": phantom.hu.size, "memory": memory}


@click.command()
@click.option("--cases", type=click.IntRange(min=1), default=24, show_default=True)
@click.option("--seed", type=int, default=77, show_default=True)
@click.option("--note", default="", help="what else the machine was doing")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="CSV to write")
def main(cases: int, seed: int, note: str, out: Path) -> None:
    """Measure phantoms per second and core."""
    rows = []
    for difficulty in DIFFICULTIES:
        for spacing in (1.5, None):
            jobs = [(seed, index, difficulty, spacing) for index in range(cases)]
            with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
                made = pd.DataFrame(pool.map(make, jobs, chunksize=1))
            row = {
                "difficulty": difficulty, "spacing_mm": spacing or "as drawn", "cases": cases,
                "per_second": round(float(1 / made["seconds"].mean()), 3),
                "median_s": round(made["seconds"].median(), 2),
                "p95_s": round(made["seconds"].quantile(0.95), 2),
                "median_million_voxels": round(float(made["voxels"].median()) / 1e6, 2),
                "peak_memory_mib": round(made["memory"].max()),
                "machine": platform.processor() or platform.machine(), "note": note,
            }  # fmt: skip
            click.echo(row)
            rows.append(row)
            pd.DataFrame(rows).to_csv(out, index=False)


if __name__ == "__main__":
    main()
