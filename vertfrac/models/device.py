"""Where a network computes: the device, and a network's place and memory layout on it."""

from __future__ import annotations

import os
import platform
from typing import Literal, TypeVar

import torch
from torch import nn

from vertfrac.errors import ModelError

Device = Literal["auto", "cpu", "cuda"]
Network = TypeVar("Network", bound=nn.Module)


def pick_device(wanted: Device) -> torch.device:
    """The device to compute on; "auto" takes a GPU where there is one. ModelError if cuda is asked for and absent."""
    if wanted == "cuda" and not torch.cuda.is_available():
        seen = os.environ.get("CUDA_VISIBLE_DEVICES", "not set")
        raise ModelError(
            f"{platform.node()}: found no usable GPU (CUDA_VISIBLE_DEVICES is {seen or 'empty'}), expected one with "
            "--device cuda; cpu or auto go without"
        )
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def on_device(network: Network, device: torch.device, memory_format: torch.memory_format) -> Network:
    """The network itself, moved to the device with its weights in the given memory layout."""
    network.to(device, memory_format=memory_format)  # type: ignore[call-overload]  # torch's stubs lack memory_format
    return network
