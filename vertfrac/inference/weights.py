"""Trained networks as files, and a trained system as one folder that ``vertfrac predict`` takes by path.

Weights are safetensors: nothing is ever unpickled. A model folder holds ``model.json`` (the card: format, system with
all settings, training cohort's fingerprint, scores, files with their SHA-256) and one localizer and one detector per
fold, whose predictions are averaged.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from vertfrac import __version__
from vertfrac.cohorts.levels import NAMED
from vertfrac.config import NAME, DetectorNetwork, LocalizerNetwork, System, parse
from vertfrac.errors import ConfigError, ModelError
from vertfrac.files import replacing, replacing_folder, write_json
from vertfrac.geometry.context import COLUMNS, CORONAL, SAGITTAL
from vertfrac.inference.card import CARD, FORMAT, read_card
from vertfrac.models.anchor_based import AnchorBased
from vertfrac.models.anchor_free import AnchorFree
from vertfrac.models.detector import Detector
from vertfrac.models.device import fold_batch_norm, on_device
from vertfrac.models.localizer import Localizer

SPACING_MM = (0.1, 10.0)
"""Between which the pixels of a model's slices may be large; beyond it no slice is a picture of vertebrae."""

N = TypeVar("N", bound=nn.Module)

CONTEXT = {"coronal": CORONAL, "sagittal": SAGITTAL, "columns": COLUMNS, "classes": len(NAMED)}
"""The views that vertebrae are named by, and the number of names."""


def save_weights(path: Path, network: nn.Module, *, kind: str, settings: Mapping[str, Any]) -> None:
    """Write a network's weights and the settings that rebuild it, atomically; the same weights as the same bytes."""
    from safetensors.torch import save

    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    metadata = {"kind": kind, "format": str(FORMAT), "settings": json.dumps(dict(settings), sort_keys=True)}
    with replacing(path) as temporary:
        temporary.write_bytes(_in_order(save(tensors, metadata)))


def _in_order(content: bytes) -> bytes:
    """A file of safetensors with the keys of its metadata sorted, which are in another order each time."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text = text.ljust(-len(text) // 8 * -8)  # tensors begin at a multiple of 8 bytes
    return len(text).to_bytes(8, "little") + text + content[end:]


def _loaded(path: Path, kind: str, build: Callable[[], N]) -> N:
    """The network that ``build`` makes, with the weights of a file, for evaluation (``fold_batch_norm``).

    Nothing is allocated for the network before names, shapes and types of all its tensors are those in the file.
    """
    from safetensors import SafetensorError

    try:
        with torch.device("meta"):
            expected = build().state_dict()
        weights = _read_weights(path, kind, expected)
    except (OSError, SafetensorError, RuntimeError, ValueError, TypeError, ArithmeticError) as error:
        raise ModelError(f"{path}: weights do not fit ({' '.join(str(error).split())[:200]})") from error
    network = build()
    network.load_state_dict(weights)
    for name, tensor in fold_batch_norm(network).state_dict().items():
        if not bool(torch.isfinite(tensor).all()):
            raise ModelError(f"{path}: the batch norm of {name} gives no finite numbers, expected variances above 0")
    return network


def _read_weights(path: Path, kind: str, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    from safetensors import safe_open

    with safe_open(str(path), framework="pt") as file:
        about = file.metadata() or {}
        if about.get("kind") != kind:
            raise ModelError(f"{path}: holds weights of kind {about.get('kind')}, expected {kind}")
        if about.get("format") != str(FORMAT):
            raise ModelError(f"{path}: weights of format {about.get('format')}, expected {FORMAT}")
        if odd := sorted(set(file.keys()) ^ set(expected)):
            raise ModelError(f"{path}: {odd[0]} is in the file or in the network alone, expected the same tensors")
        for name, tensor in expected.items():
            shape = tuple(file.get_slice(name).get_shape())
            if shape != tuple(tensor.shape):
                raise ModelError(f"{path}: {name} has the shape {shape}, expected {tuple(tensor.shape)}")
        weights: dict[str, Tensor] = {name: file.get_tensor(name) for name in expected}
    for name, tensor in weights.items():
        if tensor.dtype != expected[name].dtype:
            raise ModelError(f"{path}: {name} is of type {tensor.dtype}, expected {expected[name].dtype}")
        if not bool(torch.isfinite(tensor).all()):
            raise ModelError(f"{path}: {name} holds NaN or infinity, expected finite numbers")
    return weights


def build_localizer(settings: LocalizerNetwork, seed: int | None = None) -> Localizer:
    """An untrained localizer, its weights drawn from the seed."""
    if seed is not None:
        torch.manual_seed(seed)
    return Localizer(**settings.model_dump())


def build_detector(settings: DetectorNetwork, spacing_mm: float, seed: int | None = None) -> Detector:
    """An untrained detector, its weights drawn from the seed."""
    if seed is not None:
        torch.manual_seed(seed)
    if settings.kind == "anchor_based":
        return AnchorBased(
            widths=settings.widths,
            output_stride=settings.output_stride,
            skip=settings.skip,
            scales_px=[scale / spacing_mm for scale in settings.scales_mm],
            ratios=settings.ratios,
            positive_iou=settings.positive_iou,
            best_anchor=settings.best_anchor,
        )
    return AnchorFree(
        widths=settings.widths,
        output_stride=settings.output_stride,
        skip=settings.skip,
        radius_px=settings.radius_mm / spacing_mm,
        offset_scale_px=settings.offset_scale_px,
        mean_offsets=settings.mean_offsets,
        context=CONTEXT if settings.levels else None,
    )


def load_localizer(path: Path, settings: LocalizerNetwork, device: torch.device) -> Localizer:
    """A trained localizer in evaluation mode; ModelError names the file if it does not fit the settings."""
    network = _loaded(path, "localizer", lambda: build_localizer(settings))
    return on_device(network, device, torch.channels_last_3d)


def load_detector(path: Path, settings: DetectorNetwork, spacing_mm: float, device: torch.device) -> Detector:
    """A trained detector in evaluation mode; ModelError names the file if it does not fit the settings."""
    network = _loaded(path, "detector", lambda: build_detector(settings, spacing_mm))
    return on_device(network, device, torch.channels_last)


@dataclass(frozen=True, eq=False)
class Model:
    """A trained system, ready to measure scans."""

    name: str
    system: System
    slice_spacing_mm: float
    localizers: tuple[Localizer, ...]
    detectors: tuple[Detector, ...]
    device: torch.device
    card: dict[str, Any]


def assemble(
    name: str,
    system: System,
    slice_spacing_mm: float,
    localizers: Sequence[Path],
    detectors: Sequence[Path],
    device: torch.device,
    card: dict[str, Any] | None = None,
) -> Model:
    """A model of trained weights, one file of each stage per fold; ModelError names a file that does not fit."""
    return Model(
        name,
        system,
        slice_spacing_mm,
        tuple(load_localizer(path, system.localizer.network, device) for path in localizers),
        tuple(load_detector(path, system.detector.network, slice_spacing_mm, device) for path in detectors),
        device,
        card or {},
    )


def export_model(
    out: Path,
    *,
    name: str,
    system: System,
    slice_spacing_mm: float,
    localizers: Sequence[Path],
    detectors: Sequence[Path],
    cohort: Mapping[str, Any],
    scores: Sequence[Mapping[str, Any]],
) -> None:
    """Gather trained weights and the card into a model folder, atomically."""
    with replacing_folder(out, marker=CARD) as folder:
        files: dict[str, list[dict[str, str]]] = {}
        for kind, paths in (("localizers", localizers), ("detectors", detectors)):
            files[kind] = []
            for number, path in enumerate(paths):
                target = folder / f"{kind[:-1]}-{number}.safetensors"
                shutil.copyfile(path, target)
                files[kind].append({"file": target.name, "sha256": _sha256(target)})
        card = {
            "format": FORMAT,
            "vertfrac": __version__,
            "name": name,
            "intended_use": "Research on vertebral compression fractures in CT. Not a medical device.",
            "system": system.model_dump(mode="json"),
            "slice_spacing_mm": slice_spacing_mm,
            "cohort": dict(cohort),
            "scores": list(scores),
            **files,
        }
        write_json(folder / CARD, card)


def load_model(folder: Path, device: torch.device) -> Model:
    """Read a model folder; ModelError says what is missing, changed or of another version."""
    card, card_path = read_card(folder), folder / CARD
    try:
        system = parse(System, card["system"], str(card_path))
        spacing = float(card["slice_spacing_mm"])
        listed = {
            kind: [(_inside(folder, entry["file"]), entry["sha256"]) for entry in card[kind]]
            for kind in ("localizers", "detectors")
        }
        name = str(card["name"])
    except ConfigError as error:
        raise ModelError(str(error)) from error
    except KeyError as error:
        raise ModelError(f"{card_path}: entry {error} is missing") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"{card_path}: entry missing or of the wrong type ({error})") from error
    if not re.fullmatch(NAME, name):
        raise ModelError(f"{card_path}: name is {name[:80]!r}, expected letters, digits, '.', '_' and '-'")
    if not SPACING_MM[0] <= spacing <= SPACING_MM[1]:
        raise ModelError(f"{card_path}: slice_spacing_mm is {spacing:g}, expected {' to '.join(map(str, SPACING_MM))}")
    paths = [path for entries in listed.values() for path, _ in entries]
    if len(set(paths)) < len(paths):
        raise ModelError(f"{card_path}: lists {max(paths, key=paths.count).name} twice, expected each file once")
    for kind, entries in listed.items():
        if not entries:
            raise ModelError(f"{card_path}: lists no {kind}, expected at least one")
        for path, digest in entries:
            if not path.is_file():
                raise ModelError(f"{path}: missing, expected the weights that model.json lists")
            if _sha256(path) != digest:
                raise ModelError(f"{path}: differs from what model.json promises (SHA-256), expected it unchanged")
    localizers, detectors = ([path for path, _ in listed[kind]] for kind in ("localizers", "detectors"))
    return assemble(name, system, spacing, localizers, detectors, device, card)


def _inside(folder: Path, file: str) -> Path:
    """A file that a card lists, which lies in its folder and nowhere else."""
    if not re.fullmatch(NAME, file) or not file.strip("."):
        raise ModelError(f"{folder / CARD}: lists the file {file[:80]!r}, expected the name of one in this folder")
    return folder / file


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
