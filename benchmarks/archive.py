"""What an archive costs: listing, Snakemake's plan, a shard without news, one scan, the bytes of its results.

    python benchmarks/archive.py --model results/demo/models/vertfrac --out benchmarks/archive-cpu.csv

Listing reads folders of empty files, one folder per scan, which is the slowest layout. The plan is a dry-run of
workflow/archive.smk. A scan is a phantom as it is, and the same one with 512 x 512 x 400 voxels; its seconds are those
in the table of scans, which start when its file is opened, of the second of two passes. Bytes are those of a shard of
1000 scans: the phantom's own rows, with noise on every number, since equal rows would be packed into nothing. Each step
runs in a process of its own; memory is the peak of that process.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd

ROOT = Path(__file__).parents[1]
FULL = (512, 512, 400)
VERTFRAC = (sys.executable, "-m", "vertfrac")


def run(command: list[str], folder: Path) -> tuple[float, float]:
    """Wall seconds and peak memory, MB, of a command."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    start = time.perf_counter()
    with (folder / "output").open("w") as output:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        raise SystemExit((folder / "output").read_text())
    return seconds, usage.ru_maxrss / 1024


def listing(folder: Path, scans: int) -> dict[str, Any]:
    for number in range(scans):
        place = folder / "scans" / f"p{number:07d}"
        place.mkdir(parents=True)
        (place / "ct.nii.gz").touch()
    command = [*VERTFRAC, "archive", "list", "--scans", "scans", "--shards", "100", "--out", "list.parquet"]
    seconds, memory = run(command, folder)
    return {"step": "list", "size": scans, "seconds": seconds, "memory_mb": memory,
            "bytes": (folder / "list.parquet").stat().st_size}  # fmt: skip


def plan(folder: Path, shards: int, model: Path) -> dict[str, Any]:
    (folder / "scans").mkdir()
    (folder / "scans" / "one.nii").touch()
    config = [f"shards={shards}", "scans=scans", "out=out", f"model={model}"]
    command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "workflow" / "archive.smk"), "--cores", "2",
               "--dry-run", "--quiet", "all", "--config", *config]  # fmt: skip
    seconds, memory = run(command, folder)
    return {"step": "dry-run", "size": shards, "seconds": seconds, "memory_mb": memory}


def scans(folder: Path, model: Path, threads: int) -> list[dict[str, Any]]:
    """One phantom and the same at full size: both passes, then a shard without news, and what is on disk."""
    import shutil

    from scipy.ndimage import zoom

    from vertfrac.geometry.grid import Grid
    from vertfrac.imaging import Image, read_image, write_nifti

    run([*VERTFRAC, "phantom", "--cases", "1", "--out", "made"], folder)
    (found,) = (folder / "made" / "images").iterdir()
    image = read_image(found)
    factors = np.array(FULL) / image.hu.shape
    (folder / "scans").mkdir()
    write_nifti(folder / "scans" / "phantom.nii.gz", image)
    affine = image.grid.world_from_index @ np.diag([*(1 / factors), 1.0])
    large = zoom(image.hu.astype(np.float32), factors, order=1, grid_mode=True, mode="nearest")
    large += (
        np.random.default_rng(0).normal(0, 10, large.shape).astype(np.float32)
    )  # noise, so that it packs as a CT does
    hu = np.rint(large).astype(np.int16)
    write_nifti(folder / "scans" / "full.nii.gz", Image(hu, Grid(hu.shape, affine), "full"))
    run([*VERTFRAC, "archive", "list", "--scans", "scans", "--shards", "1", "--out", "out/list.parquet"], folder)

    def measure(*options: str) -> tuple[float, float]:
        return run(
            [*VERTFRAC, "archive", "measure", "--listing", "out/list.parquet", "--shard", "0/1", "--model", str(model),
             "--out", "out", "--done", "out/done.json", "--threads", str(threads), *options], folder
        )  # fmt: skip

    measure("--pictures")
    pictures = {
        path.name: sum(file.stat().st_size for file in path.iterdir()) for path in (folder / "out/folders").glob("*/*")
    }
    for dataset in ("scans", "vertebrae"):
        shutil.rmtree(folder / "out" / dataset)
    _, memory = measure()
    table = pd.read_parquet(folder / "out" / "scans").set_index("case")
    vertebrae = pd.read_parquet(folder / "out" / "vertebrae")
    rows = [
        {"step": f"scan, {case}, {threads} threads", "size": 1, "seconds": table.loc[case, "seconds"],
         "memory_mb": memory, "bytes": (folder / "scans" / f"{case}.nii.gz").stat().st_size}
        for case in ("phantom", "full")
    ]  # fmt: skip
    rows += [{"step": f"folder with picture, {case}", "size": 1, "bytes": size} for case, size in pictures.items()]
    seconds, memory = measure()
    rows.append({"step": "shard without news", "size": 2, "seconds": seconds, "memory_mb": memory})
    for name, data in (("scans", table.reset_index()), ("vertebrae", vertebrae)):
        own = data[data["case"] == "phantom"]
        rows.append({"step": f"{name} of a shard", "size": 1000, "bytes": packed(own, folder)})
    return rows


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
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:

        def fresh() -> Path:
            return Path(tempfile.mkdtemp(dir=name))

        rows += [listing(fresh(), number) for number in lists]
        rows += [plan(fresh(), number, model) for number in plans]
        rows += scans(fresh(), model, threads)
    table = pd.DataFrame(rows).round({"seconds": 2, "memory_mb": 0})
    table = table.astype({"memory_mb": "Int64", "bytes": "Int64"})
    table = table.assign(processor=platform.processor() or platform.machine(), note=note)
    click.echo(table.to_string(index=False))
    table.to_csv(out, index=False)


if __name__ == "__main__":
    main()
