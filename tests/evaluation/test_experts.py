"""Laws of the experts' row: everyone is scored against everyone else, and nobody against nobody."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from vertfrac import tables
from vertfrac.errors import AnnotationError
from vertfrac.evaluation.experts import comparisons, read_experts, score_experts
from vertfrac.evaluation.run import summarise

Floats = NDArray[np.float64]
HOW: dict[str, Any] = {"closeness": "butterfly", "threshold": 0.1}
PUBLIC = Path(__file__).parents[3] / "shared" / "data" / "lungcancer500"
HEIGHTS = [[20, 19, 20], [13, 17, 20], [18, 19, 20], [20, 20, 20]]

Marks = Callable[..., pd.DataFrame]


@pytest.fixture
def marks(spine_keypoints: Callable[..., Floats], annotations_of: Marks) -> Marks:
    """Four vertebrae of a case as several experts see them: each expert's keypoints are shifted by a vector."""

    def make(shifts: dict[str, Any], *, case: str = "c") -> pd.DataFrame:
        keypoints = spine_keypoints(4, heights=HEIGHTS)
        parts = [annotations_of(keypoints + np.asarray(v), case=case, expert=e) for e, v in shifts.items()]
        return pd.concat(parts, ignore_index=True).assign(source="x.parquet")

    return make


def _score(rows: pd.DataFrame, out: Path, **more: Any) -> pd.Series:
    told = more.pop("warn", lambda line: None)
    matches, curves = score_experts(rows, **HOW, out=out, warn=told, **more)
    summary = summarise(matches, curves, resamples=20, seed=0)
    return summary.set_index(["metric", "level", "subset"])["value"]


def test_two_experts_are_as_far_apart_as_their_shift_both_ways(marks: Marks, tmp_path: Path) -> None:
    values = _score(marks({"a": 0.0, "b": [0, 3.0, 4.0]}), tmp_path)
    for metric in ("localisation", "localisation to any expert", "keypoint error"):
        assert values[metric, "vertebra", "all"] == pytest.approx(5.0)
    for metric in ("recall", "precision", "precision to any expert", "agreement on the grade"):
        assert values[metric, "vertebra", "all"] == 1.0


def test_every_ordered_pair_of_experts_is_there_once(marks: Marks, tmp_path: Path) -> None:
    matches, curves = score_experts(
        marks({"a": 0.0, "b": [0, 1.0, 0], "c": [0, 0, 1.0]}), **HOW, out=tmp_path, warn=print
    )
    pairs = {(x, y) for x in "abc" for y in "abc" if x != y}
    for table in (matches, curves):
        assert set(table[["expert", "rater"]].itertuples(index=False, name=None)) == pairs
    assert len(matches) == 6 * 4
    assert len(curves) == 6
    assert set(matches["system"]) == {"experts"}


def test_recall_and_precision_are_equal_since_every_pair_counts_both_ways(marks: Marks, tmp_path: Path) -> None:
    rows = marks({"a": 0.0, "b": [0, 1.0, 0], "c": [0, 0, 1.0]})
    rows = rows[~((rows["expert"] == "b") & (rows["vertebra"] == 4))]
    values = _score(rows, tmp_path)
    expected = (4 + 3 + 3 + 3 + 3 + 4) / (4 + 4 + 3 + 3 + 4 + 4)
    assert values["recall", "vertebra", "all"] == pytest.approx(expected)
    assert values["precision", "vertebra", "all"] == pytest.approx(expected)
    assert values["precision to any expert", "vertebra", "all"] == 1.0, "a and c marked vertebra 4"


def test_any_expert_is_the_closest_one(marks: Marks, tmp_path: Path) -> None:
    values = _score(marks({"a": 0.0, "b": [0, 1.0, 0], "c": [0, 4.0, 0]}), tmp_path)
    assert values["localisation", "vertebra", "all"] == pytest.approx((1 + 4 + 3) / 3)
    assert values["localisation to any expert", "vertebra", "all"] == pytest.approx((1 + 1 + 3) / 3)


def test_against_the_first_everyone_else_is_scored(marks: Marks, tmp_path: Path) -> None:
    values = _score(marks({"a": 0.0, "b": [0, 1.0, 0], "c": [0, 4.0, 0]}), tmp_path, reference="first")
    assert values["localisation", "vertebra", "all"] == pytest.approx((1 + 4) / 2)


def test_against_the_mean_of_the_others(marks: Marks, tmp_path: Path) -> None:
    values = _score(marks({"a": 0.0, "b": [0, 1.0, 0], "c": [0, 4.0, 0]}), tmp_path, reference="mean")
    assert values["localisation", "vertebra", "all"] == pytest.approx((2.5 + 1.0 + 3.5) / 3)


def test_the_mean_of_the_others_holds_what_any_of_them_marked(marks: Marks) -> None:
    rows = marks({"a": 0.0, "b": 0.0, "c": 0.0})
    rows = rows[
        ~((rows["expert"] == "b") & (rows["vertebra"] == 1)) & ~((rows["expert"] == "c") & (rows["vertebra"] == 4))
    ]
    sizes = {rater: len(truth) for rater, _, truth in comparisons(rows, "mean", **HOW)}
    assert sizes == {"a": 4, "b": 4, "c": 4}


def test_with_two_experts_the_mean_of_the_others_is_the_other(marks: Marks, tmp_path: Path) -> None:
    rows = marks({"a": 0.0, "b": [0, 3.0, 4.0]})
    each, mean = (_score(rows, tmp_path, reference=reference) for reference in ("each", "mean"))
    assert np.allclose(each, mean, equal_nan=True)


def test_a_case_of_one_expert_is_named_left_out_and_listed(marks: Marks, tmp_path: Path) -> None:
    told: list[str] = []
    both = marks({"a": 0.0, "b": [0, 3.0, 4.0]}, case="both")
    lonely = marks({"a": 0.0}, case="lonely")
    values = _score(pd.concat([both, lonely]), tmp_path, warn=told.append)
    assert np.allclose(values, _score(both, tmp_path / "both"), equal_nan=True)
    assert len(told) == 1
    assert told[0].startswith("lonely: annotated by a only")
    listed = tables.read_table(tmp_path / "cases.parquet", tables.EXPERT_CASES).set_index("case")
    assert listed["status"].to_dict() == {"both": "ok", "lonely": "one_expert"}
    assert listed.loc["both", "experts"] == "a; b"


def test_no_case_of_two_experts_is_an_error(marks: Marks, tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"x\.parquet: none of 1 cases has two experts"):
        score_experts(marks({"a": 0.0}), **HOW, out=tmp_path, warn=print)
    assert not list(tmp_path.iterdir())


def test_an_annotation_that_describes_no_curve_keeps_its_row_and_reason(marks: Marks, tmp_path: Path) -> None:
    rows = marks({"a": 0.0, "b": [0, 1.0, 0]})
    one = rows[(rows["expert"] == "a") | (rows["vertebra"] == 2)]
    _, curves = score_experts(one, **HOW, out=tmp_path, warn=print)
    assert curves["status"].tolist() == ["no_curve"] * 2
    assert (curves["reason"].str.len() > 0).all()


def test_an_expert_of_a_case_in_two_sources_is_refused(marks: Marks, tmp_path: Path) -> None:
    paths = [tmp_path / "one.parquet", tmp_path / "two.csv"]
    rows = marks({"a": 0.0, "b": 0.0}).drop(columns="source")
    tables.write_table(paths[0], tables.ANNOTATIONS, rows)
    rows[rows["expert"] == "b"].to_csv(paths[1], index=False)
    with pytest.raises(AnnotationError, match=r"two\.csv: b annotated case c in an earlier source too"):
        read_experts(paths, (1, 1, 1))


def test_sources_are_stacked_and_named(marks: Marks, tmp_path: Path) -> None:
    rows = marks({"a": 0.0, "b": 0.0}).drop(columns="source")
    paths = []
    for expert in "ab":
        paths.append(tmp_path / f"{expert}.parquet")
        tables.write_table(paths[-1], tables.ANNOTATIONS, rows[rows["expert"] == expert])
    read = read_experts(paths, (1, 1, 1))
    assert dict(zip(read["expert"], read["source"], strict=True)) == {"a": str(paths[0]), "b": str(paths[1])}


@pytest.mark.skipif(not PUBLIC.is_dir(), reason=f"the public annotations are not at {PUBLIC}")
def test_the_published_experts_agree_as_published(tmp_path: Path) -> None:
    """Within what the unknown voxel size and the 25 missing studies allow."""
    rows = read_experts([PUBLIC / "annotation-2020"], (0.7, 0.7, 0.8))
    values = _score(rows, tmp_path)
    assert values["recall", "vertebra", "all"] == pytest.approx(0.983, abs=0.01)
    assert values["recall", "vertebra", "G <= 0.74"] == pytest.approx(0.973, abs=0.02)
    assert values["precision to any expert", "vertebra", "all"] == pytest.approx(0.996, abs=0.006)
