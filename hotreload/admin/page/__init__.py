"""The admin page: three static files and a person's session. It shows what the JSON routes beside it say."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from hotreload.admin.exchange import read_body
from hotreload.admin.guard import NO_KEY, Policy, foreign_place, is_key
from hotreload.admin.session import WrongKeys, is_session, new_session, presented_sessions, set_cookie

SECURITY: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
_FILES: Final = {
    "": ("index.html", "text/html"),
    "page.js": ("page.js", "text/javascript"),
    "page.css": ("page.css", "text/css"),
}


class Page:
    """The page's routes; the static files need no key and tell nothing. `policy` is asked at each use."""

    def __init__(self, policy: Callable[[], Policy], wrong_keys: WrongKeys) -> None:
        self._policy = policy
        self._wrong_keys = wrong_keys

    def routes(self, at: str = "/admin") -> list[Route]:
        """Return the routes: the files below `at`/, and the session at `at`/session."""
        return [
            Route(at, _to_folder, methods=["GET"]),
            *(Route(f"{at}/{name}", _static(*served), methods=["GET"]) for name, served in _FILES.items()),
            Route(f"{at}/session", self.sign_in, methods=["POST"]),
            Route(f"{at}/session", self.sign_out, methods=["DELETE"]),
            Route(f"{at}/session", self.signed_in, methods=["GET"]),
        ]

    async def sign_in(self, request: Request) -> Response:
        """Open a session for who shows the root key: 204 with the cookie; 401 for a wrong key, later and later."""
        policy = self._policy()
        refused = foreign_place(request.scope, policy)
        if refused is not None or policy.root_key is None:
            raise HTTPException(403, refused.message if refused else NO_KEY)
        key = (await read_body(request, {"key": str})).get("key")
        if key is None:
            raise HTTPException(400, "key is missing")
        if not is_key(key, policy.root_key):
            await self._wrong_keys.refused(request.client.host if request.client else "the page")
            raise HTTPException(401, "this is not the root key")
        return Response(
            status_code=204,
            headers={"Set-Cookie": set_cookie(new_session(policy.root_key, policy.now_s), _cookie_path(request))},
        )

    async def sign_out(self, request: Request) -> Response:
        """End the browser's session."""
        return Response(status_code=204, headers={"Set-Cookie": set_cookie("", _cookie_path(request))})

    async def signed_in(self, request: Request) -> Response:
        """Say whether the browser has a session; on the control socket it needs none."""
        key = self._policy().root_key
        valid = key is not None and any(
            is_session(one, key, time.time()) for one in presented_sessions(request.headers)
        )
        return JSONResponse({"signed_in": valid}, headers={"Cache-Control": "no-store"})


def _cookie_path(request: Request) -> str:
    """Return the folder that the session's routes are in, under whatever the application is mounted."""
    return request.url.path.rpartition("/")[0]


def _static(name: str, kind: str) -> Callable[[Request], Awaitable[Response]]:
    body = (files("hotreload.admin.page") / name).read_bytes()

    async def serve(_request: Request) -> Response:
        return Response(body, media_type=kind, headers=SECURITY)

    return serve


async def _to_folder(request: Request) -> Response:
    """Take a browser to the folder: the page's own references are relative to it."""
    return RedirectResponse(f"{request.url.path}/", headers=SECURITY)
