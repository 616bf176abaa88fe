"""The hash of a step's code: it follows what runs, through every kind of import, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vertfrac import provenance

SOURCES = {
    "__init__.py": '"""A package."""\n__version__ = "1"\n',
    "step.py": '''"""A step."""

from vertfrac import __version__, tables
from vertfrac.geometry import shapes as forms


class Step:
    """What it does."""

    def run(self, x: int) -> int:
        """Run it."""
        import vertfrac.late

        return tables.double(x) + forms.area(x)  # the sum


LIMIT = 3
"""What bounds it."""
''',
    "tables.py": "from vertfrac.deep.inner import FACTOR\n\n\ndef double(x):\n    return FACTOR * x\n",
    "late.py": "from vertfrac import step\n\nVALUE = 1\n",
    "apart.py": "VALUE = 1\n",
    "geometry/__init__.py": "",
    "geometry/shapes.py": "def area(x):\n    return x * x\n",
    "deep/__init__.py": "",
    "deep/inner.py": "FACTOR = 2\n",
}

Edit = Callable[[str, str, str], None]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "vertfrac"
    for name, text in SOURCES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    monkeypatch.setattr(provenance, "ROOT", folder)
    provenance._digest.cache_clear()
    yield folder
    provenance._digest.cache_clear()


@pytest.fixture
def edit(root: Path) -> Edit:
    def replace(name: str, old: str, new: str) -> None:
        text = (root / name).read_text(encoding="utf-8")
        assert text.count(old) == 1
        (root / name).write_text(text.replace(old, new), encoding="utf-8")
        provenance._digest.cache_clear()

    return replace


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("step.py", "  # the sum", ""),
        (
            "step.py",
            "return tables.double(x) + forms.area(x)",
            "return (\ntables.double(x) + forms.area(x))",
        ),
        ("step.py", '"""A step."""', "# no docstring"),
        ("step.py", "What it does.", "What it really does."),
        ("step.py", '        """Run it."""\n', ""),
        ("step.py", "What bounds it.", "The bound."),
        ("tables.py", "    return", '    """Twice."""\n    return'),
        ("deep/inner.py", "FACTOR = 2", "# two\nFACTOR   =  2"),
        ("apart.py", "VALUE = 1", "VALUE = 2"),
    ],
)
def test_unchanged_by_what_does_not_run(root: Path, edit: Edit, name: str, old: str, new: str) -> None:
    before = provenance.code_hash("vertfrac.step")
    edit(name, old, new)
    assert provenance.code_hash("vertfrac.step") == before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        pytest.param("step.py", "LIMIT = 3", "LIMIT = 4", id="the module itself"),
        pytest.param("step.py", "double(x) +", "double(x) -", id="a body"),
        pytest.param("__init__.py", '"1"', '"2"', id="from vertfrac import a name"),
        pytest.param("tables.py", "FACTOR * x", "x * FACTOR", id="from vertfrac import a module"),
        pytest.param("geometry/shapes.py", "x * x", "x**2", id="from a package import a module as"),
        pytest.param("deep/inner.py", "2", "3", id="imported by an imported module"),
        pytest.param("late.py", "1", "2", id="imported within a function"),
    ],
)
def test_changed_by_what_runs(root: Path, edit: Edit, name: str, old: str, new: str) -> None:
    before = provenance.code_hash("vertfrac.step")
    edit(name, old, new)
    assert provenance.code_hash("vertfrac.step") != before


def test_several_modules_in_any_order_and_short_names(root: Path) -> None:
    both = provenance.code_hash("vertfrac.step", "vertfrac.apart")
    assert both == provenance.code_hash("apart", "step")
    assert both != provenance.code_hash("vertfrac.step")
    assert len(both) == 12


def test_unknown_module_is_named(root: Path) -> None:
    with pytest.raises(ValueError, match=r"vertfrac\.nowhere"):
        provenance.code_hash("vertfrac.nowhere")


def test_covers_the_real_package() -> None:
    assert provenance.code_hash("vertfrac.training.detector") != provenance.code_hash("vertfrac.training.localizer")
