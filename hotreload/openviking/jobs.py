"""OpenViking's queues, for people: its messages as jobs, what each waits for, and pauses that last over restarts.

QueueFS keeps messages in their order and offers little more. A message that runs cannot be taken away from its handler,
one that waits cannot be taken out of the middle: those verbs say so. A message whose delivery failed is ours to deliver
again, so it can be retried now, or discarded.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NoReturn

import anyio

from hotreload.errors import NotOffered
from hotreload.openviking.limits import QueueWorkers
from hotreload.openviking.messages import about
from hotreload.openviking.queue_worker import QueueWorker
from hotreload.queue.engines import Store
from hotreload.queue.job import JobState

PAUSED: Final = "paused queues"
ALL: Final = "all"
LOOK_S: Final = 0.2


def manager() -> Any:
    """Return OpenViking's queue manager."""
    from openviking.storage.queuefs.queue_manager import get_queue_manager

    return get_queue_manager()


class OpenVikingJobs:
    """The messages of OpenViking's queues. Meets `admin.control.Jobs`; `paused` may be asked from any thread."""

    payload_most = 0

    def __init__(self, workers: QueueWorkers, store: Store) -> None:
        self._workers = workers
        self._store = store
        self._kept_as = PAUSED if store.fleet is None else f"{PAUSED} of {store.fleet.name}"
        kept = store.documents(self._kept_as)
        self._paused: frozenset[str] = frozenset(kept[0].body) if kept else frozenset()

    def paused(self, queue: str) -> bool:
        """Say whether no message of a queue is begun."""
        return queue in self._paused

    async def pause(self, queue: str, *, paused: bool) -> bool:
        """Begin no more messages of a queue, or begin them again; what runs goes on. The name may be in any case."""
        name = next((name for name in await manager().check_status() if name.casefold() == queue.casefold()), None)
        if name is None:
            return False
        wanted = self._paused | {name} if paused else self._paused - {name}
        await self._store.put_document(self._kept_as, ALL, sorted(wanted))
        self._paused = wanted
        self._workers.nudge()
        return True

    async def page(
        self, queue: str | None, state: JobState | None, limit: int, before: str | None
    ) -> Sequence[dict[str, Any]]:
        """Return up to `limit` messages, newest first, before the one with the id `before`."""
        found = [short async for short, _ in self._all(queue) if state is None or short["state"] == state.value]
        found.sort(key=lambda short: str(short["enqueued_at"]), reverse=True)
        if before is not None:
            ids = [short["id"] for short in found]
            found = found[ids.index(before) + 1 :] if before in ids else []
        return found[:limit]

    async def job(self, job_id: str, *, within_s: float = 0.0) -> dict[str, Any] | None:
        """Return one message with its payload; with `within_s` what is known of it then, where it has not ended."""
        with anyio.move_on_after(within_s):
            while within_s and await self._job(job_id) is not None:  # noqa: ASYNC110 - QueueFS tells of no end
                await anyio.sleep(LOOK_S)
        return await self._job(job_id)

    async def _job(self, job_id: str) -> dict[str, Any] | None:
        async for short, message in self._all(None):
            if short["id"] == job_id:
                more = {"payload": message.get("data"), "progress": None, "result": None, "traceback": None}
                return {**short, **more, "history": []}
        return None

    async def _all(self, queue: str | None) -> AsyncIterator[tuple[dict[str, Any], Mapping[str, Any]]]:
        for name in await manager().check_status():
            if queue is not None and queue.casefold() != name.casefold():
                continue
            known = self._known(name)
            for message in await manager().get_queue(name).snapshot():
                yield self._short(name, message, *known.get(str(message.get("id")), ("ready", None, 0))), message

    def _known(self, queue: str) -> Mapping[str, tuple[str, str | None, int]]:
        """Return the state of each message this process has claimed, what it waits for, and its failures."""
        worker = self._worker(queue)
        if worker is None:
            return {}
        running = {
            each.message_id: ("running", "; ".join(sorted(set(each.waits))) or None, each.failures)
            for each in worker.deliveries()
        }
        later = {
            str(each.message.get("id")): ("scheduled", "its delivery failed; it is delivered again", each.failures)
            for each in worker.failed()
        }
        return {**running, **later}

    def _short(
        self, queue: str, message: Mapping[str, Any], state: str, why: str | None, failures: int
    ) -> dict[str, Any]:
        enqueued_at = _time(message.get("timestamp"))
        return {
            "id": str(message.get("id")),
            "queue": queue,
            "state": state,
            "key": about(message),
            "priority": 0,
            "attempts": failures,
            "max_attempts": None,
            "interruptions": 0,
            "crashes": 0,
            "suspect": False,
            "version": 1,
            "enqueued_at": enqueued_at,
            "run_at": enqueued_at,
            "ended_at": None,
            "reason": why or (self._workers.withheld(queue) if state == "ready" else None),
        }

    def _worker(self, queue: str) -> QueueWorker | None:
        return next((worker for worker in self._workers.workers() if worker.name == queue), None)

    async def retry(self, ids: Sequence[str]) -> list[str]:
        """Deliver messages again now whose delivery failed; return their ids."""
        return [job_id for worker in self._workers.workers() for job_id in worker.again(ids)]

    async def discard(self, ids: Sequence[str]) -> list[str]:
        """Remove messages whose delivery failed; return their ids. What waits in its queue stays."""
        done: list[str] = []
        for worker, message in self._failed(set(ids)):
            if worker.forget(message):
                await manager().get_queue(worker.name).ack(str(message.get("id")), dict(message))
                self._workers.acknowledged(str(message.get("id")))
                done.append(str(message.get("id")))
        return done

    def _failed(self, ids: set[str]) -> Iterator[tuple[QueueWorker, Mapping[str, Any]]]:
        for worker in self._workers.workers():
            for each in worker.failed():
                if str(each.message.get("id")) in ids:
                    yield worker, each.message

    async def dead(self, queue: str) -> list[str]:
        """Return the messages of a queue whose delivery failed."""
        worker = self._worker(queue)
        return [] if worker is None else [str(each.message.get("id")) for each in worker.failed()]

    async def cancel(self, ids: Sequence[str]) -> NoReturn:
        """Refuse: QueueFS cannot take a message away from its handler."""
        raise NotOffered("OpenViking's queues cannot cancel a message; pause the queue, or remove what it is about")

    async def add(self, queue: str, jobs: Sequence[Mapping[str, Any]], *, priority: int, delay_s: float) -> NoReturn:
        """Refuse: a message alone, without OpenViking's task for it, is lost work."""
        raise NotOffered("OpenViking makes its messages itself: import through its API, or use `hotreload reindex`")

    async def backup(self, file: str) -> NoReturn:
        """Refuse: the messages are in OpenViking's store."""
        raise NotOffered("the messages are in OpenViking's workspace, which is copied while it is stopped")


def _time(timestamp: Any) -> str | None:
    try:
        return datetime.fromtimestamp(float(timestamp), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (TypeError, ValueError, OverflowError, OSError):
        return None
