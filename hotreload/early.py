"""Keep SIGHUP from ever killing this process, from the first statement to the last.

One handler of Python's own, between two bytecodes of the main thread; only what is done with a signal changes over a
life: remembered (start-up), called back (running), nothing (the end). A child that is executed has the default action
again, as execve(2) resets what is caught; a forked one gets it back at once. `loop.add_signal_handler` is not used,
because closing the loop puts back the default action, and the default action of SIGHUP is death.

Standard library only: this module is imported before any third-party package.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any, Final

SERVING_VERBS: Final = frozenset({"run", "openviking"})
"""The verbs whose process takes SIGHUP as a request to reload."""

_heard = _taken = 0
"""How many SIGHUPs the handler counted, and how many of them were taken: each is written by one side only."""
_callbacks: list[Callable[[], object]] = []
_before: Any = None
_since: Any = None
_holds = False


def install() -> None:
    """Remember every SIGHUP from now on; main thread only. A second call does nothing."""
    global _before, _holds
    if not _holds:
        _before, _holds = signal.signal(signal.SIGHUP, _on_hangup), True


def pending_count() -> int:
    """Return how many SIGHUPs came that were not taken yet; what came in a burst is one, as signal(7) has it."""
    return _heard - _taken


def reset() -> int:
    """Forget the SIGHUPs remembered so far and return how many there were."""
    global _taken
    before, _taken = _taken, _heard
    return _taken - before


def take(callback: Callable[[], object], *, polite: bool = False) -> int:
    """Call `callback` for each SIGHUP from now on, beside those of other services; return how many came before.

    `callback` runs in the main thread between two bytecodes: hand it `loop.call_soon_threadsafe`. Installs the handler
    where `install` was not called: with `polite` only where SIGHUP has its default action. Outside the main thread
    nothing is heard.
    """
    if threading.current_thread() is not threading.main_thread():
        return 0
    if polite and not _holds and signal.getsignal(signal.SIGHUP) is not signal.SIG_DFL:
        return 0
    _callbacks.append(callback)
    install()
    return pending_count()


def take_back() -> None:
    """Hear SIGHUP again where other code took it since; its handler is called after ours. Main thread only."""
    global _since
    if _holds and (taken := signal.getsignal(signal.SIGHUP)) is not _on_hangup:
        _since = taken
        signal.signal(signal.SIGHUP, _on_hangup)


def release(callback: Callable[[], object]) -> None:
    """Call `callback` no more; with the last one put the handler of before back. A second call does nothing."""
    if callback in _callbacks:
        _callbacks.remove(callback)
    if not _callbacks:
        _put_back()


def _put_back() -> None:
    global _holds, _since
    _since = None
    if _holds and signal.getsignal(signal.SIGHUP) is _on_hangup:
        signal.signal(signal.SIGHUP, _before if _before is not None else signal.SIG_DFL)
    _holds = False
    reset()


def ignore() -> None:
    """Ignore SIGHUP from now on: the last moments, when there is nothing left to reload."""
    _callbacks.clear()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    reset()


def _on_hangup(_number: int, _frame: FrameType | None) -> None:
    """Count before asking for the callback, as `take` sets it before it counts: no SIGHUP falls between the two."""
    global _heard
    _heard += 1
    for callback in [*_callbacks]:
        with suppress(RuntimeError):  # the loop is closed: there is nothing left to reload
            callback()
    if callable(_since):
        with suppress(Exception):
            _since(_number, _frame)


def _as_a_child() -> None:
    """A forked child has nothing to reload: it is as a process that never served."""
    if _holds:
        with suppress(ValueError):  # not in the main thread of an interpreter
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
        _callbacks.clear()
        _put_back()


os.register_at_fork(after_in_child=_as_a_child)
