"""Steps of the workflow: train the two stages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    threads_option,
)

if TYPE_CHECKING:
    from vertfrac.config import Detector, Localizer
    from vertfrac.models.device import Device


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
@path_option("volumes", "file of volumes", many=True)
@path_option("annotations", "table of annotations")
@path_option("folds", "table of folds")
@repeat_option
@fold_option
@settings_option()
@path_option("work", "folder for checkpoints and logs; a stopped run goes on from there")
@path_option("out", "file for the weights")
@device_option
@threads_option
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
    chosen = compute_on(device, threads)
    from vertfrac import tables
    from vertfrac.cohorts.folds import training_cases
    from vertfrac.config import Localizer
    from vertfrac.inference.weights import build_localizer, save_weights
    from vertfrac.training.localizer import train_localizer as run

    s: Localizer = read_section(Localizer, settings)
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
@path_option("slices", "file of slices", many=True)
@path_option("folds", "table of folds")
@repeat_option
@fold_option
@settings_option()
@click.option("--spacing", type=float, required=True, help="pixel size of the slices, mm")
@path_option("work", "folder for checkpoints and logs; a stopped run goes on from there")
@path_option("out", "file for the weights")
@device_option
@threads_option
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
    chosen = compute_on(device, threads)
    from vertfrac import tables
    from vertfrac.cohorts.folds import training_cases
    from vertfrac.config import Detector
    from vertfrac.inference.weights import build_detector, save_weights
    from vertfrac.training.detector import train_detector as run

    s: Detector = read_section(Detector, settings)
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
