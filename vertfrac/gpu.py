"""One GPU of the machine for each process: a lock on a file, which the operating system gives back when it ends.

A lock file stands for a GPU, and any process of the same user that wants one goes by it, whoever started it. Nothing is
leased where somebody has chosen already: a cluster's job, or a caller that sets CUDA_VISIBLE_DEVICES to one device.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout

from vertfrac.errors import ConfigError

VISIBLE = "CUDA_VISIBLE_DEVICES"
JOB = "SLURM_JOB_ID"
SHARE = "VERTFRAC_JOBS_PER_GPU"

_held: list[FileLock] = []  # until the process ends: a lock that nothing refers to is given back


def lease(tell: Callable[[str], None], *, poll_seconds: float = 1.0) -> None:
    """Make a free GPU of the machine the only one that CUDA will see, and hold it until the process ends.

    To be called before CUDA starts. Where all GPUs are taken, ``tell`` is given one line and the process waits.
    The environment variable VERTFRAC_JOBS_PER_GPU says how many processes may hold one GPU, 1 by default; ConfigError
    if that is not a positive whole number. Does nothing where there is no GPU to choose.
    """
    devices = choices()
    if not devices:
        return
    share = os.environ.get(SHARE, "1")
    if not re.fullmatch(r"0*[1-9]\d*", share):
        raise ConfigError(f"{SHARE}: found {share!r}, expected how many jobs may share a GPU, 1 or more")
    places = [(device, _lock(device, place)) for place in range(int(share)) for device in devices]
    waits = False
    while True:
        for device, lock in places:
            try:
                lock.acquire(blocking=False)
            except Timeout:
                continue
            _held.append(lock)
            os.environ[VISIBLE] = device
            return
        if not waits:
            tell(f"all GPUs are taken ({', '.join(devices)}; {share} at a time on each): waiting for one")
            waits = True
        time.sleep(poll_seconds)


def choices() -> list[str]:
    """The GPUs among which to choose, as CUDA_VISIBLE_DEVICES names them; none where there is nothing to choose.

    These are the devices in CUDA_VISIBLE_DEVICES if it is set to several, as in an allocation of a cluster; otherwise
    all GPUs of the machine by number or, where GPUs are divided (MIG), their parts.
    """
    if (visible := os.environ.get(VISIBLE)) is not None:
        named = [name.strip() for name in visible.split(",") if name.strip()]
        return named if len(named) > 1 else []
    if JOB in os.environ:
        return []
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return re.findall(r"UUID: (MIG-[^)]+)\)", done.stdout) or re.findall(r"^GPU (\d+):", done.stdout, re.MULTILINE)


def _lock(device: str, place: int) -> FileLock:
    """The lock of a place on a device, whose number counts on this machine or in this allocation of a cluster."""
    folder = Path(tempfile.gettempdir(), f"vertfrac-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    name = "-".join([os.environ.get(JOB, "machine"), device, str(place)])
    return FileLock(folder / f"gpu-{re.sub(r'[^A-Za-z0-9-]', '_', name)}.lock")
