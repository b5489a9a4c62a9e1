"""A small process behind the admin application, for tests: `python -m tests.control SOCKET` serves it until a drain."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from pydantic import SecretStr

from hotreload.admin.app import create_app
from hotreload.admin.control_socket import bind_control_socket
from hotreload.admin.metrics import Metrics
from hotreload.admin.serving import Limits, Server
from hotreload.config.fields import Effect
from hotreload.errors import Problem
from hotreload.lifecycle import Phase
from hotreload.reload.report import Change, Outcome, ReloadReport, Trigger, TriggerKind

Event = dict[str, Any]


@dataclass
class Settings:
    """What the admin application reads of the settings."""

    root_key: SecretStr | None = None
    allowed_hosts: Sequence[str] = ()


@dataclass
class Submitted:
    """A reload asked for, and its verdict once `over` is set."""

    id: str
    report: ReloadReport
    over: anyio.Event
    if_match: int | None

    async def wait(self) -> ReloadReport:
        await self.over.wait()
        return self.report


def report(outcome: Outcome = Outcome.APPLIED, **changes: Any) -> ReloadReport:
    """Return a reload report."""
    made = ReloadReport(
        id="5f0c",
        outcome=outcome,
        dry_run=False,
        trigger=Trigger(TriggerKind.HTTP, "root key", 1_795_000_000_000),
        generation=8,
        previous_generation=7,
        fingerprint="hmac:1234",
        changes=(Change("vlm.max_concurrent", 4, 12, Effect.LIVE, "workers.semantic"),),
        timings_ms={"load": 0.4, "total": 2.4},
    )
    return replace(made, **changes)


def drain_report(**changes: Any) -> Event:
    """Return a drain report."""
    return {
        "id": "d1", "reason": "test", "deadline_s": 5.0, "elapsed_s": 0.2, "phase": "stopped",
        "finished": ["a"], "checkpointed": ["b"], "requeued": ["b", "c"], "abandoned": [], "lost": 0,
        "overshoot_ms": 0.0, "timings_ms": {}, **changes,
    }  # fmt: skip


@dataclass
class FakeControl:
    """Meets `Control`; its verdicts are `outcome` and `errors`, given at once unless `held`."""

    settings: Settings = field(default_factory=Settings)
    outcome: Outcome = Outcome.APPLIED
    errors: tuple[Problem, ...] = ()
    pending: tuple[Any, ...] = ()
    changes: tuple[Any, ...] | None = None
    held: bool = False
    joined: str | None = None
    instance: str = "abc"
    generation: int = 8
    ready: bool = True
    draining: bool = False
    degraded: str | None = None
    phase: Phase = Phase.RUNNING
    config_file: str = "/etc/summaries/ov.conf"
    last_drain: Event = field(default_factory=drain_report)
    drained: Callable[[], object] = lambda: None
    searches: Any = None
    jobs: Any = None
    fleet: Any = None

    def __post_init__(self) -> None:
        self.checked: list[tuple[str, bytes]] = []
        self.expanded: list[bool] = []
        self.submitted: list[tuple[Submitted, Trigger]] = []
        self.drains: list[tuple[str, float | None]] = []
        self.streams: list[MemoryObjectSendStream[Event]] = []
        self.metrics = Metrics(self.status)
        self._changed = anyio.Event()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Return once `condition` holds; it may look at `submitted` and `streams`."""
        with anyio.fail_after(5):
            while not condition():
                self._changed = anyio.Event()
                await self._changed.wait()

    def submit_check(
        self,
        trigger: Trigger,
        name: str,
        raw: bytes,
        *,
        expands: bool = True,
        id: str | None = None,  # noqa: A002
    ) -> Submitted:
        self.checked.append((name, raw))
        self.expanded.append(expands)
        return self.submit_reload(trigger, dry_run=True, id=id)

    def submit_reload(
        self,
        trigger: Trigger,
        *,
        dry_run: bool = False,
        if_match: int | None = None,
        id: str | None = None,  # noqa: A002
    ) -> Submitted:
        made = report(
            self.outcome,
            dry_run=dry_run,
            trigger=trigger,
            errors=self.errors,
            **({} if self.changes is None else {"changes": self.changes}),
            pending_restart=self.pending,
            id=self.joined or id or "5f0c",
        )
        ticket = Submitted(made.id, made, anyio.Event(), if_match)
        if if_match not in (None, self.generation):
            moved = Problem("generation", "it moved on")
            ticket.report = replace(made, outcome=Outcome.REFUSED, errors=(moved,))
        if not self.held:
            ticket.over.set()
        self.submitted.append((ticket, trigger))
        self._changed.set()
        return ticket

    def status(self) -> Event:
        pool = {"name": "semantic", "limit": 4, "running": 4, "waiting": 9, "bound_by": "limit"}
        queue = {"name": "semantic", "ready": 9, "scheduled": 1, "running": 4, "dead": 2, "paused": False}
        return {
            "name": "summaries", "version": "1", "pid": 1, "started_at": "2026-11-23T17:20:03.120Z",
            "phase": self.phase.value, "generation": self.generation, "fingerprint": "hmac:1234",
            "degraded": self.degraded, "config_file": self.config_file, "pending_restart": [],
            "pools": [pool], "queues": [queue], "watch": {"healthy": True, "backend": "inotify", "overflows": 3},
            "last_reload": report(Outcome.REJECTED, errors=(Problem("vlm", "no"),)).to_dict(),
            "drain": None, "last_drain": None, "jobs_on_generation": {"7": 1, "8": 3, "6": 0},
        }  # fmt: skip

    def config(self) -> Event:
        settings = {"vlm.api_key": "hmac:77", "vlm.max_concurrent": 4, "storage.workspace": "/a"}
        return {"settings": settings, "generation": self.generation}

    def history(self) -> list[Event]:
        return [report().to_dict()]

    def schema(self) -> Event:
        return {"type": "object"}

    def start_drain(self, reason: str, deadline_s: float | None = None) -> Event:
        self.drains.append((reason, deadline_s))
        self.drained()
        return self.progress(3)

    def progress(self, left: int) -> Event:
        jobs = [{"part": "workers.semantic", "id": str(n), "what": "job", "waiting": False} for n in range(left)]
        return {"id": "d1", "phase": "grace", "deadline_s": 5.0, "left_s": 4.0, "jobs_at_start": 3, "remaining": jobs}

    def admin_settings(self) -> Settings:
        return self.settings

    @asynccontextmanager
    async def subscribe(self) -> AsyncIterator[MemoryObjectReceiveStream[Event]]:
        send, receive = anyio.create_memory_object_stream[Event](64)
        self.streams.append(send)
        self._changed.set()
        try:
            yield receive
        finally:
            self.streams.remove(send)
            self._changed.set()
            receive.close()
            send.close()

    def publish(self, event: str, data: Event) -> None:
        for stream in self.streams:
            stream.send_nowait({"event": event, "data": data})

    def metrics_text(self) -> bytes:
        return self.metrics.text()


@asynccontextmanager
async def serving(
    control: FakeControl, *, socket: Path | None = None, listener: Any = None, limits: Limits | None = None
) -> AsyncIterator[Server]:
    """Serve the admin application over `control` on a control socket, or on a TCP listener."""
    bound = bind_control_socket(socket) if socket else None
    sockets = [bound.listener if bound else listener]
    server = Server(create_app(control), sockets, control=bound is not None, limits=limits)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve)
        await server.listening.wait()
        try:
            yield server
        finally:
            await server.stop(0.2)
            if bound:
                bound.close()


async def main(socket: Path, lost: int, report_told: bool) -> None:
    """Serve until a drain is asked for, tell three steps of it and go."""
    asked = anyio.Event()
    control = FakeControl(drained=asked.set, last_drain=drain_report(lost=lost))
    async with serving(control, socket=socket):
        print("listening", flush=True)
        await asked.wait()
        for left in (2, 1, 0):
            control.publish("drain", control.progress(left))
        if report_told:
            control.publish("drain", control.last_drain)
        for stream in list(control.streams):
            stream.close()


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "told")
