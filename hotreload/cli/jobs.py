"""The verbs `jobs …`: the queue of a running service, for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Group
from rich.table import Table
from rich.text import Text

from hotreload.cli.client import Client
from hotreload.cli.exits import Exit, Failure
from hotreload.cli.options import DELAY, PATH, finds_service, prints_json
from hotreload.cli.show import console, print_json, said, table
from hotreload.client.find import Wanted, find

STATES = ("ready", "scheduled", "running", "done", "dead", "cancelled")
APART = ("history", "traceback")
EVENT = ("at", "event", "reason")
COLUMNS = ("id", "queue", "state", "attempts", "interruptions", "crashes", "key", "enqueued_at", "reason")


@click.group()
def jobs() -> None:
    """Look into the queue of the running service, and put it right.

    \b
    hotreload jobs list --state dead
    hotreload jobs show 1729
    hotreload jobs retry --all --queue semantic
    """


@jobs.command("list")
@click.option("--queue", help="Of this queue only.")
@click.option("--state", type=click.Choice(STATES), help="In this state only.")
@click.option("--limit", type=click.IntRange(1, 1_000), default=50, show_default=True, metavar="N")
@click.option("--before", metavar="ID", help="Go on after a page that ended with ID.")
@finds_service
@prints_json
def list_(queue: str | None, state: str | None, limit: int, before: str | None, wanted: Wanted, as_json: bool) -> int:
    """Show jobs, newest first.

    \b
    hotreload jobs list --state dead
    """
    asked = {"queue": queue, "state": state, "limit": limit, "before": before}
    with Client(find(wanted)) as client:
        page = client.jobs("GET", params={name: value for name, value in asked.items() if value is not None})
    if as_json:
        print_json(page)
    else:
        rows = [[_cell(job, column) for column in COLUMNS] for job in page["jobs"]]
        console().print(table(COLUMNS, rows) if rows else "no jobs")
    return Exit.DONE


@jobs.command()
@click.argument("job_id", metavar="ID")
@finds_service
@prints_json
def show(job_id: str, wanted: Wanted, as_json: bool) -> int:
    """Show one job whole: payload, progress, result, its last error with traceback. Exit 1 where there is none.

    \b
    hotreload jobs show 1729
    """
    with Client(find(wanted)) as client:
        job = client.jobs("GET", f"/{_id(job_id)}")
    if as_json:
        print_json(job)
        return Exit.DONE
    rows = [(name, _cell(job, name)) for name in job if name not in APART and job[name] is not None]
    parts: list[Text | Table] = [table(("", ""), rows)]
    if history := job.get("history"):
        parts += [Text("\nhistory", "bold"), table(EVENT, [[_cell(one, name) for name in EVENT] for one in history])]
    parts.append(said(job["traceback"] or ""))
    console().print(Group(*parts))
    return Exit.DONE


@jobs.command()
@click.argument("queue")
@click.argument("payload", required=False)
@click.option("--key", help="Nothing is added while a job that has not ended has this key.")
@click.option("--priority", type=int, default=0, show_default=True, help="Lower is claimed first.")
@click.option("--delay", "delay_s", type=DELAY, default=0.0, metavar="S", help="Not before S seconds.")
@click.option("--config", type=PATH, help="Its ov.conf, to add to the store of a service that is down.")
@finds_service
@prints_json
def add(
    queue: str,
    payload: str | None,
    key: str | None,
    priority: int,
    delay_s: float,
    config: Path | None,
    wanted: Wanted,
    as_json: bool,
) -> int:
    """Add a job to QUEUE; PAYLOAD is JSON, `-` reads it from standard input. Exit 1 where it does not fit the worker.

    With --config the job goes straight into the store of a service that is down; exit 4 while it runs.

    \b
    hotreload jobs add semantic '{"path": "a.md"}' --key a.md
    hotreload jobs add semantic '{"path": "a.md"}' --config ov.conf
    """
    text = sys.stdin.read() if payload == "-" else payload
    try:
        value = None if text is None else json.loads(text)
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"the payload is not JSON: {error}") from error
    if config is not None:
        added = _add_to_stopped(config, queue, value, key, priority, delay_s)
    else:
        body = {"queue": queue, "payload": value, "priority": priority, "delay_s": delay_s}
        with Client(find(wanted)) as client:
            added = client.jobs("POST", json=body if key is None else {**body, "key": key})
    if as_json:
        print_json(added)
    else:
        taken = f"nothing added: job {added['id']} ({added['existing']}) has the key {key!r}"
        console().print(f"added job {added['id']}" if added["existing"] is None else taken)
    return Exit.DONE


def _add_to_stopped(
    config: Path, queue: str, payload: Any, key: str | None, priority: int, delay_s: float
) -> dict[str, Any]:
    from hotreload.client.stopped import add_to_stopped  # not with the other verbs: it opens a store

    try:
        added = add_to_stopped(config, queue, payload, key=key, priority=priority, delay_s=delay_s)
    except (LookupError, ValueError) as error:
        raise Failure(Exit.REFUSED_BY_CONTENT, str(error)) from error
    return {"id": added.id, "existing": added.existing}


@jobs.command()
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--all", "all_dead", is_flag=True, help="All dead jobs of --queue.")
@click.option("--queue", help="The queue of --all.")
@finds_service
@prints_json
def retry(ids: Sequence[str], all_dead: bool, queue: str | None, wanted: Wanted, as_json: bool) -> int:
    """Make dead jobs ready again, with all their attempts, from their last checkpoint. Exit 1 where one is not dead.

    \b
    hotreload jobs retry 1729 1730
    hotreload jobs retry --all --queue semantic
    """
    return _change("retry", "retried", ids, all_dead, queue, wanted, as_json)


@jobs.command()
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--all", "all_dead", is_flag=True, help="All dead jobs of --queue.")
@click.option("--queue", help="The queue of --all.")
@finds_service
@prints_json
def discard(ids: Sequence[str], all_dead: bool, queue: str | None, wanted: Wanted, as_json: bool) -> int:
    """Remove jobs that do not run, for good. Exit 1 where one runs or is not there.

    \b
    hotreload jobs discard 1729
    """
    return _change("discard", "discarded", ids, all_dead, queue, wanted, as_json)


@jobs.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@finds_service
@prints_json
def cancel(ids: Sequence[str], wanted: Wanted, as_json: bool) -> int:
    """Cancel jobs: a running one is interrupted and ends `cancelled`, a waiting one is removed.

    Exit 1 where one had ended or is not there.

    \b
    hotreload jobs cancel 1729
    """
    with Client(find(wanted)) as client:
        answer = client.jobs("POST", "/cancel", json={"ids": list(ids)})
    return _told("cancelled", answer, as_json)


@jobs.command()
@click.argument("queue")
@finds_service
@prints_json
def pause(queue: str, wanted: Wanted, as_json: bool) -> int:
    """Claim nothing more from QUEUE, over restarts too; what runs goes on.

    \b
    hotreload jobs pause semantic
    """
    return _pause("pause", queue, wanted, as_json)


@jobs.command()
@click.argument("queue")
@finds_service
@prints_json
def resume(queue: str, wanted: Wanted, as_json: bool) -> int:
    """End the pause of QUEUE.

    \b
    hotreload jobs resume semantic
    """
    return _pause("resume", queue, wanted, as_json)


def _change(
    verb: str, done: str, ids: Sequence[str], all_dead: bool, queue: str | None, wanted: Wanted, as_json: bool
) -> int:
    if bool(ids) == all_dead or all_dead != (queue is not None):
        raise click.UsageError("give either IDs, or --all with --queue")
    with Client(find(wanted)) as client:
        answer = client.jobs("POST", f"/{verb}", json={"queue": queue} if all_dead else {"ids": list(ids)})
    return _told(done, answer, as_json)


def _told(done: str, answer: dict[str, Any], as_json: bool) -> int:
    if as_json:
        print_json(answer)
    else:
        console().print(f"{len(answer[done])} {done}")
    if answer["passed_over"]:
        Failure(Exit.REFUSED_BY_CONTENT, f"not {done}: {', '.join(answer['passed_over'])}").show()
        return Exit.REFUSED_BY_CONTENT
    return Exit.DONE


def _pause(verb: str, queue: str, wanted: Wanted, as_json: bool) -> int:
    with Client(find(wanted)) as client:
        answer = client.jobs("POST", f"/{verb}", json={"queue": queue})
    if as_json:
        print_json(answer)
    else:
        console().print(f"{queue} is {'paused' if answer['paused'] else 'served'}")
    return Exit.DONE


def _id(text: str) -> str:
    if not text.replace("-", "").isalnum():
        raise click.BadParameter(f"{text!r} is not the id of a job, for example 1729")
    return text


def _cell(job: dict[str, Any], column: str) -> object:
    value = job[column]
    if column == "attempts" and job["max_attempts"] is not None:
        return f"{value} of {job['max_attempts']}"
    if column in ("payload", "progress", "result"):
        return json.dumps(value, ensure_ascii=False)
    return value.splitlines()[0][:80] if column == "reason" and value else value
