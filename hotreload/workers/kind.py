"""What the jobs of one queue are: the types and versions of payload and cursor, and what is done about old ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from hotreload.queue.job import DELAY_MOST_S, JobRow, NewJob, checked, from_json, holds_bytes, to_json
from hotreload.workers.progress import Progress

Migrate = Callable[[Any, int], Any]
"""Takes a JSON value and the version it was stored with; returns it in today's version, raises if it cannot."""
PRIORITY_MOST: Final = 2**31
ANYTHING: Final[TypeAdapter[Any]] = TypeAdapter(Any)


class Unfit(Exception):
    """A stored payload does not fit its type, and trying again would not help."""


@dataclass(frozen=True, slots=True)
class Kind:
    """Declared once a worker. A job is stored with the `version` it was made with, a checkpoint likewise.

    A payload of another version is migrated, or the job is parked where there is no `migrate` or it raises. A
    cursor of another version, or one that does not fit its type, is migrated by `migrate_cursor`, or thrown away:
    the job starts over. Neither is ever read as if it were of today's version: of the old version's loops and steps
    nothing stays in force, so the migrated cursor must say all there is to know.
    """

    queue: str
    payload: TypeAdapter[Any] = ANYTHING
    cursor: TypeAdapter[Any] | None = None
    version: int = 1
    migrate: Migrate | None = None
    migrate_cursor: Migrate | None = None

    def new(
        self,
        payload: Any,
        *,
        key: str | None = None,
        priority: int = 0,
        delay_s: float = 0.0,
        from_json: bool = False,
    ) -> NewJob:
        """Make a job to enqueue; ValidationError where the payload does not fit its type, ValueError out of range.

        What is stored fits the type when it is read back. `from_json` says that the payload is a JSON value, so that
        strict types accept it. A `priority` is from -2**31 to 2**31 - 1 (lower is claimed first), a delay at most a
        hundred years.
        """
        if not -PRIORITY_MOST <= priority < PRIORITY_MOST:
            raise ValueError(f"a priority is from {-PRIORITY_MOST} to {PRIORITY_MOST - 1}, not {priority}")
        if not delay_s <= DELAY_MOST_S:  # NaN as well
            raise ValueError(f"a delay is at most {DELAY_MOST_S:.0f} s, not {delay_s:g}")
        return NewJob(
            queue=self.queue,
            payload=self._stored(payload, from_json),
            dedupe_key=key,
            priority=priority,
            version=self.version,
            delay_s=delay_s,
        )

    def _stored(self, payload: Any, from_json: bool) -> Any:
        if self.payload is ANYTHING:
            return payload if from_json else ANYTHING.dump_python(payload, mode="json")
        fitting = self._read(payload) if from_json else self.payload.validate_python(payload)
        stored = self.payload.dump_python(fitting, mode="json")
        self._read(stored)
        return stored

    def _read(self, stored: Any) -> Any:
        return _validated(self.payload, to_json(stored))

    def open_payload(self, row: JobRow) -> Any:
        """Return the payload as its type; Unfit says why the job must be parked."""
        try:
            if row.version != self.version:
                return self._read(self._migrated(row))
            return row.payload if self.payload is ANYTHING else _validated(self.payload, row.payload_json)
        except ValidationError as error:
            raise Unfit(f"payload does not fit its type: {error}") from error
        except Exception as error:
            raise Unfit(f"payload of version {row.version}, this is {self.version}: {error}") from error

    def _migrated(self, row: JobRow) -> Any:
        if self.migrate is None:
            raise ValueError("nothing migrates it; retry the job with a release that knows its version")
        return self.migrate(row.payload, row.version)

    def open_progress(self, row: JobRow) -> Progress:
        """Return how far the job came; nothing where that cannot be used any more."""
        if row.cursor_json is None:
            return Progress(version=self.version)
        try:
            progress = Progress.stored(row.cursor, {name: from_json(kept) for name, kept in row.steps.items()})
            if progress.version != self.version:
                if self.migrate_cursor is None:
                    return Progress(version=self.version)
                cursor = self.migrate_cursor(progress.cursor, progress.version)
                progress = Progress(self.version, cursor)
            if self.cursor is not None and progress.cursor is not None:
                progress.cursor = _validated(self.cursor, to_json(progress.cursor))
        except Exception:  # noqa: BLE001 - whatever a migration raises
            return Progress(version=self.version)
        return progress

    def cursor_json(self, cursor: Any) -> Any:
        """Return a cursor as a JSON value; ValidationError where it does not fit its type, or would not when read."""
        if self.cursor is None or cursor is None:
            return cursor
        kept = self.cursor.dump_python(self.cursor.validate_python(cursor), mode="json")
        _validated(self.cursor, to_json(kept))
        return kept


def _validated(kind: TypeAdapter[Any], text: str) -> Any:
    """Validate from JSON, so that strict types take dates and the like; file names that are not UTF-8 from Python."""
    try:
        return kind.validate_json(text)
    except ValidationError:
        if not holds_bytes(text):
            raise
        return kind.validate_python(from_json(text))


def result_of(value: Any, most_bytes: int) -> Any:
    """Return what a handler returned as a JSON value; TypeError or ValueError where it has none.

    Models, dataclasses, dates and the like become what pydantic makes of them. An iterator is refused: it may have no
    end. So is NaN, what contains itself, and what exceeds `most_bytes` as JSON.
    """
    return json.loads(checked(_RESULTS.encode(value), "its result", most_bytes))


def _as_json(value: Any) -> Any:
    if isinstance(value, Iterator):
        raise TypeError("its result is, or has in it, an iterator; return a list")
    return ANYTHING.dump_python(value, mode="json")


_RESULTS: Final = json.JSONEncoder(allow_nan=False, separators=(",", ":"), default=_as_json)
