"""Laws of scoring levels: known names give known shares, and where nothing is known nothing is claimed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from vertfrac import tables
from vertfrac.cli import main
from vertfrac.errors import TableError
from vertfrac.evaluation.inputs import read_predictions
from vertfrac.evaluation.levels import REGIONS, anchored_cases, columns, identified, named_pairs, places_off, read_level
from vertfrac.evaluation.metrics import measures, metric_rows
from vertfrac.evaluation.run import summarise
from vertfrac.evaluation.score import match_table
from vertfrac.evaluation.summary import paper_tables, write_tables

Floats = NDArray[np.float64]
TRUE = ["T8", "T9", "T10", "T11"]
LOWER = ["T9", "T10", "T11", "T12"]
VERTEBRA = ("identification rate", "label accuracy", "shifted by one")
DOUBT = ("doubtful wrong levels", "doubtful right levels", "doubtful shifted columns", "doubtful right columns")
CALIBRATION = ("calibration error of the level", "Brier score of the level")


@pytest.fixture
def case_of(
    spine_keypoints: Callable[..., Floats],
    annotations_of: Callable[..., pd.DataFrame],
    predictions_of: Callable[..., pd.DataFrame],
) -> Callable[..., list[dict[str, Any]]]:
    """Rows of MATCHES of one case: annotated levels, predicted levels, their probability and runner-up."""

    def make(
        case: str,
        target: list[str],
        levels: list[str],
        *,
        probability: float | None = 0.9,
        runner_up: list[str] | None = None,
        anchored: bool = False,
        lost: int = 0,
    ) -> list[dict[str, Any]]:
        keypoints = spine_keypoints(len(target), bend_mm=3.0)
        marks = annotations_of(keypoints, case=case).assign(level=target)
        found = predictions_of(keypoints[lost:] + np.array([0, 1.0, 1.0]), case=case)
        found = found.assign(
            level=levels[lost:], level_probability=probability, level_runner_up=(runner_up or [""] * len(levels))[lost:]
        )
        rows = match_table(marks, found, closeness="butterfly", threshold=0.1)
        return [{"case": case, "patient": case, "anchored": anchored, **row} for row in rows]

    return make


def _metrics(*cases: list[dict[str, Any]]) -> pd.DataFrame:
    matches = tables.MATCHES.frame([row for case in cases for row in case])
    rows = metric_rows(matches, tables.CURVE_ERRORS.frame([]))
    return pd.DataFrame(rows).set_index(["metric", "level", "subset"])


def _value(metrics: pd.DataFrame, metric: str, subset: str = "all") -> float:
    level = "scan" if "columns" in metric else "vertebra"
    return float(metrics.loc[(metric, level, subset), "value"])


# --- identification as VerSe defines it


def test_identified_needs_the_right_level_to_be_the_closest_and_near() -> None:
    gap = np.array([[3.0, 25.0], [25.0, 4.0]])
    assert identified(gap, ["T8", "T9"], ["T8", "T9"]) == [True, True]
    assert identified(gap, ["T8", "T9"], ["T9", "T8"]) == [False, False]
    assert identified(gap, ["T8", ""], ["T8", "T9"]) == [True, None]
    assert identified(gap + 17.5, ["T8", "T9"], ["T8", "T9"]) == [False, False]
    assert identified(gap[:, :0], ["T8", "T9"], []) == [False, False]


def test_a_prediction_without_a_name_hides_no_other() -> None:
    assert identified(np.array([[2.0, 12.0]]), ["T8"], ["", "T8"]) == [True]
    assert identified(np.array([[2.0, 12.0]]), ["T8"], ["T7", "T8"]) == [False]


def test_the_right_name_elsewhere_identifies_nothing() -> None:
    """T9 is called T8 and its prediction lies beside T8's own: the closest to T8 decides."""
    gap = np.array([[3.0, 26.0], [26.0, 3.0]])
    assert identified(gap, ["T8", "T9"], ["T7", "T8"]) == [False, False]


# --- how far off


@pytest.mark.parametrize(
    ("level", "target", "places"),
    [
        ("T8", "T8", 0), ("T9", "T8", 1), ("T7", "T8", -1), ("L1", "T12", 1), ("T13", "T12", 1), ("T12", "T13", -1),
        ("L1", "T13", 1), ("T11", "T13", -2), ("C7", "T2", -2), ("S1", "L5", 1), ("L6", "L5", 1), ("S1", "L6", 1),
        ("S1", "L4", 2), ("L3", "T9", 6),
    ],
)  # fmt: skip
def test_places_off_are_those_of_a_usual_column(level: str, target: str, places: int) -> None:
    off = places_off(pd.Series([level, ""]), pd.Series([target, target]))
    assert off.iloc[0] == places
    assert np.isnan(off.iloc[1])


def test_regions_hold_every_vertebra_once() -> None:
    listed = [level for levels in REGIONS.values() for level in levels]
    assert len(listed) == len(set(listed)) == 24


# --- the measures


def test_right_names_have_perfect_scores(case_of: Callable[..., Any]) -> None:
    metrics = _metrics(case_of("a", TRUE, TRUE, anchored=True), case_of("b", LOWER, LOWER, anchored=True))
    for subset in ("all", "anchored"):
        assert _value(metrics, "identification rate", subset) == _value(metrics, "label accuracy", subset) == 1.0
        for metric in ("shifted by one", "shifted columns", "doubtful right levels", "doubtful right columns"):
            assert _value(metrics, metric, subset) == 0.0
        assert _value(metrics, "calibration error of the level", subset) == pytest.approx(0.1)
        assert _value(metrics, "Brier score of the level", subset) == pytest.approx(0.01)


def test_a_column_shifted_by_one_is_wrong_as_a_whole(case_of: Callable[..., Any]) -> None:
    metrics = _metrics(case_of("a", TRUE, TRUE), case_of("b", TRUE, LOWER, runner_up=TRUE))
    assert _value(metrics, "identification rate") == _value(metrics, "label accuracy") == 0.5
    assert _value(metrics, "shifted by one") == _value(metrics, "shifted columns") == 0.5
    assert _value(metrics, "doubtful shifted columns") == _value(metrics, "doubtful wrong levels") == 1.0
    assert _value(metrics, "doubtful right columns") == _value(metrics, "doubtful right levels") == 0.0


@pytest.mark.parametrize(("warned", "flagged"), [(4, 1.0), (2, 1.0), (1, 0.0), (0, 0.0)])
def test_a_shifted_column_is_doubtful_if_half_of_its_wrong_levels_are(
    case_of: Callable[..., Any], warned: int, flagged: float
) -> None:
    runner_up = TRUE[:warned] + [""] * (4 - warned)
    metrics = _metrics(case_of("b", TRUE, LOWER, runner_up=runner_up))
    assert _value(metrics, "doubtful shifted columns") == flagged
    assert _value(metrics, "doubtful wrong levels") == warned / 4


def test_any_doubt_about_a_right_column_is_a_false_alarm(case_of: Callable[..., Any]) -> None:
    metrics = _metrics(case_of("a", TRUE, TRUE, runner_up=["", "", "", "T12"]), case_of("b", TRUE, TRUE))
    assert _value(metrics, "doubtful right columns") == 0.5
    assert _value(metrics, "doubtful right levels") == 1 / 8


def test_a_few_wrong_names_shift_no_column_and_make_it_no_right_one(case_of: Callable[..., Any]) -> None:
    pairs = named_pairs(tables.MATCHES.frame(case_of("a", TRUE, ["T8", "T9", "T11", "T12"])).assign(rater=""))
    (scan,) = columns(pairs).to_dict("records")
    assert (scan["shifted"], scan["right"], scan["wrong"]) == (False, False, 2)


def test_a_missed_vertebra_is_not_identified_and_takes_no_part_in_the_rest(case_of: Callable[..., Any]) -> None:
    metrics = _metrics(case_of("a", TRUE, TRUE, lost=1))
    assert _value(metrics, "identification rate") == 3 / 4
    assert _value(metrics, "label accuracy") == 1.0


def test_a_vertebra_without_a_name_is_wrong_but_not_shifted(case_of: Callable[..., Any]) -> None:
    metrics = _metrics(case_of("a", TRUE, ["T8", "T9", "T10", ""]))
    assert _value(metrics, "identification rate") == _value(metrics, "label accuracy") == 3 / 4
    assert _value(metrics, "shifted by one") == _value(metrics, "shifted columns") == 0.0


def test_anchored_are_those_scans_only(case_of: Callable[..., Any]) -> None:
    metrics = _metrics(case_of("a", TRUE, TRUE, anchored=True), case_of("b", TRUE, LOWER))
    assert [_value(metrics, "label accuracy", subset) for subset in ("all", "anchored")] == [0.5, 1.0]
    none = _metrics(case_of("b", TRUE, LOWER))
    row = none.loc[("identification rate", "vertebra", "anchored")]
    assert np.isnan(row["value"])
    assert row["note"] == "no scan with an anchor and annotated levels"


def test_calibration_is_the_distance_of_probability_and_share(case_of: Callable[..., Any]) -> None:
    """Half of the levels given with 0.9 are right, all of those given with 0.3."""
    metrics = _metrics(
        case_of("a", TRUE, TRUE), case_of("b", TRUE, LOWER), case_of("c", TRUE, TRUE, probability=0.3),
        case_of("d", TRUE, TRUE, probability=0.3),
    )  # fmt: skip
    assert _value(metrics, "calibration error of the level") == pytest.approx((0.4 + 0.7) / 2)
    assert _value(metrics, "Brier score of the level") == pytest.approx((0.01 + 0.81 + 0.49 + 0.49) / 4)


def test_calibration_under_weights_is_that_of_repeated_patients(case_of: Callable[..., Any]) -> None:
    """The bootstrap counts a patient twice as if it were two."""
    a, b = case_of("a", TRUE, TRUE, probability=0.85), case_of("b", TRUE, LOWER, probability=0.83)
    twice = [{**row, "case": "c", "patient": "c"} for row in b]
    expected = _value(_metrics(a, b, twice), "calibration error of the level")
    matches = tables.MATCHES.frame([*a, *b]).assign(rater="")
    (measure,) = (
        m
        for m in measures(matches, tables.CURVE_ERRORS.frame([]))
        if m.key == ("calibration error of the level", "vertebra", "all")
    )
    units = np.array(["a", "b"], dtype=object)
    values = measure.values(np.array([[1.0, 2.0], [1.0, 1.0], [0.0, 0.0]]), units)
    assert values[0] == pytest.approx(expected)
    assert values[1] == pytest.approx(measure.value)
    assert np.isnan(values[2])


def _notes(metrics: pd.DataFrame, names: tuple[str, ...]) -> set[str]:
    rows = metrics.loc[[name for name in metrics.index.get_level_values(0).unique() if name in names]]
    assert rows["value"].isna().all()
    return set(rows["note"])


def test_where_no_level_is_annotated_all_is_undefined(case_of: Callable[..., Any]) -> None:
    metrics = _metrics(case_of("a", [""] * 4, TRUE))
    assert _notes(metrics, (*VERTEBRA, "shifted columns", *DOUBT, *CALIBRATION)) == {"no annotated level"}


def test_a_system_that_names_nothing_is_not_scored_on_names(case_of: Callable[..., Any]) -> None:
    metrics = _metrics(case_of("a", TRUE, [""] * 4, probability=None))
    names = (*VERTEBRA, "shifted columns", *DOUBT, *CALIBRATION)
    assert _notes(metrics, names) == {"the system names no level"}
    assert metrics.loc[("recall", "vertebra", "all"), "value"] == 1.0


def test_a_system_that_names_some_scans_is_scored_on_all(case_of: Callable[..., Any]) -> None:
    metrics = _metrics(case_of("a", TRUE, [""] * 4, probability=None), case_of("b", TRUE, TRUE))
    assert _value(metrics, "identification rate") == _value(metrics, "label accuracy") == 0.5


def test_names_without_probability_have_no_doubt_and_no_calibration(case_of: Callable[..., Any]) -> None:
    metrics = _metrics(case_of("a", TRUE, TRUE, probability=None))
    assert _value(metrics, "identification rate") == 1.0
    assert _notes(metrics, (*DOUBT, *CALIBRATION)) == {"the system gives no probability of levels"}


def test_the_same_rows_come_whatever_is_known(case_of: Callable[..., Any]) -> None:
    whole = _metrics(case_of("a", TRUE, TRUE, anchored=True))
    bare = _metrics(case_of("a", [""] * 4, [""] * 4, probability=None))
    assert whole.index.tolist() == bare.index.tolist()
    assert (bare["value"].notna() | (bare["note"].str.len() > 0)).all()


# --- anchors


def test_anchors_are_sacrum_skull_base_and_a_whole_rib_cage() -> None:
    marks = pd.DataFrame(
        [("ribs", "T1"), ("ribs", "L1"), ("top", "T1"), ("low", "L2"), ("sacrum", "L5"), ("skull", "C3"), ("none", "")],
        columns=["case", "level"],
    )
    landmarks = tables.LANDMARKS.frame(
        [{"case": "sacrum", "level": "S1"}, {"case": "skull", "level": "C2"}, {"case": "none", "level": "C1"}]
    )
    assert anchored_cases(marks) == {"ribs"}
    assert anchored_cases(marks, landmarks) == {"ribs", "sacrum", "skull"}


# --- what is read and written


def test_levels_are_read_as_people_write_them() -> None:
    assert [read_level(text, "", TableError) for text in ("Th7", " L3", "S1", "", "D12")] == [
        "T7",
        "L3",
        "S1",
        "",
        "T12",
    ]


def test_a_text_that_names_no_level_is_refused_by_file_case_and_vertebra(
    tmp_path: Path, spine_keypoints: Callable[..., Floats], predictions_of: Callable[..., pd.DataFrame]
) -> None:
    found = predictions_of(spine_keypoints(2), case="k").assign(level=["T7", "seven"])
    found[["case", "vertebra", "level", *tables.PREDICTIONS.required[1:]]].to_csv(tmp_path / "found.csv", index=False)
    with pytest.raises(TableError, match=r"found\.csv: case k vertebra 2: level is 'seven', expected a level such as"):
        read_predictions(tmp_path / "found.csv")


@pytest.fixture
def scored(
    tmp_path: Path,
    spine_keypoints: Callable[..., Floats],
    annotations_of: Callable[..., pd.DataFrame],
    predictions_of: Callable[..., pd.DataFrame],
) -> Path:
    """Two cases: one named right, which shows its sacrum, and one shifted; scored by the command."""
    keypoints = spine_keypoints(4, bend_mm=3.0)
    marks = pd.concat([annotations_of(keypoints, case=case).assign(level=TRUE) for case in "ab"])
    found = pd.concat(
        [predictions_of(keypoints, case=c).assign(level=names) for c, names in (("a", TRUE), ("b", LOWER))]
    ).assign(level_probability=0.9)
    tables.write_table(tmp_path / "truth.parquet", tables.ANNOTATIONS, marks)
    tables.write_table(tmp_path / "found.parquet", tables.VERTEBRAE, found)
    tables.write_table(
        tmp_path / "landmarks.parquet", tables.LANDMARKS, [{"case": "a", "level": "S1", "x": 0, "y": 0, "z": 0}]
    )
    arguments = [
        "evaluate", "--annotations", tmp_path / "truth.parquet", "--predictions", tmp_path / "found.parquet",
        "--landmarks", tmp_path / "landmarks.parquet", "--out", tmp_path / "out",
    ]  # fmt: skip
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    (tmp_path / "out" / "printed.txt").write_text(result.stdout)
    return tmp_path / "out"


def test_the_command_prints_what_it_knows_of_levels(scored: Path) -> None:
    printed = (scored / "printed.txt").read_text()
    assert "identification rate by vertebra: 0.500 [0.000, 1.000], n=8" in printed
    assert "identification rate by vertebra, anchored: 1.000 [1.000, 1.000], n=4" in printed
    assert "shifted columns by scan: 0.500" in printed


def test_matches_hold_levels_of_both_sides(scored: Path) -> None:
    matches = tables.read_table(scored / "matches.parquet", tables.MATCHES)
    assert matches["level_target"].tolist() == TRUE * 2
    assert matches["level"].tolist() == TRUE + LOWER
    assert matches["identified"].tolist() == [True] * 4 + [False] * 4
    assert matches["anchored"].tolist() == [True] * 4 + [False] * 4
    assert (matches["level_probability"] == 0.9).all()


def test_the_summary_has_a_table_of_levels_where_there_are_some(scored: Path, tmp_path: Path) -> None:
    matches = tables.read_table(scored / "matches.parquet", tables.MATCHES)
    curves = tables.read_table(scored / "curve_errors.parquet", tables.CURVE_ERRORS)
    summary = summarise(matches, curves, resamples=10, seed=0)
    text = write_tables(summary, tmp_path / "with", "heading")
    assert "## Names of vertebrae" in text
    table = pd.read_parquet(tmp_path / "with" / "table-levels.parquet")
    assert table["identification rate by vertebra"].tolist() == [0.5]
    assert table["identification rate by vertebra, anchored"].tolist() == [1.0]
    bare = summarise(matches.assign(level=""), curves, resamples=10, seed=0)
    (levels,) = (t for t in paper_tables(bare) if t.name == "table-levels")
    assert (levels.printed, len(levels.data)) == (False, 1)
