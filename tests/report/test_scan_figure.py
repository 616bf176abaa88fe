"""Laws of the picture of a scan: rulers lie on the keypoints in both panels, and nothing half-written is left."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import imread
from numpy.typing import NDArray

from vertfrac import tables
from vertfrac.genant import genant_index, grade
from vertfrac.geometry.curve import Curve
from vertfrac.geometry.grid import Grid
from vertfrac.geometry.keypoints import HEIGHTS, heights
from vertfrac.geometry.straighten import StraightSlice, sample
from vertfrac.imaging import Image
from vertfrac.report import figures
from vertfrac.report.scan_figure import apart, draw_overlay, rulers, sagittal_view
from vertfrac.report.style import DPI, GRADE_COLOURS, UNGRADED_COLOUR, grade_captions

Floats = NDArray[np.float64]


def _curve(length_mm: float) -> Curve:
    z = np.arange(length_mm / 2, -length_mm / 2 - 0.5, -1.0)
    return Curve(np.column_stack([14 * np.sin(z / 60), 20 * np.cos(z / 80), z]))


def _keypoints(curve: Curve, count: int) -> Floats:
    """Vertebrae on the curve, 12 mm to either side of it; every second one wedged."""
    pitch = curve.length_mm / count
    found = []
    for i in range(count):
        center, tangent, posterior, _ = curve.frames((i + 0.5) * pitch)
        for side, share in ((-12.0, 0.55 if i % 2 else 0.8), (0.0, 0.78), (12.0, 0.8)):
            reach = tangent * pitch * share / 2
            found += [center + posterior * side - reach, center + posterior * side + reach]
    return np.array(found).reshape(count, 6, 3)


def _vertebrae(keypoints: Floats, statuses: dict[int, str] | None = None) -> pd.DataFrame:
    rows = []
    for i, points in enumerate(keypoints):
        h, status = heights(points), (statuses or {}).get(i, "ok")
        index = float(genant_index(h))
        rows.append(
            {
                "vertebra": i + 1, "level": "", "status": status, "genant": index,
                "grade": int(grade(index)) if status == "ok" else None,
                **{f"height_{name}_mm": mm for name, mm in zip(HEIGHTS, h, strict=True)},
                **tables.keypoint_values(points),
            }
        )  # fmt: skip
    return tables.VERTEBRAE.frame(rows)


def _image(length_mm: float) -> Image:
    """HU equal 10 x in world mm, so that a view shows which x it was sampled at."""
    grid = Grid(
        (24, 30, round(length_mm / 4) + 10),
        np.diag([4.0, 4.0, 4.0, 1.0]) - np.outer([46, 58, length_mm / 2 + 18, 0], [0, 0, 0, 1]),
    )
    x = grid.to_world(np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), axis=-1))[..., 0]
    return Image(np.rint(10 * x).astype(np.int16), grid, "made")


class _Case:
    def __init__(self, length_mm: float, count: int, statuses: dict[int, str] | None = None, level: str = "") -> None:
        self.image = _image(length_mm)
        self.geometry = StraightSlice.along(_curve(length_mm), width_mm=80, spacing_mm=0.8, extend_mm=10)
        self.keypoints = _keypoints(self.geometry.curve, count)
        self.vertebrae = _vertebrae(self.keypoints, statuses)
        self.vertebrae["level"] = level
        values = sample(self.image.hu, self.image.grid, self.geometry.pixels_world(), outside=-1024)
        self.slice_hu = np.rint(values).astype(np.int16)

    def draw(self) -> Figure:
        return draw_overlay(
            image=self.image, geometry=self.geometry, slice_hu=self.slice_hu, vertebrae=self.vertebrae, title="case"
        )

    def write(self, path: Path) -> None:
        figures.overlay(
            path,
            image=self.image,
            geometry=self.geometry,
            slice_hu=self.slice_hu,
            vertebrae=self.vertebrae,
            title="a_$case_",
        )


def _panels(figure: Figure) -> tuple[Axes, Axes, Axes]:
    straight, table, sagittal = figure.axes
    return straight, table, sagittal


def _texts(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_rulers_lie_on_the_keypoints_in_both_panels() -> None:
    case = _Case(200, 6)
    straight, _, sagittal = _panels(case.draw())
    assert len(straight.collections) == len(sagittal.collections) == 6
    for i, points in enumerate(case.keypoints):
        for axes, expected in (
            (straight, case.geometry.to_slice(points)[:, 1::-1]),
            (sagittal, points[:, 1:]),
        ):
            lines = axes.collections[i]
            drawn = np.array([path.vertices for path in lines.get_paths()])
            assert lines.get_gid() == f"vertebra-{i + 1}"
            np.testing.assert_allclose(drawn[:3].reshape(6, 2), expected, atol=1e-9)
            np.testing.assert_allclose(drawn[3:].mean(axis=1), expected, atol=1e-9)


def test_colours_and_words_follow_grade_and_status() -> None:
    case = _Case(200, 6, {0: "partial", 2: "low_score", 4: "not_measured"}, level="L1")
    straight, table, sagittal = _panels(case.draw())
    grades = case.vertebrae["grade"]
    assert set(grades.dropna()) == {2}
    for axes in (straight, sagittal):
        colours = [to_hex(lines.get_edgecolor()[0]) for lines in axes.collections]
        assert colours == [UNGRADED_COLOUR, GRADE_COLOURS[2]] * 3
        dashed = [lines.get_linestyle()[0][1] is not None for lines in axes.collections]
        assert dashed == [True, False] * 3
    for word in ("partial", "low score", "not measured"):
        assert word in _texts(table)
        assert f"L1  {word}" in _texts(sagittal)
    index = case.vertebrae["genant"][1]
    assert f"L1  {index:.2f}" in _texts(sagittal)
    assert f"{case.vertebrae['height_anterior_mm'][1]:.1f}" in _texts(table)


def test_label_never_reads_as_another_grade() -> None:
    case = _Case(200, 1)
    case.vertebrae.loc[0, ["genant", "grade"]] = 0.803, 0
    assert "1  0.803" in _texts(_panels(case.draw())[2])
    case.vertebrae.loc[0, ["genant", "grade"]] = 0.797, 1
    assert "1  0.80" in _texts(_panels(case.draw())[2])


def test_panels_have_one_true_scale() -> None:
    case = _Case(200, 3)
    figure = case.draw()
    straight, _, sagittal = _panels(figure)
    width, height = figure.get_size_inches()
    scales = []
    for axes, unit in ((straight, case.geometry.spacing_mm), (sagittal, 1.0)):
        box = axes.get_position()
        scales.append(abs(np.diff(axes.get_xlim())[0]) * unit / (box.width * width))
        scales.append(abs(np.diff(axes.get_ylim())[0]) * unit / (box.height * height))
    np.testing.assert_allclose(scales, scales[0])
    left, right = sagittal.get_xlim()
    low, high = sagittal.get_ylim()
    assert left > right, "anterior is at left"
    assert high > low, "superior is above"


def test_sagittal_view_follows_the_curve() -> None:
    image, curve = _image(200), _curve(120)
    view = sagittal_view(image, curve, 60.0, -60.0)
    left, right, low, high = view.extent
    rows, columns = view.hu.shape
    z = high - (np.arange(rows) + 0.5) * (high - low) / rows
    points = curve.points_world[::-1]
    x = np.interp(z, points[:, 2], points[:, 0])
    inside = np.abs(view.hu[:, columns // 2] / 10 - x) < 0.1
    assert inside.all()
    assert not view.cropped
    assert (left, high) == (60.0, 120.0)
    assert left - right == pytest.approx(120, abs=1.5)


def test_sagittal_view_of_a_long_scan_is_cropped_around_the_spine() -> None:
    view = sagittal_view(_image(800), _curve(100), 50.0, -50.0)
    assert view.cropped
    assert view.extent[3] == pytest.approx(140)
    assert view.extent[2] == pytest.approx(-140, abs=1.5)


def test_sagittal_view_survives_a_curve_outside_the_scan() -> None:
    curve = Curve([[500.0, 900.0, 3000.0], [500.0, 900.0, 2900.0]])
    assert (sagittal_view(_image(100), curve, 3000.0, 2900.0).hu == -1024).all()


@pytest.mark.parametrize(("length", "count"), [(60, 1), (620, 24)])
def test_writes_png_whose_height_follows_the_length(tmp_path: Path, length: float, count: int) -> None:
    case = _Case(length, count)
    case.write(tmp_path / "a.png")
    height, width, _ = imread(tmp_path / "a.png").shape
    assert height > length / 50 * DPI
    assert 700 < width < 3000
    assert height < 3200
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_no_vertebra() -> None:
    case = _Case(100, 1)
    case.vertebrae = tables.VERTEBRAE.frame([])
    straight, table, _ = _panels(case.draw())
    assert not straight.collections
    assert _texts(table) == ["no vertebra"]


def test_vertebra_without_keypoints_is_left_out() -> None:
    case = _Case(100, 3)
    case.vertebrae.loc[1, "middle_superior_x"] = np.nan
    straight, _, _ = _panels(case.draw())
    assert [lines.get_gid() for lines in straight.collections] == ["vertebra-1", "vertebra-3"]


@pytest.mark.parametrize("broken", ["draw_overlay", "save"])
def test_leaves_the_old_file_if_drawing_or_writing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("broken")

    case = _Case(100, 1)
    (tmp_path / "a.png").write_bytes(b"old")
    if broken == "save":
        monkeypatch.setattr(Figure, "savefig", fail)
    else:
        monkeypatch.setattr(figures, "draw_overlay", fail)
    with pytest.raises(RuntimeError, match="broken"):
        case.write(tmp_path / "a.png")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a.png", b"old")]


def test_legend_states_the_limits() -> None:
    assert grade_captions() == (
        "normal  G > 0.80",
        "mild  0.74 < G ≤ 0.80",
        "moderate  0.60 < G ≤ 0.74",
        "severe  G ≤ 0.60",
    )
    assert len(set(GRADE_COLOURS)) == 4


def test_rulers_have_ticks_across_and_survive_a_flat_vertebra() -> None:
    points = np.array([[0.0, 0.0], [0.0, 10.0], [5.0, 0.0], [5.0, 10.0], [9.0, 4.0], [9.0, 4.0]])
    strokes = rulers(points, 2.0)
    np.testing.assert_allclose(np.abs(strokes[3, 1] - strokes[3, 0]), [2.0, 0.0])
    assert np.isfinite(strokes).all()


def test_labels_keep_apart_and_in_order() -> None:
    positions = np.array([30.0, 1.0, 0.0, 2.0])
    moved = apart(positions, 4.0)
    np.testing.assert_allclose(moved, [30.0, 1.0, -3.0, 5.0])
    assert apart(np.zeros(0), 1.0).shape == (0,)
