"""Inference on a cohort that a model was not trained on, with all its folds together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from vertfrac import tables
from vertfrac.cohorts.ingest import usable_cases
from vertfrac.errors import VertfracError
from vertfrac.imaging import read_image
from vertfrac.inference.held_out import curve_rows
from vertfrac.inference.scan import analyse
from vertfrac.inference.weights import Model


def predict_cohort(
    model: Model, cases: Path, *, run: dict[str, Any], vertebrae: Path, curves: Path, statuses: Path
) -> None:
    """Measure the vertebrae of every usable case of a table of cases; tables VERTEBRAE, CURVES and CASE_STATUS.

    run : the values of system and repeat. A case in which no spine is found keeps its row of status, with the reason.
    """
    found = [tables.VERTEBRAE.frame([])]
    points: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for case, image in usable_cases(cases):
        try:
            result = analyse(read_image(image), model)
        except VertfracError as error:
            rows.append({"case": case, "status": "no_spine", "reason": str(error)})
            continue
        rows.append({"case": case, "status": "ok", "reason": ""})
        points += curve_rows(case, result.spine.curve, result.spine.probability)
        found.append(result.vertebrae.assign(**run, case=case))
    tables.write_table(vertebrae, tables.VERTEBRAE, pd.concat(found))
    tables.write_table(curves, tables.CURVES, points)
    tables.write_table(statuses, tables.CASE_STATUS, rows)
