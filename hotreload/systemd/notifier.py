"""Say the state of the process to systemd over its notification socket (sd_notify(3)).

Without `NOTIFY_SOCKET` every call is silent and free. The package `sdnotify` sends; kept from its edges here:
it encodes Latin-1 (so text goes through UTF-8 first), it blocks on a full socket (so that is non-blocking), it
swallows errors (so they are counted). A newline in a STATUS would inject fields, and systemd drops a datagram
of 4,096 bytes whole: control characters become spaces, text is cut on a UTF-8 border. A state (READY, RELOADING,
STOPPING) that met a full socket is kept until a newer one went out, as systemd would wait for it: see `resend`.
"""

from __future__ import annotations

import logging
import os
import socket
import time
import unicodedata
from collections.abc import Callable, Mapping
from typing import Final, Protocol, cast

import sdnotify

log = logging.getLogger(__name__)
STATUS_LIMIT: Final = 1000
"""Bytes of a status text; more is cut."""


class _Sender(Protocol):
    """What is used of `sdnotify.SystemdNotifier`."""

    def notify(self, state: str) -> None: ...


def monotonic_us() -> int:
    """Return CLOCK_MONOTONIC in microseconds, the clock `MONOTONIC_USEC` is read on."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


class Notifier:
    """One process' line to its service manager. No call raises, blocks or logs; what could not be sent is in `errors`.

    `clock_us` is the monotonic clock; `environ` gives the watchdog's settings (the socket is always taken from
    the real environment, by `sdnotify`).
    """

    def __init__(self, *, clock_us: Callable[[], int] = monotonic_us, environ: Mapping[str, str] = os.environ) -> None:
        self.errors = 0
        self._reason: Exception | None = None
        self._errors_seen = 0
        self._failing = False
        self._unsent: tuple[str, ...] | None = None
        self._clock_us = clock_us
        self._sender = self._connect() if environ.get("NOTIFY_SOCKET") else None
        self.watchdog_interval_s: float | None = watchdog_interval_s(environ, os.getpid())
        """How often to call `watchdog` (half of what systemd allows), None where it does not watch us."""

    @property
    def enabled(self) -> bool:
        """True where a service manager listens."""
        return self._sender is not None

    def ready(self, status: str, generation: int) -> None:
        """Start-up is over; generation (a field that systemd hands on unread) and status go in the same datagram."""
        self._send_state("READY=1", f"X_HOTRELOAD_GENERATION={generation}", f"STATUS={clean(status)}")

    def reloading(self) -> None:
        """A reload began; `reloaded` must follow whatever its outcome, or systemd waits for ever."""
        self._send_state("RELOADING=1", f"MONOTONIC_USEC={self._clock_us()}")

    def reloaded(self, status: str, generation: int, errno: int = 0) -> None:
        """A reload ended, well or not: ready again, and what came of it, in one datagram.

        `errno` is the errno(3) of a refusal; 0 clears that of an earlier one.
        """
        self._send_state("READY=1", f"X_HOTRELOAD_GENERATION={generation}", f"ERRNO={errno}", f"STATUS={clean(status)}")

    def status(self, text: str) -> None:
        """Show `text` in `systemctl status`."""
        self._send(f"STATUS={clean(text)}")

    def stopping(self, status: str) -> None:
        """The drain began."""
        self._send_state("STOPPING=1", f"STATUS={clean(status)}")

    def resend(self) -> None:
        """Send the newest state again that could not be sent, and log the first error of a series; call it each second.

        It logs here alone: a thread that must not wait for the log's lock speaks as well.
        """
        failing = self.errors > self._errors_seen
        if failing and not self._failing:
            log.warning("systemd.not_told errors=%d: %r", self.errors, self._reason)
        self._failing, self._errors_seen = failing, self.errors
        if self._unsent is not None:
            self._send_state(*self._unsent)

    def extend(self, seconds: float) -> None:
        """Ask for `seconds` from now until systemd's timeout; repeat before they are over."""
        self._send(f"EXTEND_TIMEOUT_USEC={max(0, round(seconds * 1_000_000))}")

    def watchdog(self) -> None:
        """The loop that serves still runs."""
        self._send("WATCHDOG=1")

    def store(self, descriptor: int, name: str) -> None:
        """Leave a copy of a descriptor with the service manager, for the next process of this unit.

        Kept only where the unit has `FileDescriptorStoreMax=`.
        """
        if self._sender is None:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.connect(_address(os.environ["NOTIFY_SOCKET"]))
                socket.send_fds(sender, [f"FDSTORE=1\nFDNAME={name}".encode()], [descriptor])
        except (OSError, KeyError) as error:
            self._failed(error)

    def forget(self, name: str) -> None:
        """Have the service manager close what it keeps under `name`."""
        self._send("FDSTOREREMOVE=1", f"FDNAME={name}")

    def _send_state(self, *fields: str) -> None:
        self._unsent = None if self._send(*fields) else fields

    def _send(self, *fields: str) -> bool:
        """Return False where it could not be sent."""
        if self._sender is None:
            return True
        try:
            self._sender.notify("\n".join(fields).encode().decode("latin-1"))
        except OSError as error:
            self._failed(error)
            return False
        return True

    def _failed(self, error: Exception) -> None:
        self.errors += 1
        self._reason = error

    def _connect(self) -> _Sender | None:
        try:
            notifier = sdnotify.SystemdNotifier(debug=True)  # debug: errors are raised, so that they can be counted
        except OSError as error:
            self._failed(error)
            return None
        cast("socket.socket", notifier.socket).setblocking(False)
        return cast("_Sender", notifier)


def _address(text: str) -> str:
    return "\0" + text[1:] if text.startswith("@") else text


def clean(text: str) -> str:
    """Return `text` as one line without control characters, at most STATUS_LIMIT bytes of UTF-8."""
    line = "".join(" " if unicodedata.category(char) in {"Cc", "Zl", "Zp", "Cs"} else char for char in text)
    return line.encode()[:STATUS_LIMIT].decode(errors="ignore").strip()


def watchdog_interval_s(environ: Mapping[str, str], pid: int) -> float | None:
    """Return half of `WATCHDOG_USEC` in seconds, None where it is not set or set for another process."""
    if environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    allowed_us = environ.get("WATCHDOG_USEC", "")
    if not allowed_us.isascii() or not allowed_us.isdigit() or int(allowed_us) == 0:
        return None
    return int(allowed_us) / 2_000_000
