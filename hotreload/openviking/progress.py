"""Remember the finished model calls of messages that are not acknowledged yet.

OpenViking keeps no progress inside a message: a document of many model calls that is stopped near its end makes
all of them again. Here each answer is in a small SQLite file of its own before the message goes on, is given again
to the same question of the message's next delivery, and is forgotten once the message is acknowledged, so that a
reindex always asks again. What is asked is the whole prompt (it holds content, template and language), the account
and all that shapes the answer of its model; keys and limits do not count.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import apsw

from hotreload.clock import now_ms
from hotreload.queue.sqlite.connection import run

log = logging.getLogger(__name__)
KEPT_MS: Final = 7 * 86_400_000
"""How long answers of a message that never comes back are kept."""
KEPT_MOST: Final = 100_000
METHODS: Final = frozenset({"get_completion_async", "get_vision_completion_async"})
SHAPING: Final = ("provider", "model", "api_base", "temperature", "max_tokens", "thinking", "extra_request_body")
"""Settings of a model that shape its answer."""
_SCHEMA: Final = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS answers (
    question BLOB PRIMARY KEY,
    message TEXT NOT NULL,  -- whose acknowledgement ends it; '' while its next delivery has not asked yet
    answer TEXT NOT NULL,
    at_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS answers_of_message ON answers (message);
CREATE INDEX IF NOT EXISTS answers_by_age ON answers (at_ms);
"""


class Progress:
    """The answers of one workspace. Methods may be called from any thread.

    A killed process loses no answer; a power cut may lose the newest, which are then asked for again. Where the
    file fails calls are made as without it, and the first failure is logged.
    """

    def __init__(self, path: Path) -> None:
        """Open the file, made where there is none; a damaged one is begun again. `apsw.Error` where that fails too."""
        self._lock = threading.Lock()
        self._behind = ThreadPoolExecutor(max_workers=1, thread_name_prefix="hotreload-progress")
        self._failed = False
        try:
            self._connection = _open(path)
        except (apsw.NotADBError, apsw.CorruptError):
            log.warning("progress.begun_anew %s was damaged", path)
            for each in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
                each.unlink(missing_ok=True)
            self._connection = _open(path)

    def recall(self, question: bytes, message: str) -> str | None:
        """Return the answer kept, None without; one an earlier process left belongs to `message` from now on."""
        rows = self._run("SELECT message, answer FROM answers WHERE question = ?", (question,))
        if not rows:
            return None
        if rows[0][0] == "":
            self._run("UPDATE answers SET message = ? WHERE question = ?", (message, question))
        return str(rows[0][1])

    def keep(self, question: bytes, message: str, answer: str) -> None:
        """Keep an answer until `message` is acknowledged; a kill after the return does not lose it."""
        self._run("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)", (question, message, answer, now_ms()))

    def acknowledged(self, message: str) -> None:
        """Forget what was kept for a message; never waits."""
        with suppress(RuntimeError):  # closed already: the next process has it for a time
            self._behind.submit(self._run, "DELETE FROM answers WHERE message = ?", (message,))

    def close(self) -> None:
        """Finish what was begun; nothing is kept or recalled afterwards."""
        self._behind.shutdown(wait=True)
        with self._lock:
            self._failed = True
            self._connection.close()

    def _run(self, statement: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        with self._lock:
            try:
                return run(self._connection, statement, values).fetchall()
            except apsw.Error as error:
                if not self._failed:
                    log.warning("progress.failed finished model calls are not remembered: %r", error)
                self._failed = True
                return []


def _open(path: Path) -> apsw.Connection:
    path.touch(mode=0o600)
    connection = apsw.Connection(str(path))
    try:
        run(connection, _SCHEMA).fetchall()
        run(connection, "DELETE FROM answers WHERE at_ms < ?", (now_ms() - KEPT_MS,))
        newest = "SELECT at_ms FROM answers ORDER BY at_ms DESC LIMIT 1 OFFSET ?"
        run(connection, f"DELETE FROM answers WHERE at_ms <= ({newest})", (KEPT_MOST,))
        run(connection, "UPDATE answers SET message = '' WHERE message <> ''")
    except apsw.Error:
        connection.close()
        raise
    return connection


def question(
    account: str, model: Any, method: str, arguments: Sequence[Any], options: Mapping[str, Any]
) -> bytes | None:
    """Return what stands for a call; None where the same question may have another answer, or cannot be named."""
    if method not in METHODS:
        return None
    shape = {name: repr(getattr(model, name, None)) for name in SHAPING}
    asked = [account, shape, method, list(arguments), dict(options)]
    try:
        return hashlib.sha256(json.dumps(asked, sort_keys=True, default=_bytes).encode()).digest()
    except TypeError:
        return None


def _bytes(value: object) -> str:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    raise TypeError(type(value).__name__)


async def remembered(progress: Progress, message: str, asked: bytes | None, make: Callable[[], Awaitable[Any]]) -> Any:
    """Return the answer kept for a question of a message, else that of the call, which is kept then."""
    if asked is None:
        return await make()
    kept = await asyncio.to_thread(progress.recall, asked, message)
    if kept is not None:
        return kept
    answer = await make()
    if type(answer) is str and answer:
        await asyncio.to_thread(progress.keep, asked, message, answer)
    return answer
