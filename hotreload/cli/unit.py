"""`hotreload unit`: a systemd unit for this installation."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import click

from hotreload.admin.place import parse_address
from hotreload.cli.exits import Exit
from hotreload.cli.options import aside, prints_json
from hotreload.cli.show import print_json
from hotreload.cli.target import load_target
from hotreload.systemd import unit as units


def _address(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    try:
        if value is not None:
            parse_address(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    return value


@click.command()
@click.argument("target", metavar="MODULE:ATTR", required=False)
@click.option("--openviking", is_flag=True, help="The stock openviking-server, instead of MODULE:ATTR.")
@click.option("--http", callback=_address, help="Serve HOST:PORT too (MODULE:ATTR only).")
@click.option("--user", is_flag=True, help="For a user's own manager (systemctl --user).")
@prints_json
def unit(target: str | None, openviking: bool, http: str | None, user: bool, as_json: bool) -> int:
    """Print a systemd unit that runs a service with this installation.

    \b
    hotreload unit --openviking > /etc/systemd/system/openviking.service
    hotreload unit examples.summaries.service:service --user
    """
    if openviking == (target is not None):
        raise click.UsageError("give either MODULE:ATTR or --openviking")
    if openviking and http is not None:
        raise click.UsageError("OpenViking's address is in its own ov.conf")
    command = units.installed_command(sys.executable, sys.argv[:1])
    if target is None:
        made = units.of_openviking(command, user=user)
    else:
        service = aside(lambda: load_target(target))
        made = units.of_service(target, service.name, command, http=http, user=user, folder=_folder_of(target))
    if not user:
        _warn_of_closed_folders(Path(command[0]), Path(sys.executable).resolve(), made.name)
    if as_json:
        print_json({"unit": made.text()})
    else:
        click.echo(made.text(), nl=False)
    return Exit.DONE


def _warn_of_closed_folders(script: Path, python: Path, name: str) -> None:
    """Say it where the user that a system unit runs as cannot reach what it runs, as systemd does at the start only."""
    for path in (script, python):
        with suppress(OSError):
            if (closed := units.closed_folder(path)) is not None:
                hint = f"install it where {name} can read it, for example below /opt"
                click.echo(
                    f"hotreload: warning: the user {name} may not enter {closed}, where {path} is: {hint}", err=True
                )


def _folder_of(target: str) -> Path | None:
    """Return the current folder where the target is found through it, None where it is installed."""
    module = sys.modules[target.partition(":")[0].partition(".")[0]]
    files = [*getattr(module, "__path__", ()), getattr(module, "__file__", None) or "/"]
    here = Path.cwd()
    return here if Path(files[0]).parent == here else None
