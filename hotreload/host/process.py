"""From a declaration to a running host, and from its end to an exit code."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import anyio

from hotreload import logs
from hotreload.errors import ConfigError, StoreUnavailable, reason_of
from hotreload.host.host import Host
from hotreload.host.lifetime import CANNOT_START
from hotreload.host.start import RunOptions, Started, start
from hotreload.host.work import Work
from hotreload.reload.validate import Source
from hotreload.systemd.notifier import Notifier
from hotreload.workers.isolation import ServiceLoop

log = logging.getLogger(__name__)
EX_OK, EX_CONTENT, EX_STATE, EX_CONFIG = 0, 1, 4, 78


async def make_host(
    name: str,
    source: Source[Any],
    options: RunOptions,
    work: Callable[[Started], Work],
    *,
    stored: bool = True,
    guest: bool = False,
    closing: anyio.Event | None = None,
) -> Host:
    """Load the configuration, open the store where one is needed, make the host; with nothing left where it raises.

    A guest says nothing to the service manager: the process is its server's.
    """
    started = await start(name, source, options, stored=stored, notifier=Notifier(environ={}) if guest else None)
    try:
        if not guest:
            logs.set_level(started.snapshots.current.own.log_level)
        for warning in started.warnings:
            log.warning("config.warning %s", warning)
        return Host(started, work(started), guest=guest, closing=closing)
    except Exception as error:
        started.start_up.failed(error)
        await started.close()
        raise


def run(lifetime: AbstractAsyncContextManager[Host], options: RunOptions) -> int:
    """Run a host in an event loop of its own; returns the exit code, as `serve`.

    The loop is not closed: closing it waits for threads and tasks without a bound. The process ends next, by
    `hotreload.host.exit.end_process`.
    """
    logs.configure(options.log_format, options.log_level or "info")
    return asyncio.Runner(loop_factory=ServiceLoop).run(serve(lifetime))


async def serve(lifetime: AbstractAsyncContextManager[Host]) -> int:
    """Serve until a drain has ended; returns the exit code of a process that did only this.

    0: left with everything back in the queue. 1: a job was lost, or with `until_idle` dead jobs remain, or some that
    nothing here runs (no worker, a paused queue, a limit of 0), or the store cannot be used. 4: another process has
    the store, the address or the control socket, or a resource met an OSError. 78: the configuration cannot be used,
    or a resource not be built with it. Why a start failed is said on stderr; what goes wrong once the process is ready
    is raised whole.
    """
    host: Host | None = None
    try:
        async with lifetime as host:
            await host.over.wait()
    except CANNOT_START as error:
        if host is not None:
            raise
        return complain(error)
    assert host.drain.report is not None
    dead = sum(depth.dead for depth in host.work.queues()) if host.started.options.until_idle else 0
    return EX_OK if host.drain.report.whole and not dead and not host.waiting else EX_CONTENT


def complain(error: BaseException) -> int:
    """Say on stderr why a process cannot start, one line first; returns the exit code for it."""
    print(logs.as_error(f"hotreload: cannot start: {reason_of(error)}"), file=sys.stderr)
    if isinstance(error, ConfigError):
        return EX_CONFIG
    return EX_CONTENT if isinstance(error, StoreUnavailable) else EX_STATE
