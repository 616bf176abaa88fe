"""The contact sheet of docs/cohorts/phantom.md: random phantoms of full difficulty, sagittal, coronal and axial.

python benchmarks/phantom_sheet.py --out docs/images/phantoms.jpg
"""

from __future__ import annotations

from pathlib import Path

import click
import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

from vertfrac.cohorts.phantom import Phantom, make_phantom
from vertfrac.cohorts.phantom.ingredients import choose

mpl.use("Agg")

COLUMNS = 8
WINDOW_HU = (-250, 650)


def planes(phantom: Phantom) -> list[tuple[NDArray[np.int16], float]]:
    """The sagittal, coronal and axial plane through the middle of the spine, (rows, columns), and pixel aspects."""
    turned = phantom.stored_as(("R", "A", "S"))
    spacing = np.linalg.norm(turned.affine[:3, :3], axis=0)
    points = np.concatenate([v.keypoints for v in turned.vertebrae]).mean(axis=0)
    inverse = np.linalg.inv(turned.affine)
    x, y, z = np.clip(np.rint(inverse[:3, :3] @ points + inverse[:3, 3]), 0, np.array(turned.hu.shape) - 1).astype(int)
    return [
        (turned.hu[x].T, spacing[2] / spacing[1]),
        (turned.hu[:, y].T, spacing[2] / spacing[0]),
        (turned.hu[:, :, z].T, spacing[1] / spacing[0]),
    ]


@click.command()
@click.option("--cases", type=click.IntRange(min=1), default=24, show_default=True)
@click.option("--seed", type=int, default=77, show_default=True)
@click.option("--difficulty", type=click.Choice(["usual", "full"]), default="full", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="picture to write")
def main(cases: int, seed: int, difficulty: str, out: Path) -> None:
    """Draw phantoms 1 to CASES of a seed."""
    from matplotlib import pyplot

    rows = -(-cases // COLUMNS)
    figure, axes = pyplot.subplots(
        3 * rows, COLUMNS, figsize=(1.55 * COLUMNS, 3.9 * rows), facecolor="black",
        height_ratios=[1.3, 1.3, 0.9] * rows, gridspec_kw={"wspace": 0.03, "hspace": 0.03},
    )  # fmt: skip
    for axis in axes.flat:
        axis.axis("off")
    for index in range(cases):
        phantom = make_phantom(seed, index, ingredients=choose(difficulty))
        if not phantom.vertebrae:
            continue
        row, column = divmod(index, COLUMNS)
        for axis, (plane, aspect) in zip(axes[3 * row : 3 * row + 3, column], planes(phantom), strict=True):
            axis.imshow(plane, cmap="gray", vmin=WINDOW_HU[0], vmax=WINDOW_HU[1], origin="lower", aspect=aspect)
    figure.savefig(out, dpi=100, bbox_inches="tight", pad_inches=0.05, facecolor="black", pil_kwargs={"quality": 82})


if __name__ == "__main__":
    main()
