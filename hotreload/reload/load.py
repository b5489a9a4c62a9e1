"""Stage 1: read the files once they are complete, whatever asked for the reload.

Whether a file is complete is answered by a read lease, where the system grants one (see `reading`). Elsewhere a file
that was changed in place must rest; one that was renamed into place was complete before. What is empty, broken or gone
must rest too: the next step of its writer may be under way.

What no lease tells: a writer that closes the file half-way and opens it again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final

import anyio

from hotreload.config.document import Dialect, Document, parse
from hotreload.config.secrets import shown_line
from hotreload.errors import ConfigError, ConfigUnreadable, Problem
from hotreload.reload.daemon_thread import DaemonThread
from hotreload.reload.reading import Reading, Version, read_file

LINES_SHOWN: Final = 20
"""Errors of one report that are shown with their line of the file."""
REST_S: Final = 0.7
"""How long a file must stay the same where it must rest."""
DEADLINE_S: Final = 5.0
"""How long a file that is being written, or a file system that does not answer, is waited for."""
AGAIN_S: Final = 0.02
OLD_S: Final = 10.0
"""A file last changed so long ago, by the clock on the wall, has rested."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """The files of a configuration once they rested: the first one parsed, or why it is none, and all as read."""

    outcome: Document | ConfigError
    readings: Mapping[Path, Reading]
    unfinished: frozenset[Path] = frozenset()

    @property
    def document(self) -> Document:
        """The configuration; ConfigError where it cannot be used."""
        if isinstance(self.outcome, ConfigError):
            raise self.outcome
        return self.outcome

    @property
    def beside(self) -> dict[Path, bytes | str]:
        """What stands in each of the other files that exist, or why that cannot be said."""
        found: dict[Path, bytes | str] = {}
        for path, reading in [*self.readings.items()][1:]:
            if path in self.unfinished:
                found[path] = "still being written"
            elif reading.raw is not None:
                found[path] = reading.raw
            elif reading.problem is not None and not reading.absent:
                found[path] = reading.problem.message
        return found

    @property
    def raw(self) -> bytes:
        """The configuration as read, b"" where it could not be."""
        return next(iter(self.readings.values())).raw or b"" if self.readings else b""

    @property
    def versions(self) -> dict[Path, Version]:
        """What was read of each file."""
        return {path: reading.version for path, reading in self.readings.items()}


def with_lines(
    errors: Sequence[Problem], file: str, raw: bytes, scrub: Callable[[str], str] = str
) -> tuple[Problem, ...]:
    """Return the errors, the first of them with their line of the configuration file, its texts hidden."""

    def shown(error: Problem) -> Problem:
        line = shown_line(raw, error.line) if error.line is not None and error.file == file else None
        return error if line is None else replace(error, source=scrub(line))

    return (*(shown(error) for error in errors[:LINES_SHOWN]), *errors[LINES_SHOWN:])


class Reader:
    """Reads the files of a process in a thread of its own; what it saw before tells what changed in place.

    `thread` is shared with the watch: a file system that does not answer keeps one thread. `read` and `wall` are
    seams for tests.
    """

    def __init__(
        self,
        *,
        rest_s: float = REST_S,
        deadline_s: float = DEADLINE_S,
        read: Callable[[Path], Reading] = read_file,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.thread = DaemonThread("hotreload-files")
        self._rest_s, self._deadline_s = rest_s, deadline_s
        self._read, self._wall = read, wall
        self._seen: dict[Path, _Seen] = {}
        self.reading = anyio.Lock()
        """Held while `settled` is at it: who finds a change meanwhile leaves it to that call."""

    def read(self, files: Sequence[Path]) -> dict[Path, Reading]:
        """Look at files once; blocks as long as their file systems do: call it in `thread`."""
        readings = {path: self._read(path) for path in files}
        for path, reading in readings.items():
            self._seen[path] = _Seen.after(self._seen.get(path), reading)
        return readings

    async def settled(
        self,
        files: Sequence[Path],
        *,
        given: bytes | None = None,
        environ: Mapping[str, str] | None = None,
        dialect: Dialect = "own",
        absent_s: float = 0.0,
    ) -> Inputs:
        """Return the files, the configuration first, once all are complete; nothing that is wrong with one is raised.

        A configuration that is absent is waited for, `absent_s` seconds; `given` stands in its place, `environ` in that
        of the process's variables. What is still being written after the deadline is refused, and all where the file
        system does not answer within it. A cancellation leaves one thread behind at most.
        """
        async with self.reading:
            looks = _Looks(files, self.read, partial(parse, files[0], dialect=dialect, environ=environ), given)
            return await self._settled(files, looks, absent_s)

    async def _settled(self, files: Sequence[Path], looks: _Looks, absent_s: float) -> Inputs:
        ends = anyio.current_time() + absent_s + self._deadline_s
        while True:
            try:
                await self.thread.run(looks.take, self._deadline_s)
            except TimeoutError:
                return Inputs(_refused(files[0], f"reading it took longer than {self._deadline_s:g} s"), {})
            except OSError as error:
                return Inputs(_refused(files[0], f"cannot be read: {error.strerror}"), {})
            unfinished = self._unfinished(looks, absent_s)
            if not unfinished:
                return Inputs(looks.outcome, looks.readings)
            if anyio.current_time() >= ends:
                return Inputs(self._at_the_deadline(looks, unfinished), looks.readings, unfinished)
            await anyio.sleep(AGAIN_S)

    def _unfinished(self, looks: _Looks, absent_s: float) -> frozenset[Path]:
        config, *beside = looks.readings
        unfinished = {path for path in beside if not self._rests(path, looks.readings[path])}
        usable = isinstance(looks.outcome, Document)
        if looks.given is None and not self._rests(config, looks.readings[config], usable=usable, absent_s=absent_s):
            unfinished.add(config)
        return frozenset(unfinished)

    def _rests(self, path: Path, reading: Reading, *, usable: bool = True, absent_s: float = 0.0) -> bool:
        seen = self._seen[path]
        rested_s = time.monotonic() - seen.since
        if reading.absent:
            return rested_s >= absent_s
        if reading.unfinished:
            return False
        if usable and reading.raw and (reading.writer is False or not seen.in_place):
            return True
        return rested_s >= self._rest_s or self._wall() - reading.changed_at >= OLD_S

    def _at_the_deadline(self, looks: _Looks, unfinished: frozenset[Path]) -> Document | ConfigError:
        config = looks.files[0]
        if config not in unfinished or looks.readings[config].absent:
            return looks.outcome
        last = looks.outcome.problems if isinstance(looks.outcome, ConfigError) else ()
        message = f"still being written after {self._deadline_s:g} s"
        return _refused(config, message, "reload when it is complete", last)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What was last seen of a file, since when (monotonic, s), and whether it was changed in place, as far as known."""

    content: Version
    since: float
    in_place: bool

    @classmethod
    def after(cls, before: _Seen | None, reading: Reading) -> _Seen:
        if before is not None and before.content == reading.content and not reading.torn:
            return before
        another = before is not None and before.content[:2] != reading.content[:2]
        return cls(reading.content, time.monotonic(), in_place=not (another and reading.entered_last))


@dataclass(slots=True)
class _Looks:
    """One look after another, each parsed once."""

    files: Sequence[Path]
    read: Callable[[Sequence[Path]], dict[Path, Reading]]
    parse: Callable[[bytes], Document]
    given: bytes | None = None
    readings: Mapping[Path, Reading] = field(default_factory=dict[Path, Reading])
    outcome: Document | ConfigError = field(default_factory=lambda: ConfigUnreadable([]))

    def take(self) -> None:
        """Look; in a thread, as a large file takes its time to be parsed."""
        before = self.readings.get(self.files[0])
        if self.given is None:
            self.readings = self.read(self.files)
        else:
            self.readings = {self.files[0]: Reading((), raw=self.given), **self.read(self.files[1:])}
        now = self.readings[self.files[0]]
        if before is None or before.content != now.content:
            self.outcome = self._judge(now)

    def _judge(self, reading: Reading) -> Document | ConfigError:
        if reading.raw is None:
            return ConfigUnreadable([reading.problem or Problem("", "cannot be read", file=self.files[0].name)])
        try:
            return self.parse(reading.raw)
        except ConfigError as error:
            return error


def _refused(path: Path, message: str, hint: str | None = None, more: Sequence[Problem] = ()) -> ConfigUnreadable:
    return ConfigUnreadable([Problem("", message, file=path.name, hint=hint), *more])
