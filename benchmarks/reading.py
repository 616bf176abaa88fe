"""Seconds of reading one scan by several libraries, and the peak memory of what follows before the networks.

    python benchmarks/reading.py chest-ct.nii.gz --runs 5 --out benchmarks/reading-cpu.csv

The scan is repeated along its last axis until it has as many slices as asked for, and zipped again. Ways: to unzip
only, by Python's gzip, isal and, where it is installed, zlib-ng; to get an array, by nibabel and, where it is
installed, SimpleITK; to get a checked image in RAS order, vertfrac. They run in turns, each in a process of its own,
which imports first and is timed from then on. Memory: the peak of one process above that of its imports, after
reading, after the resampling for stage 1 and after straightening with context, of stored HU and of HU with a slope and
an intercept.
"""

from __future__ import annotations

import gzip
import importlib
import importlib.util
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd

SPACING_MM = (4.0, 4.0, 4.0)
SLOPE, INTERCEPT = 2.0, -1024.0


def _drained(stream: Any) -> None:
    with stream:
        while stream.read(1 << 19):
            pass


def by_gzip(path: Path) -> None:
    _drained(gzip.GzipFile(path))


def by_isal(path: Path) -> None:
    from isal import igzip

    _drained(igzip.open(path))


def by_zlib_ng(path: Path) -> None:
    from zlib_ng import gzip_ng

    _drained(gzip_ng.open(path))


def by_nibabel(path: Path) -> None:
    import nibabel

    np.asanyarray(nibabel.load(path).dataobj)


def by_simpleitk(path: Path) -> None:
    import SimpleITK

    SimpleITK.GetArrayViewFromImage(SimpleITK.ReadImage(str(path)))


def by_vertfrac(path: Path) -> None:
    from vertfrac.imaging import read_image

    read_image(path)


WAYS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "unzip: gzip": ("gzip", by_gzip),
    "unzip: isal": ("isal", by_isal),
    "unzip: zlib-ng": ("zlib_ng", by_zlib_ng),
    "array: nibabel": ("nibabel", by_nibabel),
    "array: SimpleITK": ("SimpleITK", by_simpleitk),
    "image: vertfrac": ("vertfrac", by_vertfrac),
}


def prepare(source: Path, slices: int, folder: Path, *, scaled: bool = False) -> Path:
    """The scan with that many slices; scaled: its stored numbers become HU by a slope and an intercept."""
    import nibabel
    from isal import igzip

    image: Any = nibabel.load(source)
    values = np.asanyarray(image.dataobj)
    values = np.asfortranarray(np.take(values, np.arange(slices) % values.shape[2], axis=2))
    made: Any = nibabel.Nifti1Image(values, image.affine)
    if scaled:
        made.header.set_slope_inter(SLOPE, INTERCEPT)
    path = folder / f"{slices}{'-scaled' if scaled else ''}.nii.gz"
    with igzip.open(path, "wb") as stream:
        made.to_stream(stream)
    return path


def peak_mb() -> float:
    """Peak memory of this process so far, of Linux."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


def seconds_of(way: str, path: Path, results: Any) -> None:
    import nibabel

    import vertfrac.imaging

    assert nibabel
    assert vertfrac
    importlib.import_module(WAYS[way][0])
    start = time.perf_counter()
    WAYS[way][1](path)
    results.put(time.perf_counter() - start)


def memory_of(path: Path, results: Any) -> None:
    from vertfrac.cohorts.cache import cached_volume, straight_image
    from vertfrac.geometry.context import context_along
    from vertfrac.geometry.curve import Curve
    from vertfrac.geometry.straighten import StraightSlice
    from vertfrac.imaging import read_image

    before, peaks = peak_mb(), {}
    image = read_image(path)
    peaks["read"] = peak_mb() - before
    cached_volume(image, SPACING_MM)
    peaks["resample"] = peak_mb() - before
    shape = np.array(image.hu.shape)
    ends = image.grid.to_world([[*shape[:2] // 2, shape[2] - 1], [*shape[:2] // 2, 0]])
    curve = Curve(np.linspace(*ends, 20))
    straight_image(image, StraightSlice.along(curve, width_mm=96.0, extend_mm=20.0))
    context_along(image.hu, image.grid, curve)
    peaks["straighten"] = peak_mb() - before
    results.put((str(image.hu.dtype), peaks))


def _apart(target: Callable[..., None], *arguments: Any) -> Any:
    spawn = multiprocessing.get_context("spawn")
    results = spawn.Queue()
    process = spawn.Process(target=target, args=(*arguments, results))
    process.start()
    found = results.get(timeout=300)
    process.join()
    return found


@click.command()
@click.argument("scan", type=click.Path(exists=True, path_type=Path))
@click.option("--slices", multiple=True, type=int, default=(133, 400), show_default=True, help="of the scans to time")
@click.option("--long", "long_slices", default=1000, show_default=True, help="slices of the scan to measure memory on")
@click.option("--runs", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--note", default="", help="the machine in words, and what else it was doing")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="CSV to write")
def main(scan: Path, slices: tuple[int, ...], long_slices: int, runs: int, note: str, out: Path) -> None:
    """Time every way of reading side by side, then measure the memory of a long scan."""
    ways = [way for way, (module, _) in WAYS.items() if importlib.util.find_spec(module)]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        for count in slices:
            path = prepare(scan, count, Path(name))
            found: dict[str, list[float]] = {way: [] for way in ways}
            for _ in range(runs):
                for way in ways:
                    found[way].append(_apart(seconds_of, way, path))
            ours = statistics.median(found["image: vertfrac"])
            for way, seconds in found.items():
                median = round(statistics.median(seconds), 3)
                rows.append({"slices": count, "what": way, "seconds": median, "times_ours": round(median / ours, 2)})
        for scaled in (False, True):
            dtype, peaks = _apart(memory_of, prepare(scan, long_slices, Path(name), scaled=scaled))
            kind = f"{'scaled' if scaled else 'stored'} HU, as {dtype}"
            rows += [{"slices": long_slices, "what": f"{s}: {kind}", "peak_mb": round(mb)} for s, mb in peaks.items()]
    table = pd.DataFrame(rows).assign(runs=runs, note=note)
    click.echo(table.to_string(index=False))
    table.to_csv(out, index=False)


if __name__ == "__main__":
    main()
