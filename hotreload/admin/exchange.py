"""Read what a request asks for, and answer what went wrong: the one place where an error becomes a response."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final, NoReturn, cast

import anyio
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from hotreload.config.document import MAX_BYTES
from hotreload.errors import NotOffered, QueueDraining, StoreUnavailable

BODY_LIMIT: Final = 64 * 1024
BODY_S: Final = 10.0
RETRY_AFTER_S: Final = "5"
_ETAG: Final = re.compile(r'(W/)?"([^"]*)"')
_SECONDS: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


class AsciiResponse(JSONResponse):
    """JSON in ASCII: a job's values may have file names in them that are not UTF-8."""

    def render(self, content: Any) -> bytes:
        """Return the body."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


async def answer_error(_request: Request, error: Exception) -> Response:
    """Return `{"error": "…"}` with the status the error stands for."""
    status, text, headers = refusal_of(error)
    return JSONResponse({"error": text}, status, headers=headers)


def refusal_of(error: Exception) -> tuple[int, str, Mapping[str, str]]:
    """Return the status an error stands for, its text and headers; nothing of an unexpected one is shown."""
    if isinstance(error, HTTPException):
        return error.status_code, str(error.detail), error.headers or {}
    if isinstance(error, NotOffered):
        return 409, f"not offered by this host: {error}", {}
    if isinstance(error, (QueueDraining, StoreUnavailable)):
        return 503, str(error), {"Retry-After": RETRY_AFTER_S}
    return 500, "internal error; the service's log says more", {}


async def read_body(
    request: Request, keys: Mapping[str, type | tuple[type, ...]], limit: int = BODY_LIMIT, within_s: float = BODY_S
) -> dict[str, Any]:
    """Return the JSON object of a request, {} without a body.

    `keys` names what it may hold. 400 for another key, another type or bad JSON, 408 for a body that does not
    come within `within_s` seconds, 413 above `limit` bytes, 415 for another content type.
    """
    raw = await _read_bounded(request, limit, within_s)
    if not raw:
        return {}
    _must_be_json(request.headers)
    body = _parse(raw)
    for key, value in body.items():
        if key not in keys:
            raise HTTPException(400, f"unknown key {key[:80]!r}; known: {', '.join(keys)}")
        if type(value) not in _types(keys[key]):
            raise HTTPException(400, f"{key} has the wrong type")
    return body


async def read_configuration(request: Request) -> bytes:
    """Return the bytes of a configuration file sent as the body; statuses as `read_body`, the limit is the file's."""
    _must_be_json(request.headers)
    return await _read_bounded(request, MAX_BYTES + 1, BODY_S)  # one more, and the report says that it is too large


def expected_generation(header: str | None, instance: str, current: int) -> int | None:
    """Return the generation that `If-Match` asks for, None where any will do.

    Entity tags are `"INSTANCE-GENERATION"`, compared strongly (RFC 9110, 13.1.1); that of another process or
    a weak one matches no generation: -1. 400 for what is not an entity tag.
    """
    if header is None or header.strip() == "*":
        return None
    tags = _ETAG.findall(header)
    if not tags or _ETAG.sub("", header).strip(" ,\t"):
        raise HTTPException(400, 'If-Match takes entity tags, as "INSTANCE-GENERATION"')
    prefix = f"{instance}-"
    strong = [tag.removeprefix(prefix) for weak, tag in tags if not weak and tag.startswith(prefix)]
    asked = [int(number) for number in strong if number.isascii() and number.isdigit()]
    return current if current in asked else next(iter(asked), -1)


def whole_number(request: Request, name: str, default: int, least: int, most: int) -> int:
    """Return a number of the query; 400 for one that is not whole or not within `least` and `most`."""
    text = request.query_params.get(name, str(default))
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 19 else -1
    if not least <= number <= most:
        raise HTTPException(400, f"{name} is a whole number from {least} to {most}")
    return number


def preferred_wait_s(header: str | None) -> float | None:
    """Return the seconds of `Prefer: wait=N` (RFC 7240), None without; what is not understood is ignored.

    A fraction is understood as well: the command line's `--timeout 0.9` is a wait.
    """
    for preference in (header or "").split(","):
        name, _, value = preference.split(";")[0].partition("=")
        if name.strip().lower() == "wait" and _SECONDS.fullmatch(value.strip()):
            return float(value.strip())
    return None


def _must_be_json(headers: Headers) -> None:
    if headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "the body must be application/json")


async def _read_bounded(request: Request, limit: int, within_s: float) -> bytes:
    length = request.headers.get("content-length", "0")
    if not length.isdigit() or int(length) > limit:
        _refuse_size(limit)
    raw = bytearray()
    try:
        with anyio.fail_after(within_s):
            async for chunk in request.stream():
                raw += chunk
                if len(raw) > limit:
                    _refuse_size(limit)
    except TimeoutError as error:
        raise HTTPException(408, "the body did not come in time", headers={"Connection": "close"}) from error
    except ClientDisconnect as error:
        raise HTTPException(400, "the body ended half-way", headers={"Connection": "close"}) from error
    return bytes(raw)


def _refuse_size(limit: int) -> NoReturn:
    raise HTTPException(413, f"a body may have {limit // 1024} KiB", headers={"Connection": "close"})


def _parse(raw: bytes) -> dict[str, Any]:
    try:
        body: object = json.loads(raw, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, "the body is not JSON") from error
    if not isinstance(body, dict):
        raise HTTPException(400, "the body must be a JSON object")
    return cast("dict[str, Any]", body)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _types(expected: type | tuple[type, ...]) -> tuple[type, ...]:
    return expected if isinstance(expected, tuple) else (expected,)
