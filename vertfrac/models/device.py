"""Where and how a network computes: the device, its place and memory layout there, its layers for evaluation."""

from __future__ import annotations

import os
import platform
from typing import Literal, TypeVar

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

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


def fold_batch_norm(network: Network) -> Network:
    """The network itself, in evaluation mode, each batch norm merged into the convolution before it.

    Says the same to float rounding, in fewer passes over memory; is not to be trained any more.
    """
    network.eval()
    for block in [module for module in network.modules() if isinstance(module, nn.Sequential)]:
        for i in range(1, len(block)):
            conv, norm = block[i - 1], block[i]
            if isinstance(conv, nn.Conv1d | nn.Conv2d | nn.Conv3d) and isinstance(norm, _BatchNorm):
                block[i - 1], block[i] = fuse_conv_bn_eval(conv, norm), nn.Identity()
    return network


def on_device(network: Network, device: torch.device, memory_format: torch.memory_format) -> Network:
    """The network itself, moved to the device with its weights in the given memory layout."""
    network.to(device, memory_format=memory_format)  # type: ignore[call-overload]  # torch's stubs lack memory_format
    return network
