"""The schema of every table, and reading and writing tables by it.

A table is long: one row per fact. Its columns, types, units and meanings are stated here once; the Parquet file
carries the meanings, and ``docs/tables.md`` is printed from here (``vertfrac tables``).
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from vertfrac.errors import TableError
from vertfrac.files import replacing
from vertfrac.genant import GRADES
from vertfrac.geometry.keypoints import KEYPOINT_COLUMNS

STRING, INT, FLOAT, BOOL = pa.string(), pa.int64(), pa.float64(), pa.bool_()


@dataclass(frozen=True)
class Column:
    """Name, type, unit ("" for none) and meaning of one column."""

    name: str
    type: pa.DataType
    unit: str
    meaning: str


@dataclass(frozen=True)
class Schema:
    """A named table: its columns in order. ``required`` are those that a file given by a user must hold."""

    name: str
    columns: tuple[Column, ...]
    required: tuple[str, ...] = ()

    def arrow(self) -> pa.Schema:
        """The schema in Arrow form, the meaning of each column as its metadata."""
        return pa.schema(
            [pa.field(c.name, c.type, metadata={"unit": c.unit, "meaning": c.meaning}) for c in self.columns],
            metadata={"vertfrac_table": self.name},
        )

    def as_markdown(self) -> str:
        """The columns as a Markdown table under a heading."""
        lines = [f"## {self.name}", "", "| column | type | unit | meaning |", "|---|---|---|---|"]
        return "\n".join([*lines, *(f"| {c.name} | {c.type} | {c.unit} | {c.meaning} |" for c in self.columns), ""])

    def frame(self, rows: Iterable[dict[str, Any]] | pd.DataFrame) -> pd.DataFrame:
        """Rows as a data frame with exactly the columns of the schema; absent values are missing."""
        data = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows))
        unknown = set(data.columns) - {c.name for c in self.columns}
        if unknown:
            raise TableError(f"table {self.name}: unknown columns {sorted(unknown)}")
        return _typed(self, data)


_PANDAS: dict[pa.DataType, Any] = {STRING: "string", INT: "Int64", FLOAT: "float64", BOOL: "boolean"}


def _typed(schema: Schema, data: pd.DataFrame) -> pd.DataFrame:
    columns = {}
    for column in schema.columns:
        values = data[column.name] if column.name in data.columns else pd.Series([None] * len(data), index=data.index)
        try:
            columns[column.name] = values.astype(_PANDAS[column.type])
        except (TypeError, ValueError, OverflowError) as error:
            raise TableError(
                f"column {column.name}: expected {column.type}, found {values.dtype} ({error})".split("\n")[0]
            ) from error
    return pd.DataFrame(columns, index=data.index).reset_index(drop=True)


def write_table(path: Path | str, schema: Schema, rows: Iterable[dict[str, Any]] | pd.DataFrame) -> pd.DataFrame:
    """Write rows as Parquet by the schema, atomically; returns what was written."""
    data = schema.frame(rows)
    table = pa.Table.from_pandas(data, schema=schema.arrow(), preserve_index=False)
    with replacing(path) as temporary:
        pq.write_table(table, temporary)
    return data


def is_table(path: Path | str, schema: Schema) -> bool:
    """Whether a file is one that `write_table` wrote by the schema, or by an earlier version of it."""
    try:
        return (pq.read_schema(path).metadata or {}).get(b"vertfrac_table") == schema.name.encode()
    except (OSError, pa.ArrowException):
        return False


def write_csv(path: Path | str, data: pd.DataFrame) -> None:
    """Write a data frame as CSV with four decimals, atomically.

    A text that a spreadsheet would take for a formula gets an apostrophe in front (OWASP, CSV injection), which
    `read_table` takes off again; a text that is a number is left as it is.
    """
    texts = {str(name): values.map(_guarded) for name, values in data.select_dtypes(["object", "string"]).items()}
    returns = any(isinstance(value, str) and "\r" in value for values in texts.values() for value in values)
    # the minimum leaves a carriage return bare, which makes two rows of one
    quoting: Literal[0, 1] = csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL
    with replacing(path) as temporary:
        data.assign(**texts).to_csv(temporary, index=False, float_format="%.4f", quoting=quoting)


_FORMULA = re.compile("'*[-=+@\\t\\r\\n\uff1d\uff0b\uff0d\uff20]")
"""How a text begins that a spreadsheet may run; the last four are the wide forms of the signs."""
_HARMLESS = re.compile(r"-|[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


def _guarded(value: Any) -> Any:
    if isinstance(value, str) and _FORMULA.match(value) and not _HARMLESS.fullmatch(value):
        return f"'{value}"
    return value


def _unguarded(value: Any) -> Any:
    return value[1:] if isinstance(value, str) and value.startswith("'") and _FORMULA.match(value) else value


def read_table(path: Path | str, schema: Schema) -> pd.DataFrame:
    """Read a Parquet or CSV table and check it against the schema.

    Raises TableError naming the file if it cannot be read, lacks a column or holds a value of another type.
    """
    path = Path(path)
    try:
        data = _read_csv(path, schema) if path.suffix == ".csv" else pd.read_parquet(path)
    except FileNotFoundError as error:
        raise TableError(f"{path}: no such file, expected the table of {schema.name}") from error
    except Exception as error:
        raise TableError(f"{path}: cannot be read as a table of {schema.name} ({_first_line(error)})") from error
    required = schema.required or tuple(c.name for c in schema.columns)
    absent = [name for name in required if name not in data.columns]
    if absent:
        raise TableError(f"{path}: column {absent[0]} is missing, expected the columns {', '.join(required)}")
    try:
        return _typed(schema, data)
    except TableError as error:
        raise TableError(f"{path}: {error}") from error


def read_tables(paths: Sequence[Path | str], schema: Schema) -> pd.DataFrame:
    """Read tables of one schema and stack them."""
    return pd.concat([read_table(path, schema) for path in paths], ignore_index=True)


def keypoints_of(data: pd.DataFrame) -> np.ndarray:
    """The keypoints of the rows of a table, (n, 6, 3), world RAS mm."""
    return data[list(KEYPOINT_COLUMNS)].to_numpy(dtype=np.float64).reshape(-1, 6, 3)


def keypoint_values(keypoints: np.ndarray) -> dict[str, float]:
    """The 18 keypoint columns of one vertebra; keypoints (6, 3), world RAS mm."""
    return dict(zip(KEYPOINT_COLUMNS, np.asarray(keypoints, dtype=np.float64).reshape(-1).tolist(), strict=True))


def _read_csv(path: Path, schema: Schema) -> pd.DataFrame:
    data: pd.DataFrame = pd.read_csv(path, **_csv_options(schema))
    texts = [column.name for column in schema.columns if column.type == STRING and column.name in data.columns]
    return data.assign(**{name: data[name].map(_unguarded, na_action="ignore") for name in texts})


def _csv_options(schema: Schema) -> dict[str, Any]:
    """Text columns stay text, so that a case may be called 007 or NA; only an empty cell is missing there."""
    text = {c.name for c in schema.columns if c.type == STRING}
    missing = {c.name: [""] if c.name in text else ["", "nan", "NaN", "NA"] for c in schema.columns}
    return {"dtype": dict.fromkeys(text, "string"), "na_values": missing, "keep_default_na": False}


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


_CASE = Column("case", STRING, "", "name of the scan, unique in its cohort")
_RUN = (
    Column("system", STRING, "", "name of the system, as in config/systems"),
    Column("repeat", INT, "", "repeat of the cross-validation, from 0"),
    Column("fold", INT, "", "fold within the repeat, from 0"),
)
_STATUS = (
    Column("status", STRING, "", "ok, or the kind of failure"),
    Column("reason", STRING, "", "one line that says what was found and what was expected; empty if ok"),
)
_KEYPOINTS = tuple(
    Column(name, FLOAT, "mm", f"world RAS coordinate of the {name[:-2].replace('_', ' ')} keypoint")
    for name in KEYPOINT_COLUMNS
)

_SPLIT = Column("split", STRING, "", "part of a published split: train, validation, test; empty where there is none")
_SLICES = (
    Column("slices", INT, "", "voxels along the superior axis"),
    Column("spacing_x", FLOAT, "mm", "voxel spacing along the axis nearest to right-left"),
    Column("spacing_y", FLOAT, "mm", "voxel spacing along the axis nearest to anterior-posterior"),
    Column("spacing_z", FLOAT, "mm", "voxel spacing along the axis nearest to superior-inferior"),
)
_MARKED = (
    Column("vertebrae", INT, "", "annotated vertebrae (largest number of one expert)"),
    Column("experts", INT, "", "experts that annotated the scan"),
)
_SMALLEST = Column("smallest_genant", FLOAT, "", "smallest Genant index over vertebrae and experts")
_NUMBER = Column("vertebra", INT, "", "running number from the superior end, from 1")
_SEVERITY = (
    Column("genant", FLOAT, "", "Genant index G = min(height) / max(height)"),
    Column("grade", INT, "", "Genant grade 0 to 3 by G; missing unless the status is ok"),
    Column("height_anterior_mm", FLOAT, "mm", "anterior height, measured in 3D"),
    Column("height_middle_mm", FLOAT, "mm", "middle height, measured in 3D"),
    Column("height_posterior_mm", FLOAT, "mm", "posterior height, measured in 3D"),
)
_NAMED = (
    Column("level", STRING, "", "anatomical level (C3 ... T1 ... L6, S1), empty if the model names none"),
    Column("level_probability", FLOAT, "", "probability of that level given the whole column; missing without one"),
    Column(
        "level_runner_up",
        STRING,
        "",
        "the second likeliest level given the whole column, where it is near: the level is in doubt; else empty",
    ),
)
_EXPERT_GRADE = Column("grade", INT, "", "the expert's own Genant grade, 0 to 3; missing where none was given")

CASES = Schema(
    "cases",
    (
        _CASE,
        Column("patient", STRING, "", "the patient; scans of one patient never straddle folds"),
        Column("image", STRING, "", "the canonical image (RAS order, HU), relative to the table's folder"),
        Column("source", STRING, "", "the file or folder it was read from"),
        _SPLIT,
        *_STATUS,
        Column("warnings", STRING, "", "what was unusual but usable, separated by '; '"),
        *_SLICES,
        *_MARKED,
        _SMALLEST,
    ),
)

CHECKS = Schema(
    "checks",
    (
        _CASE,
        Column("patient", STRING, "", "the patient"),
        Column("source", STRING, "", "the file or folder that holds the image"),
        _SPLIT,
        Column(
            "status",
            STRING,
            "",
            "ok; suspect: usable, but image and annotation seem not to fit; excluded: holds nothing to train on; "
            "failed: cannot be used",
        ),
        Column("reason", STRING, "", "why the case is suspect, excluded or failed; empty if ok"),
        Column("findings", STRING, "", "all findings on the annotation, separated by '; '"),
        Column("warnings", STRING, "", "what was unusual about the image but usable, separated by '; '"),
        Column("orientation", STRING, "", "where the stored array axes point to, such as LPS"),
        Column("columns", INT, "", "voxels along the right-left axis"),
        Column("rows", INT, "", "voxels along the anterior-posterior axis"),
        *_SLICES,
        *_MARKED,
        Column("levels", STRING, "", "first and last annotated level, empty if unknown"),
        _SMALLEST,
        Column("median_genant", FLOAT, "", "median Genant index over vertebrae and experts"),
        Column("largest_genant", FLOAT, "", "largest Genant index over vertebrae and experts"),
        *(
            Column(name, INT, "", f"vertebrae of grade {grade}, all experts together")
            for grade, name in enumerate(GRADES)
        ),
        Column("seconds", FLOAT, "s", "wall time"),
    ),
)

SCANS = Schema(
    "scans",
    (
        _CASE,
        Column("image", STRING, "", "NIfTI file or DICOM folder, relative to the table's folder"),
        Column("patient", STRING, "", "the patient; default: the case"),
        Column("annotation", STRING, "", "JSON file or folder of them, relative to the table's folder; default: none"),
        Column("split", STRING, "", "part of a published split: train, validation, test; default: none"),
    ),
    required=("case", "image"),
)

SERIES = Schema(
    "series",
    (
        Column("path", STRING, "", "the file, relative to the indexed folder"),
        Column("series", STRING, "", "SeriesInstanceUID; missing where the file has none or is not DICOM"),
        Column("instance", INT, "", "InstanceNumber; missing where the file has none, or none that is an integer"),
        Column("patient", STRING, "", "PatientID; missing where the file has none"),
        Column("sop_class", STRING, "", "what kind of object the file holds, such as CT Image Storage"),
        Column("reason", STRING, "", "why the file is not readable as DICOM; empty if it is"),
    ),
)

ANNOTATIONS = Schema(
    "annotations",
    (
        _CASE,
        Column("expert", STRING, "", "who annotated"),
        _NUMBER,
        Column("level", STRING, "", "anatomical level (C3 ... T1 ... L5), empty if unknown"),
        _EXPERT_GRADE,
        *_KEYPOINTS,
    ),
    required=("case", "vertebra", *KEYPOINT_COLUMNS),
)

LANDMARKS = Schema(
    "landmarks",
    (
        _CASE,
        Column("level", STRING, "", "what lies there: C2, S1 or another level that has no keypoints"),
        Column("x", FLOAT, "mm", "centre, world RAS"),
        Column("y", FLOAT, "mm", "centre, world RAS"),
        Column("z", FLOAT, "mm", "centre, world RAS"),
    ),
)

DEFAULT_EXPERT = "expert"
"""Name of the expert where a table of annotations has no such column."""

FOLDS = Schema(
    "folds",
    (
        Column("repeat", INT, "", "repeat of the cross-validation, from 0"),
        Column("fold", INT, "", "fold in which the case is held out, from 0; missing for one that is never held out"),
        _CASE,
        Column("patient", STRING, "", "the patient"),
        Column("grade", INT, "", "worst Genant grade of the patient (stratification)"),
    ),
)

CURVES = Schema(
    "curves",
    (
        _CASE,
        Column("point", INT, "", "running number along the curve from the superior end, from 0"),
        Column("x", FLOAT, "mm", "world RAS"),
        Column("y", FLOAT, "mm", "world RAS"),
        Column("z", FLOAT, "mm", "world RAS"),
        Column("probability", FLOAT, "", "probability that the axial plane at this point holds annotatable spine"),
    ),
)

CASE_STATUS = Schema("case_status", (_CASE, *_STATUS))

VERTEBRAE = Schema(
    "vertebrae",
    (
        *_RUN,
        _CASE,
        _NUMBER,
        *_NAMED,
        Column(
            "status",
            STRING,
            "",
            "ok; partial: reaches the edge of the scan; low_score: seen with too little certainty; "
            "sacrum: named S1, which is not graded; not_measured: found, but its keypoints make no vertebra",
        ),
        Column("score", FLOAT, "", "objectness of the detection, 0 to 1"),
        *_SEVERITY,
        Column(
            "genant_level",
            FLOAT,
            "",
            "second opinion on G: of the heights over those that are normal at the level; missing without a level",
        ),
        Column("grade_level", INT, "", "Genant grade 0 to 3 by genant_level; missing unless the status is ok"),
        Column("center_x", FLOAT, "mm", "body centre (midpoint of the middle height), world RAS"),
        Column("center_y", FLOAT, "mm", "body centre, world RAS"),
        Column("center_z", FLOAT, "mm", "body centre, world RAS"),
        Column("spread_mm", FLOAT, "mm", "disagreement of the keypoints among the candidates and models averaged"),
        *_KEYPOINTS,
    ),
    required=(
        *("system", "repeat", "fold", "case", "vertebra", "level", "status", "score", *(c.name for c in _SEVERITY)),
        *("center_x", "center_y", "center_z", "spread_mm", *KEYPOINT_COLUMNS),
    ),  # without those of levels, which tables of earlier versions lack
)

MASK_VERTEBRAE = Schema(
    "mask_vertebrae",
    (
        Column("case", STRING, "", "name of the mask"),
        _NUMBER,
        Column("level", STRING, "", "anatomical level (C1 ... T1 ... L5) by the label"),
        Column("label", INT, "", "value in the mask, in VerSe numbering"),
        Column("status", STRING, "", "ok; cut: the body reaches the edge of the image; not_measured"),
        Column("reason", STRING, "", "why there are no keypoints or why they are doubtful, and what was left out"),
        Column("quality", STRING, "", "good or doubtful; missing unless the status is ok"),
        *_SEVERITY,
        *_KEYPOINTS,
    ),
)

PREDICTIONS = Schema(
    "predictions",
    (
        _CASE,
        Column("vertebra", INT, "", "number of the vertebra, unique in its case; default: running number"),
        Column("score", FLOAT, "", "certainty; default: 1"),
        Column("status", STRING, "", "only vertebrae with status ok are scored; default: ok"),
        Column("spread_mm", FLOAT, "mm", "disagreement of the keypoints among what was averaged; default: unknown"),
        *_NAMED,
        *_KEYPOINTS,
    ),
    required=("case", *KEYPOINT_COLUMNS),
)

_PATIENT = Column("patient", STRING, "", "the patient; the case where patients are unknown")
_TARGET_OF = (
    Column("expert", STRING, "", "whose annotation is the target"),
    Column("rater", STRING, "", "whose annotation is scored as a prediction; missing unless the system is experts"),
)

MATCHES = Schema(
    "matches",
    (
        *_RUN,
        _CASE,
        _PATIENT,
        *_TARGET_OF,
        Column("target", INT, "", "vertebra number of the annotation; missing for a false positive"),
        Column("vertebra", INT, "", "vertebra number of the prediction; missing for a false negative"),
        Column("iou", FLOAT, "", "Butterfly-IoU in the plane of the annotated vertebra"),
        Column("center_error_mm", FLOAT, "mm", "distance of the body centres in 3D"),
        Column("keypoint_error_mm", FLOAT, "mm", "mean distance of the six keypoints in 3D"),
        Column("score", FLOAT, "", "score of the prediction"),
        Column("spread_mm", FLOAT, "mm", "disagreement of the prediction's keypoints among what was averaged"),
        Column("genant_target", FLOAT, "", "G of the annotation"),
        Column(
            "grade_target", INT, "", "the expert's own Genant grade of the annotation; missing where none was given"
        ),
        Column("genant", FLOAT, "", "G of the prediction"),
        Column("level_target", STRING, "", "level of the annotation; missing where none was given"),
        *_NAMED,
        Column(
            "identified",
            BOOL,
            "",
            "of all named predictions of the scan, that of this level is the closest, within 20 mm; missing without "
            "level_target",
        ),
        Column("anchored", BOOL, "", "the scan shows the sacrum, the base of the skull or both ends of the rib cage"),
        Column(
            "nearest_mm", FLOAT, "mm", "distance of the prediction's body centre to the closest annotated one in 3D"
        ),
        Column("nearest_genant", FLOAT, "", "G of that closest annotated vertebra"),
    ),
)

CURVE_ERRORS = Schema(
    "curve_errors",
    (
        *_RUN,
        _CASE,
        _PATIENT,
        *_STATUS,
        *_TARGET_OF,
        Column("curve_error_mm", FLOAT, "mm", "mean in-plane distance to the annotated curve inside its limits"),
        Column("limits_error_mm", FLOAT, "mm", "mean absolute error of the superior and the inferior limit"),
    ),
)

_SUBSET = Column(
    "subset",
    STRING,
    "",
    "all, or the condition on G: the annotated one, for precision the predicted one; or on the expert's own grade; or "
    "anchored: scans that show the sacrum, the base of the skull or both ends of the rib cage",
)

METRICS = Schema(
    "metrics",
    (
        *_RUN,
        Column("metric", STRING, "", "what is measured"),
        Column("level", STRING, "", "what is counted: vertebra, patient or scan"),
        _SUBSET,
        Column("value", FLOAT, "", "the value; missing where undefined"),
        Column("std", FLOAT, "", "standard deviation over the counted rows, for means of errors"),
        Column("n", INT, "", "number of counted rows, those of all experts together"),
        Column("unit", STRING, "", "unit of the value"),
        Column("note", STRING, "", "why a value is missing, or what else to know about it"),
    ),
)

SUMMARY = Schema(
    "summary",
    (
        Column("system", STRING, "", "name of the system"),
        Column("metric", STRING, "", "what is measured"),
        Column("level", STRING, "", "what is counted: vertebra, patient or scan"),
        _SUBSET,
        Column("value", FLOAT, "", "mean over repeats of the value over all held-out cases"),
        Column("std", FLOAT, "", "standard deviation over the counted rows, for means of errors; mean over repeats"),
        Column("std_repeats", FLOAT, "", "standard deviation over repeats; missing for a single repeat"),
        Column("low", FLOAT, "", "lower end of the 95 % bootstrap interval of the value, by patient"),
        Column("high", FLOAT, "", "upper end of that interval"),
        Column("n", INT, "", "counted rows, over all folds of one repeat; mean over repeats, rounded"),
        Column("unit", STRING, "", "unit of the value"),
        Column("note", STRING, "", "why a value is missing, or what else to know about it"),
    ),
)

EXPERT_CASES = Schema(
    "expert_cases",
    (
        _CASE,
        Column("source", STRING, "", "the file that holds the annotation"),
        Column("experts", STRING, "", "who annotated the case, separated by '; '"),
        Column("vertebrae", INT, "", "annotated vertebrae, those of all experts together"),
        Column("status", STRING, "", "ok; one_expert: nobody to compare with, left out of the figures"),
        Column("reason", STRING, "", "one line that says what was found and what was expected; empty if ok"),
    ),
)

SCAN_RESULTS = Schema(
    "scan_results",
    (
        _CASE,
        Column("source", STRING, "", "the file or folder that was read"),
        *_STATUS,
        Column("vertebrae", INT, "", "vertebrae with status ok"),
        Column("worst_grade", INT, "", "largest Genant grade over the vertebrae with status ok"),
        Column("smallest_genant", FLOAT, "", "smallest G over the vertebrae with status ok"),
        Column("warnings", STRING, "", "what is unusual or was not graded, separated by '; '; missing if failed"),
        Column("sentence", STRING, "", "what was found, or why nothing was, as one sentence in plain words"),
        Column("seconds", FLOAT, "s", "wall time"),
    ),
    required=("case", "source", "status"),
)

BENCHMARKS = Schema(
    "benchmarks",
    (
        Column("rule", STRING, "", "rule of the workflow"),
        Column("wildcards", STRING, "", "which job of the rule: name=value, separated by ', '"),
        Column("seconds", FLOAT, "s", "wall time"),
        Column("cpu_seconds", FLOAT, "s", "time on all processors; missing for a job too short to be measured"),
        Column("cpu_percent", FLOAT, "%", "mean load, 100 for one processor"),
        Column("peak_mb", FLOAT, "MB", "largest resident memory"),
        Column("read_mb", FLOAT, "MB", "read from disk"),
        Column("written_mb", FLOAT, "MB", "written to disk"),
    ),
)

ARCHIVE_LIST = Schema(
    "archive_list",
    (
        _CASE,
        Column("source", STRING, "", "NIfTI file or DICOM folder, absolute; missing where a table of scans has none"),
        Column("shard", INT, "", "the part of the archive that the scan belongs to, from 0, by a hash of the case"),
    ),
)

ARCHIVE_SCANS = Schema(
    "archive_scans",
    (
        *SCAN_RESULTS.columns,
        Column("bytes", INT, "", "size of the file when it was read; missing for a folder"),
        Column("modified_ns", INT, "ns", "when the file or folder was last modified, since 1970"),
        Column("computed_by", STRING, "", "hash of the code and of the model that the row comes from"),
        Column("folder", STRING, "", "the scan's own folder with its picture; missing where none was asked for"),
    ),
    required=("case", "source", "status", "bytes", "modified_ns", "computed_by"),
)

ARCHIVE_SUMMARY = Schema(
    "archive_summary",
    (
        Column("what", STRING, "", "status, worst_grade (of scans with status ok) or reason (of the others)"),
        Column("value", STRING, "", "its value; of reasons without path and numbers; missing if nothing was measured"),
        Column("scans", INT, "", "how many scans have it"),
    ),
)

ALL = (
    SCANS, SERIES, CASES, ANNOTATIONS, LANDMARKS, FOLDS, CURVES, CASE_STATUS, VERTEBRAE, MASK_VERTEBRAE, PREDICTIONS,
    MATCHES, CURVE_ERRORS, METRICS, SUMMARY, EXPERT_CASES, SCAN_RESULTS, CHECKS, BENCHMARKS,
    ARCHIVE_LIST, ARCHIVE_SCANS, ARCHIVE_SUMMARY,
)  # fmt: skip


def fingerprint(data: pd.DataFrame) -> str:
    """SHA-256 over the rows of a table, whatever their order; tells one cohort from another."""
    rows = np.sort(pd.util.hash_pandas_object(data.astype("string"), index=False).to_numpy())
    return hashlib.sha256(rows.tobytes()).hexdigest()
