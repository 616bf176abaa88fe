"""What a prediction costs, stage by stage: seconds and memory, in a process of its own and in a warm one.

    make real-ct
    python benchmarks/prediction.py measure --scan results/real/chest-ct.nii.gz --out benchmarks/prediction-cpu.csv
    python benchmarks/prediction.py profile --scan results/real/chest-ct.nii.gz --out docs/images/profile.png

``--threads N`` takes so many CPU threads, ``--device cuda`` a GPU. Without ``--scan`` a phantom is taken, with noise so
that it packs as a CT does. A scan of another number of slices is made from the given one: each slice is repeated three
times, a third as far apart, so that vertebrae keep their height; after its end it goes on with its mirror image, so
that the spine goes on too. A warm process has loaded the model and measured the scan once before. The stages are those
that ``vertfrac predict --verbose`` tells; "start" is what a process of its own takes beside them: imports, the model,
the tables of all scans and the page. Memory is what the process holds, sampled every 5 ms, at its peak; "times_read" is
seconds over those of reading.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import click
import numpy as np
import pandas as pd

ROOT = Path(__file__).parents[1]
STAGES = ("read", "resample", "localize", "straighten", "detect", "measure", "write")
REPEATED = 3
MB = 2**20

Row = dict[str, Any]
Samples = list[tuple[float, float]]


class Memory:
    """Samples of the memory of a process, (seconds of ``time.perf_counter``, MB), taken while the block runs."""

    def __init__(self, pid: int) -> None:
        import psutil

        self.samples: Samples = []
        self._process = psutil.Process(pid)
        self._gone = psutil.Error
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._end.is_set():
            try:
                self.samples.append((time.perf_counter(), self._process.memory_info().rss / MB))
            except self._gone:
                return
            self._end.wait(0.005)


def peaks(samples: Samples, start: float, seconds: dict[str, float]) -> dict[str, float]:
    """The largest sample within each stage, and in the whole; stages follow each other from ``start``."""
    found = {}
    for stage in STAGES:
        end = start + seconds[stage]
        found[stage] = max((mb for at, mb in samples if start <= at <= end), default=float("nan"))
        start = end
    return found


def phantom(folder: Path) -> Path:
    """A CT phantom of our own at the resolution of a chest CT."""
    from scipy.ndimage import zoom

    from vertfrac.geometry.grid import Grid
    from vertfrac.imaging import Image, read_image, write_nifti

    command = [sys.executable, "-m", "vertfrac", "phantom", "--cases", "1", "--out", str(folder / "made")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (path,) = (folder / "made" / "images").iterdir()
    image = read_image(path)
    shape = (512, 512, 133)
    factors = np.array(shape) / image.hu.shape
    hu = zoom(image.hu.astype(np.float32), factors, order=1, grid_mode=True, mode="nearest")
    hu += np.random.default_rng(0).normal(0, 10, shape).astype(np.float32)
    affine = image.grid.world_from_index @ np.diag([*(1 / factors), 1.0])
    write_nifti(folder / "scan.nii.gz", Image(np.rint(hu).astype(np.int16), Grid(shape, affine), "phantom"))
    return folder / "scan.nii.gz"


def lengthened(scan: Path, slices: int, path: Path) -> None:
    """Write a scan of so many slices, made from another one."""
    from vertfrac.geometry.grid import Grid
    from vertfrac.imaging import Image, read_image, write_nifti

    image = read_image(scan)
    deep = image.hu.shape[2]
    index = np.arange(slices)
    affine = image.grid.world_from_index
    if slices != deep:
        affine = affine @ np.diag([1.0, 1.0, 1 / REPEATED, 1.0])
        index = index // REPEATED % (2 * deep)
        index = np.where(index < deep, index, 2 * deep - 1 - index)
    hu = np.ascontiguousarray(image.hu[..., deep - slices :] if slices < deep else image.hu[..., index])
    write_nifti(path, Image(hu, Grid(hu.shape, affine), "benchmark"))


def cold(scan: Path, folder: Path, options: list[str]) -> list[Row]:
    """One scan, measured by ``vertfrac predict`` in a process of its own."""
    command = [sys.executable, "-m", "vertfrac", "predict", str(scan), "--out", str(folder), "--json", *options]
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output, env=os.environ | {"PYTHONPATH": str(ROOT)})
        _, status, usage = os.wait4(process.pid, 0)
        total = time.perf_counter() - start
        output.seek(0)
        if status:
            raise SystemExit(output.read())
        line = json.loads(output.read())
    seconds = line["stages"]
    rows = [{"stage": stage, "seconds": seconds[stage]} for stage in STAGES]
    rows.append({"stage": "start", "seconds": total - sum(seconds.values())})
    return [*rows, {"stage": "total", "seconds": total, "peak_mb": usage.ru_maxrss * 1024 / MB}]


class Repeated:
    """A watcher of ``predict_scans``, which measures one scan again and again; the first time, it warms up.

    begun, ended : are called about each other time.
    """

    def __init__(self, begun: Callable[[], None], ended: Callable[[dict[str, float]], None]) -> None:
        self._begun, self._ended = begun, ended
        self._warm = False

    def begin(self, case: str) -> None:
        if self._warm:
            self._begun()

    def done(self, outcome: Any) -> None:
        if outcome.row["status"] != "ok":
            raise SystemExit(outcome.row["reason"])
        if self._warm:
            self._ended(outcome.seconds)
        self._warm = True

    def run(self, scan: Path, folder: Path, device: str, threads: int, times: int) -> None:
        """Measure the scan once, and then so many times."""
        import torch

        from vertfrac.inference.card import PRETRAINED
        from vertfrac.inference.predict import predict_scans

        torch.set_num_threads(threads)
        predict_scans([scan] * (times + 1), folder, PRETRAINED, device=torch.device(device), watcher=self)


def warm(scan: Path, folder: Path, device: str, threads: int, repeats: int, send: Callable[[list[Row]], None]) -> None:
    """One scan, measured over and over in this process."""
    import torch

    starts: list[float] = []
    runs: list[dict[str, float]] = []
    with Memory(os.getpid()) as memory:
        repeated = Repeated(lambda: starts.append(time.perf_counter()), runs.append)
        repeated.run(scan, folder, device, threads, repeats)
    held = [peaks(memory.samples, start, seconds) for start, seconds in zip(starts, runs, strict=True)]
    rows: list[Row] = [
        {
            "stage": stage,
            "seconds": median(run[stage] for run in runs),
            "slowest": max(run[stage] for run in runs),
            "peak_mb": max(peak[stage] for peak in held),
        }
        for stage in STAGES
    ]
    totals = [sum(run.values()) for run in runs]
    whole: Row = {"stage": "total", "seconds": median(totals), "slowest": max(totals)}
    whole["peak_mb"] = max(row["peak_mb"] for row in rows)
    whole["gpu_mb"] = torch.cuda.max_memory_allocated() / MB if device == "cuda" else None
    send([*rows, whole])


def apart(target: Callable[..., None], *arguments: Any) -> Any:
    """What a function sends, called in a new process: the peak of a process counts what its parent held."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_sending, args=(target, sender, arguments))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        raise SystemExit(1) from None
    finally:
        process.join()


def _sending(target: Callable[..., None], sender: Any, arguments: tuple[Any, ...]) -> None:
    target(*arguments, sender.send)


def _made(scan: Path | None, sizes: tuple[int, ...], folder: Path, send: Callable[[bool], None]) -> None:
    source = scan or phantom(folder)
    for slices in sizes:
        lengthened(source, slices, folder / f"{slices}.nii.gz")
    send(True)


@click.group()
def main() -> None:
    """Seconds and memory of predictions."""


scan_option = click.option("--scan", type=click.Path(path_type=Path, exists=True), help="a CT; default: a phantom")
device_option = click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
threads_option = click.option("--threads", type=int, default=os.cpu_count() or 1, show_default="all")
out_option = click.option("--out", type=click.Path(path_type=Path), required=True)


@main.command()
@scan_option
@click.option("--slices", type=int, multiple=True, default=(133, 400, 1000), show_default=True)
@click.option("--repeats", type=int, default=3, show_default=True, help="of a warm prediction; the median counts")
@device_option
@threads_option
@out_option
def measure(scan: Path | None, slices: tuple[int, ...], repeats: int, device: str, threads: int, out: Path) -> None:
    """Measure, print and write a table."""
    options = ["--device", device, "--threads", str(threads)]
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        apart(_made, scan, slices, folder)
        for size in slices:
            path = folder / f"{size}.nii.gz"
            for mode, found in (
                ("cold", cold(path, folder / "cold", options)),
                ("warm", apart(warm, path, folder / "warm", device, threads, repeats)),
            ):
                read = next(row["seconds"] for row in found if row["stage"] == "read")
                rows += [{"slices": size, "process": mode, **row, "times_read": row["seconds"] / read} for row in found]
    table = pd.DataFrame(rows).reindex(
        columns=["slices", "process", "stage", "seconds", "slowest", "times_read", "peak_mb", "gpu_mb"]
    )
    table = table.round({"seconds": 3, "slowest": 3, "times_read": 2, "peak_mb": 0, "gpu_mb": 0})
    table = table.assign(device=device, threads=threads, machine=platform.machine())
    print(table.to_string(index=False))
    table.to_csv(out, index=False)


@main.command()
@scan_option
@click.option("--slices", type=int, default=400, show_default=True)
@device_option
@threads_option
@click.option("--smallest", type=float, default=0.015, show_default=True, help="share of the whole that is still drawn")
@out_option
def profile(scan: Path | None, slices: int, device: str, threads: int, smallest: float, out: Path) -> None:
    """Draw where a warm prediction spends its time: wall time by call, callers above what they call.

    Of the main thread: what is written beside it, the views of the page, is not seen.
    """
    from pyinstrument import Profiler

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        apart(_made, scan, (slices,), folder)
        profiler = Profiler(interval=0.001)
        repeated = Repeated(profiler.start, lambda _: profiler.stop())
        repeated.run(folder / f"{slices}.nii.gz", folder / "out", device, threads, 1)
    assert profiler.last_session is not None
    root = profiler.last_session.root_frame()
    assert root is not None
    draw(root, smallest, f"One warm prediction of 512 x 512 x {slices} voxels, {device}, {threads} threads", out)


def draw(root: Any, smallest: float, title: str, out: Path) -> None:
    """An icicle of pyinstrument's frames, one box for all calls of one function from another."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    top = next(frame for frame in below(root) if frame.function == "predict_scan")
    boxes = list(lay(top, 0, 0.0, smallest * top.time, ""))
    depth = max(box.level for box in boxes) + 1
    parts = list(dict.fromkeys(box.part for box in sorted(boxes) if box.part))
    figure = Figure(figsize=(12, 0.34 * depth + 0.9), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    for box in boxes:
        colour = f"C{parts.index(box.part) % 10}" if box.part else "#c9d3dd"
        axes.add_patch(Rectangle((box.start, box.level), box.seconds, 0.94, facecolor=colour, alpha=0.45, ec="white"))
        room = int(box.seconds / top.time * 150)  # letters
        text = f"{box.name}  {box.seconds:.2f} s"
        text = text if len(text) <= room else box.name
        if room >= 4:
            shown = text if len(text) <= room else f"{text[: room - 1]}…"
            axes.text(box.start + 0.003 * top.time, box.level + 0.48, shown, size=8, va="center", clip_on=True)
    axes.set(xlim=(0, top.time), ylim=(depth, -0.06), yticks=[], xlabel="seconds, by call, not in the order of time")
    axes.set_title(title, loc="left", size=10)
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)
    FigureCanvasAgg(figure)
    figure.savefig(out)


def below(frame: Any) -> Iterator[Any]:
    """A frame and all that it calls, directly or not."""
    yield frame
    for child in frame.children:
        yield from below(child)


class Box(NamedTuple):
    """One function in the picture; part : the function two levels below the top that it belongs to."""

    level: int
    start: float
    seconds: float
    name: str
    part: str


def lay(frame: Any, level: int, start: float, least: float, part: str) -> Iterator[Box]:
    """The box of a frame and those of what it calls, the longest first."""
    name = frame.function if ours(frame) else gist(frame)
    part = name if level == 1 or (level == 2 and part == "analyse") else part
    yield Box(level, start, frame.time, name, part)
    if ours(frame):
        for child in sorted(called(frame), key=lambda one: -one.time):
            if child.time >= least:
                yield from lay(child, level + 1, start, least, part)
                start += child.time


def ours(frame: Any) -> bool:
    """Whether a frame is a function of vertfrac."""
    here = str(frame.file_path or "").startswith(str(ROOT / "vertfrac"))
    return here and not frame.function.startswith(("<", "["))


def called(frame: Any) -> list[Any]:
    """What a frame calls: functions of vertfrac, also by way of a library, and libraries that call none."""
    found = []
    for child in frame.children:
        within = [one for one in called(child) if ours(one)]
        found += [child] if ours(child) else within or ([] if child.function == "[self]" else [child])
    return found


def gist(frame: Any) -> str:
    """The name of the deepest call that takes much of a frame's time."""
    name = str(frame.function)
    while frame.children and (longest := max(frame.children, key=lambda one: one.time)).time > 0.4 * frame.time:
        frame = longest
        name = name if frame.function.startswith(("<", "[")) else str(frame.function)
    return name.rpartition(".")[2]


if __name__ == "__main__":
    main()
