"""Laws of the fit call: a stopped run ends like an undisturbed one, one process a folder, schedules as described."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd
import pytest
import torch
from filelock import FileLock
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from vertfrac.errors import ModelError
from vertfrac.models.device import pick_device
from vertfrac.training.fit import FitSettings, Stage, alone, fit, learning_rate_factor

CPU = torch.device("cpu")
SETTINGS = FitSettings(
    steps=9, learning_rate=0.05, weight_decay=0.01, schedule="cosine", warmup=0.2, milestones=(),
    checkpoint_every=4, seed=1, average_decay=0.0, mixed_precision=True,
)  # fmt: skip


class _InterruptedError(Exception):
    pass


def _network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 1))


def _step(step: int) -> int:
    """The samples of a step, which ``_loss`` makes from its number."""
    return step


def _loss(network: nn.Module, step: int) -> tuple[Tensor, dict[str, Tensor]]:
    x = torch.randn(16, 3, generator=torch.Generator().manual_seed(step))
    loss = (network(x)[:, 0] - x.sum(dim=1)).square().mean()
    return loss, {"part": loss}


def _stopping_at(last: int, seen: list[int]) -> Callable[[nn.Module, int], tuple[Tensor, dict[str, Tensor]]]:
    def loss(network: nn.Module, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        seen.append(step)
        if step == last:
            raise _InterruptedError
        return _loss(network, step)

    return loss


def _weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def _run(work: Path, settings: FitSettings = SETTINGS) -> dict[str, Tensor]:
    network = _network()
    fit(network, _step, _loss, settings, work=work, device=CPU)
    return _weights(network)


@pytest.mark.parametrize("stop", [4, 6, 8])
def test_a_run_that_was_stopped_and_resumed_ends_like_an_undisturbed_one(tmp_path: Path, stop: int) -> None:
    expected = _run(tmp_path / "undisturbed")
    seen: list[int] = []
    with pytest.raises(_InterruptedError):
        fit(_network(), _step, _stopping_at(stop, seen), SETTINGS, work=tmp_path / "stopped", device=CPU)
    found = _run(tmp_path / "stopped")
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_resumed_run_goes_on_from_the_last_checkpoint(tmp_path: Path) -> None:
    seen: list[int] = []
    with pytest.raises(_InterruptedError):
        fit(_network(), _step, _stopping_at(6, seen), SETTINGS, work=tmp_path, device=CPU)
    seen.clear()
    fit(_network(), _step, _stopping_at(-1, seen), SETTINGS, work=tmp_path, device=CPU)
    assert seen == [4, 5, 6, 7, 8]


def test_the_same_run_twice_gives_the_same_weights(tmp_path: Path) -> None:
    first, second = _run(tmp_path / "a"), _run(tmp_path / "b")
    assert all(torch.equal(first[name], value) for name, value in second.items())


def test_training_reduces_the_loss(tmp_path: Path) -> None:
    network = _network()
    before = float(_loss(network, 99)[0].detach())
    fit(network, _step, _loss, replace(SETTINGS, steps=40), work=tmp_path, device=CPU)
    assert float(_loss(network, 99)[0].detach()) < 0.5 * before


def _log(work: Path) -> list[list[str]]:
    """The rows of the training log, without the time."""
    return pd.read_csv(work / "log.csv", dtype=str).drop(columns="time").values.tolist()


def _events(work: Path) -> list[tuple[int, float]]:
    """Step and loss of what TensorBoard shows."""
    board = EventAccumulator(str(work / "tensorboard"))
    board.Reload()
    return [(event.step, event.value) for event in board.Scalars("loss")]


@pytest.mark.parametrize("stop", [1, 41, 44, 60])
def test_the_log_of_a_resumed_run_is_complete_and_in_order(tmp_path: Path, stop: int) -> None:
    settings = replace(SETTINGS, steps=62, checkpoint_every=20)
    _run(tmp_path / "undisturbed", settings)
    with pytest.raises(_InterruptedError):
        fit(_network(), _step, _stopping_at(stop, []), settings, work=tmp_path / "stopped", device=CPU)
    _run(tmp_path / "stopped", settings)
    expected = _log(tmp_path / "undisturbed")
    assert [row[0] for row in expected] == ["1", "20", "40", "60", "62"]
    assert _log(tmp_path / "stopped") == expected
    assert _events(tmp_path / "stopped") == _events(tmp_path / "undisturbed")
    assert [step for step, _ in _events(tmp_path / "stopped")] == [1, 20, 40, 60, 62]


def test_a_row_is_logged_before_the_checkpoint_of_its_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "save", _raise)
    with pytest.raises(_InterruptedError):
        _run(tmp_path, replace(SETTINGS, steps=62, checkpoint_every=20))
    assert [row[0] for row in _log(tmp_path)] == ["1", "20"]


def _raise(*_: object) -> None:
    raise _InterruptedError


def test_a_checkpoint_that_could_not_be_finished_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a full disk."""
    save, times = torch.save, iter(range(2))

    def full(value: object, file: BinaryIO) -> None:
        if next(times):
            file.write(b"half")
            raise OSError(28, "No space left on device")
        save(value, file)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space"):
        _run(tmp_path)
    monkeypatch.undo()
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 4
    assert not list(tmp_path.glob(".writing-*"))


def test_what_a_killed_run_was_writing_is_cleared(tmp_path: Path) -> None:
    (tmp_path / ".writing-1.ckpt").write_bytes(b"half")
    _run(tmp_path)
    assert not list(tmp_path.glob(".writing-*"))


@pytest.mark.parametrize("decay", [0.0, 0.6])
def test_a_run_killed_before_its_weights_were_saved_ends_the_same_when_called_again(
    tmp_path: Path, decay: float
) -> None:
    settings = replace(SETTINGS, steps=8, average_decay=decay)  # the last step is one of a checkpoint
    first, again = _run(tmp_path, settings), _run(tmp_path, settings)
    assert all(torch.equal(first[name], value) for name, value in again.items())


def test_samples_are_made_in_full_precision_and_networks_run_in_half(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with bfloat16 on a GPU, where places in a crop would be off by half a pixel."""
    seen: list[torch.dtype] = []

    def product(x: Tensor) -> Tensor:
        seen.append((x @ x).dtype)
        return x

    def loss(network: nn.Module, sample: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return product(sample).sum(), {}

    stage = Stage(_network(), lambda step: product(torch.eye(2) + step), loss, SETTINGS)
    monkeypatch.setattr(stage, "log", lambda *_, **__: None)  # there is no trainer
    with torch.autocast("cpu", dtype=torch.bfloat16):
        stage.training_step(torch.zeros(1), 0)
    assert seen == [torch.float32, torch.bfloat16]


def test_every_step_is_trained_once(tmp_path: Path) -> None:
    seen: list[int] = []
    fit(_network(), _step, _stopping_at(-1, seen), SETTINGS, work=tmp_path, device=CPU)
    assert seen == list(range(9))


def test_a_folder_that_stays_in_use_is_refused(tmp_path: Path) -> None:
    refused = pytest.raises(ModelError, match="another training run")
    with FileLock(tmp_path / "lock"), refused as caught, alone(tmp_path, wait_s=0.1):
        pass
    assert str(tmp_path) in str(caught.value)


def test_a_folder_that_becomes_free_is_waited_for(tmp_path: Path) -> None:
    other = FileLock(tmp_path / "lock", thread_local=False)
    other.acquire()
    threading.Timer(0.3, other.release).start()
    with alone(tmp_path, wait_s=30):
        assert not other.is_locked


def test_a_failed_run_gives_its_folder_free(tmp_path: Path) -> None:
    with pytest.raises(_InterruptedError), alone(tmp_path):
        raise _InterruptedError
    with alone(tmp_path, wait_s=0):
        pass


def test_cuda_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ModelError, match="cuda"):
        pick_device("cuda")


@pytest.mark.parametrize("gpu", [True, False])
def test_auto_takes_a_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch, gpu: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert pick_device("auto").type == ("cuda" if gpu else "cpu")


def test_cpu_is_cpu_even_beside_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("cpu").type == "cpu"


def test_the_cosine_rises_to_one_and_falls_to_zero() -> None:
    settings = replace(SETTINGS, steps=1000, warmup=0.1)
    factors = [learning_rate_factor(step, settings) for step in range(1001)]
    peak = int(np.argmax(factors))
    assert peak == 100
    assert factors[peak] == pytest.approx(1.0)
    assert factors[-1] == pytest.approx(0.0, abs=1e-9)
    assert (np.diff(factors[: peak + 1]) > 0).all()
    assert (np.diff(factors[peak:]) < 0).all()


def test_the_middle_of_the_fall_is_half_the_peak() -> None:
    settings = replace(SETTINGS, steps=1000, warmup=0.2)
    assert learning_rate_factor(600, settings) == pytest.approx(0.5)


@pytest.mark.parametrize("warmup", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 50])
def test_the_cosine_is_positive_at_every_trained_step(steps: int, warmup: float) -> None:
    settings = replace(SETTINGS, steps=steps, warmup=warmup)
    factors = [learning_rate_factor(step, settings) for step in range(steps)]
    assert all(0 < factor <= 1 and math.isfinite(factor) for factor in factors)


def test_halving_halves_at_each_milestone() -> None:
    settings = replace(SETTINGS, schedule="halving", milestones=(10, 20, 30))
    factors = [learning_rate_factor(step, settings) for step in (0, 9, 10, 19, 20, 30, 1000)]
    assert factors == [1.0, 1.0, 0.5, 0.5, 0.25, 0.125, 0.125]


def test_averaged_weights_are_the_exponential_mean_over_the_second_half_of_the_steps(tmp_path: Path) -> None:
    history = [
        _run(tmp_path / f"{n}", replace(SETTINGS, steps=n, warmup=0.0, schedule="halving")) for n in range(5, 10)
    ]
    averaged = _run(tmp_path / "average", replace(SETTINGS, average_decay=0.6, warmup=0.0, schedule="halving"))
    for name, value in averaged.items():
        if value.is_floating_point():
            expected = history[0][name]
            for later in history[1:]:
                expected = 0.6 * expected + 0.4 * later[name]
            assert torch.allclose(value, expected, atol=1e-6), name


def test_a_stopped_run_with_averaged_weights_ends_like_an_undisturbed_one(tmp_path: Path) -> None:
    settings = replace(SETTINGS, average_decay=0.6)
    network = _network()
    with pytest.raises(_InterruptedError):
        fit(network, _step, _stopping_at(8, []), settings, work=tmp_path / "stopped", device=CPU)
    resumed, undisturbed = _run(tmp_path / "stopped", settings), _run(tmp_path / "whole", settings)
    assert all(torch.equal(resumed[name], value) for name, value in undisturbed.items())


# --- the two stages' own calls, on arrays small enough for seconds


def test_a_detector_trains_on_cached_slices(tmp_path: Path) -> None:
    from vertfrac.arrays import write_arrays
    from vertfrac.models.anchor_free import AnchorFree
    from vertfrac.training.detector import train_detector

    shape = np.array([[-9, -12], [9, -12], [-8, 0], [8, 0], [-9, 12], [9, 12]]) + np.array([40, 32])
    write_arrays(
        tmp_path / "slices",
        {"c/a/0": np.random.default_rng(0).integers(-200, 800, (80, 64)).astype(np.int16)},
        {"cases": {"c/a/0": {"case": "c", "keypoints": [shape.tolist()]}}},
    )
    untrained = AnchorFree(
        widths=(2, 3, 4), output_stride=2, skip="add", radius_px=5.0, offset_scale_px=10.0, mean_offsets=True
    )
    network = train_detector(
        untrained, [tmp_path / "slices"], {"c"}, spacing_mm=1.0, scaling="window", window_hu=(-250, 850),
        smallest_genant=0.2, objectness_weight=1.0, height_weight=0.5, level_weight=0.0, crop_mm=(48, 40), batch=2,
        rotate_deg=5, scale=0.1, elastic_mm=1.0, elastic_length_mm=16.0, shift_mm=4.0, intensity=1.0, appearance=1.0,
        settings=replace(SETTINGS, steps=3), work=tmp_path / "work", device=CPU,
    )  # fmt: skip
    assert not network.training
    assert np.allclose(network.get_buffer("mean_offsets").numpy(), shape - shape.mean(axis=0), atol=1e-4)


def test_a_localizer_trains_on_cached_volumes(tmp_path: Path) -> None:
    from vertfrac import tables
    from vertfrac.arrays import write_arrays
    from vertfrac.models.localizer import Localizer
    from vertfrac.training.localizer import train_localizer

    rows = []
    for n, z in enumerate((90.0, 60.0, 30.0)):
        points = [[40 + n, 40 + y, z + dz] for y in (12, 0, -12) for dz in (9, -9)]
        rows.append({"case": "c", "expert": "a", "vertebra": n + 1, **tables.keypoint_values(np.array(points))})
    annotations: pd.DataFrame = tables.ANNOTATIONS.frame(rows)
    write_arrays(
        tmp_path / "volumes",
        {"c": np.random.default_rng(0).integers(-200, 800, (30, 20, 20)).astype(np.int16)},
        json.loads(json.dumps({"cases": {"c": {"affine": np.diag([4.0, 4.0, 4.0, 1.0]).tolist()}}})),
    )
    network = train_localizer(
        Localizer(widths=(2, 3), limits="channel", skip="add"), [tmp_path / "volumes"], annotations, {"c"},
        limits_weight=1.0, edge_mm=8.0, scaling="window", window_hu=(-500, 1000), crop_mm=(64, 64, 80), batch=2,
        rotate_deg=5, tilt=0.1, scale=0.1, flip=True, intensity=1.0, appearance=1.0,
        settings=replace(SETTINGS, steps=3),
        work=tmp_path / "work", device=CPU,
    )  # fmt: skip
    assert not network.training
    assert all(bool(torch.isfinite(p).all()) for p in network.parameters())
