"""What two choices save: sampling only the slice's plane, and an index with vectorised areas in the suppression.

    python benchmarks/kernels.py --runs 7 --out benchmarks/kernels-cpu.csv

Straightening: the surface of a slice 96 mm wide along a spine of 450 mm at 1 mm, against the whole straightened volume
of 96 mm depth by the same interpolation, of which the middle plane is kept; on the plane both must agree to the last
bit. Where the package straighten (the papers' own) is installed, its volume is timed too; its frames differ from ours,
so its values are not compared. Suppression: ours by Butterfly-IoU against shapely polygons compared pair by pair, in
the plain greedy loop and with all pairs first; the winners must be the same. Everything runs in this process, on one
thread, in turns; the ratio is that of the medians.
"""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from shapely.geometry import Polygon

from vertfrac.geometry.curve import Curve
from vertfrac.geometry.grid import Grid
from vertfrac.geometry.keypoints import POLYGON_ORDER
from vertfrac.geometry.straighten import StraightSlice, sample
from vertfrac.inference.nms import Detection, suppress

Floats = NDArray[np.float64]
WIDTH_MM = 96
LENGTH_MM = 450.0
SCAN = (400, 400, 560)
VERTEBRA = np.array([[-9, -14], [9, -14], [-8, 0], [8, 0], [-9, 14], [9, 14]], dtype=np.float64)
THRESHOLD = 0.1


def scan() -> tuple[NDArray[np.int16], Grid]:
    """A noisy scan of 400 x 400 x 560 voxels of 0.9 mm, as the reader lays it out in memory."""
    rng = np.random.default_rng(0)
    hu: NDArray[np.int16] = rng.integers(-1000, 1500, SCAN[::-1], dtype=np.int16).transpose()
    return hu, Grid(SCAN, np.diag([0.9, 0.9, 0.9, 1.0]))


def spine() -> Curve:
    """A curve with a kyphosis and a slight scoliosis."""
    z = np.linspace(480.0, 480.0 - LENGTH_MM, 60)
    return Curve(np.column_stack([180 + 8 * np.sin(z / 60), 180 + 25 * np.cos(z / 90), z]))


def straightening() -> dict[str, Callable[[], Any]]:
    """What to time: the plane, the volume, the volume of the package straighten if there is one."""
    hu, grid = scan()
    curve = spine()
    geometry = StraightSlice.along(curve, width_mm=WIDTH_MM)
    offsets = np.arange(WIDTH_MM + 1) - WIDTH_MM / 2

    def plane() -> NDArray[np.float32]:
        return sample(hu, grid, geometry.pixels_world(), outside=-1024.0)

    def volume() -> NDArray[np.float32]:
        rows, columns, depth = np.meshgrid(
            np.arange(geometry.rows), np.arange(geometry.columns), offsets, indexing="ij"
        )
        return sample(hu, grid, geometry.to_world(np.stack([rows, columns, depth], axis=-1)), outside=-1024.0)

    middle = volume()[:, :, WIDTH_MM // 2]
    if not np.array_equal(plane(), middle):
        raise SystemExit("the plane differs from the middle of the volume")
    steps: dict[str, Callable[[], Any]] = {"plane": plane, "volume": volume}
    if importlib.util.find_spec("straighten"):
        from straighten import Interpolator

        def package() -> NDArray[np.float32]:
            points = grid.to_index(curve.evenly(1.0).points_world)
            found = Interpolator(points, 1.0, 0.9).interpolate_along(hu, (WIDTH_MM, WIDTH_MM), fill_value=-1024)
            return np.asarray(found, dtype=np.float32)

        steps["volume by straighten"] = package
    return steps


def candidates(count: int) -> tuple[Floats, Floats, Floats]:
    """Scores, keypoints and anchors of candidates around 20 vertebrae, as a trained detector leaves them."""
    rng = np.random.default_rng(count)
    centers = np.column_stack([25.0 * (1 + rng.integers(0, 20, count)), np.full(count, 48.0)])
    anchors = centers + rng.normal(0, 3, (count, 2))
    keypoints = centers[:, None] + VERTEBRA + rng.normal(0, 1, (count, 6, 2))
    return np.sort(rng.uniform(0.7, 1, count))[::-1], keypoints, anchors


def polygon(points: Floats) -> shapely.Geometry:
    one = Polygon(points[list(POLYGON_ORDER)])
    return one if one.is_valid else shapely.make_valid(one, method="structure", keep_collapsed=False)


def iou(first: shapely.Geometry, second: shapely.Geometry) -> float:
    overlap = first.intersection(second).area
    union = first.area + second.area - overlap
    return overlap / union if union > 0 else 0.0


def greedy(keypoints: Floats) -> list[int]:
    """The best that is left wins, and removes what overlaps it."""
    polygons = [polygon(points) for points in keypoints]
    left, winners = list(range(len(polygons))), []
    while left:
        first, *others = left
        winners.append(first)
        left = [n for n in others if iou(polygons[first], polygons[n]) <= THRESHOLD]
    return winners


def all_pairs(keypoints: Floats) -> list[int]:
    """The same from a matrix of all pairs."""
    polygons = [polygon(points) for points in keypoints]
    near = [[iou(a, b) > THRESHOLD for b in polygons[n + 1 :]] for n, a in enumerate(polygons)]
    alive, winners = [True] * len(polygons), []
    for n, row in enumerate(near):
        if alive[n]:
            winners.append(n)
            for m, overlaps in enumerate(row, start=n + 1):
                alive[m] = alive[m] and not overlaps
    return winners


def suppression(count: int) -> dict[str, Callable[[], Any]]:
    """What to time on as many candidates: ours, and the two plain ways."""
    scores, keypoints, anchors = candidates(count)

    def ours() -> list[Detection]:
        return suppress(scores, keypoints, anchors, overlap="butterfly", threshold=THRESHOLD, average_px=0.0)

    winners = [int(np.flatnonzero(scores == one.score)[0]) for one in ours()]
    if not winners == greedy(keypoints) == all_pairs(keypoints):
        raise SystemExit(f"the winners of {count} candidates differ")
    return {"ours": ours, "greedy": lambda: greedy(keypoints), "all pairs": lambda: all_pairs(keypoints)}


def timed(steps: dict[str, Callable[[], Any]], runs: int) -> dict[str, list[float]]:
    """Seconds of each step, run in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(runs):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - start)
    return seconds


@click.command()
@click.option("--runs", type=click.IntRange(min=1), default=7, show_default=True)
@click.option("--note", default="", help="the machine in words, and what else it was doing")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="CSV to write")
def main(runs: int, note: str, out: Path) -> None:
    """Check that the results are equal, then time them side by side."""
    kernels = {"straightening": straightening(), **{f"suppression of {n}": suppression(n) for n in (50, 200, 1000)}}
    rows = []
    for kernel, steps in kernels.items():
        seconds = {name: statistics.median(values) for name, values in timed(steps, runs).items()}
        fastest = next(iter(seconds.values()))
        rows += [
            {
                "kernel": kernel,
                "way": name,
                "milliseconds": round(1000 * median, 3),
                "times_ours": round(median / fastest, 1),
                "runs": runs,
                "note": note,
            }
            for name, median in seconds.items()
        ]
    table = pd.DataFrame(rows)
    click.echo(table.to_string(index=False))
    table.to_csv(out, index=False)


if __name__ == "__main__":
    main()
