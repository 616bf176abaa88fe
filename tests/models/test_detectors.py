"""Laws of both stage-2 codes: encode and decode are inverse, positives as published, the loss a plain sum."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from vertfrac.models.anchor_based import AnchorBased, anchor_sizes
from vertfrac.models.anchor_free import AnchorFree
from vertfrac.models.detector import CHANNELS, Candidates, Detector, Targets, detector_loss, mean_candidates

SCALES, RATIOS = (17.0, 23.0, 28.0, 35.0), (0.8, 1.1, 1.3, 2.0)
SIZE = (96, 64)


def _free(stride: int = 1, radius: float = 5.0, scale: float = 1.0) -> AnchorFree:
    torch.manual_seed(0)
    network = AnchorFree(
        widths=(2, 3, 4), output_stride=stride, radius_px=radius, offset_scale_px=scale, mean_offsets=True
    ).eval()
    network.learn_shape(torch.randn(6, 2) * 8)
    return network


def _based(stride: int = 1, positive_iou: float = 0.5, best_anchor: bool = True) -> AnchorBased:
    torch.manual_seed(0)
    return AnchorBased(
        widths=(2, 3, 4), output_stride=stride, scales_px=SCALES, ratios=RATIOS, positive_iou=positive_iou,
        best_anchor=best_anchor,
    ).eval()  # fmt: skip


NETWORKS: dict[str, Callable[[], Detector]] = {
    "free": _free,
    "free, stride 4": lambda: _free(4),
    "free, scaled": lambda: _free(2, scale=10.0),
    "based": _based,
    "based, stride 2": lambda: _based(2),
}


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> Detector:
    return NETWORKS[request.param]()


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


def _targets(network: Detector, **options: int) -> Targets:
    stride = network.unet.output_stride
    return network.encode(*_vertebrae(**options), SIZE[0] // stride, SIZE[1] // stride)


def _answer(network: Detector, targets: Targets) -> Tensor:
    """The output that says exactly what the targets ask for."""
    raw = targets.code
    if isinstance(network, AnchorFree):
        raw = (raw - network.get_buffer("mean_offsets")) / network.offset_scale_px
    batch, anchors, height, width = targets.objectness.shape
    output = torch.zeros(batch, anchors, height, width, CHANNELS)
    output[..., 0] = targets.objectness * 40 - 20
    output[..., 1:][targets.objectness > 0] = raw.flatten(1)
    return output.permute(0, 1, 4, 2, 3)


def test_decoding_an_encoded_vertebra_gives_its_keypoints_back(network: Detector) -> None:
    targets = _targets(network)
    keypoints, _ = _vertebrae()
    for b, output in enumerate(_answer(network, targets)):
        found = network.decode(output).best_above(0.5)
        distance = (found.keypoints[:, None] - keypoints[b, None, :3]).abs().amax(dim=(2, 3))
        assert float(distance.amin(dim=1).max()) < 1e-3
        assert set(distance.argmin(dim=1).tolist()) == {0, 1, 2}


def test_positives_are_exactly_the_cells_within_the_radius_of_a_centroid() -> None:
    for stride in (1, 2, 4):
        network = _free(stride, radius=6.0)
        objectness = _targets(network).objectness[:, 0]
        expected = torch.zeros_like(objectness)
        for b, points in enumerate(_vertebrae()[0]):
            for centroid in points[:3].mean(dim=1).double():
                for i, j in np.ndindex(*expected.shape[1:]):
                    row, column = i * stride + (stride - 1) / 2, j * stride + (stride - 1) / 2
                    if (row - centroid[0]) ** 2 + (column - centroid[1]) ** 2 < 36:
                        expected[b, i, j] = 1
        assert torch.equal(objectness, expected)


def _slow_iou(center: tuple[float, float], size: tuple[float, float], points: np.ndarray) -> float:
    (low, high) = points.min(axis=0), points.max(axis=0)
    sides = [min(high[k], center[k] + size[k] / 2) - max(low[k], center[k] - size[k] / 2) for k in (0, 1)]
    overlap = max(0.0, sides[0]) * max(0.0, sides[1])
    return float(overlap / (np.prod(high - low) + np.prod(size) - overlap))


def test_positive_boxes_are_exactly_those_that_overlap_a_vertebra_by_more_than_half() -> None:
    network = _based(4)
    keypoints, genant = _vertebrae(batch=1)
    targets = network.encode(keypoints, genant, 24, 16)
    sizes = anchor_sizes(SCALES, RATIOS).double().numpy()
    codes = iter(zip(targets.code, targets.genant, strict=True))
    for a, i, j in np.ndindex(16, 24, 16):
        center = (i * 4 + 1.5, j * 4 + 1.5)
        overlaps = [_slow_iou(center, sizes[a], points.double().numpy()) for points in keypoints[0, :3]]
        assert bool(targets.objectness[0, a, i, j]) == (max(overlaps) > 0.5)
        if max(overlaps) > 0.5:
            best = int(np.argmax(overlaps))
            code, g = next(codes)
            expected = (keypoints[0, best].double().numpy() - center) / sizes[a]
            assert np.allclose(code.numpy(), expected, atol=1e-5)
            assert g == genant[0, best]
    assert next(codes, None) is None


def test_anchor_boxes_have_the_scale_as_root_of_their_area_and_the_ratio_of_width_to_height() -> None:
    sizes = anchor_sizes(SCALES, RATIOS)
    assert sizes.shape == (16, 2)
    assert torch.allclose(sizes.prod(dim=1).sqrt(), torch.tensor(SCALES).repeat_interleave(4))
    assert torch.allclose(sizes[:, 1] / sizes[:, 0], torch.tensor(RATIOS).repeat(4))


def test_a_vertebra_that_no_box_reaches_claims_the_one_that_overlaps_it_most() -> None:
    flat = torch.tensor([[[-2, -30], [2, -30], [-2, 0], [2, 0], [-2, 30], [2, 30]]]) + torch.tensor([40.0, 32.0])
    claimed = _based().encode(flat[None], torch.tensor([[0.9]]), *SIZE)
    assert claimed.objectness.sum() == 1
    sizes = anchor_sizes(SCALES, RATIOS).numpy()
    best = max(_slow_iou((i, j), tuple(sizes[a]), flat[0].numpy()) for a, i, j in np.ndindex(16, *SIZE) if 30 < i < 50)
    a, i, j = claimed.objectness[0].nonzero()[0].tolist()
    assert _slow_iou((i, j), tuple(sizes[a]), flat[0].numpy()) == pytest.approx(best, rel=1e-5)
    assert _based(best_anchor=False).encode(flat[None], torch.tensor([[0.9]]), *SIZE).objectness.sum() == 0


def test_the_published_boxes_reach_typical_vertebrae() -> None:
    """Mean heights and depths of the public annotations from C7 to L3."""
    for height, depth in ((15, 14), (18.4, 17), (20.8, 24), (21.7, 27), (26.8, 28), (28, 29), (27.8, 30)):
        corners = [[-height / 2, -depth / 2], [height / 2, -depth / 2], [0, 0], [0, 0]]
        points = torch.tensor([*corners, [-height / 2, depth / 2], [height / 2, depth / 2]]) + 40
        network = _based(best_anchor=False)
        assert network.encode(points[None, None], torch.tensor([[0.9]]), 80, 80).objectness.sum() > 0, (height, depth)


def test_a_center_is_the_mean_index_of_the_pixels_of_its_cell() -> None:
    for stride in (1, 2, 4):
        centers = _free(stride).centers(3, 5, torch.device("cpu"))
        pixels = torch.arange(5 * stride, dtype=torch.float32).view(5, stride).mean(dim=1)
        assert torch.equal(centers[..., 0], pixels[:3, None].expand(3, 5))
        assert torch.equal(centers[..., 1], pixels.expand(3, 5))


def test_padding_changes_nothing(network: Detector) -> None:
    keypoints, genant = _vertebrae(padding=2)
    size = tuple(n // network.unet.output_stride for n in SIZE)
    alone = network.encode(keypoints[:, :3], genant[:, :3], *size)
    for padded in (
        network.encode(*_vertebrae(padding=4), *size),
        network.encode(keypoints.flip(1), genant.flip(1), *size),
    ):
        for with_padding, without in zip(padded, alone, strict=True):
            assert torch.equal(with_padding, without)


def test_a_slice_without_vertebra_has_no_positive_and_no_nan(network: Detector) -> None:
    targets = network.encode(torch.full((1, 3, 6, 2), torch.nan), torch.full((1, 3), torch.nan), 20, 16)
    assert targets.objectness.shape == (1, network.anchors, 20, 16)
    assert float(targets.objectness.sum()) == 0
    assert len(targets.code) == len(targets.genant) == 0


def test_each_positive_carries_the_genant_index_of_its_vertebra() -> None:
    targets = _targets(_free(), batch=1)
    keypoints, genant = _vertebrae(batch=1)
    owners = dict(zip(map(tuple, targets.objectness[0, 0].nonzero().tolist()), targets.genant.tolist(), strict=True))
    for n in range(3):
        row, column = keypoints[0, n].mean(dim=0).round().long().tolist()
        assert owners[row, column] == genant[0, n]


def test_the_network_has_an_output_for_every_anchor() -> None:
    assert _free(2)(torch.randn(2, 1, 33, 21)).shape == (2, 1, 13, 17, 11)
    assert _based(2)(torch.randn(2, 1, 33, 21)).shape == (2, 16, 13, 17, 11)


def test_best_above_sorts_and_cuts() -> None:
    scores = torch.tensor([0.2, 0.9, 0.5, 0.9])
    keypoints = torch.arange(4.0)[:, None, None].expand(4, 6, 2)
    candidates = Candidates(scores, keypoints, keypoints[:, 0], torch.zeros(4))
    assert candidates.best_above(0.5).keypoints[:, 0, 0].tolist() == [1.0, 3.0]
    assert candidates.best_above(0.1, most=3).keypoints[:, 0, 0].tolist() == [1.0, 3.0, 2.0]


def test_the_mean_of_equal_candidates_is_themselves(network: Detector) -> None:
    part = network.decode(torch.randn(network.anchors, 13, 6, 5))
    for mean, one in zip(mean_candidates([part, part, part]), part, strict=True):
        assert torch.allclose(mean, one, atol=1e-4)


def test_the_variance_of_candidates_is_that_of_their_keypoints_over_the_networks() -> None:
    network = _free()
    part = network.decode(torch.randn(1, 13, 6, 5))
    moved = part._replace(keypoints=part.keypoints + torch.tensor([6.0, 8.0]))
    mean = mean_candidates([part, moved])
    assert torch.allclose(mean.keypoints, part.keypoints + torch.tensor([3.0, 4.0]), atol=1e-4)
    assert torch.allclose(mean.variance, torch.tensor(25.0), atol=1e-3)


def _parts(network: Detector, output: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
    """Logits, and codes of the positive anchors, of an output (batch, anchors, 13, h, w)."""
    raw = output.permute(0, 1, 3, 4, 2)[targets.objectness > 0][:, 1:].reshape(-1, 6, 2)
    return output[:, :, 0], network.code(raw)


def test_logits_and_codes_of_chosen_anchors_are_those_of_the_whole_output(network: Detector) -> None:
    images = torch.randn(2, 1, *SIZE, generator=torch.Generator().manual_seed(3))
    targets, features = _targets(network), network.unet.features(images)
    logits, codes = _parts(network, network(images), targets)
    assert torch.allclose(network.objectness(features), logits, atol=1e-5)
    assert torch.allclose(network.codes(features, targets.objectness > 0), codes, atol=1e-4)


def _slow_loss(
    network: Detector, output: Tensor, targets: Targets, smallest: float, o_weight: float, h_weight: float
) -> float:
    """The loss as a loop over anchors, in double precision, from the papers' formulas."""
    entropy, errors, height_errors = [], [], []
    wanted = iter(zip(targets.code.double().numpy(), targets.genant.double().numpy(), strict=True))
    for b, a, i, j in np.ndindex(*targets.objectness.shape):
        values = output[b, a, :, i, j].double().numpy()
        p = 1 / (1 + np.exp(-values[0]))
        entropy.append(-np.log(p) if targets.objectness[b, a, i, j] else -np.log(1 - p))
        if targets.objectness[b, a, i, j]:
            code, g = next(wanted)
            said = values[1:].reshape(6, 2)
            if isinstance(network, AnchorFree):
                said = said * network.offset_scale_px + network.get_buffer("mean_offsets").double().numpy()
            errors.append(np.abs(said - code).mean() / max(g, smallest))
            differences = [
                abs(np.linalg.norm(said[k] - said[k + 1]) - np.linalg.norm(code[k] - code[k + 1])) for k in (0, 2, 4)
            ]
            height_errors.append(np.mean(differences) / max(g, smallest))
    return float(o_weight * np.mean(entropy) + np.mean(errors) + h_weight * np.mean(height_errors))


@pytest.mark.parametrize(("smallest", "o_weight", "h_weight"), [(0.2, 1.0, 0.0), (0.6, 20.0, 0.0), (0.2, 3.0, 0.5)])
def test_the_loss_equals_a_plain_loop(network: Detector, smallest: float, o_weight: float, h_weight: float) -> None:
    targets = _targets(network)
    shape = targets.objectness.shape
    output = torch.randn(shape[0], shape[1], 13, *shape[2:], generator=torch.Generator().manual_seed(1))
    loss, _ = detector_loss(
        *_parts(network, output, targets), targets,
        smallest_genant=smallest, objectness_weight=o_weight, height_weight=h_weight,
    )  # fmt: skip
    assert float(loss) == pytest.approx(_slow_loss(network, output, targets, smallest, o_weight, h_weight), rel=1e-5)


def test_perfect_answers_leave_no_keypoint_and_no_height_error(network: Detector) -> None:
    targets = _targets(network)
    said = _parts(network, _answer(network, targets), targets)
    _, parts = detector_loss(*said, targets, smallest_genant=0.2, height_weight=1.0)
    assert float(parts["code"]) < 1e-4
    assert float(parts["heights_px"]) < 1e-4


def test_without_a_positive_the_loss_is_the_cross_entropy_and_has_a_finite_gradient(network: Detector) -> None:
    targets = network.encode(torch.full((1, 1, 6, 2), torch.nan), torch.full((1, 1), torch.nan), 8, 8)
    output = torch.randn(1, network.anchors, 13, 8, 8, requires_grad=True)
    loss, parts = detector_loss(*_parts(network, output, targets), targets, smallest_genant=0.2, height_weight=1.0)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(parts["objectness"].detach()))
    assert output.grad is not None
    assert bool(torch.isfinite(output.grad).all())


def test_collapsed_heights_have_a_finite_gradient() -> None:
    """Untrained networks put both ends of a height at one place, where the norm has no derivative."""
    network = _free()
    network.learn_shape(torch.zeros(6, 2))
    targets = _targets(network, batch=1)
    output = torch.zeros(1, 1, 13, *SIZE, requires_grad=True)
    loss, _ = detector_loss(*_parts(network, output, targets), targets, smallest_genant=0.2, height_weight=1.0)
    loss.backward()
    assert output.grad is not None
    assert bool(torch.isfinite(output.grad).all())


def test_only_a_network_that_predicts_differences_learns_the_mean_shape() -> None:
    plain = AnchorFree(widths=(2, 3), output_stride=1, radius_px=5.0)
    plain.learn_shape(torch.ones(6, 2))
    assert not plain.get_buffer("mean_offsets").any()
    assert _free().get_buffer("mean_offsets").any()
