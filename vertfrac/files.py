"""Writing files so that nothing half-written is ever seen, and reading tables so that what is missing is named."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vertfrac.errors import ConfigError, TableError


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that replaces it on success and is removed on any error.

    The temporary name keeps the endings (``.nii.gz``), which some writers go by.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".writing-", suffix="".join(target.suffixes[-2:]), dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path | str, *, marker: str | None = None) -> Iterator[Path]:
    """Yield a temporary folder beside ``path`` that takes its place on success and is removed on any error.

    marker : a file that every folder of this kind holds. Raises ConfigError, before anything is written, if ``path`` is
    a file or a folder that holds other things but not the marker: that is not ours to delete. None replaces any folder.
    """
    target = Path(path)
    empty = not target.exists() or (target.is_dir() and not any(target.iterdir()))
    if marker is not None and not empty and not (target / marker).is_file():
        raise ConfigError(f"{target}: exists and holds no {marker}, expected a new folder or an earlier result")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".writing-", dir=target.parent))
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        if target.exists():
            shutil.rmtree(target)
        os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def walk(root: Path, refused: Callable[[OSError], object] | None = None) -> Iterator[tuple[Path, list[str], list[str]]]:
    """``os.walk`` in the order of names, links followed, but each folder once, even where links make a loop.

    refused : is given the error of a folder that cannot be listed; by default such a folder is passed over. What is
    taken out of the list of folders is not walked.
    """
    seen: set[str] = set()
    for folder, below, files in os.walk(root, followlinks=True, onerror=refused):
        real = os.path.realpath(folder)
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        below.sort()
        yield Path(folder), below, sorted(files)


def write_json(path: Path | str, value: Any) -> None:
    """Write JSON, two spaces deep, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, sort_keys=False, allow_nan=False) + "\n", encoding="utf-8")


_DEEPEST = 100


def read_json(path: Path | str) -> Any:
    """Read JSON; TableError names the file when it is missing, not JSON or nested more than 100 levels deep.

    An integer that no int64 holds is read as a float, since nothing that is read here is one.
    """
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"), parse_int=_integer)
    except OSError as error:
        raise TableError(f"{path}: cannot be read ({error.strerror}), expected a JSON file") from error
    except ValueError as error:
        raise TableError(f"{path}: not valid JSON ({error})") from error
    except RecursionError as error:
        raise TableError(f"{path}: JSON of too many levels, expected at most {_DEEPEST}") from error
    if _is_deep(value):
        raise TableError(f"{path}: JSON of too many levels, expected at most {_DEEPEST}")
    return value


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) < 19 else float(digits)


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(_DEEPEST + 1):
        level = [
            child
            for holder in level
            if isinstance(holder, dict | list)
            for child in (holder.values() if isinstance(holder, dict) else holder)
        ]
    return bool(level)
