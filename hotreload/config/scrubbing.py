"""Known secrets, taken out of texts that others wrote: messages and tracebacks of the code that used them.

Such code passes a secret on in its own spelling: inside a `repr` within a `repr`, in JSON, in a URL, in base64,
as one line of many. Every character is looked for in all of these at once, so that any mixture is found.
"""

from __future__ import annotations

import base64
import html
import re
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from typing import Final, cast

from pydantic import BaseModel

from hotreload.config.fields import FieldRule, leaf_rules, rule_for
from hotreload.config.masking import MASK, embedded, mask_text, mask_tree, texts
from hotreload.config.model import leaf_values

SHORTEST: Final = 4
"""A secret of fewer characters cannot be told from other text."""
LONG: Final = 8
"""From here on a line or a part of a secret counts as one of its own."""
CHUNK: Final = 1023
"""A longer one is looked for piece by piece; a multiple of three, as base64 takes it."""
KEPT: Final = 16
"""Configurations that are remembered though nothing runs on them."""
PLAIN: Final = re.compile(r"[\w.~-]*", re.ASCII)
PART: Final = re.compile(rf"[\w.-]+=(?P<value>[^\s;&,]{{{LONG},}})")
NAMED: Final = {"\n": "n", "\r": "r", "\t": "t", "\b": "b", "\f": "f", " ": r"(?:\+|%(?:25)*2[bB])"}
BACKSLASH: Final = r"(?:\\|%(?:25)*5[cC])"

Form = str | re.Pattern[str]
Spelled = tuple[tuple[int, Form], ...]


def scrub(text: str, secrets: Iterable[str]) -> str:
    """Take secrets (four characters or more) in any spelling, and what has the shape of one, out of a text."""
    return _without(text, _ordered(spell(secret) for secret in set(secrets)))


def secrets_in(values: Mapping[str, object], rule: Callable[[str], FieldRule]) -> frozenset[str]:
    """Return the texts that must not be shown among values by dotted path: by rule, by name, by shape."""
    found: set[str] = set()

    def keep(_path: str, value: object) -> None:
        found.update(texts(value))

    def look(text: str) -> str:
        found.update(embedded(text))
        return text

    for path, value in values.items():
        if rule(path).secret:
            keep(path, value)
        else:
            mask_tree(value, path, keep, look)
    return frozenset(found)


class Scrubber:
    """What one process knows that must not be said. Any thread may call."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a signal handler may log while its own thread is in here
        self._held: dict[int, frozenset[str]] = {}
        self._recent: deque[frozenset[str]] = deque(maxlen=KEPT)
        self._spelled: dict[str, Spelled] = {}
        self._forms: list[Form] | None = []

    def learn(
        self, values: Mapping[str, object], rule: Callable[[str], FieldRule], *, generation: int | None = None
    ) -> None:
        """Remember the secrets among the leaves of a configuration.

        Those of a `generation` are held until `release` is called without it, others until a few more were learnt.
        """
        found = secrets_in(values, rule)
        with self._lock:
            if generation is None:
                self._remember(found)
            else:
                self._remember(self._held.get(generation))
                self._held[generation] = found
            self._forms = None

    def learn_written(self, data: Mapping[str, object], rule: Callable[[str], FieldRule]) -> None:
        """Remember what is secret in a file that nobody has validated yet: by rule, by name and by shape."""
        with self._lock:
            self._remember(secrets_in(dict(_flat(data)), rule) | secrets_in({"": data}, FieldRule))
            self._forms = None

    def learn_settings(self, settings: BaseModel) -> None:
        """Remember the secrets of an instance whose model has the marks."""
        values = {".".join(keys): value for keys, value in leaf_values(settings).items()}
        self.learn(values, partial(rule_for, leaf_rules(type(settings))))

    def release(self, in_use: Collection[int]) -> None:
        """Hold only the generations that still are in use."""
        with self._lock:
            for generation in self._held.keys() - set(in_use):
                self._remember(self._held.pop(generation))
            self._forms = None

    def scrub(self, text: str) -> str:
        """Return a text without the secrets known, in any spelling, and without what has the shape of one."""
        forms = self._forms
        return _without(text, self._spell() if forms is None else forms)

    def _remember(self, found: frozenset[str] | None) -> None:
        if found:
            if found in self._recent:
                self._recent.remove(found)
            self._recent.append(found)

    def _spell(self) -> list[Form]:
        with self._lock:
            known = frozenset[str]().union(*self._recent, *self._held.values())
            self._spelled = {secret: self._spelled.get(secret) or spell(secret) for secret in known}
            self._forms = _ordered(self._spelled.values())
            return self._forms


def _flat(data: Mapping[str, object], above: str = "") -> Iterator[tuple[str, object]]:
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from _flat(cast("Mapping[str, object]", value), f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def spell(secret: str) -> Spelled:
    """Return the length and the form of everything that gives a secret away; a plain text is its own form."""
    found: dict[str, int] = {}
    for piece in _pieces(secret):
        found[piece] = len(piece)
        found.update((core, len(core)) for core in _base64(piece))
    return tuple((length, _form(text)) for text, length in found.items() if length >= SHORTEST)


def _pieces(secret: str) -> Iterator[str]:
    """Yield a secret and what is one inside it: a line of a key file, the token after `Bearer`, a cookie's value."""
    parts = [secret, secret.strip(), *embedded(secret), *(match["value"] for match in PART.finditer(secret))]
    lines = [line.strip() for line in secret.splitlines()]
    parts += [line for line in lines if len(line) >= LONG and not line.startswith("-----")]
    for part in parts:
        yield from (part[start : start + CHUNK] for start in range(0, len(part), CHUNK))


def _base64(piece: str) -> Iterator[str]:
    """Yield what is left of a text in base64 whatever stands before and after it."""
    raw = piece.encode("utf-8", "replace")
    for before in range(3):
        whole = base64.b64encode(b"\0" * before + raw).decode()
        core = whole[-(-before * 8 // 6) : (before + len(raw)) * 8 // 6]
        if len(core) >= LONG - 2:
            yield core
            yield core.translate({ord("+"): "-", ord("/"): "_"})


def _form(text: str) -> Form:
    if text.isascii() and text.isdecimal():
        return re.compile(rf"(?<!\d){text}(?!\d)")
    return text if PLAIN.fullmatch(text) else re.compile("".join(map(_character, text)))


def _character(char: str) -> str:
    """Return a pattern for one character as it is, as repr, JSON and HTML escape it (at any depth), as a URL does."""
    if PLAIN.fullmatch(char):
        return re.escape(char)
    if char == "\\":
        return f"{BACKSLASH}+"
    raw, code = char.encode("utf-8", "replace"), ord(char)
    units = [code] if code < 0x10000 else [0xD800 + (code - 0x10000 >> 10), 0xDC00 + (code & 0x3FF)]
    forms = [re.escape(char), re.escape(html.escape(char)).replace("\\&", "&(?:amp;)*")]
    forms.append("".join(f"%(?:25)*{_hex(byte, 2)}" for byte in raw))
    forms.append(rf"{BACKSLASH}+".join(f"u{_hex(unit, 4)}" for unit in units))
    forms.append(rf"{BACKSLASH}+".join(f"x{_hex(byte, 2)}" for byte in raw))
    forms.append(f"x{_hex(code, 2)}" if code < 0x100 else f"U{_hex(code, 8)}")
    forms += [NAMED[char]] if char in NAMED else []
    return f"{BACKSLASH}*(?:{'|'.join(dict.fromkeys(forms))})"


def _hex(number: int, digits: int) -> str:
    return "".join(f"[{d}{d.upper()}]" if d.isalpha() else d for d in f"{number:0{digits}x}")


def _ordered(spelled: Iterable[Spelled]) -> list[Form]:
    """Return the forms, the longest first: one that is part of another must not leave the rest of it."""
    found = {form: length for each in spelled for length, form in each}
    return sorted(found, key=lambda form: found[form], reverse=True)


def _without(text: str, forms: Iterable[Form]) -> str:
    for form in forms:
        text = text.replace(form, MASK) if isinstance(form, str) else form.sub(MASK, text)
    return mask_text(text)
