"""Laws of the level head: rows are looked up where they are, evidence is a likelihood, unknown levels teach nothing."""

from __future__ import annotations

import pytest
import torch

from vertfrac.models.anchor_free import AnchorFree
from vertfrac.models.levels import STRIDE, LevelHead, level_loss

SIZES = {"coronal": 4, "sagittal": 2, "columns": 16, "classes": 5}


@pytest.fixture
def head() -> LevelHead:
    torch.manual_seed(0)
    return LevelHead(features=3, **SIZES).eval()


def test_the_logits_of_a_row_are_interpolated(head: LevelHead) -> None:
    rows = torch.randn(2, 5, 10)
    cells = torch.zeros(4, 3)
    base = head.at_cell(cells)[0]
    place = torch.tensor([3, 4]) * STRIDE + (STRIDE - 1) / 2
    found = head(cells, rows, torch.tensor([1, 1, 0, 1]), torch.tensor([place[0], place.mean(), -50.0, 500.0]))
    assert torch.allclose(found[0], base + rows[1, :, 3])
    assert torch.allclose(found[1], base + (rows[1, :, 3] + rows[1, :, 4]) / 2, atol=1e-6)
    assert torch.allclose(found[2], base + rows[0, :, 0])
    assert torch.allclose(found[3], base + rows[1, :, 9])


@pytest.mark.parametrize("rows", [1, 2, 7, 30])
def test_any_number_of_rows_is_seen(head: LevelHead, rows: int) -> None:
    said = head.rows(torch.zeros(2, 6, rows, 16))
    assert said.shape == (2, 5, -(-rows // STRIDE))
    assert torch.isfinite(head(torch.zeros(1, 3), said, torch.tensor([1]), torch.tensor([0.3]))).all()


def test_air_below_a_scan_changes_little_far_above(head: LevelHead) -> None:
    """Contexts of one batch are padded to the same length: what is beyond the reach of the head stays."""
    context = torch.rand(1, 6, 200, 16)
    longer = torch.cat([context, -torch.ones(1, 6, 40, 16)], dim=2)
    near = head.rows(context)[:, :, :20]
    assert torch.allclose(near, head.rows(longer)[:, :, :20], atol=1e-5)


def test_evidence_is_the_posterior_over_the_share_in_training(head: LevelHead) -> None:
    assert not head.trained
    head.learn_shares(torch.tensor([9.0, 4.0, 0.0, 1.0, 1.0]))
    assert head.trained
    logits = torch.randn(6, 5)
    shares = torch.tensor([9.0, 4.0, 0.0, 1.0, 1.0]) / 30 + 0.1
    assert torch.allclose(head.evidence(logits).exp() * shares, logits.softmax(dim=1), atol=1e-6)


def test_without_a_known_level_there_is_no_loss(head: LevelHead) -> None:
    logits = torch.randn(0, 5, requires_grad=True)
    assert float(level_loss(logits, torch.zeros(0, dtype=torch.int64)).detach()) == 0.0
    said = torch.randn(3, 5)
    expected = -said.log_softmax(dim=1)[torch.arange(3), torch.tensor([0, 4, 2])].mean()
    assert torch.isclose(level_loss(said, torch.tensor([0, 4, 2])), expected)


def test_positive_cells_are_those_near_a_point() -> None:
    network = AnchorFree(widths=(2, 3), output_stride=2, radius_px=5.0, context=SIZES)
    assert network.levels is not None
    points = torch.tensor([[[20.0, 31.0], [60.0, 31.0], [torch.nan, torch.nan]]])
    sample, which, row, column = network.near(points, 40, 32)
    at = network.centers(40, 32, torch.device("cpu"))[row, column]
    assert (at - points[sample, which]).norm(dim=1).max() < 5
    assert torch.bincount(which, minlength=3)[2] == 0
    centers = network.centers(40, 32, torch.device("cpu"))
    expected = sum(int(((centers - point).norm(dim=-1) < 5).sum()) for point in points[0, :2])
    assert len(which) == expected
