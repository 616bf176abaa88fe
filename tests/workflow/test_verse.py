"""A run on phantoms that were written as VerSe, with its public split: from the files to the summary."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from vertfrac import tables
from vertfrac.cohorts.phantom.verse import write_verse

ROOT = Path(__file__).parents[2]
SUMMARY = "results/verse/summary/summary.parquet"
"""The target: all that belongs to the cohort comes before it."""


def snakemake(folder: Path, *options: str) -> str:
    """What a call of the checkout's workflow says, with ``folder`` as its working directory."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder)]
    command += ["--configfile", str(folder / "config.yaml"), "--cores", "2", *options, "--", SUMMARY]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory in which the run has got to its summary."""
    folder = tmp_path_factory.mktemp("run")
    write_verse(folder / "verse", cases=3, seed=229, keypoints=True)
    config = yaml.safe_load(Path(__file__).with_name("tiny.yaml").read_text())
    config |= {
        "name": "verse",
        "cohort": {"kind": "verse", "folder": "verse", "grades": "verse/grades.csv"},
        "shards": 1,
        "folds": {"split": "published"},
        "systems": {"tiny": config["systems"]["tiny"]},
    }
    del config["transfer"]
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    snakemake(folder)
    return folder


def test_the_published_split_is_that_of_the_folders(finished: Path) -> None:
    folds = tables.read_table(finished / "results/verse/folds/r0.parquet", tables.FOLDS).set_index("case")["fold"]
    assert folds.fillna(-1).to_dict() == {"sub-verse001": -1, "sub-verse003": 0}


def test_held_out_vertebrae_are_scored_against_the_grades_of_the_table(finished: Path) -> None:
    matches = tables.read_table(finished / "results/verse/metrics/tiny/r0/matches.parquet", tables.MATCHES)
    graded = pd.read_csv(finished / "verse/grades.csv")
    expected = graded.loc[graded["scan_id"] == "verse003", "genant_grade"].tolist()
    found = matches[matches["target"].notna()].sort_values("target")
    assert found["grade_target"].tolist() == expected
    assert (finished / "results/verse/summary/table-grades.parquet").is_file()


def test_changed_grades_make_ingestion_stale_and_nothing_else_does(finished: Path) -> None:
    assert "Nothing to be done" in snakemake(finished, "--dry-run")
    grades = finished / "verse" / "grades.csv"
    grades.write_text(grades.read_text() + "\n")
    assert "Nothing to be done" in snakemake(finished, "--dry-run")
    first = pd.read_csv(grades, dtype=str)
    first.loc[0, "genant_grade"] = str(3 - int(first.loc[0, "genant_grade"]))
    first.to_csv(grades, index=False)
    assert "rule ingest" in snakemake(finished, "--dry-run").replace("localrule", "rule")
