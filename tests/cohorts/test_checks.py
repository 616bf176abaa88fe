"""Laws of the checks: what is right passes, each mistake has its name, and turning the image the same way undoes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vertfrac.cohorts.checks import MIRRORS, arches, check_annotation, check_image, fit
from vertfrac.cohorts.sources import list_scans
from vertfrac.geometry.grid import Grid
from vertfrac.geometry.keypoints import centers
from vertfrac.imaging import Image
from vertfrac.tables import keypoints_of

Floats = NDArray[np.float64]
NAMES = ("T10", "T11", "T12", "L1", "L2")
GRID = Grid((40, 50, 80), np.diag([2.0, 2.0, 2.0, 1.0]))


@pytest.fixture
def keypoints(spine_keypoints: Callable[..., Floats]) -> Floats:
    return spine_keypoints(5, heights=[20, 17, 21], bend_mm=4.0)


def named(keypoints: Floats, names: Any = NAMES, grid: Grid = GRID) -> list[tuple[str, str, bool]]:
    return [(one.severity, one.check, one.orientation) for one in check_annotation(keypoints, names, grid)]


def test_a_sound_annotation_has_no_finding(keypoints: Floats) -> None:
    assert named(keypoints) == []
    assert named(keypoints, [str(n) for n in range(1, 6)]) == []


def test_one_vertebra_can_be_checked(keypoints: Floats) -> None:
    assert named(keypoints[:1], ["1"]) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda k: np.where(np.arange(5)[:, None, None] == 2, np.nan, k), ("error", "coordinates", False)),
        (lambda k: np.add(k, (0, 60, 0)), ("error", "outside", False)),
        (lambda k: k * [-1, -1, 1], ("error", "outside", True)),
        (lambda k: k[..., ::-1], ("error", "outside", True)),
        (lambda k: k[..., [1, 0, 2]], ("error", "sagittal", True)),
        (lambda k: k[:, [4, 5, 2, 3, 0, 1]], ("error", "anterior_posterior", True)),
        (lambda k: k[:, [2, 3, 0, 1, 4, 5]], ("error", "anterior_posterior", False)),
        (lambda k: k[:, [1, 0, 3, 2, 5, 4]], ("error", "superior_inferior", True)),
        (lambda k: k[:, [1, 0, 2, 3, 4, 5]], ("error", "superior_inferior", False)),
        (lambda k: k[::-1], ("error", "levels", True)),
        (lambda k: k[[0, 2, 1, 3, 4]], ("warning", "levels", False)),
        (lambda k: np.stack([*k[:4], k[3] - (0, 0, 2)]), ("error", "distance", False)),
        (lambda k: k * [1, 1, 0.02] + [0, 0, 80], ("error", "height", False)),
        (lambda k: (k - [0, 50, 0]) * [1, 0.1, 1] + [0, 50, 0], ("error", "depth", False)),
    ],
)
def test_each_mistake_has_its_name(
    keypoints: Floats, change: Callable[[Floats], Floats], expected: tuple[str, str, bool]
) -> None:
    assert expected in named(change(keypoints))


@pytest.mark.parametrize(("off_mm", "severity"), [(2.0, None), (8.0, "warning"), (30.0, "error")])
def test_points_off_the_plane_are_measured(keypoints: Floats, off_mm: float, severity: str | None) -> None:
    keypoints[1, 2, 0] += off_mm
    found = named(keypoints)
    assert ([(severity, "coplanar", False)] if severity else []) == [one for one in found if one[1] == "coplanar"]


def test_a_level_twice_and_an_unknown_one_are_told(keypoints: Floats) -> None:
    assert ("error", "levels", False) in named(keypoints, ("T10", "T11", "T11", "L1", "L2"))
    assert ("warning", "levels", False) in named(keypoints, ("T10", "T11", "waist", "L1", "L2"))
    assert ("error", "order", False) in named(keypoints, ("1", "2", "2", "3", "4"))


def test_a_level_of_any_length_is_told_in_one_line(keypoints: Floats) -> None:
    (finding,) = check_annotation(keypoints, ("T10", "y" * 5000 + "\n", "T12", "L1", "L2"), GRID)
    assert len(finding.message) < 1100
    assert finding.message.isprintable()


def test_a_gap_is_told_unless_the_levels_explain_it(keypoints: Floats) -> None:
    gap = keypoints[[0, 1, 3, 4]]
    assert ("warning", "distance", False) in named(gap, ("1", "2", "3", "4"))
    assert named(gap, ("T10", "T11", "L1", "L2")) == []
    assert ("warning", "distance", False) in named(gap, ("T10", "T11", "T12", "L1"))


def test_strange_shapes_of_all_vertebrae_are_told(spine_keypoints: Callable[..., Floats]) -> None:
    assert named(spine_keypoints(5, heights=20)) == [("warning", "genant", False)]
    assert named(spine_keypoints(5, heights=[10, 17, 20])) == [("warning", "genant", False)]


def test_bodies_that_shrink_downwards_are_told(spine_keypoints: Callable[..., Floats]) -> None:
    keypoints = spine_keypoints(6, pitch=23, heights=[20, 17, 21])
    middle = centers(keypoints)[:, None]
    grown = middle + (keypoints - middle) * np.linspace(0.7, 1.1, 6)[:, None, None]
    shrunk = middle + (keypoints - middle) * np.linspace(1.1, 0.7, 6)[:, None, None]
    names = [str(n) for n in range(1, 7)]
    assert named(grown, names) == []
    assert named(shrunk, names) == [("warning", "growth", True)]


# --- the image


def _far_from_the_middle(image: Image, keypoints: Floats) -> float:
    columns = image.grid.to_index(centers(keypoints))[:, 0]
    return float(np.abs(columns - (image.grid.shape[0] - 1) / 2).mean() * image.grid.spacing_mm[0])


@pytest.fixture(scope="module", params=[1, 4, 6], ids=["chest", "chest-2", "lumbar"])
def phantom(request: pytest.FixtureRequest) -> tuple[Image, Floats, list[str]]:
    """A phantom, its keypoints as an expert would set them, 0.7 mm off, and their names."""
    image, annotations = list_scans("phantom", {"cases": request.param + 1, "seed": 77})[-1].read()
    keypoints = keypoints_of(annotations)
    noise = np.random.default_rng(request.param).normal(0, 0.7, keypoints.shape) * [0, 1, 1]
    return image, keypoints + noise, annotations["level"].tolist()


def test_a_right_annotation_is_not_suspected(phantom: tuple[Image, Floats, list[str]]) -> None:
    image, keypoints, names = phantom
    assert check_annotation(keypoints, names, image.grid) == []
    assert check_image(keypoints, names, image.hu, image.grid) == []


@pytest.mark.parametrize("how", MIRRORS)
def test_a_mirrored_image_is_told_with_the_way_it_is_mirrored(
    phantom: tuple[Image, Floats, list[str]], how: str
) -> None:
    """Left to right only where the spine is off the middle."""
    image, keypoints, names = phantom
    found = check_image(keypoints, names, np.flip(image.hu, MIRRORS[how]), image.grid)
    told = any(one.check == "mirror" and f"mirrored {how} better" in one.message for one in found)
    assert told or (MIRRORS[how] == (0,) and _far_from_the_middle(image, keypoints) < 8)
    assert all(one.orientation and one.severity == "warning" for one in found)


def test_image_and_annotation_mirrored_together_left_to_right_cannot_be_told(
    phantom: tuple[Image, Floats, list[str]],
) -> None:
    image, keypoints, names = phantom
    index = image.grid.to_index(keypoints)
    index[..., 0] = image.grid.shape[0] - 1 - index[..., 0]
    mirrored = image.grid.to_world(index)
    assert fit(mirrored, image.hu[::-1], image.grid) == pytest.approx(fit(keypoints, image.hu, image.grid), rel=1e-3)
    assert check_image(mirrored, names, image.hu[::-1], image.grid) == []


def test_both_mirrored_front_to_back_show_their_arches_before_the_bodies(
    phantom: tuple[Image, Floats, list[str]],
) -> None:
    """As with rulers without names, whose order geometry settles, so that the labels cannot contradict it."""
    image, keypoints, names = phantom
    index = image.grid.to_index(keypoints)
    index[..., 1] = image.grid.shape[1] - 1 - index[..., 1]
    mirrored = image.grid.to_world(index)[:, [4, 5, 2, 3, 0, 1]]
    behind, before = arches(keypoints, image.hu, image.grid)
    assert arches(mirrored, image.hu[:, ::-1], image.grid) == pytest.approx((before, behind), abs=0.03)
    found = check_image(mirrored, names, image.hu[:, ::-1], image.grid)
    assert [one.check for one in found] == ["arches"]


def test_an_annotation_of_another_place_holds_no_bone(phantom: tuple[Image, Floats, list[str]]) -> None:
    image, keypoints, names = phantom
    corner = image.grid.to_world([4.0, image.grid.shape[1] - 5, 0])
    shift = (corner[0] - keypoints[..., 0].min(), corner[1] - keypoints[..., 1].max(), 0)
    moved = np.add(keypoints, shift)
    assert "bone" in [one.check for one in check_image(moved, names, image.hu, image.grid)]
