"""A session ends with its key and its time, is not forged, and wrong keys are answered later and later."""

from __future__ import annotations

import base64
import logging
from http.cookies import SimpleCookie
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotreload.admin.guard import Caller, Policy, Refusal, judge
from hotreload.admin.session import (
    COOKIE,
    FREE_TRIES,
    LASTS_S,
    SLOWEST_S,
    WrongKeys,
    is_session,
    new_session,
    set_cookie,
)

KEY, NOW = "root-key-of-a-test", 1_795_000_000.0


def scope(method: str, *headers: tuple[str, str]) -> dict[str, Any]:
    given_headers = [("host", "localhost:8750"), *headers]
    return {
        "type": "http", "method": method, "server": ("127.0.0.1", 8750), "client": ("127.0.0.1", 4242), "state": {},
        "headers": [(name.encode(), value.encode()) for name, value in given_headers],
    }  # fmt: skip


def cookie(value: str) -> tuple[str, str]:
    return ("cookie", f"other=1; {COOKIE}={value}")


def test_a_session_lasts_until_its_end_and_not_a_second_longer() -> None:
    session = new_session(KEY, NOW)
    assert is_session(session, KEY, NOW)
    assert is_session(session, KEY, NOW + LASTS_S - 2)
    assert not is_session(session, KEY, NOW + LASTS_S + 1)


def test_another_key_ends_every_session() -> None:
    assert not is_session(new_session(KEY, NOW), "another key", NOW)


def test_no_two_sessions_are_alike() -> None:
    assert new_session(KEY, NOW) != new_session(KEY, NOW)


@given(st.binary(max_size=80))
def test_what_was_not_made_here_is_no_session(raw: bytes) -> None:
    for value in (base64.urlsafe_b64encode(raw).decode(), raw.decode("latin-1")):
        assert not is_session(value, KEY, NOW)


@given(st.integers(0, 55), st.integers(1, 255))
def test_a_session_with_one_byte_changed_is_refused(place: int, change: int) -> None:
    raw = bytearray(base64.urlsafe_b64decode(new_session(KEY, NOW)))
    raw[place] ^= change
    assert not is_session(base64.urlsafe_b64encode(bytes(raw)).decode(), KEY, NOW)


def verdict(method: str, *headers: tuple[str, str], now_s: float = NOW) -> int:
    found = judge(scope(method, *headers), Policy(KEY, (), now_s))
    return found.status if isinstance(found, Refusal) else 200


def test_a_cookie_reads_and_changes_only_from_the_page_itself() -> None:
    session = cookie(new_session(KEY, NOW))
    own, foreign = ("origin", "http://localhost:8750"), ("origin", "http://evil.example")
    assert verdict("GET", session) == verdict("POST", session, own) == 200
    assert verdict("POST", session, ("sec-fetch-site", "same-origin")) == 200
    assert verdict("POST", session) == 403
    assert verdict("POST", session, ("sec-fetch-site", "cross-site")) == 403
    assert verdict("GET", session, ("sec-fetch-site", "same-site")) == 403
    assert verdict("POST", session, foreign) == verdict("GET", session, foreign) == 403
    assert verdict("GET", session, now_s=NOW + LASTS_S + 1) == 401
    assert verdict("GET", cookie("x" * 80)) == 401


def test_a_wrong_key_is_not_saved_by_a_session_beside_it() -> None:
    found = judge(scope("GET", cookie(new_session(KEY, NOW)), ("x-api-key", "guess")), Policy(KEY, (), NOW))
    assert isinstance(found, Refusal)
    assert (found.status, found.wrong_key) == (401, True)
    assert isinstance(judge(scope("POST", ("x-api-key", KEY)), Policy(KEY, (), NOW)), Caller)


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites() -> None:
    morsel = SimpleCookie(set_cookie("value", "/ops/admin"))[COOKIE]
    assert morsel["httponly"]
    assert (morsel["samesite"], morsel["path"], morsel["max-age"]) == ("Strict", "/ops/admin", str(LASTS_S))
    assert SimpleCookie(set_cookie("", "/admin"))[COOKIE]["max-age"] == "0"


@pytest.mark.anyio
async def test_wrong_keys_are_answered_later_and_later_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    now, slept = [0.0], list[float]()

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    wrong_keys = WrongKeys(now_s=lambda: now[0], sleep=sleep)
    with caplog.at_level(logging.WARNING):
        for _ in range(FREE_TRIES + 8):
            await wrong_keys.refused("10.9.9.9")
    assert slept == [0.25, 0.5, 1.0, 2.0, SLOWEST_S, SLOWEST_S, SLOWEST_S, SLOWEST_S]
    assert [record.getMessage() for record in caplog.records] == ["admin.wrong_key from=10.9.9.9 count=1"]
    now[0] = 20.0
    await wrong_keys.refused("10.9.9.9")
    assert caplog.records[-1].getMessage().endswith(f"count={FREE_TRIES + 8}")
    now[0], slept[:] = 1000.0, []
    await wrong_keys.refused("10.9.9.9")
    assert slept == [], "who erred once after a long time is not punished"
