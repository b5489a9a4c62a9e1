"""How a drain is asked for: SIGTERM, SIGINT, HTTP, the command line, or an idle service told to leave."""

from __future__ import annotations

import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType

TERMINATION = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def on_termination(callback: Callable[[str], None]) -> Generator[None]:
    """Call `callback("SIGTERM" | "SIGINT")` for each signal, between two bytecodes of the main thread.

    A Python-level handler and not the loop's: it runs while the loop is blocked in Python code. The
    callback must take no lock. Handlers of before are back afterwards.
    """

    def heard(number: int, _frame: FrameType | None) -> None:
        callback(signal.Signals(number).name)

    before = {number: signal.signal(number, heard) for number in TERMINATION}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
