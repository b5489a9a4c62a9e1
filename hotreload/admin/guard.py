"""PURE: who may call /admin.

On the control socket the kernel has answered already: our server put the peer's credentials into the scope, and
no header is looked at. Everywhere else three things must hold: the `Host` is one of ours (DNS rebinding), the
`Origin` is none or ours (cross-site requests: Caddy's CVE-2026-27589), and the root key is given, or the cookie
of a session that was opened with it. Forwarded headers say nothing here.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final
from urllib.parse import urlsplit

from hotreload.admin.session import is_from_page, is_session, presented_sessions

PEER: Final = "hotreload_peer"
"""Key in `scope["state"]` under which our own server puts a `Peer`; no header can put an object there."""
NO_KEY: Final = "no hotreload.root_key is set: /admin answers on the control socket only"
LOOPBACK_NAMES: Final = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Peer:
    """The process at the other end of a Unix socket, as the kernel tells."""

    pid: int
    uid: int

    def __str__(self) -> str:
        return f"pid {self.pid} uid {self.uid}"


@dataclass(frozen=True, slots=True)
class Policy:
    """What is asked of callers over TCP; `allowed_hosts` empty means loopback names and the bound address.

    `now_s` (Unix seconds) is the time that a session's end is compared with.
    """

    root_key: str | None
    allowed_hosts: Sequence[str] = ()
    now_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls; `local` is true on the control socket only."""

    principal: str
    local: bool


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a call is refused: an HTTP status and a short reason."""

    status: int
    message: str
    wrong_key: bool = False
    """A key was given, and it is not the root key."""


def judge(scope: Mapping[str, Any], policy: Policy) -> Caller | Refusal:
    """Return who calls, or why they may not. `scope` is an ASGI HTTP scope."""
    state: Mapping[str, object] = scope.get("state") or {}
    peer = state.get(PEER)
    if isinstance(peer, Peer):
        return Caller(str(peer), local=True)
    client = scope.get("client")
    caller = Caller(f"root key from {client[0]}" if client else "root key", local=False)
    return foreign_place(scope, policy) or _without_key(scope, policy) or caller


def foreign_place(scope: Mapping[str, Any], policy: Policy) -> Refusal | None:
    """Return why a call from this `Host` and `Origin` is refused, None where it is not."""
    headers = list(_headers(scope))
    hosts = [value for name, value in headers if name == "host"]
    if len(hosts) != 1 or not _host_allowed(hosts[0], scope, policy):
        return Refusal(403, "this Host is not served here; see hotreload.allowed_hosts")
    for name, value in headers:
        if name == "origin" and not _same_origin(value, hosts[0]):
            return Refusal(403, "requests from a foreign Origin are refused")
    return None


def _host_allowed(host: str, scope: Mapping[str, Any], policy: Policy) -> bool:
    place = _place(host)
    if place is None:
        return False
    server = scope.get("server")
    default = (*LOOPBACK_NAMES, _bracketed(str(server[0]))) if server else LOOPBACK_NAMES
    allowed = policy.allowed_hosts or tuple(map(_bracketed, default))
    return any(_matches(place, _place(_bracketed(entry))) for entry in allowed)


def _matches(place: tuple[str, int | None], entry: tuple[str, int | None] | None) -> bool:
    """A port is compared only where the entry names one: tunnels and port mappings change it."""
    return entry is not None and place[0] == entry[0] and entry[1] in (None, place[1])


def _same_origin(origin: str, host: str) -> bool:
    scheme, separator, rest = origin.partition("://")
    return separator == "://" and scheme in {"http", "https"} and _place(rest) == _place(host)


def _place(host: str) -> tuple[str, int | None] | None:
    """Split `name`, `name:port`, `[v6]:port` into name and port; None for what is not a host."""
    if not host or any(char in host for char in "/@?#\\ \t"):
        return None
    try:
        parts = urlsplit(f"//{host}")
        return ((parts.hostname or "").rstrip("."), parts.port) if parts.hostname else None
    except ValueError:
        return None


def _bracketed(host: str) -> str:
    return f"[{host}]" if host.count(":") > 1 and not host.startswith("[") else host


def _without_key(scope: Mapping[str, Any], policy: Policy) -> Refusal | None:
    if not policy.root_key:
        return Refusal(403, NO_KEY)
    headers = dict(_headers(scope))
    key = _presented_key(headers)
    if key is None and (sessions := presented_sessions(headers)):
        return _without_session(scope["method"], headers, sessions, policy)
    if not is_key(key, policy.root_key):
        return Refusal(401, "the root key is missing or wrong", wrong_key=key is not None)
    return None


def _without_session(
    method: str, headers: Mapping[str, str], sessions: Sequence[str], policy: Policy
) -> Refusal | None:
    if not any(is_session(session, policy.root_key or "", policy.now_s) for session in sessions):
        return Refusal(401, "the session has ended; sign in again")
    if not is_from_page(method, headers):
        return Refusal(403, "a session is for the admin page only; other clients send the root key")
    return None


def _presented_key(headers: Mapping[str, str]) -> str | None:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key")


def is_key(presented: str | None, key: str) -> bool:
    """Compare digests in constant time: not even the key's length shows."""
    given = (presented or "").encode("latin-1", "replace")
    same = hmac.compare_digest(sha256(given).digest(), sha256(key.encode()).digest())
    return presented is not None and same


def _headers(scope: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    for name, value in scope.get("headers") or ():
        yield name.decode("latin-1").lower(), value.decode("latin-1").strip()
