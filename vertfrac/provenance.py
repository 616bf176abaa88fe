"""Which code a step runs and on which libraries, so that a change of either makes its results stale, and nothing else.

A step is entered at one function, such as ``cli.train_localizer``. From there every name is followed through the
package: to functions, classes and constants, into the modules they are imported from, and on from there. What is
reached is the step's code, what is imported from outside are its libraries. Comments, docstrings, formatting, and
whatever else stands in the same modules do not count.

Two things are left out on purpose. ``vertfrac.config`` checks values and computes none, and what it makes of a
configuration is in the parameters of each rule. Texts with a space in ``vertfrac.cli`` are help for people.
A module that is imported by a computed name (``cohorts.sources`` does so) must be named as one more entry.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parent
LOCK = ROOT.parent / "requirements.lock"

_UNCOUNTED = {"vertfrac.config", "vertfrac.provenance"}
_CLI = "vertfrac.cli"

NOT_COMPUTING = {"click", "filelock"}
"""Libraries on which no result depends: they read options and lock files."""

DISTRIBUTIONS = {
    "PIL": ("pillow",),
    "pydicom": ("pydicom", "python-gdcm", "pillow"),
    "sklearn": ("scikit-learn",),
    "yaml": ("pyyaml",),
}
"""What to install for an import, where that is not its name; of pydicom also the decoders that it finds by itself."""


def code_hash(*entries: str) -> str:
    """Hash of the code behind entries such as "training.localizer.train_localizer", 12 digits.

    An entry is a function or class of vertfrac, or a module with all that it defines. ValueError names one that is not.
    """
    text = "\n".join(f"{name} {digest}" for name, digest in sorted(_reached(entries)[0].items()))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def packages(*entries: str) -> str:
    """The libraries that the code behind entries imports, as "numpy==2.4.6 scipy==1.17.1".

    Versions are those of requirements.lock; the installed ones where vertfrac is installed without its lock file.
    """
    libraries = _reached(entries)[1] - NOT_COMPUTING
    names = sorted({name for library in libraries for name in DISTRIBUTIONS.get(library, (library,))})
    pins = _pins()
    return " ".join(f"{name}=={pins.get(name) or metadata.version(name)}" for name in names)


def provenance(*entries: str) -> str:
    """What a step runs, as one text: the hash of its code, and its libraries with their versions."""
    return f"{code_hash(*entries)} {packages(*entries)}".strip()


@cache
def _pins() -> dict[str, str]:
    """Versions in the lock file by name, none without the file."""
    lines = LOCK.read_text(encoding="utf-8").splitlines() if LOCK.is_file() else []
    return dict(line.split("==") for line in lines if not line.startswith("#"))


@cache
def _reached(entries: tuple[str, ...]) -> tuple[dict[str, str], set[str]]:
    """What entries lead to: the hash of every definition by its name, and the libraries that these import."""
    code: dict[str, str] = {}
    libraries: set[str] = set()
    seen: set[str] = set()
    waiting = [f"{ROOT.name}.{entry}" for entry in entries]
    while waiting:
        target = waiting.pop()
        if target in seen:
            continue
        seen.add(target)
        package = target.split(".")[0]
        if package != ROOT.name:
            libraries |= {package} - sys.stdlib_module_names
            continue
        name, rest = _split(target)
        if name in _UNCOUNTED:
            continue
        module = _module(name)
        if rest and rest[0] in module.imports:
            waiting.append(".".join([module.imports[rest[0]], *rest[1:]]))
        elif rest and rest[0] not in module.bound:
            raise ValueError(f"{name} defines no {rest[0]}")
        for bound in rest[:1] or module.bound:
            statements = [*module.bound.get(bound, ()), *module.always]
            code[f"{name}.{bound}"] = " ".join(statement.digest for statement in statements)
            waiting += [found for statement in statements for found in module.targets(name, statement)]
    return code, libraries


def _split(target: str) -> tuple[str, list[str]]:
    """A dotted name as the module it is in, and the rest."""
    parts = target.split(".")
    for end in range(len(parts), 0, -1):
        if _path(module := ".".join(parts[:end])):
            return module, parts[end:]
    raise ValueError(f"no module of {target} below {ROOT}")


def _path(module: str) -> Path | None:
    stem = ROOT.parent.joinpath(*module.split("."))
    return next((path for path in (stem.with_suffix(".py"), stem / "__init__.py") if path.is_file()), None)


@dataclass(frozen=True)
class _Statement:
    """A top-level statement and what imports inside it bind; its other two facts only if something leads to it."""

    node: ast.stmt
    imports: dict[str, str]

    @cached_property
    def digest(self) -> str:
        """Hash of the code."""
        return hashlib.sha256(ast.dump(self.node).encode()).hexdigest()

    @cached_property
    def names(self) -> frozenset[str]:
        """The dotted names in it that can lead elsewhere."""
        return frozenset(_names(self.node))


@dataclass(frozen=True)
class _Module:
    """The top-level statements by the names they bind, those that bind none, and what the module's imports bind."""

    bound: dict[str, list[_Statement]]
    always: list[_Statement]
    imports: dict[str, str]

    def targets(self, name: str, statement: _Statement) -> Iterator[str]:
        """The names in a statement as what they stand for, as far as that is defined or imported at all."""
        known = self.imports | statement.imports
        for first, *rest in (dotted.split(".") for dotted in statement.names):
            if first in known:
                yield ".".join([known[first], *rest])
            elif first in self.bound:
                yield ".".join([name, first, *rest])


@cache
def _module(name: str) -> _Module:
    path = _path(name)
    assert path is not None, name
    module = _Module({}, [], {})
    for node in ast.parse(path.read_text(encoding="utf-8"), str(path)).body:
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "__name__ == '__main__'"):
            continue
        imports = _clean(node, path, texts=f"{name}.".startswith(f"{_CLI}."))
        if isinstance(node, ast.Import | ast.ImportFrom):
            module.imports.update(imports)
            continue
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            node.decorator_list[:] = [part for part in node.decorator_list if not _registers(part)]
            bound = {node.name}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            places = node.targets if isinstance(node, ast.Assign) else [node.target]
            bound = {part.id for place in places for part in ast.walk(place) if isinstance(part, ast.Name)}
        elif isinstance(node, ast.Expr):
            bound = set()
        else:
            raise ValueError(f"{path}:{node.lineno}: {type(node).__name__}, expected definitions at the top level")
        if _is_docstring(node):
            continue
        statement = _Statement(node, imports)
        for key in bound:
            module.bound.setdefault(key, []).append(statement)
        if not bound:
            module.always.append(statement)
    return module


def _clean(statement: ast.stmt, path: Path, *, texts: bool) -> dict[str, str]:
    """Remove docstrings, and on request the texts for people; returns what imports inside bind: name -> dotted name."""
    found: dict[str, str] = {}
    for node in ast.walk(statement):
        if isinstance(body := getattr(node, "body", None), list):
            body[:] = [part for part in body if not _is_docstring(part)]
        if isinstance(node, ast.Constant):
            if texts and isinstance(node.value, str) and " " in node.value:
                node.value = ""
        elif isinstance(node, ast.Import):
            for alias in node.names:
                whole = alias.name if alias.asname else alias.name.split(".")[0]
                found[alias.asname or whole] = whole
        elif isinstance(node, ast.ImportFrom):
            if node.level or node.names[0].name == "*":
                raise ValueError(f"{path}:{node.lineno}: expected imports by full names, which can be followed")
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _is_docstring(node: ast.stmt) -> bool:
    """Whether a statement is a bare text: the docstring of a module, class or function, or of the constant above it."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _registers(decorator: ast.expr) -> bool:
    """Whether a decorator is a group's ``command(...)``: it would lead to the group, and so to the version."""
    call = decorator.func if isinstance(decorator, ast.Call) else decorator
    return isinstance(call, ast.Attribute) and call.attr == "command"


def _names(node: ast.AST, local: frozenset[str] = frozenset()) -> Iterator[str]:
    """Names of the module that a piece of code uses, with the attributes taken of them: "x", "tables.read_table".

    local : what is a variable here, so that a parameter called like a function of the module does not lead to it.
    """
    attributes: list[str] = []
    while isinstance(node, ast.Attribute):
        attributes.append(node.attr)
        node = node.value
    if isinstance(node, ast.Name):
        if node.id not in local:
            yield ".".join([node.id, *reversed(attributes)])
        return
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        inside = local | {part.arg for part in ast.walk(node.args) if isinstance(part, ast.arg)}
        body = node.body if isinstance(node.body, list) else [node.body]
        inside |= {name for part in body for name in _variables(part)}
        for child in ast.iter_child_nodes(node):  # decorators, defaults and annotations belong to the scope around it
            yield from _names(child, inside if child in body else local)
        return
    if isinstance(node, ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
        local = local | {name for part in node.generators for name in _variables(part.target)}
    for child in ast.iter_child_nodes(node):
        yield from _names(child, local)


_SCOPES = (
    ast.FunctionDef,
    ast.AsyncFunctionDef,
    ast.ClassDef,
    ast.Lambda,
    ast.ListComp,
    ast.SetComp,
    ast.DictComp,
    ast.GeneratorExp,
)


def _variables(node: ast.AST) -> Iterator[str]:
    """Names that a piece of code assigns in its own scope; what it imports is none, since that can be followed."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        yield node.id
    elif isinstance(node, ast.ExceptHandler) and node.name:
        yield node.name
    if not isinstance(node, _SCOPES):
        for child in ast.iter_child_nodes(node):
            yield from _variables(child)
