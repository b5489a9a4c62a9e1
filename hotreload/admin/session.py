"""A person's sign-in to the admin page: the root key once, then a cookie that ends when the key is rotated.

The cookie holds an expiry, a random number and an HMAC over both, keyed by the root key: the server keeps no
state, a restart signs no one out, and a new root key signs everyone out. A cookie is sent by a browser
without being asked, so whatever changes something must also come from this page: `SameSite=Strict`, and an
`Origin` or `Sec-Fetch-Site` that says so (OWASP, Cross-Site Request Forgery Prevention).
"""

from __future__ import annotations

import base64
import binascii
import hmac
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

import anyio

log = logging.getLogger(__name__)

COOKIE: Final = "hotreload_session"
LASTS_S: Final = 12 * 3600
_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_NONCE_BYTES: Final = 16
FREE_TRIES: Final = 3
"""Wrong keys in a row that are answered at once."""
SLOWEST_S: Final = 4.0
FORGIVEN_S: Final = 60.0
"""After this long without a wrong key, the next one is answered at once again."""
LOG_EVERY_S: Final = 10.0


def new_session(root_key: str, now_s: float) -> str:
    """Return the value of a session cookie that ends `LASTS_S` after `now_s` (Unix seconds)."""
    message = int(now_s + LASTS_S).to_bytes(8, "big") + secrets.token_bytes(_NONCE_BYTES)
    return base64.urlsafe_b64encode(message + _seal(root_key, message)).decode()


def is_session(value: str, root_key: str, now_s: float) -> bool:
    """Say whether a cookie's value was made with this root key and has not expired."""
    try:
        raw = base64.b64decode(value.encode("latin-1", "replace"), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return False
    message, seal = raw[: 8 + _NONCE_BYTES], raw[8 + _NONCE_BYTES :]
    whole = hmac.compare_digest(seal, _seal(root_key, message))
    return whole and len(message) == 8 + _NONCE_BYTES and int.from_bytes(message[:8], "big") > now_s


def _seal(root_key: str, message: bytes) -> bytes:
    return hmac.digest(sha256(b"hotreload session\0" + root_key.encode()).digest(), message, "sha256")


def presented_sessions(headers: Mapping[str, str]) -> list[str]:
    """Return the values of a request's session cookies; another hand may have planted one of the same name."""
    pairs = (pair.strip().partition("=") for pair in headers.get("cookie", "").split(";"))
    return [value for name, _, value in pairs if name == COOKIE]


def is_from_page(method: str, headers: Mapping[str, str]) -> bool:
    """Say whether a request that carries a cookie may change something: it says that it comes from this origin.

    A foreign `Origin` is refused before this is asked. A browser sends an `Origin` with every request that is
    not GET or HEAD, so one without it and without `Sec-Fetch-Site: same-origin` was not made by the page.
    """
    if method in _SAFE_METHODS:
        return headers.get("sec-fetch-site", "same-origin") in ("same-origin", "none")
    return "origin" in headers or headers.get("sec-fetch-site") == "same-origin"


def set_cookie(value: str, path: str) -> str:
    """Return the `Set-Cookie` header that signs in; an empty value signs out."""
    lasts = LASTS_S if value else 0
    return f"{COOKIE}={value}; Path={path or '/'}; Max-Age={lasts}; HttpOnly; SameSite=Strict"


@dataclass(slots=True)
class WrongKeys:
    """Slows down guesses of the root key, and logs them: three are answered at once, each later one twice as late.

    The answer to a wrong key waits 4 s at most, from wherever the others came; a right key never waits.
    """

    now_s: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[object]] = anyio.sleep
    _count: int = 0
    _last_s: float = float("-inf")
    _logged_s: float = float("-inf")
    _unlogged: int = 0

    async def refused(self, source: str) -> None:
        """Note a wrong key from `source` (for the log) and return when it may be answered."""
        now = self.now_s()
        self._count = 1 if now - self._last_s > FORGIVEN_S else self._count + 1
        self._last_s = now
        self._log(source, now)
        if self.delay_s:
            await self.sleep(self.delay_s)

    @property
    def delay_s(self) -> float:
        """How long the answer to the last wrong key waits."""
        return 0.0 if self._count <= FREE_TRIES else min(SLOWEST_S, 0.25 * 2 ** min(self._count - FREE_TRIES - 1, 10))

    def _log(self, source: str, now: float) -> None:
        self._unlogged += 1
        if now - self._logged_s >= LOG_EVERY_S:
            log.warning("admin.wrong_key from=%s count=%d", source, self._unlogged)
            self._logged_s, self._unlogged = now, 0
