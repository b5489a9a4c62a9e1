"""Talk over a control socket only to a server that is one's own user's or root's; asked at every connection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import httpx

from hotreload.admin.control_socket import peer_of
from hotreload.admin.guard import Peer
from hotreload.errors import ServiceUnreachable

_CONNECTED: Final = "connection.connect_unix_socket.complete"


def trusted_uids(own: int, folder_owner: int, *, default_place: bool) -> frozenset[int]:
    """Return the users whose server may be talked to: oneself and root.

    Root may also talk to the user a folder belongs to, where root named the socket or only root could have
    made the folder; not in a place that anybody can squat.
    """
    return frozenset({own, 0} | ({folder_owner} if own == 0 and not default_place else set[int]()))


def check_peer(shown: str, peer: Peer, trusted: frozenset[int]) -> None:
    """ServiceUnreachable where the server of a socket is none to trust."""
    if peer.uid not in trusted:
        raise ServiceUnreachable(f"{shown}: its server runs as uid {peer.uid}, neither you nor root; not trusted")


class TrustedTransport(httpx.HTTPTransport):
    """HTTP over a Unix socket; who listens is asked of the kernel before the first byte of each connection.

    Between finding a socket and using it another one can be put in its place.
    """

    def __init__(self, shown: str, socket: str, trusted: frozenset[int]) -> None:
        super().__init__(uds=socket)
        self._shown = shown
        self._trusted = trusted

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; ServiceUnreachable before anything is sent to a server that is not trusted."""
        request.extensions["trace"] = self._trace  # httpcore calls it at each step, with what the step returned
        return super().handle_request(request)

    def _trace(self, event: str, info: Mapping[str, Any]) -> None:
        if event != _CONNECTED:
            return
        stream = info["return_value"]
        try:
            check_peer(self._shown, peer_of(stream.get_extra_info("socket")), self._trusted)
        except BaseException:
            stream.close()
            raise


class AsyncTrustedTransport(httpx.AsyncHTTPTransport):
    """As `TrustedTransport`, for asynchronous clients."""

    def __init__(self, shown: str, socket: str, trusted: frozenset[int]) -> None:
        super().__init__(uds=socket)
        self._shown = shown
        self._trusted = trusted

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; ServiceUnreachable before anything is sent to a server that is not trusted."""
        request.extensions["trace"] = self._trace
        return await super().handle_async_request(request)

    async def _trace(self, event: str, info: Mapping[str, Any]) -> None:
        if event != _CONNECTED:
            return
        stream = info["return_value"]
        try:
            check_peer(self._shown, peer_of(stream.get_extra_info("socket")), self._trusted)
        except BaseException:
            await stream.aclose()
            raise
