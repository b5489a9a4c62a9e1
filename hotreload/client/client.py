"""Add jobs to a running service from another process, and wait for their results.

    with Client("summaries") as client:
        job = client.enqueue("semantic", {"path": "a.md"}, key="a.md")
        print(client.result(job))

Both clients talk HTTP over the control socket of the service's own user, or over a URL with its root key.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NoReturn, Self, cast

import httpx

from hotreload.client.find import Endpoint, Wanted, find, in_ascii
from hotreload.client.trusted import AsyncTrustedTransport, TrustedTransport
from hotreload.errors import JobCancelled, JobFailed, QueueDraining, ServiceUnreachable
from hotreload.queue.job import Enqueued, JobState
from hotreload.workers.kind import ANYTHING

CALL_S: Final = 30.0
"""How long a service may take to answer a call that need not wait."""
WAIT_S: Final = 20.0
"""How long one request waits for a job's end before it is sent again."""
ENDED: Final = ("done", "dead", "cancelled")


class _Calls:
    """What both clients send and how they read the answers: no I/O."""

    def __init__(
        self, name: str | None, socket: Path | str | None, url: str | None, key_file: Path | str | None
    ) -> None:
        self._wanted = Wanted(url, _path(key_file), _path(socket), name)

    def _endpoint(self) -> Endpoint:
        return find(self._wanted)

    @staticmethod
    def _job(payload: Any, key: str | None) -> dict[str, Any]:
        job: dict[str, Any] = {"payload": ANYTHING.dump_python(payload, mode="json")}
        return job if key is None else {**job, "key": key}


class Client(_Calls):
    """A blocking client of one service; use it in a `with` block, in one thread at a time.

    `name` is the service's (None: the only one that runs); `socket` a control socket, `url` with `key_file` its address
    and root key instead. Where none is given the environment counts, as for the command line. ServiceUnreachable where
    no service answers, ServiceMisnamed where several do.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        socket: Path | str | None = None,
        url: str | None = None,
        key_file: Path | str | None = None,
    ) -> None:
        super().__init__(name, socket, url, key_file)
        endpoint = self._endpoint()
        transport = TrustedTransport(endpoint.shown, endpoint.socket, endpoint.trusted) if endpoint.socket else None
        self._shown = endpoint.shown
        self._http = httpx.Client(transport=transport, **_options(endpoint))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; a second call does nothing."""
        self._http.close()

    def enqueue(
        self, queue: str, payload: Any = None, *, key: str | None = None, priority: int = 0, delay_s: float = 0.0
    ) -> Enqueued:
        """Add a job, durable on return. `existing` is the state of the job that has `key` already, None for a new one.

        Lower `priority` is claimed first. ValueError where no worker serves `queue` or the payload does not fit it,
        QueueDraining while the service drains.
        """
        body = {**self._job(payload, key), "queue": queue, "priority": priority, "delay_s": delay_s}
        return _enqueued(self._call("POST", "/admin/jobs", json=body))

    def enqueue_many(
        self,
        queue: str,
        payloads: Iterable[Any],
        *,
        keys: Sequence[str] | None = None,
        priority: int = 0,
        delay_s: float = 0.0,
    ) -> list[Enqueued]:
        """Add a job for each payload, all or none, in one transaction; `keys` has one for each. See `enqueue`."""
        body = _many(self._job, queue, payloads, keys, priority, delay_s)
        return [_enqueued(one) for one in self._call("POST", "/admin/jobs/batch", json=body)["jobs"]]

    def result(self, job: Enqueued | str, *, timeout_s: float | None = None) -> Any:
        """Wait for a job's end and return its result as JSON values.

        JobFailed where it is dead, JobCancelled where it was cancelled, LookupError where there is no such job (any
        more), TimeoutError after `timeout_s`; the job goes on then.
        """
        ends = _deadline(timeout_s)
        while True:
            found = self._call("GET", f"/admin/jobs/{_id(job)}", **_waiting(ends))
            if found["state"] in ENDED:
                return _result(found)
            _still_time(job, ends)

    def job(self, job: Enqueued | str) -> dict[str, Any]:
        """Return one job whole; LookupError where there is none."""
        return self._call("GET", f"/admin/jobs/{_id(job)}")

    def cancel(self, *jobs: Enqueued | str) -> list[str]:
        """Cancel jobs: running ones are stopped, waiting ones removed. Returns the ids of those cancelled."""
        return self._call("POST", "/admin/jobs/cancel", json={"ids": [_id(job) for job in jobs]})["cancelled"]

    def backup(self, file: Path | str) -> int:
        """Write a consistent copy of the service's store into `file`, on its machine; its size in bytes.

        Over the control socket only. A file of that name is replaced; ValueError where it cannot be written.
        """
        return self._call("POST", "/admin/backup", json=_copied(file), timeout=None)["bytes"]

    def status(self) -> dict[str, Any]:
        """Return the status document."""
        return self._call("GET", "/admin/status")

    def _call(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        try:
            return _read(self._http.request(method, path, **in_ascii(request)))
        except httpx.HTTPError as error:
            _unreachable(self._shown, error)


class AsyncClient(_Calls):
    """As `Client`, in an event loop; use it in an `async with` block. Any number of tasks may use it."""

    def __init__(
        self,
        name: str | None = None,
        *,
        socket: Path | str | None = None,
        url: str | None = None,
        key_file: Path | str | None = None,
    ) -> None:
        super().__init__(name, socket, url, key_file)
        endpoint = self._endpoint()
        made = AsyncTrustedTransport(endpoint.shown, endpoint.socket, endpoint.trusted) if endpoint.socket else None
        self._shown = endpoint.shown
        self._http = httpx.AsyncClient(transport=made, **_options(endpoint))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; a second call does nothing."""
        await self._http.aclose()

    async def enqueue(
        self, queue: str, payload: Any = None, *, key: str | None = None, priority: int = 0, delay_s: float = 0.0
    ) -> Enqueued:
        """As `Client.enqueue`."""
        body = {**self._job(payload, key), "queue": queue, "priority": priority, "delay_s": delay_s}
        return _enqueued(await self._call("POST", "/admin/jobs", json=body))

    async def enqueue_many(
        self,
        queue: str,
        payloads: Iterable[Any],
        *,
        keys: Sequence[str] | None = None,
        priority: int = 0,
        delay_s: float = 0.0,
    ) -> list[Enqueued]:
        """As `Client.enqueue_many`."""
        body = _many(self._job, queue, payloads, keys, priority, delay_s)
        return [_enqueued(one) for one in (await self._call("POST", "/admin/jobs/batch", json=body))["jobs"]]

    async def result(self, job: Enqueued | str, *, timeout_s: float | None = None) -> Any:
        """As `Client.result`; cancelled, the job goes on."""
        ends = _deadline(timeout_s)
        while True:
            found = await self._call("GET", f"/admin/jobs/{_id(job)}", **_waiting(ends))
            if found["state"] in ENDED:
                return _result(found)
            _still_time(job, ends)

    async def job(self, job: Enqueued | str) -> dict[str, Any]:
        """As `Client.job`."""
        return await self._call("GET", f"/admin/jobs/{_id(job)}")

    async def cancel(self, *jobs: Enqueued | str) -> list[str]:
        """As `Client.cancel`."""
        return (await self._call("POST", "/admin/jobs/cancel", json={"ids": [_id(job) for job in jobs]}))["cancelled"]

    async def backup(self, file: Path | str) -> int:
        """As `Client.backup`."""
        return (await self._call("POST", "/admin/backup", json=_copied(file), timeout=None))["bytes"]

    async def status(self) -> dict[str, Any]:
        """As `Client.status`."""
        return await self._call("GET", "/admin/status")

    async def _call(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        try:
            return _read(await self._http.request(method, path, **in_ascii(request)))
        except httpx.HTTPError as error:
            _unreachable(self._shown, error)


def _options(endpoint: Endpoint) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else {}
    return {"base_url": endpoint.url, "headers": headers, "timeout": CALL_S, "trust_env": False}


def _many(
    job: Any, queue: str, payloads: Iterable[Any], keys: Sequence[str] | None, priority: int, delay_s: float
) -> dict[str, Any]:
    listed = list(payloads)
    named = [None] * len(listed) if keys is None else list(keys)
    jobs = [job(payload, key) for payload, key in zip(listed, named, strict=True)]
    return {"queue": queue, "jobs": jobs, "priority": priority, "delay_s": delay_s}


def _copied(file: Path | str) -> dict[str, Any]:
    return {"file": os.path.abspath(file)}


def _id(job: Enqueued | str) -> str:
    return job.id if isinstance(job, Enqueued) else job


def _deadline(timeout_s: float | None) -> float | None:
    return None if timeout_s is None else time.monotonic() + timeout_s


def _waiting(ends: float | None) -> dict[str, Any]:
    """Return how a request waits for a job's end, no longer than until `ends`."""
    wait_s = WAIT_S if ends is None else max(0.0, min(WAIT_S, ends - time.monotonic()))
    return {"headers": {"Prefer": f"wait={wait_s:.3f}"}, "timeout": wait_s + CALL_S}


def _still_time(job: Enqueued | str, ends: float | None) -> None:
    if ends is not None and time.monotonic() >= ends:
        raise TimeoutError(f"job {_id(job)} has not ended in time; it goes on")


def _result(found: Mapping[str, Any]) -> Any:
    if found["state"] == "dead":
        raise JobFailed(found["id"], found["reason"])
    if found["state"] == "cancelled":
        raise JobCancelled(found["id"])
    return found["result"]


def _enqueued(body: Mapping[str, Any]) -> Enqueued:
    return Enqueued(body["id"], None if body["existing"] is None else JobState(body["existing"]))


def _read(answer: httpx.Response) -> dict[str, Any]:
    try:
        body: Any = answer.json()
    except ValueError:
        body = None
    if answer.is_success and isinstance(body, dict):
        return cast("dict[str, Any]", body)
    said: Any = cast("dict[str, Any]", body).get("error") if isinstance(body, dict) else None
    raise _error(answer.status_code, str(said or answer.reason_phrase))


def _error(status: int, text: str) -> Exception:
    match status:
        case 404:
            return LookupError(text)
        case 400 | 413 | 422:
            return ValueError(text)
        case 401 | 403:
            return PermissionError(text)
        case 503:
            return QueueDraining(text)
        case _:
            return ServiceUnreachable(f"refused ({status}): {text}")


def _unreachable(shown: str, error: httpx.HTTPError) -> NoReturn:
    raise ServiceUnreachable(f"{shown} does not answer: {str(error) or type(error).__name__}") from error


def _path(text: Path | str | None) -> Path | None:
    return None if text is None else Path(text)


def backup(file: Path | str, name: str | None = None, *, socket: Path | str | None = None) -> int:
    """Write a consistent copy of a running service's store into `file`; its size in bytes. See `Client.backup`."""
    with Client(name, socket=socket) as client:
        return client.backup(file)
