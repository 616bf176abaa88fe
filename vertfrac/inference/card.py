"""The card of a model folder, ``model.json``: read without torch, and the digest that tells models apart."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from vertfrac.errors import ModelError, TableError
from vertfrac.files import read_json

CARD = "model.json"
FORMAT = 1
PRETRAINED = Path(__file__).parent.parent / "pretrained"
"""The model folder that comes with vertfrac."""

_DECISIVE = ("name", "system", "slice_spacing_mm", "localizers", "detectors")


def read_card(folder: Path) -> dict[str, Any]:
    """The card of a model folder; ModelError where there is none or it is of another version."""
    path = folder / CARD
    if not path.is_file():
        raise ModelError(f"{folder}: not a model folder, expected a {CARD} in it")
    try:
        card = read_json(path)
    except TableError as error:
        raise ModelError(str(error)) from error
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        found = card.get("format") if isinstance(card, dict) else type(card).__name__
        newer = f"; it was written by vertfrac {card.get('vertfrac')}" if isinstance(card, dict) else ""
        raise ModelError(f"{path}: model format {found!r}, expected {FORMAT}{newer}")
    return card


def model_digest(folder: Path) -> str:
    """Hash of what decides a model's answers, 12 digits: its settings and the SHA-256 of its weights, not its scores.

    Raises ModelError as `read_card` does.
    """
    return card_digest(read_card(folder))


def card_digest(card: dict[str, Any]) -> str:
    """The same of a card."""
    text = json.dumps({key: card.get(key) for key in _DECISIVE}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
