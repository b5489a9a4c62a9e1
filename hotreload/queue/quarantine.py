"""PURE: when a suspect may run, a job that was running in several crashes without progress."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from hotreload.queue.job import CRASHES_TO_SUSPECT


class May(Enum):
    """What a claim may take now."""

    NOTHING = "nothing"
    SUSPECT = "suspect"
    OTHERS = "others"


@dataclass(frozen=True, slots=True)
class Suspect:
    """One suspect of the store that is ready or running: its queue, and its crashes without progress."""

    id: int
    queue: str
    running: bool
    stalled_crashes: int

    @property
    def crashed_as_suspect(self) -> bool:
        """True where the process ended again while it ran as a suspect."""
        return self.stalled_crashes > CRASHES_TO_SUSPECT


def may_claim(queue: str, suspects: list[Suspect], running: int) -> tuple[May, int]:
    """Say what a claim of `queue`, in which `running` jobs run, may take; of a suspect also its id, else 0.

    A suspect is the only running job of its queue: it waits for those that run, and the others of the queue wait
    for it. Other queues go on. One that crashed as a suspect runs beside no other suspect of the store either, so
    that after the next crash it is known which of them it was. `suspects` come in the order of claims.
    """
    here = [suspect for suspect in suspects if suspect.queue == queue]
    if any(suspect.running for suspect in here):
        return May.NOTHING, 0
    if not here:
        return May.OTHERS, 0
    if running:
        return May.NOTHING, 0
    elsewhere = [suspect for suspect in suspects if suspect.running]
    for suspect in here:
        if not elsewhere or not any(one.crashed_as_suspect for one in (suspect, *elsewhere)):
            return May.SUSPECT, suspect.id
    return May.NOTHING, 0
