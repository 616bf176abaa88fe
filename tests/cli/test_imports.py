"""What commands import: nothing that they do not need, so that they start at once. In processes of their own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

MakeModel = Callable[..., Path]
WriteScan = Callable[..., Path]

ASKED = "IMPORTED: "
CODE = f"""
import sys
from vertfrac.cli import main
try:
    main(sys.argv[2:])
finally:
    print("{ASKED}" + " ".join(name for name in sys.argv[1].split() if name in sys.modules))
"""
HEAVY = "torch numpy scipy pandas pyarrow matplotlib nibabel pydicom highdicom sklearn shapely snakemake lightning rich"
NEEDLESS = "highdicom sklearn snakemake lightning tensorboard jsonschema torch._inductor matplotlib.pyplot"


def run(names: str, *arguments: str | Path) -> tuple[set[str], subprocess.CompletedProcess[str]]:
    """Which of the names a command had imported at its end."""
    command = [sys.executable, "-c", CODE, names, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    (line,) = (line for line in done.stdout.splitlines() if line.startswith(ASKED))
    return set(line.removeprefix(ASKED).split()), done


@pytest.mark.parametrize("command", [(), ("predict",), ("archive", "measure"), ("phantom",), ("evaluate",)])
def test_help_imports_nothing_heavy(command: tuple[str, ...]) -> None:
    imported, done = run(HEAVY, *command, "--help")
    assert done.returncode == 0, done.stderr
    assert imported == set()


def test_a_prediction_imports_only_what_it_uses(tmp_path: Path, make_model: MakeModel, write_scan: WriteScan) -> None:
    scan = write_scan(tmp_path / "one.nii", lambda x, y, z: 40 * np.sin(x / 9) + y + 30 * np.cos(z / 7))
    model = make_model(tmp_path / "model", objectness=3.0)
    imported, done = run(
        f"{NEEDLESS} torch matplotlib", "predict", scan, "--out", tmp_path / "out", "--model", model, "--device", "cpu"
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "one" / "overlay.png").is_file()
    assert imported == {"torch", "matplotlib"}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--dicom"], "one.nii.gz: a NIfTI file, expected a folder with a DICOM series"),
        (["--model", "nowhere"], "nowhere: not a model folder"),
    ],
)
def test_what_cannot_be_done_is_refused_before_torch_is_imported(
    tmp_path: Path, options: list[str], reason: str
) -> None:
    imported, done = run("torch matplotlib", "predict", "one.nii.gz", "--out", tmp_path / "out", *options)
    assert done.returncode == 1
    assert imported == set()
    assert done.stderr.startswith("vertfrac: ")
    assert reason in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()
