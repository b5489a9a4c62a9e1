"""A circuit breaker for one endpoint that many calls share: pure state over a clock that is passed in.

closed ──endpoint failed──→ open ──delay over──→ probing ──answered──→ closed
                             ↑────────failed────────┘

It opens at the first failure of an endpoint that has not answered lately or asks for a pause, else at the third
failure in a row, or when one call fails twice without an answer to any other in between: an endpoint that fails some
calls and answers others stays in use, and only the calls that fail wait. While it is open no call begins but one
probe at a time, after delays that double, with jitter, up to 15 s; a `Retry-After` makes one longer. Whether a call
that fails although others are answered is itself at fault, `Attempts` says.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

FIRST_S: Final = 0.5
MOST_S: Final = 15.0
RETRY_AFTER_MOST_S: Final = 3600.0
"""A longer `Retry-After` is taken for this: the endpoint is asked once an hour."""
SOON_S: Final = 1.0
"""The longest delay of a probe where the endpoint answered a few seconds ago: it may fail only some of its calls."""
TRUSTED_S: Final = 60.0
"""How long after an answer an endpoint is not called down for a single failure."""
IN_A_ROW: Final = 3
"""Failures in a row that open it in that time."""
LONE_FAILURES: Final = 20
"""How often one call may fail between answers to others before its content is taken for the cause."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call that was let begin: in which era of the breaker, and whether it is the probe."""

    era: int
    probe: bool = False


def backoff_s(failures: int, jitter: float) -> float:
    """Return the seconds to wait after so many failures in a row (1 or more); `jitter` is from 0 to 1."""
    return min(FIRST_S * 2.0 ** min(failures - 1, 30), MOST_S) * (0.75 + jitter / 2)


class Breaker:
    """The state of one endpoint. `clock` gives seconds that only grow; not safe for several threads by itself."""

    def __init__(self, clock: Callable[[], float], jitter: Callable[[], float] = random.random) -> None:
        self._clock = clock
        self._jitter = jitter
        self._era = 0
        self._failures = 0
        self._in_a_row = 0
        self._answered_at: float | None = None
        self._due: float | None = None
        self.since: float | None = None
        """When it opened, by the clock; None while it is closed."""
        self.failed_at: float | None = None
        """When a call failed last in the outage that lasts; None while it is closed."""
        self.cause: str | None = None
        """Why the last call of the outage failed; None while it is closed."""
        self.answers = 0
        """Calls answered so far; a refusal of their content is an answer."""

    @property
    def is_open(self) -> bool:
        """Whether calls have to wait."""
        return self.since is not None

    @property
    def is_probing(self) -> bool:
        """Whether the one probe is under way."""
        return self.is_open and self._due is None

    @property
    def due_in_s(self) -> float | None:
        """Seconds until the next probe may begin; None while closed, or while a probe is under way."""
        return None if self._due is None else max(0.0, self._due - self._clock())

    def begin(self) -> Call | None:
        """Let a call begin; None while it has to wait."""
        return None if self.is_open else Call(self._era)

    def watch(self) -> Call:
        """Note a call that does not wait for anything: its answer closes the breaker, its failure opens it."""
        return Call(self._era)

    def probe(self) -> Call | None:
        """Let the one probe begin that is due; None where none is."""
        if self._due is None or self._due > self._clock():
            return None
        self._due = None
        return Call(self._era, probe=True)

    def stands(self, call: Call) -> bool:
        """Say whether a call that was let begin, and has not been made yet, may still be made."""
        return call.era == self._era and (call.probe or not self.is_open)

    def answered(self, call: Call) -> bool:
        """Note an answer; True where it ends the outage. What began before the outage says nothing about its end."""
        self.answers += 1
        self._in_a_row, self._answered_at = 0, self._clock()
        if not self.is_open or call.era != self._era:
            return False
        self._close()
        return True

    def failed(self, call: Call, cause: str, retry_after_s: float | None = None, *, again: bool = False) -> bool:
        """Note a failure of the endpoint; True where an outage begins with it.

        `again` says that the call failed before, and that no call was answered since.
        """
        if call.era != self._era:  # begun before the outage, or before the configuration changed
            return False
        self._in_a_row += 1
        begins = not self.is_open
        if begins and not (again or retry_after_s) and self._is_trusted():
            return False
        if begins:
            self._era += 1
            self._failures = 0
            self.since = self._clock()
        self.cause, self.failed_at = cause, self._clock()
        if begins or call.probe:
            self._failures += 1
            self._due = self._clock() + self._delay_s(retry_after_s)
        return begins

    def _is_trusted(self) -> bool:
        lately = self._answered_at is not None and self._clock() - self._answered_at < TRUSTED_S
        return lately and self._in_a_row < IN_A_ROW

    def abandoned(self, call: Call) -> None:
        """Note that a call ended without a verdict on the endpoint; the next probe may begin at once."""
        if call.probe and call.era == self._era and self.is_open:
            self._due = self._clock()

    def reset(self) -> None:
        """Close it: the endpoint is another one now. Calls begun before say nothing any more."""
        self._answered_at = None
        self._close()

    def _close(self) -> None:
        self._era += 1
        self._failures = self._in_a_row = 0
        self._due = self.since = self.failed_at = self.cause = None

    def _delay_s(self, retry_after_s: float | None) -> float:
        """Return how long the next probe waits: no longer than an eighth of the time without an answer, or a second."""
        jitter = self._jitter()
        wanted_s = min(retry_after_s or 0.0, RETRY_AFTER_MOST_S)
        delay_s = backoff_s(self._failures, jitter)
        if self._answered_at is not None:
            delay_s = min(delay_s, max(SOON_S, (self._clock() - self._answered_at) / 8))
        return max(delay_s, wanted_s + min(wanted_s, 1.0) * jitter)


class Attempts:
    """The failures of one call, to tell the endpoint's fault from its own."""

    def __init__(self, jitter: Callable[[], float] = random.random) -> None:
        self._jitter = jitter
        self._answers_before: int | None = None
        self.count = 0
        """How often it failed."""
        self.alone = 0
        """How often others were answered between two of its failures."""

    @property
    def exhausted(self) -> bool:
        """Whether the endpoint has answered others so often that the call's own content must be the cause."""
        return self.alone >= LONE_FAILURES

    def failed(self, answers: int) -> bool:
        """Note a failure, with the breaker's count of answers at that time; True where it failed before, and no call
        was answered since.
        """
        before, self._answers_before = self._answers_before, answers
        self.count += 1
        if before is None:
            return False
        self.alone += answers > before
        return answers <= before

    def delay_s(self, retry_after_s: float | None = None) -> float:
        """Return for how long it has to wait by itself after its last failure, where others need not wait."""
        return max(backoff_s(max(self.count, 1), self._jitter()), min(retry_after_s or 0.0, RETRY_AFTER_MOST_S))
