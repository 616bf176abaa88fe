"""A run on a real Slurm of one node, whose two GPUs are stand-ins: one job is cancelled, the node is drained.

The daemons have a configuration, a key and ports of their own, so that a Slurm that is installed here is left alone.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from vertfrac import tables

ROOT = Path(__file__).parents[2]
PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/usr/bin"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol", "flock")
MISSING = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
if importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
    MISSING.append("snakemake-executor-plugin-slurm")

pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
    pytest.mark.skipif(os.getuid() != 0, reason="slurmd starts jobs as root only"),
]

SLURM_CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
MpiDefault=none
ReturnToService=2
KillWait=2
MinJobAge=3600
GresTypes=gpu
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=64000 Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
GRES_CONF = "NodeName={host} Name=gpu File=/dev/null\nNodeName={host} Name=gpu File=/dev/zero\n"

SCORES = [f"results/slurm/metrics/{system}/r0/metrics.parquet" for system in ("tiny", "boxes")]
"""The targets of the run."""

GPU_RULES = ("train_localizer", "train_detector", "curves", "detect")

VERTFRAC = """#!/bin/sh
# The real command. One that uses a GPU writes down which it was given, and fails if another command has it then.
case "$1" in
train-localizer | train-detector | curves | detect)
    echo "$SLURM_JOB_ID $1 ${{CUDA_VISIBLE_DEVICES:-none}}" >> {folder}/used
    exec flock --nonblock --conflict-exit-code 99 "{folder}/gpu-$CUDA_VISIBLE_DEVICES" {python} -m vertfrac "$@"
    ;;
esac
exec {python} -m vertfrac "$@"
"""


SRUN = """#!/bin/sh
# The plugin's step forgets where this Slurm's configuration is.
SLURM_CONF={folder}/slurm.conf exec {srun} "$@"
"""


def wait_until(happened: Callable[[], Any], seconds: float = 300) -> Any:
    """Wait for what happens, and return what it gives."""
    end = time.monotonic() + seconds
    while not (result := happened()):
        assert time.monotonic() < end, f"{happened} did not happen within {seconds} seconds"
        time.sleep(0.2)
    return result


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def processes_of(folder: Path) -> list[psutil.Process]:
    """All processes of the Slurm in a folder: daemons, jobs and clients by their environment, steps by their socket."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            sockets = [str(each.laddr) for each in process.net_connections("unix")]
            if process.environ().get("SLURM_CONF") == f"{folder}/slurm.conf" or any(
                path.startswith(f"{folder}/") for path in sockets
            ):
                found.append(process)
    return found


class Cluster:
    """A Slurm of one node. ``environment`` is what its clients, and all that they start, need."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.node = socket.gethostname().split(".")[0]
        self.conf = folder / "slurm.conf"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH", "CUDA"))},
            "SLURM_CONF": str(self.conf),
            "PATH": f"{folder / 'bin'}:{PATH}",
            "PYTHONPATH": str(ROOT),
        }

    def start(self) -> None:
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        self._program("vertfrac", VERTFRAC)
        self._program("srun", SRUN)
        ports = free_ports(2)
        self.conf.write_text(SLURM_CONF.format(host=self.node, ports=ports, folder=self.folder))
        (self.folder / "gres.conf").write_text(GRES_CONF.format(host=self.node))
        key = self.folder / "munge.key"
        key.touch(mode=0o400)
        key.write_bytes(secrets.token_bytes(128))
        files = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        self._daemon("munged", "-F", "--force", *(f"--{name}={self.folder}/munge.{end}" for name, end in files.items()))
        wait_until((self.folder / "munge.socket").exists)
        self._daemon("slurmctld", "-D")
        wait_until(lambda: "UP" in self.call("scontrol", "ping"))
        self._daemon("slurmd", "-D")
        wait_until(lambda: self.call("sinfo", "--noheader", "--format=%T").strip() == "idle")

    def _program(self, name: str, text: str) -> None:
        path = self.folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text.format(folder=self.folder, python=sys.executable, srun=shutil.which("srun", path=PATH)))
        path.chmod(0o755)

    def _daemon(self, *command: str) -> None:
        with (self.folder / f"{command[0]}.log").open("w") as log:
            subprocess.Popen(command, env=self.environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def call(self, *command: str) -> str:
        """What a client prints; empty if it fails, as all do until the daemons have started."""
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=30).stdout

    def used(self) -> list[tuple[str, str, str]]:
        """Job, command and devices of each command that used a GPU."""
        path = self.folder / "used"
        rows = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        return [(job, command, devices) for job, command, devices in rows]

    def jobs(self, command: str) -> list[str]:
        """The jobs that have started a command."""
        return [job for job, started, _ in self.used() if started == command]

    def stop(self) -> None:
        """End every process of this Slurm, the jobs first; none is left."""
        with contextlib.suppress(subprocess.SubprocessError):
            self.call("scancel", "--user=root")
        # A killed daemon may have started one more process meanwhile.
        deadline = time.monotonic() + 30
        while (found := processes_of(self.folder)) and time.monotonic() < deadline:
            for process in found:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            psutil.wait_procs(found, timeout=5)
        assert not processes_of(self.folder)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    slurm = Cluster(tmp_path)
    try:
        slurm.start()
        yield slurm
    finally:
        slurm.stop()


def snakemake(cluster: Cluster, *options: str) -> subprocess.Popen[str]:
    """Start a run of the checkout's workflow in the cluster's folder."""
    command = [
        sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(cluster.folder),
        "--configfile", str(cluster.folder / "config.yaml"), "--config", "shards=1", *options
    ]  # fmt: skip
    with (cluster.folder / "snakemake.log").open("w") as log:
        return subprocess.Popen(command, env=cluster.environment, cwd=ROOT, stdout=log, stderr=log, text=True)


def on_slurm(cluster: Cluster) -> subprocess.Popen[str]:
    """Start a run with the profile as it is shipped, but for what a test cluster lacks: accounting, time, real GPUs."""
    return snakemake(
        cluster, "--workflow-profile", "slurm", "--slurm-status-command", "squeue",
        "--slurm-init-seconds-before-status-checks", "1", "--seconds-between-status-checks", "1",
        "--latency-wait", "5", "--retries", "0",
        "--set-threads", *(f"{rule}=1" for rule in GPU_RULES),
        "--set-resources", *(f"{rule}:device=cpu" for rule in GPU_RULES),
        "--", *SCORES,
    )  # fmt: skip


def test_a_run_on_slurm_survives_a_cancelled_job_and_a_drained_node(cluster: Cluster) -> None:
    config = yaml.safe_load(Path(__file__).with_name("tiny.yaml").read_text())
    del config["transfer"]
    del config["systems"]["based"]
    config["name"] = "slurm"
    config["systems"]["boxes"] = {"base": "tiny", "detector": {"inference": {"nms": "box"}}}
    (cluster.folder / "config.yaml").write_text(yaml.safe_dump(config))
    said = cluster.folder / "snakemake.log"

    # What needs no GPU is made here first: each job on Slurm takes longer to be seen than to run.
    run = snakemake(cluster, "--cores", "2", "--until", "folds", "slices", "resample", "--", *SCORES)
    assert run.wait(timeout=600) == 0, said.read_text()
    assert not cluster.used()

    run = on_slurm(cluster)
    wait_until(lambda: cluster.jobs("train-detector") or run.poll() is not None)
    cancelled = next(iter(cluster.jobs("train-detector")), "none")
    cluster.call("scancel", cancelled)
    assert run.wait(timeout=600) == 1, said.read_text()
    assert cancelled in said.read_text()
    assert "rule ingest" not in said.read_text(), "what was made under another profile is not made again"

    cluster.call("scontrol", "update", f"NodeName={cluster.node}", "State=DRAIN", "Reason=test")
    before = cluster.used()
    run = on_slurm(cluster)
    wait_until(lambda: "DRAINED" in cluster.call("squeue", "--noheader", "--states=PENDING", "--format=%r"))
    assert cluster.used() == before
    cluster.call("scontrol", "update", f"NodeName={cluster.node}", "State=RESUME")
    assert run.wait(timeout=900) == 0, said.read_text()

    for path in SCORES:
        assert len(tables.read_table(cluster.folder / path, tables.METRICS)) > 0
    used = cluster.used()
    assert Counter(command for _, command, _ in used) == {
        "train-localizer": 2, "train-detector": 2 + 1, "curves": 2, "detect": 4
    }  # fmt: skip
    assert {devices for _, _, devices in used} == {"0", "1"}
    assert len({job for job, _, _ in used}) == len(used)
