"""How a drain is asked for: SIGTERM, SIGINT, HTTP, the command line, or an idle service told to leave."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType

from hotreload.drain import forked

TERMINATION = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def on_termination(callback: Callable[[str], None], *, last: bool = False) -> Generator[None]:
    """Call `callback("SIGTERM" | "SIGINT")` for each signal, between two bytecodes of the main thread.

    A Python-level handler and not the loop's: it runs while the loop is blocked in Python code. The callback must take
    no lock. Handlers of before are back afterwards, or with `last` the signals are ignored: the process is about to
    leave. A forked child has the handlers of before at once.
    """
    owner = os.getpid()

    def heard(number: int, _frame: FrameType | None) -> None:
        if os.getpid() != owner:  # forked past Python's own fork: as if nobody listened
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        callback(signal.Signals(number).name)

    before = {number: signal.signal(number, heard) for number in TERMINATION}

    def restore() -> None:
        for number, handler in before.items():
            if signal.getsignal(number) is heard:
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    end = forked.in_child(restore)
    try:
        yield
    finally:
        end()
        restore()
        for number in TERMINATION if last else ():
            signal.signal(number, signal.SIG_IGN)
