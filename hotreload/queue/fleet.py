"""What processes that share a store say of themselves to each other, and what they are asked to do together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Node:
    """A process that shares the store: `alive` while it keeps its lease, `seen_at_ms` on the database's clock (Unix).

    `about` is what it said of itself last, a JSON object; empty before its first word.
    """

    name: str
    alive: bool
    seen_at_ms: int
    about: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Round:
    """Something that `members` are asked to do together: `kind` is `reload` or `drain`, `phase` where it stands.

    It stays in the phase `check` for `left_s` more seconds at most. `deadline_s` is that of a drain, None for what each
    member is configured with.
    """

    id: str
    kind: str
    phase: str
    asked_by: str
    members: Sequence[str]
    left_s: float
    deadline_s: float | None = None


@dataclass(frozen=True, slots=True)
class Ask:
    """What a node asks for of one limit: `has` is in use or may be used meanwhile, `wants` includes it.

    `value` is the limit as the node's configuration says. `keep_s` is how long its permits count after it has ended:
    0 for a limit, the window of a rate.
    """

    name: str
    value: int
    has: int
    wants: int
    keep_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Grant:
    """What a node has of one limit: its `permits`, and how many of them it may use (fewer after the limit shrank).

    `short` is True where others still hold what is its fair part.
    """

    permits: int
    usable: int
    short: bool


class Fleet(Protocol):
    """The processes that share a store, as one of them sees them. StoreUnavailable where the database is out."""

    @property
    def name(self) -> str:
        """The name of this node."""
        ...

    @property
    def nodes(self) -> Sequence[Node]:
        """All nodes by name, as of the last look, at most a second or two ago; from any thread."""
        ...

    @property
    def key(self) -> bytes | None:
        """What all nodes make fingerprints with that may be compared; None before the first look."""
        ...

    @property
    def lease_s(self) -> float:
        """For how many seconds after its last write no other node takes over what this one has."""
        ...

    async def share(self, asks: Sequence[Ask]) -> Sequence[Grant | None]:
        """Ask for permits of limits that hold over all nodes; None where another node is asking at this moment.

        Durable on return: it may be used from then on, for `lease_s` from the call on. Cancelled or refused
        (StoreUnavailable), what was granted is unknown: ask again, with what is in use.
        """
        ...

    @property
    def schema(self) -> int:
        """The version of the store's schema that this node works on."""
        ...

    def publish(self, about: Mapping[str, Any]) -> None:
        """Say this of this node from the next look on; from any thread."""
        ...

    def on_round(self, listener: Callable[[Round], None]) -> None:
        """Call `listener` at each look with each round that waits for this node; from the writer's thread."""
        ...

    def release(self, connection: Any) -> None:
        """Give all permits back in the open transaction; nothing is granted after it. In the writer's thread."""
        ...

    async def ask(self, asked: Round) -> str | None:
        """Begin a round; returns who asked for another reload that is still being checked, and begins none then."""
        ...

    async def phase(self, round_id: str) -> tuple[str, float]:
        """Return where a round stands, and for how many more seconds it may be checked (on the database's clock)."""
        ...

    async def advance(self, round_id: str, phase: str, to: str) -> bool:
        """Move a round from one phase to the next; False where it stands in another one already."""
        ...

    async def answer(self, round_id: str, phase: str, body: Mapping[str, Any]) -> None:
        """Answer a round for this node; a second answer is passed over."""
        ...

    async def answers(self, round_id: str, phase: str) -> Mapping[str, Mapping[str, Any]]:
        """Return what was answered so far, by node."""
        ...
