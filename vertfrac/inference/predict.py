"""``vertfrac predict``: scans in, one folder of results per scan and one table of all scans out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy
import pandas as pd
import torch

from vertfrac import __version__, tables
from vertfrac.errors import VertfracError
from vertfrac.files import replacing_folder, write_json
from vertfrac.genant import GRADES
from vertfrac.imaging import Image, case_name, read_image
from vertfrac.imaging.messages import one_line
from vertfrac.inference.held_out import curve_rows
from vertfrac.inference.scan import ScanResult, analyse, worst
from vertfrac.inference.weights import Model, load_model
from vertfrac.report.figures import overlay
from vertfrac.report.page import write_report
from vertfrac.report.views import FILE as VIEWS
from vertfrac.report.views import write_views


def predict_scans(
    scans: Sequence[Path],
    out: Path,
    model: Path,
    *,
    device: torch.device,
    tell: Callable[[str], None],
    warn: Callable[[str], None] | None = None,
) -> bool:
    """Measure scans one after the other; returns whether all of them succeeded.

    A scan that fails keeps its row in ``out/scans.parquet`` and ``out/scans.csv``, and its line in ``out/report.html``,
    with status and reason. tell :
    receives one line per scan, or ``warn``, where given, if the scan failed. Raises ModelError if the model folder is
    unusable.
    """
    trained = load_model(model, device)
    out.mkdir(parents=True, exist_ok=True)
    names = _distinct([case_name(path) for path in scans])
    rows: list[dict[str, Any]] = []
    for case, path in zip(names, scans, strict=True):
        row, _ = predict_scan(case, path, trained, out / case)
        if row["status"] == "ok":
            tell(_sentence(case, row))
        else:
            (warn or tell)(f"{case}: failed: {row['reason']}")
        rows.append(row)
    written = tables.write_table(out / "scans.parquet", tables.SCAN_RESULTS, rows)
    tables.write_csv(out / "scans.csv", written)
    write_report(out)
    return all(row["status"] == "ok" for row in rows)


def _distinct(names: Sequence[str]) -> list[str]:
    """Names made unique by a running number, so that two scans of one name never share a folder."""
    taken: set[str] = set()
    result = []
    for name in names:
        unique, number = name, 2
        while unique in taken:
            unique, number = f"{name}-{number}", number + 1
        taken.add(unique)
        result.append(unique)
    return result


def predict_scan(case: str, path: Path, model: Model, folder: Path | None) -> tuple[dict[str, Any], pd.DataFrame]:
    """Measure one scan: its row of SCAN_RESULTS and its rows of VERTEBRAE. A failure is told in the row, not raised.

    folder : where the scan's own tables, its card and its overlay go; None writes nothing.
    """
    start = time.perf_counter()
    vertebrae = tables.VERTEBRAE.frame([])
    try:
        image = read_image(path)
        reading = time.perf_counter() - start
        try:
            result = analyse(image, model)
        except VertfracError as error:
            raise type(error)(f"{path}: {error}") from error
        found = result.vertebrae.assign(case=case, system=model.name)
        if folder is not None:
            _write_folder(folder, case, path, image, result, found, model, reading)
        vertebrae = found
        row = {"status": "ok", "reason": "", **worst(vertebrae), "warnings": "; ".join(result.warnings)}
    except (VertfracError, OSError) as error:
        row = {"status": "failed", "reason": one_line(error)}
    return {"case": case, "source": str(path), **row, "seconds": time.perf_counter() - start}, vertebrae


def _write_folder(
    out: Path,
    case: str,
    path: Path,
    image: Image,
    result: ScanResult,
    vertebrae: pd.DataFrame,
    model: Model,
    reading: float,
) -> None:
    with replacing_folder(out, marker="scan.json") as folder:
        written = tables.write_table(folder / "vertebrae.parquet", tables.VERTEBRAE, vertebrae)
        tables.write_csv(folder / "vertebrae.csv", written.drop(columns=["repeat", "fold"]))
        spine = result.spine
        tables.write_table(folder / "curve.parquet", tables.CURVES, curve_rows(case, spine.curve, spine.probability))
        overlay(
            folder / "overlay.png",
            image=image,
            geometry=result.geometry,
            slice_hu=result.slice_hu,
            vertebrae=vertebrae,
            title=case,
        )
        write_views(folder / VIEWS, image=image, geometry=result.geometry, vertebrae=vertebrae)
        write_json(folder / "scan.json", _scan_card(case, path, image, result, model, round(reading, 4)))


def _scan_card(case: str, path: Path, image: Image, result: ScanResult, model: Model, reading: float) -> dict[str, Any]:
    statuses = result.vertebrae["status"]
    return {
        "case": case,
        "source": str(path),
        "shape": list(image.grid.shape),
        "spacing_mm": [round(float(mm), 4) for mm in image.grid.spacing_mm],
        **worst(result.vertebrae),
        "counts": {
            status: int((statuses == status).sum()) for status in ("ok", "partial", "low_score", "not_measured")
        },
        "warnings": list(result.warnings),
        "model": {"name": model.name, "cohort": model.card["cohort"], "vertfrac": model.card["vertfrac"]},
        "versions": {
            "vertfrac": __version__,
            "torch": torch.__version__,
            "numpy": numpy.__version__,
            "nibabel": nibabel.__version__,
        },
        "device": str(model.device),
        "seconds": {"read": reading, **result.seconds},
    }


def _sentence(case: str, row: dict[str, Any]) -> str:
    if not row["vertebrae"]:
        return f"{case}: vertebrae were found, but none could be measured"
    noun = "vertebra" if row["vertebrae"] == 1 else "vertebrae"
    return (
        f"{case}: {row['vertebrae']} {noun} measured, worst grade {row['worst_grade']} "
        f"({GRADES[row['worst_grade']]}), smallest G {row['smallest_genant']:.2f}"
    )
