"""How a drain is asked for by a signal; the handlers of before are chained in another's process, and put back after."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

from uvicorn import Server

from hotreload.drain import forked

log = logging.getLogger(__name__)
TERMINATION = (signal.SIGTERM, signal.SIGINT)
_installed: list[TerminationSignals] = []
"""Those of all services of this process; one may end before another that was begun later and chains to it."""


class TerminationSignals:
    """Calls `callback("SIGTERM" | "SIGINT")` for each signal, between two bytecodes of the main thread.

    A Python-level handler and not the loop's: it runs while the loop is blocked in Python code. The callback must take
    no lock. With `chain` the handler of before is called as well, at once; the default action, which would end the
    process, is remembered in `defaulted`, and what was ignored stays ignored. Outside the main thread no signal can be
    heard, and nothing is done. A forked child has the handlers of before.
    """

    def __init__(self, callback: Callable[[str], None], *, chain: bool) -> None:
        self._callback = callback
        self._chain = chain
        self._owner = os.getpid()
        self._before: dict[int, Any] = {}
        self._since: dict[int, Any] = {}
        self._kept_to_parent: Callable[[], None] = lambda: None
        self.defaulted: int | None = None
        """The first signal that would have ended the process by its default action."""

    def install(self) -> None:
        """Hear signals from now on."""
        if threading.current_thread() is threading.main_thread():
            for number in TERMINATION:
                if not self._chain or signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._heard)
            self._kept_to_parent = forked.in_child(self._put_back)
            _installed.append(self)

    def take_back(self) -> None:
        """Hear again the signals that other code took since; its handlers are called after ours. Main thread only.

        A library that handles SIGTERM, or gives it its default action back, must not keep a stop from being a drain.
        """
        for number in self._before:
            taken = signal.getsignal(number)
            if taken != self._heard:
                signal.signal(number, self._heard)
                self._since[number] = taken
                name = signal.Signals(number).name
                log.warning("signal.taken_back %s: it asks for a drain again (other code had set %r)", name, taken)

    def release(self, *, last: bool = False) -> None:
        """Put the handlers of before back, or with `last` ignore the signals: the process is about to leave."""
        self._kept_to_parent()
        if last:
            for number in self._before:
                signal.signal(number, signal.SIG_IGN)
        self._put_back()
        if self in _installed:
            _installed.remove(self)
        for later in _installed:
            later.unchain(self._heard, self._before)
        self._before = {}

    def unchain(self, heard: Callable[..., object], before: Mapping[int, Any]) -> None:
        """Take the handlers of before of one that is released, where it is that of before here."""
        self._before |= {number: before.get(number) for number, own in self._before.items() if own == heard}

    def _put_back(self) -> None:
        self._callback = _ignored  # a handler set later may have this one chained
        for number, handler in self._before.items():
            if signal.getsignal(number) == self._heard:
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        before = self._before.get(number)
        if os.getpid() != self._owner:  # forked past Python's own fork: as if nothing listened
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self._callback(signal.Signals(number).name)
        if self._chain and callable(before):
            _tell(before, number, frame)
        elif before is signal.SIG_DFL:
            self.defaulted = self.defaulted or number
        if callable(since := self._since.get(number)):
            try:
                since(number, frame)
            except BaseException:
                log.exception("signal.handler_failed %s: raised by other code's handler", signal.Signals(number).name)


def _tell(before: Callable[[int, FrameType | None], object], number: int, frame: FrameType | None) -> None:
    """Call the handler of before.

    uvicorn kills itself with the signal its handler saw, although it stopped in order. Where its own `run` holds the
    loop it is told through `should_exit`: it stops as it does for Ctrl-C, and the process exits with 0.
    """
    server = getattr(before, "__self__", None)
    if isinstance(server, Server) and not server.should_exit and _is_called_by(Server.run, frame):
        server.should_exit = True
    else:
        before(number, frame)


def _is_called_by(function: Callable[..., object], frame: FrameType | None) -> bool:
    while frame is not None and frame.f_code is not function.__code__:
        frame = frame.f_back
    return frame is not None


def _ignored(_signal_name: str) -> None:
    pass
