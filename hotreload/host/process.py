"""The whole life of a serving process, and its exit code."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any, cast

import anyio

from hotreload.errors import ConfigError, ControlSocketUnsafe, StoreOwned, StoreUnavailable
from hotreload.host import logs
from hotreload.host.host import Host
from hotreload.host.parts import Parts
from hotreload.host.start import RunOptions, Started, start
from hotreload.reload.validate import Source

log = logging.getLogger(__name__)
EX_OK, EX_CONTENT, EX_STATE, EX_CONFIG = 0, 1, 4, 78


async def serve(name: str, source: Source[Any], options: RunOptions, parts: Callable[[Started], Parts]) -> int:
    """Start, serve until a drain has ended, close; returns the exit code.

    0: left with everything back in the queue. 1: a job was lost, or with `until_idle` dead jobs remain, or the
    store cannot be used. 4: another process has the store, the address or the control socket. 78: the configuration
    cannot be used.
    """
    logs.configure()
    try:
        started = await start(name, source, options)
    except (ConfigError, StoreOwned, StoreUnavailable) as error:
        return complain(error)
    for warning in started.warnings:
        log.warning("config.warning %s", warning)
    try:
        host = Host(started, parts(started))
        report = await host.run()
    except (ControlSocketUnsafe, OSError) as error:
        return complain(error)
    except BaseExceptionGroup as group:
        expected, _ = group.split((ControlSocketUnsafe, OSError))
        if expected is None:
            raise
        return complain(first_of(expected))
    finally:
        await anyio.to_thread.run_sync(started.store.close)
    host.leave()
    dead = sum(depth.dead for depth in started.store.depths()) if options.until_idle else 0
    return EX_CONTENT if report.lost or dead else EX_OK


def complain(error: BaseException) -> int:
    """Say on stderr why a process cannot start, one line first; returns the exit code for it."""
    print(logs.as_error(f"hotreload: cannot start: {error}"), file=sys.stderr)
    if isinstance(error, ConfigError):
        return EX_CONFIG
    return EX_CONTENT if isinstance(error, StoreUnavailable) else EX_STATE


def first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first single exception of a group."""
    inner = group.exceptions[0]
    if isinstance(inner, BaseExceptionGroup):
        return first_of(cast("BaseExceptionGroup[BaseException]", inner))
    return inner
