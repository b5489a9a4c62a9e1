"""PURE: what looks secret by its name or its shape, and how a text or a tree is shown without it.

A mark on a field says what is secret; this is the second net, for what nobody marked: passwords in URLs,
`Authorization` in a map of headers, a token nested in a list.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, cast
from urllib.parse import unquote


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


SECRET_WORDS: Final = _words(
    "key keys apikey apikeys token tokens secret secrets password passwords passwd pwd passphrase pass credential "
    "credentials authorization cookie cookies auth bearer signature sig"
)
NOT_AFTER: Final = _words(
    "file files path paths dir directory folder name names id ids url uri endpoint env ttl s ms seconds minutes hours "
    "days bytes count limit limits size length len prefix suffix header type kind mode method algorithm budget "
    "version enabled required rotation expiry interval timeout rate minute second hour day ratio per field column "
    "provider"
)
NOT_BEFORE: Final = _words(
    "max min num total count public primary foreign sort partition cache dedup idempotency group routing shard input "
    "output prompt completion context"
)
WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
MASK: Final = "***"
USERINFO: Final = re.compile(r"(?P<scheme>\b[A-Za-z][A-Za-z0-9+.-]*://)(?P<user>[^\s/?#@:]*)(?P<password>:[^\s/?#]*)?@")
QUERY: Final = re.compile(r"(?P<name>(?<=[?&;])[\w.-]+)=(?P<value>[^&;#\s]+)")
SCHEME: Final = re.compile(r"\b(?P<scheme>Bearer|Basic|Digest|Token)\s+(?P<value>[\w.~+/=:-]{4,})", re.IGNORECASE)
WHOLE: Final = re.compile(
    r"\s*(?P<scheme>Bearer|Basic|Digest|Token)\s+(?P<value>\S.{3,}?)\s*", re.IGNORECASE | re.DOTALL
)
TOKEN_LENGTH: Final = 16
"""A user name in a URL of so many characters is a token; a shorter one may be a word like any other."""
DIGITS: Final = 6
"""A number of fewer digits is too common to be looked for in texts."""

Replace = Callable[[str, object], object]


def looks_secret(name: str) -> bool:
    """Tell whether a field of this name should hold a secret (`api_key`, not `max_tokens` nor `key_file`)."""
    words = [word.lower() for word in WORD.findall(name)]
    return any(_secret_word(words, index) for index in range(len(words)))


def mask_text(text: str) -> str:
    """Hide passwords in URLs, secret query parameters and credentials after a scheme such as `Bearer`."""
    text = USERINFO.sub(_mask_userinfo, text)
    text = QUERY.sub(lambda m: f"{m['name']}={MASK}" if looks_secret(m["name"]) else m[0], text)
    return SCHEME.sub(lambda m: f"{m['scheme']} {MASK}", text)


def mask_value(text: str) -> str:
    """Hide what `mask_text` does in a value of its own: all that follows a scheme is the credential."""
    whole = WHOLE.fullmatch(text)
    return f"{whole['scheme']} {MASK}" if whole else mask_text(text)


def embedded(text: str) -> Iterator[str]:
    """Yield the secrets that `mask_value` hides, as they are written and without the escapes of a URL."""
    for match in USERINFO.finditer(text):
        password = (match["password"] or "")[1:] or (match["user"] if len(match["user"]) >= TOKEN_LENGTH else "")
        yield from (password, unquote(password))
    for match in QUERY.finditer(text):
        if looks_secret(match["name"]):
            yield from (match["value"], unquote(match["value"]))
    if whole := WHOLE.fullmatch(text):
        yield whole["value"]


def mask_tree(value: object, path: str, replace: Replace, mask: Callable[[str], str] = mask_value) -> object:
    """Return a JSON value without secrets: `replace(path, value)` stands for what a secret-looking key holds.

    Any other text goes through `mask`.
    """
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, Mapping):
        return _mask_map(cast("Mapping[object, object]", value), path, replace, mask)
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return _mask_list(cast("Sequence[object]", value), path, replace, mask)
    return value


def texts(value: object) -> Iterator[str]:
    """Yield every text in a JSON value, and every number of many digits as one."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in cast("Mapping[object, object]", value).values():
            yield from texts(item)
    elif isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        for item in cast("Sequence[object]", value):
            yield from texts(item)
    elif isinstance(value, (int, float)) and not isinstance(value, bool) and len(str(value)) >= DIGITS:
        yield str(value)


def _secret_word(words: Sequence[str], index: int) -> bool:
    if words[index] not in SECRET_WORDS:
        return False
    if words[-1] in NOT_AFTER and words[-1] not in SECRET_WORDS:
        return False
    return index == 0 or words[index - 1] not in NOT_BEFORE


def _mask_userinfo(match: re.Match[str]) -> str:
    if match["password"]:
        return f"{match['scheme']}{match['user']}:{MASK}@"
    return f"{match['scheme']}{MASK if match['user'] else ''}@"


def _mask_map(
    value: Mapping[object, object], path: str, replace: Replace, mask: Callable[[str], str]
) -> dict[str, object]:
    named = value.get("name", value.get("key"))
    result: dict[str, object] = {}
    for key, item in value.items():
        inner = f"{path}.{key}" if path else str(key)
        secret = looks_secret(str(key)) and not (key == "key" and "value" in value)
        secret = secret or (key == "value" and isinstance(named, str) and looks_secret(named))
        result[str(key)] = _masked(item, inner, replace) if secret else mask_tree(item, inner, replace, mask)
    return result


def _mask_list(value: Sequence[object], path: str, replace: Replace, mask: Callable[[str], str]) -> list[object]:
    if len(value) == 2 and isinstance(value[0], str) and looks_secret(value[0]):
        return [value[0], _masked(value[1], f"{path}.1", replace)]
    return [mask_tree(item, f"{path}.{index}", replace, mask) for index, item in enumerate(value)]


def _masked(value: object, path: str, replace: Replace) -> object:
    return value if value is None or isinstance(value, bool) or value == "" else replace(path, value)
