"""What people of other queues look for, through the public names: policy, verdicts, enqueueing, results, cancelling."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Annotated, Any

import anyio
import anyio.to_thread
import pytest
from pydantic import BaseModel

from hotreload import (
    AsyncClient,
    Client,
    DeadJob,
    Discard,
    Enqueued,
    Job,
    JobCancelled,
    JobFailed,
    JobState,
    LeaseLost,
    Live,
    LiveSettings,
    PayloadTooLarge,
    Retry,
    Service,
    ServiceUnreachable,
    SyncJob,
)
from tests.live import live
from tests.process.running import ROOT_KEY, free_port, wait_until
from tests.process.serving import put, serving

pytestmark = pytest.mark.anyio


class Settings(LiveSettings):
    """Each value of a policy follows one of these."""

    limit: Annotated[int, Live] = 4
    attempts: Annotated[int, Live] = 25
    wait_s: Annotated[float, Live] = 0.0
    timeout_s: Annotated[float | None, Live] = None
    keep_s: Annotated[float, Live] = 3600.0
    per_minute: Annotated[int, Live] = 1000


class Text(BaseModel):
    """A payload."""

    text: str


def fresh() -> Service[Settings]:
    return Service("workers", settings=Settings)


# --- policy -----------------------------------------------------------------------------------------------------------


async def test_a_coroutine_that_takes_too_long_has_failed() -> None:
    service, ended = fresh(), list[str]()

    @service.worker("work", limit=1, timeout_s=0.1, max_attempts=1)
    async def work(job: Job[str], conf: Settings) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(job.payload)

    async with live(service) as one:
        found = await one.until(await work.enqueue("slow"), "dead")
        assert (found["reason"], found["attempts"], ended) == ("timed out after 0.1 s", 1, ["slow"])


async def test_a_coroutine_that_does_not_stop_is_fenced_and_gives_its_place_away() -> None:
    service, late, go = fresh(), list[str](), anyio.Event()

    @service.worker("work", limit=1, timeout_s=0.1, max_attempts=1)
    async def work(job: Job[str], conf: Settings) -> str:
        while job.payload == "deaf" and not go.is_set():
            with anyio.CancelScope(shield=True):
                await go.wait()
        if job.payload == "deaf":
            try:
                await job.checkpoint("late")
            except LeaseLost:
                late.append("fenced")
        return job.payload

    async with live(service) as one:
        deaf, next_one = await work.enqueue("deaf"), await work.enqueue("next")
        found = await one.until(deaf, "dead")
        assert found["reason"] == "timed out after 0.1 s and did not stop; it is fenced"
        assert await work.result(next_one) == "next"
        go.set()
        await anyio.wait_all_tasks_blocked()
        assert late == ["fenced"]
        assert (await one.job(deaf))["progress"] is None


async def test_a_thread_that_takes_too_long_is_fenced() -> None:
    service, go, late = fresh(), threading.Event(), list[str]()

    @service.worker("work", limit=1, timeout_s=0.1, max_attempts=1)
    def work(job: SyncJob[str], conf: Settings) -> str:
        if job.payload == "deaf":
            go.wait(20)
            try:
                job.checkpoint("late")
            except LeaseLost:
                late.append("fenced")
        return job.payload

    async with live(service) as one:
        deaf, next_one = await work.enqueue("deaf"), await work.enqueue("next")
        assert (await one.until(deaf, "dead"))["reason"].startswith("timed out after 0.1 s")
        assert await work.result(next_one) == "next"
        go.set()
        with anyio.fail_after(10):
            while not late:  # noqa: ASYNC110 - the thread tells nothing
                await anyio.sleep(0.01)


async def test_a_process_that_takes_too_long_is_killed() -> None:
    from tests.process import workers_service

    async with live(workers_service.service) as one:
        slow = await workers_service.spins.enqueue("slow")
        assert (await one.until(slow, "dead", within_s=40))["reason"] == "timed out after 8 s"
        assert await workers_service.spins.result(await workers_service.spins.enqueue("quick")) == "quick"


async def test_every_policy_follows_a_reload_while_jobs_run() -> None:
    service, tried, go = fresh(), list[int](), anyio.Event()

    @service.worker(
        "work",
        limit=lambda conf: conf.limit,
        max_attempts=lambda conf: conf.attempts,
        backoff=lambda conf: conf.wait_s,
        timeout_s=lambda conf: conf.timeout_s,
        keep_done_s=lambda conf: conf.keep_s,
        shares=["starts"],
    )
    async def work(job: Job[str], conf: Settings) -> None:
        tried.append(job.attempt)
        await go.wait()
        raise ValueError("not today")

    service.rate("starts", lambda conf: conf.per_minute)
    async with live(service, attempts=25, wait_s=3600) as one:
        job = await work.enqueue("one")
        await one.until(job, "running")
        report = await one.reload(attempts=2, wait_s=0.01, limit=5, keep_s=1.5, per_minute=900, timeout_s=30)
        assert report["outcome"] == "applied"
        assert {change["path"]: change["owner"] for change in report["changes"]} == {
            "attempts": "workers.work.policy",
            "keep_s": "workers.work.policy",
            "limit": "workers.work",
            "per_minute": "rates.starts",
            "timeout_s": "workers.work.policy",
            "wait_s": "workers.work.policy",
        }
        go.set()
        found = await one.until(job, "dead")
        assert (found["attempts"], found["max_attempts"], tried) == (2, 2, [1, 2])


@pytest.mark.parametrize("kind", ["thread", "process"])
async def test_the_policy_of_a_thread_or_process_follows_a_reload_while_it_runs(kind: str, short_path: Path) -> None:
    from tests.process import workers_service

    for attempt in (1, 2):
        os.mkfifo(short_path / str(attempt))

    handle = {"thread": workers_service.in_thread, "process": workers_service.in_process}[kind]
    async with live(workers_service.service, attempts=25, wait_s=3600) as one:
        job = await handle.enqueue(short_path)
        await one.until(job, "running")
        assert (await one.reload(attempts=2, wait_s=0.01))["outcome"] == "applied"
        for attempt in (1, 2):
            pipe = short_path / str(attempt)
            with anyio.fail_after(40):
                await anyio.to_thread.run_sync(pipe.write_text, "not today", abandon_on_cancel=True)
        found = await one.until(job, "dead", within_s=40)
        assert (found["attempts"], found["max_attempts"], found["reason"]) == (2, 2, "ValueError: not today")


@pytest.mark.parametrize(
    ("conf", "named"),
    [
        ({"attempts": 0}, "workers.work.policy: max_attempts"),
        ({"wait_s": -1}, "workers.work.policy: backoff"),
        ({"timeout_s": 0}, "workers.work.policy: timeout_s"),
        ({"keep_s": -1}, "workers.work.policy: keep_done_s"),
        ({"limit": -1}, "workers.work: a limit is a whole number from 0 to 10,000, not -1"),
        ({"per_minute": 2_000_000}, "rates.starts: a limit is a whole number from 0 to 1,000,000"),
    ],
)
async def test_a_policy_out_of_range_is_refused_by_name(conf: dict[str, Any], named: str) -> None:
    service = fresh()

    @service.worker(
        "work",
        limit=lambda conf: conf.limit,
        max_attempts=lambda conf: conf.attempts,
        backoff=lambda conf: conf.wait_s,
        timeout_s=lambda conf: conf.timeout_s,
        keep_done_s=lambda conf: conf.keep_s,
    )
    async def work(job: Job[str], conf: Settings) -> None: ...

    service.rate("starts", lambda conf: conf.per_minute)
    async with live(service) as one:
        report = await one.reload(**conf)
        assert report["outcome"] == "rejected"
        assert report["errors"][0]["message"].startswith(named)
        assert await work.result(await work.enqueue("still")) is None


async def test_retry_snoozes_and_discard_ends() -> None:
    service, runs = fresh(), list[int]()

    @service.worker("snoozes", limit=1, max_attempts=1)
    async def snoozes(job: Job[str], conf: Settings) -> str:
        runs.append(job.attempt)
        if len(runs) < 3:
            raise Retry(after_s=0.01)
        return "done"

    @service.worker("discards", limit=1)
    def discards(job: SyncJob[str], conf: Settings) -> None:
        raise Discard("there is no such document")

    async with live(service) as one:
        job = await snoozes.enqueue("one")
        assert await snoozes.result(job) == "done"
        found = await one.job(job)
        assert (found["attempts"], found["interruptions"], runs) == (0, 0, [1, 1, 1])
        found = await one.until(await discards.enqueue("one"), "dead")
        assert (found["reason"], found["attempts"]) == ("there is no such document", 1)


# --- enqueueing, results, cancelling ----------------------------------------------------------------------------------


async def test_an_enqueue_says_which_job_has_the_key_and_a_dead_one_frees_it() -> None:
    service, go = fresh(), anyio.Event()

    @service.worker("work", limit=1, max_attempts=1)
    async def work(job: Job[str], conf: Settings) -> None:
        await go.wait()
        raise ValueError("no")

    async with live(service) as one:
        first = await work.enqueue("a", key="k")
        assert first == Enqueued(first.id, None)
        await one.until(first, "running")
        assert await work.enqueue("b", key="k") == Enqueued(first.id, JobState.RUNNING)
        go.set()
        await one.until(first, "dead")
        second = await work.enqueue("c", key="k")
        assert (second.existing, second.id == first.id) == (None, False)


async def test_many_are_added_in_one_transaction_or_none() -> None:
    service = fresh()

    @service.worker("work", limit=2)
    async def work(job: Job[Text], conf: Settings) -> str:
        return job.payload.text

    async with live(service):
        jobs = await work.enqueue_many([Text(text=str(n % 40)) for n in range(50)], key=lambda text: text.text)
        assert len({job.id for job in jobs}) == 40
        assert [await work.result(job) for job in jobs] == [str(n % 40) for n in range(50)]
        with pytest.raises(ValueError, match="validation error"):
            await service.enqueue_many("work", [{"text": "x"}, {"no": "text"}])
        assert len(await work.enqueue_many([])) == 0


@pytest.mark.parametrize("many", [False, True], ids=["one", "many"])
@pytest.mark.parametrize("way", ["service", "handle", "client"])
async def test_a_payload_above_the_limit_is_refused_however_it_is_added(way: str, many: bool) -> None:
    service = fresh()

    @service.worker("work", limit=1)
    async def work(job: Job[str], conf: Settings) -> int:
        return len(job.payload)

    async with live(service, hotreload={"max_payload_bytes": 1024}) as one, AsyncClient(socket=one.socket) as client:
        adds: dict[str, Any] = {"service": service, "handle": work, "client": client}

        async def add(payload: str) -> Any:
            queue = () if way == "handle" else ("work",)
            if many:
                return (await adds[way].enqueue_many(*queue, [payload, payload]))[0]
            return await adds[way].enqueue(*queue, payload)

        with pytest.raises(
            (PayloadTooLarge, ValueError), match=r"the payload has 1,025 bytes as JSON; the limit is 1,024"
        ):
            await add("x" * 1023)
        assert (await one.http.get("/admin/jobs")).json()["jobs"] == []
        assert await work.result(await add("x" * 1022)) == 1022


async def test_a_lower_priority_is_claimed_first() -> None:
    service, order = fresh(), list[str]()

    @service.worker("work", limit=lambda conf: conf.limit)
    async def work(job: Job[str], conf: Settings) -> None:
        order.append(job.payload)

    async with live(service, limit=0) as one:
        jobs = [await work.enqueue(name, priority=priority) for name, priority in (("b", 1), ("c", 2), ("a", -1))]
        await one.reload(limit=1)
        for job in jobs:
            await work.result(job)
    assert order == ["a", "b", "c"]


async def test_a_result_is_waited_for_and_says_why_there_is_none() -> None:
    service, go = fresh(), anyio.Event()

    @service.worker("work", limit=1, max_attempts=1)
    async def work(job: Job[str], conf: Settings) -> dict[str, str]:
        await go.wait()
        if job.payload == "fails":
            raise ValueError("no luck")
        return {"payload": job.payload}

    async with live(service), anyio.create_task_group() as tasks:
        good, bad, waiting = [await work.enqueue(name) for name in ("good", "fails", "waits")]
        heard: list[Any] = []

        async def hears(job: Enqueued) -> None:
            try:
                heard.append(await work.result(job))
            except (JobFailed, JobCancelled) as error:
                heard.append(str(error))

        for job in (good, bad, waiting):
            tasks.start_soon(hears, job)
        await anyio.wait_all_tasks_blocked()
        assert await service.cancel(waiting, "999") == [waiting.id]
        go.set()
        with anyio.fail_after(10):
            while len(heard) < 3:  # noqa: ASYNC110 - what it waits for is the store's
                await anyio.sleep(0.01)
        assert heard[0] == f"job {waiting.id} was cancelled"
        assert heard[1:] == [{"payload": "good"}, f"job {bad.id} is dead: ValueError: no luck"]
        with pytest.raises(LookupError):
            await service.result("999")


async def test_a_running_job_that_is_cancelled_is_stopped_and_cannot_write() -> None:
    service, seen, stopped = fresh(), list[str](), anyio.Event()

    @service.worker("work", limit=1)
    async def work(job: Job[str], conf: Settings) -> None:
        await job.checkpoint("begun")
        try:
            await anyio.sleep_forever()
        except asyncio.CancelledError:
            seen.append("interrupted")
            with anyio.CancelScope(shield=True):
                try:
                    await job.checkpoint("late")
                except LeaseLost:
                    seen.append("fenced")
            stopped.set()
            raise

    async with live(service) as one:
        job = await work.enqueue("one", key="k")
        await one.until(job, "running")
        with anyio.fail_after(10):
            while not (await one.job(job))["progress"]:  # noqa: ASYNC110 - the store tells nothing
                await anyio.sleep(0.01)
        assert await service.cancel(job) == [job.id]
        assert (await one.job(job))["state"] == "cancelled"
        with anyio.fail_after(10):
            await stopped.wait()
        assert seen == ["interrupted", "fenced"]
        assert (await work.enqueue("two", key="k")).existing is None
        assert await service.cancel(job) == []


async def test_a_death_is_told(caplog: pytest.LogCaptureFixture) -> None:
    service, told = fresh(), list[DeadJob]()

    @service.worker("work", limit=1, max_attempts=2, backoff=0)
    async def work(job: Job[Text], conf: Settings) -> None:
        raise ValueError(f"no {job.payload.text[:4]}")

    @service.on_dead
    async def broken(dead: DeadJob, conf: Settings) -> None:
        raise RuntimeError("the hook fails")

    @service.on_dead
    async def hears(dead: DeadJob, conf: Settings) -> None:
        told.append(dead)

    async with live(service) as one:
        job = await work.enqueue(Text(text="luck"), key="k")
        await one.until(job, "dead")
        large = await work.enqueue(Text(text="x" * 100_000))
        await one.until(large, "dead")
        with anyio.fail_after(10):
            while len(told) < 2:  # noqa: ASYNC110 - a hook is called a moment later
                await anyio.sleep(0.01)
    [dead, large_one] = told
    assert large_one.payload == {"text": "x" * 100_000}
    assert (dead.id, dead.queue, dead.payload, dead.key, dead.attempts) == (job.id, "work", {"text": "luck"}, "k", 2)
    assert dead.reason == "ValueError: no luck"
    line = next(record for record in caplog.records if record.getMessage().startswith("job.dead "))
    assert line.levelname == "ERROR"
    assert "queue=work attempt=2 reason=ValueError: no luck" in line.getMessage()
    assert "in work" in line.getMessage()


async def test_a_rate_holds_for_all_that_share_it_and_follows_a_reload() -> None:
    service, begun = fresh(), list[str]()
    service.rate("starts", lambda conf: conf.per_minute)

    @service.worker("one", limit=10, shares=["starts"])
    async def one_(job: Job[str], conf: Settings) -> None:
        begun.append("one")

    @service.worker("two", limit=10, shares=["starts"])
    async def two_(job: Job[str], conf: Settings) -> None:
        begun.append("two")

    async with live(service, per_minute=0) as one:
        await one_.enqueue_many(["x"] * 20)
        await two_.enqueue_many(["x"] * 20)
        await one.reload(per_minute=6)
        with anyio.fail_after(10):
            while len(begun) < 6:  # noqa: ASYNC110 - jobs begin by themselves
                await anyio.sleep(0.01)
        await anyio.sleep(0.3)
        assert sorted(begun) == ["one"] * 3 + ["two"] * 3
        await one.reload(per_minute=10)
        with anyio.fail_after(10):
            while len(begun) < 10:  # noqa: ASYNC110 - jobs begin by themselves
                await anyio.sleep(0.01)
        await anyio.sleep(0.3)
        assert sorted(begun) == ["one"] * 5 + ["two"] * 5


# --- from other processes ---------------------------------------------------------------------------------------------

OTHER = """
import sys
from hotreload import Client
with Client(socket=sys.argv[1]) as client:
    jobs = client.enqueue_many("work", [{"text": "a"}, {"text": "b"}], keys=["a", "b"])
    again = client.enqueue("work", {"text": "a"}, key="c")
    print([client.result(job, timeout_s=20) for job in [*jobs, again]])
"""


async def test_other_processes_add_jobs_and_wait_for_results() -> None:
    service, go = fresh(), anyio.Event()

    @service.worker("work", limit=lambda conf: conf.limit)
    async def work(job: Job[Text], conf: Settings) -> str:
        if job.payload.text == "waits":
            await go.wait()
        return job.payload.text.upper()

    async with live(service) as one:
        script = [sys.executable, "-c", OTHER, str(one.socket)]
        done = await anyio.run_process(script, stderr=subprocess.STDOUT, check=False)
        assert done.stdout.decode() == "['A', 'B', 'A']\n"
        async with AsyncClient(socket=one.socket) as client:
            job = await client.enqueue("work", Text(text="waits"), key="k")
            assert (await client.enqueue("work", Text(text="waits"), key="k")).id == job.id
            with pytest.raises(TimeoutError):
                await client.result(job, timeout_s=0.1)
            with pytest.raises(ValueError, match="no worker serves the queue 'wrok'"):
                await client.enqueue("wrok", {})
            with pytest.raises(ValueError, match="text: Field required"):
                await client.enqueue("work", {})
            with pytest.raises(LookupError):
                await client.result("999")
            assert (await client.job(job))["state"] == "running"
            assert await client.cancel(job) == [job.id]
            with pytest.raises(JobCancelled):
                await client.result(job)
            go.set()
    with pytest.raises(ServiceUnreachable):
        Client(socket=one.socket)


@pytest.mark.parametrize("way", ["socket", "url"])
async def test_both_clients_over_the_socket_and_over_a_url_with_its_key(way: str, short_path: Path) -> None:
    key_file, port = short_path / "key", free_port()
    key_file.write_text(f"{ROOT_KEY}\n")
    put(short_path / "ov.conf", hotreload={"root_key": ROOT_KEY})
    reached: dict[str, Any] = {
        "socket": {"socket": short_path / "run" / "s.sock"},
        "url": {"url": f"http://127.0.0.1:{port}", "key_file": key_file},
    }[way]

    def blocking() -> list[Any]:
        with Client(**reached) as client:
            one, two = client.enqueue_many("echo", ["a", "b"], keys=["a", "b"])
            found = [client.result(each, timeout_s=20) for each in (one, two, client.enqueue("echo", "c"))]
            return [*found, client.job(one)["state"], client.status()["name"], client.cancel(two)]

    expected = ["a", "b", "c", "done", "spinning", []]
    target = "tests.process.workers_service:service"
    async with serving(short_path, "--http", f"127.0.0.1:{port}", target=target) as service:
        assert await anyio.to_thread.run_sync(blocking) == expected
        async with AsyncClient(**reached) as client:
            one, two = await client.enqueue_many("echo", ["a", "b"], keys=["a", "b"])
            found = [await client.result(each, timeout_s=20) for each in (one, two, await client.enqueue("echo", "c"))]
            rest = [(await client.job(one))["state"], (await client.status())["name"], await client.cancel(two)]
            assert [*found, *rest] == expected
            with pytest.raises(ValueError, match="no worker serves the queue 'ehco'"):
                await client.enqueue("ehco", "a")
        if way == "url":
            key_file.write_text("another-key")
            with Client(**reached) as client, pytest.raises(PermissionError):
                await anyio.to_thread.run_sync(client.status)
            key_file.write_text(ROOT_KEY)
        service.process.terminate()
        await service.process.wait()
        with pytest.raises(ServiceUnreachable):
            await anyio.to_thread.run_sync(blocking)
        with pytest.raises(ServiceUnreachable):
            async with AsyncClient(**reached) as client:
                await client.status()


async def test_done_jobs_are_kept_as_long_as_the_policy_in_force_says() -> None:
    service = fresh()

    @service.worker("work", limit=1, keep_done_s=lambda conf: conf.keep_s)
    async def work(job: Job[str], conf: Settings) -> str:
        return job.payload

    async with live(service, keep_s=3600) as one:
        kept = await work.enqueue("kept")
        assert await work.result(kept) == "kept"
        await one.reload(keep_s=0)

        async def removed() -> bool:
            return (await one.http.get(f"/admin/jobs/{kept.id}")).status_code == 404

        await wait_until(removed, 20, "removed")
