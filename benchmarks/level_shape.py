"""The typical shape of a vertebral body at each level, and what a second opinion on G by it changes.

    python benchmarks/level_shape.py annotation-2022 --out benchmarks/level_shape.csv

ANNOTATIONS is the folder of public annotations of 2022 (docs/cohorts/lungcancer500.md), which name levels. They are
read at the nominal spacing, since the CTs are not public.

Prints, per level, the typical ratios of the anterior and the middle height to the posterior one; the lines of
``vertfrac/level_shape.py`` are the column ``typical``. How they are made:

1. The ratios of a vertebra are the medians over its experts, so that a vertebra counts once.
2. The typical ratios of a level are medians over the vertebrae that are not fractured: those whose index by the typical
   shape itself is above 0.8, found by repeating both until nothing changes. To take those with G > 0.8 instead would
   cut off the wedges that are normal at a level, which are in question.
3. Levels with few vertebrae are drawn to their neighbours: a level with n vertebrae has n / (n + 20) of its own value,
   the rest is the mean of the levels above and below, weighted by their numbers.
4. A level with fewer than 5 vertebrae goes on from the nearest level with more as the healthy bodies of phantoms do
   (``typical_size``). This is an assumption, and there is nothing here to check it by. T13 lies between T12 and L1.

Then how the grades of all marks are spread by both indices per region, and how well two experts who marked the same
vertebra agree on the grade. For the latter the shapes come from other patients than those that are judged.
"""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import median_abs_deviation
from sklearn.metrics import cohen_kappa_score
from sklearn.model_selection import GroupKFold

from vertfrac import tables
from vertfrac.cohorts.levels import NAMED
from vertfrac.cohorts.lungcancer500_json import annotation_rows, nominal_affine, read_studies
from vertfrac.cohorts.phantom.anatomy import typical_size
from vertfrac.genant import GRADE_LIMITS, GRADES, genant_index, grade
from vertfrac.geometry.keypoints import heights

Floats = NDArray[np.float64]

ORDER = NAMED[:-1]
"""All levels but S1, superior first."""
FEWEST, STRENGTH = 5, 20.0
RATIOS = ["anterior", "middle"]
INDICES = ("genant", "genant_level")
REGIONS = {"C4-C7": ORDER[1:5], "T1-T4": ORDER[5:9], "T5-T9": ORDER[9:14], "T10-L3": ORDER[14:22]}


def read(folder: Path) -> pd.DataFrame:
    """A row per mark of an expert: case, expert, level, both ratios to the posterior height."""
    rows = [
        row
        for _, study in read_studies(folder)
        for row in annotation_rows(study, nominal_affine(downwards=study.downwards))
    ]
    marks = tables.ANNOTATIONS.frame(rows)
    tall = heights(tables.keypoints_of(marks))
    marks[RATIOS] = tall[:, :2] / tall[:, 2:]
    return marks.loc[marks["level"] != "", ["case", "expert", "level", *RATIOS]].astype({"level": str})


def per_vertebra(marks: pd.DataFrame) -> pd.DataFrame:
    """A row per vertebra: the medians over its experts."""
    found: pd.DataFrame = marks.groupby(["case", "level"], as_index=False)[RATIOS].median()
    return found


def index_by(shape: pd.DataFrame, marks: pd.DataFrame) -> Floats:
    """Genant index of the heights over those of a shape, which has a row per level; (n,)."""
    relative = marks[RATIOS].to_numpy() / shape.loc[marks["level"], RATIOS].to_numpy()
    return genant_index(np.column_stack([relative, np.ones(len(relative))]))


def typical(vertebrae: pd.DataFrame) -> pd.DataFrame:
    """By level: the number of unfractured vertebrae, their median ratios and spread, and what is made of these."""
    kept = vertebrae
    while True:
        raw = kept.groupby("level")[RATIOS].median()
        known = vertebrae[vertebrae["level"].isin(raw.index)]
        again = known[index_by(raw, known) > GRADE_LIMITS[0]]
        if again.index.equals(kept.index):
            break
        kept = again
    spread = kept.groupby("level")[RATIOS].agg(lambda values: median_abs_deviation(values, scale="normal"))
    counts = kept.groupby("level").size().reindex(ORDER, fill_value=0).rename("vertebrae")
    own = raw.reindex(ORDER)
    return counts.to_frame().join(continued(own, counts)).join(own.add_suffix("_own")).join(
        spread.reindex(ORDER).add_suffix("_spread")
    )  # fmt: skip


def continued(own: pd.DataFrame, counts: pd.Series) -> pd.DataFrame:
    """Smooth values of all levels from the medians of those that have any; own and counts have a row per level."""
    made = {}
    enough = [level for level in ORDER if counts[level] >= FEWEST]
    for at, level in enumerate(enough):
        beside = [enough[k] for k in (at - 1, at + 1) if 0 <= k < len(enough)]
        weights = counts[beside].to_numpy(dtype=float)
        neighbours = np.average(own.loc[beside].to_numpy(), axis=0, weights=weights)
        share = counts[level] / (counts[level] + STRENGTH)
        made[level] = share * own.loc[level].to_numpy() + (1 - share) * neighbours
    made["T13"] = (made["T12"] + made["L1"]) / 2
    for level in ORDER:
        if level not in made:
            known = enough[0] if ORDER.index(level) < ORDER.index(enough[0]) else enough[-1]
            made[level] = made[known] * of_phantoms(level) / of_phantoms(known)
    return pd.DataFrame.from_dict(made, orient="index", columns=RATIOS).loc[list(ORDER)].round(3)


def of_phantoms(level: str) -> Floats:
    """Both ratios of a healthy body of the phantoms, (2,)."""
    anterior, middle, posterior, _ = typical_size(level)
    return np.array([anterior, middle]) / posterior


def by_other_patients(marks: pd.DataFrame, folds: int = 5) -> Floats:
    """The index by level of each mark, with shapes from patients of other folds; (n,)."""
    found = np.full(len(marks), np.nan)
    for others, held in GroupKFold(folds).split(marks, groups=marks["case"]):
        shape = typical(per_vertebra(marks.iloc[others]))
        found[held] = index_by(shape, marks.iloc[held])
    return found


def spread_of_grades(marks: pd.DataFrame) -> pd.DataFrame:
    """Marks per region and grade, by G and by level."""
    rows = []
    for region, levels in {**REGIONS, "all": ORDER}.items():
        chosen = marks[marks["level"].isin(levels)]
        for name in INDICES:
            counts = np.bincount(grade(chosen[name]), minlength=len(GRADES))
            rows.append({"region": region, "by": name, "marks": len(chosen), **dict(zip(GRADES, counts, strict=True))})
    return pd.DataFrame(rows)


def agreement(marks: pd.DataFrame) -> pd.DataFrame:
    """How well pairs of experts agree per region, by G and by level; every pair is counted both ways round.

    ``genant, cut`` is G with its limits put where as many marks lie below as by level: what stricter limits alone gain.
    """
    pairs = [
        (one, other)
        for _, rows in marks.groupby(["case", "level"])
        for one, other in combinations(rows.index, 2)
    ]  # fmt: skip
    first, second = np.array(pairs + [pair[::-1] for pair in pairs]).T
    rows = []
    for region, levels in {**REGIONS, "all": ORDER}.items():
        inside = marks.loc[first, "level"].isin(levels).to_numpy()
        for name in INDICES:
            values = marks[name]
            a, b = values[first[inside]].to_numpy(), values[second[inside]].to_numpy()
            rows.append({"region": region, "by": name, "pairs": len(a) // 2, **_agreement(grade(a), grade(b))})
            if name == "genant":
                limits = [marks["genant"].quantile((marks["genant_level"] <= limit).mean()) for limit in GRADE_LIMITS]
                cut = [sum((values <= limit).astype(int) for limit in limits) for values in (a, b)]
                rows.append({"region": region, "by": "genant, cut", "pairs": len(a) // 2, **_agreement(*cut)})
    return pd.DataFrame(rows)


def _agreement(one: NDArray[np.int64], other: NDArray[np.int64]) -> dict[str, float]:
    every = list(range(len(GRADES)))
    return {
        "same grade": float((one == other).mean()),
        "kappa": kappa(one, other, every),
        "weighted kappa": kappa(one, other, every, weights="quadratic"),
        "mild or worse": kappa(one >= 1, other >= 1, [False, True]),
        "moderate or worse": kappa(one >= 2, other >= 2, [False, True]),
    }


def kappa(one: ArrayLike, other: ArrayLike, labels: list[Any], weights: str | None = None) -> float:
    """Cohen's kappa, missing where all say the same."""
    if len(np.unique(np.concatenate([one, other]))) < 2:
        return float("nan")
    return float(cohen_kappa_score(one, other, labels=labels, weights=weights))


@click.command()
@click.argument("annotations", type=click.Path(path_type=Path, exists=True))
@click.option("--out", type=click.Path(path_type=Path), help="write the shapes as CSV there too")
def main(annotations: Path, out: Path | None) -> None:
    """Print the typical shapes, and grades and agreement by G and by level."""
    marks = read(annotations)
    shapes = typical(per_vertebra(marks))
    if out is not None:
        tables.write_csv(out, shapes.reset_index(names="level"))
    shapes["typical"] = [f'"{row.Index}": ({row.anterior:.3f}, {row.middle:.3f}),' for row in shapes.itertuples()]
    marks["genant"] = genant_index(np.column_stack([marks[RATIOS].to_numpy(), np.ones(len(marks))]))
    marks["genant_level"] = by_other_patients(marks)
    click.echo(f"{len(marks)} marks of {len(per_vertebra(marks))} vertebrae in {marks['case'].nunique()} scans")
    for title, table in (
        ("Typical ratios to the posterior height", shapes.rename_axis(index=None)),
        ("Grades of all marks", spread_of_grades(marks).set_index(["region", "by"])),
        ("Kappa of two experts", agreement(marks).set_index(["region", "by"])),
    ):
        click.echo(f"\n{title}\n\n{table.to_string(na_rep='', float_format='{:.3f}'.format)}")
    moved = pd.crosstab(grade(marks["genant"]), grade(marks["genant_level"]), rownames=["by G"], colnames=["by level"])
    click.echo(f"\nGrades by G against those by level\n\n{moved.to_string()}")


if __name__ == "__main__":
    main()
