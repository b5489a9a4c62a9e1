"""One job, from its row to its verdict."""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

from hotreload.config.secrets import mask_text
from hotreload.errors import REASON_MOST, describe
from hotreload.queue.job import Done, Failed, Interrupted, Verdict
from hotreload.workers import isolation
from hotreload.workers.active import ActiveJob
from hotreload.workers.failures import TRACE_MOST, verdict_on
from hotreload.workers.job import Job, Surroundings
from hotreload.workers.kind import Unfit, result_of
from hotreload.workers.policy import Policy
from hotreload.workers.resources import Instance, Resource
from hotreload.workers.runners import Runner

log = logging.getLogger(__name__)
LARGE: Final = 65_536


class Execution:
    """How the jobs of one queue are done.

    Nothing that a job does is obeyed outside its own run: every error of its code, of its payload's type, of its
    result and of the errors themselves ends in a verdict. What a failure says is kept and shown, so it goes through
    `scrub` first. `policy` is replaced by a reload; a job reads its time limit when it starts, the rest when it fails.
    None leaves attempts and backoff to the store and sets no time limit.
    """

    def __init__(
        self,
        runs: Runner,
        around: Surroundings,
        resources: Sequence[Resource] = (),
        scrub: Callable[[str], str] = mask_text,
        policy: Policy | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._runs = runs
        self._around = around
        self._resources = resources
        self._scrub = scrub
        self._jitter = jitter
        self.policy = policy

    async def run(self, entry: ActiveJob) -> Verdict:
        """Do one job and say how it ended; raises nothing but GeneratorExit where its event loop is gone."""
        taken: list[tuple[str, Instance]] = []
        owner = os.getpid()
        try:
            isolation.enter(entry.row.id)
            entry.job = job = self._open(entry)
            settings = self._around.newest().settings
            if not self._resources:
                return self._done(await self._runs(job, settings))
            taken = [(resource.parameter, resource.current()) for resource in self._resources]
            handed = {name: instance.take() for name, instance in taken}
            return self._done(await self._runs(job, settings, **handed))
        except BaseException as error:
            if type(error) is GeneratorExit and _loop_is_gone():
                raise
            return self._verdict(entry, error)
        finally:
            isolation.end_forked(owner)
            for _, instance in taken:
                instance.give_back()

    def _open(self, entry: ActiveJob) -> Job[Any, Any]:
        """Make the job its handler sees; Unfit where its payload does not fit."""
        row = entry.row
        job: Job[Any, Any] = Job(row, self._around.kind.open_payload(row), self._around)
        row.cursor_json, row.steps = None, {}  # the texts are kept by the store, what was read from them by the job
        if len(row.payload_json) > LARGE:
            row.payload_json = ""
        job.stopping = entry.stopping
        return job

    def _done(self, result: Any) -> Done:
        return Done() if result is None else Done(result_of(result, self._around.most_bytes()))

    def _verdict(self, entry: ActiveJob, error: BaseException) -> Verdict:
        """Say what an error is: of a job that was stopped an interruption, whatever cleaning up turned it into."""
        cancelled = issubclass(type(error), asyncio.CancelledError)
        if entry.timed_out_s is not None:
            more = "" if cancelled else f"; stopping it raised {describe(error)}"
            return self.failed(entry, Failed(f"timed out after {entry.timed_out_s:g} s{more}"))
        if entry.stopping:
            if not cancelled:
                log.info("job.interrupted job=%s error=%s", entry.row.id, self._shown(describe(error)))
            return Interrupted()
        if issubclass(type(error), Unfit):
            return self.failed(entry, Failed(str(error), for_good=True))
        verdict = verdict_on(error)
        return self.failed(entry, verdict) if isinstance(verdict, Failed) else verdict

    def limit_time(self, entry: ActiveJob, stop: Callable[[ActiveJob], None]) -> asyncio.TimerHandle | None:
        """Have `stop` called once a job's time is over, if it has a limit and is not interrupted already."""
        timeout_s = None if self.policy is None else self.policy.timeout_s
        if timeout_s is None:
            return None

        def over() -> None:
            if not entry.stopping:
                entry.timed_out_s = timeout_s
                stop(entry)

        return asyncio.get_running_loop().call_later(timeout_s, over)

    def failed(self, entry: ActiveJob, failed: Failed) -> Failed:
        """Return a failure as it is kept: scrubbed, with what the policy says of the next attempt."""
        failures = entry.row.attempts + 1
        trace = None if failed.traceback is None else self._shown(failed.traceback)[-TRACE_MOST:]
        kept = replace(failed, error=self._shown(failed.error)[:REASON_MOST], traceback=trace)
        log.warning(
            "job.failed job=%s queue=%s attempt=%d error=%s", entry.row.id, entry.row.queue, failures, kept.error
        )
        return kept if self.policy is None else self.policy.after(kept, failures, self._jitter())

    def _shown(self, text: str) -> str:
        with suppress(Exception):
            return self._scrub(text)
        return "not shown: it could not be scrubbed of secrets"

    async def trim(self, most: int) -> None:
        """End what is kept between jobs for more than `most` of them."""
        await self._runs.trim(most)

    async def close(self) -> None:
        """End what is kept between jobs."""
        await self._runs.close()


def _loop_is_gone() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return True
    return False
