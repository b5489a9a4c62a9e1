"""The queue over HTTP: the routes under /admin/jobs. 503 where the store cannot be read or written now."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request

from hotreload.admin.control import Control, Jobs
from hotreload.admin.exchange import read_body
from hotreload.queue.job import JobState

PAGE_MOST: Final = 1_000
JSON_VALUE: Final = (dict, list, str, int, float, bool, type(None))
Answer = Callable[[Control, Request], Awaitable[tuple[Any, int]]]


async def page(control: Control, request: Request) -> tuple[Any, int]:
    """Return a page of jobs, newest first; `queue`, `state`, `limit` (50), `before` (an id) in the query."""
    asked = request.query_params
    try:
        state = JobState(asked["state"]) if "state" in asked else None
        limit = int(asked.get("limit", "50"))
    except ValueError as error:
        raise HTTPException(400, str(error)) from error
    if not 1 <= limit <= PAGE_MOST:
        raise HTTPException(400, f"limit is from 1 to {PAGE_MOST}")
    return {"jobs": await _jobs(control).page(asked.get("queue"), state, limit, asked.get("before"))}, 200


async def show(control: Control, request: Request) -> tuple[Any, int]:
    """Return one job whole; 404 where there is none."""
    job = await _jobs(control).job(request.path_params["id"])
    if job is None:
        raise HTTPException(404, "no such job; results are kept for a time")
    return job, 200


async def add(control: Control, request: Request) -> tuple[Any, int]:
    """Add a job: 201 with its `id`, 200 with null where its key is in hand; 422 unfit, 503 in a drain."""
    keys = {"queue": str, "payload": JSON_VALUE, "key": str, "priority": int, "delay_s": (int, float)}
    body = await read_body(request, keys)
    if "queue" not in body:
        raise HTTPException(400, "queue is missing")
    try:
        job_id = await _jobs(control).add(
            body["queue"],
            body.get("payload"),
            key=body.get("key"),
            priority=body.get("priority", 0),
            delay_s=body.get("delay_s", 0.0),
        )
    except ValidationError as error:
        places = [f"{'.'.join(map(str, one['loc'])) or 'payload'}: {one['msg']}" for one in error.errors()]
        raise HTTPException(422, f"the payload does not fit: {'; '.join(places)}") from error
    except ValueError as error:
        raise HTTPException(422, str(error)) from error
    return {"id": job_id}, 200 if job_id is None else 201


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


async def _asked(control: Control, request: Request) -> tuple[Jobs, list[str]]:
    jobs = _jobs(control)
    body = await read_body(request, {"ids": list, "queue": str})
    if ("ids" in body) == ("queue" in body):
        raise HTTPException(400, "give either ids or queue")
    return jobs, [str(one) for one in body["ids"]] if "ids" in body else await jobs.dead(body["queue"])


def _jobs(control: Control) -> Jobs:
    if control.jobs is None:
        raise HTTPException(409, "not offered by this host: it keeps no queue that can be looked into here")
    return control.jobs


ROUTES: Final[tuple[tuple[str, str, Answer], ...]] = (
    ("GET", "/admin/jobs", page),
    ("POST", "/admin/jobs", add),
    ("POST", "/admin/jobs/retry", retry),
    ("POST", "/admin/jobs/discard", discard),
    ("POST", "/admin/jobs/pause", pause),
    ("POST", "/admin/jobs/resume", resume),
    ("GET", "/admin/jobs/{id}", show),
)
