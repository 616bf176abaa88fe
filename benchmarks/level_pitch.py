"""How far apart vertebrae are for their size, by level: what vertfrac.inference.column.PITCH_PER_HEIGHT comes from.

    python benchmarks/level_pitch.py ANNOTATIONS --out benchmarks/level_pitch.csv

ANNOTATIONS is a folder of the public LungCancer500 annotations of 2022, whose vertebrae have levels (voxels of 0.7 x
0.7 x 0.8 mm, since the images, which know it, are not needed), or a table of annotations. The ratio is the distance of
the body centres of direct neighbours over the mean of their posterior heights.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import pandas as pd

from vertfrac import tables
from vertfrac.cohorts.levels import LEVELS
from vertfrac.cohorts.lungcancer500_json import NOMINAL_SPACING_MM
from vertfrac.evaluation.experts import read_experts
from vertfrac.evaluation.levels import places_off
from vertfrac.inference.column import PITCH_PER_HEIGHT, expected_pitch


def ratios(marks: pd.DataFrame) -> pd.DataFrame:
    """Level of the upper one and ratio of every two direct neighbours that an expert named."""
    rows = []
    for _, column in marks.groupby(["case", "expert"], sort=False):
        named = column[column["level"].fillna("") != ""]
        named = named.iloc[np.argsort([LEVELS.index(level) for level in named["level"]])]
        upper, lower = named["level"].iloc[:-1].reset_index(drop=True), named["level"].iloc[1:].reset_index(drop=True)
        ratio = expected_pitch(tables.keypoints_of(named)) * PITCH_PER_HEIGHT
        rows.append(pd.DataFrame({"level": upper, "ratio": ratio})[places_off(lower, upper) == 1])
    return pd.concat(rows, ignore_index=True)


@click.command()
@click.argument("annotations", type=click.Path(path_type=Path, exists=True))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="CSV to write")
def main(annotations: Path, out: Path) -> None:
    """Print and write the ratio by level."""
    found = ratios(read_experts([annotations], NOMINAL_SPACING_MM))
    table = found.groupby("level")["ratio"].agg(pairs="size", median="median", std="std")
    table = table.reindex([level for level in LEVELS if level in table.index])
    table["off"] = table["median"] / PITCH_PER_HEIGHT - 1
    table.round(3).to_csv(out)
    click.echo(table.round(3).to_string())
    spread = np.log(found["ratio"] / PITCH_PER_HEIGHT)
    low, high = table["median"].min(), table["median"].max()
    click.echo(f"{len(found)} pairs; median ratio {found['ratio'].median():.3f}; ln(pitch): {spread.std():.3f} (std)")
    click.echo(f"medians of levels from {low:.3f} to {high:.3f}, the middle {np.sqrt(low * high):.3f}")
    extremes = np.exp(spread.quantile([0.001, 0.999]).to_numpy())
    click.echo(f"pitch from {extremes[0]:.2f} to {extremes[1]:.2f} in all but 0.2 % of the pairs")


if __name__ == "__main__":
    main()
