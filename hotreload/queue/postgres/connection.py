"""How the database is reached and owned, and what its errors mean."""

from __future__ import annotations

import json
import os
import re
import socket
import time
import uuid
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import psycopg
import psycopg.sql
from psycopg.abc import Params
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus

from hotreload.errors import HotreloadError, StoreLost, StoreOwned, StoreUnavailable
from hotreload.queue.postgres.pipeline import Connection

R = TypeVar("R")

REFUSED: Final = "HR001"
"""The SQLSTATE with which a table of the store refuses a function of a user."""
CONNECT_WITHIN_S: Final = 3
LOCK_WITHIN_MS: Final = 1_000
"""How long the lock of a node is waited for: the server may take a moment to notice that its last owner was killed."""
_REACHED: Final[dict[str, Any]] = {
    "connect_timeout": CONNECT_WITHIN_S,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    "application_name": "hotreload",
}
# The server, too, is to notice that a machine is gone, and a commit is to be on the disk whatever its default is.
_SESSION: Final = """
SELECT set_config(name, setting, false) FROM (VALUES
    ('tcp_keepalives_idle', '5'), ('tcp_keepalives_interval', '2'), ('tcp_keepalives_count', '3'),
    ('synchronous_commit', CASE WHEN current_setting('synchronous_commit') = 'off' THEN 'on' END)
) AS wanted (name, setting) WHERE setting IS NOT NULL
"""
# Each statement of the writer has one good plan, by its index. A planner that goes by what the table held when it was
# last counted takes others, keeps them while the table grows, and reads past dead entries that only index scans remove.
_PLANS: Final = {
    **dict.fromkeys(("enable_seqscan", "enable_bitmapscan", "enable_hashjoin", "enable_mergejoin", "jit"), "off"),
    "plan_cache_mode": "force_generic_plan",
}
_PLANNED: Final = "; ".join(f"SET {{scope}} {name} = {value}" for name, value in _PLANS.items())
_AS_ELSEWHERE: Final = "; ".join(f"SET LOCAL {name} = DEFAULT" for name in _PLANS)
# Behind a pooler what is said of the session is said in each transaction: it is another application's, too.
_IN_TRANSACTION: Final = f"""
SELECT set_config(name, setting, true) FROM (VALUES
    ('idle_in_transaction_session_timeout', %s),
    ('synchronous_commit', CASE WHEN current_setting('synchronous_commit') = 'off' THEN 'on' END),
    {", ".join(str(item) for item in _PLANS.items())}
) AS wanted (name, setting) WHERE setting IS NOT NULL
"""
# Divides by zero where the node is not its owner's any more: all that follows in its trip is skipped, the COMMIT too.
_BEGUN: Final = """
WITH own AS (
    UPDATE hotreload_nodes SET written = %s, seen_at = clock_timestamp() WHERE name = %s AND owner = %s RETURNING name
)
SELECT 1 / count(*) FROM own
"""
_KEEP: Final = """
UPDATE hotreload_nodes AS node SET seen_at = clock_timestamp()
FROM (SELECT name, seen_at FROM hotreload_nodes WHERE name = %s AND owner = %s FOR UPDATE) AS was
WHERE node.name = was.name RETURNING extract(epoch FROM node.seen_at - was.seen_at),
    (extract(epoch FROM node.seen_at) * 1000)::bigint,
    EXISTS (SELECT 1 FROM hotreload_nodes AS other WHERE other.name <> node.name AND other.owner <> '')
"""
_SEEN: Final = "SELECT owner, extract(epoch FROM clock_timestamp() - seen_at) FROM hotreload_nodes WHERE name = %s"
_SKIPS: Final = r"(?:\s|--[^\n]*\n|/\*.*?\*/)*"
# A text may hold several statements; BEGIN and END after the first are those of a function's body.
_ENDS: Final = re.compile(
    rf"(?:^{_SKIPS}(?:BEGIN|START\s+TRANSACTION|END)|"
    rf"(?:^|;){_SKIPS}(?:COMMIT|ABORT|PREPARE\s+TRANSACTION|ROLLBACK(?!\s+(?:(?:WORK|TRANSACTION)\s+)?TO\b)))\b",
    re.IGNORECASE | re.DOTALL,
)
_NODE_LOCK: Final = "hashtextextended('hotreload node ' || current_schema() || ' ' || %s, 0)"


def connect(dsn: str) -> Connection:
    """Open a connection in which each statement is its own transaction until BEGIN; psycopg.Error where it cannot."""
    given = conninfo_to_dict(dsn)
    options = {name: value for name, value in _REACHED.items() if name not in given}
    options["client_encoding"] = "utf8"
    # What is to be prepared the connection prepares itself, see `pipeline`: psycopg forgets all after a rollback.
    connection = Connection.connect(dsn, autocommit=True, prepare_threshold=None, **options)
    try:
        connection.pooled = one(connection, "SELECT pg_backend_pid()") != connection.info.backend_pid
        if not connection.pooled:
            run(connection, _SESSION)
    except BaseException:
        connection.close()
        raise
    return connection


def place(dsn: str) -> str:
    """Return where a store is, without its secrets; StoreUnavailable for a text that says nowhere."""
    try:
        said = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        raise StoreUnavailable("hotreload.store is not a PostgreSQL address: postgresql://USER@HOST/NAME") from None
    return f"postgresql {said.get('host', 'local')}/{said.get('dbname', '')}"


def run(connection: Connection, sql: str, bindings: Sequence[Any] | None = None) -> psycopg.Cursor[tuple[Any, ...]]:
    """Run one statement, or without bindings several, after those that wait."""
    connection.answers()
    return connection.execute(sql.encode(), bindings)


def one(connection: Connection, sql: str, bindings: Sequence[Any] = ()) -> Any:
    """Return the only value of a query, None where it has no row."""
    row = run(connection, sql, bindings).fetchone()
    return None if row is None else row[0]


@contextmanager
def atomically(connection: Connection) -> Generator[None]:
    """Make one transaction of what is inside, undone where it raises."""
    run(connection, "BEGIN")
    try:
        yield
        commit(connection)
    except BaseException:
        rolled_back(connection)
        raise


def commit(connection: Connection, *before: tuple[str, Sequence[Any]]) -> list[list[tuple[Any, ...]]]:
    """Make the transaction durable, after the statements `before` it in the same trip; return the rows of each.

    The server answers ROLLBACK, not an error, for a transaction that had failed before.
    """
    for sql, given in before:
        connection.later(sql, given)
    connection.later("COMMIT")
    *answers, ended = connection.answers()
    if ended.tag != "COMMIT":
        raise psycopg.errors.InFailedSqlTransaction("a statement failed and its error was passed over")
    return [answer.rows for answer in answers[len(answers) - len(before) :]]


def rolled_back(connection: Connection) -> None:
    """Undo the transaction, where the connection is still there to do so."""
    connection.forget()
    with suppress(psycopg.Error):
        run(connection, "ROLLBACK")


class _Guarded(psycopg.Cursor[tuple[Any, ...]]):
    """A cursor that refuses what would end the transaction, or begin another."""

    def execute(self, query: Any, params: Params | None = None, **options: Any) -> Self:
        """As `psycopg.Cursor.execute`."""
        text = query.decode(errors="replace") if isinstance(query, bytes) else query
        text = text.as_string(self) if isinstance(text, psycopg.sql.Composable) else str(text)
        if _ENDS.search(text):
            raise ValueError(f"{text.strip()[:80]!r}: the transaction is the store's; use a SAVEPOINT for a part of it")
        return super().execute(query, params, **options)


def guarded(connection: Connection, function: Callable[[Connection], R]) -> R:
    """Call `function(connection)` in a savepoint of the open transaction; ValueError for what reaches beyond its rows.

    That is what ends the transaction of all callers, or inserts into, updates, deletes from or truncates a table of the
    store: the tables refuse it while `hotreload.function` is on. The error undoes what the function did, as any other.
    """
    run(connection, f"SET LOCAL hotreload.function = 'on'; {_AS_ELSEWHERE}")
    connection.cursor_factory, connection.guards = _Guarded, True
    try:
        with connection.transaction():
            found = function(connection)
            if connection.info.transaction_status == TransactionStatus.IDLE:
                raise ValueError("the function ended the transaction that it was called in")
    except psycopg.Error as error:
        if error.sqlstate == REFUSED:
            said = f"{error.diag.message_primary}: not for a function inside the store's transaction"
            raise ValueError(said) from error
        raise
    finally:
        connection.cursor_factory, connection.guards = psycopg.Cursor, False
    run(connection, f"SET LOCAL hotreload.function = 'off'; {_PLANNED.format(scope='LOCAL')}")
    return found


def as_error(error: BaseException, where: str) -> BaseException:
    """Return what callers are told: StoreUnavailable for what is the database's, an error of the caller's as it is."""
    if isinstance(error, HotreloadError):
        return error
    if isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError, psycopg.errors.ReadOnlySqlTransaction)):
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        return StoreUnavailable(f"{where}: {said}")
    return error


def not_opened(error: psycopg.Error, where: str) -> BaseException:
    """Return what an error means while a store is opened: StoreUnavailable, in one line."""
    said = str(error).strip().splitlines()[0]
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        said += "; `hotreload store check` names the privileges that a role lacks"
    found = as_error(error, where)
    return found if isinstance(found, StoreUnavailable) else StoreUnavailable(f"{where}: {said}")


class DatabaseClock:
    """The database's time in Unix ms, carried on by the monotonic clock between two looks at it; from any thread.

    The wall clock of this machine is not asked: nodes whose clocks differ or jump agree on what is due and what is old.
    It lags by the time that the database's answer takes.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._at: tuple[int, float] = 0, 0.0

    def told(self, now_ms: int) -> None:
        """Go on from what the database just said."""
        self._at = now_ms, self._monotonic()

    def look(self, connection: Connection) -> None:
        """Ask the database."""
        self.told(one(connection, "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint"))

    def __call__(self) -> int:
        """Return the time."""
        now_ms, at = self._at
        return now_ms + int((self._monotonic() - at) * 1000)


# --- the owner of a node ----------------------------------------------------------------------------------------------


class Node:
    """A name under which one process at a time takes jobs, and this process as its owner.

    The owner holds an advisory lock for as long as its connection lives, so a new connection has it only once the
    server has ended what the last one did. Each transaction counts up under the owner's text: a process that lost the
    node, stopped for long or cut off, can write nothing, and whether a transaction was committed can be looked up.

    Behind a pooler there is no lock of a connection: what counts is whether the owner is there (its process, where it
    is this machine's) or was seen within the lease.
    """

    def __init__(self, name: str, where: str, lease_s: float) -> None:
        self.name = name
        self.lease_s = lease_s
        self.clock = DatabaseClock()
        self.text = json.dumps(
            {"pid": os.getpid(), "host": socket.gethostname(), "boot": _boot(), "id": uuid.uuid4().hex}
        )
        self._where = where
        self._written = 0
        self._idle_ms = int(lease_s * 500)
        """The server ends a transaction in which nothing was asked for so long."""
        self.backend_pid = 0
        """The server process of the owner's connection, 0 where a pooler changes it."""
        self.others = True
        """Whether other nodes were there at the last look."""
        self.left = False
        """Whether the node was removed, in order: there is nothing to keep or to write any more."""

    def lock(self, connection: Connection) -> None:
        """Take the lock; StoreOwned, naming the owner, where another process has it."""
        if connection.pooled:
            self.backend_pid = 0
            self._refuse_owned(connection)
            return
        self.backend_pid = connection.info.backend_pid
        try:
            run(connection, f"SET lock_timeout = {LOCK_WITHIN_MS}")
            run(connection, f"SELECT pg_advisory_lock({_NODE_LOCK})", (self.name,))
        except psycopg.errors.LockNotAvailable:
            owner = owner_of(connection, self.name)
            raise StoreOwned(f"{self._where}, node {self.name!r}", _named(owner)) from None
        # a process stopped in a transaction has its own row locked: the server ends that, so that it can be taken over
        run(connection, f"RESET lock_timeout; SET idle_in_transaction_session_timeout = {self._idle_ms}")
        run(connection, _PLANNED.format(scope="SESSION"))

    def _refuse_owned(self, connection: Connection) -> None:
        """Raise StoreOwned where another process owns the node as far as can be told without a lock."""
        seen = run(connection, _SEEN, (self.name,)).fetchone()
        if seen is not None and seen[0] != self.text and seen[1] < self.lease_s and _may_live(seen[0]):
            raise StoreOwned(f"{self._where}, node {self.name!r}", _named(seen[0]))

    def lock_again(self, connection: Connection) -> None:
        """Take the lock on a new connection; StoreLost where the node was taken over, StoreUnavailable until then."""
        try:
            self.lock(connection)
        except StoreOwned as error:
            if owner_of(connection, self.name) == self.text:
                raise StoreUnavailable(f"{self._where}: the server has not ended the lost connection yet") from error
        if owner_of(connection, self.name) != self.text:
            raise StoreLost(f"{self._where}: another process took node {self.name!r} over")

    def begin(self, connection: Connection) -> int:
        """Begin a transaction with the next trip, which raises StoreLost if the node was taken; return its number."""
        self._written += 1
        connection.later("BEGIN")
        if connection.pooled:
            connection.later(_IN_TRANSACTION, (self._idle_ms,))
        taken = StoreLost(f"{self._where}: another process took node {self.name!r} over")
        connection.later(_BEGUN, (self._written, self.name, self.text), refused=taken)
        return self._written

    def keep(self, connection: Connection) -> float:
        """Keep the lease; return for how many seconds it was not, on the database's clock. StoreLost."""
        kept = run(connection, _KEEP, (self.name, self.text)).fetchone()
        if kept is None:
            raise StoreLost(f"{self._where}: another process took node {self.name!r} over")
        gap_s, now_ms, self.others = kept
        self.clock.told(now_ms)
        return float(gap_s)

    def committed(self, connection: Connection, number: int) -> bool:
        """Say whether the transaction of this number, the last one begun, was committed; on a new connection.

        It has the row of the node until it ends, so the answer waits for that.
        """
        asked = "SELECT written FROM hotreload_nodes WHERE name = %s FOR UPDATE"
        return one(connection, asked, (self.name,)) == number


def owner_of(connection: Connection, node: str) -> str:
    """Return the text of the node's last owner, "" where it had none."""
    return one(connection, "SELECT owner FROM hotreload_nodes WHERE name = %s", (node,)) or ""


def machine_ended(before: str) -> bool:
    """Say whether the last owner ran on this machine, and it was started again since."""
    if not before:
        return False
    said = json.loads(before)
    return said["host"] == socket.gethostname() and said["boot"] != _boot()


def _may_live(owner: str) -> bool:
    """Say whether the owner may still be there; of one on another machine that is not known."""
    if not owner or machine_ended(owner):
        return False
    said = json.loads(owner)
    ours = said["host"] == socket.gethostname()
    return not ours or (said["pid"] != os.getpid() and _runs(said["pid"]))


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _named(owner: str) -> str:
    said = json.loads(owner or "{}")
    return f"pid {said['pid']} on {said['host']}" if said else "another process"


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
