"""Laws of networks made ready for evaluation."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vertfrac.models.device import fold_batch_norm
from vertfrac.models.levels import LevelHead
from vertfrac.models.unet import Skip, UNet


def _as_trained(network: nn.Module) -> nn.Module:
    """With batch norms that do something."""
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            for values in (module.weight.data, module.get_buffer("running_var")):
                values.uniform_(0.5, 2.0, generator=generator)
            for values in (module.bias.data, module.get_buffer("running_mean")):
                values.normal_(0.0, 0.5, generator=generator)
    return network.eval()


def _batch_norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d) for module in network.modules())


@pytest.mark.parametrize("skip", ["concatenate", "add"])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_network_says_the_same_without_its_batch_norms(dimensions: int, skip: Skip) -> None:
    torch.manual_seed(0)
    network = _as_trained(UNet(dimensions, in_channels=1, out_channels=3, widths=(4, 6, 8), output_stride=2, skip=skip))
    image = torch.randn(2, 1, *(16, 24, 20)[:dimensions])
    with torch.inference_mode():
        before = network(image)
        assert _batch_norms(network) > 0
        after = fold_batch_norm(network)(image)
    assert _batch_norms(network) == 0
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)


def test_the_head_that_names_vertebrae_says_the_same_without_its_batch_norms() -> None:
    torch.manual_seed(0)
    head = _as_trained(LevelHead(features=8, coronal=10, sagittal=6, columns=48, classes=25))
    context = torch.randn(1, 16, 40, 48)
    with torch.inference_mode():
        before = head.rows(context)
        fold_batch_norm(head)
        torch.testing.assert_close(head.rows(context), before, rtol=1e-4, atol=1e-4)
    assert _batch_norms(head) == 0
