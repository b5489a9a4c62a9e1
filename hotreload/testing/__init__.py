"""For tests of services: run a job or a queue inline, interrupt and resume it, apply a reload; fakes of parts.

    ran = await run_job(service, count, Text(path=path), settings=Settings(), interrupt_after=2)
    assert (ran.outcome, ran.checkpoints) == ("interrupted", [1, 3])
    ran = await run_job(service, count, Text(path=path), settings=Settings(), resume=ran)
    assert ran.result == 7

    async with running(service, {"max_concurrent": 2}) as live:
        report = await live.reload({"max_concurrent": 4})
        assert report.outcome == "applied"

Everything here is real (the store, the handlers' threads and processes, the reload); nothing is left behind.
`unmarked_secrets(Settings) == []` belongs in the tests of every settings model.
"""

from hotreload.config.fields import unmarked_secrets
from hotreload.testing.fakes import FakeChange, FakeDrainable, FakeReloadable
from hotreload.testing.inline import AddedJob, Inline, Ran, inline, run_job
from hotreload.testing.live import Running, running

__all__ = [
    "AddedJob",
    "FakeChange",
    "FakeDrainable",
    "FakeReloadable",
    "Inline",
    "Ran",
    "Running",
    "inline",
    "run_job",
    "running",
    "unmarked_secrets",
]
