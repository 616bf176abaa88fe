"""The command line: ``vertfrac predict`` and ``vertfrac phantom`` for people, one subcommand per step of the workflow.

Heavy libraries are imported inside the commands that need them, so that ``vertfrac --help`` answers at once.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from vertfrac import __version__
from vertfrac.errors import VertfracError

if TYPE_CHECKING:
    import torch

    from vertfrac.config import Detector, Localizer, Section
    from vertfrac.evaluation.experts import Reference
    from vertfrac.models.device import Device

F = TypeVar("F", bound=Callable[..., Any])


class _Commands(click.Group):
    """Prints a VertfracError, or what the operating system refused, as one line and exits with 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except VertfracError as error:
            click.echo(f"vertfrac: {' '.join(str(error).split())}", err=True)
            ctx.exit(1)
        except OSError as error:
            click.echo(f"vertfrac: {error.filename or 'file system'}: {error.strerror or error}", err=True)
            ctx.exit(1)


class _Shard(click.ParamType):  # type: ignore[type-arg]  # generic in new releases of click only
    name = "k/n"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        try:
            number, count = (int(part) for part in str(value).split("/"))
        except ValueError:
            self.fail(f"{value!r} is not k/n, such as 0/4", param, ctx)
        if not 0 <= number < count:
            self.fail(f"{value!r}: expected 0 <= k < n", param, ctx)
        return number, count


PATH = click.Path(path_type=Path)


def _path(name: str, help: str, *, many: bool = False, **more: Any) -> Callable[[F], F]:
    return click.option(f"--{name}", type=PATH, required=True, multiple=many, help=help, **more)


def _settings(name: str = "settings") -> Callable[[F], F]:
    return click.option(f"--{name}", required=True, help="section of the configuration, as JSON")


_shard = click.option("--shard", type=_Shard(), default=(0, 1), help="do the cases k, k+n, ... only", metavar="K/N")
_device = click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
_threads = click.option("--threads", type=click.IntRange(min=1), help="CPU threads; default: all cores")
_system = click.option("--system", required=True, help="name of the system")
_repeat = click.option("--repeat", type=click.IntRange(min=0), default=0)
_fold = click.option("--fold", type=click.IntRange(min=0), required=True)


def _section(kind: type[Section], text: str) -> Any:
    from vertfrac.config import parse_json

    return parse_json(kind, text, "--settings")


def _compute_on(device: Device, threads: int | None) -> torch.device:
    """Where a command computes: a GPU, which no other process uses from then on, or so many threads of the CPU.

    Comes first, since a job that was promised a GPU shall fail at once where there is none (ModelError), and since CUDA
    sees only what is visible when it starts.
    """
    import torch

    from vertfrac.gpu import lease
    from vertfrac.models.device import pick_device

    if threads is not None:
        torch.set_num_threads(threads)
    if device != "cpu" and torch.version.cuda:
        lease(lambda line: click.echo(line, err=True))
    return pick_device(device)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="vertfrac")
def main() -> None:
    """Measure vertebral heights in CT and grade compression fractures by the Genant index."""
    if caller := os.environ.get(CALLER):
        threading.Thread(target=_end_with, args=(int(caller),), daemon=True).start()


CALLER = "VERTFRAC_CALLER"
"""Environment variable: the process that waits for a command's result."""


def _end_with(caller: int) -> None:
    """End this process at most a second after its caller, which was killed: nothing may write what nobody waits for."""
    with suppress(PermissionError):  # somebody else's process is not the caller
        while True:
            try:
                os.kill(caller, 0)
            except ProcessLookupError:
                click.echo(f"vertfrac: process {caller}, which called this command, is gone", err=True)
                os._exit(1)
            time.sleep(1)


@main.command()
@click.argument("scans", nargs=-1, required=True, type=PATH, metavar="SCAN...")
@click.option("--out", type=PATH, required=True, help="folder for the results, one sub-folder per scan")
@click.option("--model", type=PATH, help="folder of a trained model; default: the one in vertfrac/pretrained, if any")
@_device
@_threads
def predict(scans: tuple[Path, ...], out: Path, model: Path | None, device: Device, threads: int | None) -> None:
    """Grade the vertebrae of CT scans: NIfTI files (.nii, .nii.gz) or DICOM folders.

    Each scan gets a folder in OUT with vertebrae.parquet, vertebrae.csv, curve.parquet, scan.json, views.json and
    overlay.png; OUT/scans.parquet and OUT/scans.csv list all scans, failed ones with the reason; OUT/report.html shows
    them all, to be checked, corrected and printed. Exits with 1 if any scan failed.
    """
    from vertfrac.inference.card import PRETRAINED

    if model is None and not PRETRAINED.is_dir():
        raise click.UsageError("no model comes with this version of vertfrac, name one by --model")
    chosen = _compute_on(device, threads)
    from vertfrac.inference.predict import predict_scans

    if not predict_scans(
        scans, out, model or PRETRAINED, device=chosen, tell=click.echo, warn=lambda line: click.echo(line, err=True)
    ):
        sys.exit(1)


@main.command()
@click.argument("out", type=PATH)
def report(out: Path) -> None:
    """Write OUT/report.html again, from the results that vertfrac predict left in OUT; no scan is read."""
    from vertfrac.report.page import write_report

    click.echo(f"Page: {write_report(out)}")


@main.command()
@click.option("--cases", type=int, required=True, help="number of phantoms of the whole cohort")
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--out", type=PATH, required=True, help="folder for images and annotations")
@click.option(
    "--layout", type=click.Choice(["nifti", "lungcancer500", "lungcancer500-2020", "verse", "verse-flat"]),
    default="nifti", show_default=True, help="tables and NIfTI files, or files like those of a public cohort",
)  # fmt: skip
@click.option(
    "--labels", is_flag=True, help="nifti: vertebra masks and parts too; verse: body and arch beside the masks"
)
@click.option("--keypoints", is_flag=True, help="verse: the exact keypoints too, which go before the masks")
@click.option(
    "--difficulty", type=click.Choice(["usual", "full"]), default="usual", show_default=True,
    help="full: with all that is rare in patients",
)  # fmt: skip
@click.option(
    "--without", multiple=True, metavar="INGREDIENT",
    help="leave out one of docs/cohorts/phantom.md, such as arches or noise; can be repeated",
)  # fmt: skip
@click.option(
    "--like", type=PATH,
    help="grow them around annotations of patients: a table, or a folder of LungCancer-500 JSON files",
)  # fmt: skip
@click.option(
    "--like-spacing", nargs=3, type=float, default=(0.7, 0.7, 0.8), show_default=True,
    help="distance of rows, columns and slices (mm) in such a folder",
)  # fmt: skip
@_shard
def phantom(
    cases: int,
    seed: int,
    out: Path,
    layout: str,
    labels: bool,
    keypoints: bool,
    difficulty: str,
    without: tuple[str, ...],
    like: Path | None,
    like_spacing: tuple[float, float, float],
    shard: tuple[int, int],
) -> None:
    """Make CT phantoms with exact six-keypoint annotations, laid out as a cohort of one of the kinds."""
    kind = layout.split("-")[0]
    if labels and kind == "lungcancer500":
        raise click.UsageError(f"--labels goes with --layout nifti or verse, found {layout}")
    if keypoints and kind != "verse":
        raise click.UsageError(f"--keypoints goes with --layout verse, found {layout}")
    from vertfrac.cohorts.phantom.generate import Made
    from vertfrac.cohorts.phantom.ingredients import choose
    from vertfrac.cohorts.phantom.template import read_templates

    made: Made = {
        "cases": cases,
        "seed": seed,
        "shard": shard,
        "ingredients": choose(difficulty, without),
        "templates": read_templates(like, like_spacing) if like else (),
    }
    if kind == "nifti":
        from vertfrac.cohorts.phantom import write_phantoms

        write_phantoms(out, **made, labels=labels)
    elif kind == "verse":
        from vertfrac.cohorts.phantom.verse import write_verse

        flat = layout == "verse-flat"
        write_verse(out, **made, flat=flat, subregions=labels, keypoints=keypoints)
    else:
        from vertfrac.cohorts.phantom.lungcancer500 import write_lungcancer500

        write_lungcancer500(out, **made, year=2020 if layout == "lungcancer500-2020" else 2022)


@main.command()
@_path("images", "folder with DICOM files, in any layout")
@_path("out", "table of series to write")
@click.option("--threads", type=click.IntRange(min=1), default=8, show_default=True, help="headers read at a time")
def index(images: Path, out: Path, threads: int) -> None:
    """List which DICOM file of a folder, and of those below it, belongs to which series."""
    from vertfrac import tables
    from vertfrac.cohorts.series_index import index_series

    table = tables.write_table(out, tables.SERIES, index_series(images, threads=threads))
    unreadable = table.loc[table["reason"] != "", "path"]
    first = f", the first {unreadable.iloc[0]}" if len(unreadable) else ""
    click.echo(
        f"{len(table) - len(unreadable)} DICOM files of {table['series'].nunique()} series; "
        f"{len(unreadable)} other files{first}"
    )


@main.command("keypoints-from-mask")
@click.argument("mask", type=PATH)
@_path("out", "folder for vertebrae.parquet, vertebrae.csv and overlay.png")
@click.option("--subregions", type=PATH, help="mask of the vertebrae's parts on the same grid: 49 and 50 are the body")
@click.option("--scan", type=PATH, help="the CT on the same grid, to be drawn instead of the mask")
def keypoints_from_mask(mask: Path, out: Path, subregions: Path | None, scan: Path | None) -> None:
    """Put the six keypoints on every vertebra of a mask (NIfTI, VerSe numbering), measure and grade it.

    Prints one line per vertebra. C1, C2 and the sacrum are not measured; a body that the image cuts gets no answer.
    """
    from vertfrac.cohorts.from_mask.command import keypoints_from_mask as run

    run(mask, out, subregions=subregions, scan=scan, tell=click.echo)


@main.command()
@click.option("--cohort", required=True, help="section cohort of the configuration, as JSON")
@click.option("--index", type=PATH, help="table of series of a lungcancer500 cohort; default: made for this call")
@_path("out", "folder for the canonical images and tables")
@click.option("--shard", type=_Shard(), default=(0, 1), help="do one of n parts of the cases, by name", metavar="K/N")
def ingest(cohort: str, index: Path | None, out: Path, shard: tuple[int, int]) -> None:
    """Bring scans and annotations into the canonical form."""
    from vertfrac.cohorts.ingest import ingest as run
    from vertfrac.cohorts.sources import in_shard, list_scans
    from vertfrac.config import parse_cohort

    settings = parse_cohort(cohort, "--cohort").model_dump(mode="json")
    if index is not None:
        if settings["kind"] != "lungcancer500":
            raise click.UsageError(f"--index is for cohorts of kind lungcancer500, found {settings['kind']}")
        settings["index"] = str(index)
    scans = list_scans(settings.pop("kind"), settings)
    cases = run([scan for scan in scans if in_shard(scan.case, shard)], out)
    for case, reason in cases.loc[cases["status"] != "ok", ["case", "reason"]].itertuples(index=False):
        click.echo(f"{case}: {reason}", err=True)
    click.echo(f"{(cases['status'] == 'ok').sum()} of {len(cases)} cases usable")


@main.group("cohort")
def cohort_commands() -> None:
    """Look at a cohort before anything is trained on it."""


@cohort_commands.command("check")
@click.argument("config", type=PATH, metavar="CONFIG")
@click.option("--out", type=PATH, help="folder for check.parquet and index.html; default: results/NAME/check")
@click.option("--transfer", "other", metavar="NAME", help="check this cohort of the section transfer instead")
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="cases read at the same time")
def cohort_check(config: Path, out: Path | None, other: str | None, jobs: int) -> None:
    """Check every case of the cohort of a run's configuration, and draw each annotation on its image.

    Prints what was found of each case and writes it as a table (check.parquet) and as a page that needs no network
    (index.html), problems first. Exits with 0 if every case is ok, or excluded because it holds nothing to train on;
    with 1 if one failed or is suspect (image and annotation seem not to fit), or if none at all is usable.
    """
    from vertfrac.config import read_yaml, resolve
    from vertfrac.errors import ConfigError
    from vertfrac.report.cohort_check import as_text, check_cohort

    run = resolve(read_yaml(config), config.parent, str(config))
    if other is not None and other not in run.transfer:
        raise ConfigError(f"{config}: no transfer.{other}, expected one of {', '.join(run.transfer) or 'none at all'}")
    settings = (run.cohort if other is None else run.transfer[other].cohort).model_dump(mode="json")
    out = out or Path("results", run.name, "check", *([other] if other else []))
    with click.progressbar(length=0, label="cases", file=sys.stderr, show_pos=True) as bar:

        def start(cases: int) -> None:
            bar.length = cases

        heading = f"Cohort {run.name}" + (f", transfer to {other}" if other else "")
        table, others = check_cohort(
            settings.pop("kind"), settings, out, heading=heading, jobs=jobs, progress=bar.update, start=start
        )
    click.echo(as_text(table, others))
    click.echo(f"Table: {out / 'check.parquet'}\nPage:  {out / 'index.html'}")
    if table["status"].isin(["failed", "suspect"]).any() or not (table["status"] == "ok").any():
        sys.exit(1)


@cohort_commands.command("schema")
def cohort_schema() -> None:
    """Print the JSON schema of our own annotation files."""
    import json

    from vertfrac.cohorts.annotation_json import json_schema

    click.echo(json.dumps(json_schema(), indent=2))


@main.group("archive")
def archive_commands() -> None:
    """Measure many scans in shards: the steps of workflow/archive.smk."""


@archive_commands.command("list")
@_path("scans", "folder of scans, or a table of them")
@click.option("--shards", type=click.IntRange(min=1), required=True, help="parts of the archive")
@_path("out", "list to write")
def archive_list(scans: Path, shards: int, out: Path) -> None:
    """List the scans of an archive, each with its shard."""
    from vertfrac.cohorts.archive import list_archive

    click.echo(f"{len(list_archive(scans, out, shards=shards))} scans")


@archive_commands.command("measure")
@_path("listing", "list of the archive's scans")
@click.option("--shard", type=_Shard(), required=True, help="its number, from 0, of how many", metavar="K/N")
@_path("model", "folder of a trained model")
@_path("out", "folder of the results")
@_path("done", "JSON file of counts to write when the shard is up to date")
@click.option("--pictures", is_flag=True, help="a folder per scan too, as predict writes it")
@click.option("--retry", is_flag=True, help="compute scans that failed again")
@_device
@_threads
def archive_measure(
    listing: Path,
    shard: tuple[int, int],
    model: Path,
    out: Path,
    done: Path,
    pictures: bool,
    retry: bool,
    device: Device,
    threads: int | None,
) -> None:
    """Bring one shard up to date. Scans that fail have a row with the reason; the exit code is 0."""
    from vertfrac.files import write_json
    from vertfrac.inference.archive import measure_shard

    counts = measure_shard(
        listing, out, model,
        shard=shard, pictures=pictures, retry=retry, compute_on=lambda: _compute_on(device, threads), warn=click.echo,
    )  # fmt: skip
    write_json(done, counts)
    click.echo(", ".join(f"{number} {name}" for name, number in counts.items()))


@archive_commands.command("summary")
@_path("listing", "list of the archive's scans")
@_path("out", "folder of the results")
def archive_summary(listing: Path, out: Path) -> None:
    """Count the scans of all shards by status, worst grade and reason."""
    from vertfrac.inference.archive import summarise

    click.echo(summarise(listing, out), nl=False)


@main.command()
@_path("shards", "folder of an ingested shard", many=True)
@_path("out", "folder for cases.parquet and annotations.parquet")
def merge(shards: tuple[Path, ...], out: Path) -> None:
    """Join the tables of all ingested shards."""
    from vertfrac.cohorts.ingest import merge as run

    run(shards, out)


@main.command()
@_path("cases", "table of cases")
@_settings()
@_repeat
@_path("out", "table of folds")
def folds(cases: Path, settings: str, repeat: int, out: Path) -> None:
    """Split the patients into the folds of one repeat."""
    from vertfrac import tables
    from vertfrac.cohorts.folds import published_split, split
    from vertfrac.config import Folds

    s: Folds = _section(Folds, settings)
    table = tables.read_table(cases, tables.CASES)
    rows = (
        split(table, k=s.k, repeat=repeat, seed=s.seed)
        if s.split == "random"
        else published_split(table, held_out=s.held_out)
    )
    tables.write_table(out, tables.FOLDS, rows)


@main.command()
@_path("cases", "table of cases")
@click.option("--spacing", nargs=3, type=float, required=True, help="voxel size in x, y and z, mm")
@_path("out", "file of volumes")
def resample(cases: Path, spacing: tuple[float, float, float], out: Path) -> None:
    """Resample the scans for stage 1."""
    from vertfrac.cohorts.cache import cache_volumes

    click.echo(f"{cache_volumes(cases, out, spacing_mm=spacing)} volumes")


@main.command()
@_path("cases", "table of cases")
@_path("annotations", "table of annotations")
@_settings()
@_path("out", "file of slices")
def slices(cases: Path, annotations: Path, settings: str, out: Path) -> None:
    """Cut the training slices along the annotated curves."""
    from vertfrac.cohorts.cache import cache_slices
    from vertfrac.config import Slices

    s: Slices = _section(Slices, settings)
    click.echo(f"{cache_slices(cases, annotations, out, **s.model_dump())} slices")


@contextmanager
def _training_folder(work: Path, step: str, settings: str, *files: Path) -> Iterator[Path]:
    """The sub-folder for just this code, these settings and these data, so that a changed run never resumes another.

    Nobody else trains in ``work`` meanwhile. The checkpoint goes once all is done.
    """
    import hashlib

    from vertfrac.provenance import provenance
    from vertfrac.training.fit import CHECKPOINT, alone

    digest = hashlib.sha256(f"{provenance(step)} {settings}".encode())
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    folder = work / digest.hexdigest()[:16]
    with alone(work):
        yield folder
        (folder / CHECKPOINT).unlink(missing_ok=True)


def trained_with(stage: Localizer | Detector) -> dict[str, Any]:
    """What the training of either stage takes from its settings."""
    from vertfrac.training.fit import FitSettings

    training = stage.training
    return {
        "scaling": stage.input.scaling,
        "window_hu": stage.input.window_hu,
        **stage.loss.model_dump(),
        "crop_mm": stage.crop_mm,
        "batch": training.batch,
        **stage.augmentation.model_dump(),
        "settings": FitSettings(
            steps=training.steps,
            learning_rate=training.learning_rate,
            weight_decay=training.weight_decay,
            schedule=training.schedule.kind,
            warmup=training.schedule.warmup,
            milestones=training.schedule.milestones,
            checkpoint_every=training.checkpoint_every,
            seed=training.seed,
            average_decay=training.average_decay,
            mixed_precision=training.mixed_precision,
        ),
    }


@main.command("train-localizer")
@_path("volumes", "file of volumes", many=True)
@_path("annotations", "table of annotations")
@_path("folds", "table of folds")
@_repeat
@_fold
@_settings()
@_path("work", "folder for checkpoints and logs; a stopped run goes on from there")
@_path("out", "file for the weights")
@_device
@_threads
def train_localizer(
    volumes: tuple[Path, ...],
    annotations: Path,
    folds: Path,
    repeat: int,
    fold: int,
    settings: str,
    work: Path,
    out: Path,
    device: Device,
    threads: int | None,
) -> None:
    """Train stage 1 on the cases that a fold does not hold out."""
    chosen = _compute_on(device, threads)
    from vertfrac import tables
    from vertfrac.cohorts.folds import training_cases
    from vertfrac.config import Localizer
    from vertfrac.inference.weights import build_localizer, save_weights
    from vertfrac.training.localizer import train_localizer as run

    s: Localizer = _section(Localizer, settings)
    with _training_folder(
        work, "cli.train_localizer", f"{settings} r{repeat}f{fold}", annotations, folds, *volumes
    ) as folder:
        network = run(
            build_localizer(s.network, s.training.seed),
            volumes,
            tables.read_table(annotations, tables.ANNOTATIONS),
            training_cases(tables.read_table(folds, tables.FOLDS), repeat, fold),
            edge_mm=s.input.edge_mm,
            **trained_with(s),
            work=folder,
            device=chosen,
        )
        save_weights(out, network, kind="localizer", settings=s.network.model_dump(mode="json"))


@main.command("train-detector")
@_path("slices", "file of slices", many=True)
@_path("folds", "table of folds")
@_repeat
@_fold
@_settings()
@click.option("--spacing", type=float, required=True, help="pixel size of the slices, mm")
@_path("work", "folder for checkpoints and logs; a stopped run goes on from there")
@_path("out", "file for the weights")
@_device
@_threads
def train_detector(
    slices: tuple[Path, ...],
    folds: Path,
    repeat: int,
    fold: int,
    settings: str,
    spacing: float,
    work: Path,
    out: Path,
    device: Device,
    threads: int | None,
) -> None:
    """Train stage 2 on the cases that a fold does not hold out."""
    chosen = _compute_on(device, threads)
    from vertfrac import tables
    from vertfrac.cohorts.folds import training_cases
    from vertfrac.config import Detector
    from vertfrac.inference.weights import build_detector, save_weights
    from vertfrac.training.detector import train_detector as run

    s: Detector = _section(Detector, settings)
    with _training_folder(work, "cli.train_detector", f"{settings} r{repeat}f{fold}", folds, *slices) as folder:
        network = run(
            build_detector(s.network, spacing, s.training.seed),
            slices,
            training_cases(tables.read_table(folds, tables.FOLDS), repeat, fold),
            spacing_mm=spacing,
            **trained_with(s),
            work=folder,
            device=chosen,
        )
        save_weights(out, network, kind="detector", settings=s.network.model_dump(mode="json"))


@main.command()
@_path("volumes", "file of volumes", many=True)
@_path("folds", "table of folds")
@_repeat
@_fold
@_settings()
@_path("weights", "weights of stage 1")
@_path("curves", "table of predicted curves to write")
@_path("statuses", "table of case statuses to write")
@_device
@_threads
def curves(
    volumes: tuple[Path, ...],
    folds: Path,
    repeat: int,
    fold: int,
    settings: str,
    weights: Path,
    curves: Path,
    statuses: Path,
    device: Device,
    threads: int | None,
) -> None:
    """Predict the curves of a fold's held-out cases."""
    chosen = _compute_on(device, threads)
    from vertfrac import tables
    from vertfrac.cohorts.folds import held_out_cases
    from vertfrac.config import Localizer
    from vertfrac.inference.held_out import predict_curves

    predict_curves(
        volumes,
        held_out_cases(tables.read_table(folds, tables.FOLDS), repeat, fold),
        weights,
        _section(Localizer, settings),
        curves=curves,
        statuses=statuses,
        device=chosen,
    )


@main.command()
@_path("cases", "table of cases")
@_path("curves", "table of predicted curves")
@click.option("--spacing", type=float, required=True, help="pixel size, mm")
@click.option("--width", type=float, required=True, help="width of the slices, mm")
@click.option("--extend", type=float, default=0.0, help="how far a slice goes on beyond its curve, mm")
@_path("out", "file of held-out slices")
def straighten(cases: Path, curves: Path, spacing: float, width: float, extend: float, out: Path) -> None:
    """Cut the straightened slices of held-out cases along their predicted curves."""
    from vertfrac.inference.held_out import cut_slices

    click.echo(f"{cut_slices(cases, curves, out, spacing_mm=spacing, width_mm=width, extend_mm=extend)} slices")


@main.command()
@_path("cases", "table of cases")
@_path("localizers", "weights of stage 1", many=True)
@_path("detectors", "weights of stage 2", many=True)
@_settings()
@click.option("--spacing", type=float, required=True, help="pixel size of the slices, mm")
@_system
@_path("vertebrae", "table of vertebrae to write")
@_path("curves", "table of predicted curves to write")
@_path("statuses", "table of case statuses to write")
@_device
@_threads
def transfer(
    cases: Path,
    localizers: tuple[Path, ...],
    detectors: tuple[Path, ...],
    settings: str,
    spacing: float,
    system: str,
    vertebrae: Path,
    curves: Path,
    statuses: Path,
    device: Device,
    threads: int | None,
) -> None:
    """Measure the cases of a cohort with a system that was trained on another one, all its folds together."""
    chosen = _compute_on(device, threads)
    from vertfrac.config import System
    from vertfrac.inference.transfer import predict_cohort
    from vertfrac.inference.weights import assemble

    predict_cohort(
        assemble(system, _section(System, settings), spacing, localizers, detectors, chosen),
        cases,
        run={"system": system, "repeat": 0},
        vertebrae=vertebrae,
        curves=curves,
        statuses=statuses,
    )


@main.command()
@_path("slices", "file of held-out slices")
@_path("weights", "weights of stage 2")
@_settings()
@_settings("inference")
@click.option("--spacing", type=float, required=True, help="pixel size of the slices, mm")
@_system
@_repeat
@_fold
@_path("out", "table of vertebrae")
@_device
@_threads
def detect(
    slices: Path,
    weights: Path,
    settings: str,
    inference: str,
    spacing: float,
    system: str,
    repeat: int,
    fold: int,
    out: Path,
    device: Device,
    threads: int | None,
) -> None:
    """Detect, suppress and measure the vertebrae of held-out slices."""
    chosen = _compute_on(device, threads)
    from vertfrac.config import Detector, DetectorInference
    from vertfrac.inference.held_out import detect_vertebrae

    detect_vertebrae(
        slices,
        weights,
        _section(Detector, settings),
        _section(DetectorInference, inference),
        spacing_mm=spacing,
        run={"system": system, "repeat": repeat, "fold": fold},
        out=out,
        device=chosen,
    )


def _matching(evaluation: Any) -> dict[str, Any]:
    """What decides a match, and the limit that belongs to it."""
    distance = evaluation.closeness == "distance"
    limit = evaluation.match_distance_mm if distance else evaluation.match_iou
    return {"closeness": evaluation.closeness, "threshold": limit}


_evaluation = click.option("--settings", default="{}", help="section evaluation of the configuration, as JSON")


@main.command()
@_path("annotations", "table of annotations, Parquet or CSV")
@_path("predictions", "table of predictions, Parquet or CSV; with --folds one per fold, in fold order", many=True)
@click.option("--folds", type=PATH, help="table of folds; default: all annotated cases at once")
@click.option("--cases", type=PATH, help="table of cases, for the patients where there are no folds")
@click.option("--curves", type=PATH, multiple=True, help="table of predicted curves, one per table of predictions")
@click.option("--statuses", type=PATH, multiple=True, help="table of case statuses, one per table of predictions")
@_evaluation
@click.option("--system", default="foreign", show_default=True, help="name of the system")
@_repeat
@_path("out", "folder for matches.parquet, curve_errors.parquet and metrics.parquet")
def evaluate(
    annotations: Path,
    predictions: tuple[Path, ...],
    folds: Path | None,
    cases: Path | None,
    curves: tuple[Path, ...],
    statuses: tuple[Path, ...],
    settings: str,
    system: str,
    repeat: int,
    out: Path,
) -> None:
    """Score the predictions of one system and repeat against annotations, whoever made them.

    Predictions need the columns case and the 18 keypoint coordinates (world RAS, mm), optionally vertebra, score and
    status; see docs/tables.md. Prints the headline metrics with their 95 % intervals.
    """
    from vertfrac.config import Evaluation
    from vertfrac.evaluation.run import evaluate as run
    from vertfrac.evaluation.run import headline, summarise

    s: Evaluation = _section(Evaluation, settings)
    scored = run(
        annotations,
        predictions,
        folds=folds,
        cases=cases,
        curves=curves,
        statuses=statuses,
        **_matching(s),
        run={"system": system, "repeat": repeat},
        out=out,
        warn=lambda line: click.echo(line, err=True),
    )
    for _, line in headline(summarise(*scored, resamples=s.resamples, seed=s.seed)):
        click.echo(line)


@main.command()
@click.argument("paths", nargs=-1, required=True, type=PATH, metavar="PATH...")
@_path("out", "folder for matches.parquet, curve_errors.parquet, metrics.parquet and cases.parquet")
@click.option(
    "--spacing", nargs=3, type=click.FloatRange(min=0, min_open=True), default=(0.7, 0.7, 0.8), show_default=True,
    metavar="ROW COLUMN SLICE", help="for folders of JSON files: distance of rows, columns and slices, mm",
)  # fmt: skip
@click.option(
    "--against", type=click.Choice(["each", "first", "mean"]), default="each", show_default=True,
    help="every other expert; the first expert of the case; the mean of the others",
)  # fmt: skip
@click.option("--cases", type=PATH, help="table of cases, for the patients; default: every case is a patient")
@_evaluation
def experts(
    paths: tuple[Path, ...],
    out: Path,
    spacing: tuple[float, float, float],
    against: Reference,
    cases: Path | None,
    settings: str,
) -> None:
    """Score the experts of each case against each other, as a system would be.

    PATH is a table of annotations (Parquet or CSV) or a folder of the public LungCancer500 annotations (JSON). Prints
    the headline metrics with their 95 % intervals beside those of the experts of Pisov et al. 2020.
    """
    from vertfrac.config import Evaluation
    from vertfrac.evaluation.experts import ANY_EXPERT, PUBLISHED, read_experts, score_experts
    from vertfrac.evaluation.run import HEADLINE, headline, summarise

    s: Evaluation = _section(Evaluation, settings)
    scored = score_experts(
        read_experts(paths, spacing),
        reference=against,
        **_matching(s),
        cases=cases,
        out=out,
        warn=lambda line: click.echo(line, err=True),
    )
    published = {**PUBLISHED, **ANY_EXPERT}
    for key, line in headline(summarise(*scored, resamples=s.resamples, seed=s.seed), (*HEADLINE, *ANY_EXPERT)):
        click.echo(line + (f"; published: {published[key]}" if key in published else ""))


@main.command()
@_path("matches", "table of matches", many=True)
@_path("curve-errors", "table of curve errors", many=True)
@_path("cases", "table of cases")
@_evaluation
@click.option("--heading", required=True)
@click.option("--changes", default="{}", help="JSON: system -> [its base, {key: [value there, value here]}]")
@_path("out", "folder for the summary and the tables")
def summary(
    matches: tuple[Path, ...],
    curve_errors: tuple[Path, ...],
    cases: Path,
    settings: str,
    heading: str,
    changes: str,
    out: Path,
) -> None:
    """Summarise the scores of all systems and repeats, as one table and as tables like the papers'."""
    import json

    from vertfrac.config import Evaluation
    from vertfrac.evaluation.run import write_summary

    s: Evaluation = _section(Evaluation, settings)
    write_summary(
        matches,
        curve_errors,
        cases,
        heading,
        out,
        resamples=s.resamples,
        seed=s.seed,
        changes=json.loads(changes),
    )


@main.command()
@_path("matches", "table of matches", many=True)
@click.option("--curve-errors", type=PATH, multiple=True, help="table of curve errors")
@click.option("--vertebrae", type=PATH, multiple=True, help="table of vertebrae of one system and repeat, for overlays")
@click.option("--slices", type=PATH, multiple=True, help="file of held-out slices, for overlays")
@click.option("--cases", type=PATH, help="table of cases, for overlays")
@_path("out", "folder for the figures")
def figures(
    matches: tuple[Path, ...],
    curve_errors: tuple[Path, ...],
    vertebrae: tuple[Path, ...],
    slices: tuple[Path, ...],
    cases: Path | None,
    out: Path,
) -> None:
    """Draw agreement of G, distribution of errors and ROC curves of one system or of several, side by side.

    With --vertebrae, --slices and --cases also overlays of the best, median and worst held-out case; with matches of
    experts also how they disagree.
    """
    from vertfrac import tables
    from vertfrac.report.cohort import draw_comparison, draw_overlays

    if len({bool(vertebrae), bool(slices), cases is not None}) > 1:
        raise click.UsageError("overlays need --vertebrae, --slices and --cases together")
    matched = tables.read_tables(matches, tables.MATCHES)
    no_curves = tables.CURVE_ERRORS.frame([])
    draw_comparison(matched, tables.read_tables(curve_errors, tables.CURVE_ERRORS) if curve_errors else no_curves, out)
    if cases:
        draw_overlays(matched, vertebrae, slices, cases, out)


@main.command()
@_system
@_settings()
@click.option("--spacing", type=float, required=True, help="pixel size of the slices, mm")
@_path("localizers", "weights of stage 1", many=True)
@_path("detectors", "weights of stage 2", many=True)
@_path("cases", "table of cases of the training cohort")
@_path("summary", "summary table")
@_path("out", "model folder")
def export(
    system: str,
    settings: str,
    spacing: float,
    localizers: tuple[Path, ...],
    detectors: tuple[Path, ...],
    cases: Path,
    summary: Path,
    out: Path,
) -> None:
    """Gather the trained folds of a system into a model folder for ``vertfrac predict``."""
    from vertfrac import tables
    from vertfrac.config import System
    from vertfrac.evaluation.run import scores_of
    from vertfrac.inference.weights import export_model

    table = tables.read_table(cases, tables.CASES)
    usable = table[table["status"] == "ok"]
    export_model(
        out,
        name=system,
        system=_section(System, settings),
        slice_spacing_mm=spacing,
        localizers=localizers,
        detectors=detectors,
        cohort={
            "cases": len(usable),
            "vertebrae": int(usable["vertebrae"].sum()),
            "fingerprint": tables.fingerprint(usable),
        },
        scores=scores_of(tables.read_table(summary, tables.SUMMARY), system),
    )


@main.command()
@click.option("--config", type=PATH, required=True, help="recipe: config/pretrain.yaml, or one like it")
@click.option("--work", type=PATH, default=Path(), help="folder for results/; default: here")
@click.option("--cores", type=click.IntRange(min=1), default=os.cpu_count() or 1, show_default="all")
@click.option("--gpus", type=click.IntRange(min=0), default=0, show_default=True)
@_path("out", "model folder")
def pretrain(config: Path, work: Path, cores: int, gpus: int, out: Path) -> None:
    """Train a model on phantoms alone, score it on others and write its folder with a card, README.md.

    A call that was stopped goes on where it was.
    """
    from vertfrac.pretrain import pretrain as run

    run(config, work, out, cores=cores, gpus=gpus, tell=click.echo)


@main.command()
@click.argument("run", type=PATH, required=False)
@click.option("--json", "as_data", is_flag=True, help="print JSON")
@click.option("--follow", is_flag=True, help="print again every 5 s until the workflow ends")
@click.option("--benchmarks", is_flag=True, help="write RUN/benchmarks.parquet and .csv: time and memory of every job")
def status(run: Path | None, as_data: bool, follow: bool, benchmarks: bool) -> None:
    """Say what of a run of the workflow is done, running, failed and waiting, and how far its trainings are.

    RUN is results/NAME or a configuration file; default: the latest run in results/. Exits with 1 if a job failed.
    """
    import json

    from vertfrac import status as module

    folder = module.find_run(run)
    while True:
        found = module.read_run(folder)
        if follow:
            click.clear()
        click.echo(json.dumps(module.as_json(found), indent=2) if as_data else module.as_text(found))
        if not (follow and found.going):
            break
        time.sleep(5)
    if benchmarks:
        from vertfrac import tables

        table = tables.write_table(folder / "benchmarks.parquet", tables.BENCHMARKS, module.benchmark_rows(found))
        tables.write_csv(folder / "benchmarks.csv", table)
    if found.count("failed"):
        sys.exit(1)


@main.command("tables")
def tables_command() -> None:
    """Print the columns of every table: name, type, unit, meaning."""
    from vertfrac.tables import ALL

    click.echo("# Tables\n\nPrinted by `vertfrac tables`. Coordinates are world RAS, in millimetres.\n")
    click.echo("\n".join(schema.as_markdown() for schema in ALL), nl=False)


@main.command("config-check")
@click.argument("path", type=PATH)
def config_check(path: Path) -> None:
    """Check a configuration file and print it with all defaults, as JSON."""
    from vertfrac.config import canonical, read_yaml, resolve

    click.echo(canonical(resolve(read_yaml(path), path.parent, str(path))))


@main.command("config-schema")
@click.option("--system", is_flag=True, help="of a file in config/systems, instead of a run's configuration")
def config_schema(system: bool) -> None:
    """Print the JSON schema of configuration files, by which editors complete and check them."""
    import json

    from vertfrac.config_schema import run_schema, system_schema

    click.echo(json.dumps(system_schema() if system else run_schema(), indent=2))


if __name__ == "__main__":
    main()
