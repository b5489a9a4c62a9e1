"""This process among those that share its store: what they know of each other, and reloads that all apply or none.

A reload of the fleet is a round in the store. Every node checks its own file first; only where all accept does the
round move on, and each node applies exactly what it checked. The node that was asked may die: a round that did not
move on changes nothing, one that did is applied by all.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePath
from typing import Any, Final

import anyio
from anyio.abc import TaskGroup

from hotreload.clock import iso, now_ms
from hotreload.config.document import Keys
from hotreload.config.secrets import Redactor
from hotreload.config.store import Snapshot
from hotreload.errors import StoreUnavailable
from hotreload.queue.fleet import Fleet as Shared
from hotreload.queue.fleet import Node, Round
from hotreload.reload.coordinator import ReloadCoordinator
from hotreload.reload.report import Outcome, Trigger, TriggerKind

log = logging.getLogger(__name__)
PUBLISH_S: Final = 1.0
SAID: Final = ("pid", "started_at", "version", "phase", "generation")
LOOK_S: Final = 0.1
OWN: Final = frozenset({("hotreload", "store"), ("hotreload", "state_dir")})
"""What differs from node to node without being another configuration."""
GOOD: Final = frozenset({Outcome.APPLIED.value, Outcome.UNCHANGED.value, Outcome.VALID.value})


class Fleet:
    """One node's part in the fleet; `run` until cancelled.

    `status` returns the status document of this process, whose main points it says to the others; `snapshot` its
    settings in force, whose paths count from `folder`. `drain(reason)` begins its drain, and `draining` says that it
    runs: then it takes part in nothing more.
    """

    def __init__(
        self,
        shared: Shared,
        reloads: ReloadCoordinator,
        *,
        status: Callable[[], dict[str, Any]],
        snapshot: Callable[[], Snapshot[Any]],
        folder: Path,
        drain: Callable[[str], object],
        draining: Callable[[], bool],
    ) -> None:
        self._shared = shared
        self._reloads = reloads
        self._status = status
        self._snapshot = snapshot
        self._folder = folder
        self._drain = drain
        self._draining = draining
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
        status = self._status()
        last = status["last_reload"]
        return {
            **{key: status[key] for key in SAID},
            "fingerprint": self._fingerprint(),
            "degraded": status["degraded"] is not None,
            "pools": [{key: pool[key] for key in ("name", "running", "limit")} for pool in status["pools"]],
            "last_reload": last and {"outcome": last["outcome"], "at": last["trigger"]["at"]},
        }

    def _fingerprint(self) -> str | None:
        """Return the fingerprint that all nodes make with the same key; paths count from the configuration's folder."""
        key, snapshot = self._shared.key, self._snapshot()
        if key is None:
            return None
        if self._same is None or self._same[0] != snapshot.generation:
            leaves: dict[Keys, object] = {
                keys: _from(self._folder, value) for keys, value in snapshot.leaves.items() if keys not in OWN
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
        if step not in self._taking_part and not self._draining():
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
                self._drain(f"asked for by {waiting.asked_by}")
                return
            if waiting.phase == "check":
                ticket = self._reloads.submit(trigger, dry_run=True)
                report = await ticket.wait()
                self._checked = {waiting.id: ticket.candidate}  # a newer round ends those before
            else:
                expects = self._checked.pop(waiting.id, None) or "nothing"
                report = await self._reloads.submit(trigger, expects=expects).wait()
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
