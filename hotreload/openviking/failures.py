"""Tell from an exception whether a model's endpoint failed, and how; or whether it refused what it was asked.

The providers' libraries raise classes of their own. What counts is common to all: the HTTP status, the provider's
code, the kind that OpenViking gives an error from 0.5.1 on, and the network error somewhere in the chain of causes.
"""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final, cast

REFUSED_KINDS: Final = frozenset({"input_too_large", "content_safety"})
FAILED_KINDS: Final = frozenset(
    {"transient_service_error", "transient_network_error", "rate_limit_error", "authentication_error"}
    | {"permission_denied", "quota_exhausted", "model_not_found"}
)
FAILED_STATUS: Final = frozenset({401, 402, 403, 404, 407, 408, 409, 423, 425, 429})
"""Beside 500 and above. 404: the model or the path is not there, whatever is asked."""
CONTENT_CODES: Final = ("contentfilter", "contentpolicy", "safety", "contextlength", "toolarge", "toolong")
TIMEOUTS: Final = ("Timeout", "ReadTimeout", "ConnectTimeout", "TimeoutException", "APITimeoutError")
NETWORK: Final = ("APIConnectionError", "ArkAPIConnectionError", "TransportError", "NetworkError", "ConnectionError")
UNREACHABLE: Final = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.ENONET)
BREAKER: Final = "CircuitBreakerOpen"


@dataclass(frozen=True, slots=True)
class Failure:
    """An endpoint's failure: the cause in a word or two, and the seconds it asked to be left alone."""

    cause: str
    retry_after_s: float | None = None


class NoAnswer(Exception):
    """An endpoint's answer is not what was asked for, or there was none; where it is known, its cause says why."""


def failure_of(error: BaseException) -> Failure | None:
    """Return how the endpoint failed; None where it answered, or where the error says nothing about it."""
    inner = _of_credentials(error)
    if inner:  # one endpoint that refused the content is enough
        found = [failure_of(each) for each in inner]
        return None if None in found else found[-1]
    chain = list(_chain(error))
    status = next((status for each in chain if (status := status_of(each)) is not None), None)
    if _is_refusal(chain, status):
        return None
    if status is not None:
        failed = status in FAILED_STATUS or status >= 500 or bool(_kinds(chain) & FAILED_KINDS)
        return Failure(str(status), _retry_after_s(chain)) if failed else None
    cause = next((cause for each in reversed(chain) if (cause := _network(each)) is not None), None)
    if cause is None and _kinds(chain) & FAILED_KINDS:
        cause = sorted(_kinds(chain) & FAILED_KINDS)[0].replace("_", " ")
    return None if cause is None else Failure(cause, _retry_after_s(chain))


def refusal_of(error: BaseException) -> str | None:
    """Return how the endpoint refused what it was asked, None where the error is not an answer of an endpoint."""
    chain = list(_chain(error))
    status = next((status for each in chain if (status := status_of(each)) is not None), None)
    kinds = sorted(_kinds(chain))
    if status is None and not kinds:
        return None
    return " ".join([*([str(status)] if status else []), *(kind.replace("_", " ") for kind in kinds[:1])])


def is_unknown(error: BaseException) -> bool:
    """Say whether OpenViking itself cannot tell what an error of a provider's library means; it tries again then."""
    return failure_of(error) is None and "unknown" in _kinds(list(_chain(error)))


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status that an exception carries, None where it carries none."""
    for found in (getattr(error, "status_code", None), getattr(getattr(error, "response", None), "status_code", None)):
        if isinstance(found, int) and 100 <= found <= 599:
            return found
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        yield each
        each = each.__cause__ or each.__context__


def _of_credentials(error: BaseException) -> list[BaseException]:
    """Return the errors behind OpenViking's `AllCredentialsFailedError`: (id, kind, error, index) of each."""
    try:
        return [failed for _, _, failed, _ in cast("Any", error).errors if isinstance(failed, BaseException)]
    except (AttributeError, TypeError, ValueError):
        return []


def _kinds(chain: list[BaseException]) -> set[str]:
    values = (getattr(getattr(each, "kind", None), "value", None) for each in chain)
    return {value for value in values if isinstance(value, str)}


def _is_refusal(chain: list[BaseException], status: int | None) -> bool:
    """Say whether the content is to blame, by kind or code: some providers use odd statuses for that."""
    if _kinds(chain) & REFUSED_KINDS:
        return True
    codes = "".join(code for each in chain for code in _codes(each))
    return (status is None or status < 500) and any(code in codes for code in CONTENT_CODES)


def _codes(error: BaseException) -> Iterator[str]:
    """Yield what a provider calls an error, lower case, letters and digits only."""
    body = _mapping(getattr(error, "body", None))
    for place in (vars(error), body, _mapping(body.get("error"))):
        for name in ("code", "type", "error_code"):
            found = place.get(name)
            if isinstance(found, str):
                yield "".join(letter for letter in found.lower() if letter.isalnum())


def _mapping(value: object) -> Mapping[str, object]:
    return cast("Mapping[str, object]", value) if isinstance(value, Mapping) else {}


def _network(error: BaseException) -> str | None:
    """Return what a network error means, None for other errors."""
    names = {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, socket.gaierror) or "NameResolutionError" in names:
        return "host name not resolved"
    if isinstance(error, NoAnswer):
        return "no usable answer"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, ssl.SSLError):
        return "TLS failed"
    if isinstance(error, TimeoutError) or names & set(TIMEOUTS):
        return "timeout"
    if isinstance(error, ConnectionError) or names & set(NETWORK):
        return "connection failed"
    if isinstance(error, OSError) and error.errno in UNREACHABLE:
        return "host not reachable"
    return "OpenViking's own circuit breaker is open" if BREAKER in names else None


def _retry_after_s(chain: list[BaseException]) -> float | None:
    """Return the seconds of a `Retry-After`, given as a number or as a date (RFC 9110, 10.2.3)."""
    for each in chain:
        headers: Any = getattr(getattr(each, "response", None), "headers", None) or {}
        stated = headers.get("retry-after")
        if stated is None:
            continue
        try:
            return max(0.0, float(stated))
        except ValueError:
            pass
        try:
            return max(0.0, (parsedate_to_datetime(stated) - datetime.now(UTC)).total_seconds())
        except (TypeError, ValueError):
            return None
    return None
