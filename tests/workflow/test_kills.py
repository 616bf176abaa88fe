"""A run that is killed again and again ends like one that was left alone.

VERTFRAC_KILLS says how often it is killed, 10 at most.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import pandas as pd
import psutil
import yaml
from safetensors import safe_open

from vertfrac.status import TRAINING, read_run

KILLS = min(10, int(os.environ.get("VERTFRAC_KILLS", "3")))
SEED = 20260
ROOT = Path(__file__).parents[2]
RUN = Path("results", "tiny")
TARGET = f"{RUN}/summary/summary.md"
STAGES = (
    "train_detector", "train_localizer", "ingest", "detect", "train_detector", "train_localizer", "slices", "curves",
    "straighten", "phantom",
)  # fmt: skip
"""The rules in whose jobs to kill, those first that a small number of kills is for; Snakemake decides the order."""


def start(folder: Path, *options: str) -> subprocess.Popen[bytes]:
    """Snakemake in a process group of its own; what it says is added to out.txt."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder)]
    command += ["--configfile", str(folder / "config.yaml"), "--rerun-incomplete", *options, "--", TARGET]
    with (folder / "out.txt").open("ab") as out:
        return subprocess.Popen(
            command, env=environment, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )  # fmt: skip


def finish(folder: Path, *options: str) -> None:
    assert start(folder, *options).wait(timeout=900) == 0, (folder / "out.txt").read_text()[-5000:]


def prepared(folder: Path) -> Path:
    """A working directory for the smallest run that has both trainings, with several checkpoints each."""
    config = yaml.safe_load(Path(__file__).with_name("tiny.yaml").read_text())
    config["cohort"]["cases"] = 2
    config["shards"] = 1
    config["systems"] = {"tiny": config["systems"]["tiny"]}
    for stage in ("localizer", "detector"):
        config["systems"]["tiny"][stage]["training"] |= {"steps": 60, "checkpoint_every": 5}
    config["systems"]["tiny"]["detector"]["training"]["average_decay"] = 0.9
    del config["transfer"]
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def training(folder: Path, rule: str, name: str) -> list[Path]:
    """Files in the work folders of all trainings of a rule."""
    return list((folder / RUN / "training").glob(f"*/*/{rule.removeprefix('train_')}/*/{name}"))


def seconds(folder: Path, rule: str) -> float:
    """How long a job of a rule took there; of a training, half of its steps, so that a kill meets the rest."""
    if rule.startswith("train_"):
        times = pd.to_datetime(pd.read_csv(training(folder, rule, "log.csv")[0])["time"])
        return float((times.iloc[-1] - times.iloc[0]).total_seconds()) / 2
    return float(pd.read_csv(next((folder / RUN / "benchmarks" / rule).glob("*.tsv")), sep="\t")["s"][0])


def kill(folder: Path, rules: Sequence[str], lasts_s: Mapping[str, float], what: str) -> tuple[str, float] | None:
    """Start the run; when a job of one of the rules has begun, wait a while, or until it ends, and kill.

    A training counts from its first checkpoint. lasts_s : how long to wait, by rule. what : the job, Snakemake or both
    (group). Returns the rule and the seconds to wait, None if the run ended before.
    """
    begun = time.time()
    run = psutil.Process((process := start(folder, "--cores", "1")).pid)

    def written(files: Iterable[Path]) -> bool:
        """Whether this call has written any of the files."""
        with suppress(FileNotFoundError):  # a checkpoint that is no longer needed
            return any(file.stat().st_mtime >= begun for file in files)
        return False

    def has_begun(rule: str) -> bool:
        if rule.startswith("train_"):
            return written(training(folder, rule, "last.ckpt"))
        return written((folder / RUN / "logs" / rule).glob("*.log"))

    while (rule := next(filter(has_begun, rules), None)) is None:
        if process.poll() is not None:
            return None
        time.sleep(0.02)
    wait_s = lasts_s[rule]
    until = time.time() + wait_s
    while time.time() < until and not written((folder / RUN / "benchmarks" / rule).glob("*.tsv")):
        time.sleep(0.02)
    jobs: list[psutil.Process] = []
    while process.poll() is None and not jobs:
        jobs = [child for child in run.children(recursive=True) if child.name() != "bash"]
    if process.poll() is not None:
        return None
    if what == "job":
        while process.poll() is None:  # one that has just ended by itself is no loss, the next one is
            with suppress(psutil.NoSuchProcess):
                jobs = [child for child in run.children(recursive=True) if child.name() != "bash"] or jobs
                for job in jobs:
                    job.kill()
            time.sleep(0.05)
    else:
        (os.kill if what == "snakemake" else os.killpg)(process.pid, signal.SIGKILL)
    assert process.wait(timeout=300) != 0
    _, alive = psutil.wait_procs(jobs, timeout=60)
    assert not alive, "a killed call left a job behind"
    run_now = read_run(folder / RUN)
    assert not run_now.going
    assert run_now.count("running") == 0
    assert run_now.count("failed") == (what == "job")
    if what != "job":
        assert start(folder, "--unlock", "--cores", "1").wait(timeout=300) == 0
    return rule, wait_s


def tables(folder: Path) -> dict[str, pd.DataFrame]:
    run = folder / RUN
    found = {str(path.relative_to(run)): pd.read_parquet(path) for path in sorted(run.rglob("*.parquet"))}
    for path in sorted(run.glob("training/**/log.csv")):
        found[str(path.relative_to(run))] = pd.read_csv(path).drop(columns="time")
    return found


def weights(folder: Path) -> dict[str, tuple[dict[str, str], dict[str, list[float]]]]:
    """Metadata and values of all trained networks."""
    found = {}
    for path in sorted((folder / RUN).glob("training/**/*.safetensors")):
        with safe_open(path, "numpy") as file:
            values = {name: file.get_tensor(name).tolist() for name in file.keys()}  # noqa: SIM118  # not a mapping
            found[str(path.relative_to(folder))] = (file.metadata(), values)
    return found


def test_a_run_that_was_killed_in_each_stage_ends_like_an_undisturbed_one(tmp_path: Path) -> None:
    undisturbed, killed = (prepared(tmp_path / name) for name in ("undisturbed", "killed"))
    finish(undisturbed, "--cores", "2")
    draw = random.Random(SEED)
    whats = draw.sample(["job", "snakemake", "group"] * 4, KILLS)
    rules = list(STAGES[:KILLS])
    lasts_s = {rule: seconds(undisturbed, rule) for rule in rules}
    for what in whats:
        part = draw.random()
        done = kill(killed, rules, {rule: part * lasts_s[rule] for rule in rules}, what)
        assert done, f"the run ended before a job of {' or '.join(rules)} was killed"
        rules.remove(done[0])
        print(f"killed {what} at most {done[1]:.1f} s after a job of {done[0]} began", flush=True)
    finish(killed, "--cores", "1")
    expected, found = tables(undisturbed), tables(killed)
    assert list(found) == list(expected)
    for name, table in expected.items():
        pd.testing.assert_frame_equal(found[name], table, check_exact=True)
    assert weights(killed) == weights(undisturbed)
    assert len(weights(killed)) == 4
    boards = [len(list(board.iterdir())) for rule in TRAINING for board in training(killed, rule, "tensorboard")]
    print(f"{sum(boards) - len(boards)} trainings went on from a checkpoint")
    assert KILLS < 2 or max(boards) > 1, "no training was killed between its steps"
    assert read_run(killed / RUN).count("done") == len(read_run(killed / RUN).jobs)
