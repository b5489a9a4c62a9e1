"""Hold the calls of queue messages while their model's endpoint fails, and let them go on once it answers.

A call of a message waits here, and its message stays unacknowledged in OpenViking's store meanwhile, so that neither
a kill nor a drain loses it. What a person asked for is only watched: it fails and succeeds as in stock. Endpoints are
told apart by what is called (vlm, query planner, embedding, rerank) and by a key that stands for address, model and
credentials, so that an account with credentials of its own holds up no other one.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeVar

from hotreload.clock import iso, now_ms
from hotreload.openviking.breaker import Attempts, Breaker, Call
from hotreload.openviking.failures import Failure, failure_of, refusal_of

log = logging.getLogger(__name__)
T = TypeVar("T")
LOOK_S: Final = 1.0
"""How often a call that waits looks whether patience is still the same."""
EARLY_S: Final = 0.01
FORGET_S: Final = 60.0
"""How long an outage that no call waits out is told of: only people's calls can find its end."""
REFUSALS: Final = 20
KEPT: Final = 256


class Caller(Protocol):
    """The message a call is made for."""

    @property
    def about(self) -> str:
        """What the call is for, in words."""
        ...

    held_at: float | None
    """Since when its calls are held, by the clock of `Endpoints`; None while they are answered."""

    def waiting(self, why: str) -> AbstractContextManager[None]:
        """Mark it as one that only waits, inside the block."""
        ...


class EndpointDown(ConnectionError):
    """A call waited for its endpoint as long as it may, and was not made."""


@dataclass(eq=False, slots=True)
class _Waiter:
    """One call that may not begin yet; `call` is set, under the lock, by who lets it begin."""

    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[None]
    call: Call | None = None


@dataclass(eq=False, slots=True)
class Endpoint:
    """One endpoint: what is called, its breaker, and the calls that wait for it, in their order."""

    kind: str
    breaker: Breaker
    waiting: deque[_Waiter] = field(default_factory=deque[_Waiter])
    alone: int = 0
    """Calls that wait by themselves: the endpoint answers others."""
    used_at: float = 0.0
    called_at: float | None = None
    """When its next probe may be due, if a timer runs until then."""
    down_at_ms: int = 0

    @property
    def held(self) -> int:
        """How many calls wait."""
        return len(self.waiting) + self.alone

    def __str__(self) -> str:
        since = time.strftime("%H:%M", time.localtime(self.down_at_ms / 1000))
        return f"{self.kind} endpoint: {self.breaker.cause} since {since}"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A call that the endpoint answered with a refusal of its content; it fails as in stock."""

    kind: str
    about: str
    cause: str
    at_ms: int

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"endpoint": self.kind, "about": self.about, "cause": self.cause, "at": iso(self.at_ms)}


def _later(delay_s: float, call: Callable[[], None]) -> None:
    """Call from a thread of its own: no event loop here is sure to live as long as the outage."""
    timer = threading.Timer(delay_s, call)
    timer.daemon = True
    timer.start()


class Endpoints:
    """Every endpoint this process calls. Methods may be called from any thread and event loop.

    `patience_s` is asked at each wait: how many seconds a call is held before it fails as in stock; 0 holds none.
    `clock`, `later` and `sleep` are time, and how to be called or to go on after some of it. `turned` is called when
    an endpoint goes down and when one comes back.
    """

    def __init__(
        self,
        patience_s: Callable[[], float],
        *,
        clock: Callable[[], float] = time.monotonic,
        later: Callable[[float, Callable[[], None]], None] = _later,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.turned: Callable[[], None] = lambda: None
        self._patience_s = patience_s
        self._clock = clock
        self._later = later
        self._sleep = sleep
        self._lock = threading.RLock()
        self._endpoints: dict[tuple[str, bytes], Endpoint] = {}
        self._refusals: deque[Refusal] = deque(maxlen=REFUSALS)
        self._refused: dict[str, int] = {}

    @property
    def holding(self) -> bool:
        """Whether calls are held at all."""
        return self._patience_s() > 0

    # --- calls ------------------------------------------------------------------------------------------------

    async def hold(
        self,
        kind: str,
        caller: Caller,
        key: Callable[[], Awaitable[bytes]],
        make: Callable[[], Awaitable[T]],
        gate: AbstractAsyncContextManager[Any],
    ) -> T:
        """Make a call of a message, again and again while its endpoint fails; returns its answer.

        `key` names the endpoint, and is asked before each attempt: a reload may have changed it. `gate` is passed for
        each attempt and left for each wait. The call's own error is raised where the endpoint answered with it, where
        patience ends, and where only this call fails while others are answered; cancelled, it leaves nothing behind.
        """
        attempts, error = Attempts(), None
        while True:
            endpoint = self._endpoint(kind, await key())
            call = await self._admitted(endpoint, caller, error)
            try:
                async with gate:
                    if not self._stands(endpoint, call):
                        continue
                    answer = await make()
            except Exception as raised:  # noqa: BLE001 - looked at below, and raised where the endpoint is not to blame
                error = raised
            except BaseException:  # at the gate as well: a probe that is not made lets the next one begin
                self._abandoned(endpoint, call)
                raise
            else:
                self._answered(endpoint, call)
                caller.held_at = None
                return answer
            alone_s = self._judge(endpoint, call, caller, attempts, error)
            if alone_s is not None:
                await self._alone(endpoint, caller, alone_s)

    def _judge(
        self, endpoint: Endpoint, call: Call, caller: Caller, attempts: Attempts, error: Exception
    ) -> float | None:
        """Return for how long a failed call has to wait by itself; None where its endpoint decides. Raises its error
        where it must not be made again.
        """
        failure = failure_of(error)
        if failure is None:
            self._refused_or_unknown(endpoint, call, caller, error)
            raise error
        again = attempts.failed(endpoint.breaker.answers)
        is_open = self._failed(endpoint, call, failure, again=again)
        if attempts.exhausted:
            self._refuse(endpoint.kind, caller.about, f"{failure.cause}, while other calls are answered")
        if attempts.exhausted or self._left_s(caller) <= 0:
            raise error
        return None if is_open else attempts.delay_s(failure.retry_after_s)

    async def watch(
        self,
        kind: str,
        key: Callable[[], Awaitable[bytes]],
        make: Callable[[], Awaitable[T]],
        *,
        spared: Callable[[], T] | None = None,
    ) -> T:
        """Make a call that a person waits for: once, and at once; what comes of it tells how the endpoint is.

        With `spared` only probes are made while the endpoint fails; what it returns is the answer to all others.
        """
        endpoint = self._endpoint(kind, await key())
        with self._lock:
            breaker = endpoint.breaker
            call = breaker.watch() if spared is None else breaker.begin() or breaker.probe()
        if call is None:
            assert spared is not None
            return spared()
        try:
            answer = await make()
        except BaseException as error:
            if failure := failure_of(error):
                self._failed(endpoint, call, failure)
            elif refusal_of(error) is not None:
                self._answered(endpoint, call)
            else:
                self._abandoned(endpoint, call)
            raise
        self._answered(endpoint, call)
        return answer

    def reset(self) -> bool:
        """Let every call go on at once: the configuration has changed. True where an endpoint failed until now."""
        with self._lock:
            back = any(endpoint.breaker.is_open for endpoint in self._endpoints.values())
            for endpoint in self._endpoints.values():
                endpoint.breaker.reset()
                self._release(endpoint)
            for key in [key for key, endpoint in self._endpoints.items() if not endpoint.held]:
                del self._endpoints[key]
        if back:
            log.info("endpoint.reset the configuration has changed: held calls go on")
            self.turned()
        return back

    # --- what is told -----------------------------------------------------------------------------------------

    def down(self, kind: str) -> str | None:
        """Say why messages that call this kind of endpoint should not be begun; None where they may.

        Calls wait for it then, of which one will find its end; and no other endpoint of the kind is in use.
        """
        with self._lock:
            those = [each for each in self._endpoints.values() if each.kind == kind and self._in_use(each)]
            down = [each for each in those if each.breaker.is_probing or (each.breaker.is_open and each.waiting)]
            return str(down[0]) if down and len(down) == len(those) else None

    @property
    def degraded(self) -> str | None:
        """Which endpoints fail, in words; None while all answer."""
        with self._lock:
            return "; ".join(sorted({str(each) for each in self._endpoints.values() if self._is_told(each)})) or None

    def figures(self) -> list[dict[str, Any]]:
        """Return each kind of endpoint as JSON values: `up`, the cause and since when, the calls held and refused."""
        with self._lock:
            kinds = sorted({each.kind for each in self._endpoints.values()} | self._refused.keys())
            return [self._figure(kind) for kind in kinds]

    def refusals(self) -> list[dict[str, Any]]:
        """Return the last calls whose content was refused, newest first."""
        with self._lock:
            return [each.to_dict() for each in reversed(self._refusals)]

    def _figure(self, kind: str) -> dict[str, Any]:
        those = [each for each in self._endpoints.values() if each.kind == kind]
        down = next((each for each in those if self._is_told(each)), None)
        dues = [due for each in those if (due := each.breaker.due_in_s) is not None and each.held]
        return {
            "name": kind,
            "up": down is None,
            "cause": None if down is None else down.breaker.cause,
            "since": None if down is None else iso(down.down_at_ms),
            "held": sum(each.held for each in those),
            "next_probe_s": round(min(dues), 1) if dues else None,
            "refused": self._refused.get(kind, 0),
        }

    def _is_told(self, endpoint: Endpoint) -> bool:
        failed_at = endpoint.breaker.failed_at
        held = bool(endpoint.waiting) or endpoint.breaker.is_probing
        return failed_at is not None and (held or self._clock() - failed_at < FORGET_S)

    def _in_use(self, endpoint: Endpoint) -> bool:
        return bool(endpoint.held) or self._clock() - endpoint.used_at < FORGET_S

    # --- one call ---------------------------------------------------------------------------------------------

    def _endpoint(self, kind: str, key: bytes) -> Endpoint:
        with self._lock:
            endpoint = self._endpoints.get((kind, key))
            if endpoint is None:
                self._forget()
                endpoint = self._endpoints[kind, key] = Endpoint(kind, Breaker(self._clock))
            endpoint.used_at = self._clock()
            return endpoint

    def _forget(self) -> None:
        """Forget what has not been called for a while, where there are many."""
        idle = [key for key, each in self._endpoints.items() if not self._in_use(each)]
        for key in idle[: max(0, len(self._endpoints) - KEPT)]:
            del self._endpoints[key]

    def _stands(self, endpoint: Endpoint, call: Call) -> bool:
        with self._lock:
            if endpoint.breaker.stands(call):
                return True
            endpoint.breaker.abandoned(call)
            return False

    async def _admitted(self, endpoint: Endpoint, caller: Caller, error: Exception | None) -> Call:
        """Return once a call may begin; where that takes longer than patience, raise what failed last."""
        with self._lock:
            call = endpoint.breaker.begin()
            if call is not None:
                return call
            loop = asyncio.get_running_loop()
            waiter = _Waiter(loop, loop.create_future())
            endpoint.waiting.append(waiter)
            self._schedule(endpoint)
            why = str(endpoint)
        try:
            with caller.waiting(why):
                while waiter.call is None:
                    if (left_s := self._left_s(caller)) <= 0:
                        raise error or EndpointDown(why)
                    await asyncio.wait([waiter.future], timeout=min(left_s, LOOK_S))
        except BaseException:
            self._give_up(endpoint, waiter)
            raise
        return waiter.call

    def _give_up(self, endpoint: Endpoint, waiter: _Waiter) -> None:
        with self._lock:
            if waiter.call is not None:
                endpoint.breaker.abandoned(waiter.call)
            elif waiter in endpoint.waiting:
                endpoint.waiting.remove(waiter)
            self._schedule(endpoint)
        self.turned()

    def _left_s(self, caller: Caller) -> float:
        """Return how long a caller may still be held; it counts from the first wait since its last answer."""
        if caller.held_at is None:
            caller.held_at = self._clock()
        return caller.held_at + self._patience_s() - self._clock()

    def _refused_or_unknown(self, endpoint: Endpoint, call: Call, caller: Caller, error: Exception) -> None:
        refusal = refusal_of(error)
        if refusal is None:
            self._abandoned(endpoint, call)
        else:
            self._answered(endpoint, call)
            self._refuse(endpoint.kind, caller.about, refusal)

    def _refuse(self, kind: str, about: str, cause: str) -> None:
        log.warning("endpoint.refused %s endpoint, %s: %s", kind, about, cause)
        with self._lock:
            self._refusals.append(Refusal(kind, about, cause, now_ms()))
            self._refused[kind] = self._refused.get(kind, 0) + 1

    async def _alone(self, endpoint: Endpoint, caller: Caller, delay_s: float) -> None:
        """Wait by itself, as the endpoint answers others."""
        with self._lock:
            endpoint.alone += 1
        try:
            with caller.waiting(f"{endpoint.kind} endpoint: this call fails, others are answered"):
                await self._sleep(delay_s)
        finally:
            with self._lock:
                endpoint.alone -= 1

    def _failed(self, endpoint: Endpoint, call: Call, failure: Failure, *, again: bool = False) -> bool:
        """Note a failure of an endpoint; return whether it is down."""
        with self._lock:
            begins = endpoint.breaker.failed(call, failure.cause, failure.retry_after_s, again=again)
            is_open = endpoint.breaker.is_open
            if begins:
                endpoint.down_at_ms = now_ms()
                log.warning("endpoint.down %s: calls of messages are held", endpoint)
            self._schedule(endpoint)
        if begins:
            self.turned()
        return is_open

    def _answered(self, endpoint: Endpoint, call: Call) -> None:
        with self._lock:
            cause, down_at_ms = endpoint.breaker.cause, endpoint.down_at_ms
            ends = endpoint.breaker.answered(call)
            if ends:
                self._release(endpoint)
        if ends:
            log.info("endpoint.up %s endpoint after %.1f s of %s", endpoint.kind, (now_ms() - down_at_ms) / 1000, cause)
            self.turned()

    def _abandoned(self, endpoint: Endpoint, call: Call) -> None:
        with self._lock:
            endpoint.breaker.abandoned(call)
            self._schedule(endpoint)

    # --- who begins next; under the lock ------------------------------------------------------------------------

    def _schedule(self, endpoint: Endpoint) -> None:
        """Be called when the next probe is due, once."""
        due_s = endpoint.breaker.due_in_s
        if due_s is None or not endpoint.waiting:
            return
        due = self._clock() + due_s
        if endpoint.called_at is None or due < endpoint.called_at - EARLY_S:
            endpoint.called_at = due
            self._later(due_s, lambda: self._due(endpoint))

    def _due(self, endpoint: Endpoint) -> None:
        """Let the first in the row probe, if its time has come; one whose loop has closed is passed over."""
        with self._lock:
            endpoint.called_at = None
            while endpoint.waiting and (call := endpoint.breaker.probe()) is not None:
                if _let_begin(endpoint.waiting.popleft(), call):
                    return
                endpoint.breaker.abandoned(call)
            self._schedule(endpoint)

    def _release(self, endpoint: Endpoint) -> None:
        """Let all begin that wait: the breaker is closed."""
        waiting, endpoint.waiting = endpoint.waiting, deque()
        for waiter in waiting:
            _let_begin(waiter, endpoint.breaker.watch())


def _let_begin(waiter: _Waiter, call: Call) -> bool:
    """Wake a waiter on its own loop; False where that has closed."""
    waiter.call = call
    try:
        waiter.loop.call_soon_threadsafe(_wake, waiter.future)
    except RuntimeError:
        return False
    return True


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
