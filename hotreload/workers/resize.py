"""How a pool's limit follows the settings: the part of a reload that resizes workers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hotreload.config.masking import mask_text
from hotreload.errors import Problem
from hotreload.workers.limits import Limit, checked_limit


def limit_problems(limits: Mapping[str, Callable[[Any], int]], settings: Any) -> list[Problem]:
    """Ask each limit of these settings; returns a problem, named after the limit, for each without a usable answer."""
    problems: list[Problem] = []
    for name, wanted in limits.items():
        try:
            checked_limit(wanted(settings))
        except Exception as error:  # noqa: BLE001 - whatever a user's function raises
            reason = str(error) if isinstance(error, ValueError) else f"no limit: {type(error).__name__}: {error}"
            problems.append(Problem("", f"{name}: {mask_text(reason)}"))
    return problems


class Resize:
    """Moves one limit to what `wanted(settings)` says. Takes part in reloads under its pool's name."""

    def __init__(self, name: str, limit: Limit, wanted: Callable[[Any], int]) -> None:
        self.name = name
        self.paths: Sequence[str] = ("",)
        self._limit = limit
        self._wanted = wanted

    async def prepare(self, transition: Any) -> Resized | None:
        """Ask for the new limit, ValueError outside its range; None when it stays."""
        value = checked_limit(self._wanted(transition.new))
        return None if value == self._limit.value else Resized(self._limit, value)


class Resized:
    """A new limit that waits for its commit."""

    def __init__(self, limit: Limit, value: int) -> None:
        self._limit = limit
        self._old = limit.value
        self._new = value

    def commit(self) -> None:
        """Move the limit: growing wakes the pool at once, shrinking lets what runs finish."""
        self._limit.set(self._new)

    def revert(self) -> None:
        """Move it back."""
        self._limit.set(self._old)

    async def undo(self) -> None:
        """Nothing was built."""

    async def retire(self) -> None:
        """Nothing stays behind a limit."""
