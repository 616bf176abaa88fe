"""Laws of what naming vertebrae is learned from: points follow the slice, contexts follow their vertebrae."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vertfrac.arrays import beside, write_arrays
from vertfrac.errors import CohortError
from vertfrac.models.anchor_free import AnchorFree
from vertfrac.training.context import vary_context
from vertfrac.training.detector import train_detector
from vertfrac.training.fit import FitSettings
from vertfrac.training.sampling import step_generator
from vertfrac.training.slices import SliceBank

CPU = torch.device("cpu")
SIZES = {"coronal": 2, "sagittal": 1, "columns": 16, "classes": 4}
SHAPE = np.array([[-9, -12], [9, -12], [-8, 0], [8, 0], [-9, 12], [9, 12]], dtype=np.float64)
PLACES = (30.0, 60.0, 90.0)
AUGMENTED: dict[str, Any] = {
    "rotate_deg": 10.0, "scale": 0.15, "elastic_px": 1.2, "elastic_length_px": 16.0, "shift_px": 4.0, "intensity": 1.0,
    "appearance": 1.0,
}  # fmt: skip

RIGID: dict[str, Any] = {**AUGMENTED, "elastic_px": 0.0}
"""An elastic field moves the centroid of six keypoints otherwise than a point there."""


def _write(path: Path, *, context: bool = True, levels: tuple[int, ...] = (0, 1, 2)) -> Path:
    """One slice with three vertebrae and a landmark on the second of them, and its context, whose HU grows by row."""
    keypoints = [(SHAPE + np.array([place, 32])).tolist() for place in PLACES]
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {"c/a/0": rng.integers(-200, 800, (120, 64)).astype(np.int16)}
    entry: dict[str, Any] = {"case": "c", "keypoints": keypoints}
    if context:
        views = np.broadcast_to(np.arange(40, dtype=np.uint8)[None, :, None] * 5 + 20, (3, 40, 16))
        arrays[beside("c/a/0")] = views.copy()
        rows = [10.0, 20.0, 30.0, 20.0]
        entry |= {"landmarks": [[PLACES[1], 32.0]], "levels": [*levels, 3], "context_rows": rows}
    write_arrays(path, arrays, {"cases": {"c/a/0": entry}})
    return path


def test_landmarks_move_with_the_slice_like_centroids(tmp_path: Path) -> None:
    bank = SliceBank([_write(tmp_path / "s")], {"c"}, device=CPU, named=True)
    for step in range(4):
        _, keypoints, names = bank.batch(step, size=3, crop=(90, 64), seed=1, coronal=2, **RIGID)
        assert names is not None
        assert names.points.shape == (3, 4, 2)
        assert torch.allclose(names.points[:, :3], keypoints.mean(dim=2), equal_nan=True)
        seen = names.points[:, 1].isfinite().all(dim=1) & names.points[:, 3].isfinite().all(dim=1)
        assert (names.points[seen, 1] - names.points[seen, 3]).abs().max() < 1e-3
        assert torch.equal(names.levels, torch.tensor([[0, 1, 2, 3]] * 3))
        assert torch.equal(names.rows[:, :3], torch.tensor([[10.0, 20.0, 30.0]] * 3))


def test_a_slice_without_its_context_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CohortError, match="c/a/0: has no context"):
        SliceBank([_write(tmp_path / "s", context=False)], {"c"}, device=CPU, named=True)
    assert SliceBank([_write(tmp_path / "s")], {"c"}, device=CPU).batch(
        0, size=1, crop=(90, 64), seed=1, **AUGMENTED
    ).names is None  # fmt: skip


def test_a_slice_is_the_same_with_and_without_names(tmp_path: Path) -> None:
    path = _write(tmp_path / "s")
    with_names, without = (
        SliceBank([path], {"c"}, device=CPU, named=named).batch(3, size=2, crop=(90, 64), seed=1, **AUGMENTED)
        for named in (True, False)
    )
    assert torch.equal(with_names.hu, without.hu)


def test_what_lies_around_the_vertebrae_of_a_sample_is_never_cut() -> None:
    context = torch.zeros(64, 3, 60, 16)
    rows = torch.tensor([[25.0, 35.0, torch.nan]]).expand(64, -1)
    varied = vary_context(context, step_generator(1, 2, CPU), rows, coronal=2, intensity=1.0)
    assert (varied[:, :, 18:43, 6:10] > -0.9).all()
    cut = (varied == -1).all(dim=(1, 3))
    assert 0.2 < float(cut[:, 0].float().mean()) < 0.6
    assert 0.2 < float(cut[:, -1].float().mean()) < 0.6
    assert 0.1 < float((varied[:, :, 30, 0] == -1).all(dim=1).float().mean()) < 0.5


def test_only_the_coronal_view_is_mirrored() -> None:
    context = torch.linspace(-0.5, 0.5, 16).expand(32, 3, 20, 16)
    rows = torch.full((32, 1), 10.0)
    varied = vary_context(context, step_generator(1, 3, CPU), rows, coronal=2, intensity=0.0)[:, :, 10]
    rising = varied[:, :, 9] > varied[:, :, 6]
    assert rising[:, 2].all()
    assert torch.equal(rising[:, 0], rising[:, 1])
    assert 5 < int(rising[:, 0].sum()) < 27


def test_levels_are_learned_and_unknown_ones_are_no_loss(tmp_path: Path) -> None:
    """The context says where in the column a row is, so that a short training tells the three vertebrae apart."""
    settings = FitSettings(
        steps=30, learning_rate=0.02, weight_decay=0.0, schedule="cosine", warmup=0.1, milestones=(),
        checkpoint_every=1000, seed=3, average_decay=0.0, mixed_precision=False,
    )  # fmt: skip
    still = {**AUGMENTED, "rotate_deg": 0.0, "scale": 0.0, "intensity": 0.0, "appearance": 0.0}
    still = {**still, "elastic_mm": 0.0, "elastic_length_mm": 16.0, "shift_mm": 0.0}
    for name in ("elastic_px", "elastic_length_px", "shift_px"):
        del still[name]

    def trained(levels: tuple[int, ...], name: str, steps: int, weight: float = 1.0) -> AnchorFree:
        torch.manual_seed(0)
        network = AnchorFree(widths=(4, 6), output_stride=2, radius_px=5.0, skip="add", context=SIZES)
        done = train_detector(
            network, [_write(tmp_path / name, levels=levels)], {"c"}, spacing_mm=1.0, scaling="window",
            window_hu=(-250, 850), smallest_genant=0.2, objectness_weight=1.0, height_weight=0.0, level_weight=weight,
            crop_mm=(120, 64), batch=4, settings=replace(settings, steps=steps), work=tmp_path / f"{name}-work",
            device=CPU, **still,
        )  # fmt: skip
        assert isinstance(done, AnchorFree)
        return done

    network = trained((0, 1, 2), "known", 30)
    assert network.levels is not None
    assert network.levels.get_buffer("seen").tolist() == [1, 1, 1, 1]
    views = torch.arange(40.0).mul(5).add(20).div(127.5).sub(1)[None, None, :, None].expand(1, 3, 40, 16)
    said = network.levels.rows(views)
    logits = network.levels(torch.zeros(2, 6), said, torch.zeros(2, dtype=torch.int64), torch.tensor([10.0, 30.0]))
    assert logits.argmax(dim=1).tolist() == [0, 2]
    unknown = trained((-1, -1, -1), "unknown", 2)
    assert unknown.levels is not None
    assert unknown.levels.get_buffer("seen").tolist() == [0, 0, 0, 1]
    unweighted = trained((0, 1, 2), "unweighted", 2, weight=0.0)
    assert unweighted.levels is not None
    assert not unweighted.levels.trained
