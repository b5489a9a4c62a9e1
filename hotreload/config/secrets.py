"""What is secret, and how it is kept out of everything that is shown.

Two questions, each answered once (a third, whether a name says so, in `fields`): does a text hold a credential in a
shape that leaves no doubt (`mask_text`), and does it hold a secret that is known (`Scrubber`)? What is known is hidden
in every spelling; what looks harmless is left alone: "token limit exceeded" is an ordinary sentence.

Code that is given a secret passes it on in its own spelling: a `repr` within a `repr`, JSON, a URL, base64, one line
of many. A secret is therefore looked for by a part that no spelling changes (an anchor). One automaton finds the
anchors of all secrets in one pass (Aho and Corasick, 1975); only what stands around an anchor is examined further.
Time is linear in the text, and does not depend on how many secrets are known.
"""

from __future__ import annotations

import base64
import fcntl
import hmac
import html
import json
import math
import os
import re
import secrets
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from itertools import chain, islice, product
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import quote, quote_plus, unquote

from ahocorasick_rs import AhoCorasick

from hotreload.config.document import Keys, dotted
from hotreload.config.fields import FieldRule, looks_secret
from hotreload.errors import ConfigUnreadable, Problem

MASK: Final = "***"
LONGEST_LINE: Final = 400
"""A line of a configuration file that is longer, in bytes, is not shown."""
Replace = Callable[[str, object], object]


_WRITTEN: Final = re.compile(r'"(?:[^"\\]|\\.)*+"?+|[^\s{}\[\],:"]+')
_LITERAL: Final = re.compile(r"-?[0-9][0-9.eE+-]*|true|false|null")


def shown_line(raw: bytes, number: int) -> str | None:
    """Return line `number` (from 1) of a configuration file as it may be shown; None where it is too long to read.

    Keys, numbers and literals are shown, every other text is hidden: of a file that is refused it is not known which
    of its texts are secret. On a line with a key that looks secret every value is.
    """
    lines = raw.split(b"\n", number)
    if len(lines) < number or len(lines[number - 1]) > LONGEST_LINE:
        return None
    line = lines[number - 1].decode("utf-8", "replace").rstrip()
    secret = looks_secret(line)

    def token(match: re.Match[str]) -> str:
        text = match.group()
        key = text.startswith('"') and line[match.end() :].lstrip().startswith(":")
        shown = key or (not secret and _LITERAL.fullmatch(text))
        return text if shown else f'"{MASK}"' if text.startswith('"') else MASK

    return _WRITTEN.sub(token, line)


# What has the shape of a credential, in a text of which nothing is known.
_SCHEMES: Final = (
    r"(?i:bearer|basic|digest|token|api-?key|negotiate|ntlm|oauth|dpop|ssws|sharedkey|[\w-]{0,16}hmac-[\w-]+)"
)
_OPAQUE: Final = r"[^\s\"'\\,;<>(){}]"
_TOKEN: Final = (
    rf"(?!(?:[a-z]+|[A-Z][a-z]+|[A-Z_]+)(?![\w.~+/=-])|{_OPAQUE}*\.\.\.)"  # no word, no YOUR_KEY, no `sk-...`
    rf"(?:(?:[\w-]+=\\*\"[^\"\n]*\"(?:,\s?)?)+|[\w+/.~-]{_OPAQUE}*(?:,\s?[\w-]+=[^\s\"'\\,]*)*)"
)
AUTHORIZATION: Final = re.compile(
    r"(?P<keep>[Aa](?:uthorization|(?<=A)UTHORIZATION)(?:\\*[\"']?\s{0,2}[:=]\s{0,2}b?\\*[\"']?|[\"'],\s?b?[\"'])"
    rf"(?:{_SCHEMES}\s{{1,2}}|(?!{_SCHEMES}\s)(?={_OPAQUE}{{8}})))(?P<hide>{_TOKEN})"
)
WHOLE: Final = re.compile(rf"\s*(?P<keep>{_SCHEMES}\s+)(?P<hide>(?={_OPAQUE}{{8}}){_TOKEN}.*?)\s*", re.DOTALL)
PASSWORD_IN_URL: Final = re.compile(r"(?P<keep>://[^\s/?#@:\"<>`]*:)(?P<hide>[^\s/?#\"<>`]+)(?=@)")
USER_IN_URL: Final = re.compile(
    r"(?P<keep>://(?:(?<=http://)|(?<=https://)|(?=[^\s/?#@:\"<>`]{16})))(?P<hide>[^\s/?#@:\"<>`]{4,})(?=@)"
)
QUERY: Final = re.compile(  # the whole name first, then what it ends with: nothing is tried twice
    r"(?P<keep>[?&][\w.-]{1,64}+=)(?i:(?<=key=)(?:(?<=[_.-]...=)|(?<=api...=)|(?<=access...=)|(?<=auth...=)"
    r"|(?<=client...=)|(?<=private...=)|(?<=secret...=)|(?<=[?&]...=)(?=[^&;#\s\"'<>]{20}))"
    r"|(?<=token=)(?:(?<=[_.-].....=)|(?<=api.....=)|(?<=access.....=)|(?<=auth.....=)|(?<=client.....=)"
    r"|(?<=private.....=)|(?<=secret.....=)|(?<=[?&].....=))(?<!page[_-].....=)(?<!next[_-].....=)"
    r"(?<!continuation[_-].....=)|(?<=secret=)|(?<=password=)|(?<=passwd=)|(?<=pwd=)|(?<=signature=)|(?<=credential=)"
    r"|(?<=[?&]sig=))(?P<hide>[^&;#\s\"'<>*]+)"
)
PAIR: Final = re.compile(
    r"(?P<keep>[PpAS](?<![\w.-].)(?:(?<=[Pp])(?:ass(?:word|wd)|wd)|(?<=P)(?:ASS(?:WORD|WD)|WD)|(?<=A)ccountKey"
    r"|(?<=S)haredAccessKey)\s?=\s?)"
    r"(?P<hide>'[^'\n]+'|\"[^\"\n]+\"|(?:[^\s;&,'\"(){}\[\]<>$*=]|=(?![^\s=;&]))++)(?![(=])"
    r"(?P<more>(?=[; ]\s?[\w ]{1,24}=))?"
)
_PAIR_BEFORE: Final = re.compile(r"=[^\s=;,()]*[;& ]\s?$")
_EXPRESSION: Final = re.compile(r"[A-Za-z_]+|[A-Za-z_]\w*(?:\.\w+)+|\d+|.{0,5}")


def _mask_pair(match: re.Match[str]) -> str:
    """Hide `password=…` beside other pairs, as in a connection string, or where its value is neither word nor code."""
    beside = match["more"] is not None or _PAIR_BEFORE.search(match.string, max(0, match.start() - 80), match.start())
    value = match["hide"].strip("'\"")
    if value in ("None", "null", "") or not (beside or not _EXPRESSION.fullmatch(value)):
        return match[0]
    return f"{match['keep']}{MASK}"


_KEEP: Final = rf"\g<keep>{MASK}"
SHAPES: Final[Sequence[tuple[Sequence[str], re.Pattern[str], str | Callable[[re.Match[str]], str]]]] = (
    (("://",), PASSWORD_IN_URL, _KEEP),
    (("://",), USER_IN_URL, _KEEP),
    (("thorization", "THORIZATION"), AUTHORIZATION, _KEEP),
    (("?", "&"), QUERY, _KEEP),
    (("assw", "ASSW", "wd", "WD", "Key"), PAIR, _mask_pair),
)
"""What any match holds one of, the pattern, and what is shown of a match."""
MOST: Final = 4096
"""A text that holds more of one shape, or of parts of known secrets, is not shown any further: time has a bound."""
CUT: Final = f"{MASK} (the rest is not shown: too much of it may be secret)"
_HELD: Final = re.compile("|".join(re.escape(part) for held, _, _ in SHAPES for part in held))
_LINE: Final = 1024


def _shapes(text: str) -> Iterator[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]]:
    """Yield the patterns that a text may match, each with what is shown; one search of a short text, most hold none."""
    if len(text) > _LINE or _HELD.search(text):
        for held, pattern, shown in SHAPES:
            if any(part in text for part in held):
                yield pattern, shown


def mask_text(text: str) -> str:
    """Hide credentials that were not declared: after `Authorization:`, in a URL, `password=` of a connection string."""
    for pattern, shown in _shapes(text):
        masked, count = pattern.subn(shown, text, MOST)
        if count == MOST:
            last = next(islice(pattern.finditer(text), MOST - 1, None)).end()
            if pattern.search(text, last):
                masked = masked[: len(masked) - (len(text) - last)] + CUT
        text = masked
    return text


def mask_value(text: str) -> str:
    """Hide what `mask_text` does, in a value of its own: a credential may follow its scheme (`Bearer …`)."""
    whole = WHOLE.fullmatch(text)
    return f"{whole['keep']}{MASK}" if whole else mask_text(text)


def embedded(text: str) -> Iterator[str]:
    """Yield the secrets that `mask_value` hides, as they are written and without the escapes of a URL."""
    for pattern, shown in _shapes(text):
        for match in pattern.finditer(text):
            if isinstance(shown, str) or shown(match) != match[0]:
                yield from (match["hide"], unquote(match["hide"].strip("'\"")))
    if whole := WHOLE.fullmatch(text):
        yield whole["hide"]


def mask_tree(value: object, path: str, replace: Replace, mask: Callable[[str], str] = mask_value) -> object:
    """Return a JSON value without secrets: `replace(path, value)` stands for what a secret-looking key holds.

    Any other text goes through `mask`. A number that JSON does not know is shown as a text (`Infinity`).
    """
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, Mapping):
        items, result = cast("Mapping[object, object]", value), dict[str, object]()
        for key, item in items.items():
            inner = f"{path}.{key}" if path else str(key)
            secret = _is_secret_key(str(key), items)
            result[str(key)] = _replaced(item, inner, replace) if secret else mask_tree(item, inner, replace, mask)
        return result
    if isinstance(value, (list, tuple)):
        listed = cast("Sequence[object]", value)
        if len(listed) == 2 and isinstance(listed[0], str) and looks_secret(listed[0]):
            return [listed[0], _replaced(listed[1], f"{path}.1", replace)]
        return [mask_tree(item, f"{path}.{index}", replace, mask) for index, item in enumerate(listed)]
    return json.dumps(value) if isinstance(value, float) and not math.isfinite(value) else value


def _is_secret_key(key: str, items: Mapping[object, object]) -> bool:
    """Tell whether a key of a map holds a secret; in `{"name": "Cookie", "value": …}` it is the value."""
    if key == "value":
        return looks_secret(str(items.get("name", items.get("key", ""))))
    return looks_secret(key) and not (key == "key" and "value" in items)


def _replaced(value: object, path: str, replace: Replace) -> object:
    return value if value is None or isinstance(value, bool) or value == "" else replace(path, value)


def texts(value: object) -> Iterator[str]:
    """Yield every text in a JSON value, and every number of six or more characters as one: fewer are too common."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from chain.from_iterable(map(texts, cast("Mapping[object, object]", value).values()))
    elif isinstance(value, (list, tuple)):
        yield from chain.from_iterable(map(texts, cast("Sequence[object]", value)))
    elif isinstance(value, (int, float)) and not isinstance(value, bool) and len(str(value)) >= 6:
        yield str(value)


def find_secrets(
    values: Mapping[Any, object], rule: Callable[[Any], FieldRule]
) -> tuple[frozenset[str], list[tuple[Any, str]]]:
    """Return the texts that must not be shown among the leaves of a configuration: by rule, by name, by shape.

    Besides, the leaves whose secret is short or a common word, each with what follows from that.
    """
    found: set[str] = set()
    weak: list[tuple[Any, str]] = []
    for path, value in values.items():
        if rule(path).secret:
            own = set(texts(value))
            found |= own
            weak += [(path, WEAK)] if any(map(is_weak, own)) else []
        elif isinstance(value, (str, Mapping, list, tuple)):
            found |= _undeclared(cast("object", value))
    return frozenset(found), weak


def secrets_in(values: Mapping[Any, object], rule: Callable[[Any], FieldRule]) -> frozenset[str]:
    """Return the texts that must not be shown among the leaves of a configuration."""
    return find_secrets(values, rule)[0]


def _undeclared(value: object) -> set[str]:
    if isinstance(value, str):
        return set(embedded(value))
    found: set[str] = set()

    def look(text: str) -> str:
        found.update(embedded(text))
        return text

    mask_tree(value, "", lambda _, secret: found.update(texts(secret)), look)
    return found


SHORTEST: Final = 3
"""A secret of fewer characters cannot be told from other text at all."""
STRONG: Final = 8
"""From so many bytes on a secret, a line or a part of one is found inside other words too."""
WEAK: Final = "is short or a common word: in logs and messages it is hidden only where it stands as a word of its own"
LONGEST_WORD: Final = 16
"""Letters alone, in one case and fewer than this, are a word like any other (`production`)."""
CHUNK: Final = 1023
"""A longer secret is looked for piece by piece; a multiple of three, as base64 takes it."""
ANCHOR: Final = 16
STRIDE: Final = 1 << 14
"""A longer text is searched for anchors in parts of so many characters."""
SPELLED: Final = 24
"""The most characters that one character is spelled with (`\\\\\\\\ud83d\\\\\\\\udd11`)."""
PLAIN: Final = re.compile(r"[\w.~-]+", re.ASCII)
PART: Final = re.compile(rf"[\w.-]+=(?P<value>[^\s;&,]{{{STRONG},}})")
SURROGATE: Final = re.compile("[\ud800-\udfff]")
NAMED: Final = {"\n": "n", "\r": "r", "\t": "t", "\b": "b", "\f": "f", " ": r"(?:\+|%(?:25)*2[bB])"}
BACKSLASH: Final = r"(?:\\|%(?:25)*5[cC])"
_BEFORE_WORD: Final = (
    r"(?:(?<!\w)(?<!\w[-.])|(?<=\\[abfnrtv])|(?<=\\x[\da-fA-F]{2})|(?<=\\u[\da-fA-F]{4})|(?<=%[\da-fA-F]{2}))"
)
_AFTER_WORD: Final = r"(?!\w|[-.]\w)"
_ESCAPES: Final[Sequence[Callable[[str], str]]] = (
    str,
    html.escape,
    lambda text: json.dumps(text)[1:-1],
    lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    lambda text: ascii(text)[1:-1],
    lambda text: repr(text)[1:-1],
    lambda text: repr(f"{text}'\"")[1:-4],
    lambda text: ascii(f"{text}'\"")[1:-4],
    lambda text: repr(f"{text}'\"".encode("utf-8", "replace"))[2:-4],
    lambda text: repr(text.encode("utf-8", "replace"))[2:-1],
    lambda text: quote(text, errors="replace"),
    lambda text: quote(text, safe="", errors="replace"),
    lambda text: re.sub("%..", lambda code: code[0].lower(), quote(text, safe="", errors="replace")),
    lambda text: quote_plus(text, errors="replace"),
)


def is_weak(secret: str) -> bool:
    """Tell whether a secret is short or a common word: in texts it is hidden only where it stands as a word."""
    if len(secret.encode("utf-8", "replace")) < STRONG:
        return bool(secret)
    return (
        len(secret) < LONGEST_WORD and secret.isalpha() and (secret.islower() or secret.isupper() or secret.istitle())
    )


class Needle:
    """One text that gives a secret away; it is looked for around its anchor, which stands at `offset`.

    `anchors` are the spellings of one part of it: the end of what no spelling changes (keys often begin alike), or
    where there is too little of that, how others escape its first characters. `direct` says that it may stand inside
    other words; `core`, that it is a middle of a base64 text.
    """

    def __init__(self, text: str, *, core: bool = False) -> None:
        self.text = text
        self.number = not core and text.isascii() and text.isdecimal()
        self.direct = core or not (self.number or is_weak(text))
        run = max(PLAIN.finditer(text), key=lambda found: found.end() - found.start(), default=None)
        length = run.end() - run.start() if run else 0
        self.plain = length == len(text)
        if run and (self.plain or length > 3):
            self.offset = max(run.start(), run.end() - ANCHOR)
            self.anchors = [text[self.offset : run.end()]]
        else:
            self.offset = next(index for index, char in enumerate(text) if not PLAIN.match(char))
            self.anchors = _spelled(text[self.offset : self.offset + 2])
        width = 1 if self.plain else SPELLED
        self.before, self.after = width * (self.offset + 1), width * (len(text) - self.offset) + 2

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """It in any spelling, alone where it must stand alone."""
        spelled = "".join(map(_character, self.text))
        if self.number:
            return re.compile(rf"(?<!\d){spelled}(?!\d)")
        return re.compile(spelled if self.direct else f"{_BEFORE_WORD}{spelled}{_AFTER_WORD}")


def _spelled(text: str) -> list[str]:
    """Return a text with each character as some code escapes it, and as another escapes the result."""
    once = {"".join(made) for made in product(*({escape(char) for escape in _ESCAPES} for char in text))}
    return [*{escape(spelled) for spelled in once for escape in _ESCAPES}]


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


def needles(secret: str) -> list[Needle]:
    """Return everything that gives a secret away."""
    pieces = {piece for piece in _pieces(secret) if len(piece) >= SHORTEST}
    cores = {core for piece in pieces for core in _base64(piece)}
    return [*map(Needle, pieces), *(Needle(core, core=True) for core in cores)]


def _pieces(secret: str) -> Iterator[str]:
    """Yield a secret and what is one inside it: a line of a key file, the token after `Bearer`, a cookie's value."""
    parts = {secret, secret.strip(), *embedded(secret), *(match["value"] for match in PART.finditer(secret))}
    lines = [line.strip() for line in secret.splitlines()]
    parts.update(line for line in lines if len(line) >= STRONG and not line.startswith("-----"))
    for part in parts:
        yield from (part[start : start + CHUNK] for start in range(0, len(part), CHUNK))
    if len(secret) < STRONG:
        yield base64.b64encode(secret.encode("utf-8", "replace")).decode().rstrip("=")


def _base64(piece: str) -> Iterator[str]:
    """Yield what is left of a text in base64 whatever stands before and after it."""
    raw = piece.encode("utf-8", "replace")
    for before in range(3):
        whole = base64.b64encode(b"\0" * before + raw).decode()
        core = whole[-(-before * 8 // 6) : (before + len(raw)) * 8 // 6]
        if len(core) >= STRONG - 2:
            yield core
            yield core.replace("+", "-").replace("/", "_")


class SecretMatcher:
    """Finds a set of secrets in texts. It never changes, so that any thread may use it."""

    def __init__(self, known: Iterable[str]) -> None:
        found: dict[str, list[Needle]] = {}
        for needle in chain.from_iterable(map(needles, known)):
            for anchor in needle.anchors:
                found.setdefault(SURROGATE.sub("\ufffd", anchor), []).append(needle)
        self._needles = list(found.values())
        self._longest = max(map(len, found), default=0)
        self._automaton = AhoCorasick(found, store_patterns=False)

    def hide(self, text: str) -> str:
        """Return a text without the secrets, in any spelling, and without what has the shape of one."""
        return _hide(text, (self,))

    def spans(self, text: str) -> Iterable[tuple[int, int]]:
        """Return from where to where a secret stands, in any spelling and order; after too many hits, all the rest."""
        hits = self._hits(text[:STRIDE])
        for start in range(STRIDE, len(text), STRIDE):
            if len(hits) > MOST:
                return chain(self._around(text, hits), ((start, len(text)),))
            begins = max(0, start - self._longest)
            part = self._hits(text[begins : start + STRIDE])
            hits += [(index, begins + low, begins + high) for index, low, high in part]
        return self._around(text, hits) if hits else ()

    def _hits(self, text: str) -> list[tuple[int, int, int]]:
        try:
            return self._automaton.find_matches_as_indexes(text, overlapping=True)
        except UnicodeEncodeError:  # half a surrogate pair; what stands for it is as long
            return self._automaton.find_matches_as_indexes(SURROGATE.sub("\ufffd", text), overlapping=True)

    def _around(self, text: str, hits: Iterable[tuple[int, int, int]]) -> Iterator[tuple[int, int]]:
        windows: dict[Needle, list[list[int]]] = {}
        for index, begin, end in hits:
            for needle in self._needles[index]:
                start = begin - needle.offset
                if needle.direct and start >= 0 and text.startswith(needle.text, start):
                    yield start, start + len(needle.text)
                elif not (needle.direct and needle.plain):
                    around = windows.setdefault(needle, [])
                    if around and begin - needle.before <= around[-1][1]:
                        around[-1][1] = end + needle.after
                    else:
                        around.append([max(0, begin - needle.before), end + needle.after])
        for needle, around in windows.items():
            for low, high in around:
                yield from (match.span() for match in needle.pattern.finditer(text, low, high))


def _hide(text: str, matchers: Iterable[SecretMatcher]) -> str:
    kept: list[str] = []
    done = 0
    for start, end in sorted(chain.from_iterable(matcher.spans(text) for matcher in matchers)):
        if start >= done:
            kept += (text[done:start], MASK)
        done = max(done, end)
    return mask_text("".join((*kept, text[done:])) if kept else text)


KEPT: Final = 8
"""Configurations that are remembered though nothing runs on them."""


class Scrubber:
    """What one process knows that must not be said. Any thread may call."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a signal handler may log while its own thread is in here
        self._held: dict[int, frozenset[str]] = {}
        self._recent: deque[frozenset[str]] = deque(maxlen=KEPT)
        self._matchers: dict[frozenset[str], SecretMatcher] = {}

    def learn(
        self, values: Mapping[Any, object], rule: Callable[[Any], FieldRule], *, generation: int | None = None
    ) -> None:
        """Remember the secrets among the leaves of a configuration.

        Those of a `generation` are held until `release` is called without it, others until a few more were learnt.
        """
        self.remember(secrets_in(values, rule), generation=generation)

    def remember(self, found: frozenset[str], *, generation: int | None = None) -> None:
        """Remember secrets as `learn` does, where they were found already."""
        with self._lock:
            if generation is not None:
                self._held[generation], found = found, self._held.get(generation, frozenset[str]())
            self._remember(found)

    def learn_written(self, data: Mapping[str, object], rule: Callable[[Keys], FieldRule]) -> None:
        """Remember what is secret in a file that is not validated yet: by rule, by name and by shape."""
        with self._lock:
            self._remember(secrets_in(dict(_flat(data)), rule) | _undeclared(data))

    def release(self, in_use: Collection[int]) -> None:
        """Hold only the generations that still are in use."""
        with self._lock:
            for generation in self._held.keys() - set(in_use):
                self._remember(self._held.pop(generation))

    def scrub(self, text: str) -> str:
        """Return a text without the secrets known, in any spelling, and without what has the shape of one."""
        return _hide(text, self._matchers.values())

    def _remember(self, found: frozenset[str]) -> None:
        if found:
            with suppress(ValueError):
                self._recent.remove(found)
            self._recent.append(found)
        known = dict.fromkeys(each for each in (*self._recent, *self._held.values()) if each)
        # one matcher for each configuration: what is known already is not put together again, whatever else changes
        self._matchers = {each: self._matchers.get(each) or SecretMatcher(each) for each in known}


def _flat(data: Mapping[str, object], above: Keys = ()) -> Iterator[tuple[Keys, object]]:
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from _flat(cast("Mapping[str, object]", value), (*above, key))
        else:
            yield (*above, key), value


class Redactor(Scrubber):
    """Shows values of one installation; two with the same key show the same.

    The key is random and never leaves the state folder, so that a fingerprint is not an oracle: passwords cannot be
    tried against it (HMAC-SHA256, RFC 2104). It learns the secrets of the configurations it meets (see `Scrubber`).
    """

    def __init__(self, key: bytes) -> None:
        super().__init__()
        self._key = key

    def fingerprint(self, values: Mapping[Keys, object]) -> str:
        """Return `hmac:` and 32 hex digits over effective leaves; order and spelling of numbers do not matter."""
        return f"hmac:{self._digest('configuration', {dotted(keys): value for keys, value in values.items()})[:32]}"

    def secret(self, path: str, value: object) -> str:
        """Return `secret:hmac:` and 12 hex digits: changes when the value does, differs from field to field."""
        return f"secret:hmac:{self._digest(f'secret {path}', value)[:12]}"

    def show(self, path: str, value: object, rule: FieldRule) -> object:
        """Return what may be shown of a leaf, a JSON value; None stays None.

        A secret may stand in a field that is none: a password in the text of another one, given twice by mistake.
        """
        if value is None:
            return None
        return self.secret(path, value) if rule.secret else mask_tree(value, path, self.secret, self._masked)

    def _masked(self, text: str) -> str:
        return mask_value(text) if WHOLE.fullmatch(text) else self.scrub(text)

    def _digest(self, purpose: str, value: object) -> str:
        return hmac.new(self._key, f"{purpose}\0{canonical(value)}".encode(), "sha256").hexdigest()


def canonical(value: object) -> str:
    """Return one JSON text for equal values: keys sorted, 25.0 written as 25."""
    return json.dumps(_normal(value), sort_keys=True, separators=(",", ":"), default=repr)


def _normal(value: object) -> object:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        items = cast("Mapping[object, object]", value).items()
        return {str(key): item if type(item) in _AS_THEY_ARE else _normal(item) for key, item in items}
    if isinstance(value, (list, tuple)):
        return [_normal(item) for item in cast("Sequence[object]", value)]
    return value


_AS_THEY_ARE: Final = frozenset({str, int, bool, type(None)})
KEY_BYTES: Final = 32
KEY_NAME: Final = "fingerprint.key"


def load_key(state_dir: Path) -> bytes:
    """Return the fingerprint key of a state folder, made at the first call (32 random bytes, mode 0600).

    Two processes that make it at once end with the same one. Wider permissions are taken back;
    ConfigUnreadable for a key that is damaged or cannot be read or written.
    """
    path = state_dir / KEY_NAME
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600), "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            os.fchmod(file.fileno(), 0o600)
            key = file.read(KEY_BYTES + 1)
            if not key:
                key = secrets.token_bytes(KEY_BYTES)
                file.write(key)
                file.flush()
                os.fsync(file.fileno())
    except OSError as error:
        reason, hint = f"cannot be used: {error.strerror or type(error).__name__}", None
    else:
        if len(key) == KEY_BYTES:
            return key
        reason = f"is damaged: {len(key)} bytes instead of {KEY_BYTES}"
        hint = "remove it; a new one is made, and fingerprints change once"
    raise ConfigUnreadable([Problem("hotreload.state_dir", f"the fingerprint key {path} {reason}", hint=hint)])
