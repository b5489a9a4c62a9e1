"""The whole life of a serving process, and its exit code."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any, Final, cast

import anyio

from hotreload.errors import ConfigError, ControlSocketUnsafe, StoreOwned, StoreUnavailable, reason_of
from hotreload.host import logs
from hotreload.host.host import Host
from hotreload.host.parts import Parts
from hotreload.host.start import RunOptions, Started, start
from hotreload.lifecycle import Phase
from hotreload.reload.validate import Source

log = logging.getLogger(__name__)
EX_OK, EX_CONTENT, EX_STATE, EX_CONFIG = 0, 1, 4, 78
CANNOT_START: Final = (ConfigError, ControlSocketUnsafe, StoreOwned, StoreUnavailable, OSError)
"""What keeps a process from starting and is no defect; the same later on is one."""


async def serve(
    name: str,
    source: Source[Any],
    options: RunOptions,
    parts: Callable[[Started], Parts],
    *,
    end: Callable[[int], object] | None = None,
) -> int:
    """Start, serve until a drain has ended, close; then `end` the process with the exit code, or return that.

    Without `end` the drain's deadline is enforced up to the return and no longer: what the caller's event loop joins
    afterwards (threads of `asyncio.to_thread`, tasks that swallow their cancellation) is the caller's.

    0: left with everything back in the queue. 1: a job was lost, or with `until_idle` dead jobs remain, or the
    store cannot be used. 4: another process has the store, the address or the control socket, or a resource met an
    OSError. 78: the configuration cannot be used, or a resource not be built with it. What goes wrong once the
    process is ready is raised whole.
    """
    logs.configure()
    try:
        started = await start(name, source, options)
    except CANNOT_START as error:
        return complain(error)
    for warning in started.warnings:
        log.warning("config.warning %s", warning)
    host: Host | None = None
    try:
        host = Host(started, parts(started))
        report = await host.run(last=end is not None)
    except (*CANNOT_START, BaseExceptionGroup) as error:
        code = refused_start(error, started)
        if code is None:
            raise
        return code
    finally:
        await anyio.to_thread.run_sync(started.store.close)
        if end is None and host is not None:
            host.leave()
    dead = sum(depth.dead for depth in started.store.depths()) if options.until_idle else 0
    code = EX_OK if report.whole and not dead else EX_CONTENT
    if end is not None:
        end(code)
    return code


def refused_start(error: BaseException, started: Started) -> int | None:
    """Say on stderr why a process did not become ready; returns its exit code.

    None, and nothing is said, where it had been ready or where a defect is among the reasons.
    """
    reasons = each_of(error)
    if started.lifecycle.phase is not Phase.STARTING or not all(isinstance(each, CANNOT_START) for each in reasons):
        return None
    started.start_up.failed(cast("Exception", reasons[0]))
    return complain(*reasons)


def complain(*errors: BaseException) -> int:
    """Say on stderr why a process cannot start, one line first; returns the exit code for the first reason."""
    text = "\n".join(reason_of(error) for error in errors)
    print(logs.as_error(f"hotreload: cannot start: {text}"), file=sys.stderr)
    if isinstance(errors[0], ConfigError):
        return EX_CONFIG
    return EX_CONTENT if isinstance(errors[0], StoreUnavailable) else EX_STATE


def each_of(error: BaseException) -> list[BaseException]:
    """Return the single exceptions of a group, or the one that is none."""
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    group = cast("BaseExceptionGroup[BaseException]", error)
    return [each for inner in group.exceptions for each in each_of(inner)]
