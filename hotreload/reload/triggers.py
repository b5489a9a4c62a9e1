"""What makes the files themselves ask for a reload: `ov.conf`, and the secrets in the credentials directory.

SIGHUP is heard by `hotreload.early` from the first statement on; HTTP and the command line come in through the
admin application. All of them end in `ReloadCoordinator.submit`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import anyio
import anyio.to_thread

from hotreload.errors import Problem
from hotreload.reload.inotify import Inotify
from hotreload.reload.load import DEADLINE_S, SETTLE_S
from hotreload.reload.route import Survey, survey

log = logging.getLogger(__name__)
INOTIFY: Final = "inotify"
LOOK_S: Final = 5.0
"""How long a look at the files may take; it is left to itself then, and the watch counts as unhealthy."""
QUIET_S: Final = 0.02
"""How long nothing must happen after a save: editors rename, write and set modes in one go."""


@dataclass(slots=True)
class WatchHealth:
    """How the watch does. `overflows` counts what inotify did not report: its queue ran over, or a look found it.

    `healthy` is False while changes may be seen late: nothing can be watched, or something was missed and the next
    look has not found all well yet. `warning` says what no watch can see here.
    """

    healthy: bool = False
    backend: str = "off"
    overflows: int = 0
    warning: str | None = None


class WatchSettings(Protocol):
    """What is read of hotreload's own settings, anew at each step."""

    @property
    def watch(self) -> bool:
        """Whether a change of the files is a trigger."""
        ...

    @property
    def poll_s(self) -> float:
        """Seconds between two looks that back the watch."""
        ...


class FileWatch:
    """Follows files, the first being the configuration; `seen` is what they were when they were read.

    inotify on the folders, and behind it a look every `poll_s` seconds: an overflow, a deaf watch and a folder that
    was away are made good within that time and show in `health`.
    """

    def __init__(
        self,
        files: Callable[[], Sequence[Path]],
        settings: Callable[[], WatchSettings],
        seen: Mapping[Path, tuple[object, ...]],
    ) -> None:
        self._files = files
        self._settings = settings
        self._seen = dict(seen)
        self._now = Survey()
        self._kernel = Inotify()
        self._looking = threading.Lock()
        self._doubt = self._overflowed = False
        self.health = WatchHealth()

    def taken(self, versions: Mapping[Path, tuple[object, ...]]) -> None:
        """A reload has read these: they are no news any more, whoever asked for it."""
        self._seen.update(versions)

    def warnings(self) -> list[Problem]:
        """Return what every report should say of these files."""
        return [Problem("", self.health.warning, file=self._files()[0].name)] if self.health.warning else []

    def nudge(self) -> None:
        """Look at the settings again at once: how to watch may have changed."""
        self._kernel.wake()

    async def changes(self) -> AsyncGenerator[None]:
        """Yield once for each new version that rests; ends when the caller leaves the loop.

        A configuration that is gone is no version; its return is one. What `taken` was told before the caller
        comes back is not yielded again.
        """
        try:
            while True:
                await self._while_off()
                async for _ in self._while_on():
                    yield
        finally:
            self._kernel.close()

    async def _while_off(self) -> None:
        while not self._settings().watch:
            self._kernel.close()
            self._doubt = False
            self.health.healthy, self.health.backend = True, "off"
            await self._kernel.wait(self._settings().poll_s)

    async def _while_on(self) -> AsyncIterator[None]:
        await self._arm()
        told = True  # what differs from what was read at the start, nobody was to report
        while self._settings().watch:
            watched, same = self.health.backend == INOTIFY, await self._arm()
            told |= self._news() and await self._settled()
            if not self._settings().watch:  # a reload in the meantime has switched it off
                break
            if self._news():
                if watched and not told:
                    self._miss("no event was reported")
                elif not self._overflowed:
                    self._trust(True)
                self._seen.update(self._now.versions)
                yield
            elif not told:
                self._trust(same or not watched)
            told = await self._told(self._settings().poll_s)

    async def _told(self, within_s: float) -> bool:
        """Return whether something was reported within a time; a nudge counts."""
        before = self._kernel.overflows
        told = await self._kernel.wait(within_s)
        self._overflowed = self._kernel.overflows > before
        if self._overflowed:
            self._miss("the kernel's queue ran over")
        return told

    async def _arm(self) -> bool:
        """Look, and watch where the files are now; returns False where something else was watched before."""
        await self._look()
        same = self._kernel.arm(self._now.route)
        if not same:
            await self._look()  # what changed before the new watch was there
        failure = self._kernel.failure
        if failure is not None and self.health.backend == INOTIFY:
            log.warning("watch.failed error=%s (the files are looked at every %g s)", failure, self._settings().poll_s)
        self.health.backend = INOTIFY if self._now.reachable and failure is None else "poll"
        self._trust(not self._doubt)
        return same

    def _trust(self, well: bool) -> None:
        self._doubt = not well
        self.health.healthy = well and self.health.backend == INOTIFY

    async def _look(self) -> None:
        found: Survey | None = None
        with anyio.move_on_after(LOOK_S):
            found = await anyio.to_thread.run_sync(self._survey, abandon_on_cancel=True)
        if found is None:
            if not self._doubt:
                log.warning("watch.look_hangs limit_s=%g (the file system does not answer)", LOOK_S)
            self._trust(False)
            return
        self._now = found
        if found.warning is not None and found.warning != self.health.warning:
            log.warning("watch.warning %s", found.warning)
        self.health.warning = found.warning

    def _survey(self) -> Survey | None:
        """Look at the files; None where an earlier look still hangs, so that one thread at most is left behind."""
        if not self._looking.acquire(blocking=False):
            return None
        try:
            return survey(self._files())
        finally:
            self._looking.release()

    def _changed(self) -> list[Path]:
        return [file for file, version in self._now.versions.items() if version != self._seen.get(file)]

    def _news(self) -> bool:
        """Tell whether something changed and the configuration itself is there."""
        return bool(self._now.versions.get(self._files()[0]) and self._changed())

    def _miss(self, reason: str) -> None:
        self._trust(False)
        self.health.overflows += 1
        log.warning("watch.missed reason=%r (looked at again within %g s)", reason, self._settings().poll_s)

    async def _settled(self) -> bool:
        """Wait until the files rest, longer while one is written or empty; returns whether anything was told."""
        heard = False
        with anyio.move_on_after(DEADLINE_S):
            while True:
                before = self._now.versions
                unfinished = self._kernel.writing or self._now.empty & set(self._changed())
                told = await self._told(SETTLE_S if unfinished else QUIET_S)
                same = await self._arm()
                heard |= told
                if same and not told and self._now.versions == before:
                    break
        return heard
