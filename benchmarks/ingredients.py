"""What each ingredient of phantoms is worth on real scans: a small model trained without it, for each of them.

    python benchmarks/ingredients.py SCAN MASK --numbering totalsegmentator --other FOLDER --work ingredients \
        --out benchmarks/ingredients-cpu.csv

A model is one localizer and one detector of config/pretrain.yaml, trained for few steps on phantoms of full difficulty
without the ingredient; "nothing" leaves out none. Weights are averaged over as large a part of the steps as there, and
vertebrae are not named, which so few steps do not teach. All are scored on the same phantoms with all ingredients, on
SCAN against its label map MASK, and on the scans of --other against what the shipped model finds there. Trainings run
side by side, one thread each, and each adds its row to --out: a call that was stopped goes on with what is missing.
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import pandas as pd
import torch
from label_map import FAR_MM, NEAR_MM, compared, reference

from vertfrac import tables
from vertfrac.cli import main as vertfrac
from vertfrac.cli import trained_with
from vertfrac.cohorts.cache import cache_slices, cache_volumes
from vertfrac.cohorts.phantom.ingredients import MEANING
from vertfrac.config import Config, System, read_yaml, resolve
from vertfrac.evaluation.run import evaluate
from vertfrac.geometry.keypoints import centers
from vertfrac.inference.card import PRETRAINED
from vertfrac.inference.predict import predict_scan
from vertfrac.inference.transfer import predict_cohort
from vertfrac.inference.weights import Model, assemble, build_detector, build_localizer, load_model, save_weights
from vertfrac.training.detector import train_detector
from vertfrac.training.localizer import train_localizer

CONFIG = Path(__file__).parents[1] / "config"
EVERYTHING = "nothing"
TRAINING_ONLY = "appearance"
"""No ingredient of phantoms: the randomised appearance of training samples."""
CPU = torch.device("cpu")
SCORES = ("curve error", "recall", "precision", "keypoint error", "correlation of G")


class Real(NamedTuple):
    """The real scans that models are scored on."""

    scan: Path
    mask: Path
    numbering: str
    others: tuple[Path, ...]


class Budget(NamedTuple):
    """What a training may cost, and what tells trainings apart."""

    cases: int
    steps: tuple[int, int]
    seed: int

    def columns(self) -> dict[str, Any]:
        return {"seed": self.seed, "cases": self.cases, "steps": " and ".join(map(str, self.steps))}


def recipe() -> Config:
    return resolve(read_yaml(CONFIG / "pretrain.yaml"), CONFIG, "config/pretrain.yaml")


def small_system(left_out: str, budget: Budget) -> System:
    """The system of the recipe with fewer steps, other seeds, no levels, and perhaps no randomised appearance."""
    (system,) = recipe().systems.values()
    detector = system.detector
    system = system.model_copy(
        update={
            "detector": detector.model_copy(update={"network": detector.network.model_copy(update={"levels": False})})
        }
    )
    stages: dict[str, Any] = {}
    for name, steps in zip(("localizer", "detector"), budget.steps, strict=True):
        stage = getattr(system, name)
        training = stage.training.model_copy(
            update={
                "steps": steps,
                "seed": stage.training.seed + budget.seed,
                "average_decay": stage.training.average_decay ** (stage.training.steps / steps),
            }
        )
        changed: dict[str, Any] = {"training": training}
        if left_out == TRAINING_ONLY:
            changed["augmentation"] = stage.augmentation.model_copy(update={"appearance": 0.0, "intensity": 0.0})
        stages[name] = stage.model_copy(update=changed)
    return system.model_copy(update=stages)


def make_cohort(folder: Path, cases: int, seed: int, left_out: str) -> None:
    """Phantoms without an ingredient, ingested to ``folder/cohort``."""
    without = ["--without", left_out] if left_out in MEANING else []
    made = ["phantom", "--cases", str(cases), "--seed", str(seed), "--difficulty", "full", "--out", f"{folder}/made"]
    vertfrac([*made, *without], standalone_mode=False)
    source = json.dumps({"kind": "nifti", "folder": f"{folder}/made"}, separators=(",", ":"))
    vertfrac(["ingest", "--cohort", source, "--out", f"{folder}/cohort"], standalone_mode=False)
    shutil.rmtree(folder / "made")


def train(left_out: str, budget: Budget, folder: Path) -> Model:
    """A model of one localizer and one detector, trained on phantoms without something."""
    config, system = recipe(), small_system(left_out, budget)
    make_cohort(folder, budget.cases, config.cohort.seed + 1000 * budget.seed, left_out)
    cohort, volumes, slices = folder / "cohort", folder / "volumes.safetensors", folder / "slices.safetensors"
    cache_volumes(cohort / "cases.parquet", volumes, spacing_mm=system.localizer.input.spacing_mm)
    cache_slices(
        cohort / "cases.parquet",
        cohort / "annotations.parquet",
        slices,
        **config.slices.model_dump(),
    )
    marks = tables.read_table(cohort / "annotations.parquet", tables.ANNOTATIONS)
    stage1, stage2, spacing = system.localizer, system.detector, config.slices.spacing_mm
    localizer = train_localizer(
        build_localizer(stage1.network, stage1.training.seed),
        [volumes],
        marks,
        set(marks["case"]),
        edge_mm=stage1.input.edge_mm,
        **trained_with(stage1),
        work=folder / "localizer",
        device=CPU,
    )
    detector = train_detector(
        build_detector(stage2.network, spacing, stage2.training.seed),
        [slices],
        set(marks["case"]),
        spacing_mm=spacing,
        **trained_with(stage2),
        work=folder / "detector",
        device=CPU,
    )
    files = [folder / "localizer.safetensors", folder / "detector.safetensors"]
    for path, network, stage in zip(files, (localizer, detector), (stage1, stage2), strict=True):
        save_weights(path, network, kind=path.stem, settings=stage.network.model_dump(mode="json"))
    return assemble(f"without-{left_out}", system, spacing, files[:1], files[1:], CPU)


def on_phantoms(model: Model, cohort: Path, folder: Path) -> dict[str, float]:
    """Scores on a canonical cohort of phantoms."""
    run, evaluation = {"system": model.name, "repeat": 0}, recipe().evaluation
    files = {name: folder / f"{name}.parquet" for name in ("vertebrae", "curves", "statuses")}
    predict_cohort(model, cohort / "cases.parquet", run=run, **files)
    evaluate(
        cohort / "annotations.parquet",
        [files["vertebrae"]],
        curves=[files["curves"]],
        statuses=[files["statuses"]],
        closeness=evaluation.closeness,
        threshold=evaluation.match_iou,
        run=run,
        out=folder,
        warn=lambda _: None,
    )
    metrics = tables.read_table(folder / "metrics.parquet", tables.METRICS)
    metrics = metrics[(metrics["subset"] == "all") & metrics["level"].isin(("vertebra", "scan"))]
    found = metrics.set_index("metric")["value"]
    return {f"phantom_{name.replace(' ', '_')}": round(float(found[name]), 3) for name in SCORES}


def on_real(model: Model, real: Real) -> dict[str, Any]:
    """Whole vertebrae of the scan found, those that are near, rulers elsewhere, and errors."""
    _, found, *_ = predict_scan("scan", real.scan, model, None)
    table = compared(found, reference(real.mask, real.numbering)).reindex(
        columns=["level", "map", "found", "center_mm", "genant", "genant_map"]
    )
    whole = table[table["map"] == "ok"]
    return {
        "whole": len(whole),
        "found": int(whole["found"].sum()),
        f"within_{NEAR_MM:g}_mm": int((whole["center_mm"] <= NEAR_MM).sum()),
        "elsewhere": int((table["level"] == "").sum()),
        "center_mm": round(float(whole["center_mm"].mean()), 2),
        "genant_off": round(float((whole["genant"] - whole["genant_map"]).abs().mean()), 3),
    }


def on_others(model: Model, scans: tuple[Path, ...]) -> dict[str, int]:
    """How many vertebrae that the shipped model measures a model measures too, and how many it adds."""
    shipped = load_model(PRETRAINED, CPU)
    count = {"other_whole": 0, "other_found": 0, "other_elsewhere": 0}
    for scan in scans:
        truth, mine = (_centers(predict_scan("scan", scan, one, None).vertebrae) for one in (shipped, model))
        away = np.linalg.norm(truth[:, None] - mine[None], axis=2)
        count["other_whole"] += len(truth)
        count["other_found"] += int((away.min(axis=1, initial=np.inf) < FAR_MM).sum())
        count["other_elsewhere"] += int((away.min(axis=0, initial=np.inf) >= FAR_MM).sum())
    return count


def _centers(vertebrae: pd.DataFrame) -> np.ndarray:
    return centers(tables.keypoints_of(vertebrae[vertebrae["status"] == "ok"])).reshape(-1, 3)


def row_of(left_out: str, budget: Budget, real: Real, work: Path) -> dict[str, Any]:
    """Train without something and score; what was trained on is removed."""
    torch.set_num_threads(1)
    folder = work / f"{left_out}-{budget.seed}"
    shutil.rmtree(folder, ignore_errors=True)
    model = train(left_out, budget, folder)
    scores = on_real(model, real) | on_others(model, real.others) | on_phantoms(model, work / "unseen/cohort", folder)
    shutil.rmtree(folder)
    return {"without": left_out, **budget.columns(), **scores}


@click.command()
@click.argument("scan", type=click.Path(path_type=Path, exists=True))
@click.argument("mask", type=click.Path(path_type=Path, exists=True))
@click.option("--numbering", type=click.Choice(["verse", "totalsegmentator"]), default="verse", show_default=True)
@click.option("--other", "others", type=click.Path(path_type=Path, exists=True), multiple=True, help="a further scan")
@click.option("--cases", type=click.IntRange(min=4), default=60, show_default=True)
@click.option("--unseen", type=click.IntRange(min=1), default=24, show_default=True, help="phantoms to score on")
@click.option("--steps", nargs=2, type=int, default=(300, 500), show_default=True, help="of stage 1 and 2")
@click.option("--seed", "seeds", type=int, multiple=True, default=(0,), show_default=True)
@click.option("--only", multiple=True, help="leave out these only; default: each in turn")
@click.option("--cores", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--work", type=click.Path(path_type=Path), required=True, help="folder for the trainings")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="CSV to write, or to complete")
def main(
    scan: Path,
    mask: Path,
    numbering: str,
    others: tuple[Path, ...],
    cases: int,
    unseen: int,
    steps: tuple[int, int],
    seeds: tuple[int, ...],
    only: tuple[str, ...],
    cores: int,
    work: Path,
    out: Path,
) -> None:
    """Train without each ingredient and compare on SCAN with its label map MASK, and on phantoms with all of them."""
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "unseen/cohort/cases.parquet").exists():
        (other,) = recipe().transfer.values()
        make_cohort(work / "unseen", unseen, other.cohort.seed, EVERYTHING)
    table = pd.read_csv(out) if out.exists() else pd.DataFrame()
    key = ["without", *Budget(cases, steps, 0).columns()]
    done = set(table[key].itertuples(index=False, name=None)) if len(table) else set()
    real = Real(scan, mask, numbering, others)
    wanted = [
        (left_out, budget)
        for budget in (Budget(cases, steps, seed) for seed in seeds)
        for left_out in only or (EVERYTHING, *MEANING, TRAINING_ONLY)
        if (left_out, *budget.columns().values()) not in done
    ]
    with ProcessPoolExecutor(cores, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        for job in as_completed([pool.submit(row_of, *one, real, work) for one in wanted]):
            click.echo(job.result())
            table = pd.concat([table, pd.DataFrame([job.result()])], ignore_index=True)
            table.to_csv(out, index=False)


if __name__ == "__main__":
    main()
