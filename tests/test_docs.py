"""What the documentation shows runs: every Python snippet, one after the other, on a small scan."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

DOCS = Path(__file__).parents[1] / "docs"


def snippets(page: Path) -> list[str]:
    """The fenced blocks of Python of a page."""
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_every_snippet_of_the_python_page_runs(
    tmp_path: Path,
    make_model: Callable[..., Path],
    write_scan: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_model(tmp_path / "results" / "demo" / "models" / "vertfrac", objectness=3.0)
    write_scan(tmp_path / "scan.nii.gz", lambda x, y, z: 40 * np.sin(x / 9) + y + 30 * np.cos(z / 7))
    monkeypatch.chdir(tmp_path)
    page = DOCS / "python.md"
    names: dict[str, Any] = {}
    for number, snippet in enumerate(snippets(page), start=1):
        exec(compile(snippet, f"{page}, snippet {number}", "exec"), names)
    assert "vertebrae measured" in capsys.readouterr().out
    assert (tmp_path / "graded" / "scan" / "scan.json").is_file()
    assert len(names["vertebrae"]) == len(names["found"].vertebrae) > 0
    assert list(names["failed"]) == ["nowhere.nii.gz"]
