"""The fit call: one Lightning trainer for both stages, with checkpoints beside the result and logs to follow it by."""

from __future__ import annotations

import logging
import math
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lightning
import torch
from filelock import FileLock, Timeout
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from vertfrac.errors import ModelError


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


class Stage(lightning.LightningModule):
    """A network and its loss as a function of the step; samples are made on the device, from the step's own seed."""

    def __init__(
        self,
        network: nn.Module,
        loss: Callable[[nn.Module, int], tuple[Tensor, dict[str, Tensor]]],
        settings: FitSettings,
    ) -> None:
        super().__init__()
        self.network = network
        self._loss = loss
        self._settings = settings

    def training_step(self, batch: Tensor, batch_index: int) -> Tensor:
        """One step; ``batch`` is a placeholder, the step number decides what is seen."""
        loss, parts = self._loss(self.network, self.global_step)
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


def fit(
    network: nn.Module,
    loss: Callable[[nn.Module, int], tuple[Tensor, dict[str, Tensor]]],
    settings: FitSettings,
    *,
    work: Path,
    device: torch.device,
) -> None:
    """Optimise the network in place.

    loss : (network, step) -> loss and its named parts. work : folder of checkpoints and logs; a run that was stopped
    goes on from the last checkpoint there, and a second process on the same folder raises ModelError. A finished run
    leaves its logs (CSV, TensorBoard) and no checkpoint. With ``average_decay`` the weights become their exponential
    average over the second half of the steps.
    """
    work.mkdir(parents=True, exist_ok=True)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    lock = FileLock(work / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ModelError(f"{work}: another training run is using this folder, expected to be alone") from error
    try:
        refresh = 10 if sys.stderr.isatty() else max(1, settings.steps // 20)  # a log file needs no moving bar
        checkpoint = ModelCheckpoint(
            dirpath=work,
            filename="last",
            every_n_train_steps=settings.checkpoint_every,
            save_top_k=1,
            enable_version_counter=False,
        )
        callbacks: list[Callback] = [checkpoint, TQDMProgressBar(refresh_rate=refresh)]
        if settings.average_decay > 0:
            callbacks.append(
                EMAWeightAveraging(decay=settings.average_decay, update_starting_at_step=settings.steps // 2)
            )
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
            logger=[CSVLogger(work, name="csv", version=""), TensorBoardLogger(work, name="tensorboard", version="")],
            log_every_n_steps=min(20, settings.steps),
            enable_model_summary=False,
        )
        last = work / "last.ckpt"
        trainer.fit(
            Stage(network, loss, settings),
            DataLoader(_Endless(), batch_size=None),
            ckpt_path=str(last) if last.is_file() else None,
            weights_only=True,
        )
        last.unlink(missing_ok=True)
    finally:
        lock.release()
