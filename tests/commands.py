"""The commands there are, for tests that look at each."""

from __future__ import annotations

from collections.abc import Iterator

import click


def walk(group: click.Group, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield every command below a group with the words that call it, groups included."""
    for name, command in group.commands.items():
        yield (*above, name), command
        if isinstance(command, click.Group):
            yield from walk(command, (*above, name))
