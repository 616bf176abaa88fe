"""What each ingredient of phantoms is worth on a real scan: a small model trained without it, for each of them.

    python benchmarks/ingredients.py SCAN MASK --numbering totalsegmentator --out benchmarks/ingredients-cpu.csv

Every model is trained by the recipe of config/pretrain.yaml at a small budget, on phantoms of full
difficulty without one ingredient, and once on all; the phantoms that it is scored on have all. One scan and one seed
say little: believe large differences only. A call that was stopped goes on where it was.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pandas as pd
import torch
import yaml
from label_map import NEAR_MM, compared, reference

from vertfrac.cohorts.phantom.ingredients import MEANING
from vertfrac.inference.card import read_card
from vertfrac.inference.predict import predict_scan
from vertfrac.inference.weights import load_model
from vertfrac.pretrain import headlines, pretrain

RECIPE = Path(__file__).parents[1] / "config" / "pretrain.yaml"
EVERYTHING = "nothing"
TRAINING_ONLY = "appearance"
"""No ingredient of phantoms: the randomised appearance of training samples."""


def recipe(left_out: str, cases: int, steps: tuple[int, int]) -> dict[str, Any]:
    """The recipe of config/pretrain.yaml at a small budget and without something."""
    config: dict[str, Any] = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    config["name"] = f"without-{left_out}"
    config["cohort"] |= {"cases": cases, "without": [left_out] if left_out in MEANING else []}
    config["transfer"]["unseen"]["cohort"]["cases"] = 24
    (settings,) = config["systems"][0].values()
    for stage, count in zip(("localizer", "detector"), steps, strict=True):
        settings[stage]["training"]["steps"] = count
        if left_out == TRAINING_ONLY:
            settings[stage]["augmentation"] = {"appearance": 0, "intensity": 0}
    return config


def on_real(model: Path, scan: Path, mask: Path, numbering: str) -> dict[str, Any]:
    """Whole vertebrae of the scan found, those that are near, rulers elsewhere, and errors."""
    _, found, *_ = predict_scan("scan", scan, load_model(model, torch.device("cpu")), None)
    table = compared(found, reference(mask, numbering)).reindex(
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


@click.command()
@click.argument("scan", type=click.Path(path_type=Path, exists=True))
@click.argument("mask", type=click.Path(path_type=Path, exists=True))
@click.option("--numbering", type=click.Choice(["verse", "totalsegmentator"]), default="verse", show_default=True)
@click.option("--cases", type=click.IntRange(min=4), default=60, show_default=True)
@click.option("--steps", nargs=2, type=int, default=(300, 500), show_default=True, help="of stage 1 and 2")
@click.option("--only", multiple=True, help="leave out these only; default: each in turn")
@click.option("--cores", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--work", type=click.Path(path_type=Path), required=True, help="folder for the runs")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="CSV to write")
def main(
    scan: Path,
    mask: Path,
    numbering: str,
    cases: int,
    steps: tuple[int, int],
    only: tuple[str, ...],
    cores: int,
    work: Path,
    out: Path,
) -> None:
    """Train without each ingredient and compare on SCAN with its label map MASK, and on phantoms with all of them."""
    work.mkdir(parents=True, exist_ok=True)
    rows = []
    for left_out in only or (EVERYTHING, *MEANING, TRAINING_ONLY):
        config = work / f"without-{left_out}.yaml"
        config.write_text(yaml.safe_dump(recipe(left_out, cases, steps)), encoding="utf-8")
        model = work / "models" / left_out
        pretrain(config, work, model, cores=cores, gpus=0, tell=click.echo)
        (unseen,) = read_card(model)["other_phantoms"]
        phantoms = {
            f"phantom_{score['metric'].replace(' ', '_')}": round(score["value"], 3)
            for score in headlines(unseen["scores"])
            if score["subset"] == "all"
        }
        rows.append({"without": left_out, **on_real(model, scan, mask, numbering), **phantoms})
        click.echo(rows[-1])
        pd.DataFrame(rows).assign(cases=cases, steps=" and ".join(map(str, steps))).to_csv(out, index=False)


if __name__ == "__main__":
    main()
