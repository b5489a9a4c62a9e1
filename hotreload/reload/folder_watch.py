"""watchfiles as a bell: it says that something happened in a folder, never what. Looking decides that."""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import anyio
from watchfiles import Change, watch

from hotreload.reload.route import Place, Route

STEP_MS: Final = 25
DEBOUNCE_MS: Final = 50
"""How often watchfiles asks whether the kernel told something, and how long it gathers.

Measured on 2 cores, ext4, a file renamed into place (step / debounce: CPU of a core while idle, saved → heard p50):
5/50: 0.82 %, 9 ms; 10/50: 0.71 %, 16 ms; 20/50: 0.44 %, 31 ms; 25/50: 0.35 %, 42 ms; 50/50: 0.18 %, 80 ms; its own
default of 50/1600: 0.18 %, 84 ms. 25 keeps an idle service below half a percent (0.33 % in all, looks included) and
leaves 18 of 60 ms to the reload (saved → heard by a client as applied: 43 ms p50).
"""
ARMED_S: Final = 2.0
"""How long it may take to begin."""

logging.getLogger("watchfiles").setLevel(logging.WARNING)  # it reports each change; here the reload does


class FolderWatch:
    """Watches one route at a time in a daemon thread; `failure` says why nothing is told, None where all is well."""

    def __init__(self) -> None:
        self.failure: str | None = None
        self._route: Route = {}
        self._thread: _Thread | None = None
        self._rung = anyio.Event()

    def ring(self) -> None:
        """Have `wait` return."""
        self._rung.set()

    async def wait(self, within_s: float) -> bool:
        """Return True as soon as something happened on the route or `ring` was called, False after `within_s`.

        What happens between two calls is told by the next; a cancellation loses nothing.
        """
        with anyio.move_on_after(within_s):
            await self._rung.wait()
        told = self._rung.is_set()
        if told:
            self._rung = anyio.Event()
        return told

    async def arm(self, route: Route) -> bool:
        """Watch exactly this, as it was found by a look just now; returns False where it was not watched before.

        What is watched already goes on without a gap. What fails shows in `failure` and is tried again by the next
        call.
        """
        if route == self._route and (not route or (self._thread is not None and self._thread.is_alive())):
            return True
        before, self._thread, self._route, self.failure = self._thread, None, route, None
        if route:
            self._thread = _Thread(route, self.ring)
            self.failure = await self._thread.begin()
        if before is not None:
            before.stop()
        return False

    def close(self) -> None:
        """Watch nothing more; the thread ends at its next step. `arm` begins again."""
        if self._thread is not None:
            self._thread.stop()
        self._thread, self._route = None, {}


class _Thread(threading.Thread):
    """One run of watchfiles, which asks `is_set` at each step: for the first time when all is watched."""

    def __init__(self, route: Route, ring: Callable[[], None]) -> None:
        super().__init__(name="hotreload-watch", daemon=True)
        self._route, self._ring = route, ring
        self._names: dict[str, frozenset[str]] = {}
        self._descriptors: list[int] = []
        self._stopped = False
        self._loop = asyncio.get_running_loop()
        self._begun: asyncio.Future[str | None] = self._loop.create_future()

    async def begin(self) -> str | None:
        """Start; returns why it cannot watch, None once it does."""
        try:
            self.start()
        except RuntimeError as error:
            return str(error)
        _threads.add(self)
        with anyio.move_on_after(ARMED_S):
            return await asyncio.shield(self._begun)
        return f"it did not begin within {ARMED_S:g} s"

    def stop(self) -> None:
        """Have it end at its next step."""
        self._stopped = True

    def is_set(self) -> bool:
        """Tell watchfiles whether to stop."""
        if self._descriptors:
            self._let_go()
            self._tell(self._report, None)
        return self._stopped

    def run(self) -> None:
        reason = "it has ended"
        try:
            for path, place in self._route.items():
                self._names[f"/proc/self/fd/{self._open(path, place)}"] = place.names
            changes = watch(
                *self._names,
                watch_filter=self._matters,
                step=STEP_MS,
                debounce=DEBOUNCE_MS,
                stop_event=self,
                recursive=False,
            )
            for _ in changes:
                self._tell(self._ring)
        except Exception as error:  # noqa: BLE001 - a name that is not UTF-8 ends it, and what else its library raises
            reason = str(error)
        self._let_go()
        _threads.discard(self)
        self._tell(self._report, reason)
        if not self._stopped:
            self._tell(self._ring)

    def _open(self, path: object, place: Place) -> int:
        """Open what was looked at: its descriptor reaches it past a file system above it that does not answer.

        watchfiles adds its watches while it holds the interpreter: a path that blocks would block the whole process.
        """
        descriptor = os.open(str(path), os.O_PATH | os.O_CLOEXEC)
        self._descriptors.append(descriptor)
        status = os.fstat(descriptor)
        if (status.st_dev, status.st_ino) != place.identity:
            raise OSError(f"{path} was replaced meanwhile")
        return descriptor

    def _let_go(self) -> None:
        """Close what was opened to begin: it would keep a file system from being unmounted."""
        while self._descriptors:
            os.close(self._descriptors.pop())

    def _matters(self, _change: Change, path: str) -> bool:
        folder, _, name = path.rpartition("/")
        return path in self._names or name in self._names.get(folder, ())

    def _report(self, reason: str | None) -> None:
        if not self._begun.done():
            self._begun.set_result(reason)

    def _tell(self, call: Callable[..., None], *arguments: object) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(call, *arguments)


_threads: set[_Thread] = set()


@atexit.register
def _end_all() -> None:
    """End them before the interpreter is taken down: a thread that comes back to it then would abort the process."""
    for thread in list(_threads):
        thread.stop()
    for thread in list(_threads):
        thread.join(4 * STEP_MS / 1000)
