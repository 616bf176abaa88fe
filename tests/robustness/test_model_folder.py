"""What a model folder must not do, whoever made it: run code, reach out of itself, take memory, answer with NaN."""

from __future__ import annotations

import hashlib
import json
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from vertfrac.errors import ModelError
from vertfrac.inference.weights import load_model

CPU = torch.device("cpu")
Change = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory, make_model: Callable[..., Path]) -> Path:
    return make_model(tmp_path_factory.mktemp("sound") / "model")


@pytest.fixture
def model(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "model"))


def card(folder: Path, change: Change) -> None:
    path = folder / "model.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def promise(folder: Path) -> None:
    """Have the card promise the weights that are there."""

    def change(content: dict[str, Any]) -> None:
        for entry in (*content["localizers"], *content["detectors"]):
            entry["sha256"] = hashlib.sha256((folder / entry["file"]).read_bytes()).hexdigest()

    card(folder, change)


def weights(folder: Path, change: Change, name: str = "localizer-0.safetensors", **about: str | None) -> None:
    path = folder / name
    tensors = load_file(str(path))
    with safe_open(str(path), framework="pt") as file:
        metadata = {**file.metadata(), **about}
    change(tensors)
    save_file(tensors, str(path), metadata={key: value for key, value in metadata.items() if value is not None})
    promise(folder)


def a_float(tensors: dict[str, Any]) -> str:
    return next(name for name, tensor in tensors.items() if tensor.is_floating_point() and tensor.numel())


def refused(folder: Path, words: str) -> None:
    with pytest.raises(ModelError, match=words) as caught:
        load_model(folder, CPU)
    assert str(folder) in str(caught.value)


# --- weights


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["localizer-0.safetensors", "detector-0.safetensors"])
def test_weights_that_are_not_finite_are_refused(value: float, name: str, model: Path) -> None:
    def change(tensors: dict[str, Any]) -> None:
        tensors[a_float(tensors)].view(-1)[0] = value

    weights(model, change, name)
    refused(model, f"{name}: .* holds NaN or infinity")


@pytest.mark.parametrize("name", ["localizer-0.safetensors", "detector-0.safetensors"])
def test_a_batch_norm_of_negative_variance_is_refused(name: str, model: Path) -> None:
    def change(tensors: dict[str, Any]) -> None:
        next(tensor for key, tensor in tensors.items() if key.endswith("running_var"))[0] = -1.0

    weights(model, change, name)
    refused(model, f"{name}: the batch norm of .* gives no finite numbers")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int32])
def test_weights_of_another_type_are_refused(dtype: torch.dtype, model: Path) -> None:
    def change(tensors: dict[str, Any]) -> None:
        name = a_float(tensors)
        tensors[name] = tensors[name].to(dtype)

    weights(model, change)
    refused(model, "is of type .*, expected torch.float32")


def test_weights_of_another_shape_are_refused(model: Path) -> None:
    def change(tensors: dict[str, Any]) -> None:
        name = next(iter(tensors))
        tensors[name] = tensors[name][None]

    weights(model, change)
    refused(model, "has the shape")


def test_a_tensor_too_many_or_too_few_is_refused(model: Path, sound: Path) -> None:
    weights(model, lambda tensors: tensors.pop(next(iter(tensors))))
    refused(model, "in the file or in the network alone")
    shutil.copytree(sound, model, dirs_exist_ok=True)
    weights(model, lambda tensors: tensors.update(other=torch.zeros(1)))
    refused(model, "other is in the file or in the network alone")


@pytest.mark.parametrize("version", ["2", "", None])
def test_weights_of_another_version_are_refused(version: str | None, model: Path) -> None:
    weights(model, lambda tensors: None, format=version)
    refused(model, r"localizer-0\.safetensors: weights of format")


def test_weights_of_another_program_are_refused(model: Path) -> None:
    weights(model, lambda tensors: None, kind=None)
    refused(model, r"localizer-0\.safetensors: holds weights of kind None")


# --- cards


@pytest.mark.parametrize(
    "file", ["../model/localizer-0.safetensors", "/etc/passwd", "sub/x", "..", ".", "", "a\\..\\b", "x\0y", "~", "a b"]
)
def test_a_file_outside_of_the_folder_is_refused(file: str, model: Path) -> None:
    card(model, lambda content: content["localizers"][0].update(file=file))
    refused(model, "expected the name of one in this folder")


def test_a_file_that_is_listed_twice_is_refused(model: Path) -> None:
    card(model, lambda content: content["localizers"].extend(content["localizers"]))
    refused(model, "twice, expected each file once")


@pytest.mark.parametrize("found", [2, "1", None, [], 0])
def test_a_card_of_another_format_is_refused(found: Any, model: Path) -> None:
    card(model, lambda content: content.update(format=found, vertfrac="9.9"))
    refused(model, r"model\.json: model format .*, expected 1; it was written by vertfrac 9\.9")


@pytest.mark.parametrize("spacing", [0, -1, 1e-9, 1e9, float("nan"), float("inf"), "x", None, []])
def test_slices_of_impossible_pixels_are_refused(spacing: Any, model: Path) -> None:
    card(model, lambda content: content.update(slice_spacing_mm=spacing))
    refused(model, r"model\.json")


@pytest.mark.parametrize("name", ["", "a/b", "../x", "\x1b[2J", "x\n", [1]])
def test_a_name_that_no_folder_can_have_is_refused(name: Any, model: Path) -> None:
    card(model, lambda content: content.update(name=name))
    refused(model, r"model\.json: name is")


@pytest.mark.parametrize("key", ["system", "slice_spacing_mm", "localizers", "detectors", "name"])
def test_a_card_that_lacks_an_entry_says_which(key: str, model: Path) -> None:
    card(model, lambda content: content.pop(key))
    refused(model, f"model.json: entry '{key}' is missing")


@pytest.mark.parametrize("entry", [None, 1, [], {}, {"file": 1, "sha256": 2}, {"file": "localizer-0.safetensors"}, "x"])
def test_an_entry_of_another_form_is_refused(entry: Any, model: Path) -> None:
    card(model, lambda content: content.update(localizers=[entry]))
    refused(model, r"model\.json")


@pytest.mark.parametrize("widths", [[30_000, 30_000], [10**9, 10**9], [10**30, 2], [2] * 20])
def test_a_small_card_takes_no_memory(widths: list[int], model: Path) -> None:
    """A network of such widths would take GBs, and is refused before it is made."""
    card(model, lambda content: content["system"]["localizer"]["network"].update(widths=widths))
    tracemalloc.start()
    try:
        refused(model, r"localizer-0\.safetensors|model\.json")
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("localizer", "input", "spacing_mm"), [1e-6, 1, 1]),
        (("localizer", "input", "edge_mm"), 1e12),
        (("localizer", "input", "window_hu"), [0, float("inf")]),
        (("detector", "straighten", "width_mm"), 1e12),
        (("detector", "straighten", "extend_mm"), 1e12),
        (("localizer", "inference", "extend_mm"), 1e12),
        (("detector", "inference", "partial_margin_mm"), float("nan")),
    ],
)
def test_settings_that_would_take_all_memory_or_mean_nothing_are_refused(
    path: tuple[str, ...], value: Any, model: Path
) -> None:
    def change(content: dict[str, Any]) -> None:
        section = content["system"]
        for key in path[:-1]:
            section = section[key]
        section[path[-1]] = value

    card(model, change)
    refused(model, rf"model\.json: .*{path[-1]}")


@pytest.mark.parametrize("name", ["model.json", "localizer-0.safetensors", "detector-0.safetensors"])
def test_an_incomplete_folder_is_refused(name: str, model: Path) -> None:
    (model / name).unlink()
    refused(model, name)


def test_a_folder_of_another_program_is_refused(tmp_path: Path) -> None:
    (tmp_path / "metadata.json").write_text("{}")
    (tmp_path / "model.pt").write_bytes(b"PK")
    refused(tmp_path, r"not a model folder, expected a model\.json in it")


def test_a_link_to_other_weights_is_refused(model: Path, tmp_path: Path) -> None:
    """What lies behind a link is refused like any other content that the card does not promise."""
    (tmp_path / "other").write_bytes(b"x" * 100)
    (model / "localizer-0.safetensors").unlink()
    (model / "localizer-0.safetensors").symlink_to(tmp_path / "other")
    refused(model, "differs from what model.json promises")


def test_a_sound_folder_is_taken(model: Path) -> None:
    assert load_model(model, CPU).name == "tiny"


def test_the_model_that_comes_with_vertfrac_is_taken() -> None:
    from vertfrac.inference.card import PRETRAINED

    assert len(load_model(PRETRAINED, CPU).detectors) == 2
