"""What the verbs do with --all: every process that shares the store of the one that is asked."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import click
from rich.console import Group, RenderableType

from hotreload.cli.client import Client
from hotreload.cli.exits import Exit, Failure
from hotreload.cli.follow import follow_drain
from hotreload.cli.show import console, print_json, problem_line, said, table

LOOK_S: Final = 0.2
_EXITS: Final = {"applied": Exit.DONE, "unchanged": Exit.DONE}


def nodes_of(client: Client) -> list[dict[str, Any]]:
    """Return a row for each process on the same store; Failure where the service has a store of its own."""
    nodes = client.status()["nodes"]
    if not nodes:
        text = "this service shares its store with no other: hotreload.store is not PostgreSQL"
        raise Failure(Exit.REFUSED_BY_STATE, text)
    return nodes


def show_nodes(nodes: Sequence[Mapping[str, Any]], *, as_json: bool) -> int:
    """Print the nodes; those that are gone or whose configuration differs are marked."""
    if as_json:
        print_json(list(nodes))
    else:
        console().print(_nodes_view(nodes))
    return Exit.DONE


def _nodes_view(nodes: Sequence[Mapping[str, Any]]) -> RenderableType:
    rows: list[Sequence[object]] = []
    for node in nodes:
        pools = " ".join(f"{pool['name']}={pool['running']}/{pool['limit']}" for pool in node.get("pools", ()))
        last: Mapping[str, Any] = node.get("last_reload") or {}
        phase = node.get("phase", "starting") if node["alive"] else f"gone since {node['seen_at']}"
        mark = "differs" if node["differs"] else ""
        fingerprint = str(node.get("fingerprint") or "").removeprefix("hmac:")[:12]
        generation = node.get("generation")
        rows.append((node["name"], phase, generation, fingerprint, mark, pools, last.get("outcome"), last.get("at")))
    headings = ("node", "phase", "generation", "fingerprint", "", "pools", "last reload", "at")
    differing = [node["name"] for node in nodes if node["differs"]]
    warning = [said(f"another configuration: {', '.join(differing)}", "yellow")] if differing else []
    return Group(table(headings, rows), *warning)


def reload_all(client: Client, timeout_s: float, *, as_json: bool) -> int:
    """Have all nodes reload or none, and print the verdict with a row for each."""
    verdict = client.reload_all(timeout_s)
    outcome, nodes = verdict["outcome"], verdict["nodes"]
    if as_json:
        print_json(verdict)
    else:
        headings = ("node", "outcome", "generation", "changes", "needs a restart")
        console().print(table(headings, [_verdict_row(node) for node in nodes]))
    if outcome in _EXITS:
        if not as_json:
            console().print(said(f"{outcome} on {len(nodes)} of {len(nodes)} nodes", "green"))
        return _EXITS[outcome]
    if "reason" in verdict:
        Failure(Exit.REFUSED_BY_STATE, f"refused, nothing was applied anywhere: {verdict['reason']}").show()
        return Exit.REFUSED_BY_STATE
    good = ("applied", "unchanged", "valid")
    bad = [node for node in nodes if node["outcome"] not in good]
    lines = [f"{node['node']}: {node['outcome']}: {problem_line(each)}" for node in bad for each in node["errors"]]
    names = ", ".join(str(node["node"]) for node in bad)
    what = (
        f"refused by {names}: nothing was applied anywhere"
        if outcome == "refused"
        else f"applied by {len(nodes) - len(bad)} of {len(nodes)} nodes, not by {names}"
    )
    Failure(Exit.REFUSED_BY_CONTENT, what, lines).show()
    return Exit.REFUSED_BY_CONTENT


def _verdict_row(node: Mapping[str, Any]) -> Sequence[object]:
    changed = ", ".join(change["path"] for change in node.get("changes", ()))
    pending = ", ".join(each["path"] for each in node.get("pending_restart", ()))
    return node["node"], node["outcome"], node.get("generation"), changed, pending


def drain_all(client: Client, deadline_s: float | None, timeout_s: float, *, rolls: bool, as_json: bool) -> int:
    """Drain every node, this one last; with `rolls` one after the other, each after the one before is back.

    With `as_json` the last word on each is printed when all are gone, and nothing before.
    """
    outcomes: dict[str, str] = {}

    def tell(name: str, outcome: str, more: str = "") -> None:
        outcomes[name] = outcome
        if not as_json:
            click.echo(f"{name}: {outcome}{more}")

    nodes = [node for node in nodes_of(client) if node["alive"]]
    others = [node for node in nodes if not node["own"]]
    for asked in [[node] for node in others] if rolls else [others] if others else []:
        client.drain_nodes([node["name"] for node in asked], deadline_s)
        for node in asked:
            tell(node["name"], "draining")
        _until_gone(client, asked, timeout_s + (deadline_s or 0), tell)
        if rolls:
            _until_back(client, asked[0], timeout_s)
            if not as_json:
                click.echo(f"{asked[0]['name']}: back")
    own = next(node["name"] for node in nodes if node["own"])
    tell(own, "draining")
    ended = follow_drain(client, deadline_s, quiet=True)
    whole = ended.report is not None and ended.report.get("flushed", True) and not ended.report["lost"]
    tell(own, "drained" if whole else "gone", "" if whole else "; its next start says what came of its drain")
    if as_json:
        said = [{"node": name, "outcome": outcome} for name, outcome in outcomes.items()]
        print_json({"nodes": said, "report": ended.report})
    return Exit.DONE if set(outcomes.values()) == {"drained"} else Exit.REFUSED_BY_CONTENT


def _until_gone(
    client: Client, asked: Sequence[Mapping[str, Any]], timeout_s: float, tell: Callable[..., None]
) -> None:
    """Return when these processes are gone, each told when it is; Failure where one is still there."""
    left, until, pause = (
        {node["name"]: node.get("started_at") for node in asked},
        time.monotonic() + timeout_s,
        threading.Event(),
    )
    while True:
        there = {node["name"]: node for node in nodes_of(client)}
        for name, started in list(left.items()):
            now = there.get(name)
            if now is None or now.get("started_at") != started:
                tell(name, "drained")
            elif not now["alive"]:
                tell(name, "gone", " before its drain ended; the other nodes take its jobs over")
            else:
                continue
            del left[name]
        if not left:
            return
        if time.monotonic() >= until:
            raise Failure(Exit.TIMED_OUT, f"still there after {timeout_s:g} s: {', '.join(left)}")
        pause.wait(LOOK_S)


def _until_back(client: Client, node: Mapping[str, Any], timeout_s: float) -> None:
    """Return when a new process of this node runs; Failure, so that no further node is drained, where none does."""
    until, pause = time.monotonic() + timeout_s, threading.Event()
    while True:
        for now in nodes_of(client):
            back = now["name"] == node["name"] and now.get("started_at") != node.get("started_at")
            if back and now["alive"] and now.get("phase") == "running":
                return
        if time.monotonic() >= until:
            text = f"{node['name']} did not come back within {timeout_s:g} s: no further node was drained"
            raise Failure(Exit.TIMED_OUT, text)
        pause.wait(LOOK_S)
