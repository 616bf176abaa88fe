"""What the workflow itself costs: planning, as the cohort grows, and its overhead over the commands it runs.

    python benchmarks/workflow.py scale --out benchmarks/workflow-scale.csv
    python benchmarks/workflow.py overhead --out benchmarks/workflow-overhead.csv

``scale`` plans 5 folds x 5 repeats x 2 systems on cohorts of growing size. Phantoms need no files for a plan; scans of
kind nifti are listed, with 12 vertebrae each, and exist as empty files, since listing them is part of the plan. The
call with nothing to do is a dry-run of a run whose outputs are empty files, which ``--touch`` has taken for its own.

``overhead`` runs a configuration, that of `make demo` unless told another, by Snakemake on one core and, at the same
time, so that other work weighs on both alike, its commands by hand, one after another.
"""

from __future__ import annotations

import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import click
import numpy as np
import pandas as pd
import yaml

from vertfrac import tables

ROOT = Path(__file__).parents[1]
PATH = click.Path(path_type=Path)
P = ParamSpec("P")
R = TypeVar("R")


def snakemake(folder: Path, *options: str) -> tuple[str, float, float]:
    """What a call in ``folder`` says, its seconds, and those of the processor, on which other work weighs less."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder)]
    command += ["--configfile", str(folder / "config.yaml"), "--cores", "1", *options]
    start, before = time.perf_counter(), os.times()
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    seconds, after = time.perf_counter() - start, os.times()
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return done.stdout + done.stderr, seconds, used


def cohort(folder: Path, kind: str, cases: int) -> dict[str, Any]:
    """A section ``cohort`` of so many cases; those of kind nifti are listed and exist, empty."""
    if kind == "phantom":
        return {"kind": kind, "cases": cases, "seed": 1}
    names = [f"c{k:06d}" for k in range(cases)]
    (folder / "scans").mkdir()
    for name in names:
        (folder / "scans" / f"{name}.nii.gz").touch()
    listed = pd.DataFrame({"case": names, "image": [f"{name}.nii.gz" for name in names]})
    listed.to_csv(folder / "scans" / "cases.csv", index=False)
    vertebra = tables.keypoint_values(np.zeros((6, 3)))
    rows = [{"case": name, "vertebra": number, **vertebra} for name in names for number in range(1, 13)]
    pd.DataFrame(rows).to_csv(folder / "scans" / "annotations.csv", index=False)
    return {"kind": kind, "folder": "scans"}


def fake_outputs(folder: Path) -> None:
    """Empty files for all outputs of the plan."""
    text, _, _ = snakemake(folder, "--summary")
    for line in text.splitlines():
        path = folder / line.split("\t")[0]
        if "\t" in line and line.startswith("results/"):
            folder_like = re.search(r"/(source|cohort)/\d+$|/models/[^/]+$", str(path))
            (path if folder_like else path.parent).mkdir(parents=True, exist_ok=True)
            if not folder_like:
                path.touch()
    snakemake(folder, "--touch", "--forceall")


def middle(calls: list[tuple[str, float, float]], which: int) -> float:
    return round(statistics.median(float(call[which]) for call in calls), 2)


def described(runs: int, note: str) -> dict[str, Any]:
    return {"runs": runs, "processor": platform.processor() or platform.machine(), "note": note}


@click.group()
def main() -> None:
    """Measure what the workflow itself costs."""


@main.command()
@click.option("--cases", multiple=True, type=int, default=(100, 1000, 10000), show_default=True)
@click.option("--shards", default="2,16", show_default=True, help="shards to plan with")
@click.option("--runs", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--note", default="", help="what else the machine was doing")
@click.option("--out", type=PATH, required=True, help="CSV to write")
def scale(cases: tuple[int, ...], shards: str, runs: int, note: str, out: Path) -> None:
    """Time of a dry-run and of a call with nothing to do, and the number of jobs."""
    rows = []
    for kind in ("phantom", "nifti"):
        for count in cases:
            for parts in map(int, shards.split(",")):
                with tempfile.TemporaryDirectory() as name:
                    folder = Path(name)
                    config = {
                        "name": "scale",
                        "cohort": cohort(folder, kind, count),
                        "shards": parts,
                        "folds": {"k": 5, "repeats": 5, "seed": 1},
                        "systems": ["pisov2020", "zakharov2022"],
                    }
                    (folder / "config.yaml").write_text(yaml.safe_dump(config))
                    planned = [snakemake(folder, "--dry-run", "--quiet", "rules") for _ in range(runs)]
                    jobs = int(re.findall(r"^total +(\d+)", planned[0][0], re.MULTILINE)[-1])
                    fake_outputs(folder)
                    idle = [snakemake(folder, "--dry-run") for _ in range(runs)]
                    if "Nothing to be done" not in idle[0][0]:
                        raise SystemExit(idle[0][0])
                row = {
                    "kind": kind, "cases": count, "shards": parts, "folds": 5, "repeats": 5, "systems": 2, "jobs": jobs,
                    "dry_run_s": middle(planned, 1), "dry_run_cpu_s": middle(planned, 2),
                    "nothing_to_do_s": middle(idle, 1), "nothing_to_do_cpu_s": middle(idle, 2),
                    **described(runs, note),
                }  # fmt: skip
                click.echo(row)
                rows.append(row)
                pd.DataFrame(rows).to_csv(out, index=False)


@main.command()
@click.option("--runs", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--note", default="", help="what else the machine was doing")
@click.option("--configuration", type=PATH, default=ROOT / "config" / "config.yaml", show_default="the demo's")
@click.option("--out", type=PATH, required=True, help="CSV to write")
def overhead(runs: int, note: str, configuration: Path, out: Path) -> None:
    """Wall time of a run on one core over that of its commands, one after another."""
    config = yaml.safe_load(configuration.read_text())
    by_snakemake, by_hand, jobs = [], [], 0
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
            for folder in map(Path, (one, other)):
                (folder / "config.yaml").write_text(yaml.safe_dump(config))
            plan, _, _ = snakemake(Path(other), "--dry-run", "--printshellcmds")
            commands = re.findall(r"^(?: *Shell command: )?(vertfrac .+)$", plan, re.MULTILINE)
            jobs = len(commands)
            with ThreadPoolExecutor() as pool:
                first = pool.submit(on_core, 0, snakemake, Path(one))
                second = pool.submit(on_core, 1, run_all, commands, Path(other))
                by_snakemake.append(first.result()[1])
                by_hand.append(second.result())
            made, expected = (sorted(p.name for p in Path(f, "results").rglob("*.parquet")) for f in (one, other))
            if made != expected:
                raise SystemExit(f"expected the same tables of both, found {made} and {expected}")
    whole, sum_s = statistics.median(by_snakemake), statistics.median(by_hand)
    row = {
        "configuration": configuration.name, "jobs": jobs, "cores": 1,
        "snakemake_s": round(whole, 1), "by_hand_s": round(sum_s, 1),
        "ratio": round(whole / sum_s, 3), "overhead_per_job_s": round((whole - sum_s) / jobs, 2),
        **described(runs, note),
    }  # fmt: skip
    click.echo(row)
    pd.DataFrame([row]).to_csv(out, index=False)


def on_core(number: int, function: Callable[P, R], *args: P.args, **named: P.kwargs) -> R:
    """Call ``function`` with all that it starts on one core, where the system can tell a thread so."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[number % len(cores)]})
    return function(*args, **named)


def run_all(commands: list[str], folder: Path) -> float:
    """Seconds of the commands, one after another, in a folder; their own folders, which Snakemake makes, come first."""
    for path in re.findall(r"(?<![\w/])results/\S+", " ".join(commands)):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    for command in commands:
        subprocess.run(["bash", "-c", command], cwd=folder, check=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
