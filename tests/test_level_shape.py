"""Laws of the second opinion on G: a body of typical shape has 1, of whatever size, and a crushed one stays crushed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from vertfrac.cohorts.levels import NAMED
from vertfrac.genant import genant_index, grade
from vertfrac.level_shape import TYPICAL, genant_level, typical_heights

ROOT = Path(__file__).parents[1]
PUBLIC = ROOT.parent / "shared" / "data" / "lungcancer500" / "annotation-2022"
SHAPED = NAMED[:-1]
T7 = SHAPED.index("T7")


def heights(*, seed: int = 0) -> NDArray[np.float64]:
    """Three heights for each level that has a shape, mm."""
    return np.random.default_rng(seed).uniform(8, 30, (len(SHAPED), 3))


def test_every_level_but_s1_has_a_shape_and_nothing_else_has() -> None:
    assert list(TYPICAL) == list(SHAPED)
    assert np.isfinite(typical_heights(SHAPED)).all()
    assert np.isnan(genant_level(np.full((3, 3), 20.0), ["S1", "", "X"])).all()


def test_the_typical_shape_has_one_at_every_level() -> None:
    np.testing.assert_allclose(genant_level(23.4 * typical_heights(SHAPED), SHAPED), 1.0, rtol=1e-12)


def test_size_does_not_count() -> None:
    np.testing.assert_allclose(genant_level(heights(), SHAPED), genant_level(heights() * 1.7, SHAPED), rtol=1e-12)


def test_rows_do_not_know_each_other() -> None:
    one_by_one = [genant_level(h, [level])[0] for h, level in zip(heights(), SHAPED, strict=True)]
    np.testing.assert_array_equal(genant_level(heights(), SHAPED), one_by_one)


@pytest.mark.parametrize("level", ["T6", "T7", "T8"])
def test_a_wedge_that_is_usual_at_a_mid_thoracic_level_is_mild_by_g_alone(level: str) -> None:
    usual = typical_heights([level]) * [0.9, 0.92, 1.0]
    assert grade(genant_index(usual))[0] == 1
    assert grade(genant_level(usual, [level]))[0] == 0


def test_a_crush_stays_whatever_the_level() -> None:
    crushed = typical_heights(SHAPED) * [0.5, 0.7, 1.0]
    assert (grade(genant_level(crushed, SHAPED)) == 3).all()
    assert (grade(genant_level(typical_heights(SHAPED) * [1.0, 0.65, 1.0], SHAPED)) == 2).all()


def test_what_has_no_g_has_no_second_opinion() -> None:
    bad = np.array([[np.nan, 20, 20], [0, 0, 0], [np.inf, 20, 20]])
    assert np.isnan(genant_level(bad, ["T7"] * 3)).all()
    assert genant_level(np.empty((0, 3)), []).shape == (0,)


def test_what_is_shipped_is_what_the_benchmark_wrote() -> None:
    table = pd.read_csv(ROOT / "benchmarks" / "level_shape.csv", index_col="level")
    assert dict(zip(table.index, zip(table["anterior"], table["middle"], strict=True), strict=True)) == TYPICAL


def _benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("level_shape_benchmark", ROOT / "benchmarks" / "level_shape.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_typical_shapes_are_found_behind_fractures_and_few_vertebrae_are_drawn_to_their_neighbours() -> None:
    benchmark, rng = _benchmark(), np.random.default_rng(1)
    rows = []
    for case in range(60):
        for level, (anterior, middle) in TYPICAL.items():
            if level in ("T13", "L6") or (level == "L4" and case > 5) or (level == "L5" and case > 2):
                continue
            broken = 0.6 if rng.random() < 0.2 else 1.0
            noise = rng.normal(1, 0.03, 2)
            ratios = {"anterior": anterior * broken * noise[0], "middle": middle * noise[1]}
            rows.append({"case": f"{case}", "level": level, **ratios})
    found = benchmark.typical(pd.DataFrame(rows))
    known = found.loc[[level for level in SHAPED if level not in ("T13", "L4", "L5", "L6")]]
    shapes = np.array([TYPICAL[level] for level in known.index])
    assert np.abs(known[["anterior", "middle"]].to_numpy() - shapes).max() < 0.02
    own, made = found.loc["L4", "anterior_own"], found.loc["L4", "anterior"]
    assert abs(made - found.loc["L3", "anterior"]) < abs(own - found.loc["L3", "anterior"])
    last = benchmark.of_phantoms("L5") / benchmark.of_phantoms("L4")
    np.testing.assert_allclose(found.loc["L5", ["anterior", "middle"]], found.loc["L4", ["anterior", "middle"]] * last,
                               atol=2e-3)  # fmt: skip


@pytest.mark.skipif(not PUBLIC.is_dir(), reason=f"the public annotations are not at {PUBLIC}")
def test_the_shapes_are_those_of_the_public_annotations() -> None:
    benchmark = _benchmark()
    shapes = benchmark.typical(benchmark.per_vertebra(benchmark.read(PUBLIC)))
    np.testing.assert_allclose(shapes[["anterior", "middle"]], list(TYPICAL.values()), atol=1e-9)
