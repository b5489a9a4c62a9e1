"""Ask a running service over its admin application: each call one request, each refusal a Failure."""

from __future__ import annotations

import json
import uuid
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, cast

import httpx

from hotreload.cli.exits import Exit, Failure
from hotreload.client.find import Endpoint, in_ascii
from hotreload.client.trusted import TrustedTransport
from hotreload.errors import ServiceUnreachable

CALL_S: Final = 10.0
"""How long a service may take to answer what needs no waiting."""
SILENCE_S: Final = 60.0
_MARGIN_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of a reload: `report` is None where it is not over yet."""

    id: str
    report: dict[str, Any] | None


class Client:
    """A connection to one service; use it in a `with` block."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        headers = {"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else {}
        self._http = httpx.Client(
            base_url=endpoint.url,
            transport=(
                TrustedTransport(endpoint.shown, endpoint.socket, endpoint.trusted) if endpoint.socket else None
            ),
            headers=headers,
            timeout=CALL_S,
            trust_env=False,
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def status(self) -> dict[str, Any]:
        """Return the status document."""
        return self._json(self._call("GET", "/admin/status"))

    def history(self, most: int) -> list[dict[str, Any]]:
        """Return the last `most` reload reports, newest first."""
        return cast("Any", self._json(self._call("GET", f"/admin/config/history?limit={most}"), kind=list))

    def config(self) -> dict[str, Any]:
        """Return the settings in force."""
        return self._json(self._call("GET", "/admin/config"))

    def reload(self, *, dry_run: bool, timeout_s: float) -> Verdict:
        """Ask for a reload and wait `timeout_s` for its verdict.

        The service is asked to answer by then with the id at least (`Prefer: wait`), that of a waiting reload where
        this request joined one; if it cannot even do that, the id is the one asked for here.
        """
        return self._verdict("/admin/config/reload", timeout_s, json={"dry_run": dry_run})

    def check(self, name: str, raw: bytes, *, timeout_s: float) -> Verdict:
        """Ask what a reload would do with these bytes in the file's place, and wait for the verdict."""
        headers = {"Content-Type": "application/json"}
        path = "/admin/config/check"
        return self._verdict(path, timeout_s, content=raw, params={"name": name}, headers=headers)

    def _verdict(self, path: str, timeout_s: float, **request: Any) -> Verdict:
        asked = uuid.uuid4()
        prefer = {"X-Request-Id": str(asked), "Prefer": _wait(timeout_s)}
        headers = {**request.pop("headers", {}), **prefer}
        try:
            answer = self._call("POST", path, headers=headers, timeout=timeout_s + _MARGIN_S, **request)
        except httpx.ReadTimeout:
            return Verdict(asked.hex, None)
        body = self._json(answer, verdict=True)
        return Verdict(str(body["id"]), None if answer.status_code == 202 else body)

    def drain(self, deadline_s: float | None) -> dict[str, Any]:
        """Start the drain and return its progress."""
        body = {} if deadline_s is None else {"deadline_s": deadline_s}
        return self._json(self._call("POST", "/admin/drain", json=body))

    def reload_all(self, timeout_s: float) -> dict[str, Any]:
        """Have all processes that share the store reload, or none; the verdict has a row for each."""
        answer = self._call("POST", "/admin/fleet/reload", json={"timeout_s": timeout_s}, timeout=timeout_s + CALL_S)
        return self._json(answer, verdict=True)

    def drain_nodes(self, names: Sequence[str], deadline_s: float | None) -> None:
        """Ask these processes that share the store to drain, each by its own deadline where it is None."""
        body = {"nodes": list(names)} | ({} if deadline_s is None else {"deadline_s": deadline_s})
        self._json(self._call("POST", "/admin/fleet/drain", json=body))

    def reindex(self, wanted: Mapping[str, Any], *, timeout_s: float) -> dict[str, Any]:
        """Have what is missing looked for; returns the report, `ended` false where it goes on after `timeout_s`.

        `wanted` may have `dry_run`, `uri` and `account`; None counts as not given. What does not exist is refused by
        content.
        """
        body = {key: value for key, value in wanted.items() if value is not None}
        headers = {"Prefer": _wait(timeout_s)}
        answer = self._call("POST", "/admin/reindex", json=body, headers=headers, timeout=timeout_s + CALL_S)
        return self._by_content(answer, 400, 404)

    def backup(self, file: str) -> dict[str, Any]:
        """Have a copy of the store written into a file; where it cannot be, that is refused by content."""
        return self._by_content(self._call("POST", "/admin/backup", json={"file": file}, timeout=None), 422)

    def jobs(self, method: str, path: str = "", **request: Any) -> dict[str, Any]:
        """Call a route under /admin/jobs; what is refused for what it says (404, 413, 422) is refused by content."""
        return self._by_content(self._call(method, f"/admin/jobs{path}", **request), 404, 413, 422)

    def _by_content(self, answer: httpx.Response, *statuses: int) -> dict[str, Any]:
        """Return the body; these statuses refuse what was asked, not its moment."""
        try:
            return self._json(answer)
        except Failure as failure:
            if answer.status_code in statuses:
                raise Failure(Exit.REFUSED_BY_CONTENT, failure.message) from None
            raise

    def search(self, search_id: str) -> dict[str, Any]:
        """Return a search for what is missing, and how far what it found is made."""
        return self._json(self._call("GET", f"/admin/reindex/{search_id}", timeout=SILENCE_S))

    @contextmanager
    def events(self) -> Generator[Iterator[tuple[str, dict[str, Any]]]]:
        """Open the event stream; it ends when the service closes it, goes, or is silent for four heartbeats."""
        timeout = httpx.Timeout(CALL_S, read=SILENCE_S)
        with self._reaching(), self._http.stream("GET", "/admin/events", timeout=timeout) as answer:
            if answer.status_code != 200:
                answer.read()
                self._json(answer)
            yield _events(answer)

    def _call(self, method: str, path: str, **request: Any) -> httpx.Response:
        with self._reaching():
            return self._http.request(method, path, **in_ascii(request))

    @contextmanager
    def _reaching(self) -> Generator[None]:
        try:
            yield
        except httpx.ReadTimeout:
            raise
        except httpx.HTTPError as error:
            text = str(error) or type(error).__name__
            raise ServiceUnreachable(f"{self.endpoint.shown} does not answer: {text}") from error

    def _json(self, answer: httpx.Response, *, verdict: bool = False, kind: type = dict) -> dict[str, Any]:
        """Return the body; Failure for an answer that is an error (and no reload report, with `verdict`).

        ServiceUnreachable for one of another kind, also later where a key is asked for that it does not have: some
        other program answers there.
        """
        try:
            body: Any = _taken_out(answer.json())
        except (ValueError, RecursionError):
            body = None
        if isinstance(body, kind) and (answer.is_success or (verdict and "outcome" in body)):
            named = isinstance(body, dict)
            return cast("Any", _Answer(self.endpoint.shown, cast("Any", body)) if named else body)
        if answer.is_success:
            raise _stranger(self.endpoint.shown)
        raise _refusal(answer, cast("dict[str, Any]", body) if isinstance(body, dict) else {})


class _Answer(dict[str, Any]):
    """A document of a service; what it lacks says that it is none."""

    def __init__(self, shown: str, body: Mapping[str, Any]) -> None:
        super().__init__(body)
        self._shown = shown

    def __missing__(self, key: str) -> Any:
        raise _stranger(self._shown)


def _stranger(shown: str) -> ServiceUnreachable:
    return ServiceUnreachable(f"{shown} does not answer as a hotreload service does; another program listens there")


def _wait(timeout_s: float) -> str:
    return f"wait={timeout_s:.3f}"


def _taken_out(body: Any) -> Any:
    """Return what OpenViking's envelope holds, its error as ours; anything else as it is."""
    if not isinstance(body, dict):
        return body
    envelope = cast("dict[str, Any]", body)
    if envelope.get("status") not in ("ok", "error") or envelope.keys().isdisjoint(("result", "error")):
        return envelope
    error: dict[str, Any] = envelope.get("error") or {}
    return {"error": error.get("message")} if envelope.get("result") is None else envelope["result"]


def _refusal(answer: httpx.Response, body: dict[str, Any]) -> Failure:
    reason = str(body.get("error") or answer.reason_phrase)
    code = Exit.REFUSED_BY_CONTENT if answer.status_code == 500 else Exit.REFUSED_BY_STATE
    return Failure(code, f"refused ({answer.status_code}): {reason}")


def _events(answer: httpx.Response) -> Iterator[tuple[str, dict[str, Any]]]:
    """Parse the subset of server-sent events that our services send: one `event`, one `data` line each."""
    kind = "message"
    try:
        for line in answer.iter_lines():
            field, _, value = line.partition(": ")
            if field == "event":
                kind = value
            elif field == "data":
                yield kind, json.loads(value)
    except httpx.HTTPError:
        return
