"""Commands for people: a scan, a mask, phantoms, a model of phantoms."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vertfrac.cli.group import main
from vertfrac.cli.options import PATH, compute_on, device_option, path_option, shard_option, threads_option

if TYPE_CHECKING:
    from vertfrac.cli.watching import Style
    from vertfrac.models.device import Device

EXIT_CODES = (
    "Exit code: 0 all scans were measured; 1 a scan failed, or the model or OUT cannot be used; 2 the call is wrong; "
    "129, 130 or 143 a signal stopped it."
)


@main.command(epilog=EXIT_CODES)
@click.argument("scans", nargs=-1, required=True, type=PATH, metavar="SCAN...")
@click.option("--out", type=PATH, required=True, help="folder for the results, one sub-folder per scan")
@click.option("--model", type=PATH, help="folder of a trained model; default: the one that comes with vertfrac")
@click.option(
    "--dicom", is_flag=True,
    help="write measurements.dcm (structured report) and overlay.dcm (secondary capture) too; for DICOM folders only",
)  # fmt: skip
@device_option
@threads_option
@click.option("--json", "as_data", is_flag=True, help="print one JSON object per scan and line (predict-schema)")
@click.option("-v", "--verbose", is_flag=True, help="print the time of each stage too")
@click.option("-q", "--quiet", is_flag=True, help="print nothing but failures")
def predict(
    scans: tuple[Path, ...],
    out: Path,
    model: Path | None,
    dicom: bool,
    device: Device,
    threads: int | None,
    as_data: bool,
    verbose: bool,
    quiet: bool,
) -> None:
    """Grade the vertebrae of CT scans: NIfTI files (.nii, .nii.gz) or DICOM folders.

    Each scan gets a folder in OUT with vertebrae.parquet, vertebrae.csv, curve.parquet, rulers.mrk.json, scan.json,
    views.json and overlay.png; OUT/scans.parquet and OUT/scans.csv list all scans, failed ones with the reason,
    OUT/vertebrae.parquet and OUT/vertebrae.csv all vertebrae; OUT/report.html shows them all, to be checked, corrected
    and printed. Prints a sentence and a table per scan; failures go to standard error.
    """
    if quiet and (as_data or verbose):
        raise click.UsageError("--quiet goes with neither --json nor --verbose")
    from vertfrac.inference.card import PRETRAINED
    from vertfrac.inference.request import check_request

    folder = model or PRETRAINED
    check_request(scans, folder, dicom=dicom)
    chosen = compute_on(device, threads)
    from vertfrac.cli.watching import Printing
    from vertfrac.inference.predict import predict_scans

    style: Style = "json" if as_data else "quiet" if quiet else "verbose" if verbose else "usual"
    with Printing(len(scans), style) as printing:
        succeeded = predict_scans(scans, out, folder, device=chosen, watcher=printing, dicom=dicom)
    if not succeeded:
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
@shard_option
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


@main.command("keypoints-from-mask")
@click.argument("mask", type=PATH)
@path_option("out", "folder for vertebrae.parquet, vertebrae.csv and overlay.png")
@click.option("--subregions", type=PATH, help="mask of the vertebrae's parts on the same grid: 49 and 50 are the body")
@click.option("--scan", type=PATH, help="the CT on the same grid, to be drawn instead of the mask")
def keypoints_from_mask(mask: Path, out: Path, subregions: Path | None, scan: Path | None) -> None:
    """Put the six keypoints on every vertebra of a mask (NIfTI, VerSe numbering), measure and grade it.

    Prints one line per vertebra. C1, C2 and the sacrum are not measured; a body that the image cuts gets no answer.
    """
    from vertfrac.cohorts.from_mask.command import keypoints_from_mask as run

    run(mask, out, subregions=subregions, scan=scan, tell=click.echo)


@main.command()
@click.option("--config", type=PATH, required=True, help="recipe: config/pretrain.yaml, or one like it")
@click.option("--work", type=PATH, default=Path(), help="folder for results/; default: here")
@click.option("--cores", type=click.IntRange(min=1), default=os.cpu_count() or 1, show_default="all")
@click.option("--gpus", type=click.IntRange(min=0), default=0, show_default=True)
@path_option("out", "model folder")
def pretrain(config: Path, work: Path, cores: int, gpus: int, out: Path) -> None:
    """Train a model on phantoms alone, score it on others and write its folder with a card, README.md.

    A call that was stopped goes on where it was.
    """
    from vertfrac.pretrain import pretrain as run

    run(config, work, out, cores=cores, gpus=gpus, tell=click.echo)
