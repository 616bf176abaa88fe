"""The lease of GPUs, by real processes on a machine whose GPUs are what a stand-in for nvidia-smi lists."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from vertfrac import gpu

ROOT = Path(__file__).parents[1]
TWO = "GPU 0: NVIDIA A (UUID: GPU-aa-0)\nGPU 1: NVIDIA A (UUID: GPU-bb-1)\n"
DIVIDED = """GPU 0: NVIDIA A (UUID: GPU-aa-0)
  MIG 3g.20gb Device 0: (UUID: MIG-cc-2)
  MIG 3g.20gb Device 1: (UUID: MIG-dd-3)
"""

WORK = """
import os, sys, time
from pathlib import Path
from vertfrac.gpu import lease
lease(lambda line: print(line, file=sys.stderr), poll_seconds=0.02)
device = os.environ.get("CUDA_VISIBLE_DEVICES", "none")
mark = Path(sys.argv[1], f"on-{device}-{os.getpid()}")
mark.touch()
time.sleep(0.2)
while not Path(sys.argv[1], "go").exists():
    time.sleep(0.02)
print(device, len(list(mark.parent.glob(f"on-{device}-*"))))
mark.unlink()
"""
"""Leases a GPU, uses it until the file "go" is there, and prints which it was and how many processes used it then."""

Machine = Callable[..., dict[str, str]]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Make a machine with the GPUs that nvidia-smi would list; returns and sets its environment."""

    def make(listed: str | None = TWO, **variables: str) -> dict[str, str]:
        program = tmp_path / "bin" / "nvidia-smi"
        program.parent.mkdir()
        if listed is not None:
            (tmp_path / "listed").write_text(listed)
            program.write_text(f'#!/bin/sh\n[ "$1" = -L ] && cat {tmp_path / "listed"}\n')
            program.chmod(0o755)
        for name in (gpu.VISIBLE, gpu.JOB, gpu.SHARE):
            monkeypatch.delenv(name, raising=False)
        changes = {"PATH": f"{program.parent}:/usr/bin:/bin", "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
        for name, value in {**changes, **variables}.items():
            monkeypatch.setenv(name, value)
        return dict(os.environ)

    return make


def start(folder: Path, environment: dict[str, str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WORK, str(folder)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> tuple[str, int, str]:
    """The device that a process had, how many used it then, and what was said."""
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    device, users = out.split()
    return device, int(users), err


def wait_until(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < end, "it did not happen within 30 seconds"
        time.sleep(0.02)


def users(folder: Path) -> Counter[str]:
    """How many processes use each device."""
    return Counter(mark.name.split("-")[1] for mark in folder.glob("on-*"))


def test_processes_that_compete_for_two_gpus_never_share_one(tmp_path: Path, machine: Machine) -> None:
    environment = machine()
    (tmp_path / "go").touch()
    results = [finish(process) for process in [start(tmp_path, environment) for _ in range(6)]]
    assert [together for _, together, _ in results] == [1] * 6
    assert {device for device, _, _ in results} == {"0", "1"}


def test_a_killed_process_gives_its_gpu_back(tmp_path: Path, machine: Machine) -> None:
    environment = machine()
    processes = [start(tmp_path, environment) for _ in range(2)]
    try:
        wait_until(lambda: users(tmp_path) == {"0": 1, "1": 1})
        (mark,) = tmp_path.glob(f"on-*-{processes[0].pid}")
        processes.append(start(tmp_path, environment))
        assert processes[2].stderr is not None
        assert processes[2].stderr.readline().startswith("all GPUs are taken (0, 1; 1 at a time on each)")
        processes[0].kill()
        mark.unlink()
        wait_until(lambda: users(tmp_path) == {"0": 1, "1": 1})
        (tmp_path / "go").touch()
        assert finish(processes[2]) == (mark.name.split("-")[1], 1, "")
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_as_many_processes_share_a_gpu_as_were_allowed(tmp_path: Path, machine: Machine) -> None:
    environment = machine(VERTFRAC_JOBS_PER_GPU="2")
    processes = [start(tmp_path, environment) for _ in range(5)]
    wait_until(lambda: users(tmp_path).total() == 4)
    assert users(tmp_path) == {"0": 2, "1": 2}
    (tmp_path / "go").touch()
    assert max(together for _, together, _ in map(finish, processes)) == 2


@pytest.mark.parametrize("share", ["0", "-1", "1.5", "many", ""])
def test_an_impossible_share_is_named(machine: Machine, share: str) -> None:
    machine(VERTFRAC_JOBS_PER_GPU=share)
    with pytest.raises(gpu.ConfigError, match=f"VERTFRAC_JOBS_PER_GPU: found '{share}'"):
        gpu.lease(print)
    assert gpu.VISIBLE not in os.environ


@pytest.mark.parametrize(
    ("listed", "variables", "expected"),
    [
        (TWO, {}, ["0", "1"]),
        (DIVIDED, {}, ["MIG-cc-2", "MIG-dd-3"]),
        ("No devices found.\n", {}, []),
        (None, {}, []),
        (TWO, {gpu.VISIBLE: "1"}, []),
        (TWO, {gpu.VISIBLE: ""}, []),
        (TWO, {gpu.VISIBLE: "0, GPU-bb-1"}, ["0", "GPU-bb-1"]),
        (TWO, {gpu.JOB: "17"}, []),
        (TWO, {gpu.JOB: "17", gpu.VISIBLE: "1"}, []),
        (TWO, {gpu.JOB: "17", gpu.VISIBLE: "0,1"}, ["0", "1"]),
    ],
)
def test_the_choice_is_among_what_nobody_chose_before(
    machine: Machine, listed: str | None, variables: dict[str, str], expected: list[str]
) -> None:
    machine(listed, **variables)
    assert gpu.choices() == expected


def test_where_there_is_nothing_to_choose_nothing_is_changed(tmp_path: Path, machine: Machine) -> None:
    environment = machine(None)
    (tmp_path / "go").touch()
    assert finish(start(tmp_path, environment)) == ("none", 1, "")
    assert finish(start(tmp_path, environment | {gpu.VISIBLE: "5"})) == ("5", 1, "")
    assert not list(tmp_path.rglob("*.lock"))


def test_numbers_in_two_jobs_of_a_cluster_are_different_devices(tmp_path: Path, machine: Machine) -> None:
    environment = machine(CUDA_VISIBLE_DEVICES="0,1")
    processes = [start(tmp_path, environment | {gpu.JOB: job}) for job in ("17", "18")]
    wait_until(lambda: users(tmp_path) == {"0": 2})
    (tmp_path / "go").touch()
    assert [finish(process)[0] for process in processes] == ["0", "0"]
