"""Keep SIGHUP from ever killing this process, and know who sent it: from the first statement to the last.

A serving process blocks SIGHUP, so that it kills nobody and waits for a thread that takes it with its sender
(sigwaitinfo(2)). Children must not inherit that: whoever starts one unblocks it for that moment. Beneath it lies a
handler of Python's own, for what comes in such a moment, and for a host that was not started by the command; only
what is done with a signal changes over a life: remembered (start-up), called back (running), nothing (the end).
`loop.add_signal_handler` is not used for SIGHUP, because closing the loop puts back the default action, and the
default action of SIGHUP is death.

Standard library only: this module is imported before any third-party package.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from importlib import import_module
from types import FrameType
from typing import Any, Final

SERVING_VERBS: Final = frozenset({"run", "openviking"})
"""The verbs whose process takes SIGHUP as a request to reload."""
UNKNOWN: Final = "SIGHUP"
"""The sender, where the system did not tell."""
_HANGUP: Final = frozenset({signal.SIGHUP})
_STARTS_CHILDREN: Final = (
    ("_posixsubprocess", "fork_exec"),
    ("subprocess", "_fork_exec"),
    ("os", "posix_spawn"),
    ("os", "posix_spawnp"),
    ("os", "system"),
)

_pending: deque[str] = deque()
_callback: Callable[[], None] | None = None
_ignoring = False
_taker: threading.Thread | None = None


def install() -> None:
    """Remember every SIGHUP and its sender from now on; main thread only, before any other. A second call does nothing.

    Where no thread can be had, or what starts children is not where it is looked for, the handler alone remembers.
    """
    global _taker
    if _taker is not None:
        return
    signal.signal(signal.SIGHUP, _on_hangup)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HANGUP)
    try:
        import_module("_posixsubprocess")  # before `subprocess` takes its function
        _keep_children_clean()
        _taker = threading.Thread(target=_take_hangups, name="hotreload-hangups", daemon=True)
        _taker.start()
    except (ImportError, AttributeError, RuntimeError):
        _taker = None
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def pending_count() -> int:
    """Return how many SIGHUPs came that nobody has taken yet; what came in a burst is one, as signal(7) has it."""
    return len(_pending)


def reset() -> list[str]:
    """Forget the SIGHUPs remembered so far and return who sent them, `pid 812 uid 0`."""
    taken: list[str] = []
    with suppress(IndexError):  # popped one by one: another may be added meanwhile
        while True:
            taken.append(_pending.popleft())
    return taken


def take(callback: Callable[[], None]) -> int:
    """Call `callback` for each SIGHUP from now on; return how many came before. `reset` tells who sent them.

    `callback` runs in a thread, or in the main one between two bytecodes: hand it `loop.call_soon_threadsafe`.
    Installs the handler where `install` was not called.
    """
    global _callback, _ignoring
    _callback, _ignoring = callback, False
    signal.signal(signal.SIGHUP, _on_hangup)
    return pending_count()


def ignore() -> None:
    """Ignore SIGHUP from now on: the last moments, when nobody is left to reload."""
    global _callback, _ignoring
    _ignoring = True
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    _callback = None
    _pending.clear()


def _take_hangups() -> None:
    while True:
        _remember(_sender(signal.sigwaitinfo(_HANGUP)))


def _on_hangup(_number: int, _frame: FrameType | None) -> None:
    _remember(UNKNOWN)


def _remember(sender: str) -> None:
    """Add before asking for the callback, as `take` sets it before it counts: no SIGHUP falls between the two."""
    if _ignoring:
        return
    _pending.append(sender)
    callback = _callback
    if callback is not None:
        with suppress(RuntimeError):  # the loop is closed: nobody is left to reload
            callback()


def _sender(info: signal.struct_siginfo) -> str:
    if info.si_code > 0:
        return "the kernel"  # the terminal is gone
    if info.si_pid == 0:
        return f"uid {info.si_uid} outside of this PID namespace"
    return f"pid {info.si_pid} uid {info.si_uid}"


def _keep_children_clean() -> None:
    """Let what starts a process do so with SIGHUP unblocked: a child inherits the mask of the thread that forks."""
    for module, name in _STARTS_CHILDREN:
        if module in sys.modules:
            setattr(sys.modules[module], name, _unblocked(getattr(sys.modules[module], name)))
    os.register_at_fork(after_in_child=_as_a_child)


def _unblocked(call: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(call)
    def start(*arguments: Any, **options: Any) -> Any:
        before = signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANGUP)
        try:
            return call(*arguments, **options)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    return start


def _as_a_child() -> None:
    """A forked child has no thread that takes SIGHUP, and nothing to reload: it is as a process that never served."""
    global _callback, _taker
    _callback, _taker = None, None
    _pending.clear()
    with suppress(ValueError):  # not in the main thread of an interpreter
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANGUP)
