"""``vertfrac predict``: scans in, one folder of results per scan and one table of all scans out."""

from __future__ import annotations

import errno
import gc
import os
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy
import pandas as pd
import torch

from vertfrac import __version__, tables
from vertfrac.errors import ConfigError, VertfracError
from vertfrac.files import alone, clear_unfinished, replacing_folder, write_json
from vertfrac.imaging import Image, case_name, read_image
from vertfrac.imaging.dicom_source import DicomSource, read_source
from vertfrac.imaging.messages import one_line, printable
from vertfrac.inference.card import card_digest
from vertfrac.inference.held_out import curve_rows
from vertfrac.inference.request import check_request
from vertfrac.inference.scan import ScanResult, analyse, worst
from vertfrac.inference.weights import Model, load_model
from vertfrac.report import slicer
from vertfrac.report.figures import overlay
from vertfrac.report.levels import named_levels
from vertfrac.report.page import write_report
from vertfrac.report.scan_figure import draw_overlay
from vertfrac.report.sentence import failure_sentence, scan_sentence
from vertfrac.report.style import pixels
from vertfrac.report.views import FILE as VIEWS
from vertfrac.report.views import write_views

LOCK = ".lock"
RESERVED = ("scans.parquet", "scans.csv", "vertebrae.parquet", "vertebrae.csv", "report.html")
"""Files in the folder of results: no scan's own folder may be called so. The first says that the others are ours."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""What keeps every further scan from being written, not the one at work alone."""


class Outcome(NamedTuple):
    """What came of one scan.

    row : its row of SCAN_RESULTS. vertebrae : its rows of VERTEBRAE, none if it failed. warnings : what is unusual
    about it or was not graded. seconds : by stage, none if it failed. folder : where its files are; None if it failed
    or none were asked for.
    """

    row: dict[str, Any]
    vertebrae: pd.DataFrame
    warnings: tuple[str, ...]
    seconds: dict[str, float]
    folder: Path | None


class Watcher(Protocol):
    """Who follows a call of `predict_scans`."""

    def begin(self, case: str) -> None:
        """A scan is about to be read."""

    def done(self, outcome: Outcome) -> None:
        """A scan was measured, or failed."""


def predict_scans(
    scans: Sequence[Path],
    out: Path,
    model: Path,
    *,
    device: torch.device,
    tell: Callable[[str], None] | None = None,
    watcher: Watcher | None = None,
    dicom: bool = False,
) -> bool:
    """Measure scans one after the other; returns whether all of them succeeded.

    A scan that fails keeps its row in ``out/scans.parquet`` and ``out/scans.csv``, and its line in ``out/report.html``,
    with status and reason; the vertebrae of all scans are in ``out/vertebrae.parquet`` and ``out/vertebrae.csv``.
    The tables and the page of an earlier call are removed before the first scan, since a call that is stopped may have
    replaced some of the folders that they tell of. A defect of vertfrac that one scan brings out is that scan's reason.
    What the process holds once the model is loaded is no longer looked through for garbage.
    tell : receives one line per scan. dicom : write DICOM objects of each scan too. Raises ModelError if the model
    folder is unusable, ImageError if DICOM objects of a NIfTI file are wanted, ConfigError if ``out`` holds a table or
    a page that is not ours or another process works there, OSError if the disk is full or cannot be written.
    """
    check_request(scans, model, dicom=dicom)
    trained = load_model(model, device)
    gc.freeze()  # what is loaded stays: to look through it for garbage takes 0.2 s, once or more for each picture
    names = _distinct([case_name(path) for path in scans])
    rows: list[dict[str, Any]] = []
    vertebrae = [tables.VERTEBRAE.frame([])]
    with _results_in(out):
        for case, path in zip(names, scans, strict=True):
            if watcher is not None:
                watcher.begin(case)
            outcome = _predict_whatever_happens(case, path, trained, out / case, dicom=dicom)
            if watcher is not None:
                watcher.done(outcome)
            if tell is not None:
                tell(as_line(outcome.row))
            rows.append(outcome.row)
            vertebrae.append(outcome.vertebrae)
        written = tables.write_table(out / "scans.parquet", tables.SCAN_RESULTS, rows)
        tables.write_csv(out / "scans.csv", written)
        written = tables.write_table(out / "vertebrae.parquet", tables.VERTEBRAE, pd.concat(vertebrae))
        tables.write_csv(out / "vertebrae.csv", written.drop(columns=["repeat", "fold"]))
        write_report(out)
    return all(row["status"] == "ok" for row in rows)


@contextmanager
def _results_in(out: Path) -> Iterator[None]:
    """A folder of results for this call alone, without tables and without what a killed call has left half-written.

    Raises ConfigError if there is a file of RESERVED that is not ours, or another process at work.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out}: a file, expected a folder for the results")
    out.mkdir(parents=True, exist_ok=True)
    with alone(out / LOCK):
        there = [out / name for name in reversed(RESERVED) if os.path.lexists(out / name)]
        if there and not tables.is_table(out / RESERVED[0], tables.SCAN_RESULTS):
            raise ConfigError(
                f"{there[0]}: exists without {RESERVED[0]} of vertfrac, expected a new folder or an earlier result"
            )
        clear_unfinished(out)
        for path in there:  # the table by which they are known as ours comes last
            path.unlink()
        yield


def as_line(row: dict[str, Any]) -> str:
    """A row of SCAN_RESULTS as one line: the case and its sentence, or the whole reason why it failed."""
    return f"{row['case']}: " + (row["sentence"] if row["status"] == "ok" else f"failed: {row['reason']}")


def _distinct(names: Sequence[str]) -> list[str]:
    """Names made unique by a running number, so that two scans of one name never share a folder."""
    taken = {*RESERVED, LOCK}
    result = []
    for name in names:
        unique, number = name, 2
        while unique in taken:
            unique, number = f"{name}-{number}", number + 1
        taken.add(unique)
        result.append(unique)
    return result


def predict_scan(case: str, path: Path, model: Model, folder: Path | None, *, dicom: bool = False) -> Outcome:
    """Measure one scan. A failure is told in the row, not raised, but for a defect and for a disk that takes no more.

    folder : where the scan's own tables, its card and its overlay go; None writes nothing. dicom : write DICOM objects
    there too, for which the scan must be a DICOM series.
    """
    start = time.perf_counter()
    vertebrae, source = tables.VERTEBRAE.frame([]), printable(path)
    seconds: dict[str, float] = {}
    warnings: tuple[str, ...] = ()
    try:
        image = read_image(path)
        objects = read_source(image.files) if dicom else None
        if objects is not None:
            image = replace(image, warnings=(*image.warnings, *objects.warnings))
        reading = time.perf_counter() - start
        try:
            result = analyse(image, model)
        except VertfracError as error:
            raise type(error)(f"{path}: {error}") from error
        found = result.vertebrae.assign(case=case, system=model.name)
        writing = time.perf_counter()
        if folder is not None:
            write_folder(folder, case, path, image, result, found, model, reading, objects)
        vertebrae = found
        row = {"status": "ok", "reason": "", **worst(vertebrae), "warnings": "; ".join(result.warnings)}
        row["sentence"] = scan_sentence(vertebrae)
        warnings = result.warnings
        written = {} if folder is None else {"write": round(time.perf_counter() - writing, 4)}
        seconds = {"read": round(reading, 4), **result.seconds, **written}
    except Exception as error:
        if (reason := _reason(error, path)) is None:
            raise
        row = {"status": "failed", "reason": reason, "sentence": failure_sentence(reason, source)}
    row = {"case": case, "source": source, **row, "seconds": time.perf_counter() - start}
    return Outcome(row, vertebrae, warnings, seconds, folder if row["status"] == "ok" else None)


def _reason(error: Exception, path: Path) -> str | None:
    """Why a scan failed; None for a disk that takes no more, which no other scan outlives, and for a defect."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error):
        return f"{printable(path)}: the scan needs more memory than there is ({one_line(error)})"
    told = isinstance(error, VertfracError) or (isinstance(error, OSError) and error.errno not in _NO_ROOM)
    return one_line(error) if told else None


def _predict_whatever_happens(case: str, path: Path, model: Model, folder: Path, *, dicom: bool) -> Outcome:
    """`predict_scan`, where a defect of vertfrac that one scan brings out costs no other scan."""
    start = time.perf_counter()
    try:
        return predict_scan(case, path, model, folder, dicom=dicom)
    except OSError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if "vertfrac" in Path(frame.filename).parts][-1]
        where = f"{Path(own.filename).name}, line {own.lineno}"
        reason = f"{printable(path)}: a defect of vertfrac, {type(error).__name__}: {one_line(error)} ({where})"
    source = printable(path)
    sentence, seconds = failure_sentence(reason, source), time.perf_counter() - start
    row = {
        "case": case,
        "source": source,
        "status": "failed",
        "reason": reason,
        "sentence": sentence,
        "seconds": seconds,
    }
    return Outcome(row, tables.VERTEBRAE.frame([]), (), {}, None)


def write_folder(
    out: Path,
    case: str,
    path: Path,
    image: Image,
    result: ScanResult,
    vertebrae: pd.DataFrame,
    model: Model,
    reading: float,
    source: DicomSource | None = None,
) -> None:
    """Write the folder of one scan, all of it or nothing.

    vertebrae : those of the result with case and system. reading : seconds that it took to read the image. source : the
    study that DICOM objects are written for. Raises ConfigError if the folder holds something else.
    """
    with replacing_folder(out, marker="scan.json") as folder, ThreadPoolExecutor(1) as beside:
        views = beside.submit(
            write_views, folder / VIEWS, image=image, geometry=result.geometry, vertebrae=vertebrae
        )  # sampling and WebP let matplotlib go on
        written = tables.write_table(folder / "vertebrae.parquet", tables.VERTEBRAE, vertebrae)
        tables.write_csv(folder / "vertebrae.csv", written.drop(columns=["repeat", "fold"]))
        spine = result.spine
        tables.write_table(folder / "curve.parquet", tables.CURVES, curve_rows(case, spine.curve, spine.probability))
        slicer.write_scan(folder / "rulers.mrk.json", vertebrae, spine.curve)
        overlay(
            folder / "overlay.png",
            image=image,
            geometry=result.geometry,
            slice_hu=result.slice_hu,
            vertebrae=vertebrae,
            title=case,
        )
        if source is not None:
            _write_dicom(folder, source, image, result, vertebrae, model)
        views.result()
        write_json(folder / "scan.json", _scan_card(case, path, image, result, model, round(reading, 4)))


def _write_dicom(
    folder: Path, source: DicomSource, image: Image, result: ScanResult, vertebrae: pd.DataFrame, model: Model
) -> None:
    """The structured report and the overlay, for the study that the scan is of."""
    from vertfrac.report import dicom  # here: highdicom takes a second, which only this should pay

    author = dicom.Author(__version__, model.name, card_digest(model.card))
    dicom.write_report(folder / "measurements.dcm", source, vertebrae, result.warnings, author)
    figure = draw_overlay(
        image=image,
        geometry=result.geometry,
        slice_hu=result.slice_hu,
        vertebrae=vertebrae,
        title=f"vertfrac {__version__}: research use only, not for diagnosis",  # no name: it may be a patient's
    )
    dicom.write_picture(folder / "overlay.dcm", source, pixels(figure), author)


def _scan_card(case: str, path: Path, image: Image, result: ScanResult, model: Model, reading: float) -> dict[str, Any]:
    statuses = result.vertebrae["status"]
    named = named_levels(result.vertebrae)
    return {
        "case": case,
        "source": printable(path),
        "sentence": scan_sentence(result.vertebrae),
        "shape": list(image.grid.shape),
        "spacing_mm": [round(float(mm), 4) for mm in image.grid.spacing_mm],
        **worst(result.vertebrae),
        "counts": {
            status: int((statuses == status).sum())
            for status in ("ok", "partial", "low_score", "sacrum", "not_measured")
        },
        "levels": None if named is None else named._asdict(),
        "warnings": list(result.warnings),
        "model": {"name": model.name, "cohort": model.card["cohort"], "vertfrac": model.card["vertfrac"]},
        "versions": {
            "vertfrac": __version__,
            "torch": torch.__version__,
            "numpy": numpy.__version__,
            "nibabel": version("nibabel"),  # which is not imported where the scan is DICOM
        },
        "device": str(model.device),
        "seconds": {"read": reading, **result.seconds},
    }
