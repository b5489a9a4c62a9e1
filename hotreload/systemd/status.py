"""What systemd is told, around the flows: READY, RELOADING, STATUS, STOPPING, and more time while one lasts.

Its time limits are for processes that hang. What takes long here has a bound of its own, and asks for more time in
short steps up to that bound: a process that hangs meanwhile asks no more, and is ended one step later.
"""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import anyio

from hotreload import logs
from hotreload.lifecycle import Phase
from hotreload.reload.report import Outcome, ReloadReport
from hotreload.systemd.notifier import Notifier

log = logging.getLogger(__name__)
TICK_S = 1.0
AHEAD_S = 5.0
"""One step: how much time is asked for at once."""
START_S = 600.0
"""How long a start-up may take: a large queue is looked through, models are loaded."""
RELOAD_S = 120.0
"""How long a reload may take; its parts have far shorter limits of their own."""


class StartUp:
    """Asks for time from the first moments to READY, from a thread: a start-up imports and recovers for seconds."""

    def __init__(self, notifier: Notifier, bound_s: float = START_S, tick_s: float = TICK_S) -> None:
        self.notifier = notifier
        self._tick_s = tick_s
        self._ends = time.monotonic() + bound_s
        self._over = threading.Event()

    def begin(self) -> None:
        """Say that the process starts, and ask for time from now on."""
        if self.notifier.enabled:
            self.notifier.status("starting")
            threading.Thread(target=self._ask, name="hotreload-start-up", daemon=True).start()

    def end(self) -> None:
        """Ask no more; a second call does nothing."""
        self._over.set()

    def failed(self, error: Exception) -> None:
        """The process ends without having been ready: say why."""
        self.end()
        self.notifier.status(logs.scrub(f"cannot start: {error}"))

    def _ask(self) -> None:
        while not self._over.is_set() and (left_s := self._ends - time.monotonic()) > 0:
            self.notifier.extend(min(left_s, AHEAD_S))
            self._over.wait(self._tick_s)


class SystemdStatus:
    """Speaks for one host; silent where nothing listens. `pools` and `drain` are read when a line is made."""

    def __init__(
        self,
        notifier: Notifier,
        *,
        generation: Callable[[], int],
        degraded: Callable[[], str | None],
        drain: Callable[[], dict[str, Any] | None],
        search: Callable[[], str | None] = lambda: None,
        restarts: Callable[[], bool] = lambda: False,
        tick_s: float = TICK_S,
        reload_s: float = RELOAD_S,
    ) -> None:
        self._notifier = notifier
        self._tick_s = tick_s
        self._reload_s = reload_s
        self._generation = generation
        self._degraded = degraded
        self._drain = drain
        self._search = search
        self._restarts = restarts
        self._told: tuple[str | None, str | None] = (None, None)
        self._last = "started"
        self._reload_ends: float | None = None
        self._is_ready = False

    def ready(self) -> None:
        """READY, with the generation; reloads before only change the status."""
        self._is_ready = True
        self._notifier.ready(self.line(), self._generation())

    def reloading(self) -> None:
        """RELOADING, from READY on; `reloaded` must follow, whatever the verdict."""
        self._reload_ends = time.monotonic() + self._reload_s
        if self._is_ready:
            self._notifier.reloading()
        self._notifier.status(f"generation {self._generation()}, reloading")

    def reloaded(self, report: ReloadReport) -> None:
        """READY again, with the verdict; ERRNO tells a refused file and is cleared by the next good one.

        In a drain nothing: STOPPING was the last word on the state, and the line tells of the drain.
        """
        self._last = f"reload {report.outcome.value} (id {report.id}){report.detail()}"  # the line has the generation
        self._reload_ends = None
        if self._drain() is not None:
            return
        if not self._is_ready:
            self._notifier.status(self.line())
            return
        refused = report.outcome in (Outcome.REJECTED, Outcome.ROLLED_BACK)
        self._notifier.reloaded(self.line(), self._generation(), errno.EINVAL if refused else 0)

    def line(self) -> str:
        """Return the status line."""
        degraded, search = self._degraded(), self._search()
        line = f"generation {self._generation()}, {self._last}" + (f"; {search}" if search else "")
        return f"{line}; degraded: {degraded}" if degraded else line

    def entered(self, phase: Phase) -> None:
        """STOPPING at the first moment of a drain, its progress at each phase.

        A process that comes back in place only reloads: after STOPPING systemd would not let it.
        """
        if phase is Phase.QUIESCING and self._restarts():
            self._notifier.reloading()
        elif phase is Phase.QUIESCING:
            self._notifier.stopping(self._drain_line())
        if phase not in (Phase.RUNNING, Phase.STOPPED):
            self._tell_of_drain()

    def hold(self, left_s: float) -> None:
        """A drain has `left_s` left: ask for it in steps, and no more after its end. May be called from any thread."""
        if left_s > 0:
            self._notifier.extend(min(left_s + 1.0, AHEAD_S))

    async def speak(self) -> None:
        """Until cancelled: the watchdog's ping, the time a reload needs, how far a drain is, what was not heard."""
        while True:
            await anyio.sleep(min(self._tick_s, self._notifier.watchdog_interval_s or self._tick_s))
            if self._notifier.watchdog_interval_s is not None:
                self._notifier.watchdog()
            self._notifier.resend()
            if self._drain() is not None:
                self._tell_of_drain()
                continue
            self._hold_reload()
            self._tell_what_changed()

    def _tell_what_changed(self) -> None:
        """Say how far the search for missing work is, what is degraded, and once that neither is so any more."""
        now = self._degraded(), self._search()
        if now != self._told:
            self._told = now
            self._notifier.status(self.line())

    def _hold_reload(self) -> None:
        if self._reload_ends is not None and (left_s := self._reload_ends - time.monotonic()) > 0:
            self._notifier.extend(min(left_s, AHEAD_S))

    def _tell_of_drain(self) -> None:
        line = self._drain_line()
        log.info("%s", line)
        self._notifier.status(line)

    def _drain_line(self) -> str:
        drain = self._drain()
        if drain is None:
            return "draining"
        left = len(drain["remaining"])
        return f"draining: {left} of {drain['jobs_at_start']} jobs, {drain['left_s']:.0f} s left ({drain['phase']})"
