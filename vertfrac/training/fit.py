"""The fit call: one Lightning trainer for both stages, with checkpoints beside the result and logs to follow it by."""

from __future__ import annotations

import csv
import logging
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import lightning
import pandas as pd
import torch
from filelock import FileLock, Timeout
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, TQDMProgressBar
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset
from torch.utils.tensorboard import SummaryWriter

from vertfrac.errors import ModelError
from vertfrac.files import replacing

CHECKPOINT = "last.ckpt"
LOG = "log.csv"
LOG_EVERY = 20
"""Steps between rows of the training log, which also has the first and the last step."""


@dataclass(frozen=True)
class FitSettings:
    """How long and how to optimise; see ``config.Training``."""

    steps: int
    learning_rate: float
    weight_decay: float
    schedule: Literal["cosine", "halving"]
    warmup: float
    milestones: tuple[int, ...]
    checkpoint_every: int
    seed: int
    average_decay: float
    mixed_precision: bool


Sample = TypeVar("Sample")


def _logged(step: int, steps: int) -> bool:
    """Whether the log has a row of a step, counted from 1."""
    return step % LOG_EVERY == 0 or step in (1, steps)


class Stage(lightning.LightningModule, Generic[Sample]):
    """A network, its samples as a function of the step, made on the device from the step's own seed, and its loss."""

    def __init__(
        self,
        network: nn.Module,
        sample: Callable[[int], Sample],
        loss: Callable[[nn.Module, Sample], tuple[Tensor, dict[str, Tensor]]],
        settings: FitSettings,
    ) -> None:
        super().__init__()
        self.network = network
        self._sample = sample
        self._loss = loss
        self._settings = settings

    def training_step(self, batch: Tensor, batch_index: int) -> Tensor:
        """One step; ``batch`` is a placeholder, the step number decides what is seen."""
        with torch.autocast(self.device.type, enabled=False):  # bfloat16 is for networks: it holds 3 digits of a place
            sample = self._sample(self.global_step)
        loss, parts = self._loss(self.network, sample)
        if _logged(self.global_step + 1, self._settings.steps):
            self.log("loss", loss.detach(), prog_bar=True)
            self.log_dict({name: value.detach() for name, value in parts.items()}, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        """Adam (AdamW with weight decay) and the schedule, stepped once per optimisation step."""
        s = self._settings
        kind = torch.optim.AdamW if s.weight_decay > 0 else torch.optim.Adam
        extra: dict[str, Any] = {"weight_decay": s.weight_decay} if s.weight_decay > 0 else {}
        optimizer = kind(self.parameters(), lr=s.learning_rate, betas=(0.9, 0.999), **extra)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, s))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def learning_rate_factor(step: int, settings: FitSettings) -> float:
    """Share of the peak learning rate at a step: a warm-up and a cosine down to 0, or halvings at the milestones."""
    if settings.schedule == "halving":
        return float(0.5 ** sum(step >= milestone for milestone in settings.milestones))
    rise = max(1.0, settings.warmup * settings.steps)
    if step < rise:
        return (step + 1) / (rise + 1)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rise) / max(1.0, settings.steps - rise))))


class _Endless(IterableDataset[Tensor]):
    """One placeholder per step: the samples themselves never pass through a loader."""

    def __iter__(self) -> Iterator[Tensor]:
        while True:
            yield torch.zeros(1)


class _Keeper(Callback):
    """Keeps the training log (CSV and TensorBoard) and the checkpoint such that the log of a run is complete and in
    order, whenever it was killed: a row is on the disk before the checkpoint of its step, and what was logged after the
    last checkpoint is dropped when the run goes on from there.
    """

    def __init__(self, work: Path, checkpoint_every: int) -> None:
        self._log, self._checkpoint, self._board = work / LOG, work / CHECKPOINT, work / "tensorboard"
        self._every = checkpoint_every
        self._rows: list[Mapping[str, Any]] = []
        self._writer: SummaryWriter | None = None

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        if self._log.is_file():
            with self._log.open(encoding="utf-8", newline="") as file:
                self._rows = [row for row in csv.DictReader(file) if int(row["step"]) <= trainer.global_step]
        self._writer = SummaryWriter(self._board, purge_step=trainer.global_step + 1)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, outputs: Any, batch: Any, batch_index: int
    ) -> None:
        step = trainer.global_step  # steps done, this one included
        if _logged(step, trainer.max_steps):
            self._write({name: float(value) for name, value in trainer.callback_metrics.items()}, step)
        # None after the last step: the average of the weights would not be taken again when a finished run goes on.
        if step % self._every == 0 and step < trainer.max_steps:
            trainer.save_checkpoint(self._checkpoint)

    def _write(self, values: dict[str, float], step: int) -> None:
        assert self._writer is not None
        self._rows.append({"step": step, "time": datetime.now(UTC).isoformat(timespec="milliseconds"), **values})
        with replacing(self._log) as temporary:
            pd.DataFrame(self._rows).to_csv(temporary, index=False)
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def teardown(self, trainer: lightning.Trainer, module: lightning.LightningModule, stage: str) -> None:
        if self._writer is not None:
            self._writer.close()


class _WholeCheckpoints(TorchCheckpointIO):
    """Checkpoints that replace each other at once: Lightning's own cross the system's temporary folder, from where a
    move to another disk is a copy, which a kill cuts short.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        with replacing(path) as temporary, temporary.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        try:
            return super().load_checkpoint(path, *args, **kwargs)
        except Exception as error:  # of another program, or damaged; torch raises several kinds
            what = " ".join(str(error).split())[:200]
            raise ModelError(
                f"{path}: not a checkpoint of vertfrac ({what}), expected none or an unharmed one"
            ) from error


@contextmanager
def alone(folder: Path, *, wait_s: float = 60.0) -> Iterator[None]:
    """Hold the lock of a folder, so that one process at a time trains for the result beside it.

    Another one is waited for, since what a killed call of the workflow leaves behind ends itself within seconds;
    ModelError if it does not.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=wait_s)
    except Timeout as error:
        raise ModelError(
            f"{folder}: another training run has been using this folder for {wait_s:.0f} s, expected to be alone;"
            " end it (kill, scancel) or wait for it"
        ) from error
    try:
        yield
    finally:
        lock.release()


def fit(
    network: nn.Module,
    sample: Callable[[int], Sample],
    loss: Callable[[nn.Module, Sample], tuple[Tensor, dict[str, Tensor]]],
    settings: FitSettings,
    *,
    work: Path,
    device: torch.device,
) -> None:
    """Optimise the network in place.

    sample : step -> what the step is trained on. loss : (network, sample) -> loss and its named parts. work : folder of
    the checkpoint and the logs, held by ``alone``; a run that was stopped goes on from the checkpoint there and ends
    like one that was not. The caller removes the checkpoint once the weights are safe. With ``average_decay`` the
    weights become their exponential average over the second half of the steps.
    """
    work.mkdir(parents=True, exist_ok=True)
    for unfinished in work.glob(".writing-*"):
        unfinished.unlink()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    refresh = 10 if sys.stderr.isatty() else max(1, settings.steps // 20)  # a log file needs no moving bar
    callbacks: list[Callback] = [TQDMProgressBar(refresh_rate=refresh)]
    if settings.average_decay > 0:
        callbacks.append(EMAWeightAveraging(decay=settings.average_decay, update_starting_at_step=settings.steps // 2))
    callbacks.append(_Keeper(work, settings.checkpoint_every))  # last, as it saves what the others hold
    precision: Literal["bf16-mixed", "32-true"] = (
        "bf16-mixed" if settings.mixed_precision and device.type == "cuda" else "32-true"
    )
    trainer = lightning.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1,
        precision=precision,
        max_steps=settings.steps,
        max_epochs=-1,
        callbacks=callbacks,
        plugins=[_WholeCheckpoints()],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    checkpoint = work / CHECKPOINT
    trainer.fit(
        Stage(network, sample, loss, settings),
        DataLoader(_Endless(), batch_size=None),
        ckpt_path=str(checkpoint) if checkpoint.is_file() else None,
        weights_only=True,
    )
