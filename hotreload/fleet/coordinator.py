"""This process among those that share its store: what they know of each other, and reloads that all apply or none.

A reload of the fleet is a round in the store. Every node checks its own file first and prepares what it says; only
where all accept does the round move on, and each node applies exactly what it prepared, whatever its file says by then.
The node that was asked may die: a round that did not move on in time changes nothing, one that did is applied by all.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from importlib.metadata import version
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
from hotreload.reload.report import Outcome, ReloadReport, Trigger, TriggerKind

log = logging.getLogger(__name__)
PUBLISH_S: Final = 1.0
SAID: Final = ("pid", "started_at", "version", "phase", "generation")
LOOK_S: Final = 0.1
DOUBT_S: Final = 5.0
"""How much longer than its check a node waits for a database that does not say what was decided."""
DRAIN_S: Final = 600.0
OWN: Final = frozenset({("hotreload", "store"), ("hotreload", "state_dir")})
"""What differs from node to node without being another configuration."""
NOT_CHECKED: Final = {
    "outcome": "refused",
    "errors": [{"path": "", "message": "it was started after the check, with what its file said then"}],
}
GOOD: Final = frozenset({Outcome.APPLIED.value, Outcome.UNCHANGED.value, Outcome.VALID.value})


class Fleet:
    """One node's part in the fleet; `run` until cancelled.

    `status` returns the status document of this process, whose main points it says to the others; `snapshot` its
    settings in force, whose paths count from `folder`. `drain(reason, deadline_s)` begins its drain, and `draining`
    says that it runs: then it takes part in nothing more.
    """

    def __init__(
        self,
        shared: Shared,
        reloads: ReloadCoordinator,
        *,
        status: Callable[[], dict[str, Any]],
        snapshot: Callable[[], Snapshot[Any]],
        folder: Path,
        drain: Callable[[str, float | None], object],
        draining: Callable[[], bool],
    ) -> None:
        self._shared = shared
        self._reloads = reloads
        self._status = status
        self._snapshot = snapshot
        self._folder = folder
        self._drain = drain
        self._draining = draining
        self._verdicts: dict[str, dict[str, Any]] = {}
        """The last reload of the fleet that this process took part in, by the id of its round."""
        self._waiting: dict[tuple[str, str], Round] = {}
        self._taking_part = set[str]()
        self._host, self._release = socket.gethostname(), version("openviking-hotreload")
        self._same: tuple[int, str] | None = None

    # --- what the nodes say of themselves ------------------------------------------------------------------------

    def nodes(self) -> list[dict[str, Any]]:
        """Return a row for each node; `differs` where its configuration is not the most common one."""
        nodes = self._shared.nodes
        odd = _odd([node.about.get("fingerprint") for node in nodes if node.alive])
        return [_row(node, odd, own=node.name == self._shared.name) for node in nodes]

    def _about(self) -> dict[str, Any]:
        status = self._status()
        last = status["last_reload"]
        return {
            **{key: status[key] for key in SAID},
            "host": self._host,
            "hotreload": self._release,
            "schema": self._shared.schema,
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
        if waiting.id not in self._taking_part and not self._draining():
            self._waiting[step] = waiting
            self._heard.set()

    async def _take_part_in_all(self, tasks: TaskGroup) -> None:
        while True:
            await self._heard.wait()
            self._heard = anyio.Event()
            while self._waiting:
                _, waiting = self._waiting.popitem()
                if waiting.id not in self._taking_part:
                    self._taking_part.add(waiting.id)
                    tasks.start_soon(self._take_part, waiting)

    async def _take_part(self, waiting: Round) -> None:
        try:
            if waiting.kind == "drain":
                await self._shared.answer(waiting.id, waiting.phase, {"outcome": "draining"})
                self._drain(f"asked for by {waiting.asked_by}", waiting.deadline_s)
            elif waiting.id in self._verdicts:  # its answer did not reach the database before
                await self._shared.answer(waiting.id, waiting.phase, self._verdicts[waiting.id])
            elif waiting.phase == "check":
                await self._reload(waiting)
            else:
                await self._shared.answer(waiting.id, waiting.phase, NOT_CHECKED)
        except StoreUnavailable as error:
            log.warning("fleet.not_answered round=%s phase=%s error=%s", waiting.id, waiting.phase, error)
        finally:
            self._taking_part.discard(waiting.id)

    async def _reload(self, waiting: Round) -> None:
        """Check and prepare, wait for what all decide, apply it or not, and answer both times."""
        trigger = Trigger(TriggerKind.HTTP, waiting.asked_by, now_ms())
        accepted = anyio.Event()
        report = await self._reloads.submit(trigger, confirm=partial(self._decided, waiting, accepted)).wait()
        self._verdicts = {waiting.id: report.to_dict()}
        self._shared.publish(self._about())
        await self._shared.answer(waiting.id, "apply" if accepted.is_set() else "check", self._verdicts[waiting.id])

    async def _decided(self, waiting: Round, accepted: anyio.Event, report: ReloadReport) -> str | None:
        """Answer that this node accepts and wait for what all decide; None to apply, else why not."""
        until = time.monotonic() + waiting.left_s + DOUBT_S
        try:
            await self._shared.answer(waiting.id, "check", report.to_dict())
        except StoreUnavailable as error:
            return f"the other nodes cannot be told that this one accepts: {error}"
        accepted.set()
        while time.monotonic() < until:
            with suppress(StoreUnavailable):
                phase, left_s = await self._shared.phase(waiting.id)
                if phase == "apply":
                    return None
                if phase != "check":
                    return "not all nodes accepted in time"
                if left_s <= 0:
                    await self._shared.advance(waiting.id, "check", "refused")
            await anyio.sleep(LOOK_S)
        return "the database did not say what the nodes decided"

    # --- asking -------------------------------------------------------------------------------------------------------

    async def reload(self, asked_by: str, timeout_s: float) -> dict[str, Any]:
        """Have every living node reload, or none; returns one verdict with a row for each.

        `outcome` is `applied` (or `unchanged`), `refused` where one refused or did not answer its check within half of
        `timeout_s` and so nothing was applied anywhere, `partial` where all had accepted and one did not apply. A
        `reason` is given where it was none of the nodes: another reload is being checked, or time was up. Cancelled,
        nothing is applied unless all had accepted. StoreUnavailable where the database is out.
        """
        until = time.monotonic() + timeout_s
        members = [node.name for node in self._shared.nodes if node.alive]
        asked = Round(uuid.uuid4().hex, "reload", "check", asked_by, members, timeout_s / 2)
        other = await self._shared.ask(asked)
        if other is not None:
            reason = f"another reload of all nodes is being checked, asked for by {other}"
            return {"id": asked.id, "outcome": "refused", "nodes": [], "reason": reason}
        rows = await self._answers(asked, until - timeout_s / 2)
        if not all(row["outcome"] in GOOD for row in rows):
            await self._shared.advance(asked.id, "check", "refused")
            return {"id": asked.id, "outcome": "refused", "nodes": rows}
        if not await self._shared.advance(asked.id, "check", "apply"):
            return {"id": asked.id, "outcome": "refused", "nodes": rows, "reason": "the last node accepted too late"}
        rows = await self._answers(replace(asked, phase="apply"), until)
        outcomes = {row["outcome"] for row in rows}
        if not outcomes <= GOOD:
            return {"id": asked.id, "outcome": "partial", "nodes": rows}
        return {"id": asked.id, "outcome": "applied" if "applied" in outcomes else "unchanged", "nodes": rows}

    async def drain(self, asked_by: str, names: Sequence[str], deadline_s: float | None) -> dict[str, Any]:
        """Ask these nodes to drain, all living ones but this where none is named; returns whom.

        Each has its configured deadline where `deadline_s` is None. StoreUnavailable where the database is out.
        """
        others = [node.name for node in self._shared.nodes if node.alive and node.name != self._shared.name]
        asked = Round(uuid.uuid4().hex, "drain", "apply", asked_by, list(names) or others, DRAIN_S, deadline_s)
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


def _row(node: Node, odd: Collection[object], *, own: bool) -> dict[str, Any]:
    differs = node.alive and node.about.get("fingerprint") in odd
    seen = {"name": node.name, "alive": node.alive, "own": own, "differs": differs, "seen_at": iso(node.seen_at_ms)}
    return {**seen, **node.about}


def _odd(fingerprints: Sequence[object]) -> Collection[object]:
    """Return the fingerprints that differ from the most common one; all of them where several are as common."""
    counts = Counter(each for each in fingerprints if each is not None)
    common = [each for each, count in counts.items() if count == max(counts.values())]
    return counts.keys() - common if len(common) == 1 else counts.keys()


def _from(folder: Path, value: object) -> object:
    text = str(value) if isinstance(value, (str, PurePath)) else ""
    return text.removeprefix(f"{folder}/") if text.startswith(f"{folder}/") else value
