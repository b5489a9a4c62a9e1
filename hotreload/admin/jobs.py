"""The queue over HTTP: the routes under /admin/jobs. 503 where the store cannot be read or written now."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, cast

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request

from hotreload.admin.control import Control, Jobs
from hotreload.admin.exchange import preferred_wait_s, read_body, whole_number
from hotreload.errors import PayloadTooLarge, QueueDraining, reason_of
from hotreload.queue.job import JobState

PAGE_MOST: Final = 1_000
JSON_VALUE: Final = (dict, list, str, int, float, bool, type(None))
BATCH: Final = {"queue": str, "priority": int, "delay_s": (int, float)}
BODY_MORE: Final = 1024 * 1024
"""What a body may have beside its payload."""
WAIT_MOST_S: Final = 30.0
Answer = Callable[[Control, Request], Awaitable[tuple[Any, int]]]


async def page(control: Control, request: Request) -> tuple[Any, int]:
    """Return a page of jobs, newest first; `queue`, `state`, `limit` (50), `before` (an id) in the query."""
    asked = request.query_params
    try:
        state = JobState(asked["state"]) if "state" in asked else None
    except ValueError as error:
        raise HTTPException(400, str(error)) from error
    limit = whole_number(request, "limit", 50, 1, PAGE_MOST)
    return {"jobs": await _jobs(control).page(asked.get("queue"), state, limit, asked.get("before"))}, 200


async def show(control: Control, request: Request) -> tuple[Any, int]:
    """Return one job whole, by `Prefer: wait=N` once it has ended or after N seconds; 404 where there is none."""
    wait_s = min(preferred_wait_s(request.headers.get("prefer")) or 0.0, WAIT_MOST_S)
    job = await _jobs(control).job(request.path_params["id"], within_s=wait_s)
    if job is None:
        raise HTTPException(404, "no such job; results are kept for a time")
    return job, 200


async def add(control: Control, request: Request) -> tuple[Any, int]:
    """Add a job: 201 with its `id`, 200 with that of the job that has its key and its state as `existing`.

    422 where it does not fit its worker, 413 where its payload is too large, 503 in a drain.
    """
    body = await read_body(request, {**BATCH, "payload": JSON_VALUE, "key": str}, _body_most(control))
    [added] = await _add(control, body, [{name: body[name] for name in ("payload", "key") if name in body}])
    return added, 201 if added["existing"] is None else 200


async def add_batch(control: Control, request: Request) -> tuple[Any, int]:
    """Add `jobs`, each `{"payload": …, "key": …}`, all or none, in one transaction: 201; otherwise as `add`."""
    body = await read_body(request, {**BATCH, "jobs": list}, _body_most(control))
    jobs: list[Any] = body.get("jobs", [])
    for job in jobs:
        if not isinstance(job, dict) or not set(cast("dict[str, Any]", job)) <= {"payload", "key"}:
            raise HTTPException(400, 'each of jobs is {"payload": …, "key": …}')
        if not isinstance(cast("dict[str, Any]", job).get("key", ""), str):
            raise HTTPException(400, "key has the wrong type")
    return {"jobs": await _add(control, body, jobs)}, 201


async def _add(control: Control, body: dict[str, Any], jobs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    if "queue" not in body:
        raise HTTPException(400, "queue is missing")
    if control.draining:  # what jobs and requests of the process itself add is taken until the flush
        raise QueueDraining("the service is draining; add the job again after the restart")
    try:
        return await _jobs(control).add(
            body["queue"], jobs, priority=body.get("priority", 0), delay_s=body.get("delay_s", 0.0)
        )
    except PayloadTooLarge as error:
        raise HTTPException(413, str(error)) from error
    except ValidationError as error:
        places = [f"{'.'.join(map(str, one['loc'])) or 'payload'}: {one['msg']}" for one in error.errors()]
        raise HTTPException(422, f"the payload does not fit: {'; '.join(places)}") from error
    except ValueError as error:
        raise HTTPException(422, str(error)) from error


async def retry(control: Control, request: Request) -> tuple[Any, int]:
    """Make dead jobs ready: `ids`, or all of a `queue`."""
    jobs, ids = await _asked(control, request)
    done = await jobs.retry(ids)
    return {"retried": done, "passed_over": sorted(set(ids) - set(done), key=ids.index)}, 200


async def discard(control: Control, request: Request) -> tuple[Any, int]:
    """Remove jobs that do not run: `ids`, or all dead ones of a `queue`."""
    jobs, ids = await _asked(control, request)
    done = await jobs.discard(ids)
    return {"discarded": done, "passed_over": sorted(set(ids) - set(done), key=ids.index)}, 200


async def cancel(control: Control, request: Request) -> tuple[Any, int]:
    """Cancel jobs: running ones are stopped and end `cancelled`, waiting ones are removed."""
    jobs, body = _jobs(control), await read_body(request, {"ids": list})
    ids = [str(one) for one in body.get("ids", [])]
    done = await jobs.cancel(ids)
    return {"cancelled": done, "passed_over": sorted(set(ids) - set(done), key=ids.index)}, 200


async def pause(control: Control, request: Request) -> tuple[Any, int]:
    """Claim nothing more from `queue`, over restarts too."""
    return await _pause(control, request, paused=True)


async def resume(control: Control, request: Request) -> tuple[Any, int]:
    """End a pause."""
    return await _pause(control, request, paused=False)


async def _pause(control: Control, request: Request, *, paused: bool) -> tuple[Any, int]:
    jobs = _jobs(control)
    queue = (await read_body(request, {"queue": str})).get("queue", "")
    if not await jobs.pause(queue, paused=paused):
        raise HTTPException(404, f"no queue {queue[:80]!r}")
    return {"queue": queue, "paused": paused}, 200


async def backup(control: Control, request: Request) -> tuple[Any, int]:
    """Write a consistent copy of the store into `file`, an absolute path; 422 where it cannot be written."""
    file = (await read_body(request, {"file": str})).get("file", "")
    if not os.path.isabs(file):
        raise HTTPException(400, "file is an absolute path")
    try:
        size = await _jobs(control).backup(file)
    except (OSError, ValueError) as error:
        raise HTTPException(422, reason_of(error)) from error
    return {"file": file, "bytes": size}, 200


async def _asked(control: Control, request: Request) -> tuple[Jobs, list[str]]:
    jobs = _jobs(control)
    body = await read_body(request, {"ids": list, "queue": str})
    if ("ids" in body) == ("queue" in body):
        raise HTTPException(400, "give either ids or queue")
    return jobs, [str(one) for one in body["ids"]] if "ids" in body else await jobs.dead(body["queue"])


def _body_most(control: Control) -> int:
    return _jobs(control).payload_most + BODY_MORE


def _jobs(control: Control) -> Jobs:
    if control.jobs is None:
        raise HTTPException(409, "not offered by this host: it keeps no queue that can be looked into here")
    return control.jobs


ROUTES: Final[tuple[tuple[str, str, Answer], ...]] = (
    ("GET", "/admin/jobs", page),
    ("POST", "/admin/jobs", add),
    ("POST", "/admin/jobs/batch", add_batch),
    ("POST", "/admin/jobs/cancel", cancel),
    ("POST", "/admin/jobs/retry", retry),
    ("POST", "/admin/jobs/discard", discard),
    ("POST", "/admin/jobs/pause", pause),
    ("POST", "/admin/jobs/resume", resume),
    ("GET", "/admin/jobs/{id}", show),
)
