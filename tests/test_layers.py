"""Which module may import which: read from the source of every module, and tried where packages are missing."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import vertfrac

ROOT = Path(vertfrac.__file__).parent

ALLOWED: dict[str, tuple[set[str], set[str]]] = {
    "vertfrac.errors": (set(), set()),
    "vertfrac.config": ({"vertfrac.errors"}, {"pydantic", "yaml"}),
    "vertfrac.geometry": ({"vertfrac.errors", "vertfrac.geometry"}, {"numpy", "scipy", "shapely"}),
    "vertfrac.genant": (set(), {"numpy"}),
    "vertfrac.models": ({"vertfrac.errors", "vertfrac.geometry.grid", "vertfrac.models"}, {"torch", "numpy"}),
}
"""All that these may import directly: modules of vertfrac and, beside the standard library, packages."""

FORBIDDEN: dict[str, set[str]] = {
    "vertfrac": {"snakemake"},
    "vertfrac.cohorts": {"torch", "lightning", "vertfrac.models", "vertfrac.training", "vertfrac.inference"},
    "vertfrac.training": {"nibabel", "shapely", "vertfrac.cohorts", "vertfrac.imaging"},
    "vertfrac.inference": {"vertfrac.training"},
    "vertfrac.evaluation": {"vertfrac.training"},
    "vertfrac.report": {"vertfrac.training"},
}
"""What these may not import anywhere in their source, nor reach through the top-level imports of other modules."""


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}


def nodes(tree: ast.AST, *, top_level: bool) -> Iterator[ast.AST]:
    """All nodes; at top level only those that run when the module is imported."""
    for node in ast.iter_child_nodes(tree):
        if top_level and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if top_level and isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield node
        yield from nodes(node, top_level=top_level)


@cache
def imports(module: str, *, top_level: bool = False) -> frozenset[str]:
    """Modules of vertfrac and packages that a module imports; those of the standard library are left out."""
    found: set[str] = set()
    for node in nodes(ast.parse(MODULES[module].read_text(encoding="utf-8")), top_level=top_level):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative imports escape provenance.code_hash"
            named = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name for name in named if name in MODULES} or {str(node.module)}
    roots = {name if name in MODULES else name.split(".")[0] for name in found}
    return frozenset(name for name in roots if name not in sys.stdlib_module_names)


def reached(module: str) -> dict[str, str]:
    """All that a module imports, and all that comes with it: name -> the module that imports it."""
    by: dict[str, str] = {}
    waiting = [(name, module) for name in imports(module)]
    while waiting:
        name, importer = waiting.pop()
        if name in by:
            continue
        by[name] = importer
        if name in MODULES:
            waiting += [(found, name) for found in imports(name, top_level=True)]
            if "." in name:  # importing a.b runs a/__init__.py
                waiting.append((name.rpartition(".")[0], name))
    return by


def under(package: str) -> list[str]:
    found = [module for module in MODULES if within(module, package)]
    assert found, f"no module {package}; the rules of this test are out of date"
    return found


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_only_what_it_may(package: str) -> None:
    internal, packages = ALLOWED[package]
    for module in under(package):
        surplus = {
            name
            for name in imports(module)
            if not (any(within(name, allowed) for allowed in internal) if name in MODULES else name in packages)
        }
        assert not surplus, f"{module} imports {sorted(surplus)}"


@pytest.mark.parametrize("package", FORBIDDEN)
def test_reaches_nothing_forbidden(package: str) -> None:
    for module in under(package):
        for name, importer in reached(module).items():
            assert not any(within(name, taboo) for taboo in FORBIDDEN[package]), f"{module} gets {name} by {importer}"


def test_only_main_imports_the_command_line() -> None:
    outside = {module for module in MODULES if not within(module, "vertfrac.cli")}
    importing = {module for module in outside if any(within(name, "vertfrac.cli") for name in imports(module))}
    assert importing == {"vertfrac.__main__"}


@pytest.mark.parametrize("package", ["vertfrac", "vertfrac.geometry", "vertfrac.models", "vertfrac.training"])
def test_package_itself_imports_nothing(package: str) -> None:
    assert MODULES[package].name == "__init__.py"
    assert not imports(package, top_level=package == "vertfrac"), "what vertfrac offers is imported when asked for"


def test_training_imports_where_image_packages_are_missing() -> None:
    """As on a GPU machine that holds torch, but nothing that reads scans, intersects polygons or runs workflows."""
    program = """
import sys
for name in ("nibabel", "pydicom", "highdicom", "shapely", "snakemake", "vertfrac.cohorts", "vertfrac.imaging"):
    sys.modules[name] = None
import vertfrac.geometry.keypoints
import vertfrac.training.detector
import vertfrac.training.localizer
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT.parent, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
