"""The whole workflow at a tiny size: every rule runs for real, and nothing twice; test_staleness.py has what reruns."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from filelock import FileLock

from vertfrac import tables
from vertfrac.config import resolve
from vertfrac.errors import ConfigError, VertfracError
from vertfrac.inference.weights import load_model
from vertfrac.pretrain import only_system, pack, pretrain

ROOT = Path(__file__).parents[2]
TINY = Path(__file__).with_name("tiny.yaml")


def snakemake(folder: Path, *options: str, config: Path = TINY) -> subprocess.CompletedProcess[str]:
    """Call the checkout's workflow with ``folder`` as its working directory."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--snakefile",
        str(ROOT / "Snakefile"),
        "--directory",
        str(folder),
        "--configfile",
        str(config),
        "--cores",
        "2",
        *options,
    ]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=900)


def changed(folder: Path, name: str, *path: str, value: object) -> Path:
    """A copy of the tiny configuration with one value changed."""
    config = yaml.safe_load(TINY.read_text())
    section = config
    for key in path[:-1]:
        section = section[key]
    section[path[-1]] = value
    target = folder / name
    target.write_text(yaml.safe_dump(config))
    return target


def planned_rules(folder: Path, config: Path) -> set[str]:
    """The rules that a dry-run would execute, without ``all``."""
    done = snakemake(folder, "--dry-run", config=config)
    assert done.returncode == 0, done.stdout + done.stderr
    text = done.stdout + done.stderr
    if "Nothing to be done" in text:
        return set()
    table = text.split("Job stats:")[1].split("\n\n")[0].splitlines()[3:]
    return {line.split()[0] for line in table if line.strip()} - {"all", "total"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory in which the tiny run has finished."""
    folder = tmp_path_factory.mktemp("run")
    done = snakemake(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_target_is_made(finished: Path) -> None:
    run = finished / "results" / "tiny"
    for name in (
        "summary/summary.md",
        "models/tiny/model.json",
        "figures/tiny/agreement.png",
        "figures/tiny/errors.png",
        "figures/based/roc.png",
        "figures/based/doubt.png",
        "figures/based/levels.png",
        "summary/table-levels.parquet",
        "figures/agreement.png",
        "summary/table-3.parquet",
        "transfer/other/summary/summary.md",
        "transfer/other/figures/agreement.png",
    ):
        assert (run / name).stat().st_size > 100, name


def test_every_case_has_a_row_in_every_table(finished: Path) -> None:
    run = finished / "results" / "tiny"
    cases = set(tables.read_table(run / "cohort/cases.parquet", tables.CASES)["case"])
    folds = tables.read_table(run / "folds/r0.parquet", tables.FOLDS)
    errors = tables.read_table(run / "metrics/tiny/r0/curve_errors.parquet", tables.CURVE_ERRORS)
    assert len(cases) == 4
    assert set(folds["case"]) == cases
    assert set(errors["case"]) == cases


def test_every_annotated_vertebra_is_accounted_for(finished: Path) -> None:
    run = finished / "results" / "tiny"
    annotations = tables.read_table(run / "cohort/annotations.parquet", tables.ANNOTATIONS)
    matches = tables.read_table(run / "metrics/tiny/r0/matches.parquet", tables.MATCHES)
    assert matches["target"].notna().sum() == len(annotations)


def test_a_transferred_system_is_scored_on_every_case_of_the_other_cohort(finished: Path) -> None:
    other = finished / "results" / "tiny" / "transfer" / "other"
    cases = set(tables.read_table(other / "cohort/cases.parquet", tables.CASES)["case"])
    assert len(cases) == 2
    for system in ("tiny", "based"):
        errors = tables.read_table(other / "metrics" / system / "curve_errors.parquet", tables.CURVE_ERRORS)
        assert set(errors["case"]) == cases
        assert set(errors["system"]) == {system}


def test_summary_agrees_in_its_three_forms(finished: Path) -> None:
    folder = finished / "results" / "tiny" / "summary"
    parquet = tables.read_table(folder / "summary.parquet", tables.SUMMARY)
    csv = pd.read_csv(folder / "summary.csv")
    assert len(csv) == len(parquet)
    recall = parquet[(parquet["metric"] == "recall") & (parquet["level"] == "vertebra") & (parquet["subset"] == "all")]
    row = recall.iloc[0]
    text = (folder / "summary.md").read_text()
    assert f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}], n={row['n']}" in text


def test_the_report_is_made_without_a_warning_and_explains_every_figure(finished: Path) -> None:
    done = snakemake(finished, "--report", "report.html")
    assert done.returncode == 0, done.stdout + done.stderr
    for word in ("warning", "missing", "error:"):
        assert word not in (done.stdout + done.stderr).lower()
    page = (finished / "report.html").read_text()
    shown = sorted(path.stem for path in (ROOT / "workflow" / "report").glob("*.rst"))
    assert shown == ["agreement", "doubt", "errors", "levels", "roc", "summary", "workflow"]
    for caption in (
        "graded in CT: run <em>tiny</em>",
        "as annotated, one point per matched vertebra of the system <em>based</em>",
        "as annotated, one point per matched vertebra of every system",
        "over the scans and vertebrae of the system <em>tiny</em>",
        "ROC curves of every system",
        "Whether the scores and the spread of the keypoints of every system say what is wrong",
        "names vertebrae as they were annotated",
        "on held-out cases",
        "on the cohort <em>other</em>, without adaptation",
    ):
        assert caption in page.replace("\\n", " "), caption


def test_a_run_on_phantoms_becomes_a_model_with_a_card(finished: Path, tmp_path: Path) -> None:
    config = resolve(yaml.safe_load(TINY.read_text()), TINY.parent, "tiny.yaml")
    pack(finished / "results/tiny", config, "tiny", tmp_path / "model", recipe="tiny.yaml", device="CPU")
    assert {path.suffix for path in (tmp_path / "model").iterdir()} == {".json", ".safetensors", ".md"}
    model = load_model(tmp_path / "model", torch.device("cpu"))
    assert len(model.localizers) == len(model.detectors) == 2
    (other,) = model.card["other_phantoms"]
    assert other["settings"]["seed"] == 8
    assert model.card["training"]["seconds"]["train_localizer"] > 0
    text = (tmp_path / "model" / "README.md").read_text()
    assert "Not a medical device" in text
    assert "On 2 phantoms of usual difficulty, seed 8, which took no part in anything" in text
    summary = pd.read_parquet(finished / "results/tiny/transfer/other/summary/summary.parquet")
    row = summary[(summary["system"] == "tiny") & (summary["metric"] == "limits error")].iloc[0]
    assert f"| limits error, mm | scan | all | {row['value']:.3f} |" in text
    for entry in model.card["localizers"]:
        assert entry["sha256"] in text
    with pytest.raises(ConfigError, match=r"holds no model\.json"):
        pack(finished / "results/tiny", config, "tiny", finished, recipe="tiny.yaml", device="CPU")


@pytest.mark.parametrize(
    ("systems", "transfer", "words"),
    [
        (["vertfrac", "zakharov2022"], {"other": {"cohort": {"kind": "phantom", "cases": 2}}}, "found 2 systems"),
        (["vertfrac"], {}, "0 of them in transfer"),
        (["vertfrac"], {"other": {"cohort": {"kind": "nifti", "folder": "x"}}}, "cohorts of kind nifti, phantom"),
    ],
)
def test_a_recipe_is_of_phantoms_and_one_system(
    tmp_path: Path, systems: list[str], transfer: dict[str, object], words: str
) -> None:
    recipe = tmp_path / "recipe.yaml"
    content = {"name": "r", "cohort": {"kind": "phantom", "cases": 8}, "systems": systems, "transfer": transfer}
    recipe.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match=f"recipe.yaml: .*{words}"):
        pretrain(recipe, tmp_path / "work", tmp_path / "out", cores=1, gpus=0, tell=print)
    assert not (tmp_path / "work").exists()


def test_a_recipe_is_not_run_twice_at_a_time(finished: Path, tmp_path: Path) -> None:
    one = yaml.safe_load(TINY.read_text())
    del one["systems"]["based"]
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(one))
    with (
        FileLock(finished / "results/tiny/lock"),
        pytest.raises(VertfracError, match=r"results/tiny: .* at work there"),
    ):
        pretrain(tmp_path / "one.yaml", finished, tmp_path / "out", cores=1, gpus=0, tell=print)


def test_the_recipe_in_config_is_one() -> None:
    path = ROOT / "config" / "pretrain.yaml"
    config = resolve(yaml.safe_load(path.read_text()), path.parent, str(path))
    assert only_system(config, path) == "vertfrac-phantoms"
    seeds = {config.cohort.seed, *(other.cohort.seed for other in config.transfer.values())}
    assert len(seeds) == 1 + len(config.transfer), "phantoms to score on must be others"


def test_second_call_does_nothing(finished: Path) -> None:
    assert planned_rules(finished, TINY) == set()


def test_a_change_is_carried_through_to_the_models(finished: Path, tmp_path: Path) -> None:
    """Snakemake removes what a job will write again before it starts: what is left must not be in the job's way."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    fewer = changed(tmp_path, "fewer.yaml", "evaluation", "resamples", value=50)
    before = json.loads((folder / "results/tiny/models/tiny/model.json").read_text())
    done = snakemake(folder, config=fewer)
    assert done.returncode == 0, done.stdout + done.stderr
    after = json.loads((folder / "results/tiny/models/tiny/model.json").read_text())
    assert after["localizers"] == before["localizers"]
    assert after["scores"] != before["scores"]
    assert planned_rules(folder, fewer) == set()


def test_memory_grows_with_the_input_and_with_the_attempt(finished: Path) -> None:
    run = finished / "results" / "tiny"
    options = ("--dry-run", "--forcerun", "train_localizer", "--until", "train_localizer")
    volumes = sum(path.stat().st_size for path in (run / "volumes" / "8x8x8").iterdir())
    tables_read = [run / "cohort/annotations.parquet", run / "folds/r0.parquet"]
    expected = 8000 + 4 * (volumes + sum(path.stat().st_size for path in tables_read)) / 1e6
    for attempt in (1, 2):
        done = snakemake(finished, *options, "--attempt", str(attempt))
        found = re.search(r"gpu=1.* mem_mb=(\d+)", done.stdout + done.stderr)
        assert found, done.stdout + done.stderr
        assert int(found[1]) == math.ceil(expected * attempt)


@pytest.mark.parametrize(
    ("options", "device"),
    [
        ((), "auto"),
        (("--resources", "gpu=0"), "cpu"),
        (("--resources", "gpu=2"), "cuda"),
        (("--workflow-profile", "slurm"), "cuda"),
    ],
    ids=["nothing said", "no GPU", "two GPUs", "Slurm"],
)
def test_a_job_asks_for_a_gpu_where_one_is_promised(tmp_path: Path, options: tuple[str, ...], device: str) -> None:
    done = snakemake(tmp_path, "--dry-run", "--printshellcmds", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    asked = re.findall(r"^Shell command: vertfrac (\S+).* --device (\w+)", done.stdout + done.stderr, re.MULTILINE)
    assert {command for command, _ in asked} == {"train-localizer", "train-detector", "curves", "detect", "transfer"}
    assert {wanted for _, wanted in asked} == {device}


def test_phantoms_are_made_as_configured(tmp_path: Path) -> None:
    (tmp_path / "like").mkdir()
    (tmp_path / "like" / "a b.json").write_text("{}")
    cohort = {
        "kind": "phantom", "cases": 4, "seed": 1, "difficulty": "full", "without": ["metal", "noise"],
        "like": "like", "like_spacing_mm": [0.6, 0.6, 1],
    }  # fmt: skip
    config = changed(tmp_path, "full.yaml", "cohort", value=cohort)
    done = snakemake(tmp_path, "--dry-run", "--printshellcmds", config=config)
    assert done.returncode == 0, done.stderr
    assert " --difficulty full --without metal --without noise --like like --like-spacing 0.6 0.6 1.0 " in done.stdout
    assert "input: like/a b.json" in done.stdout


def test_a_system_based_on_another_shares_what_does_not_differ(finished: Path) -> None:
    run = finished / "results" / "tiny"
    assert {folder.name for folder in (run / "curves").iterdir()} == {"tiny"}
    assert (run / "training/based/r0f0/detector.safetensors").is_file()
    assert not (run / "training/based/r0f0/localizer.safetensors").exists()


def test_the_ablation_says_what_differs(finished: Path) -> None:
    table = pd.read_csv(finished / "results/tiny/summary/table-ablation.csv")
    row = table[table["system"] == "based"].iloc[0]
    assert row["base"] == "tiny"
    assert "detector.network.kind: anchor_free -> anchor_based" in row["differs in"]
    assert "detector.inference.nms: butterfly -> box" in row["differs in"]


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("folds", "k"), -1, ("folds.k", "-1")),
        (("folds", "k"), 5, ("folds.k is 5", "4 cases")),
        (("folds", "kk"), 3, ("folds.kk", "unknown key")),
        (("systems",), ["nobody"], ("unknown system 'nobody'", "vertfrac")),
        (("cohort", "without"), ["bone"], ("cohort.without.0", "'arches'", "'bone'")),
        (("cohort", "like"), "nowhere", ("cohort.like: nowhere is not there, expected a table or a folder",)),
    ],
)
def test_a_wrong_configuration_stops_before_any_job(
    tmp_path: Path, path: tuple[str, ...], value: object, words: tuple[str, ...]
) -> None:
    done = snakemake(tmp_path, "--dry-run", config=changed(tmp_path, "wrong.yaml", *path, value=value))
    assert done.returncode != 0
    said = done.stdout + done.stderr
    for word in words:
        assert word in said
    assert "Traceback" not in said


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder with two small studies as of LungCancer-500, and a configuration that reads them."""
    from vertfrac.geometry.grid import Grid
    from vertfrac.imaging import Image
    from vertfrac.imaging.dicom_write import write_dicom

    folder = tmp_path_factory.mktemp("indexed")
    hu = np.random.default_rng(0).integers(-1000, 1500, (20, 24, 16)).astype(np.int16)
    image = Image(hu, Grid(hu.shape, np.diag([2.0, 3.0, 5.0, 1.0])), "noise")
    marks = [[[row, 9, z + tall] for row in (8, 11, 14) for tall in (0, 3)] for z in (1, 6, 11)]
    (folder / "annotations").mkdir()
    for case in ("a", "b"):
        names = [f"{k}.dcm" for k in range(16)]
        uid, _ = write_dicom(folder / "images" / case, image, patient=case, seed=(case,), names=names)
        study = {"SeriesInstanceUID": uid, "Folder": case, "Annotation": {"one": marks}}
        (folder / "annotations" / f"{case}.json").write_text(json.dumps(study))
    cohort = {"kind": "lungcancer500", **{key: str(folder / key) for key in ("annotations", "images")}}
    return folder, changed(folder, "indexed.yaml", "cohort", value=cohort)


def test_dicom_is_indexed_once_and_again_when_the_tree_changes(indexed: tuple[Path, Path]) -> None:
    folder, config = indexed
    target = "results/tiny/cohort/cases.parquet"
    done = snakemake(folder, target, config=config)
    assert done.returncode == 0, done.stdout + done.stderr
    cases = tables.read_table(folder / target, tables.CASES)
    assert cases[["case", "patient", "status"]].values.tolist() == [["a", "a", "ok"], ["b", "b", "ok"]]
    assert len(tables.read_table(folder / "results/tiny/series.parquet", tables.SERIES)) == 32
    assert "index" not in planned_rules(folder, config)
    (folder / "images" / "a" / "notes.txt").write_text("new")
    assert {"index", "ingest", "merge"} <= planned_rules(folder, config)


def test_other_cohorts_have_an_index_of_their_own_and_phantoms_none(indexed: tuple[Path, Path], tmp_path: Path) -> None:
    cohort = yaml.safe_load(indexed[1].read_text())["cohort"]
    planned = planned_rules(tmp_path, changed(tmp_path, "other.yaml", "transfer", value={"lc": {"cohort": cohort}}))
    assert "transfer_index" in planned
    assert "index" not in planned


def test_a_configuration_of_ones_own_takes_nothing_from_the_default_run(
    indexed: tuple[Path, Path], tmp_path: Path
) -> None:
    """A cohort of another kind, with a system from a file beside it, called where config/config.yaml is too."""
    (tmp_path / "config").mkdir()
    shutil.copy(ROOT / "config" / "config.yaml", tmp_path / "config")
    raw = yaml.safe_load(indexed[1].read_text())
    (tmp_path / "mine" / "systems").mkdir(parents=True)
    (tmp_path / "mine" / "systems" / "own.yaml").write_text(yaml.safe_dump(raw["systems"]["tiny"]))
    (tmp_path / "mine" / "run.yaml").write_text(yaml.safe_dump(raw | {"systems": ["own"]}))
    done = snakemake(tmp_path, "--dry-run", config=tmp_path / "mine" / "run.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "training/own/r0f0/localizer.safetensors" in done.stdout + done.stderr
    assert "training/vertfrac/" not in done.stdout + done.stderr
