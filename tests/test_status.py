"""Laws of the status: it is read from the files of a run as they are while it goes on, after it, and after a kill."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from click.testing import CliRunner, Result
from filelock import FileLock

from vertfrac import tables
from vertfrac.cli import main
from vertfrac.config import Config, read_yaml, resolve
from vertfrac.status import begin, duration, read_run

TINY = Path(__file__).parent / "workflow" / "tiny.yaml"
RUN = Path("results", "tiny")
TRAINING = RUN / "training/tiny/r0f0/localizer"
HEADER = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"


def config() -> Config:
    return resolve(read_yaml(TINY), TINY.parent, str(TINY))


def job(rule: str, planned: bool = True, **wildcards: str) -> dict[str, Any]:
    name = "-".join(["job", *wildcards.values()])
    paths = {"log": f"{RUN}/logs/{rule}/{name}.log", "benchmark": f"{RUN}/benchmarks/{rule}/{name}.tsv"}
    return {"rule": rule, "wildcards": wildcards, **paths, "planned": planned}


JOBS = [
    job("merge", planned=False),
    *(job("curves", system="tiny", repeat="0", fold=fold) for fold in "01"),
    *(job("train_localizer", system="tiny", repeat="0", fold=fold) for fold in "01"),
]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileLock]:
    """A run in the working directory that has begun; yielded is the lock that its Snakemake would hold."""
    monkeypatch.chdir(tmp_path)
    release: list[Any] = []
    monkeypatch.setattr("atexit.register", release.append)
    begin(RUN, config(), JOBS)
    release[0]()
    logger = logging.getLogger("snakemake.logging")
    yield FileLock(RUN / "lock")
    logger.removeHandler(logger.handlers[-1])


def write(path: str | Path, text: str = "") -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)


def finish(entry: dict[str, Any], seconds: float, peak_mb: float | str) -> None:
    write(entry["log"])
    write(entry["benchmark"], f"{HEADER}{seconds}\t0:00:01\t{peak_mb}\t9\t9\t9\t1.5\t2.5\t90.0\t{seconds / 2}\n")


def snakemake_says(event: str, entry: dict[str, Any]) -> None:
    logger = logging.getLogger("snakemake.logging")
    logger.setLevel(logging.INFO)
    logger.info("", extra={"event": Enum("Event", event)[event], "log": [entry["log"]]})


def log_steps(*steps: int, seconds_per_step: float = 2.0) -> None:
    begun = datetime(2026, 1, 1, tzinfo=UTC)
    times = [(begun + timedelta(seconds=seconds_per_step * step)).isoformat() for step in steps]
    write(TRAINING / "0123/log.csv")
    pd.DataFrame({"step": steps, "time": times, "loss": [1 / step for step in steps]}).to_csv(
        TRAINING / "0123/log.csv", index=False
    )


def status(*options: str) -> Result:
    return CliRunner().invoke(main, ["status", *options])


def states() -> list[str]:
    return [job.state for job in read_run(RUN).jobs]


def test_a_run_that_has_just_begun_waits(run: FileLock) -> None:
    with run:
        assert states() == ["done", "waiting", "waiting", "waiting", "waiting"]
        result = status()
    assert result.exit_code == 0
    assert "results/tiny: going on, 1 of 5 jobs done" in result.output


def test_each_job_is_in_one_state(run: FileLock) -> None:
    finish(JOBS[1], 4.0, 100.0)
    for entry in JOBS[2:4]:
        write(entry["log"])
    snakemake_says("JOB_ERROR", JOBS[2])
    with run:
        assert states() == ["done", "done", "failed", "running", "waiting"]
    assert states() == ["done", "done", "failed", "stopped", "waiting"]


def test_what_was_done_before_the_plan_is_not_done_when_it_has_to_run_again(run: FileLock) -> None:
    finish(JOBS[1], 4.0, 100.0)
    for path in (JOBS[1]["log"], JOBS[1]["benchmark"]):
        os.utime(path, (1e9, 1e9))
    assert states()[1] == "waiting"


def test_a_failed_job_is_named_and_the_exit_code_is_1(run: FileLock) -> None:
    write(JOBS[2]["log"])
    snakemake_says("JOB_ERROR", JOBS[2])
    result = status()
    assert result.exit_code == 1
    assert "results/tiny: failed" in result.output
    assert "failed: curves system=tiny, repeat=0, fold=1" in result.output


def test_a_job_that_snakemake_tries_again_has_not_failed(run: FileLock) -> None:
    write(JOBS[2]["log"])
    snakemake_says("JOB_ERROR", JOBS[2])
    snakemake_says("JOB_INFO", JOBS[2])
    with run:
        assert states()[2] == "running"


def test_times_and_memory_are_summed_by_rule(run: FileLock) -> None:
    finish(JOBS[1], 4.0, 100.0)
    finish(JOBS[2], 10.0, 300.0)
    rules = {row["rule"]: row for row in json.loads(status("--json").output)["rules"]}
    curves = rules["curves"]
    assert (curves["done"], curves["expected"]) == (2, 2)
    assert (curves["seconds"], curves["seconds_median"], curves["peak_mb"]) == (14.0, 7.0, 300.0)
    assert rules["merge"]["seconds"] is None


def test_a_running_training_says_how_far_it_is(run: FileLock) -> None:
    write(JOBS[3]["log"])
    log_steps(1, 2, 4)
    with run:
        line = next(line for line in status().output.splitlines() if line.startswith("localizer"))
    assert line == "localizer tiny repeat 0 fold 0: running, step 4 of 6, loss 0.25, 4 s left"


def test_a_training_that_has_logged_nothing_is_at_step_0(run: FileLock) -> None:
    write(JOBS[3]["log"])
    with run:
        assert "running, step 0 of 6\n" in status().output


def test_a_training_that_outlives_snakemake_runs(run: FileLock) -> None:
    write(JOBS[3]["log"])
    TRAINING.mkdir(parents=True)
    with FileLock(TRAINING / "lock"):
        assert states()[3] == "running"
    assert states()[3] == "stopped"


def test_the_time_left_counts_trainings_by_their_own_pace_and_jobs_by_their_rule(run: FileLock) -> None:
    finish(JOBS[1], 10.0, 100.0)
    finish(JOBS[4], 30.0, 100.0)
    write(JOBS[3]["log"])
    log_steps(1, 2, 4)
    with run:
        found = json.loads(status("--json").output)
    assert (found["seconds_left"], found["seconds_left_is_complete"]) == (4.0 + 10.0, True)


def test_a_killed_process_lets_go_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    program = f"""
import os, signal
from pathlib import Path
from vertfrac.config import read_yaml, resolve
from vertfrac.status import begin, read_run
tiny = Path({str(TINY)!r})
begin(Path("results/tiny"), resolve(read_yaml(tiny), tiny.parent, ""), {JOBS!r})
print(read_run(Path("results/tiny")).going, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (-9, "True\n"), done.stderr
    assert not read_run(RUN).going
    assert "results/tiny: stopped" in status().output


def test_benchmarks_become_one_table(run: FileLock) -> None:
    finish(JOBS[1], 4.0, 100.0)
    finish(JOBS[2], 0.1, "NA")
    assert status("--benchmarks").exit_code == 0
    table = tables.read_table(RUN / "benchmarks.parquet", tables.BENCHMARKS)
    assert table["rule"].tolist() == ["curves", "curves"]
    assert table["wildcards"].tolist()[1] == "system=tiny, repeat=0, fold=1"
    assert table["seconds"].tolist() == [4.0, 0.1]
    assert table["peak_mb"].isna().tolist() == [False, True]
    assert len(pd.read_csv(RUN / "benchmarks.csv")) == 2


def test_the_configuration_of_a_run_is_kept_and_can_be_used_again(run: FileLock) -> None:
    assert resolve(read_yaml(RUN / "config.yaml"), RUN, "") == config()


def test_a_system_whose_base_is_not_compared_is_kept_with_it(tmp_path: Path) -> None:
    raw = read_yaml(TINY)
    (tmp_path / "systems").mkdir()
    write(tmp_path / "systems/tiny.yaml", yaml.safe_dump(raw["systems"].pop("tiny")))
    found = resolve(raw, tmp_path, "")
    assert list(found.ancestors) == ["tiny"]
    assert resolve(found.model_dump(mode="json"), tmp_path / "elsewhere", "") == found


def test_the_run_is_found_by_folder_by_configuration_or_as_the_latest(run: FileLock) -> None:
    said = {status(*option).output.splitlines()[-1] for option in ((), (str(RUN),), (str(TINY),))}
    assert len(said) == 1


@pytest.mark.parametrize("option", ["nowhere", "."])
def test_a_folder_that_is_no_run_is_one_line(run: FileLock, option: str) -> None:
    result = status(option)
    assert result.exit_code == 1
    assert (
        result.stderr
        == f"vertfrac: {option}: found no plan.json, expected the folder of a run that snakemake has begun\n"
    )


def test_no_run_at_all_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert status().stderr == "vertfrac: results: found no run (plan.json), expected one that snakemake has begun\n"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 0 s"), (3599, "59 min 59 s"), (7260, "2 h 1 min")]
)
def test_durations_are_said_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text
