"""What the jobs of one queue are: the types and versions of payload and cursor, and what is done about old ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from hotreload.clock import now_ms
from hotreload.queue.job import Failed, JobRow, NewJob
from hotreload.workers.progress import Progress

Migrate = Callable[[Any, int], Any]
"""Takes a JSON value and the version it was stored with; returns it in today's version, raises if it cannot."""
PRIORITY_MOST: Final = 2**31
DELAY_MOST_S: Final = 100 * 365.25 * 86_400
_ANY: Final[TypeAdapter[Any]] = TypeAdapter(Any)


@dataclass(frozen=True, slots=True)
class Kind:
    """Declared once a worker. A job is stored with the `version` it was made with, a checkpoint likewise.

    A payload of another version is migrated, or the job is parked where there is no `migrate` or it raises. A
    cursor of another version, or one that does not fit its type, is migrated by `migrate_cursor`, or thrown away:
    the job begins anew. Neither is ever read as if it were of today's version: of the old version's loops and steps
    nothing stays in force, so the migrated cursor must say all there is to know.
    """

    queue: str
    payload: TypeAdapter[Any] = _ANY
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
        max_attempts: int = 5,
    ) -> NewJob:
        """Make a job to enqueue; ValidationError where the payload does not fit its type, ValueError out of range.

        A `priority` is from -2**31 to 2**31 - 1, a delay at most a hundred years.
        """
        if not -PRIORITY_MOST <= priority < PRIORITY_MOST:
            raise ValueError(f"a priority is from {-PRIORITY_MOST} to {PRIORITY_MOST - 1}, not {priority}")
        if not delay_s <= DELAY_MOST_S:  # NaN as well
            raise ValueError(f"a delay is at most {DELAY_MOST_S:.0f} s, not {delay_s:g}")
        fitting = self.payload.validate_python(payload)
        return NewJob(
            queue=self.queue,
            payload=self.payload.dump_python(fitting, mode="json"),
            dedupe_key=key,
            priority=priority,
            run_at_ms=now_ms() + int(delay_s * 1000) if delay_s > 0 else None,
            max_attempts=max_attempts,
            version=self.version,
        )

    def open_payload(self, row: JobRow) -> Any | Failed:
        """Return the payload as its type, or why the job must be parked."""
        try:
            stored = row.payload if row.version == self.version else self._migrated(row)
            return self.payload.validate_python(stored)
        except ValidationError as error:
            return Failed(error=f"payload does not fit its type: {error}", for_good=True)
        except Exception as error:  # noqa: BLE001 - whatever a migration raises
            return Failed(error=f"payload of version {row.version}, this is {self.version}: {error}", for_good=True)

    def _migrated(self, row: JobRow) -> Any:
        if self.migrate is None:
            raise ValueError("nothing migrates it; retry the job with a release that knows its version")
        return self.migrate(row.payload, row.version)

    def open_progress(self, row: JobRow) -> Progress:
        """Return how far the job came; nothing where that cannot be used any more."""
        if row.cursor is None:
            return Progress(version=self.version)
        try:
            progress = Progress.stored(row.cursor)
            if progress.version != self.version:
                if self.migrate_cursor is None:
                    return Progress(version=self.version)
                cursor = self.migrate_cursor(progress.cursor, progress.version)
                progress = Progress(self.version, cursor)
            if self.cursor is not None and progress.cursor is not None:
                progress.cursor = self.cursor.validate_python(progress.cursor)
        except Exception:  # noqa: BLE001 - whatever a migration raises
            return Progress(version=self.version)
        return progress

    def cursor_json(self, cursor: Any) -> Any:
        """Return a cursor as a JSON value; ValidationError where it does not fit its type."""
        if self.cursor is None or cursor is None:
            return cursor
        return self.cursor.dump_python(self.cursor.validate_python(cursor), mode="json")
