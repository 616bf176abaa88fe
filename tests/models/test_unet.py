"""Laws of the U-Net: sizes come back divided by the stride, and what it cannot build it names."""

import pytest
import torch

from vertfrac.models.unet import Skip, UNet


def _unet(dimensions: int, stride: int, skip: Skip = "concatenate") -> UNet:
    torch.manual_seed(0)
    return UNet(dimensions, in_channels=1, out_channels=3, widths=(4, 6, 8), output_stride=stride, skip=skip).eval()


@pytest.mark.parametrize("skip", ["concatenate", "add"])
@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("size", [(16, 24), (17, 23), (5, 9), (1, 3)])
def test_output_size_is_the_input_size_over_the_stride_rounded_up_in_2d(
    size: tuple[int, int], stride: int, skip: Skip
) -> None:
    output = _unet(2, stride, skip)(torch.randn(2, 1, *size))
    assert output.shape == (2, 3, *(-(-n // stride) for n in size))


@pytest.mark.parametrize("skip", ["concatenate", "add"])
@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("size", [(8, 12, 16), (7, 13, 9)])
def test_output_size_is_the_input_size_over_the_stride_rounded_up_in_3d(
    size: tuple[int, int, int], stride: int, skip: Skip
) -> None:
    output = _unet(3, stride, skip)(torch.randn(1, 1, *size))
    assert output.shape == (1, 3, *(-(-n // stride) for n in size))


@pytest.mark.parametrize("stride", [0, 3, 8, 16])
def test_an_impossible_stride_is_named(stride: int) -> None:
    with pytest.raises(ValueError, match=f"found {stride}"):
        _unet(2, stride)


@pytest.mark.parametrize("stride", [1, 2])
def test_shifting_the_image_by_the_coarsest_cell_shifts_the_output(stride: int) -> None:
    network = _unet(2, stride)
    image = torch.zeros(1, 1, 64, 64)
    image[..., 24:36, 24:36] = torch.randn(12, 12)
    moved = network(image.roll(4, dims=2))
    assert torch.allclose(moved, network(image).roll(4 // stride, dims=2), atol=1e-5)


def test_every_parameter_of_the_network_is_used() -> None:
    network = _unet(2, 2)
    network(torch.randn(1, 1, 16, 16)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())
