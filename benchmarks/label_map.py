"""How a model does on a real scan with a label map of its vertebrae: found, missed, invented, how far off, and G.

    python benchmarks/label_map.py SCAN MASK --model MODEL --out FOLDER

A label map says where vertebrae are, not where their keypoints are: those of the bodies are taken from it as by
``vertfrac keypoints-from-mask``, so the distances of centres mean something and those of G little. ``make demo-real``
leaves its scan and map in ``results/real``: ``chest-ct.nii.gz`` and, in TotalSegmentator's numbers,
``chest-ct-labels.nii.gz``.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import pandas as pd
import torch

from vertfrac import tables
from vertfrac.cohorts.from_mask import MaskVertebra, measure_mask
from vertfrac.cohorts.levels import LABEL_OF, TOTALSEGMENTATOR
from vertfrac.genant import genant_index
from vertfrac.geometry.keypoints import centers, heights
from vertfrac.imaging.labels import read_labels
from vertfrac.inference.card import PRETRAINED
from vertfrac.inference.predict import predict_scan
from vertfrac.inference.weights import load_model

NEAR_MM, FAR_MM = 4.0, 15.0


def reference(mask: Path, numbering: str) -> list[MaskVertebra]:
    """The vertebrae of the map, those with a body in full and those that are cut."""
    read = read_labels(mask)
    labels = read.labels
    if numbering == "totalsegmentator":
        labels = np.zeros_like(read.labels)
        for number, level in TOTALSEGMENTATOR.items():
            labels[read.labels == number] = LABEL_OF[level]
    return measure_mask(labels, read.grid)


def compared(found: pd.DataFrame, truth: list[MaskVertebra]) -> pd.DataFrame:
    """A row per vertebra of the map and per ruler that belongs to none of them."""
    offered = found[found["status"] == "ok"].reset_index(drop=True)
    places = centers(tables.keypoints_of(offered)) if len(offered) else np.empty((0, 3))
    used: set[int] = set()
    rows = []
    for vertebra in truth:
        row = {"level": vertebra.level, "map": vertebra.status, "found": False}
        if vertebra.status == "ok" and len(places):
            away = np.linalg.norm(places - centers(vertebra.keypoints[None])[0], axis=1)
            k = int(away.argmin())
            if away[k] < FAR_MM and k not in used:
                used.add(k)
                row |= {
                    "found": True, "named": _name(offered.iloc[k]),
                    "center_mm": round(float(away[k]), 1), "score": round(float(offered["score"][k]), 2),
                    "genant": round(float(offered["genant"][k]), 3),
                    "genant_map": round(float(genant_index(heights(vertebra.keypoints))), 3),
                }  # fmt: skip
        rows.append(row)
    rows += [
        {
            "level": "",
            "map": "nothing whole there",
            "found": True,
            "named": _name(offered.iloc[k]),
            "score": round(float(offered["score"][k]), 2),
        }
        for k in range(len(offered))
        if k not in used
    ]
    return pd.DataFrame(rows)


def _name(vertebra: pd.Series) -> str:
    """The level that the model gives, its probability, and the runner-up where it is in doubt."""
    if not vertebra["level"]:
        return ""
    other = f" or {vertebra['level_runner_up']}" if vertebra["level_runner_up"] else ""
    return f"{vertebra['level']} {vertebra['level_probability']:.2f}{other}"


@click.command()
@click.argument("scan", type=click.Path(path_type=Path, exists=True))
@click.argument("mask", type=click.Path(path_type=Path, exists=True))
@click.option("--model", type=click.Path(path_type=Path), default=PRETRAINED, help="default: the one of vertfrac")
@click.option("--numbering", type=click.Choice(["verse", "totalsegmentator"]), default="verse", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="folder for the scan's results")
def main(scan: Path, mask: Path, model: Path, numbering: str, out: Path) -> None:
    """Compare the vertebrae of SCAN with those of its label map MASK."""
    row, found, *_ = predict_scan("scan", scan, load_model(model, torch.device("cpu")), out)
    if row["status"] != "ok":
        raise SystemExit(f"{scan}: {row['reason']}")
    table = compared(found, reference(mask, numbering))
    click.echo(table.to_string(index=False, na_rep=""))
    whole = table[table["map"] == "ok"]
    near = int((whole["center_mm"] <= NEAR_MM).sum()) if "center_mm" in whole else 0
    click.echo(
        f"{int(whole['found'].sum())} of {len(whole)} whole vertebrae found, {near} within {NEAR_MM:g} mm; "
        f"{int((table['level'] == '').sum())} rulers elsewhere"
    )
    if "named" in whole and whole["named"].fillna("").any():
        right = [str(name).split(" ")[0] == level for name, level in zip(whole["named"], whole["level"], strict=True)]
        click.echo(f"{sum(right)} of {len(whole)} whole vertebrae named as the map does")


if __name__ == "__main__":
    main()
