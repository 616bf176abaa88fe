"""Types and options that several commands share, and what they mean inside one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    import torch

    from vertfrac.config import Section
    from vertfrac.models.device import Device

F = TypeVar("F", bound=Callable[..., Any])


class Shard(click.ParamType):  # type: ignore[type-arg]  # generic in new releases of click only
    """Part k of n, both from the text ``k/n``: (k, n) with 0 <= k < n."""

    name = "k/n"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        try:
            number, count = (int(part) for part in str(value).split("/"))
        except ValueError:
            self.fail(f"{value!r} is not k/n, such as 0/4", param, ctx)
        if not 0 <= number < count:
            self.fail(f"{value!r}: expected 0 <= k < n", param, ctx)
        return number, count


PATH = click.Path(path_type=Path)


def path_option(name: str, help: str, *, many: bool = False, **more: Any) -> Callable[[F], F]:
    """A required option that names a file or a folder, or several by being repeated."""
    return click.option(f"--{name}", type=PATH, required=True, multiple=many, help=help, **more)


def settings_option(name: str = "settings") -> Callable[[F], F]:
    """A required option that takes a section of the configuration."""
    return click.option(f"--{name}", required=True, help="section of the configuration, as JSON")


shard_option = click.option(
    "--shard", type=Shard(), default=(0, 1), help="do the cases k, k+n, ... only", metavar="K/N"
)
device_option = click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
threads_option = click.option("--threads", type=click.IntRange(min=1), help="CPU threads; default: all cores")
system_option = click.option("--system", required=True, help="name of the system")
repeat_option = click.option("--repeat", type=click.IntRange(min=0), default=0)
fold_option = click.option("--fold", type=click.IntRange(min=0), required=True)


def read_section(kind: type[Section], text: str) -> Any:
    """A section of the configuration, given as JSON by ``--settings``; ConfigError where it does not fit."""
    from vertfrac.config import parse_json

    return parse_json(kind, text, "--settings")


def compute_on(device: Device, threads: int | None) -> torch.device:
    """Where a command computes: a GPU, which no other process uses from then on, or so many threads of the CPU.

    Comes first, since a job that was promised a GPU shall fail at once where there is none (ModelError), and since CUDA
    sees only what is visible when it starts.
    """
    import torch

    from vertfrac.gpu import lease
    from vertfrac.models.device import pick_device

    if threads is not None:
        torch.set_num_threads(threads)
    if device != "cpu" and torch.version.cuda:
        lease(lambda line: click.echo(line, err=True))
    return pick_device(device)
