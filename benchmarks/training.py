"""Time and memory of training steps at full input size: what a schedule costs on this machine.

    python benchmarks/training.py pisov2020 zakharov2022 --steps 20 --out benchmarks/training-cpu.csv

Every stage of every system runs real optimisation steps, in a process of its own, on a few phantoms that went through
ingestion, resampling and slicing. Scans have the extent that is given (whole scans are not larger in a chest CT); the
first steps, which allocate, are not timed. Peak memory is that of the process, on a GPU also that of its tensors.
"""

from __future__ import annotations

import json
import multiprocessing
import platform
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import pandas as pd

EXTENT_MM = (350.0, 350.0, 400.0)
WARM_UP = 2
CONFIG = Path(__file__).parent.parent / "config"


def prepare(folder: Path, cases: int) -> None:
    """Phantoms, ingested, with their training slices."""
    from vertfrac.cli import main

    cohort = json.dumps({"kind": "nifti", "folder": f"{folder}/source"}, separators=(",", ":"))
    for arguments in (
        f"phantom --cases {cases} --seed 7 --out {folder}/source",
        f"ingest --cohort {cohort} --out {folder}/cohort",
        f"slices --cases {folder}/cohort/cases.parquet --annotations {folder}/cohort/annotations.parquet"
        f" --landmarks {folder}/cohort/landmarks.parquet --settings {{}} --out {folder}/slices.safetensors",
    ):
        main(arguments.split(), standalone_mode=False)


def measure(name: str, stage: str, folder: Path, steps: int, device_name: str, results: Any) -> None:
    """Run the steps and put one row of figures into the queue."""
    import torch

    from vertfrac import tables
    from vertfrac.cli import trained_with
    from vertfrac.config import resolve
    from vertfrac.inference.weights import build_detector, build_localizer
    from vertfrac.models.device import pick_device
    from vertfrac.training import fit
    from vertfrac.training.detector import train_detector
    from vertfrac.training.localizer import train_localizer

    raw = {"name": "benchmark", "cohort": {"kind": "phantom", "cases": 9}, "systems": [name]}
    system = resolve(raw, CONFIG, "benchmark").systems[name]
    device = pick_device(device_name)  # type: ignore[arg-type]  # click checks it
    annotations = tables.read_table(folder / "cohort/annotations.parquet", tables.ANNOTATIONS)
    stamps: list[float] = []
    step = fit.Stage.training_step

    def stamped(self: Any, *arguments: Any) -> Any:
        if device.type == "cuda":
            torch.cuda.synchronize()
        stamps.append(time.perf_counter())
        return step(self, *arguments)

    fit.Stage.training_step = stamped  # type: ignore[method-assign]  # timed from outside
    section: Any = system.localizer if stage == "localizer" else system.detector
    if stage == "localizer":
        section = section.model_copy(update={"crop_mm": section.crop_mm or EXTENT_MM})
    training = section.training.model_copy(update={"steps": steps + WARM_UP + 1})
    shared = {
        **trained_with(section.model_copy(update={"training": training})),
        "work": folder / f"{name}-{stage}",
        "device": device,
    }
    cases = set(annotations["case"])
    if stage == "localizer":
        volumes = folder / f"{name}.safetensors"
        network: Any = train_localizer(
            build_localizer(section.network, 0), [volumes], annotations, cases, edge_mm=section.input.edge_mm, **shared
        )
    else:
        network = train_detector(
            build_detector(section.network, 1.0, 0), [folder / "slices.safetensors"], cases, spacing_mm=1.0, **shared
        )
    seconds = [after - before for before, after in zip(stamps[WARM_UP:-1], stamps[WARM_UP + 1 :], strict=True)]
    median = statistics.median(seconds)
    results.put(
        {
            "system": name,
            "stage": stage,
            "device": torch.cuda.get_device_name()
            if device.type == "cuda"
            else f"{torch.get_num_threads()} CPU threads",
            "batch": section.training.batch,
            "parameters": sum(p.numel() for p in network.parameters()),
            "timed_steps": len(seconds),
            "seconds_per_step": round(median, 3),
            "fastest": round(min(seconds), 3),
            "slowest": round(max(seconds), 3),
            "process_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
            "gpu_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if device.type == "cuda" else None,
            "steps_of_the_schedule": section.training.steps,
            "projected_hours": round(median * section.training.steps / 3600, 2),
        }
    )


@click.command()
@click.argument("systems", nargs=-1, required=True)
@click.option("--steps", default=20, show_default=True)
@click.option("--cases", default=6, show_default=True, help="phantoms to train on")
@click.option("--stage", "stages", multiple=True, default=("localizer", "detector"), show_default=True)
@click.option("--device", default="auto", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="CSV file")
def main(systems: tuple[str, ...], steps: int, cases: int, stages: tuple[str, ...], device: str, out: Path) -> None:
    """Time training steps of the named systems of config/systems."""
    from vertfrac.cohorts.cache import cache_volumes
    from vertfrac.config import resolve

    context = multiprocessing.get_context("spawn")
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare(folder, cases)
        for name in systems:
            raw = {"name": "benchmark", "cohort": {"kind": "phantom", "cases": 9}, "systems": [name]}
            spacing = resolve(raw, CONFIG, "benchmark").systems[name].localizer.input.spacing_mm
            cache_volumes(folder / "cohort/cases.parquet", folder / f"{name}.safetensors", spacing_mm=spacing)
            for stage in stages:
                results = context.Queue()
                process = context.Process(target=measure, args=(name, stage, folder, steps, device, results))
                process.start()
                process.join()
                if process.exitcode != 0:
                    raise click.ClickException(f"{name} {stage}: the process ended with {process.exitcode}")
                rows.append(results.get() | {"machine": platform.machine()})
                click.echo(pd.DataFrame(rows[-1:]).to_string(index=False))
                pd.DataFrame(rows).to_csv(out, index=False)


if __name__ == "__main__":
    main()
