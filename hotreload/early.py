"""Keep SIGHUP from ever killing this process: one handler from the first statement to the last.

The handler is Python's own and stays the same for the whole life, only what it does changes: count (start-up),
call back (running), nothing (the end). `loop.add_signal_handler` is not used for SIGHUP, because closing the
loop puts back the default action, and the default action of SIGHUP is death.

Standard library only: this module is imported before any third-party package.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType
from typing import Final

SERVING_VERBS: Final = frozenset({"run", "openviking"})
"""The verbs whose process takes SIGHUP as a request to reload."""

_pending = 0
_callback: Callable[[], None] | None = None


def install() -> None:
    """Remember every SIGHUP from now on; main thread only. A second call changes nothing."""
    signal.signal(signal.SIGHUP, _on_hangup)


def pending_count() -> int:
    """Return how many SIGHUPs came that nobody has taken yet."""
    return _pending


def reset() -> int:
    """Forget the SIGHUPs remembered so far and return how many they were."""
    global _pending
    taken, _pending = _pending, 0
    return taken


def take(callback: Callable[[], None]) -> int:
    """Call `callback` for each SIGHUP from now on; return how many came before (they are the caller's now).

    `callback` runs in the main thread between two bytecodes: hand it `loop.call_soon_threadsafe`, which
    asyncio's own SIGINT handler uses in the same place. Installs the handler where `install` was not called.
    """
    global _callback
    _callback = callback
    install()
    return reset()


def ignore() -> None:
    """Ignore SIGHUP from now on: the last moments, when nobody is left to reload."""
    global _callback
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    _callback = None


def _on_hangup(_number: int, _frame: FrameType | None) -> None:
    global _pending
    if _callback is None:
        _pending += 1
    else:
        _callback()
