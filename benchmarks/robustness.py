"""What disturbs ``vertfrac predict``, what it says, what it leaves, and how the next call ends.

    python benchmarks/robustness.py situations --out benchmarks/robustness.csv
    python benchmarks/robustness.py batch --scans 500 --out benchmarks/robustness-batch.csv
    python benchmarks/robustness.py threads SCAN... --out benchmarks/robustness-threads.csv

situations : signals in each stage, full and read-only disks, others in the folder, scans that vanish or are too large,
clocks that are wrong. Each is a process of its own; the scans are small, the networks tiny and untrained but for their
bias. Disks are file systems in memory where this process may mount them, and are left out where it may not.
batch : many scans in one call, and its resident memory after each.
threads : the model of vertfrac on one thread, on two, and twice on two: the largest differences of the tables.
"""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import pandas as pd
from preloaded import ROOT, STAGES, Done, Preloaded, signal_in

GIB = 1 << 30
SYSTEM: dict[str, Any] = {
    "localizer": {
        "input": {"spacing_mm": [4, 4, 4], "scaling": "window", "window_hu": [-500, 1000], "edge_mm": 8},
        "network": {"widths": [2, 3], "limits": "none"},
        "crop_mm": [64, 64, 64],
        "training": {"steps": 2, "batch": 1, "learning_rate": 0.001},
        "inference": {"smooth_mm": 40, "flip": True},
    },
    "detector": {
        "input": {"scaling": "window", "window_hu": [-250, 850]},
        "network": {"kind": "anchor_free", "widths": [2, 3], "output_stride": 2, "mean_offsets": True},
        "crop_mm": [64, 48],
        "straighten": {"width_mm": 64},
        "training": {"steps": 2, "batch": 1, "learning_rate": 0.001},
        "inference": {"score": 0.5, "low_score": 0.25, "average_mm": 2},
    },
}


class Situation(NamedTuple):
    """before : code that runs before the command. scans, out : what is given instead of the usual."""

    name: str
    before: str = ""
    scans: tuple[str, ...] = ("a.nii.gz",)
    out: str = "out"


def make_model(folder: Path) -> Path:
    """A model that sees a vertebra everywhere."""
    import torch

    from vertfrac.config import System
    from vertfrac.inference.weights import build_detector, build_localizer, export_model, save_weights

    system = System.model_validate(SYSTEM)
    localizer, detector = build_localizer(system.localizer.network, 0), build_detector(system.detector.network, 1.0, 0)
    detector.get_buffer("mean_offsets").copy_(torch.tensor([[-9, -13], [9, -13], [-8, 0], [8, 0], [-9, 13], [9, 13]]))
    with torch.no_grad():
        detector.unet.head.weight.zero_()
        detector.unet.head.bias.zero_()
        detector.unet.head.bias[0] = 3.0
    for kind, network, settings in (
        ("localizer", localizer, system.localizer.network),
        ("detector", detector, system.detector.network),
    ):
        save_weights(folder / kind, network, kind=kind, settings=settings.model_dump(mode="json"))
    export_model(
        folder / "model", name="tiny", system=system, slice_spacing_mm=1.0, localizers=[folder / "localizer"],
        detectors=[folder / "detector"], cohort={"cases": 1}, scores=[],
    )  # fmt: skip
    return folder / "model"


def make_scan(path: Path, shape: tuple[int, int, int] = (18, 18, 18)) -> None:
    from vertfrac.geometry.grid import Grid
    from vertfrac.imaging import Image, write_nifti

    x, y, z = 2.0 * np.indices(shape)
    hu = np.rint(40 * np.sin(x / 9) + y + 30 * np.cos(z / 7)).astype(np.int16)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_nifti(path, Image(hu, Grid(shape, np.diag([2.0, 2.0, 2.0, 1.0])), path.name))


def make_huge(path: Path, *, whole: bool) -> None:
    """A NIfTI of 4 GiB that says so: whole, all holes, or its header alone."""
    import nibabel

    header: Any = nibabel.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape((1024, 1024, 2048))
    header.set_zooms((0.5, 0.5, 0.5))
    header.set_sform(np.diag([0.5, 0.5, 0.5, 1.0]), code=1)
    header["magic"], header["vox_offset"] = b"n+1", 352
    with path.open("wb") as file:
        file.write(header.binaryblock + bytes(4))
        if whole:
            file.truncate(352 + 4 * GIB)


@contextmanager
def disk(place: Path, options: str) -> Iterator[bool]:
    """A file system in memory; says whether it could be mounted."""
    place.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
    mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(place)], check=True)


def in_folder(code: str) -> str:
    return f"from pathlib import Path\nout = Path('out')\nout.mkdir()\n{code}\n"


SECOND = f"""
import subprocess, sys
import vertfrac.inference.scan as scan
localize = scan.localize
def localizing(*arguments, **options):
    command = [sys.executable, "-m", "vertfrac", "predict", "b.nii.gz", "--out", "out", "--model", "model"]
    second = subprocess.run(command, capture_output=True, text=True, env={{"PYTHONPATH": {str(ROOT)!r}}})
    print(f"the second call: {{second.returncode}}, {{second.stderr}}", file=sys.stderr)
    return localize(*arguments, **options)
scan.localize = localizing
"""
VANISHING = """
import os
import vertfrac.inference.predict as predict
read = predict.read_image
def reading(path):
    if path.name == "gone.nii.gz":
        os.remove(path)
    return read(path)
predict.read_image = reading
"""
EARLIER = "import time\nnow = time.time\ntime.time = lambda: now() - 1e8\n"
LATER = "import os\nfor name in ('a.nii.gz', 'model', 'model/model.json'):\n    os.utime(name, (4e9, 4e9))\n"


def listed() -> Iterator[Situation]:
    """Every situation but the disks."""
    yield Situation("nothing")
    for name in ("SIGINT", "SIGTERM", "SIGKILL"):
        for stage in STAGES:
            yield Situation(f"{name} in {stage}", signal_in(stage, name))
    yield Situation("OUT is a file", "open('out', 'w').close()\n")
    yield Situation("a file where the scan's folder goes", in_folder("(out / 'a').touch()"))
    yield Situation(
        "another program's folder where the scan's goes", in_folder("(out / 'a').mkdir()\n(out / 'a' / 'x').touch()")
    )
    yield Situation("another program's scans.csv", in_folder("(out / 'scans.csv').write_text('mine')"))
    yield Situation("a folder called report.html", in_folder("(out / 'report.html').mkdir()"))
    yield Situation("a second call into OUT meanwhile", SECOND)
    yield Situation("a scan vanishes before it is read", VANISHING, ("a.nii.gz", "gone.nii.gz", "b.nii.gz"))
    yield Situation("a header of 4 GiB without voxels", scans=("claims.nii",))
    yield Situation("4 GiB of zeros", scans=("zeros.nii",))
    limit = f"import resource\nresource.setrlimit(resource.RLIMIT_AS, ({6 * GIB}, {6 * GIB}))\n"
    yield Situation("4 GiB of zeros and 6 GiB of address space", limit, ("zeros.nii", "a.nii.gz"))
    yield Situation("scan and model from the future", LATER)
    yield Situation("the clock goes back", EARLIER)


def left(out: Path) -> str:
    if not out.is_dir():
        return "a file" if out.exists() else "nothing"
    names = sorted(path.name for path in out.iterdir())
    return " ".join(".writing-..." if name.startswith(".writing-") else name for name in names) or "an empty folder"


def told(done: Done, folder: Path) -> str:
    lines = done.err.replace(f"{folder}/", "").strip().splitlines()
    return " / ".join(" ".join(line.split()) for line in lines)


@click.group()
def main() -> None:
    """Disturb vertfrac."""


@main.command()
@click.option("--out", "table", type=click.Path(path_type=Path), required=True)
def situations(table: Path) -> None:
    """Try every situation, and the same call again where nothing disturbs it."""
    rows = []
    with tempfile.TemporaryDirectory() as temporary, Preloaded() as vertfrac:
        folder = Path(temporary)
        make_model(folder)
        for name in ("a", "b", "gone"):
            make_scan(folder / f"{name}.nii.gz")
        make_huge(folder / "claims.nii", whole=False)
        make_huge(folder / "zeros.nii", whole=True)
        (folder / "spare").write_bytes((folder / "gone.nii.gz").read_bytes())

        def call(one: Situation, before: str) -> Done:
            arguments = ["predict", *one.scans, "--out", one.out, "--model", "model", "--device", "cpu"]
            return vertfrac.call(*arguments, "--threads", 1, "--quiet", before=before, folder=folder)

        def tried(one: Situation, mend: tuple[str, ...] = ()) -> None:
            done = call(one, one.before)
            row = {"situation": one.name, "exit_code": done.code, "message": told(done, folder)}
            row["left"] = left(folder / one.out)
            shutil.copy(folder / "spare", folder / "gone.nii.gz")
            if mend:
                subprocess.run(mend, check=True)
            row["next_call"] = call(one, "").code
            row["left_then"] = left(folder / one.out)
            click.echo(row)
            rows.append(row)
            out = folder / one.out
            shutil.rmtree(out) if out.is_dir() else out.unlink(missing_ok=True)

        for one in listed():
            tried(one)
        for size in ("8k", "100k", "280k", "400k"):
            with disk(folder / "disk", f"size={size}") as mounted:
                if mounted:
                    more = ("mount", "-o", "remount,size=9m", str(folder / "disk"))
                    tried(Situation(f"a disk of {size}B; then 9 MB", out="disk/out"), more)
        with disk(folder / "disk", "size=9m,ro") as mounted:
            if mounted:
                more = ("mount", "-o", "remount,rw", str(folder / "disk"))
                tried(Situation("a read-only disk; then a writable one", out="disk/out"), more)
    pd.DataFrame(rows).to_csv(table, index=False)


@main.command()
@click.option("--scans", type=int, default=500, show_default=True)
@click.option("--out", "table", type=click.Path(path_type=Path), required=True)
def batch(scans: int, table: Path) -> None:
    """Measure many scans in one call; resident memory after every fifty."""
    import psutil
    import torch

    from vertfrac.inference.predict import predict_scans

    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    process = psutil.Process()

    def tell(line: str) -> None:
        assert "failed" not in line, line
        number = len(seen) + 1
        seen.append(number)
        if number in (1, 10) or number % 50 == 0 or number == scans:
            info = process.memory_info()
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            rows.append(
                {"scan": number, "resident_mb": info.rss / 2**20, "peak_mb": peak, "open_files": process.num_fds()}
            )
            click.echo(rows[-1])

    seen: list[int] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = make_model(folder)
        paths = [folder / "scans" / f"{number:04d}.nii" for number in range(1, scans + 1)]
        make_scan(paths[0])
        for path in paths[1:]:
            path.write_bytes(paths[0].read_bytes())
        predict_scans(paths, folder / "out", model, device=torch.device("cpu"), tell=tell)
    info = process.memory_info()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rows.append({"scan": "after the report", "resident_mb": info.rss / 2**20, "peak_mb": peak})
    click.echo(rows[-1])
    pd.DataFrame(rows).round(1).to_csv(table, index=False)


@main.command()
@click.argument("scans", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", "table", type=click.Path(path_type=Path), required=True)
def threads(scans: tuple[Path, ...], table: Path) -> None:
    """Compare the tables of one thread and of two."""
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        calls = {"one": 1, "two": 2, "two again": 2}
        for name, number in calls.items():
            arguments = ["predict", *map(str, scans), "--out", str(Path(temporary, name)), "--threads", str(number)]
            command = [sys.executable, "-m", "vertfrac", *arguments, "--device", "cpu", "--quiet"]
            subprocess.run(command, check=True)
        for first, second in (("two", "two again"), ("one", "two")):
            one, two = (pd.read_parquet(Path(temporary, name, "vertebrae.parquet")) for name in (first, second))
            row: dict[str, Any] = {"calls": f"{first}, {second}", "scans": len(scans), "vertebrae": len(one)}
            same = [Path(temporary, name, "vertebrae.parquet").read_bytes() for name in (first, second)]
            row["same_bytes"] = same[0] == same[1]
            texts = one.select_dtypes(exclude="float").columns
            row["same_levels_statuses_grades"] = one[texts].equals(two[texts])
            if len(one) == len(two):
                far = (one.select_dtypes("float") - two.select_dtypes("float")).abs()
                points = [column for column in far if column.endswith(("_x", "_y", "_z"))]
                row["keypoints_mm"] = far[points].max().max()
                row["heights_mm"] = far.filter(regex="^height_").max().max()
                row["genant"], row["score"] = far["genant"].max(), far["score"].max()
            click.echo(row)
            rows.append(row)
    pd.DataFrame(rows).to_csv(table, index=False)


if __name__ == "__main__":
    main()
