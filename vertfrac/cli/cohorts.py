"""Commands on a cohort: check it, list it, bring it into the canonical form, split it, cache it for training."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from vertfrac.cli.group import main
from vertfrac.cli.options import PATH, Shard, path_option, read_section, repeat_option, settings_option


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


@main.command()
@path_option("images", "folder with DICOM files, in any layout")
@path_option("out", "table of series to write")
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


@main.command()
@click.option("--cohort", required=True, help="section cohort of the configuration, as JSON")
@click.option("--index", type=PATH, help="table of series of a lungcancer500 cohort; default: made for this call")
@path_option("out", "folder for the canonical images and tables")
@click.option("--shard", type=Shard(), default=(0, 1), help="do one of n parts of the cases, by name", metavar="K/N")
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


@main.command()
@path_option("shards", "folder of an ingested shard", many=True)
@path_option("out", "folder for cases.parquet and annotations.parquet")
def merge(shards: tuple[Path, ...], out: Path) -> None:
    """Join the tables of all ingested shards."""
    from vertfrac.cohorts.ingest import merge as run

    run(shards, out)


@main.command()
@path_option("cases", "table of cases")
@settings_option()
@repeat_option
@path_option("out", "table of folds")
def folds(cases: Path, settings: str, repeat: int, out: Path) -> None:
    """Split the patients into the folds of one repeat."""
    from vertfrac import tables
    from vertfrac.cohorts.folds import published_split, split
    from vertfrac.config import Folds

    s: Folds = read_section(Folds, settings)
    table = tables.read_table(cases, tables.CASES)
    rows = (
        split(table, k=s.k, repeat=repeat, seed=s.seed)
        if s.split == "random"
        else published_split(table, held_out=s.held_out)
    )
    tables.write_table(out, tables.FOLDS, rows)


@main.command()
@path_option("cases", "table of cases")
@click.option("--spacing", nargs=3, type=float, required=True, help="voxel size in x, y and z, mm")
@path_option("out", "file of volumes")
def resample(cases: Path, spacing: tuple[float, float, float], out: Path) -> None:
    """Resample the scans for stage 1."""
    from vertfrac.cohorts.cache import cache_volumes

    click.echo(f"{cache_volumes(cases, out, spacing_mm=spacing)} volumes")


@main.command()
@path_option("cases", "table of cases")
@path_option("annotations", "table of annotations")
@click.option(
    "--landmarks",
    type=click.Path(path_type=Path),
    help="table of landmarks; with it, what naming vertebrae is learned from comes along",
)
@settings_option()
@path_option("out", "file of slices")
def slices(cases: Path, annotations: Path, landmarks: Path | None, settings: str, out: Path) -> None:
    """Cut the training slices along the annotated curves."""
    from vertfrac.cohorts.cache import cache_slices
    from vertfrac.config import Slices

    s: Slices = read_section(Slices, settings)
    click.echo(f"{cache_slices(cases, annotations, out, landmarks=landmarks, **s.model_dump())} slices")
