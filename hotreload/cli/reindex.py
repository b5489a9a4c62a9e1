"""The verb `reindex`: have what is missing found and made, and follow it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import click
from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from hotreload.cli.client import Client
from hotreload.cli.exits import Exit, Failure
from hotreload.cli.options import finds_service, prints_json
from hotreload.cli.show import console, print_json, said, table
from hotreload.client.find import Wanted, find
from hotreload.errors import ServiceUnreachable

ANSWER_S: Final = 5.0
"""How long an answer is waited for before progress is asked for."""
REFRESH_S: Final = 0.3
SHOWN: Final = 200
FOLDERS_SHOWN: Final = 20
Show = Callable[[str, int, int | None], None]


@click.command()
@click.argument("uri", required=False)
@click.option("--dry-run", is_flag=True, help="Only look; queue nothing.")
@click.option("--wait", is_flag=True, help="Follow until all of it is made; exit 1 where some failed.")
@click.option("--account", help="Only this account of OpenViking.")
@finds_service
@prints_json
def reindex(uri: str | None, dry_run: bool, wait: bool, account: str | None, wanted: Wanted, as_json: bool) -> int:
    """Find what should exist and does not, and put it back in the queue; below URI, or everywhere.

    \b
    hotreload reindex --dry-run
    hotreload reindex viking://resources/manual --wait
    """
    if dry_run and wait:
        raise click.UsageError("--dry-run queues nothing: there is nothing to wait for")
    with Client(find(wanted)) as client, _shown(quiet=as_json) as show:
        found = _searched(client, {"uri": uri, "dry_run": dry_run, "account": account}, show)
        if not as_json:
            console().print(_view(found))
        if wait:
            found = _made(client, found, show)
    if as_json:
        print_json(found)
    return _verdict(found)


def _searched(client: Client, asked: Mapping[str, Any], show: Show) -> dict[str, Any]:
    """Return the report of a search that has ended."""
    found = client.reindex(asked, timeout_s=ANSWER_S)
    pause = threading.Event()
    while not found["ended"]:
        show(f"{found['scanned']} scanned, {found.get('missing_count', found['missing'])} missing", 0, None)
        pause.wait(REFRESH_S)
        found = client.search(found["id"])
    return found


def _made(client: Client, found: dict[str, Any], show: Show) -> dict[str, Any]:
    """Return the report with `made` once nothing of it is left to be made."""
    pause = threading.Event()
    while True:
        try:
            found = client.search(found["id"])
        except ServiceUnreachable as error:
            more = ["what is queued and not made yet is made after its next start"]
            raise Failure(Exit.UNREACHABLE, f"the service is gone: {error}", more) from error
        made = found["made"]
        ended = made["done"] + len(made["failed"])
        show("made", ended, ended + made["left"])
        if not made["left"]:
            return found
        pause.wait(REFRESH_S)


def _verdict(found: Mapping[str, Any]) -> int:
    refused = [{"id": each["id"], "error": f"not queued: {each['reason']}"} for each in found["refused"]]
    failed = found["made"]["failed"] if "made" in found else refused
    if found["error"]:
        Failure(Exit.REFUSED_BY_CONTENT, f"the search did not come to its end: {found['error']}").show()
    if failed:
        lines = [f"{each['id']}: {each['error']}" for each in failed]
        Failure(Exit.REFUSED_BY_CONTENT, f"{len(failed)} failed", lines).show()
    return Exit.REFUSED_BY_CONTENT if failed or found["error"] else Exit.DONE


def _view(found: Mapping[str, Any]) -> RenderableType:
    """Return what is missing and why, where, and what became of it."""
    parts: list[RenderableType] = []
    missing, count = found["missing"], found["missing_count"]
    if missing:
        parts.append(table(("missing", "reason"), [(each["id"], each["reason"]) for each in missing[:SHOWN]]))
        if count > SHOWN:
            parts.append(said(f"… and {count - SHOWN} more (--json lists {len(missing)})"))
        folders = list(found["folders"].items())
        parts.append(table(("folder", "missing"), folders[:FOLDERS_SHOWN]))
        if len(folders) > FOLDERS_SHOWN:
            parts.append(said(f"… and {len(folders) - FOLDERS_SHOWN} more folders"))
    if found["passed_over"]:
        rows = [(each["id"], each["reason"]) for each in found["passed_over"][:SHOWN]]
        parts.append(table(("passed over", "reason"), rows))
    line = f"{found['scanned']} scanned, {count} missing, {found['queued']} queued, "
    line += f"{found['already_queued']} already queued"
    line += f", {found['passed_over_count']} passed over" if found["passed_over_count"] else ""
    parts.append(said(line, "bold"))
    if found["zombies"]:
        became = "would be ended" if found["dry_run"] else "ended"
        tasks = [f"  {each['id']} {each['reason']}" for each in found["zombies"][:SHOWN]]
        parts.append(said("\n".join([f"{found['zombies_count']} tasks that no process works on {became}:", *tasks])))
    if found["dead"]:
        parts.append(said(f"{found['dead']} failed for good before: hotreload reindex tries them again", "yellow"))
    return Group(*parts)


@contextmanager
def _shown(*, quiet: bool) -> Generator[Show]:
    """Show progress: a bar on a terminal, a line per change elsewhere, nothing where only JSON is wanted."""
    screen = console()
    if quiet:
        yield lambda _what, _done, _total: None
    elif screen.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, console=screen, transient=True) as bar:
            task = bar.add_task("looking", total=None)
            yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)
    else:
        yield _Lines(screen)


class _Lines:
    """One line for each change."""

    def __init__(self, screen: Console) -> None:
        self._screen = screen
        self._said = ""

    def __call__(self, what: str, done: int, total: int | None) -> None:
        line = what if total is None else f"{what}: {done} of {total}"
        if line != self._said:
            self._said = line
            self._screen.print(line, soft_wrap=True)
