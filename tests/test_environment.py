"""The environment is stated in several places, for pip, conda and the lock; they must say the same."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(name: str) -> dict[str, str]:
    lines = (line.strip() for line in (ROOT / name).read_text().splitlines())
    return dict(line.split("==") for line in lines if line and not line.startswith(("#", "-r")))


CONDA_NAMES = {"isal": "python-isal", "python-gdcm": "gdcm", "torch": "pytorch"}
"""What conda-forge calls a package of PyPI, where it has another name."""


def conda(requirement: str) -> str:
    name = Requirement(requirement).name
    return requirement.replace(name, CONDA_NAMES.get(name, name), 1)


def test_conda_environment_equals_the_dependencies() -> None:
    environment = yaml.safe_load((ROOT / "envs" / "vertfrac.yaml").read_text())["dependencies"]
    assert sorted(environment) == sorted([*map(conda, PROJECT["dependencies"]), f"python{PROJECT['requires-python']}"])


@pytest.mark.parametrize(
    ("lock", "dependencies"),
    [
        ("requirements.lock", PROJECT["dependencies"]),
        ("requirements-dev.lock", PROJECT["optional-dependencies"]["dev"]),
        ("requirements-dev.lock", PROJECT["optional-dependencies"]["slurm"]),
    ],
)
def test_lock_pins_every_dependency_inside_its_range(lock: str, dependencies: list[str]) -> None:
    pins = {normal(name): version for name, version in {**locked("requirements.lock"), **locked(lock)}.items()}
    for requirement in map(Requirement, dependencies):
        assert requirement.specifier.contains(pins[normal(requirement.name)]), requirement


def test_every_direct_dependency_is_explained_in_the_readme() -> None:
    table = (ROOT / "README.md").read_text().split("## Dependencies")[1].split("## ")[0]
    for requirement in map(Requirement, PROJECT["dependencies"]):
        assert re.search(rf"\b{re.escape(requirement.name)}\b", table), requirement.name


def test_documented_tables_are_the_tables() -> None:
    from click.testing import CliRunner

    from vertfrac.cli import main

    assert CliRunner().invoke(main, ["tables"]).output == (ROOT / "docs" / "tables.md").read_text()
