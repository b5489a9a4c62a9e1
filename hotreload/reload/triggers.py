"""What makes the files themselves ask for a reload: `ov.conf`, and the secrets in the credentials directory.

SIGHUP is heard by `hotreload.early` from the first statement on; HTTP and the command line come in through the
admin application. All of them end in `ReloadCoordinator.submit`.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from hotreload.config.settings import HotreloadSettings
from hotreload.errors import Problem
from hotreload.reload.folder_watch import FolderWatch
from hotreload.reload.load import Reader
from hotreload.reload.reading import Version
from hotreload.reload.route import Survey, survey

log = logging.getLogger(__name__)
INOTIFY: Final = "inotify"
LOOK_S: Final = 2.0
"""How long a look at the files may take; the watch counts as unhealthy then, until a look has ended."""

TOLD_S: Final = 0.5
"""How long after a look found a change the watch may still tell of it: it gathers, and a busy machine is late."""


@dataclass(slots=True)
class WatchHealth:
    """How the watch does. `overflows` counts what a look found and nothing had told: the kernel's queue ran over, say.

    `healthy` is False while changes may be seen later than the next look: the file system does not answer, the folder
    is away, it cannot be watched though its file system could tell, or something was missed and the next look has not
    found all well yet. `backend` is `poll` where a change may be seen by the looks only, `warning` what nothing sees.
    """

    healthy: bool = False
    backend: str = "off"
    overflows: int = 0
    warning: str | None = None


class FileWatch:
    """Follows files, the first being the configuration; `seen` is what they were when they were read.

    `settings` are asked for `watch` and `poll_s` again at each step; `folders` and `look_s` are seams for tests.

    watchfiles on the folders, and behind it a look every `poll_s` seconds: what was not told, a deaf watch and a
    folder that was away are made good within that time and show in `health`.
    """

    def __init__(
        self,
        files: Callable[[], Sequence[Path]],
        settings: Callable[[], HotreloadSettings],
        seen: Mapping[Path, Version],
        reader: Reader,
        *,
        folders: FolderWatch | None = None,
        look_s: float = LOOK_S,
    ) -> None:
        self._files = files
        self._settings = settings
        self._seen = dict(seen)
        self._reader = reader
        self._folders = folders or FolderWatch()
        self._look_s = look_s
        self._now = Survey()
        self._answers = True
        self._doubt = False
        self.health = WatchHealth()

    def taken(self, versions: Mapping[Path, Version]) -> None:
        """A reload has read these: they are not news any more, whatever asked for it."""
        self._seen.update(versions)

    def warnings(self) -> list[Problem]:
        """Return what every report should say of these files."""
        return [Problem("", self.health.warning, file=self._files()[0].name)] if self.health.warning else []

    def nudge(self) -> None:
        """Look at the settings again at once: how to watch may have changed."""
        self._folders.ring()

    async def changes(self) -> AsyncGenerator[None]:
        """Yield once for each new version; ends when the caller leaves the loop.

        Whether the version is complete the reload finds out, which reads it. A configuration that is gone is no
        version; its return is one. What `taken` was told before the caller comes back is not yielded again.
        """
        told = True  # what differs from what was read at the start, nothing was to report
        try:
            while True:
                if not self._settings().watch:
                    self._folders.close()
                    self.health.healthy, self.health.backend = True, "off"
                elif await self._is_news(told):
                    yield
                told = await self._folders.wait(self._settings().poll_s) or self.health.backend == "off"
        finally:
            self._folders.close()

    async def _is_news(self, told: bool) -> bool:
        """Look, watch where the files are now, and say whether they changed; `told`: something had been reported."""
        watched = self.health.backend == INOTIFY
        if not await self._look():
            return False
        same = await self._folders.arm(self._now.route)
        if not same and not await self._look():  # what changed before the new watch was there
            return False
        untold = watched and not told and self._changed() and self._rewritten()
        self._rate(missed=untold and not await self._folders.wait(TOLD_S), told=told)
        while self._changed() and self._reader.reading.locked():  # the reload that reads takes what was found here
            async with self._reader.reading:
                pass
            if not await self._look():
                return False
        return self._changed()

    def _rate(self, *, missed: bool, told: bool) -> None:
        if missed:
            self.health.overflows += 1
            log.warning("watch.missed (found by a look; the next is within %g s)", self._settings().poll_s)
        self._doubt = missed or (self._doubt and told)  # until a look finds nothing that was not told
        failure = self._folders.failure
        if failure is not None and self.health.backend != "poll":
            log.warning("watch.failed error=%s (the files are looked at every %g s)", failure, self._settings().poll_s)
        tells = self._now.local and self._now.reachable
        self.health.backend = INOTIFY if tells and failure is None else "poll"
        self.health.healthy = self._now.reachable and failure is None and not self._doubt

    async def _look(self) -> bool:
        """Look at the files; returns False where the file system does not answer, after having waited for it."""
        files = self._files()
        try:
            look = partial(self._reader.alone, lambda: survey(files, self._reader.read), self._look_s)
            self._now = await self._reader.look(look, self._look_s)
        except OSError as error:
            if self._answers:
                log.warning("watch.look_failed limit_s=%g error=%s", self._look_s, error or "no answer")
            self._answers = self.health.healthy = False
            return False
        if not self._answers:
            log.warning("watch.look_succeeded (the file system answers again)")
        self._answers = True
        if self._now.warning is not None and self._now.warning != self.health.warning:
            log.warning("watch.warning %s", self._now.warning)
        self.health.warning = self._now.warning
        return True

    def _changed(self) -> bool:
        """Tell whether a file changed and the configuration itself is there."""
        changed = any(
            self._seen.get(path, ())
            not in (reading.content, reading.version)  # a writer that only opens it is not news
            for path, reading in self._now.readings.items()
        )
        return changed and not self._now.readings[self._files()[0]].absent

    def _rewritten(self) -> bool:
        """Tell whether a content changed, and not only that the writer of one is gone: of that nothing tells."""
        return any(
            self._seen.get(path, ())[: len(reading.content)] != reading.content
            for path, reading in self._now.readings.items()
        )
