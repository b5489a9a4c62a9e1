"""One function a verb: options in, one call, the answer shown, an exit code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hotreload.admin.place import check_name, parse_address
from hotreload.cli.client import Client
from hotreload.cli.exits import Exit, Failure
from hotreload.cli.fleet import drain_all, nodes_of, show_nodes
from hotreload.cli.follow import follow_drain, watch_status
from hotreload.cli.jobs import jobs
from hotreload.cli.options import PATH, SECONDS, finds_service, prints_json
from hotreload.cli.page import page
from hotreload.cli.reindex import reindex
from hotreload.cli.reloading import check, reload, schema
from hotreload.cli.show import console, drain_view, print_json, status_view
from hotreload.cli.store import store
from hotreload.cli.target import OpenViking, load_target
from hotreload.cli.unit import unit
from hotreload.client.find import Wanted, find

if TYPE_CHECKING:
    from hotreload.logs import LogFormat

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


def _address(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    return _checked(parse_address, value)


def _name(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    return _checked(check_name, value)


def _checked(check: Callable[[str], object], value: str | None) -> str | None:
    """Refuse an option's value as wrong usage where `check` does."""
    try:
        if value is not None:
            check(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    return value


@click.group(context_settings=CONTEXT)
@click.version_option(package_name="openviking-hotreload", prog_name="hotreload")
def root() -> None:
    """Run services whose configuration changes while they work, and ask them to reload and to drain.

    \b
    hotreload run examples.summaries.service:service --config ov.conf
    hotreload reload
    """


@root.command()
@click.argument("target", metavar="MODULE:ATTR")
@click.option("--config", type=PATH, help="The configuration file, ov.conf.")
@click.option("--http", callback=_address, help="Serve HOST:PORT too.")
@click.option("--socket", "socket_path", type=PATH, help="The control socket, instead of the default place.")
@click.option("--name", callback=_name, help="Instead of the service's own name.")
@click.option("--last-known-good", is_flag=True, help="Start on the last good file where ov.conf is broken.")
@click.option("--until-idle", is_flag=True, help="Leave when no job is left; exit 1 if dead ones remain.")
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"], case_sensitive=False),
    default="text",
    envvar="HOTRELOAD_LOG_FORMAT",
    help="Lines with dates, or one JSON object a line (or HOTRELOAD_LOG_FORMAT).",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error", "critical"], case_sensitive=False),
    envvar="HOTRELOAD_LOG_LEVEL",
    help="Instead of `hotreload.log_level` (or HOTRELOAD_LOG_LEVEL).",
)
def run(
    target: str,
    config: Path | None,
    http: str | None,
    socket_path: Path | None,
    name: str | None,
    last_known_good: bool,
    until_idle: bool,
    log_format: LogFormat,
    log_level: str | None,
) -> int:
    """Run a service in the foreground.

    \b
    hotreload run examples.summaries.service:service --config ov.conf --http 127.0.0.1:8750
    """
    service = load_target(target)
    from hotreload.host.start import RunOptions

    options = RunOptions(
        config=config,
        http=http,
        socket=socket_path,
        name=name,
        last_known_good=last_known_good,
        until_idle=until_idle,
        log_format=log_format,
        log_level=log_level,
    )
    return service.run(options)


@root.command()
@click.argument("arguments", nargs=-1, metavar="[-- ARGS]")
@click.option("--config", type=PATH, help="ov.conf; searched as OpenViking does without it.")
@click.option("--socket", "socket_path", type=PATH, help="The control socket, instead of the default place.")
@click.option("--name", callback=_name, help="Instead of `openviking`.")
@click.option("--last-known-good", is_flag=True, help="Start on the last good file where ov.conf is broken.")
def openviking(
    arguments: tuple[str, ...], config: Path | None, socket_path: Path | None, name: str | None, last_known_good: bool
) -> int:
    """Run the stock openviking-server with reload, drain, systemd and recovery; ARGS go to it unchanged.

    \b
    hotreload openviking --config ov.conf -- --port 1933
    """
    stock = OpenViking()
    from hotreload.host.start import RunOptions

    options = RunOptions(config=config, socket=socket_path, name=name, last_known_good=last_known_good)
    return stock.run(options, arguments)


@root.command()
@click.option("--watch", is_flag=True, help="Go on showing it until it is gone or Ctrl-C.")
@click.option("--all", "everywhere", is_flag=True, help="A row for every node on the same PostgreSQL store.")
@finds_service
@prints_json
def status(watch: bool, everywhere: bool, wanted: Wanted, as_json: bool) -> int:
    """Show generation, pools, queues, the last reload and the drain.

    \b
    hotreload status --watch
    """
    if watch and (as_json or everywhere):
        raise click.UsageError("--watch goes with neither --json nor --all")
    with Client(find(wanted)) as client:
        if everywhere:
            return show_nodes(nodes_of(client), as_json=as_json)
        document = client.status()
        if watch:
            watch_status(client, document)
        elif as_json:
            print_json(document)
        else:
            console().print(status_view(document))
    return Exit.DONE


@root.command()
@click.option("--deadline", "deadline_s", type=SECONDS, metavar="S", help="Instead of the configured one.")
@click.option("--all", "everywhere", is_flag=True, help="Every node on the same PostgreSQL store, this one last.")
@click.option("--one-by-one", "rolls", is_flag=True, help="With --all: each once the one before is back.")
@click.option(
    "--timeout",
    "timeout_s",
    type=SECONDS,
    default=120.0,
    show_default=True,
    metavar="S",
    help="With --all: seconds to wait for a node to be gone, beside --deadline, and to be back.",
)
@finds_service
@prints_json
def drain(
    deadline_s: float | None, everywhere: bool, rolls: bool, timeout_s: float, wanted: Wanted, as_json: bool
) -> int:
    """Drain the running service and follow it until its process is gone.

    \b
    hotreload drain --deadline 60
    hotreload drain --all --one-by-one
    """
    if rolls and not everywhere:
        raise click.UsageError("--one-by-one goes with --all")
    with Client(find(wanted)) as client:
        if everywhere:
            return drain_all(client, deadline_s, timeout_s, rolls=rolls, as_json=as_json)
        ended = follow_drain(client, deadline_s, quiet=as_json)
    if ended.report is None:
        raise Failure(
            Exit.REFUSED_BY_CONTENT,
            "the process is gone, but its drain report was not seen",
            ["what did not finish is in the queue; after the next start `hotreload status` has the report"],
        )
    if as_json:
        print_json(ended.report)
    else:
        console().print(drain_view(ended.report))
    whole = ended.report.get("flushed", True) and not ended.report["lost"]
    return Exit.DONE if whole else Exit.REFUSED_BY_CONTENT


@root.command()
@click.argument("file", type=PATH)
@finds_service
@prints_json
def backup(file: Path, wanted: Wanted, as_json: bool) -> int:
    """Write a consistent copy of the running service's store into FILE, which is replaced once the copy is whole.

    \b
    hotreload backup /var/backups/hotreload.db
    """
    with Client(find(wanted)) as client:
        done = client.backup(str(file.absolute()))
    if as_json:
        print_json(done)
    else:
        console().print(f"{done['bytes']:,} bytes in {done['file']}")
    return Exit.DONE


for _verb in (unit, check, jobs, page, reindex, reload, schema, store):
    root.add_command(_verb)
