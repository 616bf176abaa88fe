"""Named arrays with a description in one safetensors file: the cached volumes and slices that training reads."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vertfrac.errors import TableError
from vertfrac.files import replacing

Array = NDArray[Any]


def write_arrays(path: Path | str, arrays: Mapping[str, Array], description: Mapping[str, Any]) -> None:
    """Write arrays and a JSON description of them, atomically."""
    from safetensors.numpy import save_file

    with replacing(path) as temporary:
        save_file(
            {name: np.ascontiguousarray(array) for name, array in arrays.items()},
            str(temporary),
            metadata={"description": json.dumps(dict(description), allow_nan=False)},
        )


def read_description(path: Path | str) -> dict[str, Any]:
    """The JSON description of a file of arrays; TableError names the file if it is not one."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="numpy") as file:
            description = json.loads((file.metadata() or {})["description"])
    except (OSError, SafetensorError, KeyError, ValueError, RecursionError) as error:
        raise TableError(f"{path}: not a file of arrays written by vertfrac ({error})") from error
    if not isinstance(description, dict):
        raise TableError(f"{path}: description is no object, expected a file of arrays written by vertfrac")
    return description


def iterate_arrays(paths: Sequence[Path | str]) -> Iterator[tuple[str, Array, dict[str, Any]]]:
    """Name, array and the entry of ``description["cases"][name]`` of every array in the files, one at a time."""
    for name, array, _, entry in _iterate(paths, ""):
        yield name, array, entry


def iterate_pairs(
    paths: Sequence[Path | str], *, paired: bool = True
) -> Iterator[tuple[str, Array, Array | None, dict[str, Any]]]:
    """The same with the array that ``beside`` names, None where there is none or, unless ``paired``, none is wanted."""
    yield from _iterate(paths, _BESIDE if paired else "")


def beside(name: str) -> str:
    """The name of an array that belongs to another one."""
    return name + _BESIDE


_BESIDE = "#beside"


def _iterate(paths: Sequence[Path | str], second: str) -> Iterator[tuple[str, Array, Array | None, dict[str, Any]]]:
    from safetensors import safe_open

    for path in paths:
        cases = read_description(path).get("cases")
        if not isinstance(cases, dict):
            raise TableError(f"{path}: description without cases, expected a file of arrays written by vertfrac")
        with safe_open(str(path), framework="numpy") as file:
            names = set(file.keys())
            for name, entry in cases.items():
                if name not in names:
                    raise TableError(f"{path}: lacks the array {name}, which its description names")
                paired = file.get_tensor(name + second) if name + second in names else None
                yield name, file.get_tensor(name), paired, entry
