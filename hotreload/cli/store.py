"""The verbs `store …`: look at the store that a configuration names, check it, bring its schema up to date."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Group, RenderableType

from hotreload.cli.exits import Exit, Failure
from hotreload.cli.options import PATH, prints_json
from hotreload.cli.show import console, print_json, said, table
from hotreload.errors import ConfigError, StoreOwned, StoreUnavailable

if TYPE_CHECKING:
    from hotreload.queue.inspection import Inspection

CONFIG = click.option(
    "--config", type=PATH, default=Path("ov.conf"), show_default=True, help="The service's configuration file."
)
QUEUE = ("queue", "ready", "scheduled", "running", "done", "dead", "paused")
NODE = ("node", "pid", "host", "seen", "running")


@click.group()
def store() -> None:
    """Look at the store of a service, running or not, and bring its schema up to date.

    The store is the one that the section `hotreload` of the configuration names. A file of SQLite can be looked at
    while no process has it open, a database of PostgreSQL at any time.

    \b
    hotreload store show --config ov.conf
    hotreload store check --config ov.conf
    hotreload store migrate --config ov.conf
    """


@store.command("show")
@CONFIG
@prints_json
def show(config: Path, as_json: bool) -> int:
    """Show engine, place, schema, rows by queue and state, size and nodes.

    \b
    hotreload store show --config ov.conf
    """
    document = _document(_inspected(config, check=False))
    if as_json:
        print_json(document)
    else:
        console().print(_view(document))
    return Exit.DONE


@store.command("check")
@CONFIG
@prints_json
def check_(config: Path, as_json: bool) -> int:
    """Read all of the store and say what is wrong: schema, tables, indexes, privileges, damage, counters.

    Exit 1 where a service could not use it, or would lose by it. Counting takes some seconds per million jobs.

    \b
    hotreload store check --config ov.conf
    """
    found = _inspected(config, check=True)
    document = _document(found)
    if as_json:
        print_json(document)
    else:
        console().print(_view(document))
    return Exit.DONE if found.sound else Exit.REFUSED_BY_CONTENT


@store.command("migrate")
@CONFIG
@prints_json
def migrate(config: Path, as_json: bool) -> int:
    """Bring the schema to what this release needs, forward only; jobs stay as they are.

    Each start does so by itself where it may. On PostgreSQL run it as the role that owns the tables, where services
    run as one that does not.

    \b
    hotreload store migrate --config ov.conf
    """
    from hotreload.client.stopped import migrate_configured

    with _refusals():
        done = migrate_configured(config)
    after = done.applied[-1] if done.applied else done.before
    if as_json:
        print_json({**asdict(done), "after": after})
    else:
        moved = f"schema {done.before} → {after}" if done.applied else f"schema {after} already"
        console().print(said(f"{done.engine} {done.place}: {moved}"))
    return Exit.DONE


def _inspected(config: Path, *, check: bool) -> Inspection:
    from hotreload.client.stopped import inspect_configured  # not with the other verbs: it opens a store

    with _refusals():
        return inspect_configured(config, check=check)


@contextmanager
def _refusals() -> Generator[None]:
    """Turn what refuses a look into one line and an exit code."""
    try:
        yield
    except ConfigError as error:
        first, *more = str(error).splitlines()
        raise Failure(Exit.CONFIG, first, more) from error
    except StoreOwned as error:
        more = ["hotreload status and hotreload jobs show what a running service has; hotreload backup copies it"]
        raise Failure(Exit.REFUSED_BY_STATE, str(error), more) from error
    except (LookupError, StoreUnavailable) as error:
        raise Failure(Exit.REFUSED_BY_CONTENT, str(error)) from error


def _document(found: Inspection) -> dict[str, Any]:
    """Return what is printed as JSON."""
    document = asdict(found)
    if found.findings is None:
        del document["findings"]
        return document
    findings = [{**asdict(each), "severity": each.severity.value} for each in found.findings]
    return {**document, "findings": findings, "sound": found.sound}


def _view(document: Mapping[str, Any]) -> RenderableType:
    facts = [("engine", " ".join(filter(None, (document["engine"], document["server"]))))]
    facts += [(name, document[name]) for name in ("place", "role") if document[name]]
    facts.append(("schema", f"{document['schema']} (this release needs {document['needs']})"))
    facts.append(("size", f"{document['size_bytes']:,} bytes"))
    parts: list[RenderableType] = [table(("", ""), facts)]
    if document["queues"]:
        rows = [[queue["name"], *(_count(queue[state]) for state in QUEUE[1:])] for queue in document["queues"]]
        parts += ["", table(QUEUE, rows)]
    if document["nodes"]:
        nodes = [
            (node["name"], node["pid"], node["host"], f"{node['seen_s']:,.1f} s ago", _count(node["running"]))
            for node in document["nodes"]
        ]
        parts += ["", table(NODE, nodes)]
    return Group(*parts, *_told(document))


def _told(document: Mapping[str, Any]) -> list[RenderableType]:
    if "findings" not in document:
        return []
    lines: list[RenderableType] = ["", said("sound", "green") if document["sound"] else said("not sound", "bold red")]
    for each in document["findings"]:
        line = f"{each['severity']}: {each['what']}" + (f"; {each['right']}" if each["right"] else "")
        lines.append(said(line, "red" if each["severity"] == "error" else "yellow"))
    return lines


def _count(value: bool | int) -> str:
    return ("yes" if value else "") if isinstance(value, bool) else f"{value:,}"
