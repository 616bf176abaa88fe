"""Laws of stage 1: the soft-argmax reads (y, x), positions are in input voxels, the loss is the plain sum."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vertfrac.geometry.grid import Grid
from vertfrac.models.localizer import (
    AIR_HU,
    Limits,
    Localizer,
    LocalizerOutput,
    edge_slices,
    localizer_loss,
    soft_argmax,
    softmax_moments,
    with_edges,
)


class _Fixed(nn.Module):
    """A U-Net that answers with given maps."""

    def __init__(self, maps: Tensor, stride: int) -> None:
        super().__init__()
        self.maps, self.output_stride = maps, stride

    def forward(self, x: Tensor) -> Tensor:
        return self.maps


def _localizer(maps: Tensor, stride: int, limits: Limits = "none") -> Localizer:
    network = Localizer(widths=(2, 2, 2), limits=limits, output_stride=stride)
    network.unet = _Fixed(maps, stride)  # type: ignore[assignment]  # a stand-in
    return network


def _deltas(cells: tuple[int, int, int], places: list[tuple[int, int]]) -> Tensor:
    """One map with a sharp peak at (y, x) in each plane."""
    maps = torch.zeros(1, 1, *cells)
    for z, (y, x) in enumerate(places):
        maps[0, 0, z, y, x] = 1000.0
    return maps


def test_soft_argmax_of_a_peak_is_its_y_and_x_on_a_non_square_map() -> None:
    logits = _deltas((3, 5, 11), [(0, 10), (4, 0), (2, 7)])[:, 0]
    assert torch.allclose(soft_argmax(logits), torch.tensor([[[0.0, 10.0], [4.0, 0.0], [2.0, 7.0]]]))


def test_soft_argmax_of_a_flat_map_is_the_middle() -> None:
    assert torch.allclose(soft_argmax(torch.zeros(2, 3, 4, 9)), torch.tensor([1.5, 4.0]).expand(2, 3, 2))


def test_soft_argmax_of_two_equal_peaks_lies_between_them() -> None:
    logits = torch.full((1, 1, 6, 8), -1000.0)
    logits[0, 0, 1, 2] = logits[0, 0, 3, 6] = 0.0
    assert torch.allclose(soft_argmax(logits)[0, 0], torch.tensor([2.0, 4.0]))


def test_soft_argmax_does_not_change_when_a_constant_is_added() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 7, 5)
    assert torch.allclose(soft_argmax(logits), soft_argmax(logits + 500), atol=1e-4)


def test_the_variance_of_a_map_is_the_mean_square_distance_from_its_mean() -> None:
    logits = torch.full((1, 1, 5, 9), -1e9)
    logits[0, 0, 1, 2] = logits[0, 0, 1, 6] = logits[0, 0, 3, 4] = 3.0
    mean, variance = softmax_moments(logits)
    y, x = torch.tensor([1.0, 1, 3]), torch.tensor([2.0, 6, 4])
    assert torch.allclose(mean[0, 0], torch.stack([y.mean(), x.mean()]))
    assert torch.allclose(variance[0, 0], torch.stack([y.var(correction=0), x.var(correction=0)]))


def test_the_variance_of_a_peak_far_from_the_corner_is_zero() -> None:
    logits = torch.full((1, 1, 300, 300), -1e9)
    logits[..., 290, 280] = 0.0
    assert softmax_moments(logits)[1].abs().max() == 0


def test_soft_argmax_computes_in_float32_for_half_precision() -> None:
    assert soft_argmax(torch.zeros(1, 1, 4, 4, dtype=torch.bfloat16)).dtype == torch.float32


@pytest.mark.parametrize("limits", ["none", "max", "channel"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(8, 12, 10), (7, 11, 13)])
def test_there_is_one_position_and_one_logit_per_slice(size: tuple[int, int, int], stride: int, limits: Limits) -> None:
    network = Localizer(widths=(2, 3, 4), limits=limits, output_stride=stride).eval()
    output = network(torch.randn(2, 1, *size))
    assert output.positions.shape == (2, size[0], 2)
    assert (output.limits is None) if limits == "none" else (output.limits.shape == (2, size[0]))


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_a_delta_in_a_cell_is_the_centre_of_its_voxels(stride: int) -> None:
    network = _localizer(_deltas((3, 4, 6), [(1, 5)] * 3), stride)
    positions = network(torch.zeros(1, 1, 3 * stride, 4 * stride, 6 * stride)).positions
    expected = torch.tensor([1.0, 5.0]) * stride + (stride - 1) / 2
    assert torch.allclose(positions, expected.expand_as(positions), atol=1e-4)


@pytest.mark.parametrize("slices", [11, 12])
def test_with_stride_two_a_line_of_deltas_stays_a_line_at_every_slice(slices: int) -> None:
    network = _localizer(_deltas((6, 16, 16), [(2 * z, z) for z in range(6)]), 2)
    positions = network(torch.zeros(1, 1, slices, 32, 32)).positions[0]
    # cell j covers the slices 2j and 2j + 1, so that slice z lies at cell (z - 0.5) / 2
    cell = (torch.arange(slices) - 0.5) / 2
    inner = slice(1, 11)
    expected = torch.stack([2 * cell, cell], dim=1) * 2 + 0.5
    assert torch.allclose(positions[inner], expected[inner], atol=1e-4)


def test_max_limits_are_the_largest_logit_of_each_slice() -> None:
    torch.manual_seed(0)
    maps = torch.randn(2, 1, 5, 6, 7)
    limits = _localizer(maps, 1, "max")(torch.zeros(2, 1, 5, 6, 7)).limits
    assert torch.equal(limits, maps[:, 0].amax(dim=(2, 3)))


def test_channel_limits_are_read_where_the_curve_is() -> None:
    torch.manual_seed(0)
    heat = _deltas((3, 5, 6), [(1, 2), (4, 5), (0, 0)])
    second = torch.randn(1, 1, 3, 5, 6)
    limits = _localizer(torch.cat([heat, second], dim=1), 1, "channel")(torch.zeros(1, 1, 3, 5, 6)).limits
    assert torch.allclose(limits, torch.stack([second[0, 0, 0, 1, 2], second[0, 0, 1, 4, 5], second[0, 0, 2, 0, 0]]))


def test_the_channel_of_the_limits_does_not_pull_on_the_curve() -> None:
    maps = torch.randn(1, 2, 3, 5, 6, requires_grad=True)
    _localizer(maps, 1, "channel")(torch.zeros(1, 1, 3, 5, 6)).limits.sum().backward()
    assert maps.grad is not None
    assert torch.equal(maps.grad[:, 0], torch.zeros_like(maps.grad[:, 0]))


def _scene(limits: bool) -> tuple[LocalizerOutput, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    positions, truth = (torch.rand(2, 9, 2, generator=generator) * 20 for _ in range(2))
    inside = (torch.rand(2, 9, generator=generator) > 0.4).float()
    logits = torch.randn(2, 9, generator=generator) * 3 if limits else None
    return LocalizerOutput(positions, torch.zeros_like(positions), logits), truth, inside, torch.tensor([2.0, 3.0])


@pytest.mark.parametrize("weight", [1.0, 2.5])
def test_the_loss_is_the_mean_error_inside_plus_weighted_cross_entropy(weight: float) -> None:
    output, truth, inside, spacing = _scene(True)
    assert output.limits is not None
    errors, entropies = [], []
    for b in range(2):
        for z in range(9):
            p = 1 / (1 + np.exp(-float(output.limits[b, z])))
            entropies.append(-np.log(p if inside[b, z] else 1 - p))
            if inside[b, z]:
                dy, dx = (output.positions[b, z] - truth[b, z]).tolist()
                errors.append((abs(dy) * 2 + abs(dx) * 3) / 2)
    loss, _ = localizer_loss(output, truth, inside, spacing, limits_weight=weight)
    assert float(loss) == pytest.approx(np.mean(errors) + weight * np.mean(entropies), rel=1e-5)


def test_without_limits_the_loss_is_the_curve_error_alone() -> None:
    output, truth, inside, spacing = _scene(False)
    loss, parts = localizer_loss(output, truth, inside, spacing)
    assert set(parts) == {"curve_mm"}
    assert torch.equal(loss, parts["curve_mm"])


def test_what_lies_outside_the_limits_does_not_change_the_curve_error() -> None:
    output, truth, inside, spacing = _scene(False)
    elsewhere = truth + 1000 * (1 - inside)[..., None]
    assert torch.equal(
        localizer_loss(output, truth, inside, spacing)[0], localizer_loss(output, elsewhere, inside, spacing)[0]
    )


def test_a_batch_without_annotated_spine_has_a_finite_loss() -> None:
    output, truth, inside, spacing = _scene(True)
    loss, parts = localizer_loss(output, truth, torch.zeros_like(inside), spacing)
    assert torch.isfinite(loss)
    assert float(parts["curve_mm"]) == 0


def test_edges_are_air_and_leave_the_volume_in_the_middle() -> None:
    volume = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    padded = with_edges(volume, 3)
    assert np.array_equal(padded[3:5], volume)
    assert (padded[:3] == AIR_HU).all()
    assert (padded[5:] == AIR_HU).all()


def test_the_number_of_edge_slices_follows_the_spacing_along_z() -> None:
    assert edge_slices(12.0, Grid((5, 5, 5), np.diag([1.0, 2.0, 4.0, 1.0]))) == 3
