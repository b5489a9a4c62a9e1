"""The terminal dashboard of `hotreload status --watch`: pools and queues as bars, the last reloads, the drain."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from hotreload.cli.show import drain_line, drain_view, problem_line, said, value_text

BAR: Final = 30
"""Columns of a bar."""
RELOADS: Final = 5
CHANGES: Final = 3
"""Changes of one reload that are shown."""
_OUTCOMES: Final = {
    "applied": "green",
    "unchanged": "cyan",
    "rejected": "red",
    "rolled_back": "red",
    "refused": "yellow",
}


def dashboard(status: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Return one screen of what the admin page shows: the status document, and the newest of the reload reports."""
    parts: list[RenderableType] = [_head(status)]
    if status.get("degraded"):
        parts.append(said(f"degraded: {status['degraded']}", "bold red"))
    if not status["watch"]["healthy"]:
        parts.append(Text("the file watch is not healthy: changes of the file are seen late", "yellow"))
    if status["pools"]:
        parts += [Text(), _pools(status["pools"])]
    if status["queues"]:
        parts += [Text(), _queues(status["queues"])]
    parts += [said(f"needs a restart: {one['path']}", "yellow") for one in status["pending_restart"]]
    parts += [Text(), *_reloads(history[:RELOADS])]
    if status.get("drain"):
        parts += [Text(), *_drain(status["drain"])]
    elif status.get("last_drain"):
        parts += [Text(), Text("last drain", "dim"), drain_view(status["last_drain"])]
    return Group(*parts)


def _head(status: Mapping[str, Any]) -> Text:
    phase = str(status["phase"])
    head = Text.assemble((str(status["name"]), "bold"), "  ", (phase, "green" if phase == "running" else "bold yellow"))
    head.append(f"  generation {status['generation']}")
    return head.append(f"  pid {status['pid']}  since {status['started_at']}", "dim")


def _grid(*headings: str) -> Table:
    return Table(*headings, box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")


def _pools(pools: Iterable[Mapping[str, Any]]) -> Table:
    grid = _grid("pool", "running of limit", "", "waiting", "held back by")
    for pool in pools:
        limit, running = pool["limit"], pool["running"]
        over = running > limit  # a limit that shrank cancels no job
        bar = ProgressBar(max(limit, running, 1), running, width=BAR, complete_style="yellow" if over else "cyan")
        grid.add_row(pool["name"], bar, f"{running}/{limit}", str(pool["waiting"]), pool.get("bound_by") or "")
    return grid


def _queues(queues: Sequence[Mapping[str, Any]]) -> Table:
    longest = max([queue["ready"] + queue["scheduled"] for queue in queues] + [1])
    grid = _grid("queue", "waiting", "ready", "scheduled", "running", "dead", "")
    for queue in queues:
        bar = ProgressBar(longest, queue["ready"] + queue["scheduled"], width=BAR, complete_style="magenta")
        dead = said(str(queue["dead"]), "bold red" if queue["dead"] else "")
        counts = (str(queue[key]) for key in ("ready", "scheduled", "running"))
        grid.add_row(queue["name"], bar, *counts, dead, Text("paused" if queue["paused"] else "", "yellow"))
    return grid


def _reloads(history: Sequence[Mapping[str, Any]]) -> list[RenderableType]:
    lines: list[RenderableType] = [Text("last reloads" if history else "no reload since the start", "dim")]
    for report in history:
        outcome = str(report["outcome"])
        line = Text.assemble((outcome, _OUTCOMES.get(outcome, "")), f"  generation {report['generation']}")
        line.append(f"  {report['trigger']['at']}  {report['trigger']['kind']}", "dim")
        lines.append(line)
        changes = report["changes"]
        shown = [f"{one['path']} {value_text(one['old'])} → {value_text(one['new'])}" for one in changes[:CHANGES]]
        more = [f"and {len(changes) - CHANGES} more"] if len(changes) > CHANGES else []
        lines += [said(f"  {text}") for text in (*shown, *more)]
        lines += [said(f"  {problem_line(error)}", "red") for error in report["errors"][:CHANGES]]
    return lines


def _drain(drain: Mapping[str, Any]) -> list[RenderableType]:
    spent_s = max(0.0, drain["deadline_s"] - drain["left_s"])
    time_bar = ProgressBar(max(drain["deadline_s"], 0.1), spent_s, width=BAR, complete_style="yellow")
    left = len(drain.get("remaining") or ())
    total = max(left, drain.get("jobs_at_start") or 0)
    grid = _grid("draining", "", "")
    grid.add_row("time", time_bar, f"{spent_s:.0f} of {drain['deadline_s']:g} s")
    grid.add_row("jobs", ProgressBar(max(total, 1), total - left, width=BAR), f"{total - left} of {total}")
    return [grid, Text(drain_line(drain), "bold")]
