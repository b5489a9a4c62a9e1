"""How limits, rates and policies follow the settings: the parts of a reload that move them."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol, TypeVar, cast

from pydantic import BaseModel

from hotreload.config.secrets import mask_text
from hotreload.errors import Problem, describe, text_of

T = TypeVar("T")
Asked = Callable[[Any], Any]
REMEMBERED: Final = 8
"""More settings than one reload validates."""
ASKED: Final = "its function, which is called with the settings (`lambda conf: …`), raised {}"


class Value(Protocol[T]):
    """What a reload moves: read it with `get`, set it with `set`, which does not fail for what `asked` returned."""

    def get(self) -> T:
        """Return the value in force."""
        ...

    def set(self, value: T, /) -> None:
        """Put a value in force."""
        ...


class Remembered:
    """What a function of the user's says of settings, asked once for each.

    It is asked where the settings are validated, in a thread; the reload that follows takes the answer on the loop.
    """

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._answers: deque[tuple[weakref.ref[Any], Any]] = deque(maxlen=REMEMBERED)

    def __call__(self, settings: Any) -> Any:
        for known, answer in self._answers.copy():
            if known() is settings:
                return answer
        answer = self._asked(settings)
        with suppress(TypeError):  # not settings, but what stands for them while it is noted what a function reads
            self._answers.append((weakref.ref(settings), answer))
        return answer


def value_problems(values: Mapping[str, Asked], settings: Any) -> list[Problem]:
    """Ask each value of these settings; returns a problem, named after it, for each without a usable answer."""
    problems: list[Problem] = []
    for name, asked in values.items():
        try:
            asked(settings)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a user's function raises
            told = text_of(error) if type(error) is ValueError else ASKED.format(describe(error))
            problems.append(Problem("", f"{name}: {mask_text(told or describe(error))}"))
    return problems


def read_paths(functions: Sequence[Asked], settings: Any) -> tuple[str, ...]:
    """Return the dotted paths of the settings that these functions read now, as far as they can be watched."""
    found: dict[str, None] = {}
    for function in functions:
        try:
            function(_Watched(settings, "", found))
        except Exception:  # noqa: BLE001 - a function that looks closer at the settings than it is let
            continue
    return tuple(path for path in found if not any(other.startswith(f"{path}.") for other in found))


class _Watched:
    """Settings that note what is read of them."""

    def __init__(self, settings: Any, path: str, found: dict[str, None]) -> None:
        self._hotreload = (settings, path, found)

    def __getattr__(self, name: str) -> Any:
        settings, path, found = cast("tuple[Any, str, dict[str, None]]", self.__dict__["_hotreload"])
        value = getattr(settings, name)
        if name not in cast("type[BaseModel]", type(settings)).model_fields:
            return value
        inner = f"{path}.{name}" if path else name
        found[inner] = None
        return _Watched(value, inner, found) if isinstance(value, BaseModel) else value


class Follow:
    """Moves one value to what `asked(settings)` says. Takes part in reloads as `name`, the owner of what it reads."""

    def __init__(self, name: str, value: Value[Any], asked: Asked, paths: Sequence[str] = ()) -> None:
        self.name = name
        self.paths: Sequence[str] = ("", *paths)
        self._value = value
        self._asked = asked

    async def prepare(self, transition: Any) -> Moved | None:
        """Ask for the new value, ValueError outside its range; None when it stays."""
        new = self._asked(transition.new)
        return None if new == self._value.get() else Moved(self._value, new)


class Moved:
    """A new value that waits for its commit."""

    def __init__(self, value: Value[Any], new: Any) -> None:
        self._value = value
        self._old = value.get()
        self._new = new

    def commit(self) -> None:
        """Move it: a grown limit wakes the pool at once, a shrunk one lets what runs finish."""
        self._value.set(self._new)

    def revert(self) -> None:
        """Move it back."""
        self._value.set(self._old)

    async def undo(self) -> None:
        """Nothing was built."""

    async def retire(self) -> None:
        """Nothing stays behind a value."""
