"""PURE but for the clock it is given: when a suspect may run, and who waits for that."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Final

PATIENCE_S: Final = 1.0


class May(Enum):
    """What a claim may take now."""

    NOTHING = "nothing"
    SUSPECT = "suspect"
    OTHERS = "others"


class Alone:
    """Keeps a suspect the only running job of the store.

    While it runs, nobody claims. Before it runs, what runs already is waited for and nothing is added; once
    nothing runs, the suspect's own pool has `patience_s` to come for it, then the others go on (its limit may
    have become 0 meanwhile). A claim that was refused here was refused silently, so `refused` asks for a wake-up.
    """

    def __init__(self, monotonic: Callable[[], float], patience_s: float = PATIENCE_S) -> None:
        self._monotonic = monotonic
        self._patience_s = patience_s
        self._wanted_in: set[str] = set()
        self._free_since: float | None = None
        self.refused = False

    def may(self, queue: str, *, suspect_runs: bool, suspect_here: bool, running: int) -> May:
        """Say what a claim of `queue` may take; called while there are suspects."""
        answer = self._may(queue, suspect_runs, suspect_here, running)
        self.refused = self.refused or answer is May.NOTHING
        return answer

    def _may(self, queue: str, suspect_runs: bool, suspect_here: bool, running: int) -> May:
        if suspect_runs:
            return May.NOTHING
        if suspect_here:
            if running:
                self._wanted_in.add(queue)
                self._free_since = None
                return May.NOTHING
            self._wanted_in.discard(queue)
            return May.SUSPECT
        return May.NOTHING if self._others_wait(running) else May.OTHERS

    def _others_wait(self, running: int) -> bool:
        if not self._wanted_in:
            return False
        now = self._monotonic()
        if running:
            self._free_since = None
            return True
        if self._free_since is None:
            self._free_since = now
        if now - self._free_since < self._patience_s:
            return True
        self._wanted_in.clear()
        return False

    def withdraw(self, queue: str) -> None:
        """Let the others go on: `queue` was paused."""
        self._wanted_in.discard(queue)
