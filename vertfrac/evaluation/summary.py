"""The tables that people read, laid out like those of Pisov et al. 2020 (P20) and Zakharov et al. 2022 (Z22).

A table holds one row per system. Its numbers go to Parquet and CSV, its printed cells to Markdown, in blocks of columns
that fit a page; a column for published values stands beside every column for which a shown system has one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from vertfrac import tables
from vertfrac.errors import TableError
from vertfrac.evaluation.published import PUBLISHED, published_name
from vertfrac.files import replacing

Changes = Mapping[str, tuple[str, Mapping[str, tuple[Any, Any]]]]
"""Of each system that is made from another: the other's name, and config key -> (value there, value here)."""


@dataclass(frozen=True)
class Measure:
    """One measured column: a metric, level and subset of SUMMARY, its heading within a block, and its unit."""

    heading: str
    metric: str
    level: str
    subset: str = "all"
    unit: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        """Metric, level and subset."""
        return self.metric, self.level, self.subset

    @property
    def name(self) -> str:
        """Name of the column in Parquet and CSV, unique within a table."""
        where = f"{self.metric} by {self.level}" + ("" if self.subset == "all" else f", {self.subset}")
        return f"{where} ({self.unit})" if self.unit else where

    def text(self, value: float) -> str:
        """The value as printed: two decimals for mm, three for all else."""
        return f"{value:z.2f}" if self.unit == "mm" else f"{value:z.3f}"  # z: no -0.000


@dataclass(frozen=True)
class Layout:
    """A table before it is filled: blocks of columns, each with its heading ("" for none).

    optional : where no system has any of its values, it is written but not printed.
    """

    name: str
    title: str
    caption: str
    blocks: tuple[tuple[str, tuple[Measure, ...]], ...]
    optional: bool = False


@dataclass(frozen=True, eq=False)
class PaperTable:
    """A filled table.

    data : one row per system, columns ``system`` and per measure its value, spread, interval, n, note and published
    value; columns that hold nothing are left out. blocks : heading and printed cells of each block. printed : whether
    it belongs on the page.
    """

    name: str
    title: str
    caption: str
    data: pd.DataFrame
    blocks: tuple[tuple[str, pd.DataFrame], ...]
    printed: bool = True

    def as_markdown(self) -> str:
        """Title, blocks and caption."""
        lines = [f"## {self.title}", ""]
        for heading, cells in self.blocks:
            lines += [*([f"**{heading}**", ""] if heading else []), *_markdown(cells), ""]
        return "\n".join([*lines, self.caption, ""])


def _detection(subset: str) -> tuple[Measure, ...]:
    levels = ("vertebra", "patient")
    return (
        Measure("localisation, mm", "localisation", "vertebra", subset, "mm"),
        *(
            Measure(f"{metric} by {level}", metric, level, subset)
            for metric in ("recall", "precision")
            for level in levels
        ),
    )


def _naming(subset: str) -> tuple[Measure, ...]:
    return (
        Measure("identification rate", "identification rate", "vertebra", subset),
        Measure("label accuracy", "label accuracy", "vertebra", subset),
        Measure("shifted by one", "shifted by one", "vertebra", subset),
        Measure("shifted columns", "shifted columns", "scan", subset),
    )


def _doubt(subset: str) -> tuple[Measure, ...]:
    return (
        Measure("shifted columns doubtful", "doubtful shifted columns", "scan", subset),
        Measure("right columns doubtful", "doubtful right columns", "scan", subset),
        Measure("wrong levels doubtful", "doubtful wrong levels", "vertebra", subset),
        Measure("right levels doubtful", "doubtful right levels", "vertebra", subset),
        Measure("calibration error", "calibration error of the level", "vertebra", subset),
        Measure("Brier score", "Brier score of the level", "vertebra", subset),
    )


_TASKS = ("G <= 0.8", "G <= 0.74", "G0 vs G2-G3")
_CLASSIFICATION = ("ROC AUC", "sensitivity", "specificity")

LAYOUTS: tuple[Layout, ...] = (
    Layout(
        "table-1",
        "Table 1. Stage 1: curve and limits",
        "Curve: distance in axial planes to the annotated curve. Limits: error of the two ends of the spine.",
        (
            (
                "",
                (
                    Measure("curve, mean l2, mm", "curve error", "scan", unit="mm"),
                    Measure("limits, MAE, mm", "limits error", "scan", unit="mm"),
                ),
            ),
        ),
    ),
    Layout(
        "table-2",
        "Table 2. Detection",
        "Localisation: distance of each predicted body centre to the closest annotated one, in 3D. For G <= 0.74, "
        "recall goes by the annotated G, precision by the predicted G.",
        (("All vertebrae", _detection("all")), ("Vertebrae with G <= 0.74", _detection("G <= 0.74"))),
    ),
    Layout(
        "table-3",
        "Table 3. Fracture classification",
        "By vertebra: matched pairs. By patient: the smallest G of each. G0 vs G2-G3: annotated mild left out.",
        tuple(
            (f"By {level}, {task}", tuple(Measure(metric, metric, level, task) for metric in _CLASSIFICATION))
            for level in ("vertebra", "patient")
            for task in _TASKS
        ),
    ),
    Layout(
        "table-agreement",
        "Agreement on G",
        "Of matched pairs. Error: mean absolute difference of G. Bias: mean of predicted - annotated G. "
        "r(G): Pearson correlation. Grade: share of pairs with "
        "the same Genant grade, and Cohen's kappa with quadratic weights.",
        (
            (
                "Distances",
                (
                    Measure("keypoints, mm", "keypoint error", "vertebra", unit="mm"),
                    Measure("body centre, mm", "centre error", "vertebra", unit="mm"),
                ),
            ),
            (
                "Genant index",
                (
                    Measure("error of G", "error of G", "vertebra"),
                    Measure("bias of G", "bias of G", "vertebra"),
                    Measure("r(G) by vertebra", "correlation of G", "vertebra"),
                    Measure("r(G) by patient", "correlation of G", "patient"),
                    Measure("same grade", "agreement on the grade", "vertebra"),
                    Measure("kappa of the grade", "kappa of the grade", "vertebra"),
                ),
            ),
        ),
    ),
    Layout(
        "table-grades",
        "Fracture classification against the experts' own grades",
        "Positive: grade 2 or 3 as an expert gave it (VerSe), whatever the annotated G; called: predicted G <= 0.74. "
        "By vertebra: matched pairs. By patient: the worst of each. Grade 0 vs 2-3: grade 1 left out.",
        tuple(
            (f"By {level}, {task}", tuple(Measure(metric, metric, level, task) for metric in _CLASSIFICATION))
            for level in ("vertebra", "patient")
            for task in ("grade >= 2", "grade 0 vs 2-3")
        ),
        optional=True,
    ),
    Layout(
        "table-levels",
        "Names of vertebrae",
        "Identification rate (VerSe, Sekuboyina et al. 2021): share of annotated vertebrae of known level for which "
        "the closest named prediction has that level and is within 20 mm. Label accuracy: of matched pairs. Shifted by "
        "one: the name is that of a neighbour. Shifted columns: scans in which most names are wrong. Doubtful: the "
        "system says what else the level may be, of a shifted column for at least half of the wrong ones, of a right "
        "column for any. Calibration: expected error of the level's probability in ten intervals (smaller is better). "
        "Anchored: scans that show the sacrum, the base of the skull or both ends of the rib cage.",
        (
            ("All scans", _naming("all")),
            ("Anchored scans", _naming("anchored")),
            ("Doubt, all scans", _doubt("all")),
            ("Doubt, anchored scans", _doubt("anchored")),
        ),
        optional=True,
    ),
)
"""The papers' tables (P20 Tables 1-2, Z22 Tables 1-3), and on the agreement of G, grades given by experts, levels."""

ABLATION = (
    Measure("keypoints, mm", "keypoint error", "vertebra", unit="mm"),
    Measure("curve, mm", "curve error", "scan", unit="mm"),
    Measure("recall", "recall", "vertebra"),
    Measure("precision", "precision", "vertebra"),
    Measure("r(G)", "correlation of G", "vertebra"),
    Measure("ROC AUC, G <= 0.74", "ROC AUC", "vertebra", "G <= 0.74"),
)
"""The columns of the ablation table, all by vertebra but for the curve."""

_FIELDS = {
    "value": "",
    "std": ", std",
    "std_repeats": ", std over repeats",
    "low": ", 95 % low",
    "high": ", 95 % high",
    "n": ", n",
    "note": ", note",
    "published": ", published",
    "published_std": ", published std",
    "published_remark": ", published remark",
    "published_in": ", published in",
}
"""What is known of a measure -> ending of its column in a table."""

_PUBLISHED_FIELDS = (
    ("published", "value", "float64"),
    ("published_std", "std", "float64"),
    ("published_remark", "remark", "string"),
    ("published_in", "source", "string"),
)
"""Column, attribute of ``Published``, and type of what stands beside a measure."""

NOT_EVALUATED = "not evaluated"
"""Stands where the summary has no row for a measure."""

HOW_TO_READ = (
    "Value (standard deviation over units) ± standard deviation over repeats [95 % interval], as far as known, "
    "with n, the number of units counted."
)
_NOT_COMPARABLE = (
    "Published: as printed in {sources}, measured on other data (chest CT of patients) and not comparable with "
    "values on phantoms."
)
_SOURCES = {"P20": "Pisov et al. 2020", "Z22": "Zakharov et al. 2022"}


def paper_tables(summary: pd.DataFrame, published_as: Mapping[str, str] | None = None) -> list[PaperTable]:
    """The tables of ``LAYOUTS``, systems in the order of the summary.

    summary : table SUMMARY; std, std_repeats, low and high may be absent. published_as : see ``published_name``.
    Raises TableError if the summary holds a metric twice, ConfigError for an unknown published name.
    """
    _check_unique(summary)
    systems = list(dict.fromkeys(summary["system"]))
    names = {system: published_name(system, published_as) for system in systems}
    return [_filled(layout, summary, names) for layout in LAYOUTS]


def ablation_table(summary: pd.DataFrame, changes: Changes) -> PaperTable:
    """What each difference buys: a block per base, headed by the base's own row, with the signed change to it.

    A system is a row if it differs from its base and both are in the summary (Z22 Table 2 has such rows: anchor-based,
    anchor-free with box IoU, anchor-free with BIoU); one that differs but cannot be compared is named in the caption.
    Raises TableError if the summary holds a metric twice.
    """
    _check_unique(summary)
    systems = set(summary["system"])
    compared: dict[str, list[str]] = {}
    absent = []
    for system, (base, differences) in changes.items():
        if differences and {system, base} <= systems:
            compared.setdefault(base, []).append(system)
        elif differences:
            absent.append(f"{system} against {base}")
    caption = ["Δ: value minus that of the base, the first row of each block."]
    if not compared:
        caption = ["No system was compared with the one that it is made from."]
    if absent:
        caption.append(f"Not in the summary, so left out: {', '.join(absent)}.")
    parts = [_compared(summary, changes, base, variants) for base, variants in compared.items()]
    data = pd.concat([rows for rows, _ in parts], ignore_index=True) if parts else pd.DataFrame(columns=["system"])
    blocks = tuple((f"Against {base}", cells) for base, (_, cells) in zip(compared, parts, strict=True))
    return PaperTable("table-ablation", "Ablation", " ".join(caption), data, blocks)


def _compared(
    summary: pd.DataFrame, changes: Changes, base: str, variants: Sequence[str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows and printed cells of a base and of what is made from it."""
    differs = ["(base)", *("; ".join(_change(*c) for c in changes[name][1].items()) for name in variants)]
    parts = [(m, _measured(summary, m, dict.fromkeys([base, *variants]))) for m in ABLATION]
    rows, cells = _wide(parts), _printed(parts)
    rows.insert(0, "base", base)
    rows.insert(1, "differs in", differs)
    cells.insert(1, "differs in", differs)
    for measure, part in parts:
        change = part["value"] - part["value"].loc[base]
        rows[f"{measure.name}, change"] = change
        shown = ["", *(_signed(measure, value) for value in change.iloc[1:])]
        cells.insert(list(cells).index(measure.heading) + 1, f"Δ {measure.heading}", shown)
    return rows.reset_index(names="system"), cells


def write_tables(
    summary: pd.DataFrame,
    out: Path,
    heading: str,
    remarks: Sequence[str] = (),
    *,
    ablations: Changes | None = None,
    published_as: Mapping[str, str] | None = None,
) -> str:
    """Write summary.md and, as .csv and .parquet, table-1, -2, -3, -agreement, -grades, -levels, -ablation.

    The last one comes only with ``ablations``. Each file is written atomically; returns the text of summary.md. Errors:
    see ``paper_tables``.
    """
    filled = paper_tables(summary, published_as)
    if ablations is not None:
        filled.append(ablation_table(summary, ablations))
    for table in filled:
        tables.write_csv(out / f"{table.name}.csv", table.data)
        with replacing(out / f"{table.name}.parquet") as temporary:
            table.data.to_parquet(temporary, index=False)
    text = _page([table for table in filled if len(table.data) and table.printed], heading, remarks)
    with replacing(out / "summary.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    return text


def _page(filled: Sequence[PaperTable], heading: str, remarks: Sequence[str]) -> str:
    return "\n".join(
        [
            f"# {heading}",
            "",
            HOW_TO_READ,
            "",
            *(t.as_markdown() for t in filled),
            *(f"- {line}" for line in remarks),
            "",
        ]
    )


def _check_unique(summary: pd.DataFrame) -> None:
    keys = ["system", "metric", "level", "subset"]
    twice = summary[summary.duplicated(keys)]
    if len(twice):
        found = ", ".join(str(value) for value in twice[keys].iloc[0])
        raise TableError(f"summary: {found} found twice, expected one row per system, metric, level and subset")


def _filled(layout: Layout, summary: pd.DataFrame, names: Mapping[str, str | None]) -> PaperTable:
    blocks = [(heading, [(m, _measured(summary, m, names)) for m in measures]) for heading, measures in layout.blocks]
    parts = [part for _, block in blocks for part in block]
    caption = [layout.caption, *_published_caption([m for m, _ in parts], set(names.values()))]
    data = _wide(parts).reset_index(names="system")
    printed = tuple((heading, _printed(block)) for heading, block in blocks)
    shown = not layout.optional or any(part["value"].notna().any() for _, part in parts)
    return PaperTable(layout.name, layout.title, " ".join(caption), data, printed, shown)


def _published_caption(measures: Sequence[Measure], names: Set[str | None]) -> list[str]:
    ours = [p for p in PUBLISHED if p.system in names]
    keys = {m.key for m in measures}
    beside = [p for p in ours if (p.metric, p.level, p.subset) in keys]
    without = [p for p in ours if p.level is None and p.metric in {m.metric for m in measures}]
    if not beside and not without:
        return []
    sources = " and ".join(_SOURCES[source] for source in sorted({p.source for p in [*beside, *without]}))
    text = [_NOT_COMPARABLE.format(sources=sources)]
    if any(p.metric == "ROC AUC" for p in beside):
        text.append("Their patient ROC AUC is stated without a threshold and stands at G <= 0.74, their main task.")
    if without:
        values = ", ".join(f"{p.metric} {p.value:.2f} {p.remark} ({p.source})" for p in without)
        text.append(f"Published without level or threshold: {values}.")
    return text


def _measured(summary: pd.DataFrame, measure: Measure, names: Mapping[str, str | None]) -> pd.DataFrame:
    """What is known of one measure: a row per system (keys of ``names``), the columns of ``_FIELDS``."""
    metric, level, subset = measure.key
    chosen = (summary["metric"] == metric) & (summary["level"] == level) & (summary["subset"] == subset)
    rows = summary[chosen].set_index("system").reindex(index=list(names), columns=list(_FIELDS))
    rows["note"] = rows["note"].astype("string")
    rows["note"] = rows["note"].where(rows["note"] != "")
    rows.loc[~rows.index.isin(summary.loc[chosen, "system"]), "note"] = NOT_EVALUATED
    rows["n"] = rows["n"].astype("Int64")
    there = {p.system: p for p in PUBLISHED if (p.metric, p.level, p.subset) == measure.key}
    for column, field, kind in _PUBLISHED_FIELDS:
        values = [getattr(there.get(name or ""), field, None) or None for name in names.values()]
        rows[column] = pd.Series(values, index=rows.index, dtype=kind)
    return rows


def _wide(parts: Sequence[tuple[Measure, pd.DataFrame]]) -> pd.DataFrame:
    """All measures side by side; a column that holds nothing is left out, unless it is a value or an n."""
    named = [part.rename(columns={field: m.name + ending for field, ending in _FIELDS.items()}) for m, part in parts]
    wide = pd.concat(named, axis=1)
    kept = {m.name + _FIELDS[field] for m, _ in parts for field in ("value", "n")}
    return wide[[c for c in wide.columns if c in kept or wide[c].notna().any()]]


def _printed(parts: Sequence[tuple[Measure, pd.DataFrame]]) -> pd.DataFrame:
    """The cells of a block: per measure its values and what is published; n in one column where a row shares it."""
    counts = [[_count(row) for _, row in part.iterrows()] for _, part in parts]
    shared = [{text for text in texts if text} for texts in zip(*counts, strict=True)]
    apart = any(len(texts) > 1 for texts in shared)
    columns: dict[str, Sequence[str]] = {"system": list(parts[0][1].index)}
    for (measure, part), count in zip(parts, counts, strict=True):
        ends = [f", {text}" if apart and text else "" for text in count]
        columns[measure.heading] = [
            _cell(measure, row) + end for (_, row), end in zip(part.iterrows(), ends, strict=True)
        ]
        if part["published"].notna().any():
            columns[f"{measure.heading}, published"] = [_published_cell(row) for _, row in part.iterrows()]
    if not apart:
        columns["n"] = [next(iter(texts), "").removeprefix("n=") for texts in shared]
    return pd.DataFrame(columns)


def _count(row: pd.Series) -> str:
    """The n of a measured value, with its note (such as how many are positive)."""
    if pd.isna(row["value"]):
        return ""
    return f"n={row['n']}" + (f", {row['note']}" if pd.notna(row["note"]) else "")


def _cell(measure: Measure, row: pd.Series) -> str:
    """Value, spread and interval as printed, without n; or why there is no value, with n."""
    if pd.isna(row["value"]):
        reason = "no reason given" if pd.isna(row["note"]) else row["note"]
        return NOT_EVALUATED if reason == NOT_EVALUATED else f"undefined: {reason}, n={row['n']}"
    text = measure.text(row["value"])
    if pd.notna(row["std"]):
        text += f" ({measure.text(row['std'])})"
    if pd.notna(row["std_repeats"]):
        text += f" ± {measure.text(row['std_repeats'])}"
    if pd.notna(row["low"]) and pd.notna(row["high"]):
        text += f" [{measure.text(row['low'])}, {measure.text(row['high'])}]"
    return text


def _published_cell(row: pd.Series) -> str:
    if pd.isna(row["published"]):
        return ""
    spread = "" if pd.isna(row["published_std"]) else f" ({row['published_std']:g})"
    remark = "" if pd.isna(row["published_remark"]) else f"{row['published_remark']} "
    return f"{row['published_in']}: {remark}{row['published']:g}{spread}"


def _signed(measure: Measure, change: float) -> str:
    return "" if pd.isna(change) else f"{'-' if change < 0 else '+'}{measure.text(abs(change))}"


def _change(key: str, values: tuple[Any, Any]) -> str:
    """A config key with its value in the base and here, such as ``nms.overlap: butterfly -> box``."""
    before, here = (v if isinstance(v, str) else json.dumps(v, default=str) for v in values)
    return f"{key}: {before} -> {here}"


def _markdown(cells: pd.DataFrame) -> list[str]:
    """The lines of a Markdown table, columns padded so that it reads well as plain text too."""
    rows = [[str(text).replace("|", "\\|") for text in row] for row in [cells.columns, *cells.to_numpy()]]
    widths = [max(len(text) for text in column) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    return [f"| {' | '.join(t.ljust(w) for t, w in zip(row, widths, strict=True))} |" for row in rows]
