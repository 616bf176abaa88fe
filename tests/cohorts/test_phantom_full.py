"""Phantoms of full difficulty, without some of their ingredients, and grown around annotations of patients."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from vertfrac import tables
from vertfrac.cli import main
from vertfrac.cohorts.phantom import Phantom, disease, make_phantom, random_column
from vertfrac.cohorts.phantom.anatomy import LEVELS, PLACES, Column, draw_rarities
from vertfrac.cohorts.phantom.canvas import Canvas
from vertfrac.cohorts.phantom.ingredients import FULL, MEANING, USUAL, choose
from vertfrac.cohorts.phantom.protocol import draw_protocol, metal_errors
from vertfrac.cohorts.phantom.template import read_templates
from vertfrac.config import Ingredient
from vertfrac.errors import AnnotationError, ConfigError
from vertfrac.genant import genant_index
from vertfrac.geometry.grid import Grid
from vertfrac.geometry.keypoints import centers, heights

SEED = 7

SHOWN_BY = {
    "head": 1,
    "deformity": 1,
    "collapse": 16,
    "wear": 2,
}
"""Phantoms in which an ingredient shows; all others show in the first."""


@cache
def quick(index: int, ingredients: frozenset[str] = FULL) -> Phantom:
    return make_phantom(SEED, index, ingredients=ingredients, spacing_mm=4.0)


@pytest.fixture(scope="module")
def columns() -> list[Column]:
    return [
        random_column(np.random.default_rng([1, i]), draw_rarities(np.random.default_rng([1, i, 1]), FULL))
        for i in range(400)
    ]


def test_the_configuration_knows_all_ingredients() -> None:
    assert get_args(Ingredient) == tuple(MEANING)
    assert choose("usual") == USUAL < choose("full") == FULL
    assert choose("full", ["metal", "wear"]) == FULL - {"metal", "wear"}


def test_the_page_tells_what_the_ingredients_are() -> None:
    page = (Path(__file__).parents[2] / "docs" / "cohorts" / "phantom.md").read_text(encoding="utf-8")
    rows = [f"| `{name}` | {'usual' if name in USUAL else 'full'} | {text} |" for name, text in MEANING.items()]
    assert "\n".join(rows) in page


@pytest.mark.parametrize(("difficulty", "without"), [("hard", []), ("full", ["bone"])])
def test_unknown_names_are_refused(difficulty: str, without: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"found the (difficulty 'hard'|ingredient 'bone'), expected one of \w+, "):
        choose(difficulty, without)


def test_a_full_phantom_is_a_function_of_its_numbers() -> None:
    one, again, other = quick(0), quick.__wrapped__(0), quick(0, USUAL)
    assert np.array_equal(one.hu, again.hu)
    assert np.array_equal(one.affine, again.affine)
    assert one.hu.shape != other.hu.shape or not np.array_equal(one.hu, other.hu)


@pytest.mark.parametrize("name", MEANING)
def test_an_ingredient_can_be_left_out(name: str) -> None:
    index = SHOWN_BY.get(name, 0)
    whole, part = quick(index), quick(index, FULL - {name})
    if name in ("variants", "deformity", "collapse"):
        assert not same_spine(whole, part)
    else:
        assert same_spine(whole, part)
        assert np.mean(np.abs(whole.hu.astype(int) - part.hu) > 20) > 1e-4


def same_spine(one: Phantom, other: Phantom) -> bool:
    if one.hu.shape != other.hu.shape or len(one.vertebrae) != len(other.vertebrae):
        return False
    pairs = zip(one.vertebrae, other.vertebrae, strict=True)
    inside = [np.linalg.inv(p.affine) for p in (one, other)]
    return all(
        np.allclose(*(v.keypoints @ m[:3, :3].T + m[:3, 3] for v, m in zip(pair, inside, strict=True)))
        for pair in pairs
    )


def test_rare_spines_of_the_population(columns: list[Column]) -> None:
    names = [tuple(v.level for v in column.vertebrae) for column in columns]
    share = {level: np.mean([level in named for named in names]) for level in PLACES}
    assert 0.01 < share["T13"] < 0.07
    assert 0.02 < share["L6"] < 0.11
    assert 0.9 < share["T12"] < 0.99
    assert 0.9 < share["L5"] < 0.99
    assert 0.78 < np.mean([named == LEVELS for named in names]) < 0.9
    assert all(sorted(named, key=PLACES.__getitem__) == list(named) for named in names)
    assert 50 < max(column.cobb for column in columns) <= 60
    assert 75 < max(column.kyphosis for column in columns) <= 80
    seen = np.array([v.genant for column in columns for v in column.visible()])
    assert 0.2 <= seen.min() < 0.3
    assert 0.002 < (seen < 0.35).mean() < 0.02


def test_bodies_of_rare_spines_do_not_overlap(columns: list[Column]) -> None:
    gaps = [
        ((upper.keypoints[[1, 5]] - lower.keypoints[[0, 4]]) @ lower.rotation[:, 2]).min()
        for column in columns
        for upper, lower in zip(column.vertebrae, column.vertebrae[1:], strict=False)
    ]
    assert min(gaps) > 0


def test_keypoints_of_full_phantoms_lie_on_bone() -> None:
    """Just inside of the endplates it is denser than in the discs between, whatever else was painted."""
    ends, between = [], []
    for index in range(3):
        phantom = make_phantom(SEED, index, ingredients=FULL - {"lesions", "wear", "noise", "metal"}, spacing_mm=2.0)
        grid = Grid(phantom.hu.shape, phantom.affine)

        def value(points: np.ndarray, grid: Grid = grid, phantom: Phantom = phantom) -> np.ndarray:
            i, j, k = np.rint(grid.to_index(points)).astype(int).T
            return np.asarray(phantom.hu[i, j, k])

        for upper, lower in zip(phantom.vertebrae, phantom.vertebrae[1:], strict=False):
            toward = upper.keypoints + 0.1 * (centers(upper.keypoints) - upper.keypoints)
            ends.append(value(toward).mean())
            between.append(value((upper.keypoints[3] + lower.keypoints[2])[None] / 2).mean())
    assert np.median(np.array(ends) - np.array(between)) > 60
    assert np.mean(np.array(ends) > np.array(between)) > 0.95


def test_protocols_span_what_is_promised() -> None:
    drawn = [draw_protocol(np.random.default_rng([3, i])) for i in range(400)]
    steps = np.array([p.step_z for p in drawn])
    assert steps.min() < 0.6
    assert steps.max() > 4.8
    assert {p.thickness < 1 for p in drawn} == {True, False}
    tilts = np.array([np.rad2deg(p.tilt.magnitude()) for p in drawn])
    assert 0.15 < (tilts > 1).mean() < 0.35
    assert tilts.max() < 30


def test_metal_darkens_what_lies_between_and_spares_what_is_far() -> None:
    hu = np.zeros((2, 180, 260), np.float32)
    hu[0, 80:84, 110:135] = hu[0, 80:84, 150:170] = 3000
    before = hu.copy()
    metal_errors(hu, 1.4, np.random.default_rng(0))
    error = hu - before
    assert error[0, 81:83, 139:146].mean() < -50
    assert np.abs(error[0, 10:20]).mean() < 0.1 * np.abs(error[0, 81:83, 139:146]).mean()
    assert not error[1].any()


def test_gas_stays_in_the_disc(columns: list[Column]) -> None:
    column = columns[0]
    upper, lower = column.vertebrae[-2:]
    disc = disease.disc_between(upper, lower)
    x, y, z = (np.arange(c - 40, c + 40, 1.0) for c in disc.center)
    canvas = Canvas(x, y, z, air=100.0)
    canvas.ellipsoid(disc.center, disc.half * [0.6, 0.55, 0.5], -400.0, disc.turn)
    k, j, i = np.nonzero(canvas.hu < 0)
    points = np.column_stack([x[i], y[j], z[k]])
    for vertebra, sign in ((upper, 1.0), (lower, -1.0)):
        edge = vertebra.outline[[1, 3, 5] if sign > 0 else [0, 2, 4], 1]
        local = (points - vertebra.center) @ vertebra.rotation
        assert (sign * local[:, 2] < (sign * edge).max()).all()


# --- grown around annotations ---


def annotated(path: Path, change: Callable[[pd.DataFrame], pd.DataFrame] = lambda rows: rows) -> Path:
    phantom = quick(1, USUAL)
    rows = [
        {"case": "patient", "expert": "a", "vertebra": n, "level": v.level} | tables.keypoint_values(v.keypoints)
        for n, v in enumerate(phantom.vertebrae, start=1)
    ]
    tables.write_csv(path, change(tables.ANNOTATIONS.frame(rows)))
    return path


def test_a_grown_phantom_has_the_geometry_of_its_template(tmp_path: Path) -> None:
    (template,) = read_templates(annotated(tmp_path / "a.csv"), (1, 1, 1))
    grown = make_phantom(SEED, 5, ingredients=FULL, templates=[template], spacing_mm=4.0)
    found = {v.level: v.keypoints for v in grown.vertebrae}
    assert set(template.levels) <= set(found)
    points = np.concatenate([found[level] for level in template.levels])
    truth = template.keypoints.reshape(-1, 3)
    apart, expected = (np.linalg.norm(p[:, None] - p, axis=-1) for p in (points, truth))
    assert np.abs(apart - expected).max() < 1e-4
    for level, keypoints in zip(template.levels, template.keypoints, strict=True):
        assert np.isclose(genant_index(heights(found[level])), genant_index(heights(keypoints)))
    order = [PLACES[v.level] for v in grown.vertebrae]
    assert order == sorted(order)


def test_templates_are_taken_in_turn(tmp_path: Path) -> None:
    (one,) = read_templates(annotated(tmp_path / "a.csv"), (1, 1, 1))
    fewer = type(one)("b", one.levels[:4], one.keypoints[:4])
    tops = [make_phantom(SEED, i, templates=[one, fewer], spacing_mm=4.0).field for i in (0, 1)]
    assert tops == ["annotated", "annotated"]
    lengths = [make_phantom(SEED, 5, templates=[t], spacing_mm=4.0).hu.shape for t in (one, fewer)]
    assert max(lengths[0]) > max(lengths[1])


def test_levels_that_are_not_named_follow_from_sizes(tmp_path: Path) -> None:
    (named,) = read_templates(annotated(tmp_path / "a.csv"), (1, 1, 1))
    path = annotated(tmp_path / "b.csv", lambda rows: rows.assign(level=None))
    (guessed,) = read_templates(path, (1, 1, 1))
    assert len(guessed.levels) == len(named.levels)
    assert abs(PLACES[guessed.levels[0]] - PLACES[named.levels[0]]) <= 2
    assert np.allclose(guessed.keypoints, named.keypoints)


def test_a_missing_vertebra_is_put_between_its_neighbours(tmp_path: Path) -> None:
    path = annotated(tmp_path / "a.csv", lambda rows: rows.drop(index=3))
    (template,) = read_templates(path, (1, 1, 1))
    grown = make_phantom(SEED, 5, templates=[template], spacing_mm=4.0)
    levels = [v.level for v in grown.vertebrae]
    missing = LEVELS[LEVELS.index(template.levels[2]) + 1]
    assert missing not in template.levels
    k = levels.index(missing)
    middle = centers(np.stack([grown.vertebrae[k - 1].keypoints, grown.vertebrae[k + 1].keypoints])).mean(axis=0)
    assert np.linalg.norm(centers(grown.vertebrae[k].keypoints) - middle) < 3


def flat(rows: pd.DataFrame) -> pd.DataFrame:
    rows.loc[2, [c for c in rows.columns if c.endswith(("_x", "_y", "_z"))]] = 0.0
    return rows


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.head(2), "case patient, a: found 2 vertebrae, expected 3 or more"),
        (lambda rows: rows.assign(level="T5"), "found the level T5 twice, expected C3 to L6 once"),
        (lambda rows: rows.assign(level=["C1", *rows["level"][1:]]), "found the level C1, expected C3 to L6 once"),
        (flat, "vertebra 3: heights and depth are 0.0, 0.0, 0.0, 0.0 mm, expected heights over 2 mm"),
        (lambda rows: rows.head(0), "no annotation, expected one row per vertebra"),
    ],
)
def test_annotations_that_no_phantom_can_have(
    tmp_path: Path, change: Callable[[pd.DataFrame], pd.DataFrame], message: str
) -> None:
    path = annotated(tmp_path / "a.csv", change)
    with pytest.raises(AnnotationError, match=rf"{path}.*{message}"):
        read_templates(path, (1, 1, 1))


def test_the_command_makes_them(tmp_path: Path) -> None:
    like = annotated(tmp_path / "a.csv")
    options = ["phantom", "--cases", "2", "--seed", "7", "--difficulty", "full", "--without", "noise", "--shard", "0/2"]
    done = CliRunner().invoke(main, [*options, "--like", str(like), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    cases = pd.read_csv(tmp_path / "out" / "cases.csv")
    assert cases["field"].tolist() == ["annotated"]
    made = tables.read_table(tmp_path / "out" / "annotations.csv", tables.ANNOTATIONS)
    truth = tables.read_table(like, tables.ANNOTATIONS)
    merged = made.merge(truth, on="level", suffixes=("", "_true"))
    assert len(merged) == len(truth)
    tall = heights(tables.keypoints_of(merged))
    assert np.allclose(tall, heights(tables.keypoints_of(truth)), atol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--without", "bone"], "found the ingredient 'bone', expected one of arches"),
        (["--like", "nowhere.csv"], "nowhere.csv"),
    ],
)
def test_the_command_refuses(tmp_path: Path, options: list[str], message: str) -> None:
    done = CliRunner().invoke(main, ["phantom", "--cases", "1", *options, "--out", str(tmp_path / "out")])
    assert done.exit_code == 1
    assert message in done.output
    assert len(done.output.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_landmarks_are_the_sacrum_below_and_the_axis_above_of_phantoms_that_show_them() -> None:
    """S1 lies in the sacrum by the label map, below the last lumbar vertebra; C2 above the topmost one."""
    shown: list[str] = []
    for index in range(6):
        phantom = make_phantom(SEED, index, ingredients=FULL, spacing_mm=4.0, labels=True)
        assert phantom.labels is not None
        grid = Grid(phantom.hu.shape, phantom.affine)
        shown += phantom.landmarks
        if "S1" in phantom.landmarks:
            i, j, k = np.rint(grid.to_index(phantom.landmarks["S1"])).astype(int)
            assert 26 in phantom.labels[i - 1 : i + 2, j - 1 : j + 2, k - 1 : k + 2]
            lowest = phantom.vertebrae[-1]
            assert lowest.level[0] == "L"
            assert 15 < np.linalg.norm(centers(lowest.keypoints) - phantom.landmarks["S1"]) < 60
        if "C2" in phantom.landmarks:
            assert phantom.vertebrae[0].level == "C3"
            assert 10 < np.linalg.norm(centers(phantom.vertebrae[0].keypoints) - phantom.landmarks["C2"]) < 40
    assert "S1" in shown
    assert "C2" not in make_phantom(SEED, 0, ingredients=FULL - {"head"}, spacing_mm=4.0).landmarks
