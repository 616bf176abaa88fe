"""Steps of the workflow, for people too: score systems and experts, summarise, draw."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vertfrac.cli.group import main
from vertfrac.cli.options import PATH, path_option, read_section, repeat_option

if TYPE_CHECKING:
    from vertfrac.evaluation.experts import Reference


def _matching(evaluation: Any) -> dict[str, Any]:
    """What decides a match, and the limit that belongs to it."""
    distance = evaluation.closeness == "distance"
    limit = evaluation.match_distance_mm if distance else evaluation.match_iou
    return {"closeness": evaluation.closeness, "threshold": limit}


evaluation_option = click.option("--settings", default="{}", help="section evaluation of the configuration, as JSON")


@main.command()
@path_option("annotations", "table of annotations, Parquet or CSV")
@path_option("predictions", "table of predictions, Parquet or CSV; with --folds one per fold, in fold order", many=True)
@click.option("--folds", type=PATH, help="table of folds; default: all annotated cases at once")
@click.option("--cases", type=PATH, help="table of cases, for the patients where there are no folds")
@click.option("--landmarks", type=PATH, help="table of landmarks: scans that show S1 or C2 have an anchor for levels")
@click.option("--curves", type=PATH, multiple=True, help="table of predicted curves, one per table of predictions")
@click.option("--statuses", type=PATH, multiple=True, help="table of case statuses, one per table of predictions")
@evaluation_option
@click.option("--system", default="foreign", show_default=True, help="name of the system")
@repeat_option
@path_option("out", "folder for matches.parquet, curve_errors.parquet and metrics.parquet")
def evaluate(
    annotations: Path,
    predictions: tuple[Path, ...],
    folds: Path | None,
    cases: Path | None,
    landmarks: Path | None,
    curves: tuple[Path, ...],
    statuses: tuple[Path, ...],
    settings: str,
    system: str,
    repeat: int,
    out: Path,
) -> None:
    """Score the predictions of one system and repeat against annotations, whoever made them.

    Predictions need the columns case and the 18 keypoint coordinates (world RAS, mm), optionally vertebra, score,
    status, spread_mm, level, level_probability and level_runner_up; see docs/tables.md. Prints the headline
    metrics with their 95 % intervals.
    """
    from vertfrac.config import Evaluation
    from vertfrac.evaluation.run import evaluate as run
    from vertfrac.evaluation.run import headline, summarise

    s: Evaluation = read_section(Evaluation, settings)
    scored = run(
        annotations,
        predictions,
        folds=folds,
        cases=cases,
        landmarks=landmarks,
        curves=curves,
        statuses=statuses,
        **_matching(s),
        run={"system": system, "repeat": repeat},
        out=out,
        warn=lambda line: click.echo(line, err=True),
    )
    for _, line in headline(summarise(*scored, resamples=s.resamples, seed=s.seed)):
        click.echo(line)


@main.command()
@click.argument("paths", nargs=-1, required=True, type=PATH, metavar="PATH...")
@path_option("out", "folder for matches.parquet, curve_errors.parquet, metrics.parquet and cases.parquet")
@click.option(
    "--spacing", nargs=3, type=click.FloatRange(min=0, min_open=True), default=(0.7, 0.7, 0.8), show_default=True,
    metavar="ROW COLUMN SLICE", help="for folders of JSON files: distance of rows, columns and slices, mm",
)  # fmt: skip
@click.option(
    "--against", type=click.Choice(["each", "first", "mean"]), default="each", show_default=True,
    help="every other expert; the first expert of the case; the mean of the others",
)  # fmt: skip
@click.option("--cases", type=PATH, help="table of cases, for the patients; default: every case is a patient")
@evaluation_option
def experts(
    paths: tuple[Path, ...],
    out: Path,
    spacing: tuple[float, float, float],
    against: Reference,
    cases: Path | None,
    settings: str,
) -> None:
    """Score the experts of each case against each other, as a system would be.

    PATH is a table of annotations (Parquet or CSV) or a folder of the public LungCancer500 annotations (JSON). Prints
    the headline metrics with their 95 % intervals beside those of the experts of Pisov et al. 2020.
    """
    from vertfrac.config import Evaluation
    from vertfrac.evaluation.experts import ANY_EXPERT, PUBLISHED, read_experts, score_experts
    from vertfrac.evaluation.run import HEADLINE, headline, summarise

    s: Evaluation = read_section(Evaluation, settings)
    scored = score_experts(
        read_experts(paths, spacing),
        reference=against,
        **_matching(s),
        cases=cases,
        out=out,
        warn=lambda line: click.echo(line, err=True),
    )
    published = {**PUBLISHED, **ANY_EXPERT}
    for key, line in headline(summarise(*scored, resamples=s.resamples, seed=s.seed), (*HEADLINE, *ANY_EXPERT)):
        click.echo(line + (f"; published: {published[key]}" if key in published else ""))


@main.command()
@path_option("matches", "table of matches", many=True)
@path_option("curve-errors", "table of curve errors", many=True)
@path_option("cases", "table of cases")
@evaluation_option
@click.option("--heading", required=True)
@click.option("--changes", default="{}", help="JSON: system -> [its base, {key: [value there, value here]}]")
@path_option("out", "folder for the summary and the tables")
def summary(
    matches: tuple[Path, ...],
    curve_errors: tuple[Path, ...],
    cases: Path,
    settings: str,
    heading: str,
    changes: str,
    out: Path,
) -> None:
    """Summarise the scores of all systems and repeats, as one table and as tables like the papers'."""
    import json

    from vertfrac.config import Evaluation
    from vertfrac.evaluation.run import write_summary

    s: Evaluation = read_section(Evaluation, settings)
    write_summary(
        matches,
        curve_errors,
        cases,
        heading,
        out,
        resamples=s.resamples,
        seed=s.seed,
        changes=json.loads(changes),
    )


@main.command()
@path_option("matches", "table of matches", many=True)
@click.option("--curve-errors", type=PATH, multiple=True, help="table of curve errors")
@click.option("--vertebrae", type=PATH, multiple=True, help="table of vertebrae of one system and repeat, for overlays")
@click.option("--slices", type=PATH, multiple=True, help="file of held-out slices, for overlays")
@click.option("--cases", type=PATH, help="table of cases, for overlays")
@path_option("out", "folder for the figures")
def figures(
    matches: tuple[Path, ...],
    curve_errors: tuple[Path, ...],
    vertebrae: tuple[Path, ...],
    slices: tuple[Path, ...],
    cases: Path | None,
    out: Path,
) -> None:
    """Draw agreement of G, errors, ROC curves, doubt and levels of one system or of several, side by side.

    With --vertebrae, --slices and --cases also overlays of the best, median and worst held-out case; with matches of
    experts also how they disagree.
    """
    from vertfrac import tables
    from vertfrac.report.cohort import draw_comparison, draw_overlays

    if len({bool(vertebrae), bool(slices), cases is not None}) > 1:
        raise click.UsageError("overlays need --vertebrae, --slices and --cases together")
    matched = tables.read_tables(matches, tables.MATCHES)
    no_curves = tables.CURVE_ERRORS.frame([])
    draw_comparison(matched, tables.read_tables(curve_errors, tables.CURVE_ERRORS) if curve_errors else no_curves, out)
    if cases:
        draw_overlays(matched, vertebrae, slices, cases, out)
