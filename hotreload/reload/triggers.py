"""What makes the files themselves ask for a reload: `ov.conf`, and the secrets in the credentials directory.

SIGHUP is heard by `hotreload.early` from the first statement on; HTTP and the command line come in through the
admin application. All of them end in `ReloadCoordinator.submit`.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import anyio
import anyio.to_thread

from hotreload.errors import Problem
from hotreload.reload.inotify import Heard, Inotify
from hotreload.reload.load import DEADLINE_S, SETTLE_S
from hotreload.reload.route import Survey, survey

log = logging.getLogger(__name__)
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

    inotify on the folders, and behind it a look every `poll_s` seconds: an overflow, a deaf watch and a folder
    that was away are made good within that time and show in `health`.
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
        self._doubt = False
        self._nudged = anyio.Event()
        self.health = WatchHealth()

    def taken(self, versions: Mapping[Path, tuple[object, ...]]) -> None:
        """A reload has read these: they are no news any more, whoever asked for it."""
        self._seen.update(versions)

    def warnings(self) -> list[Problem]:
        """Return what every report should say of these files."""
        return [Problem("", self.health.warning, file=self._files()[0].name)] if self.health.warning else []

    def nudge(self) -> None:
        """Look at the settings again at once: how to watch may have changed."""
        self._nudged.set()

    async def changes(self) -> AsyncGenerator[None]:
        """Yield once for each new version that rests; ends when the caller leaves the loop.

        A configuration that is gone is no version; its return is one. What `taken` was told before the caller
        comes back is not yielded again.
        """
        kernel = _open()
        try:
            while True:
                await self._while_off(kernel)
                try:
                    async for _ in self._while_on(kernel):
                        yield
                except OSError as error:
                    log.warning("watch.failed error=%s (tried again within %g s)", error, self._settings().poll_s)
                    self.health.healthy, self.health.backend = False, "poll"
                    await self._next(None, self._settings().poll_s)
        finally:
            if kernel is not None:
                kernel.close()

    async def _while_off(self, kernel: Inotify | None) -> None:
        while not self._settings().watch:
            if kernel is not None:
                kernel.arm({})
            self._doubt = False
            self.health.healthy, self.health.backend = True, "off"
            await self._next(None, self._settings().poll_s)

    async def _while_on(self, kernel: Inotify | None) -> AsyncIterator[None]:
        await self._arm(kernel)
        due = False
        while self._settings().watch:
            watched = self.health.backend == "inotify"
            deaf = not await self._arm(kernel)
            heard = await self._settled(kernel) if self._news() else Heard()
            if not self._settings().watch:  # a reload in the meantime has switched it off
                break
            if self._news():
                if due and watched and not heard:
                    self._miss("no event was reported")
                self._seen.update(self._now.versions)
                yield
            elif due:
                self._doubt = deaf and watched
            told = await self._next(kernel, self._settings().poll_s)
            due = not told
            if told.overflow:
                self._miss("the kernel's queue ran over")

    async def _arm(self, kernel: Inotify | None) -> bool:
        """Look, and watch where the files are now; returns False where something else was watched before."""
        await self._look()
        same = kernel is None or kernel.arm(self._now.route)
        if not same:
            await self._look()  # what changed before the new watches were there
        watched = kernel is not None and self._now.reachable and kernel.whole
        self.health.backend = "inotify" if watched else "poll"
        self.health.healthy = watched and not self._doubt
        return same

    async def _look(self) -> None:
        self._now = await anyio.to_thread.run_sync(survey, self._files(), abandon_on_cancel=True)
        warning = self._now.warning
        if warning is not None and warning != self.health.warning:
            log.warning("watch.warning %s", warning)
        self.health.warning = warning

    def _changed(self) -> list[Path]:
        return [file for file, version in self._now.versions.items() if version != self._seen.get(file)]

    def _news(self) -> bool:
        """Tell whether something changed and the configuration itself is there."""
        return bool(self._now.versions[self._files()[0]] and self._changed())

    def _miss(self, reason: str) -> None:
        self._doubt = True
        self.health.healthy = False
        self.health.overflows += 1
        log.warning("watch.missed reason=%r (looked at again within %g s)", reason, self._settings().poll_s)

    async def _settled(self, kernel: Inotify | None) -> Heard:
        """Wait until the files rest, longer while one is being written or is empty; returns what was heard."""
        heard = Heard()
        with anyio.move_on_after(DEADLINE_S):
            while True:
                before = self._now.versions
                unfinished = (kernel is not None and kernel.writing) or self._now.empty & set(self._changed())
                told = await self._next(kernel, SETTLE_S if unfinished else QUIET_S)
                heard = Heard(heard.changed or told.changed, heard.gone or told.gone, heard.overflow or told.overflow)
                await self._look()
                if not told and self._now.versions == before:
                    break
        return heard

    async def _next(self, kernel: Inotify | None, within_s: float) -> Heard:
        """Return what is heard within a time, nothing at its end; a nudge counts as a change."""
        with anyio.move_on_after(within_s):
            async with anyio.create_task_group() as waiting:
                waiting.start_soon(_cancel_after, self._nudged, waiting.cancel_scope)
                if kernel is None:
                    await anyio.sleep_forever()
                else:
                    heard = await kernel.wait()
                    waiting.cancel_scope.cancel()
                    return heard
        told = Heard() if kernel is None else kernel.read()
        told.changed |= self._nudged.is_set()
        self._nudged = anyio.Event()
        return told


async def _cancel_after(event: anyio.Event, scope: anyio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


def _open() -> Inotify | None:
    try:
        return Inotify()
    except OSError as error:
        log.warning("watch.failed error=%s (the files are looked at every poll_s seconds)", error)
        return None
