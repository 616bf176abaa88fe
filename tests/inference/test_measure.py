"""Laws of measuring: heights are 3D distances, every detection has one of four statuses, numbers run downwards."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from vertfrac import tables
from vertfrac.geometry.curve import Curve
from vertfrac.geometry.grid import Grid
from vertfrac.geometry.straighten import StraightSlice
from vertfrac.inference.detect import detect, measure, vertebrae_frame
from vertfrac.inference.nms import Detection
from vertfrac.models.anchor_free import AnchorFree

Floats = NDArray[np.float64]
SHAPE = np.array([[-10, -12], [10, -12], [-9, 0], [9, 0], [-10, 12], [10, 12]], dtype=np.float64)
GRID = Grid((100, 100, 100), np.diag([2.0, 2.0, 2.0, 1.0]))


def _geometry(spacing_mm: float = 1.0) -> StraightSlice:
    z = np.arange(180.0, 20.0, -1.0)
    curve = Curve(np.column_stack([100 + 5 * np.sin(z / 50), 100 + 9 * np.cos(z / 60), z]))
    return StraightSlice.along(curve, width_mm=96, spacing_mm=spacing_mm)


def _detection(row: float, *, score: float = 0.9, keypoints: Floats = SHAPE, column: float = 48.0) -> Detection:
    return Detection(score, keypoints + np.array([row, column]), 0.5)


def _status(detection: Detection, margin: float = 0.0) -> str:
    return str(measure([detection], _geometry(), GRID, score=0.5, partial_margin_mm=margin)[0]["status"])


@pytest.mark.parametrize("spacing_mm", [1.0, 0.8])
def test_heights_are_the_3d_distances_of_the_world_keypoints(spacing_mm: float) -> None:
    geometry = _geometry(spacing_mm)
    row = measure([_detection(60)], geometry, GRID, score=0.5, partial_margin_mm=0)[0]
    world = geometry.to_world(_detection(60).keypoints)
    for k, name in enumerate(("anterior", "middle", "posterior")):
        assert row[f"height_{name}_mm"] == pytest.approx(float(np.linalg.norm(world[2 * k] - world[2 * k + 1])))


def test_the_stored_keypoints_are_those_of_the_slice_in_world_space() -> None:
    geometry = _geometry()
    table = vertebrae_frame(measure([_detection(60)], geometry, GRID, score=0.5, partial_margin_mm=0))
    assert np.allclose(geometry.to_slice(tables.keypoints_of(table))[0, :, :2], _detection(60).keypoints, atol=1e-6)


def test_the_genant_index_is_smallest_over_largest_height() -> None:
    row = measure([_detection(60)], _geometry(), GRID, score=0.5, partial_margin_mm=0)[0]
    heights = [row[f"height_{name}_mm"] for name in ("anterior", "middle", "posterior")]
    assert row["genant"] == pytest.approx(min(heights) / max(heights))


def test_vertebrae_are_numbered_from_the_superior_end_whatever_their_scores() -> None:
    detections = [_detection(row, score=score) for row, score in ((90, 0.9), (30, 0.6), (60, 0.8))]
    rows = measure(detections, _geometry(), GRID, score=0.5, partial_margin_mm=0)
    assert [row["vertebra"] for row in rows] == [1, 2, 3]
    assert [row["center_z"] for row in rows] == sorted((row["center_z"] for row in rows), reverse=True)


def test_a_sure_vertebra_inside_the_scan_is_ok() -> None:
    assert _status(_detection(60)) == "ok"


def test_a_doubtful_vertebra_has_a_low_score() -> None:
    assert _status(_detection(60, score=0.4)) == "low_score"


def test_a_score_at_the_limit_is_low() -> None:
    assert _status(_detection(60, score=0.5)) == "low_score"


def test_a_vertebra_that_leaves_the_scan_is_partial() -> None:
    assert _status(_detection(60, column=-60.0)) == "partial"


def test_a_vertebra_nearer_to_the_edge_than_the_margin_is_partial() -> None:
    depth = float(GRID.distance_inside_mm(_geometry().to_world(_detection(60).keypoints)).min())
    assert _status(_detection(60), depth - 0.1) == "ok"
    assert _status(_detection(60), depth + 0.1) == "partial"


@pytest.mark.parametrize("factor", [-1.0, 0.1, 4.0])
def test_an_upside_down_flat_or_huge_vertebra_is_not_measured(factor: float) -> None:
    assert _status(_detection(80, keypoints=SHAPE * [factor, 1.0])) == "not_measured"


@pytest.mark.parametrize("score", [0.2, 0.9])
def test_only_ok_vertebrae_have_a_grade(score: float) -> None:
    for detection in (_detection(60, score=score), _detection(60, score=score, column=-60.0)):
        row = measure([detection], _geometry(), GRID, score=0.5, partial_margin_mm=0)[0]
        assert (row["grade"] is not None) == (row["status"] == "ok")


def test_an_unmeasured_vertebra_has_no_genant_index() -> None:
    rows = measure([_detection(80, keypoints=SHAPE * [-1.0, 1.0])], _geometry(), GRID, score=0.5, partial_margin_mm=0)
    assert np.isnan(rows[0]["genant"])


def test_the_spread_is_in_mm() -> None:
    row = measure([_detection(60)], _geometry(0.8), GRID, score=0.5, partial_margin_mm=0)[0]
    assert row["spread_mm"] == pytest.approx(0.4)


def test_no_detection_gives_an_empty_table_with_all_columns() -> None:
    table = vertebrae_frame(measure([], _geometry(), GRID, score=0.5, partial_margin_mm=0))
    assert list(table.columns) == [c.name for c in tables.VERTEBRAE.columns]
    assert table.empty


class _Says(torch.nn.Module):
    """A U-Net that answers with a fixed output."""

    def __init__(self, output: torch.Tensor) -> None:
        super().__init__()
        self.output, self.output_stride, self.head = output, 2, torch.nn.Identity()

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return self.output


def test_detect_finds_the_vertebrae_that_the_networks_encode() -> None:
    network = AnchorFree(widths=(2, 3), output_stride=2, radius_px=5.0).eval()
    truth = torch.tensor(SHAPE[None, None] + np.array([[40, 48], [75, 48]])[None, :, None], dtype=torch.float32)
    targets = network.encode(truth, torch.ones(1, 2), 60, 48)
    output = torch.zeros(1, 60, 48, 13)
    output[..., 0] = targets.objectness[:, 0] * 40 - 20
    output[..., 1:][targets.objectness[:, 0] > 0] = targets.code.flatten(1)
    network.unet = _Says(output.permute(0, 3, 1, 2))  # type: ignore[assignment]  # a stand-in
    found = detect(
        [network, network], np.zeros((120, 96), dtype=np.int16), spacing_mm=1.0, scaling="window",
        window_hu=(-250, 850), threshold=0.5, nms="butterfly", nms_threshold=0.1, average_mm=4.0,
        device=torch.device("cpu"),
    )  # fmt: skip
    places = np.stack(sorted((d.keypoints for d in found), key=lambda k: k[0, 0]))
    assert np.allclose(places, truth[0].numpy(), atol=1e-3)
