"""``report.html``: all scans of one call on one page that needs no network, to look at, to correct and to print.

The page is written from the folder of results alone (``vertfrac report OUT`` writes it again), one scan after the
other, so that a long list does not fill the memory. The data of each scan is a JSON script of its own, which the
browser parses when the scan is opened. Nothing but the two inlined files, named by their hashes, may run in the page,
and nothing may be fetched or sent (Content-Security-Policy).
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from vertfrac import __version__, tables
from vertfrac.cohorts.annotation_json import FORMAT as ANNOTATION_FORMAT
from vertfrac.cohorts.levels import LEVELS, NAMED
from vertfrac.errors import TableError
from vertfrac.files import read_json, replacing
from vertfrac.genant import GRADE_LIMITS, GRADES
from vertfrac.geometry.keypoints import HEIGHTS, KEYPOINTS
from vertfrac.level_shape import typical_heights
from vertfrac.report.style import GRADE_COLOURS, UNGRADED_COLOUR, grade_captions
from vertfrac.report.templating import template
from vertfrac.report.views import FILE, read_views

PAGE = "report.html"

_SCRIPTS = ("geometry.js", "review.js", "annotation.js", "pictures.js", "rulers.js", "scans.js", "page.js")
"""In the order in which they are joined to one script."""

Record = dict[str, Any]


def write_report(out: Path) -> Path:
    """Write ``out/report.html`` from the results in ``out``; returns its path.

    Needs ``scans.parquet`` and, of each scan that succeeded, its folder. A folder without ``views.json``, of an earlier
    version, is shown without pictures. Raises TableError that names a file that is missing or broken.
    """
    scans = _table(out / "scans.parquet", tables.SCAN_RESULTS)
    if (nameless := scans["case"].isna()).any():
        raise TableError(f"{out / 'scans.parquet'}: row {nameless.argmax() + 1} has no case, expected a name")
    rows = sorted(_records(scans), key=_worst_first)
    write_page(out / PAGE, rows, (_body(out / row["case"], row) for row in rows))
    return out / PAGE


def write_page(path: Path, rows: Sequence[Record], bodies: Iterator[Record | None]) -> None:
    """Write a page of scans, atomically.

    rows : of SCAN_RESULTS, in the order of the page. bodies : of each what ``_body`` gathers, None for a failed scan.
    """
    style, script = _joined(["report.css"]), _joined(_SCRIPTS)
    page = template("report/report.html").stream(
        version=__version__,
        style=Markup(style),
        script=Markup(script),
        policy=_policy(style, script),
        settings=_settings(),
        legend=list(enumerate(grade_captions())),
        scans=[_head(row) for row in rows],
        bodies=bodies,
    )
    with replacing(path) as temporary:
        page.dump(str(temporary), encoding="utf-8")


def _joined(names: Sequence[str]) -> str:
    folder = files("vertfrac.report") / "templates" / "report"
    return "\n" + "\n".join((folder / name).read_text(encoding="utf-8") for name in names)


def _policy(style: str, script: str) -> str:
    """What the page may do: run its own script and style, show pictures that it holds, and nothing else."""
    style_hash, script_hash = (
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii") for text in (style, script)
    )
    return (
        f"default-src 'none'; script-src 'sha256-{script_hash}'; style-src 'sha256-{style_hash}'; img-src data: blob:; "
        "connect-src 'none'; form-action 'none'; base-uri 'none'"
    )


def _settings() -> Record:
    """What the page's script must agree on with the rest of vertfrac."""
    return {
        "version": __version__,
        "annotationFormat": ANNOTATION_FORMAT,
        "grades": GRADES,
        "gradeLimits": GRADE_LIMITS,
        "gradeColours": GRADE_COLOURS,
        "ungradedColour": UNGRADED_COLOUR,
        "keypoints": KEYPOINTS,
        "heights": HEIGHTS,
        "levels": LEVELS,
        "sacrum": NAMED[-1],
        "levelShapes": dict(zip(NAMED[:-1], typical_heights(NAMED[:-1]).tolist(), strict=True)),
    }


def _head(row: Record) -> Record:
    """What the list of scans shows of a row of SCAN_RESULTS."""
    return {
        "case": row["case"],
        "source": row["source"],
        "failed": row["status"] != "ok",
        "reason": row["reason"] or "",
        "grade": row["worst_grade"],
        "genant": row["smallest_genant"],
        "measured": row["vertebrae"] or 0,
        "warnings": [warning for warning in (row["warnings"] or "").split("; ") if warning],
    }


def _worst_first(row: Record) -> tuple[Any, ...]:
    """Graded scans by grade, then by G; then those without a grade; then failed ones."""
    grade, index = row["worst_grade"], row["smallest_genant"]
    graded = (-1 if grade is None else grade, -1.0 if index is None else -index)
    return (row["status"] != "ok", -graded[0], -graded[1], row["case"])


def _table(path: Path, schema: tables.Schema) -> pd.DataFrame:
    """A table without infinity, which JSON does not know."""
    table = tables.read_table(path, schema)
    for name, column in table.select_dtypes("float").items():
        if np.isinf(column.to_numpy()).any():
            raise TableError(f"{path}: column {name} holds infinity, expected finite numbers")
    return table


def _body(folder: Path, row: Record) -> Record | None:
    """What the page shows of an opened scan: its vertebrae and its views."""
    if row["status"] != "ok":
        return None
    vertebrae = _table(folder / "vertebrae.parquet", tables.VERTEBRAE)
    views = read_views(folder / FILE) if (folder / FILE).exists() else None
    on_slice = {} if views is None else views.keypoints
    points = tables.keypoints_of(vertebrae)
    marks = [
        _vertebra(record, keypoints.tolist() if pd.notna(keypoints).all() else None, on_slice)
        for record, keypoints in zip(_records(vertebrae), points, strict=True)
    ]
    return {
        "vertebrae": marks,
        "views": views and views.model_dump(mode="json", exclude={"keypoints"}),
        "scan": _facts(folder / "scan.json"),
    }


def _vertebra(row: Record, world: list[list[float]] | None, on_slice: Mapping[int, Any]) -> Record:
    return {
        "number": row["vertebra"],
        "level": row["level"] or "",
        "levelProbability": row["level_probability"],
        "levelRunnerUp": row["level_runner_up"] or "",
        "status": row["status"],
        "score": row["score"],
        "world": world,
        "slice": on_slice.get(row["vertebra"]),
    }


def _facts(path: Path) -> Record:
    """Of the scan's card: size, spacing and what graded it."""
    card = read_json(path)
    try:
        return {
            "shape": [int(n) for n in card["shape"]],
            "spacing": [_finite(mm) for mm in card["spacing_mm"]],
            "model": str(card["model"]["name"]),
            "version": str(card["versions"]["vertfrac"]),
        }
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise TableError(f"{path}: lacks {error}, expected the card of a graded scan") from error


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"a finite number, found {number}")
    return number


def _records(data: pd.DataFrame) -> list[Record]:
    """The rows of a table as plain values, None where one is missing."""
    records: list[Record] = data.astype(object).where(data.notna(), None).to_dict("records")  # type: ignore[assignment]  # pandas says Hashable, columns are text
    return records
