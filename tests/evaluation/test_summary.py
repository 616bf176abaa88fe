"""Laws of the papers' tables: every value with its n, published values beside ours, nothing dropped in silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from vertfrac import tables
from vertfrac.errors import ConfigError, TableError
from vertfrac.evaluation.published import NAMES, PUBLISHED, published_name
from vertfrac.evaluation.summary import (
    ABLATION,
    LAYOUTS,
    NOT_EVALUATED,
    ablation_table,
    paper_tables,
    write_tables,
)

MEASURES = [measure for layout in LAYOUTS for _, block in layout.blocks for measure in block]
BOTH = ("vertfrac", "pisov2020-demo")
TWELVE = tuple(f"zakharov2022-variant-{i}" for i in range(10)) + BOTH


def _summary(systems: tuple[str, ...] = BOTH, **columns: Any) -> pd.DataFrame:
    """Every measure of every system, each with a value and an n of its own."""
    rng = np.random.default_rng(1)
    rows = [
        {"system": system, "metric": m.metric, "level": m.level, "subset": m.subset, "value": rng.uniform(0.1, 0.9),
         "n": int(rng.integers(100, 1000)), "unit": m.unit, "note": ""}
        for system in systems
        for m in dict.fromkeys(MEASURES)
    ]  # fmt: skip
    return pd.DataFrame(rows).assign(**columns)


def _chosen(summary: pd.DataFrame, system: str, metric: str, level: str, subset: str = "all") -> pd.Series:
    keys = {"system": system, "metric": metric, "level": level, "subset": subset}
    return np.logical_and.reduce([summary[name] == value for name, value in keys.items()])


def _cells(table: Any) -> list[dict[str, str]]:
    return [row for _, cells in table.blocks for row in cells.to_dict("records")]


@pytest.mark.parametrize("systems", [("one",), BOTH, TWELVE], ids=len)
def test_every_value_is_printed_with_its_n(systems: tuple[str, ...]) -> None:
    summary = _summary(systems).set_index(["system", "metric", "level", "subset"])
    for layout, table in zip(LAYOUTS, paper_tables(summary.reset_index()), strict=True):
        for (_, measures), (_, cells) in zip(layout.blocks, table.blocks, strict=True):
            assert list(cells["system"]) == list(systems)
            for row in cells.to_dict("records"):
                for m in measures:
                    fact = summary.loc[(row["system"], *m.key)]
                    shown = row[m.heading] + (f", n={row['n']}" if "n" in row else "")
                    assert shown == f"{m.text(fact['value'])}, n={fact['n']}"


def test_an_n_that_all_columns_share_stands_once() -> None:
    table = paper_tables(_summary(n=40, note="7 positive"))[2]
    assert {row["n"] for row in _cells(table)} == {"40, 7 positive"}
    assert not any("n=" in text for row in _cells(table) for text in row.values())


def test_spreads_and_interval_are_printed_where_they_are_known() -> None:
    summary = _summary(("s",), value=1.0, std=0.5, std_repeats=0.25, low=0.75, high=1.25, n=8)
    rows = _cells(paper_tables(summary)[0])
    assert rows[0]["curve, mean l2, mm"] == "1.00 (0.50) ± 0.25 [0.75, 1.25]"
    missing = _summary(("s",), value=1.0, std=np.nan, std_repeats=np.nan, low=np.nan, high=np.nan, n=8)
    assert _cells(paper_tables(missing)[0]) == _cells(paper_tables(_summary(("s",), value=1.0, n=8))[0])


def test_an_undefined_value_shows_its_note_and_its_n() -> None:
    summary = _summary()
    chosen = _chosen(summary, "vertfrac", "ROC AUC", "patient", "G <= 0.74")
    summary.loc[chosen, ["value", "n", "note"]] = [np.nan, 3, "no positive | one class"]
    assert "undefined: no positive \\| one class, n=3" in paper_tables(summary)[2].as_markdown()
    assert paper_tables(summary)[2].data.loc[0, "ROC AUC by patient, G <= 0.74, note"] == "no positive | one class"


def test_a_measure_that_the_summary_lacks_is_not_passed_over() -> None:
    summary = _summary()
    kept = summary[~_chosen(summary, "vertfrac", "limits error", "scan")]
    table = paper_tables(kept)[0]
    assert _cells(table)[0]["limits, MAE, mm"] == NOT_EVALUATED
    assert table.data.loc[0, "limits error by scan (mm), note"] == NOT_EVALUATED


def test_no_system_at_all_gives_empty_tables(tmp_path: Path) -> None:
    for table in paper_tables(tables.SUMMARY.frame([])):
        assert table.data.empty
    write_tables(tables.SUMMARY.frame([]), tmp_path, "h", ablations={})
    assert len(pd.read_parquet(tmp_path / "table-3.parquet")) == 0


@pytest.mark.parametrize("entry", [p for p in PUBLISHED if p.level], ids=lambda p: f"{p.system} {p.metric}")
def test_a_published_value_stands_in_the_row_of_its_system(entry: Any) -> None:
    found = []
    for table in paper_tables(_summary(("vertfrac", f"{entry.system}-demo"))):
        for name in (c for c in table.data if c.endswith(", published")):
            if name.startswith(f"{entry.metric} by {entry.level}") and (entry.subset == "all") != ("G <=" in name):
                assert "not comparable" in table.caption
                found.append(table.data[name].tolist())
    assert len(found) == 1
    assert pd.isna(found[0][0])
    assert found[0][1] == entry.value


def test_published_values_are_printed_as_in_the_paper() -> None:
    row = _cells(paper_tables(_summary(("pisov2020-demo",)))[1])[0]
    assert row["localisation, mm, published"] == "P20: 0.97 (0.64)"
    patient = [r for r in _cells(paper_tables(_summary(("zakharov2022",)))[2]) if "ROC AUC, published" in r]
    assert [r["ROC AUC, published"] for r in patient] == ["Z22: up to 0.96"]


def test_a_published_value_without_a_task_is_in_the_caption() -> None:
    assert "ROC AUC 0.95 on VerSe (Z22)" in paper_tables(_summary(("zakharov2022",)))[2].caption


def test_published_metrics_are_columns_of_the_tables() -> None:
    keys = {m.key for m in MEASURES}
    assert {(p.metric, p.level, p.subset) for p in PUBLISHED if p.level} <= keys


def test_a_system_goes_with_the_longest_published_name_that_it_starts_with() -> None:
    assert [published_name(name) for name in NAMES] == list(NAMES)
    assert published_name("pisov2020-demo") == "pisov2020"
    assert published_name("vertfrac") is None
    assert published_name("vertfrac", {"vertfrac": "zakharov2022"}) == "zakharov2022"
    with pytest.raises(ConfigError, match="vertfrac: found 'nobody', expected one of pisov2020"):
        published_name("vertfrac", {"vertfrac": "nobody"})


def test_own_systems_alone_show_nothing_published() -> None:
    assert not any("ublished" in table.as_markdown() for table in paper_tables(_summary(("vertfrac", "other"))))


def test_a_metric_given_twice_is_refused() -> None:
    with pytest.raises(TableError, match="vertfrac, curve error, scan, all found twice"):
        paper_tables(pd.concat([_summary(), _summary()]))


CHANGES = {
    "pisov2020-demo": ("vertfrac", {"detector.kind": ("anchor_free", "anchor_based"), "nms.threshold": (0.1, 0.3)}),
    "lost": ("vertfrac", {"a": (1, 2)}),
    "same": ("vertfrac", {}),
}


def test_the_ablation_is_headed_by_the_base_and_holds_signed_differences() -> None:
    summary = _summary((*BOTH, "same"))
    table = ablation_table(summary, CHANGES)
    assert table.data["system"].tolist() == ["vertfrac", "pisov2020-demo"]
    assert set(table.data["base"]) == {"vertfrac"}
    for m in ABLATION:
        base, value = (summary[_chosen(summary, s, *m.key)]["value"].item() for s in BOTH)
        assert table.data[f"{m.name}, change"].tolist() == pytest.approx([0, value - base])
        row = _cells(table)[1]
        assert row[f"Δ {m.heading}"] == f"{'+' if value >= base else '-'}{m.text(abs(value - base))}"
    assert row["differs in"] == "detector.kind: anchor_free -> anchor_based; nms.threshold: 0.1 -> 0.3"
    assert "left out: lost against vertfrac" in table.caption


def test_each_base_has_a_block_of_its_own() -> None:
    chain = {"b": ("a", {"k": (1, 2)}), "c": ("b", {"k": (2, 3)}), "d": ("b", {"k": (2, None)})}
    table = ablation_table(_summary(("a", "b", "c", "d")), chain)
    assert [(heading, list(cells["system"])) for heading, cells in table.blocks] == [
        ("Against a", ["a", "b"]),
        ("Against b", ["b", "c", "d"]),
    ]


def test_an_undefined_value_has_no_difference() -> None:
    summary = _summary()
    summary.loc[_chosen(summary, "vertfrac", "recall", "vertebra"), ["value", "note"]] = [np.nan, "why"]
    table = ablation_table(summary, CHANGES)
    assert table.data["recall by vertebra, change"].isna().all()
    assert _cells(table)[1]["Δ recall"] == ""


def test_files_hold_what_the_tables_hold(tmp_path: Path) -> None:
    summary = _summary(TWELVE, std_repeats=0.01)
    text = write_tables(summary, tmp_path, "Heading", ["a remark"], ablations=CHANGES)
    filled = [*paper_tables(summary), ablation_table(summary, CHANGES)]
    names = [f"{table.name}{ending}" for table in filled for ending in (".csv", ".parquet")]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["summary.md", *names])
    for table in filled:
        back = pd.read_parquet(tmp_path / f"{table.name}.parquet")
        pd.testing.assert_frame_equal(back, table.data, check_dtype=False)
        csv = pd.read_csv(tmp_path / f"{table.name}.csv", keep_default_na=False, na_values=[""])
        pd.testing.assert_frame_equal(csv, table.data, check_dtype=False, rtol=0, atol=6e-5)
    assert (tmp_path / "summary.md").read_text(encoding="utf-8") == text
    assert text.startswith("# Heading\n")
    assert "- a remark" in text.splitlines()


def test_printed_tables_are_aligned() -> None:
    text = "\n".join(table.as_markdown() for table in paper_tables(_summary(TWELVE)))
    blocks = [part.splitlines() for part in text.split("\n\n") if part.startswith("| ")]
    assert len(blocks) == sum(len(layout.blocks) for layout in LAYOUTS)
    for lines in blocks:
        assert len(lines) == 2 + len(TWELVE)
        assert len({(len(line), line.count("|")) for line in lines}) == 1


def test_a_table_without_any_value_is_written_but_not_printed_if_it_is_optional(tmp_path: Path) -> None:
    summary = _summary()
    graded = summary["subset"].str.startswith("grade")
    text = write_tables(summary.assign(value=summary["value"].where(~graded)), tmp_path, "h")
    assert "experts' own grades" not in text
    assert len(pd.read_parquet(tmp_path / "table-grades.parquet")) == len(BOTH)
    assert "experts' own grades" in write_tables(summary, tmp_path, "h")
