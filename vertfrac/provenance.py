"""Which code a step runs, as a hash: changed code makes its results stale, changed comments do not.

The hash covers the module a step enters and every ``vertfrac`` module it imports, directly or not. Comments, docstrings
and formatting do not count.
"""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent


def code_hash(*modules: str) -> str:
    """Hash of the given modules (as "vertfrac.training.localizer") and all vertfrac modules they import, 12 digits."""
    seen: dict[str, str] = {}
    waiting = [f"{ROOT.name}.{name}" if not name.startswith(ROOT.name) else name for name in modules]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen[name], imported = _digest(name)
        waiting += imported
    text = "\n".join(f"{name} {seen[name]}" for name in sorted(seen))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _path(module: str) -> Path | None:
    stem = ROOT.parent.joinpath(*module.split("."))
    for path in (stem.with_suffix(".py"), stem / "__init__.py"):
        if path.is_file():
            return path
    return None


def _is_docstring(statement: ast.stmt) -> bool:
    """Whether a statement is a bare text: the docstring of a module, class or function, or of the constant above it."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


@cache
def _digest(module: str) -> tuple[str, tuple[str, ...]]:
    """Hash of one module's code, and the vertfrac modules it imports."""
    path = _path(module)
    if path is None:
        raise ValueError(f"no module {module} below {ROOT}")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names if alias.name.split(".")[0] == ROOT.name}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == ROOT.name:
            parts = {f"{node.module}.{alias.name}" for alias in node.names}
            imported |= {part for part in parts if _path(part)} | {node.module}
        body = getattr(node, "body", None)
        if isinstance(body, list):
            body[:] = [statement for statement in body if not _is_docstring(statement)]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), tuple(sorted(imported))
