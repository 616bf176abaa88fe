"""The keywords that the configuration of a system means for the two stages of inference."""

from __future__ import annotations

from typing import Any

from vertfrac.config import Detector, DetectorInference, Localizer


def localize_options(settings: Localizer) -> dict[str, Any]:
    """Keywords of ``localize`` for a system's stage 1."""
    return {
        "edge_mm": settings.input.edge_mm,
        "scaling": settings.input.scaling,
        "window_hu": settings.input.window_hu,
        **settings.inference.model_dump(),
    }


def detect_options(settings: Detector, inference: DetectorInference) -> dict[str, Any]:
    """Keywords of ``detect`` for a system's stage 2, with the settings of inference stated apart."""
    return {
        "scaling": settings.input.scaling,
        "window_hu": settings.input.window_hu,
        "threshold": min(inference.score, inference.low_score),
        "nms": inference.nms,
        "nms_threshold": inference.nms_threshold,
        "average_mm": inference.average_mm,
    }
