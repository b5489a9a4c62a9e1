"""How often, how long and how far apart the jobs of a worker are tried; each value may follow the settings."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

from hotreload.queue.job import MAX_ATTEMPTS, Backoff, Failed

ATTEMPTS_MOST: Final = 1_000_000
SECONDS_MOST: Final = 100 * 365.25 * 86_400
KEEP_DONE_S: Final = 86_400.0

Delays = Backoff | float | Sequence[float]
"""A formula, the same number of seconds after each failure, or one for each failure (the last repeats)."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The policy in force for one worker.

    A job is dead after `max_attempts` failures; between two it waits as `backoff` says. Its code is stopped after
    `timeout_s` (None: never), which is a failure. Its row and result are kept for `keep_done_s` after its end.
    """

    max_attempts: int = MAX_ATTEMPTS
    backoff: Delays = field(default_factory=Backoff)
    timeout_s: float | None = None
    keep_done_s: float = KEEP_DONE_S

    def __post_init__(self) -> None:
        """Raise ValueError where a value is out of its range, TypeError where it is of another type."""
        if type(self.max_attempts) is not int or not 1 <= self.max_attempts <= ATTEMPTS_MOST:
            raise ValueError(f"max_attempts is a whole number from 1 to {ATTEMPTS_MOST:,}, not {self.max_attempts!r}")
        if self.timeout_s is not None:
            _checked_seconds("timeout_s", self.timeout_s)
            if self.timeout_s == 0:
                raise ValueError("timeout_s is more than 0 seconds, or None for no limit")
        _checked_seconds("keep_done_s", self.keep_done_s)
        _checked_backoff(self.backoff)

    def after(self, failed: Failed, failures: int, jitter: float) -> Failed:
        """Return the verdict on the `failures`-th failure (from 1) with this policy's word on what comes next."""
        delay_s = self._delay_s(failures, jitter) if failed.delay_s is None else failed.delay_s
        return Failed(failed.error, failed.traceback, delay_s, failed.for_good, self.max_attempts)

    def _delay_s(self, failures: int, jitter: float) -> float:
        if isinstance(self.backoff, Backoff):
            return self.backoff.delay_ms(failures, jitter) / 1000
        if isinstance(self.backoff, (int, float)):
            return self.backoff
        return self.backoff[min(failures, len(self.backoff)) - 1]


Asked = Callable[[Any], Any]
"""Asked for a value with the settings in force."""


@dataclass(frozen=True, slots=True)
class PolicyOf:
    """What a worker declared of its policy: each a function of the settings."""

    max_attempts: Asked
    backoff: Asked
    timeout_s: Asked
    keep_done_s: Asked

    def at(self, settings: Any) -> Policy:
        """Return the policy for these settings; raises what a function raises, ValueError out of range."""
        return Policy(
            max_attempts=self.max_attempts(settings),
            backoff=self.backoff(settings),
            timeout_s=self.timeout_s(settings),
            keep_done_s=self.keep_done_s(settings),
        )


def _checked_backoff(backoff: object) -> None:
    if isinstance(backoff, Backoff):
        for name in ("first_s", "power", "most_s"):
            _checked_seconds(f"backoff.{name}", getattr(backoff, name))
        return
    listed = isinstance(backoff, (list, tuple))
    waits = cast("Sequence[object]", backoff if listed else (backoff,))
    if not waits:
        raise ValueError("backoff needs at least one number of seconds")
    for wait in waits:
        _checked_seconds("backoff", wait, "a Backoff, a number of seconds from 0, or a list of them")


def _checked_seconds(name: str, value: object, wanted: str = "a number of seconds from 0") -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (number and math.isfinite(cast("float", value)) and 0 <= cast("float", value) <= SECONDS_MOST):
        raise ValueError(f"{name} is {wanted}, not {value!r}")
