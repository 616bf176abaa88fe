"""Pictures of agreement: the numbers printed are those of the table, and empty tables say so."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread

from vertfrac import tables
from vertfrac.report import figures
from vertfrac.report.evaluation_figures import draw_error_distribution, draw_genant_agreement, limits_of_agreement


def _matches(systems: tuple[str, ...] = ("one", "_$two$"), count: int = 50) -> pd.DataFrame:
    rng = np.random.default_rng(3)
    rows: list[dict[str, object]] = []
    for system in systems:
        for i in range(count):
            truth = rng.uniform(0.4, 1.0)
            rows.append(
                {
                    "system": system, "case": "c", "expert": "e", "target": i, "vertebra": i, "genant_target": truth,
                    "genant": truth + rng.normal(0.01, 0.03), "center_error_mm": rng.gamma(2),
                    "keypoint_error_mm": rng.gamma(3),
                }
            )  # fmt: skip
        rows.append({"system": system, "target": 900, "genant_target": 0.1})
        rows.append({"system": system, "vertebra": 901, "genant": 0.1})
    return tables.MATCHES.frame(rows)


def _curves(systems: tuple[str, ...] = ("one", "_$two$")) -> pd.DataFrame:
    rows = [{"system": s, "status": "ok", "curve_error_mm": mm} for s in systems for mm in (0.5, 1.0, 4.0, np.nan)]
    return tables.CURVE_ERRORS.frame(rows)


def _texts(axes: Axes) -> str:
    legend = axes.get_legend()
    return "\n".join(text.get_text() for text in [*axes.texts, *(legend.get_texts() if legend else ())])


def test_agreement_shows_every_matched_pair_and_no_other() -> None:
    matches = _matches()
    scatter, bland = draw_genant_agreement(matches).axes
    for axes in (scatter, bland):
        assert [len(points.get_offsets()) for points in axes.collections] == [50, 50]
    one = matches[matches["system"] == "one"].dropna(subset=["target", "vertebra"])
    drawn = np.asarray(scatter.collections[1].get_offsets())
    np.testing.assert_allclose(drawn, one[["genant_target", "genant"]])
    difference = one["genant"] - one["genant_target"]
    bias, reach = difference.mean(), 1.96 * difference.std()
    assert f"one: bias {bias:+.3f}, 95 % limits [{bias - reach:+.3f}, {bias + reach:+.3f}]" in _texts(bland)
    for name in ("one", "_$two$"):
        assert f"{name} (n = 50 pairs)" in _texts(scatter)


def test_limits_of_agreement() -> None:
    bias, lower, upper = limits_of_agreement(np.array([1.0, 1.0, 1.0]), np.array([1.0, 2.0, 3.0]))
    assert (bias, lower, upper) == pytest.approx((1.0, -0.96, 2.96))
    assert np.isnan(limits_of_agreement(np.ones(1), np.zeros(1))[1])


def test_single_pair_has_no_limits() -> None:
    _, bland = draw_genant_agreement(_matches(("one",), 1)).axes
    assert "undefined" in _texts(bland)


def test_error_distribution_marks_the_medians() -> None:
    matches = _matches()
    keypoint, center, curve = draw_error_distribution(matches, _curves()).axes
    one = matches[matches["system"] == "one"]
    assert f"one (n = 50): median {one['keypoint_error_mm'].median():.2f} mm" in _texts(keypoint)
    assert f"one (n = 50): median {one['center_error_mm'].median():.2f} mm" in _texts(center)
    assert "one (n = 3): median 1.00 mm" in _texts(curve)


def test_every_error_is_counted_even_beyond_the_axis() -> None:
    matches = _matches(("one",), 300)
    matches.loc[0, "keypoint_error_mm"] = 500.0
    axes = draw_error_distribution(matches, _curves()).axes[0]
    assert axes.get_xlim()[1] < 50
    assert "1 beyond" in axes.get_title(loc="right")


def _empty(kind: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    if kind == "bare":
        return pd.DataFrame(), pd.DataFrame()
    if kind == "typed":
        return tables.MATCHES.frame([]), tables.CURVE_ERRORS.frame([])
    missed = tables.MATCHES.frame([{"system": "one", "target": 1, "genant_target": 0.9}])
    return missed, tables.CURVE_ERRORS.frame([{"system": "one", "status": "no_spine"}])


@pytest.mark.parametrize("kind", ["bare", "typed", "unmatched"])
def test_empty_tables_say_so(kind: str) -> None:
    matches, curves = _empty(kind)
    for axes in draw_genant_agreement(matches).axes:
        assert _texts(axes) == "no matched vertebra"
    assert [_texts(axes) for axes in draw_error_distribution(matches, curves).axes] == [
        "no matched vertebra",
        "no matched vertebra",
        "no curve",
    ]


def test_empty_tables_are_written(tmp_path: Path) -> None:
    matches, curves = _empty("typed")
    figures.genant_agreement(tmp_path / "agreement.png", matches)
    figures.error_distribution(tmp_path / "errors.png", matches, curves)


def test_writes_png(tmp_path: Path) -> None:
    figures.genant_agreement(tmp_path / "agreement.png", _matches())
    figures.error_distribution(tmp_path / "errors.png", _matches(), _curves())
    for name in ("agreement.png", "errors.png"):
        height, width, _ = imread(tmp_path / name).shape
        assert 1200 < width < 2200
        assert 500 < height < 1000
    assert len(list(tmp_path.iterdir())) == 2


def test_leaves_nothing_if_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        figures.genant_agreement(tmp_path / "agreement.png", _matches())
    assert not list(tmp_path.iterdir())
