"""What an archive costs: listing, Snakemake's plan, a shard without news, one scan, the bytes of its results.

    python benchmarks/archive.py --model results/demo/models/vertfrac --out benchmarks/archive-cpu.csv

Listing reads folders of empty files, one folder per scan, which is the slowest layout. The plan is a dry-run of
workflow/archive.smk. Scans are measured in shards of one: a broken file, which shows what a shard costs before its
first scan, a phantom as it is, and the same one with 512 x 512 x 400 voxels; then the first of them again, without
news. Bytes are those of a shard of 1000 scans: the phantom's own rows, with noise on every number, since equal rows
would be packed into nothing. Each step is a process of its own: its wall and CPU seconds and its peak memory.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd

ROOT = Path(__file__).parents[1]
FULL = (512, 512, 400)
CASES = ("broken", "phantom", "full")
VERTFRAC = (sys.executable, "-m", "vertfrac")

Row = dict[str, Any]


def run(command: list[str], folder: Path) -> dict[str, float]:
    """What a command takes: wall and CPU seconds, peak memory in MB."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    start = time.perf_counter()
    with (folder / "output").open("w") as output:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        raise SystemExit((folder / "output").read_text())
    return {"seconds": seconds, "cpu_seconds": usage.ru_utime + usage.ru_stime, "memory_mb": usage.ru_maxrss / 1024}


def listing(folder: Path, scans: int) -> Row:
    for number in range(scans):
        place = folder / "scans" / f"p{number:07d}"
        place.mkdir(parents=True)
        (place / "ct.nii.gz").touch()
    cost = run([*VERTFRAC, "archive", "list", "--scans", "scans", "--shards", "100", "--out", "list.parquet"], folder)
    return {"step": "list", "size": scans, **cost, "bytes": (folder / "list.parquet").stat().st_size}


def plan(folder: Path, shards: int, model: Path) -> Row:
    (folder / "scans").mkdir()
    config = [f"shards={shards}", "scans=scans", "out=out", f"model={model}"]
    workflow = str(ROOT / "workflow" / "archive.smk")
    command = [sys.executable, "-m", "snakemake", "-s", workflow, "--cores", "2", "--dry-run", "--quiet", "all"]
    return {"step": "dry-run", "size": shards, **run([*command, "--config", *config], folder)}


def make_scans(folder: Path) -> None:
    """broken.nii.gz, phantom.nii.gz and full.nii.gz, each in a folder of its name."""
    from scipy.ndimage import zoom

    from vertfrac.geometry.grid import Grid
    from vertfrac.imaging import Image, read_image, write_nifti

    for case in CASES:
        (folder / case / "scans").mkdir(parents=True)
    (folder / "broken" / "scans" / "broken.nii.gz").write_bytes(b"broken")
    run([*VERTFRAC, "phantom", "--cases", "1", "--out", "made"], folder)
    (found,) = (folder / "made" / "images").iterdir()
    image = read_image(found)
    write_nifti(folder / "phantom" / "scans" / "phantom.nii.gz", image)
    factors = np.array(FULL) / image.hu.shape
    affine = image.grid.world_from_index @ np.diag([*(1 / factors), 1.0])
    large = zoom(image.hu.astype(np.float32), factors, order=1, grid_mode=True, mode="nearest")
    large += np.random.default_rng(0).normal(0, 10, FULL).astype(np.float32)  # so that it packs as a CT does
    hu = np.rint(large).astype(np.int16)
    write_nifti(folder / "full" / "scans" / "full.nii.gz", Image(hu, Grid(FULL, affine), "full"))


def scans(folder: Path, model: Path, threads: int) -> Iterator[Row]:
    """Shards of one scan, one without news, and the bytes of the results."""
    process = multiprocessing.get_context("spawn").Process(target=make_scans, args=(folder,))
    process.start()  # on its own, since the peak of a process counts what its parent held when it started
    process.join()

    def measure(case: str, *options: str) -> dict[str, float]:
        command = [*VERTFRAC, "archive", "measure", "--listing", "out/list.parquet", "--shard", "0/1"]
        command += ["--model", str(model), "--out", "out", "--done", "out/done.json", "--threads", str(threads)]
        return run([*command, *options], folder / case)

    for case in CASES:
        command = [*VERTFRAC, "archive", "list", "--scans", "scans", "--shards", "1", "--out", "out/list.parquet"]
        run(command, folder / case)
        size = (folder / case / "scans" / f"{case}.nii.gz").stat().st_size
        yield {"step": f"shard of one scan, {case}", "size": 1, **measure(case), "bytes": size}
    yield {"step": "shard without news", "size": 1, **measure("broken")}
    for dataset in ("scans", "vertebrae"):
        rows = pd.read_parquet(folder / "phantom" / "out" / dataset)
        yield {"step": f"{dataset}, {len(rows)} a scan", "size": 1000, "bytes": packed(rows, folder)}
    measure("full", "--pictures")
    (drawn,) = (folder / "full" / "out" / "folders").glob("*/*")
    yield {"step": "folder with picture, full", "size": 1, "bytes": sum(f.stat().st_size for f in drawn.iterdir())}


def packed(own: pd.DataFrame, folder: Path) -> int:
    """Bytes of 1000 scans like one, no two of which have the same numbers."""
    rng = np.random.default_rng(0)
    many = pd.concat([own.assign(case=f"p{number:07d}_ct") for number in range(1000)], ignore_index=True)
    for column in many.select_dtypes("float").columns:
        many[column] += rng.normal(0, 0.01, len(many))
    if "source" in many:
        many["source"] = [f"/data/archive/{case}.nii.gz" for case in many["case"]]
        for column in ("bytes", "modified_ns"):
            many[column] += rng.integers(0, 1_000_000, len(many))
    many.to_parquet(folder / "many.parquet", index=False)
    return (folder / "many.parquet").stat().st_size


@click.command()
@click.option("--model", type=click.Path(path_type=Path, exists=True), required=True, help="folder of a trained model")
@click.option("--lists", type=int, multiple=True, default=(10_000, 100_000), show_default=True)
@click.option("--plans", type=int, multiple=True, default=(100, 1_000, 10_000), show_default=True)
@click.option("--threads", type=int, default=2, show_default=True, help="CPU threads of a shard")
@click.option("--note", default="", help="what else the machine was doing")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="CSV to write")
def main(model: Path, lists: tuple[int, ...], plans: tuple[int, ...], threads: int, note: str, out: Path) -> None:
    """Measure every step once."""
    model = model.absolute()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:

        def fresh() -> Path:
            return Path(tempfile.mkdtemp(dir=name))

        steps = chain(
            (listing(fresh(), number) for number in lists),
            (plan(fresh(), number, model) for number in plans),
            scans(fresh(), model, threads),
        )
        for row in steps:
            click.echo(row)
            rows.append(row)
    table = pd.DataFrame(rows).round({"seconds": 1, "cpu_seconds": 1, "memory_mb": 0})
    table = table.astype({"memory_mb": "Int64", "bytes": "Int64"})
    table = table.assign(processor=platform.processor() or platform.machine(), note=note)
    click.echo(table.to_string(index=False))
    table.to_csv(out, index=False)


if __name__ == "__main__":
    main()
