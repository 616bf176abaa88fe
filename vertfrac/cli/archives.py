"""Commands on an archive of scans: the steps of workflow/archive.smk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from vertfrac.cli.group import main
from vertfrac.cli.options import Shard, compute_on, device_option, path_option, threads_option

if TYPE_CHECKING:
    from vertfrac.models.device import Device


@main.group("archive")
def archive_commands() -> None:
    """Measure many scans in shards: the steps of workflow/archive.smk."""


@archive_commands.command("list")
@path_option("scans", "folder of scans, or a table of them")
@click.option("--shards", type=click.IntRange(min=1), required=True, help="parts of the archive")
@path_option("out", "list to write")
def archive_list(scans: Path, shards: int, out: Path) -> None:
    """List the scans of an archive, each with its shard."""
    from vertfrac.cohorts.archive import list_archive

    click.echo(f"{len(list_archive(scans, out, shards=shards))} scans")


@archive_commands.command("measure")
@path_option("listing", "list of the archive's scans")
@click.option("--shard", type=Shard(), required=True, help="its number, from 0, of how many", metavar="K/N")
@path_option("model", "folder of a trained model")
@path_option("out", "folder of the results")
@path_option("done", "JSON file of counts to write when the shard is up to date")
@click.option("--pictures", is_flag=True, help="a folder per scan too, as predict writes it")
@click.option("--retry", is_flag=True, help="compute scans that failed again")
@device_option
@threads_option
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
        shard=shard, pictures=pictures, retry=retry, compute_on=lambda: compute_on(device, threads), warn=click.echo,
    )  # fmt: skip
    write_json(done, counts)
    click.echo(", ".join(f"{number} {name}" for name, number in counts.items()))


@archive_commands.command("summary")
@path_option("listing", "list of the archive's scans")
@path_option("out", "folder of the results")
def archive_summary(listing: Path, out: Path) -> None:
    """Count the scans of all shards by status, worst grade and reason."""
    from vertfrac.inference.archive import summarise

    click.echo(summarise(listing, out), nl=False)
