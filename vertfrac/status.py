"""What a run of the workflow has done and is doing, read from its own files.

When the workflow starts it writes ``plan.json`` into the run's folder, all its jobs and which of them have to run, and
``config.yaml``; as long as it lives it holds a lock there and lists the jobs that have failed. The files that Snakemake
and training write tell the rest: a job that had to run is done when its benchmark is newer than the plan; it has begun
when its log is.
"""

from __future__ import annotations

import atexit
import csv
import logging
import statistics
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from vertfrac.config import Config, read_yaml, resolve
from vertfrac.errors import ConfigError
from vertfrac.files import read_json, replacing, write_json

PLAN, CONFIG, LOCK, FAILED = "plan.json", "config.yaml", "lock", "failed.json"
State = Literal["done", "running", "failed", "stopped", "waiting"]
STATES: tuple[State, ...] = ("done", "running", "failed", "stopped", "waiting")
TRAINING = {"train_localizer": "localizer", "train_detector": "detector"}
"""Rule of a training -> its stage."""
MEASURED = {
    "seconds": "s",
    "cpu_seconds": "cpu_time",
    "cpu_percent": "mean_load",
    "peak_mb": "max_rss",
    "read_mb": "io_in",
    "written_mb": "io_out",
}
"""Column of the table of benchmarks -> column of Snakemake's benchmark files."""


def begin(folder: Path, config: Config, jobs: Iterable[dict[str, Any]]) -> None:
    """Write the plan and the configuration of a run that starts; until this process ends, hold its lock and keep its
    list of failed jobs.

    jobs : of each ``rule``, ``wildcards``, ``log`` and ``benchmark`` (paths from the working directory), and whether it
    is ``planned``, that is, has to run.
    """
    import yaml

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    with suppress(Timeout):  # two calls that Snakemake was told to let run beside each other
        lock.acquire(timeout=5)
    atexit.register(lock.release)
    with replacing(folder / CONFIG) as temporary:
        text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
        temporary.write_text(f"# What this run was last started with, defaults included.\n{text}", encoding="utf-8")
    logging.getLogger("snakemake.logging").addHandler(_Failures(folder / FAILED))
    write_json(folder / PLAN, list(jobs))


class _Failures(logging.Handler):
    """Lists the failed jobs by their logs. Snakemake's own log leaves them out if it is told to be quiet."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path, self._failed = path, set[str]()
        write_json(path, [])

    def emit(self, record: logging.LogRecord) -> None:
        event = getattr(getattr(record, "event", None), "name", None)
        if event == "JOB_ERROR":
            self._failed.update(getattr(record, "log", ()))
        elif event == "JOB_INFO":  # it begins, maybe another time
            self._failed.difference_update(getattr(record, "log", ()))
        else:
            return
        write_json(self._path, sorted(self._failed))


@dataclass(frozen=True)
class Job:
    """One job of the plan. ``usage`` is what Snakemake measured when it last ran: seconds, memory (MB), CPU."""

    rule: str
    wildcards: dict[str, str]
    state: State
    usage: dict[str, float] = field(default_factory=dict)

    @property
    def seconds(self) -> float | None:
        """Wall time."""
        return self.usage.get("s")


@dataclass(frozen=True)
class Training:
    """How far a training is. ``loss`` and ``seconds_left`` are None until there is something to tell them from."""

    rule: str
    wildcards: dict[str, str]
    state: State
    step: int
    steps: int
    loss: float | None
    seconds_left: float | None


@dataclass(frozen=True)
class Run:
    """A run at one moment. ``going`` : Snakemake is at work. ``seconds`` : since it was started, while it was going."""

    folder: Path
    going: bool
    seconds: float
    jobs: tuple[Job, ...]
    trainings: tuple[Training, ...]

    def count(self, state: State, rule: str | None = None) -> int:
        """Number of jobs, of one rule or of all, in a state."""
        return sum(job.state == state for job in self.jobs if rule in (None, job.rule))


def find_run(given: Path | None) -> Path:
    """The folder of a run: ``given`` itself, that of a configuration file, or the latest below results/."""
    if given is not None and given.is_file():
        given = Path("results", resolve(read_yaml(given), given.parent, str(given)).name)
    if given is None:
        plans = sorted(Path("results").glob(f"*/{PLAN}"), key=lambda path: path.stat().st_mtime)
        if not plans:
            raise ConfigError(f"results: found no run ({PLAN}), expected one that snakemake has begun")
        return plans[-1].parent
    if not (given / PLAN).is_file():
        raise ConfigError(f"{given}: found no {PLAN}, expected the folder of a run that snakemake has begun")
    return given


def read_run(folder: Path) -> Run:
    """The state of a run from the files in its folder."""
    plan = read_json(folder / PLAN)
    config = resolve(read_yaml(folder / CONFIG), folder, str(folder / CONFIG))
    begun = (folder / PLAN).stat().st_mtime  # by the clock that stamps the other files, too
    root = folder.resolve().parents[1]
    going = _held(folder / LOCK)
    failed = set(read_json(folder / FAILED))
    jobs, trainings, latest = [], [], begun
    for entry in plan:
        rule, wildcards = entry["rule"], entry["wildcards"]
        training = _training_folder(folder, rule, wildcards)
        finished, started = (_modified(root / entry[kind]) for kind in ("benchmark", "log"))
        latest = max(latest, finished, started)
        state: State
        if not entry["planned"] or finished >= begun:
            state = "done"
        elif entry["log"] in failed:
            state = "failed"
        elif started < begun:
            state = "waiting"
        else:
            state = "running" if going or (training is not None and _held(training / LOCK)) else "stopped"
        jobs.append(Job(rule, wildcards, state, _usage(root / entry["benchmark"]) if state == "done" else {}))
        if training is not None and state in ("running", "stopped"):
            steps = getattr((config.ancestors | config.systems)[wildcards["system"]], TRAINING[rule]).training.steps
            trainings.append(Training(rule, wildcards, state, steps=steps, **_progress(training, steps)))
    return Run(folder, going, (time.time() if going else latest) - begun, tuple(jobs), tuple(trainings))


def _training_folder(folder: Path, rule: str, wildcards: dict[str, str]) -> Path | None:
    if rule not in TRAINING:
        return None
    return folder / "training" / wildcards["system"] / f"r{wildcards['repeat']}f{wildcards['fold']}" / TRAINING[rule]


def _held(lock: Path) -> bool:
    """Whether a living process holds the lock."""
    if not lock.is_file():
        return False
    try:
        with FileLock(lock).acquire(timeout=0):
            return False
    except Timeout:
        return True


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _usage(benchmark: Path) -> dict[str, float]:
    """The numbers of a benchmark file; a job too short to be measured has some missing."""
    try:
        with benchmark.open(encoding="utf-8", newline="") as file:
            row = next(csv.DictReader(file, delimiter="\t"), {})
    except OSError:
        return {}
    found = {}
    for name, value in row.items():
        with suppress(ValueError):
            found[name] = float(value)
    return found


def _progress(training: Path, steps: int) -> dict[str, Any]:
    """Step, loss and time left by the log of the training that wrote last in a folder."""
    logs = sorted(training.glob("*/log.csv"), key=_modified)
    rows: list[dict[str, str]] = []
    if logs:
        with logs[-1].open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    if not rows:
        return {"step": 0, "loss": None, "seconds_left": None}
    times = [(int(row["step"]), datetime.fromisoformat(row["time"]).timestamp()) for row in rows]
    per_step = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in pairwise(times)]
    left = statistics.median(per_step) * (steps - times[-1][0]) if per_step else None
    return {"step": times[-1][0], "loss": float(rows[-1]["loss"]), "seconds_left": left}


def time_left(run: Run) -> tuple[float, bool]:
    """Seconds that the run still needs at the pace so far, and whether all its rules have been timed; else at least so.

    As many jobs at once as run now.
    """
    known: dict[str, list[float]] = {}
    for job in run.jobs:
        if job.seconds is not None:
            known.setdefault(job.rule, []).append(job.seconds)
    typical = {rule: statistics.median(seconds) for rule, seconds in known.items()}
    training = {(t.rule, *t.wildcards.items()): t.seconds_left for t in run.trainings}
    work, complete = 0.0, True
    for job in run.jobs:
        if job.state != "done":
            seconds = training.get((job.rule, *job.wildcards.items())) or typical.get(job.rule)
            work, complete = work + (seconds or 0.0), complete and seconds is not None
    at_once = max(1, run.count("running"))
    return work / at_once, complete


def as_json(run: Run) -> dict[str, Any]:
    """The run as plain data."""
    left, complete = time_left(run)
    return {
        "run": str(run.folder),
        "going": run.going,
        "seconds": round(run.seconds, 1),
        "seconds_left": round(left, 1),
        "seconds_left_is_complete": complete,
        "jobs": {state: run.count(state) for state in STATES},
        "rules": [_of_rule(run, rule) for rule in dict.fromkeys(job.rule for job in run.jobs)],
        "trainings": [asdict(training) for training in run.trainings],
    }


def _of_rule(run: Run, rule: str) -> dict[str, Any]:
    usages = [job.usage for job in run.jobs if job.rule == rule]
    seconds = [usage["s"] for usage in usages if "s" in usage]
    return {
        "rule": rule,
        **{state: run.count(state, rule) for state in STATES},
        "expected": sum(job.rule == rule for job in run.jobs),
        "seconds": round(sum(seconds), 1) if seconds else None,
        "seconds_median": round(statistics.median(seconds), 1) if seconds else None,
        "peak_mb": max((usage["max_rss"] for usage in usages if "max_rss" in usage), default=None),
    }


def as_text(run: Run) -> str:
    """The run for the terminal: a table of rules, a line per training, the sum."""
    columns: dict[str, str] = {
        "rule": "rule", **{state: state for state in STATES}, "expected": "of", "seconds": "seconds",
        "seconds_median": "median", "peak_mb": "peak MB",
    }  # fmt: skip
    rows = as_json(run)["rules"]
    if not any(row["stopped"] for row in rows):
        del columns["stopped"]
    cells = [list(columns.values())]
    cells += [["" if row[name] is None else _short(row[name]) for name in columns] for row in rows]
    widths = [max(len(row[k]) for row in cells) for k in range(len(columns))]
    lines = [
        "  ".join(
            cell.ljust(w) if k == 0 else cell.rjust(w) for k, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    ]
    lines.append("")
    for t in run.trainings:
        lines.append(
            f"{TRAINING[t.rule]} {t.wildcards['system']} repeat {t.wildcards['repeat']} fold {t.wildcards['fold']}: "
            f"{t.state}, step {t.step} of {t.steps}"
            + ("" if t.loss is None else f", loss {t.loss:.4g}")
            + (f", {duration(t.seconds_left)} left" if t.seconds_left is not None and t.state == "running" else "")
        )
    done, all_jobs, failed = run.count("done"), len(run.jobs), run.count("failed")
    state = "going on" if run.going else "finished" if done == all_jobs else "failed" if failed else "stopped"
    line = f"{run.folder}: {state}, {done} of {all_jobs} jobs done, {duration(run.seconds)}"
    if run.going:
        left, complete = time_left(run)
        line += f", {'about' if complete else 'at least'} {duration(left)} left" if left else ""
    lines.append(line)
    lines += [f"failed: {job.rule} {_wildcards(job)}".rstrip() for job in run.jobs if job.state == "failed"]
    return "\n".join(lines)


def benchmark_rows(run: Run) -> list[dict[str, Any]]:
    """A row of the table of benchmarks per job that was measured."""
    return [
        {"rule": job.rule, "wildcards": _wildcards(job), **{new: job.usage.get(old) for new, old in MEASURED.items()}}
        for job in run.jobs
        if job.usage
    ]


def _wildcards(job: Job) -> str:
    return ", ".join(f"{name}={value}" for name, value in job.wildcards.items())


def _short(value: Any) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def duration(seconds: float) -> str:
    """A time as people say it: 12 s, 3 min 20 s, 5 h 10 min."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
