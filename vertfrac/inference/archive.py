"""Measuring an archive one shard at a time, so that whatever stops a shard, what it has done is kept.

The results of a shard are one file in each of two datasets, ``scans`` (ARCHIVE_SCANS) and ``vertebrae`` (VERTEBRAE).
While it works, every finished scan is one line of its journal in ``journals``, which outlives a kill. A row holds as
long as the scan's path, size and time of modification, the model and the code are those that it was computed from.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from filelock import FileLock, Timeout

from vertfrac import tables
from vertfrac.cohorts.archive import part_name
from vertfrac.errors import CohortError, TableError
from vertfrac.files import clear_unfinished, replacing
from vertfrac.genant import GRADES
from vertfrac.imaging.messages import one_line
from vertfrac.inference.card import model_digest
from vertfrac.provenance import provenance

if TYPE_CHECKING:
    import torch

    from vertfrac.inference.weights import Model

Row = dict[str, Any]

_COMMON_REASONS = 10


def computed_by(model: Path) -> str:
    """What decides the numbers: the code from the scan to the vertebrae, its libraries, and the model, in digests."""
    code = provenance("imaging.image.read_image", "inference.scan.analyse", "inference.weights.load_model")
    return f"{hashlib.sha256(code.encode()).hexdigest()[:12]}-{model_digest(model)}"


def measure_shard(
    listing: Path,
    out: Path,
    model: Path,
    *,
    shard: tuple[int, int],
    pictures: bool,
    retry: bool,
    compute_on: Callable[[], torch.device],
    warn: Callable[[str], None],
) -> dict[str, int]:
    """Bring the part of a shard up to date; returns how many scans it has, by status and by whether it was computed.

    listing : table ARCHIVE_LIST. shard : its number and how many there are. pictures : write each scan's own folder.
    retry : compute scans again that failed. compute_on : where to compute, asked only if there is something to compute.
    warn : receives one line per scan that fails now. Raises ModelError if the model folder is unusable, CohortError if
    another process works on the shard.
    """
    number, count = shard
    name = part_name(number, count)
    scans, vertebrae = (out / dataset / f"{name}.parquet" for dataset in ("scans", "vertebrae"))
    journal = out / "journals" / f"{name}.jsonl"
    with _alone(journal.with_suffix(".lock")):
        for place in (scans.parent, vertebrae.parent, out / "folders" / name):
            clear_unfinished(place)
        by = computed_by(model)
        wanted = [_wanted(case, source, by) for case, source in _of_shard(listing, number)]
        before = _records(tables.read_table(scans, tables.ARCHIVE_SCANS)) if scans.exists() else []
        written = {row["case"]: row for row in before}
        entries = {entry["scan"]["case"]: entry for entry in _read_journal(journal)}
        kept: list[str] = []
        new: list[Row] = []
        missing: list[Row] = []
        for scan in wanted:
            case = scan["case"]
            if case in entries and _holds(entries[case]["scan"], scan, pictures=pictures, retry=retry):
                new.append(entries[case])
            elif case in written and _holds(written[case], scan, pictures=pictures, retry=retry):
                kept.append(case)
            else:
                missing.append(scan)
        resumed = len(new)
        if missing:
            trained = _load(model, compute_on())
            with journal.open("a", encoding="utf-8") as file:
                for scan in missing:
                    entry = _measure(scan, trained, out / "folders" / name if pictures else None, warn)
                    file.write(json.dumps(entry) + "\n")
                    file.flush()
                    new.append(entry)
        rows = [written[case] for case in kept] + [entry["scan"] for entry in new]
        if new or len(written) != len(kept) or not scans.exists():
            old = tables.read_table(vertebrae, tables.VERTEBRAE) if kept else tables.VERTEBRAE.frame([])
            found = tables.VERTEBRAE.frame([row for entry in new for row in entry["vertebrae"]])
            both = pd.concat([old[old["case"].isin(kept)], found]).sort_values(["case", "vertebra"])
            tables.write_table(vertebrae, tables.VERTEBRAE, both)
            tables.write_table(scans, tables.ARCHIVE_SCANS, sorted(rows, key=lambda row: row["case"]))
        journal.unlink(missing_ok=True)
    ok = sum(row["status"] == "ok" for row in rows)
    return {
        "scans": len(rows), "ok": ok, "failed": len(rows) - ok,
        "computed": len(missing), "resumed": resumed, "kept": len(kept),
    }  # fmt: skip


def _load(model: Path, device: torch.device) -> Model:
    from vertfrac.inference.weights import load_model  # here: a shard without news is done before torch is imported

    return load_model(model, device)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise CohortError(f"{path}: another process is at work on this shard, expected to be alone") from error
    try:
        yield
    finally:
        lock.release()


def _of_shard(listing: Path, number: int) -> list[tuple[str, str | None]]:
    rows = _records(tables.ARCHIVE_LIST.frame(pd.read_parquet(listing, filters=[("shard", "==", number)])))
    return [(row["case"], row["source"]) for row in rows]


def _wanted(case: str, source: str | None, by: str) -> Row:
    """What a row must agree with to hold. A file that is gone has no size: reading it says why."""
    row: Row = {"case": case, "source": source, "bytes": None, "modified_ns": None, "computed_by": by}
    if source is not None:
        try:
            found = os.stat(source)
        except OSError:
            return row
        row["bytes"] = None if stat.S_ISDIR(found.st_mode) else found.st_size
        row["modified_ns"] = found.st_mtime_ns
    return row


def _holds(row: Row, wanted: Row, *, pictures: bool, retry: bool) -> bool:
    if any(row[key] != value for key, value in wanted.items()):
        return False
    return not retry if row["status"] != "ok" else not pictures or row["folder"] is not None


def _measure(wanted: Row, model: Model, folders: Path | None, warn: Callable[[str], None]) -> Row:
    """The line of the journal for one scan, whatever happens to it."""
    from vertfrac.inference.predict import predict_scan
    from vertfrac.report.sentence import failure_sentence

    case, source = wanted["case"], wanted["source"]
    folder = None if folders is None else folders / case
    row: Row
    vertebrae: list[Row] = []
    if source is None:
        row = {"status": "failed", "reason": f"case {case} has no image, expected a NIfTI file or a DICOM folder"}
        row["sentence"] = failure_sentence(row["reason"])
    else:
        try:
            outcome = predict_scan(case, Path(source), model, folder)
            row, vertebrae = outcome.row, _records(tables.VERTEBRAE.frame(outcome.vertebrae))
        except OSError:  # the disk takes no more: not the scan's fault, and the same for all others
            raise
        except Exception as error:  # a defect that one scan brings out must not cost the others of the shard
            warn(traceback.format_exc())
            row = {"status": "failed", "reason": f"{type(error).__name__}: {one_line(error)}"}
            row["sentence"] = failure_sentence(row["reason"], source)
    if row["status"] != "ok":
        warn(f"{case}: failed: {row['reason']}")
    drawn = folder is not None and row["status"] == "ok"
    return {"scan": {**row, **wanted, "folder": str(folder) if drawn else None}, "vertebrae": vertebrae}


def _records(data: pd.DataFrame) -> list[Row]:
    """The rows of a table as plain values, None where one is missing."""
    records: list[Row] = data.astype(object).where(data.notna(), None).to_dict("records")  # type: ignore[assignment]  # pandas says Hashable, columns are text
    return records


def _read_journal(path: Path) -> list[Row]:
    """What a stopped call has finished. A last line that was cut short is taken off the file; others may be damaged."""
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    os.truncate(path, len(whole))
    return [entry for line in whole.splitlines() if (entry := _journal_entry(line)) is not None]


def _journal_entry(line: bytes) -> Row | None:
    """What `_measure` returned, or None where it would not have returned that."""
    try:
        entry = json.loads(line)
        tables.ARCHIVE_SCANS.frame([entry["scan"]])
        tables.VERTEBRAE.frame(entry["vertebrae"])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError, TableError):
        return None
    return entry if isinstance(entry["scan"].get("case"), str) else None


def summarise(listing: Path, out: Path) -> str:
    """Count the scans of all shards; writes ``summary.parquet`` and ``summary.txt``, returns the text.

    Raises TableError if the scans of the dataset are not those of the list, each once.
    """
    listed = tables.read_table(listing, tables.ARCHIVE_LIST)["case"]
    columns = ["case", "source", "status", "reason", "vertebrae", "worst_grade", "seconds"]
    scans = tables.ARCHIVE_SCANS.frame(pd.read_parquet(out / "scans", columns=columns))
    if not scans["case"].sort_values(ignore_index=True).equals(listed.sort_values(ignore_index=True)):
        raise TableError(
            f"{out / 'scans'}: {len(scans)} rows are not the {len(listed)} scans listed; "
            f"delete {out / 'shards'} and call again"
        )
    ok = scans[scans["status"] == "ok"]
    failed = scans[scans["status"] != "ok"]
    reasons = pd.Series(
        [_common(reason, source) for reason, source in zip(failed["reason"], failed["source"], strict=True)],
        dtype="string",
    )
    counts = {
        "status": scans["status"].value_counts(),
        "worst_grade": ok["worst_grade"].value_counts(dropna=False).sort_index(),
        "reason": reasons.value_counts(),
    }
    rows = [
        {"what": what, "value": None if value is pd.NA else str(value), "scans": int(n)}
        for what, series in counts.items()
        for value, n in series.items()
    ]
    tables.write_table(out / "summary.parquet", tables.ARCHIVE_SUMMARY, rows)
    lines = [
        f"{len(scans)} scans: {len(ok)} ok, {len(failed)} failed",
        f"{int(ok['vertebrae'].sum())} vertebrae graded in {ok['seconds'].sum() / 3600:.2f} hours of work",
        *(f"worst grade {_grade(value)}: {n}" for value, n in counts["worst_grade"].items()),
        *(f"failed: {n} x {reason}" for reason, n in counts["reason"].head(_COMMON_REASONS).items()),
    ]
    text = "\n".join(lines) + "\n"
    with replacing(out / "summary.txt") as temporary:
        temporary.write_text(text, encoding="utf-8")
    return text


def _grade(value: Any) -> str:
    return "none, no vertebra measured" if value is pd.NA else f"{int(value)} ({GRADES[int(value)]})"


def _common(reason: str, source: str | None) -> str:
    """A reason without what is different in every scan: its path and numbers."""
    return re.sub(r"\d+(\.\d+)?", "#", reason.replace(source, "SCAN") if source else reason)
