"""The group that all commands belong to: one line for each error, and an end with whoever called."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import click

from vertfrac import __version__
from vertfrac.errors import VertfracError

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_AT_ONCE_S = 5.0
"""Signals that come so soon after another are the same wish: Ctrl-C reaches a job directly and through its caller."""


class _Stopped(BaseException):
    """A signal asked this process to end. No KeyboardInterrupt, which libraries take for theirs to handle."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def _stopping() -> Iterator[None]:
    """Let signals that end a process raise, so that what it was writing is removed; those that are ignored stay so."""
    last = -math.inf

    def stop(number: int, _: object) -> None:
        nonlocal last
        before, last = last, time.monotonic()
        if last - before > _AT_ONCE_S:
            raise _Stopped(number)

    usual = (signal.SIG_DFL, signal.default_int_handler)
    here = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in STOPPING} if here else {}
    changed = {number: handler for number, handler in before.items() if handler in usual}
    for number in changed:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in changed.items():
            signal.signal(number, handler)


class _Commands(click.Group):
    """Prints a VertfracError, or what the operating system refused, as one line and exits with 1.

    A signal that stops a command is one line too, and the exit status is 128 and its number, as a shell has it.
    """

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with _stopping():
                return super().invoke(ctx)
        except _Stopped as stopped:
            name = signal.Signals(stopped.number).name
            click.echo(f"vertfrac: stopped by {name}; what was half-written is removed, call again", err=True)
            ctx.exit(128 + stopped.number)
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
