"""Who may call /admin: every sentence of the contract on callers over TCP, and the kernel's word on the socket."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotreload.admin.guard import PEER, Caller, Peer, Policy, Refusal, judge

KEY = "s3cret-ключ"
OPEN = Policy(KEY)


def scope(*headers: tuple[str, str], host: str | None = "127.0.0.1:8750", state: Any = None) -> dict[str, Any]:
    given_host = [("host", host)] if host is not None else []
    return {
        "type": "http",
        "server": ("10.1.2.3", 8750),
        "client": ("10.9.9.9", 4242),
        "headers": [(name.encode("latin-1"), value.encode()) for name, value in (*given_host, *headers)],
        "state": state if state is not None else {},
    }


def bearer(key: str = KEY) -> tuple[str, str]:
    return ("authorization", f"Bearer {key}")


def status(verdict: Caller | Refusal) -> int:
    return verdict.status if isinstance(verdict, Refusal) else 200


def test_peer_of_the_control_socket_needs_nothing_else() -> None:
    verdict = judge(scope(host="evil.example", state={PEER: Peer(812, 0)}), Policy(None))
    assert verdict == Caller("pid 812 uid 0", local=True)


def test_nothing_but_our_own_object_makes_a_caller_local() -> None:
    for forged in ("pid 1 uid 0", {"pid": 1, "uid": 0}, None):
        assert status(judge(scope(state={PEER: forged}), OPEN)) == 401
    assert status(judge(scope((PEER, "pid 1 uid 0"), ("x-forwarded-for", "127.0.0.1")), OPEN)) == 401


def test_without_a_configured_key_admin_stays_on_the_control_socket() -> None:
    for key in (None, ""):
        verdict = judge(scope(bearer("")), Policy(key))
        assert isinstance(verdict, Refusal)
        assert verdict.status == 403
        assert "control socket" in verdict.message


@pytest.mark.parametrize(
    "header", [bearer(), ("authorization", f"bearer   {KEY} "), ("x-api-key", KEY), ("X-API-Key", KEY)]
)
def test_the_key_opens(header: tuple[str, str]) -> None:
    verdict = judge(scope(header), OPEN)
    assert verdict == Caller("root key from 10.9.9.9", local=False)


@pytest.mark.parametrize(
    "header",
    [
        bearer(""),
        bearer(KEY + "x"),
        bearer(KEY[:-1]),
        ("authorization", f"Basic {KEY}"),
        ("x-api-key", ""),
        ("x-key", KEY),
    ],
)
def test_anything_else_does_not(header: tuple[str, str]) -> None:
    assert status(judge(scope(header), OPEN)) == 401


@given(st.text())
def test_no_other_text_is_the_key(text: str) -> None:
    if text.strip() != KEY:
        headers = [("authorization", "Bearer " + text)]
        raw = scope()
        raw["headers"] += [(name.encode(), value.encode("utf-8", "replace")) for name, value in headers]
        assert status(judge(raw, OPEN)) == 401


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1", "127.0.0.1:8750", "[::1]:8750", "[::1]", "10.1.2.3:8750", "localhost."]
)
def test_loopback_names_and_the_bound_address_are_served(host: str) -> None:
    assert status(judge(scope(bearer(), host=host), OPEN)) == 200


@pytest.mark.parametrize(
    "host",
    [None, "", "evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "user@localhost", "localhost/x",
     "10.1.2.4", "[::2]", "[::1", "localhost:port", " ", "localhost:99999"],
)  # fmt: skip
def test_every_other_host_is_refused_even_with_the_key(host: str | None) -> None:
    assert status(judge(scope(bearer(), host=host), OPEN)) == 403


def test_two_hosts_are_refused() -> None:
    assert status(judge(scope(bearer(), ("host", "localhost")), OPEN)) == 403


def test_forwarded_headers_are_not_believed() -> None:
    forwarded = [("x-forwarded-host", "localhost"), ("forwarded", "host=localhost;for=127.0.0.1")]
    assert status(judge(scope(bearer(), *forwarded, host="evil.example"), OPEN)) == 403
    foreign = [("x-forwarded-host", "evil.example"), ("x-forwarded-for", "1.1.1.1")]
    assert judge(scope(bearer(), *foreign), OPEN) == Caller("root key from 10.9.9.9", local=False)


def test_allowed_hosts_replace_the_default_and_may_name_a_port() -> None:
    policy = Policy(KEY, ("ov.example", "admin.example:8443", "2001:db8::1"))
    for host, expected in (
        ("ov.example", 200),
        ("OV.example:1", 200),
        ("admin.example:8443", 200),
        ("admin.example", 403),
        ("[2001:db8::1]:8750", 200),
        ("localhost", 403),
    ):
        assert status(judge(scope(bearer(), host=host), policy)) == expected, host


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ("http://127.0.0.1:8750", 200),
        ("https://127.0.0.1:8750", 200),
        ("http://127.0.0.1", 403),
        ("http://evil.example", 403),
        ("null", 403),
        ("", 403),
        ("file://127.0.0.1:8750", 403),
    ],
)
def test_a_foreign_origin_is_refused(origin: str, expected: int) -> None:
    assert status(judge(scope(bearer(), ("origin", origin)), OPEN)) == expected


def test_mounted_in_an_application_without_server_or_state() -> None:
    bare = {"type": "http", "headers": [(b"host", b"localhost"), (b"x-api-key", KEY.encode())]}
    assert judge(bare, OPEN) == Caller("root key", local=False)
