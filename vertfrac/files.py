"""Writing files so that nothing half-written is ever seen, and reading tables so that what is missing is named."""

from __future__ import annotations

import errno
import json
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from vertfrac.errors import ConfigError, TableError


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that replaces it on success and is removed on any error.

    The temporary name keeps the endings (``.nii.gz``), which some writers go by. An OSError of the writer names
    ``path``, not the temporary name.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    suffix = "".join(target.suffixes[-2:])
    handle, name = tempfile.mkstemp(prefix=f"{_unfinished()}-", suffix=suffix, dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        with _named(temporary, target):
            yield temporary
            temporary.chmod(0o666 & ~_umask())
            os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path | str, *, marker: str | None = None) -> Iterator[Path]:
    """Yield a temporary folder beside ``path`` that takes its place on success and is removed on any error.

    What was there is put aside by one rename, never deleted in place, so that a kill leaves a whole folder or none. An
    OSError of the writer names ``path``, not the temporary name.

    marker : a file that every folder of this kind holds. Raises ConfigError, before anything is written, if ``path`` is
    a file or a folder that holds other things but not the marker: that is not ours to delete. None replaces any folder.
    """
    target = Path(path)
    empty = not target.exists() or (target.is_dir() and not any(target.iterdir()))
    if marker is not None and not empty and not (target / marker).is_file():
        raise ConfigError(f"{target}: exists and holds no {marker}, expected a new folder or an earlier result")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f"{_unfinished()}-", dir=target.parent))
    aside = temporary.with_name(f"{temporary.name}-old")
    try:
        with _named(temporary, target):
            yield temporary
            temporary.chmod(0o777 & ~_umask())
            if target.exists():
                os.rename(target, aside)
            os.rename(temporary, target)
    finally:
        if aside.exists() and not target.exists():
            os.rename(aside, target)
        _remove(temporary)
        _remove(aside)


def clear_unfinished(folder: Path | str) -> None:
    """Remove what killed processes of this machine have left half-written in a folder, by its temporary names."""
    ours = re.compile(re.escape(_unfinished().rpartition("-")[0]) + r"-(\d+)-")
    for path in Path(folder).glob(".writing-*"):
        if (found := ours.match(path.name)) and not _alive(int(found[1])):
            _remove(path)


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Hold a lock file until the block ends, when it is removed; the operating system gives back that of a killed one.

    Raises ConfigError at once if another process holds it. A file system without locks lets everybody in.
    """
    held = FileLock(lock)
    try:
        held.acquire(timeout=0)
    except Timeout as error:
        raise ConfigError(
            f"{lock.parent}: another process is writing its results here, expected to be alone"
        ) from error
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):
            raise
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        held.release()


@contextmanager
def _named(temporary: Path, target: Path) -> Iterator[None]:
    """Let an OSError that names the temporary path, something in it or nothing at all, name the target."""
    try:
        yield
    except OSError as error:
        if error.filename is not None and not str(error.filename).startswith(str(temporary)):
            raise
        number = error.errno or errno.EIO
        raise OSError(number, os.strerror(number) if error.errno else str(error), str(target)) from error


def _unfinished() -> str:
    """How the temporary names of this process begin: with its machine and its number."""
    return f".writing-{platform.node()}-{os.getpid()}"


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


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
    return int(digits) if len(digits) < 20 and abs(int(digits)) < 2**63 else float(digits)


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
