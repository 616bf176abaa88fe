"""Commands that tell: how far a run is, what tables hold, what a configuration means."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from vertfrac.cli.group import main
from vertfrac.cli.options import PATH


@main.command()
@click.argument("run", type=PATH, required=False)
@click.option("--json", "as_data", is_flag=True, help="print JSON")
@click.option("--follow", is_flag=True, help="print again every 5 s until the workflow ends")
@click.option("--benchmarks", is_flag=True, help="write RUN/benchmarks.parquet and .csv: time and memory of every job")
def status(run: Path | None, as_data: bool, follow: bool, benchmarks: bool) -> None:
    """Say what of a run of the workflow is done, running, failed and waiting, and how far its trainings are.

    RUN is results/NAME or a configuration file; default: the latest run in results/. Exits with 1 if a job failed.
    """
    import json

    from vertfrac import status as module

    folder = module.find_run(run)
    while True:
        found = module.read_run(folder)
        if follow:
            click.clear()
        click.echo(json.dumps(module.as_json(found), indent=2) if as_data else module.as_text(found))
        if not (follow and found.going):
            break
        time.sleep(5)
    if benchmarks:
        from vertfrac import tables

        table = tables.write_table(folder / "benchmarks.parquet", tables.BENCHMARKS, module.benchmark_rows(found))
        tables.write_csv(folder / "benchmarks.csv", table)
    if found.count("failed"):
        sys.exit(1)


@main.command("tables")
def tables_command() -> None:
    """Print the columns of every table: name, type, unit, meaning."""
    from vertfrac.tables import ALL

    click.echo("# Tables\n\nPrinted by `vertfrac tables`. Coordinates are world RAS, in millimetres.\n")
    click.echo("\n".join(schema.as_markdown() for schema in ALL), nl=False)


@main.command("predict-schema")
def predict_schema() -> None:
    """Print the JSON schema of the lines that ``vertfrac predict --json`` prints."""
    import json

    from vertfrac.report.scan_json import json_schema

    click.echo(json.dumps(json_schema(), indent=2))


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script by which a shell completes commands, options and file names of vertfrac.

    \b
    bash: vertfrac completion bash > ~/.local/share/bash-completion/completions/vertfrac
    zsh:  vertfrac completion zsh > DIRECTORY/_vertfrac, with a DIRECTORY of $fpath
    fish: vertfrac completion fish > ~/.config/fish/completions/vertfrac.fish
    """
    from click.shell_completion import ShellComplete, get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None, "click has these three built in"
    script = kind(main, {}, "vertfrac", "_VERTFRAC_COMPLETE")
    click.echo(ShellComplete.source(script), nl=False)  # its own method would start a bash to look at its version


@main.command("config-check")
@click.argument("path", type=PATH)
def config_check(path: Path) -> None:
    """Check a configuration file and print it with all defaults, as JSON."""
    from vertfrac.config import canonical, read_yaml, resolve

    click.echo(canonical(resolve(read_yaml(path), path.parent, str(path))))


@main.command("config-schema")
@click.option("--system", is_flag=True, help="of a file in config/systems, instead of a run's configuration")
def config_schema(system: bool) -> None:
    """Print the JSON schema of configuration files, by which editors complete and check them."""
    import json

    from vertfrac.config_schema import run_schema, system_schema

    click.echo(json.dumps(system_schema() if system else run_schema(), indent=2))
