"""Laws of the sentence of a scan: numbers, grammar and grades are those of the table, and nothing is left out."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from vertfrac import tables
from vertfrac.genant import grade
from vertfrac.report.sentence import failure_sentence, genant_text, scan_sentence


def rows(*found: tuple[str, float | None], levels: dict[int, str] | None = None) -> pd.DataFrame:
    """Vertebrae by status and G, numbered from 1, graded if the status is ok."""
    values: list[dict[str, Any]] = [
        {
            "vertebra": number, "status": status, "genant": index, "level": (levels or {}).get(number, ""),
            "grade": int(grade(index)) if status == "ok" and index is not None else None,
        }
        for number, (status, index) in enumerate(found, start=1)
    ]  # fmt: skip
    return tables.VERTEBRAE.frame(values)


NORMAL = ("ok", 0.9)


@pytest.mark.parametrize(
    ("vertebrae", "sentence"),
    [
        (rows(), "No vertebra measured."),
        (rows(NORMAL), "1 vertebra measured; no fracture (G 0.90)."),
        (rows(NORMAL, ("ok", 0.85)), "2 vertebrae measured; no fracture (smallest G 0.85, vertebra 2)."),
        (
            rows(*[NORMAL] * 8, ("ok", 0.7), *[NORMAL] * 5, ("partial", 0.9), ("partial", None)),
            "14 vertebrae measured; moderate fracture (grade 2, G 0.70) at vertebra 9; "
            "2 vertebrae at the edge of the scan not graded.",
        ),
        (
            rows(("ok", 0.77), ("ok", 0.5), ("ok", 0.79), ("ok", 0.78)),
            "4 vertebrae measured; severe fracture (grade 3, G 0.50) at vertebra 2; "
            "3 mild fractures (grade 1, smallest G 0.77) at vertebrae 1, 3 and 4.",
        ),
        (
            rows(("partial", 0.5), ("low_score", 0.7), ("low_score", 0.9), ("not_measured", None)),
            "No vertebra measured; 1 vertebra at the edge of the scan not graded; "
            "2 vertebrae seen with too little certainty not graded; 1 vertebra found, but not measurable.",
        ),
        (
            rows(("ok", 0.7), ("ok", 0.72), levels={1: "T12", 2: "L1"}),
            "2 vertebrae measured; 2 moderate fractures (grade 2, smallest G 0.70) at T12 and L1.",
        ),
        (
            rows(("ok", 0.7), ("ok", 0.72), levels={1: "T12"}),
            "2 vertebrae measured; 2 moderate fractures (grade 2, smallest G 0.70) at T12 and vertebra 2.",
        ),
    ],
)
def test_what_was_found_is_said(vertebrae: pd.DataFrame, sentence: str) -> None:
    assert scan_sentence(vertebrae) == sentence


def in_doubt(vertebrae: pd.DataFrame, others: dict[int, str]) -> pd.DataFrame:
    return vertebrae.assign(level_runner_up=vertebrae["vertebra"].map(others).fillna("").astype("string"))


@pytest.mark.parametrize(
    ("vertebrae", "sentence"),
    [
        (
            in_doubt(rows(NORMAL, ("ok", 0.68), levels={1: "T11", 2: "T12"}), {1: "T10", 2: "T11"}),
            "2 vertebrae measured; moderate fracture (grade 2, G 0.68) at T12 (or T11: levels may be shifted by one).",
        ),
        (
            in_doubt(rows(("ok", 0.5), ("ok", 0.7), ("ok", 0.72), levels={1: "T11", 2: "T12", 3: "L1"}),
                     {1: "T10", 2: "T11", 3: "T12"}),
            "3 vertebrae measured; severe fracture (grade 3, G 0.50) at T11 (or T10: levels may be shifted by one); "
            "2 moderate fractures (grade 2, smallest G 0.70) at T12 and L1 (or T11 and T12).",
        ),
        (
            in_doubt(rows(("ok", 0.7), ("ok", 0.72), levels={1: "T12", 2: "L1"}), {1: "T11"}),
            "2 vertebrae measured; 2 moderate fractures (grade 2, smallest G 0.70) at T12 (or T11) and L1.",
        ),
        (
            in_doubt(rows(NORMAL, levels={1: "T12"}), {1: "T11"}),
            "1 vertebra measured; no fracture (G 0.90).",
        ),
        (
            in_doubt(rows(NORMAL, ("ok", 0.85), levels={1: "T12", 2: "L1"}), {1: "T11", 2: "T12"}),
            "2 vertebrae measured; no fracture (smallest G 0.85, L1 or T12).",
        ),
        (
            rows(("ok", 0.78), NORMAL, levels={1: "T7", 2: "T8"}).assign(grade_level=pd.array([0, 0], dtype="Int64")),
            "2 vertebrae measured; mild fracture (grade 1, G 0.78) at T7; by its level's normal shape: normal.",
        ),
        (
            rows(("ok", 0.5), ("ok", 0.7)).assign(grade_level=pd.array([2, 1], dtype="Int64")),
            "2 vertebrae measured; severe fracture (grade 3, G 0.50) at vertebra 1; "
            "moderate fracture (grade 2, G 0.70) at vertebra 2; by the normal shapes of the levels: moderate.",
        ),
    ],
)  # fmt: skip
def test_levels_are_said_with_their_doubt_and_a_second_opinion_where_it_differs(
    vertebrae: pd.DataFrame, sentence: str
) -> None:
    assert scan_sentence(vertebrae) == sentence


@pytest.mark.parametrize(
    "counts", [(0, 0, 0, 0, 0), (1, 1, 1, 1, 1), (3, 0, 1, 2, 0), (0, 3, 2, 1, 1), (40, 1, 0, 3, 0)]
)
def test_every_vertebra_is_counted_once(counts: tuple[int, ...]) -> None:
    statuses = ("ok", "partial", "low_score", "not_measured", "sacrum")
    vertebrae = rows(*((status, 0.9) for status, n in zip(statuses, counts, strict=True) for _ in range(n)))
    said = [part.split()[:2] for part in scan_sentence(vertebrae).rstrip(".").split("; ")]
    told = [(int(number), noun) for number, noun in said if number.isdigit()]
    assert sum(number for number, _ in told) == sum(counts)
    assert all((noun == "vertebra") == (number == 1) for number, noun in told)


@pytest.mark.parametrize("index", [0.6, 0.6001, 0.74, 0.7400001, 0.7399, 0.8, 0.80000001, 0.7951, 0.123, 1.0])
def test_the_number_that_is_said_has_the_grade_that_is_said(index: float) -> None:
    assert grade(float(genant_text(index))) == grade(index)
    assert abs(float(genant_text(index)) - index) <= 0.005
    assert len(genant_text(index).split(".")[1]) >= 2


def test_a_failure_is_said_without_the_path() -> None:
    assert failure_sentence("/a/b.nii: no such file", "/a/b.nii") == "Not measured: no such file."
    assert failure_sentence("the disk is full.", "/a/b.nii") == "Not measured: the disk is full."
