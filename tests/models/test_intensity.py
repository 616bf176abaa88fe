"""Laws of the intensity scaling: windows map to [0, 1], images of a batch do not see each other."""

from typing import Any

import pytest
import torch

from vertfrac.models.intensity import scale_intensity

WINDOW = (-200.0, 800.0)


def test_the_window_maps_to_zero_and_one_and_clips_beyond() -> None:
    hu = torch.tensor([[-3024, -200, 300, 800, 3071]], dtype=torch.int16)
    scaled = scale_intensity(hu, scaling="window", window_hu=WINDOW)
    assert torch.allclose(scaled, torch.tensor([[0.0, 0.0, 0.5, 1.0, 1.0]]))


def test_min_max_maps_each_image_s_own_range_to_zero_and_one() -> None:
    hu = torch.tensor([[-100, 0, 300], [-1024, 800, 3071]])
    scaled = scale_intensity(hu, scaling="min_max", window_hu=WINDOW)
    assert torch.allclose(scaled, torch.tensor([[0.0, 0.25, 1.0], [0.0, 1.0, 1.0]]))


def test_unit_variance_gives_each_image_zero_mean_and_unit_variance() -> None:
    torch.manual_seed(0)
    hu = torch.randn(3, 20, 30) * torch.tensor([10.0, 100.0, 50.0])[:, None, None] + 200
    scaled = scale_intensity(hu, scaling="unit_variance", window_hu=WINDOW)
    assert torch.allclose(scaled.mean(dim=(1, 2)), torch.zeros(3), atol=1e-4)
    assert torch.allclose(scaled.std(dim=(1, 2), correction=0), torch.ones(3), atol=1e-4)


@pytest.mark.parametrize("scaling", ["window", "min_max", "unit_variance"])
def test_an_image_is_scaled_alike_alone_and_in_a_batch(scaling: Any) -> None:
    torch.manual_seed(0)
    hu = torch.randint(-1024, 2000, (4, 6, 7, 5), dtype=torch.int16)
    together = scale_intensity(hu, scaling=scaling, window_hu=WINDOW)
    alone = [scale_intensity(one[None], scaling=scaling, window_hu=WINDOW) for one in hu]
    assert torch.allclose(together, torch.cat(alone), atol=1e-6)


def test_a_constant_image_stays_finite() -> None:
    scaled = scale_intensity(torch.full((1, 8, 8), 40), scaling="unit_variance", window_hu=WINDOW)
    assert torch.equal(scaled, torch.zeros(1, 8, 8))


@pytest.mark.parametrize("scaling", ["window", "min_max", "unit_variance"])
def test_the_result_is_float32_whatever_comes_in(scaling: Any) -> None:
    for dtype in (torch.int16, torch.float64, torch.float16):
        hu = torch.arange(12).view(1, 3, 4).to(dtype)
        assert scale_intensity(hu, scaling=scaling, window_hu=WINDOW).dtype == torch.float32
