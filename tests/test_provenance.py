"""What a step runs: its hash follows names through every kind of import, and nothing else; its libraries likewise."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vertfrac import provenance

REAL = provenance.ROOT

SOURCES = {
    "__init__.py": '"""A package."""\n__version__ = "1"\n',
    "step.py": '''"""A step."""

import json
from typing import TYPE_CHECKING

import numpy as np

from vertfrac import __version__, tables
from vertfrac.config import DEFAULT
from vertfrac.geometry import shapes as forms

if TYPE_CHECKING:
    import pandas as pd


class Step:
    """What it does."""

    def run(self, x: int, other: int) -> "pd.DataFrame":
        """Run it."""
        import vertfrac.late
        from sklearn.metrics import auc

        halves = [square / 2 for square in (x, other)]
        return tables.double(x) + forms.area(x) + vertfrac.late.VALUE + auc(halves)  # the sum


def other():
    return Step().run(LIMIT + DEFAULT, json.loads(__version__))


def square():
    import scipy

    return scipy.special(np.pi)


LIMIT = 3
"""What bounds it."""
''',
    "tables.py": """from vertfrac.deep import FACTOR


def double(x):
    return FACTOR * x


def unused():
    return 1
""",
    "late.py": "from vertfrac import step\n\nVALUE = 1\nregister = []\nregister.append(VALUE)\n",
    "apart.py": "VALUE = 1\n",
    "config.py": "DEFAULT = 1\n",
    "cli/__init__.py": "from vertfrac.cli.steps import other_command, run\n",
    "cli/group.py": '''import click

from vertfrac import step


@click.group()
@click.version_option(step.__version__)
def main():
    """All."""
''',
    "cli/steps.py": """import click

from vertfrac.cli.group import main


@main.command()
@click.option("--x", help="what to square")
def run(x):
    from vertfrac.geometry.shapes import area

    click.echo(area(x))


@main.command("other")
def other_command():
    run("x")
""",
    "geometry/__init__.py": "",
    "geometry/shapes.py": "def area(x):\n    return x * x\n",
    "deep/__init__.py": "from vertfrac.deep.inner import FACTOR, IDLE\n",
    "deep/inner.py": "FACTOR = 2\nIDLE = 3\n",
}

Edit = Callable[[str, str, str], None]


def forget() -> None:
    for cached in (provenance._module, provenance._reached, provenance._pins):
        cached.cache_clear()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "vertfrac"
    for name, text in SOURCES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (tmp_path / "lock").write_text("# pins\nclick==1\nnumpy==2.1\npandas==3\nscikit-learn==1.5\nscipy==1.2\n")
    monkeypatch.setattr(provenance, "ROOT", folder)
    monkeypatch.setattr(provenance, "LOCK", tmp_path / "lock")
    forget()
    yield folder
    forget()


@pytest.fixture
def edit(root: Path) -> Edit:
    def replace(name: str, old: str, new: str) -> None:
        text = (root / name).read_text(encoding="utf-8")
        assert text.count(old) == 1
        (root / name).write_text(text.replace(old, new), encoding="utf-8")
        forget()

    return replace


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("step.py", "  # the sum", ""),
        ("step.py", "return tables.double(x) +", "return (\ntables.double(x)) +"),
        ("step.py", '"""A step."""', "# no docstring"),
        ("step.py", "What it does.", "What it really does."),
        ("step.py", '        """Run it."""\n', ""),
        ("step.py", "What bounds it.", "The bound."),
        ("tables.py", "    return FACTOR", '    """Twice."""\n    return FACTOR'),
        ("deep/inner.py", "FACTOR = 2", "# two\nFACTOR   =  2"),
        ("apart.py", "VALUE = 1", "VALUE = 2"),
        pytest.param("tables.py", "return 1", "return 2", id="a function beside that is not called"),
        pytest.param("deep/inner.py", "IDLE = 3", "IDLE = 4", id="a constant that is imported and not used"),
        pytest.param("step.py", "np.pi", "np.e", id="a function named like a variable"),
        pytest.param("config.py", "1", "2", id="the configuration, which is in the parameters"),
    ],
)
def test_unchanged_by_what_does_not_run(root: Path, edit: Edit, name: str, old: str, new: str) -> None:
    before = provenance.code_hash("step.other")
    edit(name, old, new)
    assert provenance.code_hash("step.other") == before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        pytest.param("step.py", "LIMIT = 3", "LIMIT = 4", id="a constant of the module itself"),
        pytest.param("step.py", "double(x) +", "double(x) -", id="a method"),
        pytest.param("step.py", "Step().run(", "Step().run(1 + ", id="the entry"),
        pytest.param("__init__.py", '"1"', '"2"', id="from vertfrac import a name"),
        pytest.param("tables.py", "FACTOR * x", "x * FACTOR", id="from vertfrac import a module"),
        pytest.param("geometry/shapes.py", "x * x", "x**2", id="from a package import a module as"),
        pytest.param("deep/inner.py", "FACTOR = 2", "FACTOR = 3", id="passed on by a package"),
        pytest.param("late.py", "VALUE = 1", "VALUE = 2", id="imported within a function"),
        pytest.param("late.py", "append(VALUE)", "append(2)", id="run when a module is imported"),
    ],
)
def test_changed_by_what_runs(root: Path, edit: Edit, name: str, old: str, new: str) -> None:
    before = provenance.code_hash("step.other")
    edit(name, old, new)
    assert provenance.code_hash("step.other") != before


def test_a_subcommand_counts_for_its_own_step_without_help_texts_and_group(root: Path, edit: Edit) -> None:
    run, other = (provenance.code_hash(f"cli.{name}") for name in ("run", "other_command"))
    edit("cli/steps.py", "what to square", "the number to square")
    edit("cli/group.py", "step.__version__", "step.LIMIT")
    assert provenance.code_hash("cli.run") == run
    edit("cli/steps.py", 'run("x")', 'run("y")')
    assert provenance.code_hash("cli.run") == run
    assert provenance.code_hash("cli.other_command") != other
    edit("cli/steps.py", "area(x)", "area(x + 1)")
    assert provenance.code_hash("cli.run") != run


def test_libraries_are_those_that_what_runs_imports(root: Path) -> None:
    assert provenance.packages("step.other") == "scikit-learn==1.5"
    assert provenance.packages("step.square") == "numpy==2.1 scipy==1.2"
    assert provenance.packages("cli.run") == ""
    assert provenance.packages("step") == "numpy==2.1 scikit-learn==1.5 scipy==1.2"


def test_a_changed_pin_counts_where_the_library_is_used(root: Path) -> None:
    before = {name: provenance.provenance(name) for name in ("step.other", "step.square")}
    provenance.LOCK.write_text(provenance.LOCK.read_text().replace("numpy==2.1", "numpy==2.2"))
    forget()
    assert provenance.provenance("step.other") == before["step.other"]
    assert provenance.provenance("step.square") == before["step.square"].replace("numpy==2.1", "numpy==2.2")


def test_without_a_lock_file_the_installed_versions_count(root: Path) -> None:
    import numpy

    provenance.LOCK.unlink()
    forget()
    assert f"numpy=={numpy.__version__}" in provenance.packages("step.square")


def test_several_entries_in_any_order(root: Path) -> None:
    both = provenance.code_hash("step.other", "apart")
    assert both == provenance.code_hash("apart", "step.other")
    assert both != provenance.code_hash("step.other")
    assert len(both) == 12


@pytest.mark.parametrize(
    ("entry", "words"),
    [("nowhere.run", r"vertfrac defines no nowhere"), ("step.nothing", r"vertfrac\.step defines no nothing")],
)
def test_an_unknown_entry_is_named(root: Path, entry: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        provenance.code_hash(entry)


@pytest.mark.parametrize(
    "line",
    [
        "from . import tables",
        "from vertfrac.tables import *",
        "if tables:\n    LIMIT = 4",
        "try:\n    x\nfinally:\n    y",
    ],
)
def test_what_cannot_be_followed_is_refused(root: Path, edit: Edit, line: str) -> None:
    edit("step.py", "LIMIT = 3", f"LIMIT = 3\n{line}")
    with pytest.raises(ValueError, match=r"step\.py:\d+: .*expected"):
        provenance.code_hash("step.other")


# --- the package itself


def commands() -> list[str]:
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (REAL / "cli").glob("*.py")]
    functions = [node for tree in trees for node in tree.body if isinstance(node, ast.FunctionDef)]
    return [node.name for node in functions if any(map(provenance._registers, node.decorator_list))]


def test_every_module_can_be_followed_and_every_library_is_pinned() -> None:
    modules = [path.relative_to(REAL).with_suffix("") for path in REAL.rglob("*.py")]
    names = [".".join(module.parts).removesuffix(".__init__") for module in modules if module.parts != ("__init__",)]
    libraries = provenance._reached(tuple(names))[1] - provenance.NOT_COMPUTING
    pins = provenance._pins()
    for library in libraries:
        for name in provenance.DISTRIBUTIONS.get(library, (library,)):
            assert name in pins, name


def test_only_the_adapters_of_cohorts_are_imported_by_a_computed_name() -> None:
    """An entry of its own names the adapter; any other such import would escape the hash."""
    computed = [path for path in REAL.rglob("*.py") if "import_module" in path.read_text(encoding="utf-8")]
    assert computed == [REAL / "cohorts" / "sources.py"]
    assert not [path for path in REAL.rglob("*.py") if "__import__" in path.read_text(encoding="utf-8")]


def test_no_step_of_the_workflow_reads_files_of_the_package() -> None:
    """Their content would escape the hash; what has a template or takes the model that vertfrac brings is no step."""
    steps = set(commands()) - {"cohort_check", "predict", "pretrain", "report"}
    for step in steps:
        assert "jinja2" not in provenance._reached((f"cli.{step}",))[1], step
    files = {path.name for path in REAL.rglob("*.py") if "__file__" in path.read_text(encoding="utf-8")}
    assert files == {"config.py", "provenance.py", "card.py"}, "systems that config reads are in the rules' parameters"
    rules = "".join(path.read_text(encoding="utf-8") for path in (REAL.parent / "workflow").rglob("*.smk"))
    assert not re.search(r"vertfrac (predict|cohort|pretrain)\b", rules)


def test_sections_of_the_configuration_compute_nothing() -> None:
    """Which is why the module does not count: only validators, and what the workflow alone asks for."""
    tree = ast.parse((REAL / "config.py").read_text(encoding="utf-8"))
    methods = {
        f"{section.name}.{method.name}"
        for section in tree.body
        if isinstance(section, ast.ClassDef)
        for method in section.body
        if isinstance(method, ast.FunctionDef) and not method.name.startswith("_")
    }
    assert methods == {"Folds.count"}


def test_training_depends_on_nothing_that_reads_scans_or_draws() -> None:
    for step in ("cli.train_localizer", "cli.train_detector"):
        assert not {"nibabel", "pydicom", "matplotlib", "shapely", "sklearn"} & provenance._reached((step,))[1]
