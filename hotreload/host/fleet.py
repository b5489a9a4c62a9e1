"""This process among those that share its store: what they know of each other, and reloads that all apply or none.

A reload of the fleet is a round in the store. Every node checks its own file first; only where all accept does the
round move on, and each node applies exactly what it checked. The node that was asked may die: a round that did not
move on changes nothing, one that did is applied by all.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Final

import anyio
from anyio.abc import TaskGroup

from hotreload.clock import iso, now_ms
from hotreload.config.secrets import Redactor
from hotreload.errors import StoreUnavailable
from hotreload.queue.fleet import Fleet as Shared
from hotreload.queue.fleet import Node, Round
from hotreload.reload.report import Outcome, Trigger, TriggerKind

if TYPE_CHECKING:
    from hotreload.config.document import Keys
    from hotreload.host.host import Host

log = logging.getLogger(__name__)
PUBLISH_S: Final = 0.5
LOOK_S: Final = 0.1
OWN: Final = frozenset({("hotreload", "store"), ("hotreload", "state_dir")})
"""What differs from node to node without being another configuration."""
GOOD: Final = frozenset({Outcome.APPLIED.value, Outcome.UNCHANGED.value, Outcome.VALID.value})


class Fleet:
    """The part of a host that speaks to the other nodes; `run` until cancelled."""

    def __init__(self, host: Host, shared: Shared) -> None:
        self._host = host
        self._shared = shared
        self._checked: dict[str, str | None] = {}
        self._waiting: dict[tuple[str, str], Round] = {}
        self._taking_part = set[tuple[str, str]]()
        self._same: tuple[int, str] | None = None

    # --- what the nodes say of themselves ------------------------------------------------------------------------

    def nodes(self) -> list[dict[str, Any]]:
        """Return a row for each node; `differs` where its configuration is not that of most."""
        nodes = self._shared.nodes
        common = _most_common([node.about.get("fingerprint") for node in nodes if node.alive])
        return [_row(node, common, own=node.name == self._shared.name) for node in nodes]

    def _about(self) -> dict[str, Any]:
        host, last = self._host, self._host.records.last_reload
        return {
            "pid": os.getpid(),
            "instance": host.instance,
            "started_at": host.started_at,
            "version": host.work.version,
            "phase": host.phase.value,
            "generation": host.generation,
            "fingerprint": self._fingerprint(),
            "degraded": host.degraded is not None,
            "pools": [{"name": pool.name, "running": pool.running, "limit": pool.limit} for pool in host.work.pools()],
            "last_reload": last and {"outcome": last["outcome"], "at": last["trigger"]["at"]},
        }

    def _fingerprint(self) -> str | None:
        """Return the fingerprint that all nodes make with the same key; paths count from the configuration's folder."""
        key, snapshot = self._shared.key, self._host.started.snapshots.current
        if key is None:
            return None
        if self._same is None or self._same[0] != snapshot.generation:
            folder = self._host.started.source.path.parent
            leaves: dict[Keys, object] = {
                keys: _from(folder, value) for keys, value in snapshot.leaves.items() if keys not in OWN
            }
            self._same = snapshot.generation, Redactor(key).fingerprint(leaves)
        return self._same[1]

    async def run(self) -> None:
        """Say what this node is, and take part in rounds, until cancelled."""
        loop, self._heard = asyncio.get_running_loop(), anyio.Event()

        def asked(waiting: Round) -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._hear, waiting)

        self._shared.on_round(asked)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._take_part_in_all, tasks)
            while True:
                self._shared.publish(self._about())
                await anyio.sleep(PUBLISH_S)

    # --- taking part ------------------------------------------------------------------------------------------------

    def _hear(self, waiting: Round) -> None:
        step = waiting.id, waiting.phase
        if step not in self._taking_part and not self._host.draining:
            self._waiting[step] = waiting
            self._heard.set()

    async def _take_part_in_all(self, tasks: TaskGroup) -> None:
        while True:
            await self._heard.wait()
            self._heard = anyio.Event()
            while self._waiting:
                step, waiting = self._waiting.popitem()
                self._taking_part.add(step)
                tasks.start_soon(self._take_part, waiting)

    async def _take_part(self, waiting: Round) -> None:
        trigger = Trigger(TriggerKind.HTTP, waiting.asked_by, now_ms())
        try:
            if waiting.kind == "drain":
                await self._shared.answer(waiting.id, waiting.phase, {"outcome": "draining"})
                self._host.start_drain(f"asked for by {waiting.asked_by}")
                return
            if waiting.phase == "check":
                ticket = self._host.reloads.submit(trigger, dry_run=True)
                report = await ticket.wait()
                self._checked = {waiting.id: ticket.candidate}  # a newer round ends those before
            else:
                expects = self._checked.pop(waiting.id, None) or "nothing"
                report = await self._host.reloads.submit(trigger, expects=expects).wait()
            await self._shared.answer(waiting.id, waiting.phase, report.to_dict())
        except StoreUnavailable as error:
            log.warning("fleet.not_answered round=%s phase=%s error=%s", waiting.id, waiting.phase, error)
        finally:
            self._taking_part.discard((waiting.id, waiting.phase))

    # --- asking -------------------------------------------------------------------------------------------------------

    async def reload(self, asked_by: str, timeout_s: float) -> dict[str, Any]:
        """Have every living node reload, or none; returns one verdict with a row for each.

        `outcome` is `applied` (or `unchanged`), `refused` where one refused or did not answer its check within half of
        `timeout_s` and so nothing was applied anywhere, `partial` where all had accepted and one did not apply.
        Cancelled, the round stays where it stands. StoreUnavailable where the database is out.
        """
        until = time.monotonic() + timeout_s
        members = [node.name for node in self._shared.nodes if node.alive]
        asked = Round(uuid.uuid4().hex, "reload", "check", asked_by, members)
        await self._shared.ask(asked)
        rows = await self._answers(asked, until - timeout_s / 2)
        accepted = all(row["outcome"] in GOOD for row in rows)
        if not accepted or not await self._shared.advance(asked.id, "check", "apply"):
            await self._shared.advance(asked.id, "check", "refused")
            return {"id": asked.id, "outcome": "refused", "nodes": rows}
        rows = await self._answers(Round(asked.id, "reload", "apply", asked_by, members), until)
        outcomes = {row["outcome"] for row in rows}
        if not outcomes <= GOOD:
            return {"id": asked.id, "outcome": "partial", "nodes": rows}
        return {"id": asked.id, "outcome": "applied" if "applied" in outcomes else "unchanged", "nodes": rows}

    async def drain(self, asked_by: str, names: Sequence[str]) -> dict[str, Any]:
        """Ask these nodes to drain, all living ones but this where none is named; returns whom."""
        others = [node.name for node in self._shared.nodes if node.alive and node.name != self._shared.name]
        asked = Round(uuid.uuid4().hex, "drain", "apply", asked_by, list(names) or others)
        await self._shared.ask(asked)
        return {"id": asked.id, "nodes": list(asked.members)}

    async def _answers(self, asked: Round, until: float) -> list[dict[str, Any]]:
        """Return what each member answered; of one that is gone or silent that it is."""
        while True:
            given = await self._shared.answers(asked.id, asked.phase)
            alive = {node.name for node in self._shared.nodes if node.alive}
            left = [name for name in asked.members if name not in given and name in alive]
            if not left or time.monotonic() >= until:
                break
            await anyio.sleep(LOOK_S)
        return [_answer(name, given.get(name), gone=name not in alive) for name in asked.members]


def _answer(name: str, body: Mapping[str, Any] | None, *, gone: bool) -> dict[str, Any]:
    if body is not None:
        return {"node": name, **body}
    why = "it is gone: it does not keep its lease" if gone else "it did not answer in time"
    return {"node": name, "outcome": "gone" if gone else "silent", "errors": [{"path": "", "message": why}]}


def _row(node: Node, common: object, *, own: bool) -> dict[str, Any]:
    differs = node.alive and common is not None and node.about.get("fingerprint") not in (None, common)
    seen = {"name": node.name, "alive": node.alive, "own": own, "differs": differs, "seen_at": iso(node.seen_at_ms)}
    return {**seen, **node.about}


def _most_common(fingerprints: Sequence[object]) -> object:
    counts = Counter(each for each in fingerprints if each is not None)
    return max(counts, key=lambda each: (counts[each], str(each))) if counts else None


def _from(folder: Path, value: object) -> object:
    text = str(value) if isinstance(value, (str, PurePath)) else ""
    return text.removeprefix(f"{folder}/") if text.startswith(f"{folder}/") else value
