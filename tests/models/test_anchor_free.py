"""Laws of the anchor-free code: encode and decode are inverse, positives are a disc, the loss is the plain sum."""

import numpy as np
import pytest
import torch
from torch import Tensor

from vertfrac.models.anchor_free import AnchorFree, Candidates, Targets, detector_loss, mean_candidates

STRIDES = [1, 2, 4]


def _network(stride: int = 1, radius: float = 5.0, scale: float = 1.0) -> AnchorFree:
    torch.manual_seed(0)
    network = AnchorFree(widths=(2, 3, 4), output_stride=stride, radius_px=radius, offset_scale_px=scale).eval()
    network.get_buffer("mean_offsets").copy_(torch.randn(6, 2) * 8)
    return network


def _vertebrae(batch: int = 2, count: int = 3, padding: int = 2) -> tuple[Tensor, Tensor]:
    """Keypoints (batch, count + padding, 6, 2), the last ones NaN, and their G."""
    generator = torch.Generator().manual_seed(5)
    shape = torch.tensor([[-9, -12], [9, -12], [-8, 0], [8, 0], [-9, 12], [9, 12]], dtype=torch.float32)
    places = torch.stack([torch.linspace(12, 84, count), torch.full((count,), 30.3)], dim=1)
    keypoints = (places[:, None] + shape).expand(batch, -1, -1, -1) + torch.randn(
        batch, count, 6, 2, generator=generator
    )
    gap = torch.full((batch, padding, 6, 2), torch.nan)
    genant = 0.3 + 0.7 * torch.rand(batch, count, generator=generator)
    return torch.cat([keypoints, gap], dim=1), torch.cat([genant, gap[..., 0, 0]], dim=1)


def _answer(network: AnchorFree, targets: Targets) -> Tensor:
    """The output that says exactly what the targets ask for."""
    height, width = targets.objectness.shape[1:]
    mean = network.get_buffer("mean_offsets")
    offsets = targets.keypoints - network.anchors(height, width)[..., None, :] - mean
    offsets = (offsets / network.offset_scale_px).permute(0, 3, 4, 1, 2).flatten(1, 2)
    return torch.cat([(targets.objectness * 40 - 20)[:, None], offsets], dim=1)


@pytest.mark.parametrize("scale", [1.0, 10.0])
@pytest.mark.parametrize("stride", STRIDES)
def test_decoding_an_encoded_vertebra_gives_its_keypoints_back(stride: int, scale: float) -> None:
    network = _network(stride, scale=scale)
    keypoints, genant = _vertebrae()
    height, width = 96 // stride, 64 // stride
    targets = network.encode(keypoints, genant, height, width)
    for b, output in enumerate(_answer(network, targets)):
        found = network.decode(output).best_above(0.5)
        distance = (found.keypoints[:, None] - keypoints[b, None, :3]).abs().amax(dim=(2, 3))
        nearest = (found.anchors[:, None] - keypoints[b, None, :3].mean(dim=2)).norm(dim=-1).argmin(dim=1)
        assert float(distance[torch.arange(len(nearest)), nearest].max()) < 1e-3
        assert set(nearest.tolist()) == {0, 1, 2}


@pytest.mark.parametrize("stride", STRIDES)
def test_positives_are_exactly_the_cells_within_the_radius_of_a_centroid(stride: int) -> None:
    network = _network(stride, radius=6.0)
    keypoints, genant = _vertebrae()
    objectness = network.encode(keypoints, genant, 96 // stride, 64 // stride).objectness
    expected = torch.zeros_like(objectness)
    for b in range(len(keypoints)):
        for centroid in keypoints[b, :3].mean(dim=1).double():
            for i in range(expected.shape[1]):
                for j in range(expected.shape[2]):
                    row, column = i * stride + (stride - 1) / 2, j * stride + (stride - 1) / 2
                    if (row - centroid[0]) ** 2 + (column - centroid[1]) ** 2 < 36:
                        expected[b, i, j] = 1
    assert torch.equal(objectness, expected)


@pytest.mark.parametrize("stride", STRIDES)
def test_an_anchor_is_the_mean_index_of_the_pixels_of_its_cell(stride: int) -> None:
    anchors = _network(stride).anchors(3, 5)
    pixels = torch.arange(5 * stride, dtype=torch.float32).view(5, stride).mean(dim=1)
    assert torch.equal(anchors[..., 0], pixels[:3, None].expand(3, 5))
    assert torch.equal(anchors[..., 1], pixels.expand(3, 5))


def test_padding_changes_nothing() -> None:
    network = _network(2)
    keypoints, genant = _vertebrae(padding=4)
    for with_padding, without in zip(
        network.encode(keypoints, genant, 48, 32), network.encode(keypoints[:, :3], genant[:, :3], 48, 32), strict=True
    ):
        assert torch.equal(with_padding, without)


def test_padding_in_front_changes_nothing() -> None:
    network = _network(2)
    keypoints, genant = _vertebrae(padding=2)
    for there, here in zip(
        network.encode(keypoints.flip(1), genant.flip(1), 48, 32),
        network.encode(keypoints[:, :3], genant[:, :3], 48, 32),
        strict=True,
    ):
        assert torch.equal(there, here)


def test_a_slice_without_vertebra_has_no_positive_and_no_nan() -> None:
    targets = _network().encode(torch.full((1, 3, 6, 2), torch.nan), torch.full((1, 3), torch.nan), 20, 16)
    assert float(targets.objectness.sum()) == 0
    assert all(bool(torch.isfinite(part).all()) for part in targets)


def test_each_positive_carries_the_genant_index_of_its_vertebra() -> None:
    network = _network()
    keypoints, genant = _vertebrae(batch=1)
    targets = network.encode(keypoints, genant, 96, 64)
    for n in range(3):
        row, column = keypoints[0, n].mean(dim=0).round().long().tolist()
        assert targets.genant[0, row, column] == genant[0, n]


def test_the_network_has_an_output_for_every_cell() -> None:
    assert _network(2)(torch.randn(2, 1, 33, 21)).shape == (2, 13, 17, 11)


def test_keypoints_of_a_batch_are_the_decoded_ones() -> None:
    network = _network(2, scale=7.0)
    output = torch.randn(2, 13, 6, 5)
    together = network.keypoints(output)
    for b in range(2):
        assert torch.allclose(together[b].flatten(0, 1), network.decode(output[b]).keypoints)


def test_best_above_sorts_and_cuts() -> None:
    scores = torch.tensor([0.2, 0.9, 0.5, 0.9])
    keypoints = torch.arange(4.0)[:, None, None].expand(4, 6, 2)
    best = Candidates(scores, keypoints, keypoints[:, 0]).best_above(0.5)
    assert best.keypoints[:, 0, 0].tolist() == [1.0, 3.0]


def test_the_mean_of_equal_candidates_is_themselves() -> None:
    part = _network().decode(torch.randn(13, 6, 5))
    for mean, one in zip(mean_candidates([part, part, part]), part, strict=True):
        assert torch.allclose(mean, one, atol=1e-5)


def _slow_loss(
    output: np.ndarray,
    predicted: np.ndarray,
    targets: list[np.ndarray],
    smallest: float,
    o_weight: float,
    h_weight: float,
) -> float:
    objectness, keypoints, genant = targets
    entropy, errors, height_errors = [], [], []
    for b, i, j in np.ndindex(*objectness.shape):
        p = 1 / (1 + np.exp(-output[b, 0, i, j]))
        entropy.append(-np.log(p) if objectness[b, i, j] else -np.log(1 - p))
        if objectness[b, i, j]:
            g = max(genant[b, i, j], smallest)
            errors.append(np.abs(predicted[b, i, j] - keypoints[b, i, j]).mean() / g)
            ends, wanted = predicted[b, i, j], keypoints[b, i, j]
            differences = [
                abs(np.linalg.norm(ends[k] - ends[k + 1]) - np.linalg.norm(wanted[k] - wanted[k + 1]))
                for k in (0, 2, 4)
            ]
            height_errors.append(np.mean(differences) / g)
    return float(o_weight * np.mean(entropy) + np.mean(errors) + h_weight * np.mean(height_errors))


@pytest.mark.parametrize(("smallest", "o_weight", "h_weight"), [(0.2, 1.0, 0.0), (0.6, 20.0, 0.0), (0.2, 3.0, 0.5)])
def test_the_loss_equals_a_plain_loop(smallest: float, o_weight: float, h_weight: float) -> None:
    network = _network(4)
    targets = network.encode(*_vertebrae(), 24, 16)
    output = torch.randn(2, 13, 24, 16, generator=torch.Generator().manual_seed(1))
    predicted = network.keypoints(output)
    loss, _ = detector_loss(
        output, predicted, targets, smallest_genant=smallest, objectness_weight=o_weight, height_weight=h_weight
    )
    expected = _slow_loss(
        output.double().numpy(), predicted.double().numpy(), [t.double().numpy() for t in targets],
        smallest, o_weight, h_weight,
    )  # fmt: skip
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_perfect_answers_leave_no_keypoint_and_no_height_error() -> None:
    network = _network(2)
    targets = network.encode(*_vertebrae(), 48, 32)
    output = _answer(network, targets)
    _, parts = detector_loss(output, network.keypoints(output), targets, smallest_genant=0.2, height_weight=1.0)
    assert float(parts["keypoints_px"]) < 1e-4
    assert float(parts["heights_px"]) < 1e-4


def test_without_a_positive_the_loss_is_the_cross_entropy_and_has_a_finite_gradient() -> None:
    network = _network()
    targets = network.encode(torch.full((1, 1, 6, 2), torch.nan), torch.full((1, 1), torch.nan), 8, 8)
    output = torch.randn(1, 13, 8, 8, requires_grad=True)
    loss, parts = detector_loss(output, network.keypoints(output), targets, smallest_genant=0.2, height_weight=1.0)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(parts["objectness"].detach()))
    assert output.grad is not None
    assert bool(torch.isfinite(output.grad).all())


def test_collapsed_heights_have_a_finite_gradient() -> None:
    """Untrained networks put both ends of a height at one place, where the norm has no derivative."""
    network = _network()
    network.get_buffer("mean_offsets").zero_()
    targets = network.encode(*_vertebrae(batch=1), 96, 64)
    output = torch.zeros(1, 13, 96, 64, requires_grad=True)
    loss, _ = detector_loss(output, network.keypoints(output), targets, smallest_genant=0.2, height_weight=1.0)
    loss.backward()
    assert output.grad is not None
    assert bool(torch.isfinite(output.grad).all())
