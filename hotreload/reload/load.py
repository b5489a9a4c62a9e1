"""Stage 1: read the files once they are complete, whatever asked for the reload.

Whether a file is complete is answered by a read lease, where the system grants one (see `reading`). Elsewhere a file
that was changed in place must rest; one that was renamed into place was complete before. What is empty, broken or gone
must rest too: the next step of its writer may be under way.

What no lease tells: a writer that closes the file half-way and opens it again.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import anyio

from hotreload.config.document import Dialect, Document, parse
from hotreload.config.secrets import shown_line
from hotreload.errors import ConfigError, ConfigInvalid, ConfigUnreadable, Problem, describe
from hotreload.reload.daemon_thread import DaemonThread, stuck_in
from hotreload.reload.reading import Reading, Version, read_file

T = TypeVar("T")
LINES_SHOWN: Final = 20
"""Errors of one report that are shown with their line of the file."""
REST_S: Final = 0.7
"""How long a file must stay the same where it must rest."""
DEADLINE_S: Final = 5.0
"""How long a file that is being written, or a file system that does not answer, is waited for."""
JUDGING_S: Final = 30.0
"""How long what is done with a file once it is complete may take: validators are the user's."""
STUCK: Final = 3
"""How many threads may be left behind in validators; no more are asked until one of them has returned."""
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
    """Reads the files of a process in threads of its own; what it saw before tells what changed in place.

    `thread` is shared with the watch, and only one call at a time is on the file system: one that does not answer
    keeps one thread. `read` and `wall` are seams for tests, as the limits are.
    """

    def __init__(
        self,
        *,
        rest_s: float = REST_S,
        deadline_s: float = DEADLINE_S,
        judging_s: float = JUDGING_S,
        read: Callable[[Path], Reading] = read_file,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.thread = DaemonThread("hotreload-files", most=STUCK + 2)
        self._rest_s, self.deadline_s, self._judging_s = rest_s, deadline_s, judging_s
        self._read, self._wall = read, wall
        self._seen: dict[Path, _Seen] = {}
        self._stuck: list[_Looks] = []
        self._looking = threading.Lock()
        self.reading = anyio.Lock(fast_acquire=True)
        """Held while `settled` is at it: who finds a change meanwhile leaves it to that call."""

    async def look(self, call: Callable[[], T], within_s: float, longer: Callable[[], float] = float) -> T:
        """Return what `call` returns, which looks at the file system: `DaemonThread.run` once no other call does."""
        with anyio.fail_after(within_s):
            while self._looking.locked():  # noqa: ASYNC110 - a thread holds it, and none waits for one that hangs
                await anyio.sleep(AGAIN_S)
        return await self.thread.run(call, within_s, longer)

    def alone(self, look: Callable[[], T], within_s: float) -> T:
        """Look at the file system while no other thread does; TimeoutError where one does for so long."""
        if not self._looking.acquire(timeout=within_s):
            raise TimeoutError
        try:
            return look()
        finally:
            self._looking.release()

    def read(self, files: Sequence[Path]) -> dict[Path, Reading]:
        """Look at files once; blocks as long as their file systems do: call it in `thread`."""
        readings = {path: self._read(path) for path in files}
        for path, reading in readings.items():
            self._seen[path] = _Seen.after(self._seen.get(path), reading)
        return readings

    def mode_of(self, path: Path) -> int | None:
        """Return the mode a file had when it was last read, None where it was not; asks no file system."""
        seen = self._seen.get(path)
        return None if seen is None else seen.mode

    async def settled(
        self,
        files: Sequence[Path],
        *,
        given: bytes | None = None,
        environ: Mapping[str, str] | None = None,
        dialect: Dialect = "own",
        absent_s: float = 0.0,
        then: Callable[[Document, Inputs], object] | None = None,
    ) -> Inputs:
        """Return the files, the configuration first, once all are complete; nothing that is wrong with one is raised.

        A configuration that is absent is waited for, `absent_s` seconds; `given` stands in its place, `environ` in that
        of the process's variables. What is still being written after the deadline is refused, and all where the file
        system does not answer within it. `then` is called with what can be used, in the same thread; the outcome is
        the ConfigError that it raises, or one where it does not return. A cancellation leaves one thread behind.
        """
        async with self.reading:
            parse_it = partial(parse, files[0], dialect=dialect, environ=environ)
            looks = _Looks(files, self, parse_it, absent_s, given, then if then is None else self._guarded(then))
            try:
                return await self._settled(files, looks)
            finally:
                looks.collect()

    async def _settled(self, files: Sequence[Path], looks: _Looks) -> Inputs:
        ends = anyio.current_time() + looks.absent_s + self.deadline_s
        while True:
            try:
                longer = lambda: self._judging_s if looks.judging_since else 0.0  # noqa: E731
                await self.look(looks.take, self.deadline_s, longer)
            except TimeoutError:
                if looks.judging_since:
                    self._stuck.append(looks)
                    return Inputs(ConfigInvalid([looks.stuck()]), looks.readings)
                return Inputs(_refused(files[0], f"reading it took longer than {self.deadline_s:g} s"), {})
            except OSError as error:
                return Inputs(_refused(files[0], f"cannot be read: {error.strerror}"), {})
            if not looks.unfinished or looks.last:
                return Inputs(looks.outcome, looks.readings, looks.unfinished)
            await anyio.sleep(AGAIN_S)
            looks.last = anyio.current_time() >= ends

    def _guarded(self, then: Callable[[Document, Inputs], object]) -> Callable[[Document, Inputs], object]:
        """Return what calls `then`, or refuses to where too many calls have not returned."""
        self._stuck = [each for each in self._stuck if each.judging_since]
        if len(self._stuck) < STUCK:
            return then

        def refuse(_document: Document, _inputs: Inputs) -> None:
            raise ConfigInvalid([each.stuck() for each in self._stuck])

        return refuse

    def unfinished(self, looks: _Looks) -> frozenset[Path]:
        """Return the files that must rest before they are taken."""
        config, *beside = looks.readings
        unfinished = {path for path in beside if not self._rests(path, looks.readings[path])}
        usable, absent_s = isinstance(looks.outcome, Document), looks.absent_s
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

    def at_the_deadline(self, looks: _Looks) -> Document | ConfigError:
        """Return what holds where files are still unfinished: of those beside the configuration, the model decides."""
        config = looks.files[0]
        if config not in looks.unfinished or looks.readings[config].absent:
            return looks.outcome
        last = looks.outcome.problems if isinstance(looks.outcome, ConfigError) else ()
        message = f"still being written after {self.deadline_s:g} s"
        return _refused(config, message, "reload when it is complete", last)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What was last seen of a file, since when (monotonic, s), and whether it was changed in place, as far as known."""

    content: Version
    since: float
    in_place: bool
    mode: int | None = None

    @classmethod
    def after(cls, before: _Seen | None, reading: Reading) -> _Seen:
        if before is not None and before.content == reading.content and not reading.torn:
            return before
        another = before is not None and before.content[:2] != reading.content[:2]
        in_place = not (another and reading.entered_last)
        return cls(reading.content, time.monotonic(), in_place, reading.mode)


@dataclass(slots=True)
class _Looks:
    """One look after another, each parsed once; what is complete goes on to `then`."""

    files: Sequence[Path]
    reader: Reader
    parse: Callable[[bytes], Document]
    absent_s: float
    given: bytes | None = None
    then: Callable[[Document, Inputs], object] | None = None
    readings: Mapping[Path, Reading] = field(default_factory=dict[Path, Reading])
    outcome: Document | ConfigError = field(default_factory=lambda: ConfigUnreadable([]))
    unfinished: frozenset[Path] = frozenset()
    last: bool = False
    """Whether the deadline has passed, so that the next look decides."""
    judging_since: float | None = None
    thread: int = 0
    _collects: bool = field(default_factory=gc.isenabled)

    def take(self) -> None:
        """Look; in a thread, as a large file takes its time to be parsed.

        Garbage is not collected meanwhile: a large file makes many objects and hardly any garbage, and a collection
        that they start looks at all there are, and stops every thread for that long.
        """
        gc.disable()
        try:
            self._take()
        finally:
            self.collect()

    def collect(self) -> None:
        """Collect garbage again, also where `take` does not return."""
        if self._collects:
            gc.enable()

    def _take(self) -> None:
        before = self.readings.get(self.files[0])
        self.reader.alone(self._look, self.reader.deadline_s)
        now = self.readings[self.files[0]]
        if before is None or before.content != now.content:
            self.outcome = self._judge(now)
        self.unfinished = self.reader.unfinished(self)
        if self.unfinished and self.last:
            self.outcome = self.reader.at_the_deadline(self)
        if self.then is not None and isinstance(self.outcome, Document) and (self.last or not self.unfinished):
            self.thread, self.judging_since = threading.get_ident(), time.monotonic()
            try:
                self.then(self.outcome, Inputs(self.outcome, self.readings, self.unfinished))
            except ConfigError as error:
                self.outcome = error
            except BaseException as error:
                if isinstance(error, Exception):
                    raise
                self.outcome = ConfigInvalid([Problem("", f"its validation was ended by {describe(error)}")])
            finally:
                self.judging_since = None

    def stuck(self) -> Problem:
        """Say what of the user's has not returned, and for how long."""
        for_s = time.monotonic() - (self.judging_since or 0)
        message = f"the validator of {stuck_in(self.thread)} has not returned for {for_s:.0f} s"
        return Problem(
            "", message, file=self.files[0].name, hint="a validator must return at once, whatever it waits for"
        )

    def _look(self) -> None:
        if self.given is None:
            self.readings = self.reader.read(self.files)
        else:
            self.readings = {self.files[0]: Reading((), raw=self.given), **self.reader.read(self.files[1:])}

    def _judge(self, reading: Reading) -> Document | ConfigError:
        if reading.raw is None:
            return ConfigUnreadable([reading.problem or Problem("", "cannot be read", file=self.files[0].name)])
        try:
            return self.parse(reading.raw)
        except ConfigError as error:
            return error


def _refused(path: Path, message: str, hint: str | None = None, more: Sequence[Problem] = ()) -> ConfigUnreadable:
    return ConfigUnreadable([Problem("", message, file=path.name, hint=hint), *more])
