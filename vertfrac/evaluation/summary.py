"""The tables that people read: the mean of every metric over the repeats, per system."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

HEADLINE: tuple[tuple[str, str, str], ...] = (
    ("curve error", "scan", "all"),
    ("limits error", "scan", "all"),
    ("centre error", "vertebra", "all"),
    ("keypoint error", "vertebra", "all"),
    ("recall", "vertebra", "all"),
    ("recall", "vertebra", "G <= 0.74"),
    ("precision", "vertebra", "all"),
    ("error of G", "vertebra", "all"),
    ("correlation of G", "vertebra", "all"),
    ("ROC AUC", "vertebra", "G <= 0.8"),
    ("ROC AUC", "vertebra", "G <= 0.74"),
    ("sensitivity", "vertebra", "G <= 0.74"),
    ("specificity", "vertebra", "G <= 0.74"),
    ("ROC AUC", "patient", "G <= 0.74"),
)
"""The rows of the Markdown table, as (metric, level, subset); Parquet and CSV hold all."""


def summarise(metrics: pd.DataFrame) -> list[dict[str, Any]]:
    """Mean and standard deviation over repeats of the metrics over all held-out cases of a repeat.

    metrics : table METRICS; the rows of a whole repeat are those without a fold. Returns rows of SUMMARY.
    """
    whole = metrics[metrics["fold"].isna()]
    rows = []
    for (system, metric, level, subset), group in whole.groupby(["system", "metric", "level", "subset"], sort=False):
        values = group["value"].dropna()
        rows.append(
            {
                "system": system,
                "metric": metric,
                "level": level,
                "subset": subset,
                "value": values.mean() if len(values) else None,
                "std_repeats": values.std() if len(values) > 1 else None,
                "n": round(group["n"].mean()),
                "unit": group["unit"].iloc[0],
                "note": group["note"].iloc[0],
            }
        )
    return rows


def as_markdown(summary: pd.DataFrame, heading: str, remarks: Sequence[str] = ()) -> str:
    """The headline metrics of every system as one Markdown table, each value with its n."""
    systems = list(dict.fromkeys(summary["system"]))
    lines = [f"# {heading}", "", f"| metric | {' | '.join(systems)} |", f"|---|{'---|' * len(systems)}"]
    indexed = summary.set_index(["system", "metric", "level", "subset"])
    for metric, level, subset in HEADLINE:
        cells = [_cell(indexed, (system, metric, level, subset)) for system in systems]
        where = f"by {level}" + ("" if subset == "all" else f", {subset}")
        lines.append(f"| {metric} ({where}) | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"- {remark}" for remark in remarks), ""])


def _cell(indexed: pd.DataFrame, key: tuple[str, str, str, str]) -> str:
    if key not in indexed.index:
        return "-"
    row = indexed.loc[key, :]
    if pd.isna(row["value"]):
        return f"undefined ({row['note']}), n={row['n']}"
    spread = f" ± {row['std_repeats']:.3f}" if pd.notna(row["std_repeats"]) else ""
    unit = f" {row['unit']}" if row["unit"] else ""
    return f"{row['value']:.3f}{spread}{unit}, n={row['n']}"
