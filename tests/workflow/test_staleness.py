"""Which rules a change runs again: docs/staleness.md, each row of which is tried here.

``staleness.yaml`` holds the changes and the jobs they rerun. ``python tests/workflow/test_staleness.py`` prints the
page from it. The results here are empty files that were marked as finished, since a dry-run reads none of them;
``test_workflow.py`` runs the same rules for real.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PAGE = ROOT / "docs" / "staleness.md"
SOURCE: dict[str, Any] = yaml.safe_load((HERE / "staleness.yaml").read_text())
CHANGES: list[dict[str, Any]] = [change for changes in SOURCE["changes"].values() for change in changes]


SAID = "said.txt"
CALLS = """
import os, sys
import pandas, pyarrow, pydantic, requests, smart_open, snakemake.cli

def call(folder, *options):
    os.chdir(folder)
    sys.path[0] = folder
    said = os.open("said.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 1), os.dup2(said, 2)
    sys.argv = ["snakemake", "--configfile", "config.yaml", "--cores", "2", *options]
    snakemake.cli.main()

calls, running, failed = sys.argv[1:], 0, 0
while calls or running:
    if calls and running < 2:
        folder, *options = calls.pop(0).split()
        if os.fork() == 0:
            sys.exit(call(folder, *options))
        running += 1
    else:
        failed += os.wait()[1] != 0
        running -= 1
sys.exit(failed)
"""
"""Calls Snakemake once per argument, "FOLDER OPTION...", in forks of a process that has imported what takes longest."""


def snakemake(*calls: tuple[Path, Sequence[str]]) -> list[str]:
    """What calls of the copied workflow, each in a folder, say; the package that they import is the copy beside it."""
    command = [sys.executable, "-c", CALLS, *(" ".join([str(folder), *options]) for folder, options in calls)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, env=environment, timeout=1500, check=False)
    said = [(folder / SAID).read_text() for folder, _ in calls]
    assert done.returncode == 0, said
    return said


def planned_jobs(said: str) -> dict[str, int]:
    """The number of jobs per rule that a dry-run says it would execute, without ``all``."""
    if "Nothing to be done" in said:
        return {}
    table = said.split("Job stats:")[1].split("\n\n")[0].splitlines()[3:]
    jobs = dict(line.split() for line in table if line.strip())
    return {rule: int(count) for rule, count in jobs.items() if rule not in ("all", "total")}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the workflow and a finished run of it on four scans in two shards."""
    from vertfrac.cohorts.phantom import write_phantoms

    folder = tmp_path_factory.mktemp("finished")
    for name in ("Snakefile", "workflow", "vertfrac", "config", "envs", "requirements.lock"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
        else:
            shutil.copy2(source, folder / name)
    write_phantoms(folder / "cohort", cases=1, seed=3)
    for name in ("cases", "annotations"):
        one = pd.read_csv(folder / f"cohort/{name}.csv").drop(columns="patient", errors="ignore")
        four = [one.assign(case=case) for case in "abcd"]
        pd.concat(four).to_csv(folder / f"cohort/{name}.csv", index=False)
    cases = pd.read_csv(folder / "cohort/cases.csv")
    cases.assign(image=cases["case"] + ".nii", patient=cases["case"]).to_csv(folder / "cohort/cases.csv", index=False)
    for case in "abcde":
        (folder / f"cohort/{case}.nii").write_text(case)
    shutil.copy(folder / "cohort/annotations.csv", folder / "other.csv")
    (folder / "theirs.csv").write_text("case\n")
    config = yaml.safe_load((HERE / "tiny.yaml").read_text())
    config["cohort"] = {"kind": "nifti", "folder": "cohort"}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (summary,) = snakemake((folder, ["--summary"]))
    for line in summary.split("output_file", 1)[1].splitlines()[1:]:
        path = folder / line.split("\t")[0]
        if path.suffix:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        elif line.startswith("results/"):
            path.mkdir(parents=True, exist_ok=True)
    snakemake((folder, ["--touch", "--forceall"]))
    return folder


def apply(change: dict[str, Any], folder: Path) -> None:
    """Do in a folder what a change says."""
    config = yaml.safe_load((folder / "config.yaml").read_text())
    for path, value in change.get("set", {}).items():
        *parents, last = path.split(".")
        section = config
        for name in parents:
            section = section[name]
        if value is None:
            del section[last]
        else:
            section[last] = value
    if change.get("reversed"):
        config = {key: config[key] for key in reversed(config)}
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    for name in change.get("touch", ()):
        (folder / name).touch()
    for name, (old, new) in change.get("edit", {}).items():
        text = (folder / name).read_text()
        assert text.count(old) == 1, f"{name}: {old!r} occurs {text.count(old)} times"
        (folder / name).write_text(text.replace(old, new))
    for name in ("cases", "annotations"):
        table = pd.read_csv(folder / f"cohort/{name}.csv")
        if case := change.get("new_case"):
            added = table[table["case"] == "a"].assign(case=case)
            table = pd.concat([table, added.assign(image=f"{case}.nii") if name == "cases" else added])
        elif case := change.get("removed_case"):
            table = table[table["case"] != case]
        elif (case := change.get("moved_keypoint")) and name == "annotations":
            table.loc[table["case"] == case, "anterior_superior_x"] += 0.5
        else:
            continue
        table.to_csv(folder / f"cohort/{name}.csv", index=False)


@pytest.fixture(scope="module")
def found(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, int]]:
    """The jobs that each change would rerun, each tried in its own copy of the finished run."""
    calls = []
    for change in CHANGES:
        folder = tmp_path_factory.mktemp("changed") / "run"
        shutil.copytree(finished, folder, symlinks=True)
        apply(change, folder)
        calls.append((folder, ["--dry-run", *change.get("options", ())]))
    return {change["change"]: planned_jobs(said) for change, said in zip(CHANGES, snakemake(*calls), strict=True)}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change["change"])
def test_a_change_reruns_exactly_these_jobs(found: dict[str, dict[str, int]], change: dict[str, Any]) -> None:
    assert found[change["change"]] == change["reruns"]


def test_every_change_has_a_name_of_its_own() -> None:
    assert len({change["change"] for change in CHANGES}) == len(CHANGES)


def page() -> str:
    """The documentation of all changes."""
    from vertfrac.provenance import packages

    lines = [SOURCE["page"]]
    for section, changes in SOURCE["changes"].items():
        lines += [f"### {section}", "", "| change | jobs that run again |", "|---|---|"]
        for change in changes:
            jobs = ", ".join(f"{rule} {count}" for rule, count in change["reruns"].items())
            lines.append(f"| {change['change']} | {jobs or 'none'} |")
        lines.append("")
    lines += [SOURCE["libraries"], "| step | libraries |", "|---|---|"]
    for step, entries in STEPS.items():
        libraries = ", ".join(pin.split("==")[0] for pin in packages(*entries).split())
        lines.append(f"| {step} | {libraries} |")
    return "\n".join([*lines, ""])


STEPS: dict[str, tuple[str, ...]] = {
    "phantom": ("cohorts.phantom.write_phantoms",),
    "index": ("cli.index",),
    **{
        f"ingest, kind: {kind}": ("cli.ingest", f"cohorts.{kind}.scans") for kind in ("nifti", "lungcancer500", "verse")
    },
    **{
        name: (f"cli.{name}",)
        for name in (
            "merge", "folds", "resample", "slices", "train_localizer", "curves", "train_detector", "straighten",
            "detect", "evaluate", "experts", "summary", "figures", "export", "transfer",
        )
    },
}  # fmt: skip


def test_the_page_is_printed_from_the_changes() -> None:
    assert PAGE.read_text() == page()


if __name__ == "__main__":
    print(page(), end="")
