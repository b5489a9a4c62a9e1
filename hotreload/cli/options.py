"""The options that verbs share."""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, TypeVar

import click

from hotreload.admin.place import Places
from hotreload.client.find import Wanted
from hotreload.queue.job import DELAY_MOST_S

S = TypeVar("S")
F = TypeVar("F", bound=Callable[..., Any])

PATH = Path
"""A path as it is written: `click.Path` looks at the file, and waits where its file system does not answer."""


class _Seconds(click.FloatRange):
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number; what is not one (`nan`) compares as neither too small nor too large."""
        seconds = super().convert(value, param, ctx)
        if math.isnan(seconds):
            self.fail(f"{value!r} is not a number of seconds, for example 30.", param, ctx)
        return seconds


SECONDS = _Seconds(0.1, 86_400)
DELAY = _Seconds(0, DELAY_MOST_S)


def finds_service(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say which service is meant; the verb gets them as `wanted`."""

    @click.option("--url", help="Its address, http://HOST:PORT (or HOTRELOAD_URL).")
    @click.option("--key-file", type=PATH, help="File with its root key (or HOTRELOAD_KEY_FILE).")
    @click.option("--socket", "socket_path", type=PATH, help="Its control socket (or HOTRELOAD_SOCKET).")
    @click.option("--name", help="Its name; not needed where one service is running.")
    @functools.wraps(verb)
    def found(
        *, url: str | None, key_file: Path | None, socket_path: Path | None, name: str | None, **options: Any
    ) -> Any:
        places = click.get_current_context().find_object(Places)
        return verb(wanted=Wanted(url, key_file, socket_path, name, places), **options)

    return found


def aside(call: Callable[[], S]) -> S:
    """Return what `call` returns; what it prints, as modules do when imported, goes to standard error."""
    with redirect_stdout(sys.stderr):
        return call()


def prints_json(verb: F) -> F:
    """Add `--json`; the verb gets it as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")(verb)
