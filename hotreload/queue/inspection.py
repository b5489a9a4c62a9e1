"""What a look at a store finds, whatever engine keeps it: where it is, what is in it, what is wrong with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

COUNTED: Final = ("ready", "scheduled", "running", "done", "dead")
"""The states as the counters of a queue name them."""


class Severity(Enum):
    """`ERROR`: a service cannot use the store as it is, or would lose by it. `NOTE`: worth knowing."""

    ERROR = "error"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a check found, and what would be right ("" where nothing is to be done)."""

    severity: Severity
    what: str
    right: str = ""


@dataclass(frozen=True, slots=True)
class QueueRows:
    """The rows of one queue by state, from the counters kept with them; `done` has the cancelled ones too."""

    name: str
    ready: int
    scheduled: int
    running: int
    done: int
    dead: int
    paused: bool


@dataclass(frozen=True, slots=True)
class NodeSeen:
    """A node of a shared store: who owned it last, how many seconds ago it was seen, how many jobs run under it.

    `pid` and `host` are None for one that was taken over.
    """

    name: str
    pid: int | None
    host: str | None
    seen_s: float
    running: int


@dataclass(frozen=True, slots=True)
class Inspection:
    """A store at one moment. `size_bytes` counts tables and indexes, or the file and its WAL.

    `schema` is its version, 0 where it has no tables, `needs` what this release works with. `server` and `role` are
    those of PostgreSQL. `findings` is None where nothing was checked.
    """

    engine: str
    place: str
    schema: int
    needs: int
    size_bytes: int
    queues: Sequence[QueueRows] = ()
    nodes: Sequence[NodeSeen] = ()
    server: str | None = None
    role: str | None = None
    findings: Sequence[Finding] | None = None

    @property
    def sound(self) -> bool:
        """True where no finding is an error."""
        return not any(found.severity is Severity.ERROR for found in self.findings or ())


@dataclass(frozen=True, slots=True)
class Migrated:
    """What a migration did: the version before, the versions applied ([] where there was nothing to do)."""

    engine: str
    place: str
    before: int
    applied: Sequence[int]


def schema_findings(has: int, needs: int) -> list[Finding]:
    """Say what is wrong with the version of a schema."""
    if has > needs:
        return [
            Finding(Severity.ERROR, f"the store has schema {has}, this release knows {needs}", "run the newer release")
        ]
    if has < needs:
        what = f"the store has schema {has}, this release needs {needs}" if has else "the store has no tables yet"
        return [Finding(Severity.ERROR, what, "hotreload store migrate, or start the service as a role that may")]
    return []


def miscounted(counted: Counter[tuple[str, str]], queues: Sequence[QueueRows]) -> list[Finding]:
    """Compare the counters of the queues with the rows counted by (queue, state)."""
    kept = {(queue.name, state): int(getattr(queue, state)) for queue in queues for state in COUNTED}
    return [
        Finding(
            Severity.ERROR, f"queue {queue!r} has {counted[queue, state]:,} {state} jobs, its counter says {said:,}"
        )
        for (queue, state), said in sorted({**dict.fromkeys(counted, 0), **kept}.items())
        if counted[queue, state] != said
    ]
