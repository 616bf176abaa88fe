"""Laws of shell completion: each shell gets its script, and what it asks for is the commands, options and files."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from vertfrac.cli import main

SHELLS = ("bash", "zsh", "fish")


def script(shell: str) -> str:
    result = CliRunner().invoke(main, ["completion", shell])
    assert result.exit_code == 0
    return result.stdout


def completions(shell: str, line: str, unfinished: str) -> list[str]:
    """What the program answers the script of a shell: click's own protocol, in variables of the environment."""
    words = {"bash": line + unfinished, "zsh": line + unfinished, "fish": line}[shell]
    position = unfinished if shell == "fish" else str(len(line.split()))
    environment = {"_VERTFRAC_COMPLETE": f"{shell}_complete", "COMP_WORDS": words, "COMP_CWORD": position}
    result = CliRunner().invoke(main, [], prog_name="vertfrac", env=environment)
    return re.split(r"[,\t\n]", result.output)


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_has_its_script(shell: str) -> None:
    assert f"_VERTFRAC_COMPLETE={shell}_complete" in script(shell)
    assert "vertfrac" in script(shell).splitlines()[0]


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_is_one_of_its_shell(shell: str, tmp_path: Path) -> None:
    if not shutil.which(shell):
        pytest.skip(f"no {shell} here")
    (tmp_path / "script").write_text(script(shell))
    subprocess.run([shell, "-n", str(tmp_path / "script")], check=True)


@pytest.mark.parametrize("shell", SHELLS)
def test_commands_and_options_are_completed(shell: str) -> None:
    assert "predict" in completions(shell, "vertfrac ", "pred")
    assert "ingest" not in completions(shell, "vertfrac ", "pred")
    assert "--json" in completions(shell, "vertfrac predict ", "--j")
    assert "file" in completions(shell, "vertfrac predict ", ""), "the shell completes paths itself"
    assert "cuda" in completions(shell, "vertfrac predict --device ", "c")


def test_bash_completes_a_line_by_the_script(tmp_path: Path) -> None:
    """The script itself, sourced and asked as bash asks it when a key is pressed."""
    program = tmp_path / "vertfrac"
    program.write_text(
        f"#!{sys.executable}\nfrom vertfrac.cli import main\nmain(prog_name='vertfrac')\n", encoding="utf-8"
    )
    program.chmod(0o755)
    (tmp_path / "script").write_text(script("bash"))
    asked = 'COMP_WORDS=(vertfrac compl); COMP_CWORD=1; _vertfrac_completion vertfrac; echo "${COMPREPLY[@]}"'
    done = subprocess.run(
        ["bash", "--norc", "-c", f"source {tmp_path}/script && {asked}"], capture_output=True, text=True, check=True,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert done.stdout.strip() == "completion", done.stderr


def test_another_shell_is_a_wrong_call() -> None:
    assert CliRunner().invoke(main, ["completion", "tcsh"]).exit_code == 2
