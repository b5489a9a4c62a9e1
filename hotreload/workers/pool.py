"""The pool of one queue: claims at most `limit - running` jobs, refills at once, never polls.

    claimed ──→ its own task ──→ ended ─┐
       ↑                                │   one call of the store settles what ended and claims what fits
       └──────────── exchange ←─────────┘

Each job runs in a task and a cancel scope of its own: what it does to its task or leaves in it ends with it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence

import anyio

from hotreload.errors import LeaseLost, StoreUnavailable
from hotreload.lifecycle import Flushed, Remaining, Window
from hotreload.queue.job import Failed, Interrupted, JobRow, JobState, Verdict
from hotreload.queue.store import Store
from hotreload.workers.active import ActiveJob, ActiveJobs, JobEnd
from hotreload.workers.execution import Execution
from hotreload.workers.flushing import Held, flush
from hotreload.workers.isolation import contain_exits
from hotreload.workers.limits import Limit, Places, SharedLimit

log = logging.getLogger(__name__)
RETRY_STORE_S = 1.0
LOOK_S = 30.0
STOP_S = 2.0
"""How long a job that timed out or was cancelled may take to stop before it is fenced and its place given away."""

Settled = Callable[[JobRow, JobState, Verdict], None]
"""Told of each job whose verdict is durable: the job as claimed, the state it is in now, how its code ended."""


class Pool:
    """Runs the jobs of one queue. Meets `Drainable`; its limits may be moved at any time from the loop's thread.

    Shrinking cancels nothing: no job is begun until fewer than the limit run.
    """

    def __init__(
        self,
        *,
        name: str,
        queue: Store,
        execution: Execution,
        limit: Limit,
        shared: Sequence[SharedLimit] = (),
        window: Callable[[], Window | None] = lambda: None,
        look_s: float = LOOK_S,
        stop_s: float = STOP_S,
    ) -> None:
        self.name = f"workers.{name}"
        self.queue_name = name
        self.limit = limit
        self.active = ActiveJobs()
        self._queue = queue
        self._execution = execution
        self._places = Places(self.name, shared, self.wake)
        self._window = window
        self._claimed: deque[JobRow] = deque()
        self._wake = anyio.Event()
        self._scope = anyio.CancelScope  # of the running backend once `run` knows it: asked each time it costs 2 µs
        self._look_s = look_s
        self._stop_s = stop_s
        self._wanting = False
        self._quiesced = False
        self._at_quiesce: set[str] = set()
        self._settled_in_drain: list[str] = []
        self._ended: Callable[[JobEnd], None] = lambda _end: None
        self._settled: Settled = lambda _row, _state, _verdict: None
        for moving in (limit, *shared):
            moving.listen(self.wake)

    @property
    def running(self) -> int:
        """How many jobs are active."""
        return len(self.active)

    @property
    def quiesced(self) -> bool:
        """True once nothing more is claimed."""
        return self._quiesced

    @property
    def bound_by(self) -> str | None:
        """Name the limit that keeps the pool from claiming more: `limit`, its own, or a shared one's name."""
        if self.running >= self.limit.value:
            return "limit"
        return self._places.bound_by

    def generations(self) -> list[int]:
        """Return the settings generation of each active job."""
        return [entry.job.generation for entry in self.active.all() if entry.job is not None]

    @property
    def execution(self) -> Execution:
        """How its jobs are done."""
        return self._execution

    def on_ended(self, listener: Callable[[JobEnd], None]) -> None:
        """Tell `listener` of each end of a job.

        The outcomes: `done`, `failed`, `dead`, `interrupted`, `snoozed`, `cancelled`, `fenced`.
        """
        self._ended = listener

    def on_settled(self, listener: Settled) -> None:
        """Tell `listener` of each verdict once it is durable."""
        self._settled = listener

    def wake(self) -> None:
        """Look for ready jobs now; on the loop's thread."""
        self._wake.set()

    async def run(self) -> None:
        """Claim and run until quiesced and empty; cancelled, it cancels the jobs and leaves them to the flush."""
        contain_exits(asyncio.get_running_loop())
        self._scope = type(anyio.CancelScope())
        try:
            while not (self._quiesced and not self.active):
                self._wake = anyio.Event()
                if not await self._exchange():
                    await self._until_something_changes()
        finally:
            self._quiesced = True
            self._interrupt_all()
            with anyio.CancelScope(shield=True):
                await self.active.until(lambda: not self.active.working)
                await self._execution.close()

    # --- the exchange with the store ---------------------------------------------------------------------------

    async def _exchange(self) -> bool:
        """Settle what ended, claim what the limits leave free; True if it may be worth to look again at once."""
        ended = self.active.ended()
        free = 0 if self._quiesced else self.limit.value - (len(self.active) - len(ended))
        waited = bool(self._claimed)
        wanted = 0 if waited else self._places.take(free)
        try:
            done = await self._queue.exchange(
                self.queue_name, wanted, [(entry.row, entry.verdict) for entry in ended if entry.verdict]
            )
        except BaseException as error:
            self._places.give_back(wanted)
            if not isinstance(error, StoreUnavailable):
                raise
            await anyio.sleep(RETRY_STORE_S)  # the store itself logs that it is in trouble, and that it is back
            return True
        self.active.settled(len(ended))
        for entry, state in zip(ended, done.states, strict=True):
            self._tell(entry, state)
        self._places.give_back(wanted)  # each job takes its own when it begins
        self._wanting = len(done.rows) < wanted  # else a place that gets free wakes us, and nothing else can help
        if self._wanting:
            self._places.content()
        self._claimed.extend(done.rows)
        self._begin()
        return (self._wanting or not wanted) and bool(ended or done.rows or (waited and not self._claimed))

    def _tell(self, entry: ActiveJob, state: JobState | LeaseLost) -> None:
        if isinstance(state, LeaseLost):
            self._ended(entry.ended("fenced"))
            log.warning("job.fenced job=%s lease_seq=%d", state.job_id, state.lease_seq)
            return
        if self._quiesced:
            self._settled_in_drain.append(entry.row.id)
        self._ended(entry.ended("dead" if state is JobState.DEAD else type(entry.verdict).__name__.lower()))
        if entry.verdict is not None:
            self._settled(entry.row, state, entry.verdict)

    async def _until_something_changes(self) -> None:
        await self._execution.trim(self.limit.value)
        if not self._wanting:
            await self._wake.wait()
            return
        with anyio.move_on_after(await self._seconds_to_next()):
            await self._wake.wait()

    async def _seconds_to_next(self) -> float | None:
        """Return how long to wait for the next scheduled job, but look at the clock now and then: it may be set."""
        due = await self._queue.next_due_ms(self.queue_name)
        return None if due is None else min(self._look_s, max(0.001, (due - self._queue.now_ms()) / 1000))

    # --- the work ----------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Start what was claimed, within limits that may have shrunk meanwhile; the rest waits for room."""
        if self._quiesced:  # not started: the flush puts them back
            self._claimed.clear()
        loop = asyncio.get_running_loop()
        while self._claimed and len(self.active) < self.limit.value and self._places.take(1):
            self._places.began()
            entry = self.active.add(self._claimed.popleft(), self._queue.now_ms())
            entry.task = loop.create_task(self._run_one(entry))

    async def _run_one(self, entry: ActiveJob) -> None:
        """Run one job to its verdict; awaits nothing after its code ended, so that nothing it left can come between."""
        verdict: Verdict | None = None
        timer = self._execution.limit_time(entry, self._stop)
        try:
            with self._scope() as entry.scope:
                verdict = Interrupted() if entry.stopping else await self._execution.run(entry)
        finally:
            if timer is not None:
                timer.cancel()
            if not entry.fenced:
                self._end(entry, verdict)

    def _end(self, entry: ActiveJob, verdict: Verdict | None) -> None:
        """Take a job out of work: to be settled, or dropped where the store knows already or the flush will say."""
        self._places.ended()
        if entry.cancelled:
            self.active.drop(entry)
            self._ended(entry.ended("cancelled"))
        elif verdict is None or (self._quiesced and isinstance(verdict, Interrupted)):
            self.active.drop(entry)  # the flush puts it back with all the others
            self._ended(entry.ended("interrupted"))
        else:
            self.active.end(entry, verdict)
        self._wake.set()

    def cancel(self, job_id: str) -> None:
        """Stop a job that the store has cancelled already; of one that is not active nothing is done."""
        self._claimed = deque(row for row in self._claimed if row.id != job_id)
        entry = self.active.get(job_id)
        if entry is not None and entry.verdict is None:
            entry.cancelled = True
            self._stop(entry)

    def _stop(self, entry: ActiveJob) -> None:
        """Interrupt a job, and fence it where its code does not stop in time: a thread, or one that goes on."""
        entry.interrupt()
        asyncio.get_running_loop().call_later(self._stop_s, self._fence, entry)

    def _fence(self, entry: ActiveJob) -> None:
        if entry.verdict is not None or self.active.get(entry.row.id) is not entry:
            return
        log.error("job.does_not_stop %s", entry.stuck())
        entry.fence()
        failed = Failed(f"timed out after {entry.timed_out_s or 0.0:g} s and did not stop; it is fenced")
        self._end(entry, self._execution.failed(entry, failed))

    # --- Drainable ---------------------------------------------------------------------------------------------

    def quiesce(self) -> None:
        """Claim nothing more, interrupt what said it cannot finish in time; idempotent."""
        self._quiesced = True
        self._at_quiesce = {entry.row.id for entry in self.active.all()}
        window = self._window()
        for entry in self.active.at_work() if window else ():
            if window and entry.needed_until is not None and entry.needed_until > window.cut_at:
                entry.interrupt()
        self._places.content()
        self._wake.set()

    def remaining(self) -> Sequence[Remaining]:
        """Return the active jobs."""
        return [Remaining(id=entry.row.id, what=self.queue_name, why=entry.why()) for entry in self.active.all()]

    async def idle(self) -> None:
        """Return once no job is active."""
        await self.active.until(lambda: not self.active)

    async def interrupt(self) -> None:
        """Cancel every active job, those that said when they end only then, and wait until all have stopped.

        Before the end of the grace (a second signal) none is spared.
        """
        while spared := self._spared():
            await self._let_end(spared)
        asyncio.get_running_loop().call_soon(self._interrupt_all)  # a scope that a task cancels describes that task
        await self.idle()

    def _interrupt_all(self) -> None:
        for entry in self.active.at_work():
            entry.interrupt()

    def _spared(self) -> set[ActiveJob]:
        window, now = self._window(), time.monotonic()
        if window is None or now < window.grace_ends:
            return set()
        return {entry for entry in self.active.at_work() if now < (entry.needed_until or 0.0) <= window.cut_at}

    async def _let_end(self, spared: set[ActiveJob]) -> None:
        """Interrupt the others; return when nothing is at work, or the first of `spared` should have ended."""
        for entry in self.active.at_work():
            if entry not in spared:
                entry.interrupt()
        with anyio.move_on_after(min(entry.needed_until or 0.0 for entry in spared) - time.monotonic()):
            await self.active.until(lambda: not self.active.working)

    def give_up(self) -> Held:
        """Claim nothing more and return what there is to put back; from any thread."""
        self._quiesced = True
        entries = self.active.all()
        ids = [*self._at_quiesce, *self._settled_in_drain, *(entry.row.id for entry in entries)]
        return Held(
            queue=self.queue_name,
            ended=[(entry.row, entry.verdict) for entry in entries if entry.verdict is not None],
            left=[entry for entry in entries if entry.verdict is None],
            had=frozenset(ids),
            settled=frozenset(self._settled_in_drain),
        )

    def flush(self, timeout_s: float) -> Flushed:
        """Put back what this pool alone has active; see `hotreload.workers.flushing.flush`."""
        return flush(self._queue, [self.give_up()], timeout_s)
