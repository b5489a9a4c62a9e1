"""Show documents to people: small tables, plain text off a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import click
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from hotreload.errors import printable

PLAIN_WIDTH: Final = 200
"""Columns off a terminal, where nothing must be folded."""
REASONS_SHOWN: Final = 3
_COLOURS: Final = {
    "applied": "green",
    "valid": "green",
    "unchanged": "cyan",
    "rejected": "red",
    "rolled_back": "red",
    "refused": "yellow",
}


def console() -> Console:
    """Return a console on standard output: colour on a terminal only, nothing read as markup."""
    width = None if sys.stdout.isatty() else PLAIN_WIDTH
    return Console(file=sys.stdout, width=width, markup=False, highlight=False, emoji=False)


def said(text: object, style: str = "") -> Text:
    """Return a text for a terminal: control characters in it are shown, not obeyed."""
    return Text(printable(str(text)), style)


def print_json(document: Any) -> None:
    """Print one JSON document; where standard output is not UTF-8, other characters are escaped."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    click.echo(json.dumps(document, indent=2, ensure_ascii=not encoding.lower().startswith("utf")))


def reload_view(report: Mapping[str, Any]) -> RenderableType:
    """Return the verdict, what changed, what waits and what was odd."""
    generation, previous = report["generation"], report["previous_generation"]
    moved = f"{previous} → {generation}" if previous != generation else f"{generation}"
    outcome = str(report["outcome"])
    head = Text(outcome, f"bold {_COLOURS.get(outcome, '')}")
    head.append(f"  generation {moved}" if generation else "", "default")  # 0: checked without a running service
    head.append(f"  {report['timings_ms'].get('total', 0):.1f} ms  id {report['id']}", "dim")
    parts: list[RenderableType] = [head, *_changes(report)]
    if made := report.get("in_force"):
        parts += [_made(made, report["trigger"]["at"]), *_changes({"changes": made["changes"], "pending_restart": []})]
    parts += [said(f"warning: {problem_line(warning)}", "yellow") for warning in report["warnings"]]
    parts += _converging(report["converging"])
    return Group(*parts)


def plan_view(report: Mapping[str, Any], *, changes: bool, verbose: bool) -> RenderableType:
    """Return what a reload would do with each field: the changes where asked for, and what stays as it is."""
    unchanged = report["unchanged"]
    parts = list(_changes(report)) if changes else []
    if unchanged:
        named = f": {', '.join(unchanged)}" if verbose else ""
        parts.append(said(f"unchanged: {len(unchanged)} fields{named}", "dim"))
    return Group(*parts)


def status_view(status: Mapping[str, Any]) -> RenderableType:
    """Return the status document as a person reads it."""
    head = Text.assemble((str(status["name"]), "bold"), f"  {status['phase']}  generation {status['generation']}")
    head.append(f"  pid {status['pid']}  since {status['started_at']}  {status['fingerprint']}", "dim")
    parts: list[RenderableType] = [head]
    if status.get("degraded"):
        parts.append(said(f"degraded: {status['degraded']}", "yellow"))
    if (wake_up := status.get("store") or "").startswith("polling"):
        parts.append(said(f"store: {wake_up}", "yellow"))
    if status["pools"]:
        rows = [(p["name"], p["running"], p["limit"], p["waiting"], p.get("bound_by")) for p in status["pools"]]
        parts.append(table(("pool", "running", "limit", "waiting", "bound by"), rows))
    if status["queues"]:
        keys = ("name", "ready", "scheduled", "running", "dead")
        rows = [(*(q[key] for key in keys), "paused" if q["paused"] else "") for q in status["queues"]]
        parts.append(table(("queue", "ready", "scheduled", "running", "dead", ""), rows))
    parts += _status_lines(status)
    return Group(*parts)


def status_line(status: Mapping[str, Any]) -> str:
    """Return the status document in one line, for logs and pipes."""
    pools = " ".join(f"{p['name']}={p['running']}/{p['limit']}" for p in status["pools"])
    queues = " ".join(f"{q['name']}:ready={q['ready']},dead={q['dead']}" for q in status["queues"])
    line = f"{status['phase']} generation={status['generation']} {pools} {queues}".rstrip()
    drain = status.get("drain")
    return f"{line} {drain_line(drain)}" if drain else line


def drain_line(progress: Mapping[str, Any]) -> str:
    """Return a drain's progress in one line: phase, jobs left, time left, and what some of them are left for."""
    left = len(progress.get("remaining") or ())
    total = max(left, progress.get("jobs_at_start") or 0)  # counted only once nothing new is claimed
    line = f"{progress['phase']}: {left} of {total} jobs, {progress['left_s']:.0f} s left"
    reasons = [f"{one['what']} {one['id']} {one['why']}" for one in progress.get("remaining") or () if one.get("why")]
    more = f" and {len(reasons) - REASONS_SHOWN} more" if len(reasons) > REASONS_SHOWN else ""
    return f"{line}: {', '.join(reasons[:REASONS_SHOWN])}{more}" if reasons else line


def drain_view(report: Mapping[str, Any]) -> RenderableType:
    """Return the drain report as a person reads it."""
    parts = ("finished", "failed", "requeued", "checkpointed", "abandoned")
    counts = [f"{len(report[key])} {key}" for key in parts if report.get(key)]
    text = f"drained in {report['elapsed_s']:.2f} s of {report['deadline_s']:g} s: {', '.join(counts) or 'nothing ran'}"
    verdict = said(f"{text}; {report['lost']} lost", "green" if not report["lost"] else "red")
    if not report.get("flushed", True):
        left = len(report["unflushed"])
        verdict.append(f"; the store could not be written: {left} go back to the queue at the next start", "red")
    if report.get("reconstructed"):
        verdict.append("; it was cut, this is what the next start found", "yellow")
    return Group(verdict, *(said(f"  did not stop: {line}", "yellow") for line in report.get("stuck", ())))


def problem_line(problem: Mapping[str, Any]) -> str:
    """Return `file:line:column: path: message (got …); hint`."""
    place = ":".join(str(problem[key]) for key in ("file", "line", "column") if problem.get(key) is not None)
    line = ": ".join(part for part in (place, problem.get("path"), problem.get("message")) if part)
    if problem.get("input") is not None:
        line += f" (got {problem['input']})"
    return f"{line}; {problem['hint']}" if problem.get("hint") else line


def _status_lines(status: Mapping[str, Any]) -> list[RenderableType]:
    lines: list[RenderableType] = [
        said(f"needs a restart: {p['path']} ({value_text(p['running'])}, on disk {value_text(p['on_disk'])})", "yellow")
        for p in status["pending_restart"]
    ]
    lines += _converging(status.get("converging", ()))
    if not status["watch"]["healthy"]:
        lines.append(Text("the configuration file is polled, changes are seen late", "yellow"))
    last = status.get("last_reload")
    if last:
        lines.append(said(f"last reload: {last['outcome']}, generation {last['generation']}, {last['trigger']['at']}"))
        lines += [said(f"  {problem_line(error)}", "red") for error in last["errors"]]
    if status.get("drain"):
        lines.append(said(f"draining: {drain_line(status['drain'])}", "bold"))
    elif status.get("last_drain"):
        lines.append(Group("last drain: ", drain_view(status["last_drain"])))
    return lines


def _changes(report: Mapping[str, Any]) -> Iterable[RenderableType]:
    if report["changes"]:
        rows = [
            (c["path"], value_text(c["old"]), value_text(c["new"]), c["effect"], c["owner"]) for c in report["changes"]
        ]
        yield table(("field", "old", "new", "effect", "applied by"), rows)
    if report["pending_restart"]:
        rows = [
            (p["path"], value_text(p["running"]), value_text(p["on_disk"]), p["reason"])
            for p in report["pending_restart"]
        ]
        yield table(("needs a restart", "running", "on disk", "reason"), rows)


def _made(made: Mapping[str, Any], now: str) -> Text:
    """Return when and how the generation in force was made; both times are the service's own."""
    trigger = made["trigger"]
    ago_s = (datetime.fromisoformat(now) - datetime.fromisoformat(trigger["at"])).total_seconds()
    when = f"{ago_s:.1f} s ago" if 0 <= ago_s < 60 else f"at {trigger['at']}"
    how = "when the file was saved" if trigger["kind"] == "file" else f"for {trigger['principal']}"
    return said(f"generation {made['generation']} was applied {when}, {how}:")


def _converging(pools: Iterable[Mapping[str, Any]]) -> list[Text]:
    return [said(f"converging: {p['owner']} runs {p['running']}, its limit is {p['limit']}", "cyan") for p in pools]


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """Return a table without lines; None is shown as nothing."""
    table = Table(*headings, box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for row in rows:
        table.add_row(*(said("" if cell is None else str(cell)) for cell in row))
    return table


def value_text(value: object) -> str:
    """Return a value of a report as JSON text."""
    return json.dumps(value, ensure_ascii=False)
