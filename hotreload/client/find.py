"""Find the running service that is meant, and make sure it is one to talk to."""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from hotreload.admin.control_socket import peer_of
from hotreload.admin.guard import Peer
from hotreload.admin.place import SOCKET_NAME, Places, check_name
from hotreload.client.trusted import check_peer, trusted_uids
from hotreload.errors import ServiceMisnamed, ServiceUnreachable, reason_of

PROBE_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the options say about the service; all None: look for it in `places`, by default those of this process."""

    url: str | None = None
    key_file: Path | None = None
    socket: Path | None = None
    name: str | None = None
    places: Places | None = None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A service to talk to: by `url` and `key`, or by `socket`, whose server `peer` is and must stay `trusted`."""

    shown: str
    url: str
    key: str | None = None
    socket: str | None = None
    peer: Peer | None = None
    trusted: frozenset[int] = frozenset()


def find(wanted: Wanted, environ: Mapping[str, str] = os.environ) -> Endpoint:
    """Return the service that options and environment point to; an option is stronger than the environment.

    ServiceUnreachable says where was looked and why that failed; ServiceMisnamed where several run, or where what was
    given cannot be used.
    """
    if wanted.url is None and wanted.socket is not None:
        return connect(wanted.socket)
    url = wanted.url or environ.get("HOTRELOAD_URL")
    if url:
        return _by_url(url, wanted.key_file or _path(environ.get("HOTRELOAD_KEY_FILE")))
    if environ.get("HOTRELOAD_SOCKET"):
        return connect(Path(environ["HOTRELOAD_SOCKET"]))
    places = wanted.places or Places.of_process(environ)
    if places.runtime_directory is not None:
        return connect(places.runtime_directory / SOCKET_NAME)
    return _by_name(places, wanted.name) if wanted.name else _only_one(places)


def connect(path: Path, *, default_place: bool = False) -> Endpoint:
    """Return the service behind a control socket; ServiceUnreachable with the reason where there is none to trust.

    The folder is opened first and everything goes through its descriptor, so that what is checked is what is
    used. It stays open for the life of this process, which is short. `default_place` is one where anybody may have
    made the folder: then it must be one's own or root's, and no link.
    """
    path = path.absolute()
    follow = os.O_NOFOLLOW if default_place else 0
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | follow)
        owner = os.fstat(folder).st_uid
        if default_place and owner not in (os.geteuid(), 0):
            raise ServiceUnreachable(f"{path}: its folder belongs to uid {owner}, neither you nor root; not trusted")
        address = f"/proc/self/fd/{folder}/{path.name}"
        peer = _probe(address)
    except OSError as error:
        raise ServiceUnreachable(f"{path}: {_why(error, path.parent)}") from error
    trusted = trusted_uids(os.geteuid(), owner, default_place=default_place)
    check_peer(str(path), peer, trusted)
    return Endpoint(shown=str(path), url="http://hotreload", socket=address, peer=peer, trusted=trusted)


def _probe(address: str) -> Peer:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(PROBE_S)
        connection.connect(address)
        return peer_of(connection)


def _why(error: OSError, folder: Path) -> str:
    match error:
        case NotADirectoryError() if folder.is_symlink():
            return "its folder is a symbolic link; not trusted"
        case OSError(errno=errno.ELOOP):
            return "its folder is a symbolic link; not trusted"
        case FileNotFoundError():
            return "no such socket"
        case ConnectionRefusedError():
            return "no process listens there (left behind by a service that is gone)"
        case PermissionError():
            return "permission denied; it belongs to another user"
        case TimeoutError():
            return f"no answer within {PROBE_S:.0f} s"
        case _:
            return error.strerror or str(error)


def _by_url(url: str, key_file: Path | None) -> Endpoint:
    try:
        usable = httpx.URL(url).scheme in ("http", "https") and bool(httpx.URL(url).host)
    except (httpx.InvalidURL, UnicodeError):  # bytes that are not UTF-8
        usable = False
    if not usable:
        raise ServiceMisnamed(f"--url takes http://HOST:PORT or https://HOST:PORT, not {url!r}")
    return Endpoint(shown=url, url=url.rstrip("/"), key=_key(key_file) if key_file else None)


def _key(key_file: Path) -> str:
    """Read a key; what cannot stand in a header is refused here, where nothing of it is shown."""
    try:
        key = key_file.read_bytes().strip()
    except OSError as error:
        raise ServiceMisnamed(f"the key file cannot be read: {reason_of(error)}") from error
    if not key or not all(0x21 <= byte < 0x7F for byte in key):
        raise ServiceMisnamed(f"the key file {key_file} must hold one key of printable ASCII and nothing else")
    return key.decode("ascii")


def _by_name(places: Places, name: str) -> Endpoint:
    try:
        candidates = places.of_name(check_name(name))
    except ValueError as error:
        raise ServiceMisnamed(str(error)) from error
    reasons: list[str] = []
    for path in candidates:
        try:
            return connect(path, default_place=_may_be_anybodys(places, path))
        except ServiceUnreachable as error:
            reasons.append(str(error))
    raise _none_found(f"no service {name!r} is running", reasons)


def _only_one(places: Places) -> Endpoint:
    found: dict[str, Endpoint] = {}
    reasons: list[str] = []
    for name, path in places.existing():
        try:
            found.setdefault(name, connect(path, default_place=_may_be_anybodys(places, path)))
        except ServiceUnreachable as error:
            reasons.append(str(error))
    if len(found) > 1:
        raise ServiceMisnamed(f"several services are running: {', '.join(found)}; choose one with --name")
    if not found:
        raise _none_found("no service is running", reasons or [f"looked for {place}" for place in places.shown("*")])
    return next(iter(found.values()))


def _may_be_anybodys(places: Places, path: Path) -> bool:
    """Tell a place whose folder anybody may have made from `/run/NAME`, which only root makes."""
    return path.parent.parent != places.system


def _none_found(message: str, reasons: Sequence[str]) -> ServiceUnreachable:
    return ServiceUnreachable("\n".join((message, *reasons)))


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None


def in_ascii(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a request with its `json` as ASCII: a key may be a file name that is not UTF-8."""
    if "json" not in request:
        return dict(request)
    rest = {name: value for name, value in request.items() if name not in ("json", "headers")}
    headers = {"Content-Type": "application/json", **request.get("headers", {})}
    return {**rest, "content": json.dumps(request["json"], allow_nan=False).encode("ascii"), "headers": headers}
