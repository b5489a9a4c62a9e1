"""The pool of one queue: claims at most `limit - running` jobs, refills at once, never polls.

    claimed ──→ runner ──→ ended ─┐
       ↑                          │   one call of the store settles what ended and claims what fits
       └────────── exchange ←─────┘

Two scopes: the exchange, which a drain keeps to its end, and the work, which it lets finish or cancels whole.
"""

from __future__ import annotations

import gc
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence

import anyio
from anyio.abc import TaskGroup

from hotreload import clock
from hotreload.errors import LeaseLost, StoreUnavailable
from hotreload.lifecycle import Flushed, Remaining, Window
from hotreload.queue.contract import Queue
from hotreload.queue.job import Failed, Interrupted, JobRow, JobState, Verdict
from hotreload.workers.execution import Execution
from hotreload.workers.flushing import Held, flush
from hotreload.workers.hand import Hand, Running
from hotreload.workers.limits import Limit, Places, SharedLimit
from hotreload.workers.runners import Runners

log = logging.getLogger(__name__)
RETRY_STORE_S = 1.0
LOOK_S = 30.0


class Pool:
    """Runs the jobs of one queue. Meets `Drainable`; its limits may be moved at any time from the loop's thread.

    Shrinking cancels nothing: no job is begun until fewer than the limit run.
    """

    def __init__(
        self,
        *,
        name: str,
        queue: Queue,
        execution: Execution,
        limit: Limit,
        shared: Sequence[SharedLimit] = (),
        window: Callable[[], Window | None] = lambda: None,
        now_ms: Callable[[], int] = clock.now_ms,
        look_s: float = LOOK_S,
    ) -> None:
        self.name = f"workers.{name}"
        self.queue_name = name
        self.limit = limit
        self.hand = Hand()
        self._queue = queue
        self._execution = execution
        self._places = Places(self.name, shared, self.wake)
        self._window = window
        self._runners = Runners(name, self._run_one)
        self._claimed: deque[JobRow] = deque()
        self._wake = anyio.Event()
        self._over = anyio.Event()
        self._now_ms = now_ms
        self._look_s = look_s
        self._wanting = False
        self._quiesced = False
        self._at_quiesce: set[str] = set()
        self._settled_in_drain: list[str] = []
        self._ended: Callable[[str, str], None] = lambda _queue, _outcome: None
        self._work: TaskGroup | None = None
        for moving in (limit, *shared):
            moving.listen(self.wake)

    @property
    def running(self) -> int:
        """How many jobs are in hand."""
        return len(self.hand)

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
        """Return the settings generation of each job in hand."""
        return [entry.job.generation for entry in self.hand.all() if entry.job is not None]

    def on_ended(self, listener: Callable[[str, str], None]) -> None:
        """Tell `listener(queue, outcome)` of each end of a job: `done`, `failed`, `dead`, `interrupted`, `fenced`."""
        self._ended = listener

    def wake(self) -> None:
        """Look for ready jobs now; on the loop's thread."""
        self._wake.set()

    async def run(self) -> None:
        """Claim and run until quiesced and empty; cancelled, it cancels the jobs and leaves them to the flush."""
        try:
            async with anyio.create_task_group() as exchange, anyio.create_task_group() as self._work:
                exchange.start_soon(self._exchange_until_over, self._work, name=f"exchange {self.queue_name}")
                await self._over.wait()
        finally:
            gc.unfreeze()
            with anyio.CancelScope(shield=True):
                await self._execution.close()

    # --- the exchange with the store ---------------------------------------------------------------------------

    async def _exchange_until_over(self, work: TaskGroup) -> None:
        while not (self._quiesced and not self.hand):
            self._wake = anyio.Event()
            if not await self._exchange(work):
                await self._until_something_changes()
        self._over.set()
        self._runners.close()

    async def _exchange(self, work: TaskGroup) -> bool:
        """Settle what ended, claim what the limits leave free; True if it may be worth to look again at once."""
        ended = self.hand.ended()
        free = 0 if self._quiesced else self.limit.value - (len(self.hand) - len(ended))
        waited = bool(self._claimed)
        wanted = 0 if waited else self._places.take(free)
        self._wanting = wanted > 0  # else a place that gets free wakes us, and nothing else can help
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
        self.hand.settled(len(ended))
        for entry, state in zip(ended, done.states, strict=True):
            self._tell(entry, state)
        self._places.give_back(wanted)  # each job takes its own when it begins
        if len(done.rows) < wanted:
            self._places.content()
        self._claimed.extend(done.rows)
        self._begin(work)
        return bool(ended or done.rows or (waited and not self._claimed))

    def _tell(self, entry: Running, state: JobState | LeaseLost) -> None:
        if isinstance(state, LeaseLost):
            self._ended(self.queue_name, "fenced")
            log.warning("job.fenced job=%s lease_seq=%d", state.job_id, state.lease_seq)
            return
        if self._quiesced:
            self._settled_in_drain.append(entry.row.id)
        self._ended(self.queue_name, "dead" if state is JobState.DEAD else type(entry.verdict).__name__.lower())

    async def _until_something_changes(self) -> None:
        await self._execution.trim(self.limit.value)
        with anyio.move_on_after(await self._seconds_to_next() if self._wanting else None):
            await self._wake.wait()

    async def _seconds_to_next(self) -> float | None:
        """Return how long to wait for the next scheduled job, but look at the clock now and then: it may be set."""
        due = await self._queue.next_due_ms(self.queue_name)
        return None if due is None else min(self._look_s, max(0.001, (due - self._now_ms()) / 1000))

    # --- the work ----------------------------------------------------------------------------------------------

    def _begin(self, work: TaskGroup) -> None:
        """Start what was claimed, within limits that may have shrunk meanwhile; the rest waits for room."""
        if self._quiesced:  # not started: the flush puts them back
            self._claimed.clear()
        while self._claimed and len(self.hand) < self.limit.value and self._places.take(1):
            self._runners.begin(self.hand.take(self._claimed.popleft()), work)

    async def _run_one(self, entry: Running) -> None:
        verdict: Verdict | None = None
        try:
            opened = self._execution.open(entry.row)
            if isinstance(opened, Failed):
                verdict = opened
            else:
                entry.job = opened
                verdict = await self._execution.run(opened)
        finally:
            self._places.give_back(1)
            if verdict is None or (self._quiesced and isinstance(verdict, Interrupted)):
                self.hand.drop(entry)  # the flush puts it back with all the others
                self._ended(self.queue_name, "interrupted")
            else:
                self.hand.end(entry, verdict)
            self._wake.set()

    # --- Drainable ---------------------------------------------------------------------------------------------

    def quiesce(self) -> None:
        """Claim nothing more, interrupt what said it cannot finish in time; idempotent.

        What lives now is frozen for the collector: with 10,000 jobs a third of the time to cancel them went into
        looking through them again and again.
        """
        gc.freeze()
        self._quiesced = True
        self._at_quiesce = {entry.row.id for entry in self.hand.all()}
        window = self._window()
        for entry in self.hand.at_work() if window else ():
            if window and entry.needed_until is not None and entry.needed_until > window.cut_at:
                entry.interrupt()
        self._places.content()
        self._wake.set()

    def remaining(self) -> Sequence[Remaining]:
        """Return the jobs in hand."""
        return [Remaining(id=entry.row.id, what=self.queue_name, why=entry.why()) for entry in self.hand.all()]

    async def idle(self) -> None:
        """Return once no job is in hand."""
        await self.hand.until(lambda: not self.hand)

    async def interrupt(self) -> None:
        """Cancel every job in hand, those that said when they end only then, and wait until all have stopped.

        Before the end of the grace (a second signal) nobody is spared.
        """
        while spared := self._spared():
            await self._let_end(spared)
        for entry in self.hand.at_work():
            entry.stop_soon()
        if self._work is not None:
            self._work.cancel_scope.cancel()  # all at once: one by one takes twice as long
        await self.idle()

    def _spared(self) -> set[Running]:
        window, now = self._window(), time.monotonic()
        if window is None or now < window.grace_ends:
            return set()
        return {entry for entry in self.hand.at_work() if now < (entry.needed_until or 0.0) <= window.cut_at}

    async def _let_end(self, spared: set[Running]) -> None:
        """Interrupt the others; return when nothing is at work, or the first of `spared` should have ended."""
        for entry in self.hand.at_work():
            if entry not in spared:
                entry.interrupt()
        with anyio.move_on_after(min(entry.needed_until or 0.0 for entry in spared) - time.monotonic()):
            await self.hand.until(lambda: not self.hand.working)

    def give_up(self) -> Held:
        """Claim nothing more and return what there is to put back; from any thread."""
        self._quiesced = True
        entries = self.hand.all()
        ids = [*self._at_quiesce, *self._settled_in_drain, *(entry.row.id for entry in entries)]
        return Held(
            queue=self.queue_name,
            ended=[(entry.row, entry.verdict) for entry in entries if entry.verdict is not None],
            left=[entry for entry in entries if entry.verdict is None],
            had=frozenset(ids),
            settled=frozenset(self._settled_in_drain),
        )

    def flush(self, timeout_s: float) -> Flushed:
        """Put back what this pool alone has in hand; see `hotreload.workers.flushing.flush`."""
        return flush(self._queue, [self.give_up()], timeout_s)
