"""The wake-up between the processes on one database: NOTIFY in the transaction that gives a reason, LISTEN beside it.

There is one channel. What is told is a topic: `jobs:QUEUE` where a claim may find something now, `rounds` where nodes
are asked for something together, other words for other parts. A topic says only that it is worth to look; a process
that misses one finds the same by polling.
"""

from __future__ import annotations

import logging
import math
import select
import socket
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from typing import Final

import psycopg

from hotreload.queue.postgres.connection import run
from hotreload.queue.postgres.pipeline import Connection

log = logging.getLogger(__name__)

CHANNEL: Final = "hotreload"
JOBS: Final = "jobs:"
ROUNDS: Final = "rounds"
HOLD_S: Final = 0.02
"""A topic is told at once, and then again after so long: each NOTIFY makes the commits of all processes take turns."""
NAME_MOST: Final = 1_000
"""A payload has at most 8,000 bytes; of a longer name the beginning is enough, since all queues are looked at."""
BACKOFF_FIRST_S: Final = 0.1
BACKOFF_MOST_S: Final = 5.0
ASK_S: Final = 10.0
"""A server that said nothing for so long is asked whether it is there."""
ANSWER_S: Final = 5.0
NOTIFY: Final = f"SELECT pg_notify('{CHANNEL}', topic) FROM unnest(%s::text[]) AS topic"


def notify(connection: Connection, topics: Iterable[str]) -> None:
    """Tell every process of these topics once the open transaction is committed; not where it is rolled back."""
    told = list(topics)
    if told:
        connection.later(NOTIFY, (told,))


def topics_of(queues: Iterable[str]) -> set[str]:
    """Return the topics of queues in which a claim may find something."""
    return {f"{JOBS}{queue[:NAME_MOST]}" for queue in queues}


class Announcer:
    """What a writer has to tell other processes, each topic at most once in `hold_s`; in the writer's thread."""

    def __init__(self, hold_s: float = HOLD_S, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._hold_s = hold_s
        self._monotonic = monotonic
        self._held: set[str] = set()
        self._writing: list[str] = []
        self._told_at: dict[str, float] = {}

    def due(self, topics: Iterable[str]) -> list[str]:
        """Return what is to be told with the open transaction of `topics` and of what was held back before."""
        self._held.update(topics)
        now = self._monotonic()
        self._writing = [topic for topic in self._held if now >= self._due_at(topic)]
        return self._writing

    def committed(self) -> None:
        """Note that what was written is told."""
        now = self._monotonic()
        self._held.difference_update(self._writing)
        if len(self._told_at) > NAME_MOST:
            self._told_at = {topic: at for topic, at in self._told_at.items() if now < at + self._hold_s}
        self._told_at.update(dict.fromkeys(self._writing, now))
        self._writing = []

    def forget(self) -> None:
        """Hold nothing back any more: no other process is there."""
        self._held.clear()

    def wait_s(self) -> float:
        """Return how long what is held back has to wait, 0 where it is due; infinity where there is nothing."""
        return max(0.0, min(map(self._due_at, self._held), default=math.inf) - self._monotonic())

    def _due_at(self, topic: str) -> float:
        return self._told_at.get(topic, float("-inf")) + self._hold_s


class Listener:
    """A thread that listens on a connection of its own, from the constructor to `close`; it opens a lost one again.

    `heard(topic, pid)` is called in that thread for each topic, with the pid of the server process that told it; with
    None after each connecting, since what was told before that is not known. It must only wake others.
    """

    def __init__(
        self,
        opens: Callable[[], Connection],
        heard: Callable[[str | None, int], None],
        *,
        backoff_first_s: float = BACKOFF_FIRST_S,
        ask_s: float = ASK_S,
        answer_s: float = ANSWER_S,
    ) -> None:
        self._opens = opens
        self._heard = heard
        self._backoff_first_s = backoff_first_s
        self._ask_s = ask_s
        self._answer_s = answer_s
        self._subscribers: dict[str, list[Callable[[], None]]] = {}
        self._closing = False
        self._closes, self._woken = socket.socketpair()
        self.trouble: str | None = "it is being connected"
        """Why nothing is heard now, None while it listens."""
        self._thread = threading.Thread(target=self._main, name="hotreload-listen", daemon=True)
        self._thread.start()

    def subscribe(self, topic: str, listener: Callable[[], None]) -> None:
        """Call `listener` for each time the topic is told, and after each connecting; in the thread that listens."""
        self._subscribers.setdefault(topic, []).append(listener)

    def close(self, timeout_s: float = 1.0) -> None:
        """End the thread; a second call changes nothing."""
        self._closing = True
        with suppress(OSError):
            self._closes.send(b"x")
        self._thread.join(timeout_s)

    def _main(self) -> None:
        pause_s = self._backoff_first_s
        while not self._closing:
            try:
                with closing(self._opens()) as connection:
                    if connection.pooled:
                        self._failed("the address is that of a connection pooler; give that of the server itself")
                        break
                    run(connection, f"LISTEN {CHANNEL}")
                    self._tell(None, 0)
                    self.trouble, pause_s = None, self._backoff_first_s
                    self._listen(connection)
            except (psycopg.Error, OSError) as error:
                self._failed((str(error).strip() or type(error).__name__).splitlines()[0])
            select.select([self._woken], [], [], pause_s)
            pause_s = min(BACKOFF_MOST_S, pause_s * 2)
        self._closes.close()
        self._woken.close()

    def _failed(self, why: str) -> None:
        if self.trouble != why:
            log.warning("store.polling reason=%s", why)
        self.trouble = why

    def _listen(self, connection: Connection) -> None:
        """Pass on what is told until `close`; psycopg.OperationalError once the server is gone or does not answer."""
        pgconn, poll, asked = connection.pgconn, select.poll(), False
        poll.register(connection.fileno(), select.POLLIN)
        poll.register(self._woken, select.POLLIN)
        while not self._closing:
            if not poll.poll(1_000 * (self._answer_s if asked else self._ask_s)):
                if asked:
                    raise psycopg.OperationalError("the server does not answer")
                pgconn.send_query(b"SELECT 1")
                asked = True
                continue
            if self._closing:
                return
            pgconn.consume_input()
            while asked and not pgconn.is_busy():
                asked = pgconn.get_result() is not None
            while (told := pgconn.notifies()) is not None:
                self._tell(told.extra.decode(errors="replace"), told.be_pid)

    def _tell(self, topic: str | None, pid: int) -> None:
        listeners = self._subscribers.values() if topic is None else [self._subscribers.get(topic, [])]
        try:
            self._heard(topic, pid)
            for listener in [one for of_topic in list(listeners) for one in of_topic]:
                listener()
        except Exception:
            log.exception("store.listener_failed topic=%s", topic)
