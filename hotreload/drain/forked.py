"""A forked child is not the process that drains: it lets go of what would speak, or be spoken to, for its parent.

It inherits the signal handlers, the wake-up descriptor, the pipes and the shared page. `multiprocessing` ends its
workers with SIGTERM: with all that still in place, it was the parent that drained, or was killed.
"""

from __future__ import annotations

import os
from collections.abc import Callable

_lets_go: dict[object, Callable[[], None]] = {}


def in_child(let_go: Callable[[], None]) -> Callable[[], None]:
    """Call `let_go` in each child forked from now on; returns what ends that."""
    key = object()
    _lets_go[key] = let_go

    def end() -> None:
        _lets_go.pop(key, None)

    return end


def _let_all_go() -> None:
    for let_go in list(_lets_go.values()):
        let_go()
    _lets_go.clear()


os.register_at_fork(after_in_child=_let_all_go)
