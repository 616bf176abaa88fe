"""Steps of the workflow: from trained weights to vertebrae and to a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from vertfrac.cli.group import main
from vertfrac.cli.options import (
    compute_on,
    device_option,
    fold_option,
    path_option,
    read_section,
    repeat_option,
    settings_option,
    system_option,
    threads_option,
)

if TYPE_CHECKING:
    from vertfrac.models.device import Device


@main.command()
@path_option("volumes", "file of volumes", many=True)
@path_option("folds", "table of folds")
@repeat_option
@fold_option
@settings_option()
@path_option("weights", "weights of stage 1")
@path_option("curves", "table of predicted curves to write")
@path_option("statuses", "table of case statuses to write")
@device_option
@threads_option
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
    chosen = compute_on(device, threads)
    from vertfrac import tables
    from vertfrac.cohorts.folds import held_out_cases
    from vertfrac.config import Localizer
    from vertfrac.inference.held_out import predict_curves

    predict_curves(
        volumes,
        held_out_cases(tables.read_table(folds, tables.FOLDS), repeat, fold),
        weights,
        read_section(Localizer, settings),
        curves=curves,
        statuses=statuses,
        device=chosen,
    )


@main.command()
@path_option("cases", "table of cases")
@path_option("curves", "table of predicted curves")
@click.option("--spacing", type=float, required=True, help="pixel size, mm")
@click.option("--width", type=float, required=True, help="width of the slices, mm")
@click.option("--extend", type=float, default=0.0, help="how far a slice goes on beyond its curve, mm")
@click.option("--context", is_flag=True, help="cut the context too, by which vertebrae are named")
@path_option("out", "file of held-out slices")
def straighten(
    cases: Path, curves: Path, spacing: float, width: float, extend: float, context: bool, out: Path
) -> None:
    """Cut the straightened slices of held-out cases along their predicted curves."""
    from vertfrac.inference.held_out import cut_slices

    count = cut_slices(cases, curves, out, spacing_mm=spacing, width_mm=width, extend_mm=extend, context=context)
    click.echo(f"{count} slices")


@main.command()
@path_option("slices", "file of held-out slices")
@path_option("weights", "weights of stage 2")
@settings_option()
@settings_option("inference")
@click.option("--spacing", type=float, required=True, help="pixel size of the slices, mm")
@system_option
@repeat_option
@fold_option
@path_option("out", "table of vertebrae")
@device_option
@threads_option
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
    chosen = compute_on(device, threads)
    from vertfrac.config import Detector, DetectorInference
    from vertfrac.inference.held_out import detect_vertebrae

    detect_vertebrae(
        slices,
        weights,
        read_section(Detector, settings),
        read_section(DetectorInference, inference),
        spacing_mm=spacing,
        run={"system": system, "repeat": repeat, "fold": fold},
        out=out,
        device=chosen,
    )


@main.command()
@path_option("cases", "table of cases")
@path_option("localizers", "weights of stage 1", many=True)
@path_option("detectors", "weights of stage 2", many=True)
@settings_option()
@click.option("--spacing", type=float, required=True, help="pixel size of the slices, mm")
@system_option
@path_option("vertebrae", "table of vertebrae to write")
@path_option("curves", "table of predicted curves to write")
@path_option("statuses", "table of case statuses to write")
@device_option
@threads_option
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
    chosen = compute_on(device, threads)
    from vertfrac.config import System
    from vertfrac.inference.transfer import predict_cohort
    from vertfrac.inference.weights import assemble

    predict_cohort(
        assemble(system, read_section(System, settings), spacing, localizers, detectors, chosen),
        cases,
        run={"system": system, "repeat": 0},
        vertebrae=vertebrae,
        curves=curves,
        statuses=statuses,
    )


@main.command()
@system_option
@settings_option()
@click.option("--spacing", type=float, required=True, help="pixel size of the slices, mm")
@path_option("localizers", "weights of stage 1", many=True)
@path_option("detectors", "weights of stage 2", many=True)
@path_option("cases", "table of cases of the training cohort")
@path_option("summary", "summary table")
@path_option("out", "model folder")
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
        system=read_section(System, settings),
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
