"""The group that all commands belong to: one line for each error, and an end with whoever called."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from typing import Any

import click

from vertfrac import __version__
from vertfrac.errors import VertfracError


class _Commands(click.Group):
    """Prints a VertfracError, or what the operating system refused, as one line and exits with 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except VertfracError as error:
            click.echo(f"vertfrac: {' '.join(str(error).split())}", err=True)
            ctx.exit(1)
        except OSError as error:
            click.echo(f"vertfrac: {error.filename or 'file system'}: {error.strerror or error}", err=True)
            ctx.exit(1)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="vertfrac")
def main() -> None:
    """Measure vertebral heights in CT and grade compression fractures by the Genant index."""
    if caller := os.environ.get(CALLER):
        threading.Thread(target=_end_with, args=(int(caller),), daemon=True).start()


CALLER = "VERTFRAC_CALLER"
"""Environment variable: the process that waits for a command's result."""


def _end_with(caller: int) -> None:
    """End this process at most a second after its caller, which was killed: nothing may write what nobody waits for."""
    with suppress(PermissionError):  # somebody else's process is not the caller
        while True:
            try:
                os.kill(caller, 0)
            except ProcessLookupError:
                click.echo(f"vertfrac: process {caller}, which called this command, is gone", err=True)
                os._exit(1)
            time.sleep(1)
