"""How time and memory grow: with the slices of a scan, vertebrae, cases, folds.

    python benchmarks/growth.py measure --out benchmarks/growth-cpu.csv
    python benchmarks/growth.py draw benchmarks/growth-cpu.csv --out docs/images/growth.webp

Every size of every part is measured in a process of its own, whose peak memory is told; preparing what is measured
does not count as time. Scans are one phantom in 512 x 512 pixels and more and more, thinner slices, graded by the
shipped model. Columns are synthetic: 40 candidates for each vertebra, suppressed by Butterfly-IoU, and evidence for
each level. Cases are copies of a few phantoms under names of their own: resampled into a file of volumes, read for
training, scored against themselves with noise, gathered in a report. Folds are repeats of 5 folds, planned by
Snakemake for one system. ``power`` is the slope between sizes in doubly logarithmic scale: 1 is linear.
"""

from __future__ import annotations

import json
import multiprocessing
import re
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd

SIZES = {
    "scan": (100, 200, 400, 800),
    "suppress": (6, 12, 24, 48),
    "name": (6, 12, 24),
    "volumes": (8, 16, 32, 64),
    "read for training": (8, 16, 32, 64),
    "evaluate": (25, 50, 100, 200),
    "report": (25, 50, 100, 200),
    "plan": (5, 10, 20, 40),
}
UNITS = {"scan": "slices", "suppress": "vertebrae", "name": "vertebrae", "plan": "folds"}
Timed = Callable[[], Any]


def write_scan(folder: Path, slices: int, path: Path) -> None:
    """The first phantom in 512 x 512 pixels and so many slices."""
    import nibabel as nib

    whole = nib.load(sorted((folder / "source/images").iterdir())[0])
    shape = np.array([512, 512, slices])
    taken = [np.arange(n) * old // n for n, old in zip(shape, whole.shape, strict=True)]
    affine = whole.affine @ np.diag([*(np.array(whole.shape) / shape), 1.0])
    data = np.asanyarray(whole.dataobj)[np.ix_(*taken)].astype(np.int16)
    nib.save(nib.Nifti1Image(data, affine), path)


def scan(folder: Path, size: int) -> Timed:
    import torch

    from vertfrac.inference.card import PRETRAINED
    from vertfrac.inference.predict import predict_scan
    from vertfrac.inference.weights import load_model

    path = folder / f"{size}.nii"
    writer = multiprocessing.get_context("spawn").Process(target=write_scan, args=(folder, size, path))
    writer.start()  # a process of its own, whose memory is not told
    writer.join()
    model = load_model(PRETRAINED, torch.device("cpu"))

    def run() -> None:
        outcome = predict_scan("scan", path, model, folder / f"graded-{size}")
        if outcome.row["status"] != "ok":
            raise SystemExit(outcome.row["reason"])

    return run


def column(size: int) -> np.ndarray:
    """Keypoints of a column of vertebrae on a slice, (size, 6, 2) pixels."""
    shape = np.array([[-10, -15], [10, -15], [-9, 0], [9, 0], [-10, 15], [10, 15]], dtype=np.float64)
    return shape + np.stack([26.0 * np.arange(size), 48 + 10 * np.sin(np.arange(size) / 4)], axis=1)[:, None]


def suppress(folder: Path, size: int) -> Timed:
    from vertfrac.inference import nms

    random = np.random.default_rng(size)
    points = np.repeat(column(size), 40, axis=0)
    points = points + random.normal(0, 1, points.shape)
    scores = np.sort(random.uniform(0.3, 1, len(points)))[::-1]
    order = random.permutation(len(points))
    points, anchors = points[order], points[order].mean(axis=1)
    return lambda: nms.suppress(scores, points, anchors, overlap="butterfly", threshold=0.1, average_px=4.0)


def name(folder: Path, size: int) -> Timed:
    from vertfrac.cohorts.levels import NAMED
    from vertfrac.config import LevelDecoding
    from vertfrac.inference.column import name_column

    random = np.random.default_rng(size)
    evidence = random.normal(0, 1, (size, len(NAMED))) + 4 * np.eye(size, len(NAMED))
    evidence -= np.logaddexp.reduce(evidence, axis=1, keepdims=True)
    pitch = random.normal(1, 0.05, size - 1)
    prices = LevelDecoding().model_dump()
    return lambda: name_column(evidence, pitch, **prices)


def named_cases(folder: Path, size: int, what: str) -> pd.DataFrame:
    """So many cases of the prepared cohort's table, copies under names of their own."""
    rows = pd.read_parquet(folder / "cohort" / f"{what}.parquet")
    found = sorted(rows["case"].unique())
    copies = [rows[rows["case"] == found[k % len(found)]].assign(case=f"c{k:05d}") for k in range(size)]
    return pd.concat(copies, ignore_index=True)


def volumes(folder: Path, size: int) -> Timed:
    from vertfrac import tables
    from vertfrac.cohorts.cache import cache_volumes

    cases = folder / "cohort" / f"cases-{size}.parquet"  # beside the scans, whose paths are relative
    tables.write_table(cases, tables.CASES, named_cases(folder, size, "cases").to_dict("records"))
    return lambda: cache_volumes(cases, folder / f"volumes-{size}.safetensors", spacing_mm=(4.0, 4.0, 4.0))


def read_for_training(folder: Path, size: int) -> Timed:
    import torch

    from vertfrac.training.volumes import VolumeBank

    annotations = named_cases(folder, size, "annotations")
    files, cases = [folder / f"volumes-{size}.safetensors"], set(annotations["case"])
    if not files[0].is_file():  # usually left by the part before
        volumes(folder, size)()
    return lambda: VolumeBank(files, annotations, cases, device=torch.device("cpu"), edge_mm=32.0)


def evaluate(folder: Path, size: int) -> Timed:
    from vertfrac import tables
    from vertfrac.evaluation.run import evaluate as score
    from vertfrac.evaluation.run import summarise

    truth = named_cases(folder, size, "annotations")
    found = truth[["case", "vertebra"]].copy()
    points = tables.keypoints_of(truth) + np.random.default_rng(0).normal(0, 0.7, (len(truth), 6, 3))
    found = found.join(pd.DataFrame([tables.keypoint_values(one) for one in points], index=found.index))
    marks, predictions = folder / f"marks-{size}.csv", folder / f"found-{size}.csv"
    truth.to_csv(marks, index=False)
    found.to_csv(predictions, index=False)

    def run() -> None:
        scored = score(
            marks, [predictions], closeness="butterfly", threshold=0.2, run={"system": "copy", "repeat": 0},
            out=folder / f"scores-{size}", warn=lambda line: None,
        )  # fmt: skip
        summarise(*scored, resamples=1000, seed=0)

    return run


def report(folder: Path, size: int) -> Timed:
    from report import copies

    from vertfrac.report.page import write_report

    copies(folder / "graded", folder / f"report-{size}", size)
    return lambda: write_report(folder / f"report-{size}")


def plan(folder: Path, size: int) -> Timed:
    import yaml

    from workflow import snakemake

    run = folder / f"plan-{size}"
    run.mkdir()
    config = {
        "name": "plan",
        "cohort": {"kind": "phantom", "cases": 100, "seed": 1},
        "folds": {"k": 5, "repeats": size // 5, "seed": 1},
        "systems": ["vertfrac"],
    }
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    return lambda: snakemake(run, "--dry-run", "--quiet", "rules")


PARTS: dict[str, Callable[[Path, int], Timed]] = {
    "scan": scan, "suppress": suppress, "name": name, "volumes": volumes, "read for training": read_for_training,
    "evaluate": evaluate, "report": report, "plan": plan,
}  # fmt: skip


def one(part: str, size: int, folder: Path, repeats: int, results: Any) -> None:
    """Put time and peak memory of one size of one part into the queue."""
    run = PARTS[part](folder, size)
    seconds = []
    start = time.perf_counter()
    while len(seconds) < repeats or time.perf_counter() - start < 0.5:
        before = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - before)
    results.put((len(seconds), statistics.median(seconds), peak_mib(of_child=part == "plan")))


def peak_mib(*, of_child: bool) -> float:
    """Peak memory of this process, or of the largest it has started; the former without what its parent held."""
    if of_child:
        return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**10
    status = Path("/proc/self/status").read_text()  # ru_maxrss starts from the parent's
    return int(re.findall(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)[0]) / 2**10


def power(sizes: np.ndarray, values: np.ndarray) -> float:
    """Slope of log value over log size between the two largest sizes."""
    return float(np.log(values[-1] / values[-2]) / np.log(sizes[-1] / sizes[-2]))


@click.group()
def main() -> None:
    """Measure growth and draw it."""


@main.command()
@click.option("--part", "parts", multiple=True, type=click.Choice(list(SIZES)), default=tuple(SIZES), show_default=True)
@click.option("--repeats", type=click.IntRange(min=1), default=1, show_default=True, help="runs of each size")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="CSV; rows of other parts in it stay")
def measure(parts: tuple[str, ...], repeats: int, out: Path) -> None:
    """Measure all sizes of the named parts."""
    from training import prepare

    from vertfrac.cli import main as vertfrac

    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare(folder, 4)
        if "report" in parts:
            scans = [str(path) for path in sorted((folder / "source/images").iterdir())]
            vertfrac(["predict", *scans, "--out", str(folder / "graded")], standalone_mode=False)
        for part in parts:
            rows = []
            for size in SIZES[part]:
                results = context.Queue()
                process = context.Process(target=one, args=(part, size, folder, repeats, results))
                process.start()
                process.join()
                if process.exitcode != 0:
                    raise click.ClickException(f"{part} {size}: the process ended with {process.exitcode}")
                runs, seconds, peak = results.get()
                unit = UNITS.get(part, "cases")
                rows.append(
                    {"part": part, "unit": unit, "size": size, "runs": runs, "seconds": round(seconds, 6),
                     "peak_mib": round(peak, 1)}
                )  # fmt: skip
                click.echo(json.dumps(rows[-1]))
            table = pd.DataFrame(rows)
            if out.is_file():
                kept = pd.read_csv(out)
                table = pd.concat([kept[kept["part"] != part], table])
            table.to_csv(out, index=False)


@main.command()
@click.argument("table", type=click.Path(path_type=Path, exists=True))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="picture")
def draw(table: Path, out: Path) -> None:
    """Draw a panel per part and print how each grows."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FuncFormatter

    data = pd.read_csv(table)
    parts = [part for part in SIZES if part in set(data["part"])]
    figure, axes = plt.subplots(2, 4, figsize=(11, 5.2), layout="constrained")
    titles = {
        "scan": "Grade a scan", "suppress": "Suppress candidates", "name": "Name a column", "volumes": "Resample cases",
        "read for training": "Read volumes for training", "evaluate": "Evaluate, 1000 resamples",
        "report": "Write the report", "plan": "Plan a run",
    }  # fmt: skip
    plain = FuncFormatter(lambda value, _: f"{value:.3g}")
    summary = []
    for panel, part in zip(axes.flat, parts, strict=False):
        rows = data[data["part"] == part].sort_values("size")
        sizes, seconds = rows["size"].to_numpy(float), rows["seconds"].to_numpy(float)
        panel.loglog(sizes, seconds, "o-", color="#1f4e79", markersize=4)
        linear = seconds[-1] * sizes / sizes[-1]
        panel.loglog(sizes, linear, color="#999999", linestyle=":", zorder=0)
        panel.set_ylim(min(seconds.min(), linear.min()) * 0.7, seconds.max() * 1.4)
        panel.set_title(titles[part], fontsize=10)
        panel.set_xlabel(rows["unit"].iloc[0], fontsize=9)
        panel.set_ylabel("s", fontsize=9)
        panel.set_xticks(sizes)
        panel.set_yticks([seconds[-1], *(seconds[:1] if seconds[-1] > 1.5 * seconds[0] else [])])
        panel.minorticks_off()
        panel.xaxis.set_major_formatter(plain)
        panel.yaxis.set_major_formatter(plain)
        panel.tick_params(labelsize=8)
        panel.spines[["top", "right"]].set_visible(False)
        memory = rows["peak_mib"].to_numpy(float)
        extra = (memory[-1] - memory[0]) / (sizes[-1] - sizes[0])
        panel.text(
            0.04, 0.94, f"{memory[0]:.0f} to {memory[-1]:.0f} MiB", transform=panel.transAxes, fontsize=8, va="top"
        )
        summary.append(
            {"part": part, "smallest_s": seconds[0], "largest_s": seconds[-1], "power": round(power(sizes, seconds), 2),
             "mib_per_unit": round(extra, 3)}
        )  # fmt: skip
    figure.savefig(out, dpi=110, pil_kwargs={"quality": 90})
    click.echo(pd.DataFrame(summary).to_string(index=False))


if __name__ == "__main__":
    main()
