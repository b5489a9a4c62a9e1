"""What a pool does all day, in one call: end the claims of jobs that finished, take the next ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import apsw

from hotreload.errors import LeaseLost
from hotreload.queue.claims import Claim, Claims
from hotreload.queue.contract import Requeued
from hotreload.queue.job import JobState
from hotreload.queue.ledger import Ledger
from hotreload.queue.rows import Raw
from hotreload.queue.sql import run
from hotreload.queue.verbs import Settlement, Several, Verbs

Standings = Sequence[JobState | LeaseLost]


class Exchange(NamedTuple):
    """Claims to end, then one to make (None: none)."""

    settlements: Sequence[Settlement]
    claim: Claim | None


class Flush(NamedTuple):
    """Claims to end, then queues of which everything running goes back."""

    settlements: Sequence[Settlement]
    queues: Sequence[str]


class Exchanges:
    """Verbs over several settlements at once: a fenced one fails for itself and for no other."""

    def __init__(self, ledger: Ledger, verbs: Verbs, claims: Claims) -> None:
        self._ledger = ledger
        self._verbs = verbs
        self._claims = claims

    def exchange(
        self, connection: apsw.Connection, calls: Sequence[Exchange]
    ) -> Sequence[tuple[Standings, Sequence[Raw]]]:
        """Settle for all calls, then claim for each in turn."""
        states = iter(self._settle(connection, [one for call in calls for one in call.settlements]))
        ended = [[next(states) for _ in call.settlements] for call in calls]
        taken = [self._claims.claim(connection, [call.claim])[0] if call.claim else [] for call in calls]
        return list(zip(ended, taken, strict=True))

    def flush(self, connection: apsw.Connection, calls: Sequence[Flush]) -> Sequence[Requeued]:
        """Settle, then put back what runs."""
        for call in calls:
            self._settle(connection, call.settlements)
        return self._verbs.requeue(connection, [call.queues for call in calls])

    def _settle(self, connection: apsw.Connection, settlements: Sequence[Settlement]) -> Standings:
        if len(settlements) < 2:
            return self._verbs.settle(connection, settlements) if settlements else []
        mark = self._ledger.mark()
        run(connection, "SAVEPOINT hotreload_settle")
        try:
            states = self._verbs.settle(connection, settlements)
        except Several:
            run(connection, "ROLLBACK TO hotreload_settle").fetchall()
            self._ledger.undo(mark)
            states = [state for one in settlements for state in self._verbs.settle(connection, [one])]
        run(connection, "RELEASE hotreload_settle")
        return states
