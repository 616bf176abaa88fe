"""Pictures of agreement: the numbers drawn are those of the tables, and what is missing is said."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread
from sklearn.metrics import roc_auc_score

from vertfrac import tables
from vertfrac.cli import main
from vertfrac.errors import TableError
from vertfrac.report import figures
from vertfrac.report.cohort import draw_comparison, draw_overlays
from vertfrac.report.evaluation_figures import (
    draw_doubt,
    draw_error_distribution,
    draw_expert_disagreement,
    draw_genant_agreement,
    draw_roc,
    limits_of_agreement,
)


def _matches(systems: tuple[str, ...] = ("one", "_$two$"), count: int = 50) -> pd.DataFrame:
    rng = np.random.default_rng(3)
    rows: list[dict[str, object]] = []
    for system in systems:
        for i in range(count):
            truth = rng.uniform(0.4, 1.0)
            rows.append(
                {
                    "system": system, "repeat": 0, "case": f"c{i // 2}", "expert": "e", "target": i, "vertebra": i,
                    "genant_target": truth, "genant": truth + rng.normal(0.01, 0.03),
                    "center_error_mm": rng.gamma(2), "keypoint_error_mm": rng.gamma(3), "score": 0.5 + i / (2 * count),
                }
            )  # fmt: skip
        rows.append({"system": system, "repeat": 0, "case": "c0", "expert": "e", "target": 900, "genant_target": 0.1})
        spurious = {"vertebra": 901, "genant": 0.1, "score": 0.4}
        rows.append({"system": system, "repeat": 0, "case": "c1", "expert": "e", **spurious})
    return tables.MATCHES.frame(rows)


def _curves(systems: tuple[str, ...] = ("one", "_$two$")) -> pd.DataFrame:
    rows = [{"system": s, "status": "ok", "curve_error_mm": mm} for s in systems for mm in (0.5, 1.0, 4.0, np.nan)]
    return tables.CURVE_ERRORS.frame(rows)


WRITTEN = {"agreement.png", "doubt.png", "errors.png", "levels.png", "roc.png"}
TWELVE = (*(f"system-{i:02d}" for i in range(11)), "_$two$")


def _texts(axes: Axes) -> str:
    legend = axes.get_legend()
    return "\n".join(text.get_text() for text in [*axes.texts, *(legend.get_texts() if legend else ())])


def _pairs(matches: pd.DataFrame, system: str) -> pd.DataFrame:
    return matches[matches["system"] == system].dropna(subset=["target", "vertebra"])


def _agreement_text(pairs: pd.DataFrame) -> tuple[str, str]:
    difference = pairs["genant"] - pairs["genant_target"]
    bias, reach = difference.mean(), 1.96 * difference.std()
    return f"bias {bias:+.3f}", f"limits [{bias - reach:+.3f}, {bias + reach:+.3f}]"


def test_agreement_of_one_system_shows_every_matched_pair_and_no_other() -> None:
    matches = _matches(("one",))
    scatter, bland = draw_genant_agreement(matches).axes
    for axes in (scatter, bland):
        assert [len(points.get_offsets()) for points in axes.collections] == [50]
    pairs = _pairs(matches, "one")
    np.testing.assert_allclose(np.asarray(scatter.collections[0].get_offsets()), pairs[["genant_target", "genant"]])
    assert "one (n = 50 pairs)" in _texts(scatter)
    for text in _agreement_text(pairs):
        assert text in _texts(bland)


@pytest.mark.parametrize("systems", [("one", "_$two$"), TWELVE], ids=len)
def test_agreement_of_several_systems_is_a_panel_each(systems: tuple[str, ...]) -> None:
    matches = _matches(systems)
    panels = [axes for axes in draw_genant_agreement(matches).axes if axes.axison]
    assert sorted(axes.get_title(loc="left").strip() for axes in panels) == sorted(systems)
    for axes in panels:
        pairs = _pairs(matches, axes.get_title(loc="left").strip())
        drawn = np.asarray(axes.collections[0].get_offsets())
        np.testing.assert_allclose(drawn, pairs[["genant_target", "genant"]])
        assert "n = 50 pairs" in _texts(axes)
        for text in _agreement_text(pairs):
            assert text in _texts(axes)


def test_a_system_without_a_matched_vertebra_keeps_its_place() -> None:
    lost = tables.MATCHES.frame([{"system": "lost", "case": "c", "target": 1, "genant_target": 0.7}])
    matches = pd.concat([_matches(("one",)), lost])
    panels = {axes.get_title(loc="left"): _texts(axes) for axes in draw_genant_agreement(matches).axes}
    assert panels["lost"] == "no matched vertebra"
    assert "n = 50" in panels["one"]
    by_vertebra = draw_roc(matches).axes[0]
    assert "lost: undefined, no matched vertebra (0 of 0)" in _texts(by_vertebra)
    errors = draw_error_distribution(matches, _curves(("one",))).axes
    assert [_texts(axes).split("\n")[0] for axes in errors[:3]] == ["no matched vertebra"] * 2 + ["no curve"]


def test_limits_of_agreement() -> None:
    bias, lower, upper = limits_of_agreement(np.array([1.0, 1.0, 1.0]), np.array([1.0, 2.0, 3.0]))
    assert (bias, lower, upper) == pytest.approx((1.0, -0.96, 2.96))
    assert np.isnan(limits_of_agreement(np.ones(1), np.zeros(1))[1])


def test_single_pair_has_no_limits() -> None:
    _, bland = draw_genant_agreement(_matches(("one",), 1)).axes
    assert "undefined" in _texts(bland)


@pytest.mark.parametrize("systems", [("one",), ("one", "_$two$"), TWELVE], ids=len)
def test_error_distribution_is_a_row_per_system_with_its_medians(systems: tuple[str, ...]) -> None:
    matches = _matches(systems)
    panels = np.reshape(np.array(draw_error_distribution(matches, _curves(systems)).axes), (len(systems), 3))
    for name, (keypoint, center, curve) in zip(sorted(systems), panels, strict=True):
        pairs = _pairs(matches, name)
        assert name in _texts(keypoint).replace("\n", " ")
        assert f"50 vertebrae\nmedian {pairs['keypoint_error_mm'].median():.2f} mm" in _texts(keypoint)
        assert f"50 vertebrae\nmedian {pairs['center_error_mm'].median():.2f} mm" in _texts(center)
        assert "3 scans\nmedian 1.00 mm" in _texts(curve)


def test_every_error_is_counted_even_beyond_the_axis() -> None:
    matches = _matches(("one",), 300)
    matches.loc[0, "keypoint_error_mm"] = 500.0
    axes = draw_error_distribution(matches, _curves(("one",))).axes[0]
    assert axes.get_xlim()[1] < 50
    assert "1 beyond" in _texts(axes)
    assert sum(bar.get_height() for bar in axes.patches) == pytest.approx(100)


@pytest.mark.parametrize("systems", [("one",), TWELVE], ids=len)
def test_roc_has_the_area_and_the_points_of_scikit_learn(systems: tuple[str, ...]) -> None:
    matches = _matches(systems)
    panels = draw_roc(matches).axes
    for name in systems:
        pairs = _pairs(matches, name)
        smallest = matches[matches["system"] == name].groupby("case")[["genant_target", "genant"]].min()
        for axes, rows, limit in zip(panels, (pairs, pairs, smallest, smallest), (0.74, 0.8) * 2, strict=True):
            positive, called = rows["genant_target"] <= limit, rows["genant"] <= limit
            area = roc_auc_score(positive, -rows["genant"])
            assert f"{name}: {area:.3f} ({positive.sum()} of {len(rows)})" in _texts(axes)
            marker = next(line for line in axes.lines if str(line.get_label()).strip().startswith(f"{name}:"))
            assert np.ravel(marker.get_xydata()) == pytest.approx([called[~positive].mean(), called[positive].mean()])


def test_a_curve_of_one_class_says_why_it_is_undefined() -> None:
    matches = _matches(("one",)).dropna(subset=["target", "vertebra"])
    for shift, why in ((1.0, "no positive (0 of 50)"), (-1.0, "no negative (50 of 50)")):
        moved = matches.assign(genant_target=matches["genant_target"] + shift)
        assert f"one: undefined, {why}" in _texts(draw_roc(moved).axes[0])


def test_a_patient_without_any_measurement_counts_as_normal() -> None:
    rows = [
        {"system": "s", "repeat": 0, "case": case, "target": 1, "vertebra": 1, "genant_target": g, "genant": g}
        for case, g in (("a", 0.5), ("b", 0.9))
    ]
    missed = {"system": "s", "repeat": 0, "case": "c", "target": 1, "genant_target": 0.6}
    by_patient = draw_roc(tables.MATCHES.frame([*rows, missed])).axes[2]
    assert "s: 0.500 (2 of 3)" in _texts(by_patient)


def test_systems_in_one_panel_differ_in_more_than_colour() -> None:
    lines = [line for line in draw_roc(_matches(TWELVE)).axes[0].lines if ":" in str(line.get_label())]
    assert len({line.get_marker() for line in lines}) == len(TWELVE)


def test_doubt_shows_what_is_wrong_among_the_most_certain() -> None:
    """Ten detections: the least certain one is none, and the next one's G is off."""
    rows = [
        {"system": "one", "vertebra": k, "target": k, "score": k / 10, "genant": 0.9, "genant_target": 0.9}
        for k in range(1, 11)
    ]
    rows[0]["target"] = None
    rows[1]["genant"] = 0.7
    rows.append({"system": "one", "target": 11, "genant_target": 0.5})  # missed: no detection
    reliability, invented, wrong = draw_doubt(tables.MATCHES.frame(rows)).axes
    at, right = reliability.lines[0].get_data()
    np.testing.assert_allclose(at, np.arange(1, 11) / 10)
    np.testing.assert_allclose(right, [0] + [100] * 9)
    kept, share = invented.lines[0].get_data()
    np.testing.assert_allclose(kept, np.arange(10, 101, 10))
    np.testing.assert_allclose(share, [0] * 9 + [10])
    np.testing.assert_allclose(wrong.lines[0].get_data()[1], [0] * 8 + [100 / 9])
    assert invented.lines[0].get_label() == "one: 1 of 10"
    assert wrong.lines[0].get_label() == "one: 1 of 9"


def test_doubt_about_g_goes_by_the_spread_where_there_is_one() -> None:
    """Of four vertebrae of falling scores the first is wrong, and its keypoints are the ones that spread."""
    rows = [
        {"system": "one", "vertebra": k, "target": k, "score": 1 - k / 10, "spread_mm": 2.0 if k == 1 else 0.5,
         "genant": 0.6 if k == 1 else 0.9, "genant_target": 0.9}
        for k in range(1, 5)
    ]  # fmt: skip
    wrong = draw_doubt(tables.MATCHES.frame(rows)).axes[2]
    np.testing.assert_allclose(wrong.lines[0].get_data()[1], [0, 0, 0, 25])


def test_doubt_has_a_line_per_system_and_none_for_experts() -> None:
    for axes in draw_doubt(_matches((*TWELVE, "experts"))).axes:
        assert len(axes.lines) == len(TWELVE)


def test_experts_are_compared_only_with_each_other(tmp_path: Path) -> None:
    matches = _matches(("one", "experts"))
    bland, distances = draw_expert_disagreement(matches).axes
    pairs = _pairs(matches, "experts")
    drawn = np.asarray(bland.collections[0].get_offsets())
    np.testing.assert_allclose(drawn[:, 1], pairs["genant"] - pairs["genant_target"])
    assert f"50 pairs\nmedian {pairs['center_error_mm'].median():.2f} mm" in _texts(distances)
    draw_comparison(matches, _curves(), tmp_path / "with")
    draw_comparison(_matches(), _curves(), tmp_path / "without")
    assert {path.name for path in (tmp_path / "without").iterdir()} == WRITTEN
    assert (tmp_path / "with" / "experts.png").is_file()


def test_experts_without_a_matched_vertebra_say_so() -> None:
    rows = tables.MATCHES.frame([{"system": "experts", "case": "c", "target": 1, "genant_target": 0.7}])
    assert [_texts(axes) for axes in draw_expert_disagreement(rows).axes] == ["no matched vertebra"] * 2


def _empty(kind: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    if kind == "bare":
        return pd.DataFrame(), pd.DataFrame()
    if kind == "typed":
        return tables.MATCHES.frame([]), tables.CURVE_ERRORS.frame([])
    false_positive = tables.MATCHES.frame([{"system": "one", "vertebra": 1, "genant": 0.9}])
    return false_positive, tables.CURVE_ERRORS.frame([{"system": "one", "status": "no_spine"}])


@pytest.mark.parametrize("kind", ["bare", "typed", "unmatched"])
def test_empty_tables_say_so(kind: str) -> None:
    matches, curves = _empty(kind)
    for axes in draw_genant_agreement(matches).axes:
        assert _texts(axes) == "no matched vertebra"
    notes = [_texts(axes).split("\n")[0] for axes in draw_error_distribution(matches, curves).axes]
    assert notes == ["no matched vertebra", "no matched vertebra", "no curve"]
    assert [_texts(axes) for axes in draw_roc(matches).axes] == ["no matched vertebra"] * 2 + [
        "no annotated patient"
    ] * 2
    assert {_texts(axes) for axes in draw_doubt(matches).axes} == {"no detection"}


def test_empty_tables_are_written(tmp_path: Path) -> None:
    draw_comparison(*_empty("typed"), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == WRITTEN


@pytest.mark.parametrize("systems", [("one",), TWELVE], ids=len)
def test_writes_png(tmp_path: Path, systems: tuple[str, ...]) -> None:
    draw_comparison(_matches(systems), _curves(systems), tmp_path)
    for path in tmp_path.iterdir():
        height, width, _ = imread(path).shape
        assert 1200 < width < 2200
        assert 500 < height < 3000


def test_leaves_nothing_if_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        figures.genant_agreement(tmp_path / "agreement.png", _matches())
    assert not list(tmp_path.iterdir())


def test_the_command_compares_systems_without_predictions_or_slices(tmp_path: Path) -> None:
    tables.write_table(tmp_path / "a.parquet", tables.MATCHES, _matches(("one",)))
    tables.write_table(tmp_path / "b.parquet", tables.MATCHES, _matches(("other",)))
    files = ["--matches", str(tmp_path / "a.parquet"), "--matches", str(tmp_path / "b.parquet")]
    result = CliRunner().invoke(main, ["figures", *files, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert {path.name for path in (tmp_path / "out").iterdir()} == WRITTEN


def test_the_command_refuses_half_of_what_overlays_need(tmp_path: Path) -> None:
    tables.write_table(tmp_path / "a.parquet", tables.MATCHES, _matches())
    files = ["--matches", str(tmp_path / "a.parquet"), "--vertebrae", "v.parquet", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(main, ["figures", *files])
    assert result.exit_code == 2
    assert "--vertebrae, --slices and --cases together" in result.output


def test_overlays_are_of_one_system(tmp_path: Path) -> None:
    paths = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    for path, system in zip(paths, ("one", "other"), strict=True):
        tables.write_table(path, tables.VERTEBRAE, [{"system": system, "repeat": 0, "case": "c", "vertebra": 1}])
    with pytest.raises(TableError, match="found one r0, other r0, expected the predictions of one system"):
        draw_overlays(_matches(), paths, [], tmp_path / "cases.parquet", tmp_path)
