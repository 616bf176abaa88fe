"""No file of a user makes vertfrac run code: what could is nowhere called, and files that would have it do nothing."""

from __future__ import annotations

import ast
import hashlib
import io
import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import vertfrac
from vertfrac import tables
from vertfrac.arrays import read_description
from vertfrac.cohorts.annotation_json import read_annotation
from vertfrac.cohorts.markups import read_markups
from vertfrac.config import read_yaml
from vertfrac.errors import ModelError, VertfracError
from vertfrac.imaging import read_image
from vertfrac.inference.weights import load_model
from vertfrac.report.views import read_views
from vertfrac.training.fit import CHECKPOINT, FitSettings, fit

ROOT = Path(vertfrac.__file__).parents[1]
SETTINGS = FitSettings(
    steps=2, learning_rate=0.05, weight_decay=0.0, schedule="cosine", warmup=0.2, milestones=(), checkpoint_every=1,
    seed=1, average_decay=0.0, mixed_precision=False,
)  # fmt: skip

FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
FORBIDDEN_CALLS = {
    "eval", "exec", "compile", "__import__", "read_pickle", "unsafe_load", "full_load", "load_from_checkpoint",
    "torch.jit.load", "torch.hub.load", "os.system",
}  # fmt: skip
SAFE_KEYWORD = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False)}
"""Calls that run code unless this keyword has this value."""


# --- what the source calls


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def dangers(source: str) -> list[str]:
    """Every import and call in a source that may run what is in a file."""
    tree = ast.parse(source)
    found = []
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found += [f"imports {name}" for name in names if name.split(".")[0] in FORBIDDEN_MODULES]
    for name, call in calls(tree):
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        if name in FORBIDDEN_CALLS or name.rpartition(".")[2] in FORBIDDEN_CALLS - {"eval", "exec", "compile"}:
            found.append(name)
        if name in SAFE_KEYWORD:
            keyword, value = SAFE_KEYWORD[name]
            if keywords.get(keyword) != str(value):
                found.append(f"{name} without {keyword}={value}")
        if name == "yaml.load" and "Safe" not in ast.unparse(call):
            found.append("yaml.load without a safe loader")
        if keywords.get("allow_pickle") == "True" or keywords.get("weights_only") == "False":
            found.append(f"{name} that unpickles")
        if "ckpt_path" in keywords and keywords.get("weights_only") != "True":
            found.append(f"{name} from a checkpoint without weights_only=True")
    return found


@pytest.mark.parametrize("path", sorted((ROOT / "vertfrac").rglob("*.py")), ids=lambda path: path.stem)
def test_the_source_unpickles_and_evaluates_nothing(path: Path) -> None:
    assert dangers(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "from pickle import load", "torch.load(p)", "torch.load(p, weights_only=False)", "np.load(p)",
        "np.load(p, allow_pickle=True)", "yaml.load(t, yaml.Loader)", "yaml.unsafe_load(t)", "eval(t)", "exec(t)",
        "pd.read_pickle(p)", "Stage.load_from_checkpoint(p)", "trainer.fit(s, ckpt_path=p)", "import joblib",
    ],
)  # fmt: skip
def test_the_search_finds_what_it_looks_for(source: str) -> None:
    assert dangers(source)


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(p, weights_only=True)", "np.load(p, allow_pickle=False)", "yaml.safe_load(t)", "re.compile(t)",
        "network.eval()", "yaml.load(t, getattr(yaml, 'CSafeLoader', yaml.SafeLoader))",
    ],
)  # fmt: skip
def test_the_search_lets_the_harmless_pass(source: str) -> None:
    assert dangers(source) == []


# --- what files do


class Bomb:
    """Unpickled, it makes a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def test_the_bomb_goes_off_where_it_is_unpickled(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Bomb(tmp_path / "harmed")))
    assert (tmp_path / "harmed").is_dir()


def pickled(bomb: Bomb) -> bytes:
    return pickle.dumps(bomb)


def by_torch(bomb: Bomb) -> bytes:
    stream = io.BytesIO()
    torch.save({"state_dict": bomb, "weight": torch.zeros(2)}, stream)
    return stream.getvalue()


def by_numpy(bomb: Bomb) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array([bomb], dtype=object), allow_pickle=True)
    return stream.getvalue()


def by_yaml(bomb: Bomb) -> bytes:
    return f"!!python/object/apply:os.mkdir ['{bomb.marker}']".encode()


BOMBS = [pickled, by_torch, by_numpy, by_yaml]
READS: dict[str, Callable[[Path], Any]] = {
    "a.yaml": read_yaml,
    "a.csv": lambda path: tables.read_table(path, tables.ANNOTATIONS),
    "a.parquet": lambda path: tables.read_table(path, tables.ANNOTATIONS),
    "a.json": lambda path: read_annotation(path, "a"),
    "a.mrk.json": lambda path: read_markups([path], "a"),
    "views.json": read_views,
    "a.nii": read_image,
    "a.nii.gz": read_image,
    "a.safetensors": read_description,
}


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("name", READS)
def test_a_file_that_would_run_code_is_refused_and_runs_nothing(
    name: str, bomb: Callable[[Bomb], bytes], tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(bomb(Bomb(tmp_path / "harmed")))
    with pytest.raises(VertfracError, match=name):
        READS[name](tmp_path / name)
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_dicom_folder_that_would_run_code_is_refused_and_runs_nothing(
    bomb: Callable[[Bomb], bytes], tmp_path: Path
) -> None:
    (tmp_path / "scan").mkdir()
    (tmp_path / "scan" / "1.dcm").write_bytes(bomb(Bomb(tmp_path / "harmed")))
    with pytest.raises(VertfracError, match="scan"):
        read_image(tmp_path / "scan")
    assert not (tmp_path / "harmed").exists()


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory, make_model: Callable[..., Path]) -> Path:
    return make_model(tmp_path_factory.mktemp("sound") / "model")


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("name", ["model.json", "localizer-0.safetensors", "detector-0.safetensors"])
def test_a_model_folder_that_would_run_code_is_refused_and_runs_nothing(
    name: str, bomb: Callable[[Bomb], bytes], sound: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(sound, tmp_path / "model"))
    (folder / name).write_bytes(bomb(Bomb(tmp_path / "harmed")))
    if name != "model.json":  # its author would promise it, too
        card = json.loads((folder / "model.json").read_text())
        for entry in (*card["localizers"], *card["detectors"]):
            entry["sha256"] = hashlib.sha256((folder / entry["file"]).read_bytes()).hexdigest()
        (folder / "model.json").write_text(json.dumps(card))
    with pytest.raises(ModelError, match=name):
        load_model(folder, torch.device("cpu"))
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_checkpoint_that_would_run_code_is_refused_and_runs_nothing(
    bomb: Callable[[Bomb], bytes], tmp_path: Path
) -> None:
    (tmp_path / CHECKPOINT).write_bytes(bomb(Bomb(tmp_path / "harmed")))
    with pytest.raises(ModelError, match=f"{CHECKPOINT}: not a checkpoint of vertfrac"):
        fit(nn.Linear(1, 1), _step, _loss, SETTINGS, work=tmp_path, device=torch.device("cpu"))
    assert not (tmp_path / "harmed").exists()


def test_a_parquet_file_with_pickled_cells_runs_nothing(tmp_path: Path) -> None:
    rows = pd.DataFrame({"case": [pickled(Bomb(tmp_path / "harmed"))], "status": ["ok"], "reason": [""]})
    rows.to_parquet(tmp_path / "a.parquet")
    with pytest.raises(VertfracError, match=r"a\.parquet"):
        tables.read_table(tmp_path / "a.parquet", tables.CASE_STATUS)
    assert not (tmp_path / "harmed").exists()


def _step(step: int) -> int:
    return step


def _loss(network: nn.Module, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    value = network(torch.zeros(1, 1)).sum()
    return value, {"loss": value}
