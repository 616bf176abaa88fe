"""Laws of keypoints from masks: near the truth, the same however the voxels are stored, no answer where none is due."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from vertfrac.cohorts.from_mask import MaskVertebra, measure_mask
from vertfrac.cohorts.levels import LABEL_OF, LEVEL_OF
from vertfrac.cohorts.phantom import SpineMasks, make_masks
from vertfrac.errors import AnnotationError
from vertfrac.genant import genant_index, grade
from vertfrac.geometry.grid import Grid
from vertfrac.geometry.keypoints import heights
from vertfrac.imaging.labels import read_labels

REAL = Path(__file__).parents[3] / "shared" / "data"
SEED = 5
Array = NDArray[Any]


@pytest.fixture(scope="module")
def fine() -> SpineMasks:
    return make_masks(SEED, 0, (1.0, 1.0, 1.0))


@pytest.fixture(scope="module")
def coarse() -> SpineMasks:
    return make_masks(SEED, 0, (2.0, 2.0, 2.0))


def grid_of(masks: SpineMasks) -> Grid:
    return Grid(masks.labels.shape, masks.affine)


def only(masks: SpineMasks, *levels: str) -> Array:
    """The label map with these levels alone."""
    return np.where(np.isin(masks.labels, [LABEL_OF[level] for level in levels]), masks.labels, 0)


def middle_levels(masks: SpineMasks, count: int = 1) -> list[str]:
    """Whole vertebrae from the middle of the phantom."""
    start = len(masks.vertebrae) // 2
    return [v.level for v in masks.vertebrae[start : start + count]]


def truth(masks: SpineMasks, level: str) -> Array:
    return next(v.keypoints for v in masks.vertebrae if v.level == level)


def errors(found: list[MaskVertebra], masks: SpineMasks) -> tuple[Array, Array]:
    """Mean keypoint error and error of G of the whole vertebrae that were answered."""
    answers = {v.level: v.keypoints for v in found if v.status == "ok"}
    pairs = [(answers[v.level], v.keypoints) for v in masks.vertebrae if v.level in answers]
    measured, true = (np.array(points) for points in zip(*pairs, strict=True))
    distance = np.linalg.norm(measured - true, axis=-1).mean(axis=-1)
    return distance, genant_index(heights(measured)) - genant_index(heights(true))


@pytest.mark.parametrize(("name", "keypoint_mm", "genant"), [("fine", 0.7, 0.03), ("coarse", 1.3, 0.09)])
def test_near_the_truth_alone_and_with_subregions(
    name: str, keypoint_mm: float, genant: float, request: pytest.FixtureRequest
) -> None:
    masks: SpineMasks = request.getfixturevalue(name)
    alone = measure_mask(masks.labels, grid_of(masks))
    helped = measure_mask(masks.labels, grid_of(masks), masks.subregions)
    for found in (alone, helped):
        distance, index = errors(found, masks)
        assert len(distance) == len(masks.vertebrae)
        assert distance.mean() < keypoint_mm
        assert np.abs(index).mean() < genant
    assert errors(helped, masks)[0].mean() < errors(alone, masks)[0].mean() + 0.05


def test_only_whole_vertebrae_are_answered(coarse: SpineMasks) -> None:
    found = measure_mask(coarse.labels, grid_of(coarse))
    assert [v.level for v in found] == [LEVEL_OF[n] for n in LEVEL_OF if n in np.unique(coarse.labels)]
    for v in found:
        assert np.isfinite(v.keypoints).all() == (v.status == "ok")
        assert (v.quality in ("good", "doubtful")) == (v.status == "ok")
        assert v.reason or (v.status == "ok" and v.quality == "good")


def test_slices_of_three_millimetres() -> None:
    masks = make_masks(SEED, 1, (1.0, 1.0, 3.0))
    levels = middle_levels(masks, 3)
    found = measure_mask(only(masks, *levels), grid_of(masks))
    assert [v.status for v in found] == ["ok"] * 3
    assert [v.quality for v in found] == ["doubtful"] * 3
    assert all("mm along the heights" in v.reason for v in found)
    assert errors(found, masks)[0].max() < 2.5


@pytest.mark.parametrize("axcodes", [("L", "P", "S"), ("P", "I", "R"), ("S", "L", "A"), ("I", "A", "L")])
def test_the_order_of_the_axes_changes_nothing(coarse: SpineMasks, axcodes: tuple[str, str, str]) -> None:
    labels, grid = only(coarse, *middle_levels(coarse, 2)), grid_of(coarse)
    change = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(coarse.affine), nib.orientations.axcodes2ornt(axcodes)
    )
    turned = nib.orientations.apply_orientation(labels, change)
    affine = coarse.affine @ nib.orientations.inv_ornt_aff(change, labels.shape)
    for a, b in zip(measure_mask(labels, grid), measure_mask(turned, Grid(turned.shape, affine)), strict=True):
        assert np.abs(a.keypoints - b.keypoints).max() < 0.02


def test_a_moved_image_moves_its_points_along(fine: SpineMasks) -> None:
    labels, grid = only(fine, *middle_levels(fine)), grid_of(fine)
    angles = np.deg2rad([4.0, -7.0, 5.0])
    motion = np.eye(4)
    for axis, angle in enumerate(angles):
        i, j = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(4)
        turn[[i, i, j, j], [i, j, i, j]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        motion = turn @ motion
    motion[:3, 3] = 30.0, -200.0, 1000.0
    still = measure_mask(labels, grid)[0].keypoints
    moved = measure_mask(labels, Grid(labels.shape, motion @ fine.affine))[0].keypoints
    # The search for the canal starts from the world's axes: the plane may turn a little, the heights hardly feel it.
    assert np.abs(moved - (still @ motion[:3, :3].T + motion[:3, 3])).max() < 1.5
    assert heights(moved) == pytest.approx(heights(still), abs=0.4)


def test_a_shifted_image_shifts_its_points_exactly(coarse: SpineMasks) -> None:
    labels, grid = only(coarse, *middle_levels(coarse)), grid_of(coarse)
    affine = coarse.affine.copy()
    affine[:3, 3] += 17.0, -350.0, 1200.0
    still, moved = (measure_mask(labels, g)[0].keypoints for g in (grid, Grid(labels.shape, affine)))
    assert np.abs(moved - still - [17.0, -350.0, 1200.0]).max() < 1e-2


def test_a_vertebra_alone_is_measured(fine: SpineMasks) -> None:
    (level,) = middle_levels(fine)
    (found,) = measure_mask(only(fine, level), grid_of(fine))
    assert found.status == "ok"
    assert np.linalg.norm(found.keypoints - truth(fine, level), axis=1).mean() < 1.5
    assert genant_index(heights(found.keypoints)) == pytest.approx(genant_index(heights(truth(fine, level))), abs=0.08)


def test_missing_neighbours_do_no_harm(fine: SpineMasks) -> None:
    names = [v.level for v in fine.vertebrae]
    levels = [names[2], names[5], names[6]]
    found = measure_mask(only(fine, *levels), grid_of(fine))
    assert [v.status for v in found] == ["ok"] * 3
    assert errors(found, fine)[0].max() < 1.6


def test_a_body_that_the_image_cuts_gets_no_answer(coarse: SpineMasks) -> None:
    (level,) = middle_levels(coarse)
    labels, grid = only(coarse, level), grid_of(coarse)
    center = int(np.rint(grid.to_index(truth(coarse, level).mean(axis=0))[2]))
    upper = np.ascontiguousarray(labels[:, :, center:])
    affine = coarse.affine.copy()
    affine[:3, 3] = grid.to_world([0, 0, center])
    for cut, place in ((upper, affine), (np.ascontiguousarray(labels[:, :, : center + 1]), coarse.affine)):
        (found,) = measure_mask(cut, Grid(cut.shape, place))
        assert found.status == "cut"
        assert np.isnan(found.keypoints).all()
        assert "edge of the image" in found.reason


def test_a_cut_arch_takes_no_answer_away(coarse: SpineMasks) -> None:
    (level,) = middle_levels(coarse)
    labels, grid = only(coarse, level), grid_of(coarse)
    behind = int(np.argwhere(labels)[:, 1].min()) + 4  # through the spinous process
    affine = coarse.affine.copy()
    affine[:3, 3] = grid.to_world([0, behind, 0])
    part = np.ascontiguousarray(labels[:, behind:])
    (found,) = measure_mask(part, Grid(part.shape, affine))
    assert found.status == "ok"


def test_far_fragments_are_left_out_and_said(fine: SpineMasks) -> None:
    (level,) = middle_levels(fine)
    labels = only(fine, level)
    before = measure_mask(labels, grid_of(fine))[0].keypoints
    labels[:9, :9, :9] = LABEL_OF[level]
    (found,) = measure_mask(labels, grid_of(fine))
    assert np.array_equal(found.keypoints, before)
    assert "729 voxels" in found.reason


def test_one_side_of_the_arch_may_be_missing(fine: SpineMasks) -> None:
    (level,) = middle_levels(fine)
    labels, grid = only(fine, level), grid_of(fine)
    right = grid.to_world(np.moveaxis(np.indices(labels.shape), 0, -1))[..., 0] > truth(fine, level)[:, 0].mean() + 11
    labels[right & (fine.subregions != 49)] = 0
    (found,) = measure_mask(labels, grid)
    assert found.status == "ok"
    assert np.linalg.norm(found.keypoints - truth(fine, level), axis=1).mean() < 2.5


def test_body_alone_is_measured_with_a_doubt(fine: SpineMasks) -> None:
    (level,) = middle_levels(fine)
    labels = only(fine, level)
    labels[fine.subregions != 49] = 0
    (found,) = measure_mask(labels, grid_of(fine))
    assert (found.status, found.quality) == ("ok", "doubtful")
    assert "canal" in found.reason
    assert genant_index(heights(found.keypoints)) == pytest.approx(genant_index(heights(truth(fine, level))), abs=0.1)


def test_levels_without_a_body_are_not_measured(coarse: SpineMasks) -> None:
    (level,) = middle_levels(coarse)
    for label in (1, 2, 26):
        labels = only(coarse, level)
        labels[labels > 0] = label
        (found,) = measure_mask(labels, grid_of(coarse))
        assert found.status == "not_measured"
        assert found.reason


def test_a_crumb_is_not_measured() -> None:
    labels = np.zeros((20, 20, 20), np.uint8)
    labels[9:12, 9:12, 9:12] = 20
    (found,) = measure_mask(labels, Grid(labels.shape, np.eye(4)))
    assert (found.status, found.level) == ("not_measured", "L1")
    assert "27 voxels" in found.reason


@pytest.mark.parametrize("label", [15, 21])
@pytest.mark.parametrize("shape", ["ball", "box", "plane", "noise"])
def test_what_is_no_vertebra_gets_an_answer_without_an_exception(shape: str, label: int) -> None:
    labels = np.zeros((50, 50, 50), np.uint8)
    index = np.indices(labels.shape) - 25
    solid = {
        "ball": (index**2).sum(axis=0) < 12**2,
        "box": np.abs(index).max(axis=0) < 11,
        "plane": np.abs(index[2]) < 1,
        "noise": np.random.default_rng(0).random(labels.shape) < 0.02,
    }[shape]
    labels[solid] = label
    (found,) = measure_mask(labels, Grid(labels.shape, np.eye(4)))
    assert found.status in ("ok", "cut", "not_measured")
    assert found.status != "ok" or found.quality == "doubtful"


def test_bad_arrays_are_refused() -> None:
    grid = Grid((4, 4, 4), np.eye(4))
    empty = np.zeros((4, 4, 4), np.uint8)
    with pytest.raises(AnnotationError, match="expected integer"):
        measure_mask(empty.astype(float), grid)  # type: ignore[arg-type]  # the mistake to be told
    with pytest.raises(AnnotationError, match="expected \\(4, 4, 4\\)"):
        measure_mask(np.zeros((0, 4, 4), np.uint8), grid)
    with pytest.raises(AnnotationError, match="no label but 0"):
        measure_mask(empty, grid)
    with pytest.raises(AnnotationError, match="unknown labels 77"):
        measure_mask(empty + np.uint8(77), grid)
    with pytest.raises(AnnotationError, match="subregions: found the codes \\[3\\]"):
        measure_mask(empty + np.uint8(20), grid, empty + np.uint8(3))


@pytest.mark.skipif(not (REAL / "verse004").is_dir(), reason="no ../shared/data/verse004: the real mask is not shipped")
def test_grades_of_a_real_spine() -> None:
    """Fractures of the experts are found, and no normal vertebra is called moderate or severe."""
    read = read_labels(REAL / "verse004" / "sub-verse004_seg-vert_msk.nii.gz")
    found = {v.level: v for v in measure_mask(read.labels, read.grid)}
    assert {v.status for v in found.values()} == {"ok"}
    index = {level: float(genant_index(heights(v.keypoints))) for level, v in found.items()}
    assert all(grade(index[level]) >= 2 for level in ("T9", "T10", "L1"))
    assert grade(index["L1"]) == 3
    assert all(grade(index[level]) == 0 for level in ("T11", "T12", "L2", "L3"))


@pytest.mark.skipif(not (REAL / "tptbox_l3").is_dir(), reason="no ../shared/data/tptbox_l3: the real mask not shipped")
def test_a_real_crop_answers_its_one_whole_vertebra() -> None:
    folder = REAL / "tptbox_l3"
    read = read_labels(folder / "sub-ct_seg-vert_label-22_msk.nii.gz")
    parts = read_labels(folder / "sub-ct_seg-subreg_label-22_msk.nii.gz")
    alone, helped = measure_mask(read.labels, read.grid), measure_mask(read.labels, read.grid, parts.labels)
    for found in (alone, helped):
        assert [(v.level, v.status) for v in found] == [("L2", "cut"), ("L3", "ok"), ("L4", "cut")]
    assert np.abs(alone[1].keypoints - helped[1].keypoints).max() < 1.5
