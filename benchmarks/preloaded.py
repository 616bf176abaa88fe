"""Calls of vertfrac in forks of one process that has imported everything, so that many of them cost little.

Each is a process of its own with its own signals, limits and exit status. What it shall meet, such as a signal in the
middle of a stage, is code that runs in the fork before the command.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

ROOT = Path(__file__).parents[1]

STAGES = {
    "read": "vertfrac.inference.predict.read_image",
    "resample": "vertfrac.inference.scan.cached_volume",
    "localize": "vertfrac.inference.scan.localize",
    "straighten": "vertfrac.inference.scan.straight_image",
    "detect": "vertfrac.inference.scan.detect",
    "measure": "vertfrac.inference.scan.measured_and_named",
    "write": "vertfrac.inference.predict.write_views",
    "tables": "vertfrac.inference.predict.write_report",
}
"""The function of each stage of ``vertfrac predict``, by the name that its caller knows it by."""


class Done(NamedTuple):
    """How a call ended: exit status (of one that a signal killed 128 and its number), and what it printed."""

    code: int
    out: str
    err: str


def signal_in(stage: str, name: str, *, call: int = 1) -> str:
    """Code that sends the process a signal when a function is called for the n-th time, and then calls it.

    stage : one of STAGES, or the function's own dotted name.
    """
    module, _, function = STAGES.get(stage, stage).rpartition(".")
    return f"""
import os, signal, {module} as module
true, calls = module.{function}, []
def signalled(*arguments, **options):
    calls.append(1)
    if len(calls) == {call}:
        os.kill(os.getpid(), signal.{name})
    return true(*arguments, **options)
module.{function} = signalled
"""


WITHOUT_PICTURES = """
import vertfrac.inference.predict as module
module.overlay = lambda path, **options: path.touch()
"""
"""Code that spares the drawing, most of the time of a small scan."""


class Preloaded:
    """The process that is forked; a context, at whose end it ends."""

    def __enter__(self) -> Preloaded:
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, __file__], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)

    def call(self, *arguments: object, before: str = "", folder: Path | None = None) -> Done:
        """Run ``vertfrac ARGUMENTS`` in a folder, here by default, after the code ``before``, and wait for its end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with tempfile.TemporaryDirectory() as said:
            call = {"arguments": [str(a) for a in arguments], "before": before, "said": said}
            self._process.stdin.write(json.dumps(call | {"folder": str(folder or Path.cwd())}) + "\n")
            self._process.stdin.flush()
            code = int(self._process.stdout.readline())
            return Done(code, *(Path(said, name).read_text(errors="replace") for name in ("out", "err")))


def _serve() -> None:
    """Fork for each line of standard input; answer with its exit status."""
    import vertfrac.cli.watching
    import vertfrac.report.dicom  # noqa: F401
    from vertfrac.cli import main

    gc.freeze()
    for line in sys.stdin:
        call = json.loads(line)
        if (child := os.fork()) == 0:
            for number, name in ((1, "out"), (2, "err")):
                os.dup2(os.open(Path(call["said"], name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
            os.chdir(call["folder"])
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
            code = 1
            try:
                exec(call["before"], {})
                main(call["arguments"], prog_name="vertfrac")
            except SystemExit as end:
                code = int(end.code or 0)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(code)  # the interpreter's own end would copy all that was imported
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(code if code >= 0 else 128 - code, flush=True)


if __name__ == "__main__":
    _serve()
