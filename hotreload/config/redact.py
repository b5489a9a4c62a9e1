"""What is shown of a configuration: keyed fingerprints instead of secrets.

The key is random and never leaves the state folder, so that a fingerprint is no oracle: nobody can try
passwords against it (HMAC-SHA256, RFC 2104).
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, cast

from hotreload.config.fields import FieldRule
from hotreload.config.masking import mask_tree
from hotreload.config.scrubbing import Scrubber
from hotreload.errors import ConfigUnreadable, Problem

KEY_BYTES: Final = 32
KEY_NAME: Final = "fingerprint.key"


class Redactor:
    """Shows values of one installation; two with the same key show the same.

    It learns the secrets of the configurations it meets, so that `scrub` takes them out of texts that others wrote
    (see `Scrubber`).
    """

    def __init__(self, key: bytes, known: Scrubber | None = None) -> None:
        self._key = key
        self._known = known or Scrubber()
        self.learn, self.release, self.scrub = self._known.learn, self._known.release, self._known.scrub

    def fingerprint(self, values: Mapping[str, object]) -> str:
        """Return `hmac:` and 32 hex digits over effective leaves; order and spelling of numbers do not matter."""
        return f"hmac:{self._digest('configuration', values)[:32]}"

    def secret(self, path: str, value: object) -> str:
        """Return `secret:hmac:` and 12 hex digits: changes when the value does, differs from field to field."""
        return f"secret:hmac:{self._digest(f'secret {path}', value)[:12]}"

    def show(self, path: str, value: object, rule: FieldRule) -> object:
        """Return what may be shown of a leaf, a JSON value; None stays None."""
        if value is None:
            return None
        return self.secret(path, value) if rule.secret else mask_tree(value, path, self.secret)

    def _digest(self, purpose: str, value: object) -> str:
        return hmac.new(self._key, f"{purpose}\0{canonical(value)}".encode(), "sha256").hexdigest()


def canonical(value: object) -> str:
    """Return one JSON text for equal values: keys sorted, 25.0 written as 25."""
    return json.dumps(_normal(value), sort_keys=True, separators=(",", ":"), default=repr)


def load_key(state_dir: Path) -> bytes:
    """Return the fingerprint key of a state folder, made at the first call (32 random bytes, mode 0600).

    Two processes that make it at once end with the same one. Wider permissions are taken back;
    ConfigUnreadable for a key that is damaged or cannot be read or written.
    """
    path = state_dir / KEY_NAME
    try:
        with suppress(FileNotFoundError):
            return _read_key(path)
        _create_key(path)
        return _read_key(path)
    except OSError as error:
        reason = error.strerror or type(error).__name__
    raise ConfigUnreadable([Problem("hotreload.state_dir", f"the fingerprint key {path} cannot be used: {reason}")])


def _read_key(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    with open(descriptor, "rb") as file:
        key = file.read(KEY_BYTES + 1)
        if os.fstat(descriptor).st_mode & 0o077:
            os.fchmod(descriptor, 0o600)
    if len(key) == KEY_BYTES:
        return key
    problem = Problem(
        "hotreload.state_dir",
        f"the fingerprint key {path} is damaged: {len(key)} bytes instead of {KEY_BYTES}",
        hint="remove it; a new one is made, and fingerprints change once",
    )
    raise ConfigUnreadable([problem])


def _create_key(path: Path) -> None:
    """Write the key beside and link it into place: whoever links first has made it, and it is never half there."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    own = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(descriptor)
        with suppress(FileExistsError):
            os.link(own, path)
    finally:
        own.unlink()
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _normal(value: object) -> object:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {str(key): _normal(item) for key, item in cast("Mapping[object, object]", value).items()}
    if isinstance(value, (list, tuple)):
        return [_normal(item) for item in cast("Sequence[object]", value)]
    return value
