"""A model from phantoms alone: the workflow, then its model folder with a card."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vertfrac import tables
from vertfrac.config import SHIPPED, Config, read_yaml, resolve
from vertfrac.errors import ConfigError, VertfracError
from vertfrac.evaluation.metrics import ANCHORED
from vertfrac.evaluation.run import scores_of
from vertfrac.files import read_json, replacing_folder, write_json
from vertfrac.inference.card import CARD
from vertfrac.report.templating import template
from vertfrac.status import PLAN, TRAINING, read_run

README = "README.md"
SNAKEFILE = SHIPPED.parent / "Snakefile"
LARGEST_MB = 10.0

HEADLINES: tuple[tuple[str, str, str], ...] = (
    ("curve error", "scan", "all"),
    ("limits error", "scan", "all"),
    ("recall", "vertebra", "all"),
    ("precision", "vertebra", "all"),
    ("keypoint error", "vertebra", "all"),
    ("error of G", "vertebra", "all"),
    ("correlation of G", "vertebra", "all"),
    ("ROC AUC", "vertebra", "G <= 0.74"),
    ("sensitivity", "vertebra", "G <= 0.74"),
    ("specificity", "vertebra", "G <= 0.74"),
    ("ROC AUC", "patient", "G <= 0.74"),
    ("identification rate", "vertebra", "all"),
    ("identification rate", "vertebra", ANCHORED),
    ("doubtful shifted columns", "scan", "all"),
    ("doubtful right columns", "scan", "all"),
)
"""Metric, level and subset of the scores that the card shows; model.json has all."""


def pretrain(configuration: Path, work: Path, out: Path, *, cores: int, gpus: int, tell: Callable[[str], None]) -> None:
    """Run the workflow of a configuration of phantoms and one system; write its model with a card to ``out``.

    work : folder for ``results/``. A call that was stopped, or killed, goes on where it was. cores, gpus : what the
    workflow may use. Raises ConfigError for a configuration with other cohorts or several systems, VertfracError if the
    workflow fails or is at work on the same run already.
    """
    config = resolve(read_yaml(configuration), configuration.parent, str(configuration))
    name = only_system(config, configuration)
    if not SNAKEFILE.is_file():
        raise ConfigError(f"{SNAKEFILE}: not there, expected vertfrac to run from a checkout of its repository")
    run = work / "results" / config.name
    if (run / PLAN).is_file() and read_run(run).going:
        raise VertfracError(f"{run}: the workflow is at work there already, expected one call at a time")
    work.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "snakemake", "--snakefile", SNAKEFILE, "--directory", work]
    command += ["--configfile", configuration.absolute(), "--cores", cores, "--resources", f"gpu={gpus}"]
    # --nolock: a kill leaves Snakemake's lock of the folder behind; that of the run, above, ends with its holder
    command += ["--quiet", "rules", "--rerun-incomplete", "--nolock"]
    done = subprocess.run(list(map(str, command)), check=False)
    if done.returncode:
        raise VertfracError(
            f"{configuration}: the workflow ended with exit code {done.returncode}; the same command goes on from there"
        )
    pack(run, config, name, out, recipe=configuration.name, device="GPU" if gpus else "CPU")
    tell(f"{out}: {name}, {_megabytes(out):.1f} MB")


def only_system(config: Config, where: Path) -> str:
    """The name of the single system of a recipe; ConfigError if it is not one, or a cohort is not of phantoms."""
    kinds = {config.cohort.kind, *(other.cohort.kind for other in config.transfer.values())}
    if len(config.systems) != 1 or kinds != {"phantom"} or not config.transfer:
        raise ConfigError(
            f"{where}: found {len(config.systems)} systems and cohorts of kind {', '.join(sorted(kinds))}, "
            f"{len(config.transfer)} of them in transfer, expected one system, phantoms, and others in transfer"
        )
    return next(iter(config.systems))


def pack(run: Path, config: Config, name: str, out: Path, *, recipe: str, device: str) -> None:
    """Copy the model of a finished run to ``out``, its card completed by the scores on other phantoms, and README.md.

    Raises ConfigError if the weights take more than 10 MB.
    """
    source = run / "models" / name
    card = read_json(source / CARD)
    seconds = {
        rule: sum(job.seconds or 0.0 for job in read_run(run).jobs if job.rule == rule) for rule in sorted(TRAINING)
    }
    card["training"] = {"recipe": recipe, "device": device, "seconds": {rule: round(s) for rule, s in seconds.items()}}
    card["cohort"]["settings"] = config.cohort.model_dump(mode="json")
    card["other_phantoms"] = [
        {
            "name": other,
            "settings": transfer.cohort.model_dump(mode="json"),
            "scores": scores_of(
                tables.read_table(run / "transfer" / other / "summary" / "summary.parquet", tables.SUMMARY), name
            ),
        }
        for other, transfer in config.transfer.items()
    ]
    with replacing_folder(out, marker=CARD) as folder:
        for kind in ("localizers", "detectors"):
            for entry in card[kind]:
                shutil.copyfile(source / entry["file"], folder / entry["file"])
        write_json(folder / CARD, card)
        (folder / README).write_text(_readme(card), encoding="utf-8")
        if _megabytes(folder) > LARGEST_MB:
            raise ConfigError(f"{source}: takes {_megabytes(folder):.1f} MB, expected {LARGEST_MB:g} MB or less")


def _megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.iterdir()) / 1e6


def _readme(card: dict[str, Any]) -> str:
    hours = {rule: seconds / 3600 for rule, seconds in card["training"]["seconds"].items()}
    return template("model_card.md", autoescape=False, keep_trailing_newline=True).render(
        card=card,
        described=described,
        hours=hours,
        own=headlines(card["scores"]),
        others=[(other, headlines(other["scores"])) for other in card["other_phantoms"]],
    )


def described(cohort: dict[str, Any]) -> str:
    """A cohort of phantoms in a few words, from its settings."""
    without = f", without {', '.join(cohort['without'])}" if cohort["without"] else ""
    like = f", grown around {cohort['like']}" if cohort["like"] else ""
    return f"{cohort['cases']} phantoms of {cohort['difficulty']} difficulty, seed {cohort['seed']}{without}{like}"


def headlines(scores: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of a summary that the card shows, in its order; one that is not in the summary is left out."""
    found = {(row["metric"], row["level"], row["subset"]): row for row in scores}
    return [found[key] for key in HEADLINES if key in found]
