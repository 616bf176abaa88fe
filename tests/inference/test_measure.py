"""Laws of measuring: heights are 3D distances, every detection has one of four statuses, numbers run downwards."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray

from vertfrac import tables
from vertfrac.cohorts.levels import NAMED
from vertfrac.config import DetectorInference, LevelDecoding
from vertfrac.geometry.context import EXTEND_MM, STEP_MM, Context
from vertfrac.geometry.curve import Curve
from vertfrac.geometry.grid import Grid
from vertfrac.geometry.straighten import StraightSlice
from vertfrac.inference.detect import detect, measure, vertebrae_frame
from vertfrac.inference.named import measured_and_named
from vertfrac.inference.nms import Detection
from vertfrac.inference.weights import CONTEXT
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


# --- names


def _sure_of(level: str, score: float = 8.0) -> Floats:
    return np.where(np.array(NAMED) == level, score, 0.0)


def _options(**changes: float) -> DetectorInference:
    return DetectorInference(score=0.5, low_score=0.25, levels=LevelDecoding(**changes))


def test_detections_with_evidence_are_named_from_above() -> None:
    found = [
        replace(_detection(row), evidence=_sure_of(level))
        for row, level in ((100, "L1"), (40, "T11"), (130, "L2"), (70, "T12"))
    ]
    table, evidence = measured_and_named(found, _geometry(), GRID, _options())
    assert table["level"].tolist() == ["T11", "T12", "L1", "L2"]
    assert (table["level_probability"] > 0.95).all()
    assert (table["level_runner_up"] == "").all()
    assert evidence is not None
    assert [NAMED[k] for k in evidence.argmax(axis=1)] == ["T11", "T12", "L1", "L2"]
    plain, none = measured_and_named([replace(one, evidence=None) for one in found], _geometry(), GRID, _options())
    assert none is None
    assert (plain["level"] == "").all()
    same = [name for name in table.columns if not name.startswith(("level", "genant_level", "grade_level"))]
    pd.testing.assert_frame_equal(table[same], plain[same])


def test_weak_evidence_is_in_doubt_and_s1_is_not_graded() -> None:
    either = np.where(np.isin(NAMED, ["T11", "T12"]), 4.0, 0.0)
    table, _ = measured_and_named([replace(_detection(60), evidence=either)], _geometry(), GRID, _options())
    assert {table["level"][0], table["level_runner_up"][0]} == {"T11", "T12"}
    sacrum = replace(_detection(60), evidence=_sure_of("S1", 40.0))
    table, _ = measured_and_named([sacrum], _geometry(), GRID, _options())
    assert (table["level"][0], table["status"][0]) == ("S1", "sacrum")
    assert pd.isna(table["grade"][0])


def test_networks_give_evidence_once_levels_were_learned() -> None:
    torch.manual_seed(0)
    networks = [
        AnchorFree(widths=(2, 3), output_stride=2, radius_px=5.0, offset_scale_px=8.0, context=CONTEXT).eval()
        for _ in range(2)
    ]
    image = np.random.default_rng(0).integers(-200, 800, (120, 96)).astype(np.int16)
    context = Context(np.random.default_rng(1).integers(0, 255, (16, 62, 48)).astype(np.uint8), -EXTEND_MM)
    options: dict[str, Any] = {
        "spacing_mm": 1.0, "scaling": "window", "window_hu": (-250, 850), "threshold": 0.0, "nms": "box",
        "nms_threshold": 0.1, "average_mm": 0.0, "device": torch.device("cpu"), "start_mm": -10.0,
    }  # fmt: skip
    untrained = detect(networks, image, context=context, **options)
    assert all(one.evidence is None for one in untrained)
    for network in networks:
        assert network.levels is not None
        network.levels.learn_shares(torch.ones(len(NAMED)))
    found = detect(networks, image, context=context, **options)
    assert found
    assert all(one.evidence is None for one in detect(networks, image, **options))
    each = [detect([network], image, context=context, **{**options, "threshold": 0.0}) for network in networks]
    assert all(one.evidence is not None and one.evidence.shape == (len(NAMED),) for one in [*found, *each[0]])
    one = next(iter(found))
    assert one.evidence is not None
    place = one.keypoints.mean(axis=0)
    expected = []
    for network in networks:
        assert network.levels is not None
        with torch.inference_mode():
            x = (torch.from_numpy(image)[None, None].float().clamp(-250, 850) + 250) / 1100
            cells = network.unet.features(x)[0]
            at = np.clip(np.rint((place + 0.5) / 2 - 0.5).astype(int), 0, np.array(cells.shape[1:]) - 1)
            rows = network.levels.rows(torch.from_numpy(context.views)[None] / 127.5 - 1)
            row = torch.tensor([(place[0] - 10.0 + EXTEND_MM) / STEP_MM], dtype=torch.float32)
            logits = network.levels(cells[:, at[0], at[1]][None], rows, torch.zeros(1, dtype=torch.int64), row)
            expected.append(network.levels.evidence(logits)[0].numpy())
    assert np.allclose(one.evidence, np.mean(expected, axis=0), atol=1e-4)
