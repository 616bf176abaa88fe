"""Time and memory of ingesting one scan of full size, against plain reading of its files.

    python benchmarks/ingestion.py --runs 5 --out benchmarks/ingestion-cpu.csv

The scan has 512 x 512 x 400 voxels, once as .nii.gz, once as a DICOM series of 400 files. Plain reading is what nibabel
or pydicom need to give the voxels; ingestion checks, rescales, reorders and writes them, with the annotations. Each
measurement runs in a process of its own, which imports first and is timed from then on; the files are in the system's
cache. Readings alternate, so that other work on the machine weighs on all alike; the ratio is that of the medians.
"""

from __future__ import annotations

import json
import multiprocessing
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd

SPACING_MM = (0.7, 0.7, 0.8)
CASE = "scan"


def prepare(folder: Path, shape: tuple[int, int, int]) -> None:
    """One noisy body with three annotated vertebrae, as a cohort of both kinds."""
    from vertfrac import tables
    from vertfrac.geometry.grid import Grid
    from vertfrac.imaging import Image, write_nifti
    from vertfrac.imaging.dicom_write import write_dicom

    rng = np.random.default_rng(0)
    i, j = np.indices(shape[:2])
    inside = np.hypot(i / shape[0] - 0.5, 1.5 * (j / shape[1] - 0.5)) < 0.4
    hu = np.where(inside, 40, -1000).astype(np.int16)[:, :, None] + rng.integers(-30, 30, shape, dtype=np.int16)
    grid = Grid(shape, np.diag([*SPACING_MM, 1.0]))
    image = Image(hu, grid, CASE)
    middle = np.array(shape) // 2
    rows = [int(middle[1]) + away for away in (-15, 0, 15)]
    marks = [[[row, int(middle[0]), top + tall] for row in rows for tall in (0, 25)] for top in (10, 50, 90)]

    names = [f"{k:04d}" for k in range(shape[2])]
    uid, dicom_grid = write_dicom(folder / "dicom" / CASE, image, patient=CASE, seed=(CASE,), names=names)
    (folder / "annotations").mkdir()
    study = {"SeriesInstanceUID": uid, "Folder": CASE, "Annotation": {"one": marks}}
    (folder / "annotations" / f"{CASE}.json").write_text(json.dumps(study))

    (folder / "nifti").mkdir()
    write_nifti(folder / "nifti" / f"{CASE}.nii.gz", image)
    pd.DataFrame({"case": [CASE], "image": [f"{CASE}.nii.gz"]}).to_csv(folder / "nifti" / "cases.csv", index=False)
    annotations = [
        {"case": CASE, "vertebra": number, **tables.keypoint_values(dicom_grid.to_world(points))}
        for number, points in enumerate(marks, start=1)
    ]
    pd.DataFrame(annotations).to_csv(folder / "nifti" / "annotations.csv", index=False)


def plain_nifti(folder: Path) -> None:
    import nibabel

    np.asanyarray(nibabel.load(folder / "nifti" / f"{CASE}.nii.gz").dataobj)


def plain_dicom(folder: Path) -> None:
    import pydicom

    files = sorted((folder / "dicom" / CASE).iterdir())
    first = pydicom.dcmread(files[0]).pixel_array
    values = np.empty((len(files), *first.shape), dtype=first.dtype)
    for k, file in enumerate(files):
        values[k] = pydicom.dcmread(file).pixel_array


def index(folder: Path) -> None:
    from vertfrac import tables
    from vertfrac.cohorts.series_index import index_series

    tables.write_table(folder / "series.parquet", tables.SERIES, index_series(folder / "dicom"))


def _ingest(kind: str, out: Path, **settings: str) -> None:
    from vertfrac.cohorts.ingest import ingest
    from vertfrac.cohorts.sources import list_scans

    table = ingest(list_scans(kind, settings), out)
    assert table["status"].tolist() == ["ok"], table["reason"].tolist()


def ingest_nifti(folder: Path) -> None:
    _ingest("nifti", folder / "out", folder=str(folder / "nifti"))


def ingest_dicom(folder: Path) -> None:
    _ingest(
        "lungcancer500",
        folder / "out",
        annotations=str(folder / "annotations"),
        images=str(folder / "dicom"),
        index=str(folder / "series.parquet"),
    )


STEPS: dict[tuple[str, str], Callable[[Path], None]] = {
    ("nii.gz", "plain reading"): plain_nifti,
    ("nii.gz", "ingestion"): ingest_nifti,
    ("DICOM", "plain reading"): plain_dicom,
    ("DICOM", "index"): index,
    ("DICOM", "ingestion"): ingest_dicom,
}


def peak_mb() -> float:
    """Peak memory of this process so far, of Linux: getrusage would count what the parent used before it, too."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def measure(kind: str, step: str, folder: Path, results: Any) -> None:
    """Run one step and put its seconds and its memory beyond that of the imports, MB, into the queue."""
    import highdicom
    import nibabel
    import pydicom.pixels

    import vertfrac.cohorts.ingest
    import vertfrac.cohorts.lungcancer500
    import vertfrac.cohorts.nifti

    for module in (highdicom, nibabel, pydicom, vertfrac):
        assert module
    before = peak_mb()
    start = time.perf_counter()
    STEPS[kind, step](folder)
    seconds = time.perf_counter() - start
    results.put((seconds, peak_mb() - before))


@click.command()
@click.option("--runs", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--shape", nargs=3, type=int, default=(512, 512, 400), show_default=True)
@click.option("--note", default="", help="what else the machine was doing")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="CSV to write")
def main(runs: int, shape: tuple[int, int, int], note: str, out: Path) -> None:
    """Measure every step several times, side by side."""
    spawn = multiprocessing.get_context("spawn")
    found: dict[tuple[str, str], list[tuple[float, float]]] = {key: [] for key in STEPS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, shape)
        index(folder)
        for _ in range(runs):
            for kind, step in STEPS:
                results = spawn.Queue()
                process = spawn.Process(target=measure, args=(kind, step, folder, results))
                process.start()
                process.join()
                if process.exitcode:
                    raise SystemExit(f"{step} of {kind} failed")
                found[kind, step].append(results.get())
    rows = []
    for (kind, step), values in found.items():
        plain = found[kind, "plain reading"]
        seconds, memory = ([value[k] for value in values] for k in (0, 1))
        rows.append(
            {
                "format": kind,
                "step": step,
                "seconds": round(statistics.median(seconds), 2),
                "seconds_min": round(min(seconds), 2),
                "seconds_max": round(max(seconds), 2),
                "times_plain": round(statistics.median(seconds) / statistics.median(v[0] for v in plain), 2),
                "memory_mb": round(statistics.median(memory)),
                "memory_times_plain": round(statistics.median(memory) / statistics.median(v[1] for v in plain), 2),
                "runs": runs,
                "shape": "x".join(map(str, shape)),
                "processor": platform.processor() or platform.machine(),
                "note": note,
            }
        )
    table = pd.DataFrame(rows)
    click.echo(table.to_string(index=False))
    table.to_csv(out, index=False)


if __name__ == "__main__":
    main()
