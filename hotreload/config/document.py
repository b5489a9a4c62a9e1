"""Bytes become a document: strict JSON whose every value and key knows its line and column.

Whether a text is JSON is decided by the standard library; on top of it duplicate keys, numbers that are not
finite and nesting beyond `MAX_DEPTH` are errors (of each kind at most `MOST` are named). Lines and columns
count from 1, in characters of the file as written: a byte-order mark is not a character, `$VAR` counts as it
is written.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, Literal, cast

from hotreload.config.expansion import Expanded, expand, position
from hotreload.config.positions import LONE_SURROGATE, MAX_INT_DIGITS, Place, Positions
from hotreload.config.syntax import hint, too_deep
from hotreload.errors import ConfigInvalid, ConfigUnreadable, Problem

MAX_BYTES = 1024 * 1024
MAX_DEPTH = 100
MOST = 100

Keys = tuple[str | int, ...]
"""A path: the keys that lead to a value, an int where it is the place in a list."""
Loc = Sequence[str | int]
Dialect = Literal["own", "openviking"]
"""Whose rules hold: in own services duplicate keys are errors and `$$` is a `$`; stock OpenViking knows neither."""


@dataclass(frozen=True, slots=True, eq=False)
class Document:
    """One read of a configuration file.

    `data` is the tree after expansion, `raw` the bytes as read, `digest` their SHA-256 (of a file that may
    hold secrets: compare it, do not show it). `warnings` have their place filled in.
    """

    path: Path
    raw: bytes = field(repr=False)
    data: Mapping[str, Any] = field(repr=False)
    digest: str
    warnings: tuple[Problem, ...]
    _expanded: Expanded = field(repr=False)
    _positions: Positions = field(repr=False)

    @property
    def name(self) -> str:
        """The file's name as shown in problems."""
        return self.path.name

    def locate(self, loc: Loc) -> tuple[int, int]:
        """Return line and column of the value at `loc`, or of its nearest parent that exists."""
        return self._expanded.position(self._positions.value(loc).start)

    def locate_key(self, loc: Loc) -> tuple[int, int] | None:
        """Return line and column of the key `loc` ends with; None if it is not written."""
        place = self._positions.key(loc)
        return self._expanded.position(place.start) if place else None

    def written(self, loc: Loc) -> str | None:
        """Return the value at `loc` as written, if a variable was replaced in it; else None."""
        place = self._positions.value(loc)
        if place.loc != tuple(loc) or not self._expanded.touches(place.start, place.end):
            return None
        start, end = self._expanded.written_offset(place.start), self._expanded.written_offset(place.end)
        return self._expanded.written[start:end]

    def loc_of(self, path: str) -> tuple[str | int, ...]:
        """Return the keys and indices a dotted path stands for in this file; keys may hold dots themselves."""
        return split_path(path, self.data)


def parse(
    path: Path,
    raw: bytes,
    *,
    dialect: Dialect = "own",
    environ: Mapping[str, str] | None = None,
) -> Document:
    """Turn the bytes of `path` into a document.

    ConfigUnreadable over `MAX_BYTES`; ConfigInvalid, with the place, for what is not a JSON object in UTF-8,
    is empty, nests deeper than `MAX_DEPTH`, or holds a number that is not finite. A duplicate key is an
    error, under `openviking` a warning, and the last one counts. `environ` is the process's own by default; an unset
    variable stays, and is warned about where it was meant as one.
    """
    if len(raw) > MAX_BYTES:
        raise ConfigUnreadable([Problem("", f"larger than {MAX_BYTES} bytes", file=path.name)])
    own = dialect == "own"
    expanded = expand(_decode(path, raw), os.environ if environ is None else environ, escapes=own)
    decoder = _Decoder()
    data = _loads(path, expanded, decoder)
    positions = Positions(expanded.text)
    reader = _Reader(path.name, expanded, positions)
    errors = reader.unusable() if decoder.unusable else []
    warnings = reader.unset()
    if decoder.doubled:
        (errors if own else warnings).extend(reader.duplicates())
    if errors:
        raise ConfigInvalid(sorted(errors, key=place_order))
    return Document(path, raw, data, sha256(raw).hexdigest(), tuple(warnings), expanded, positions)


def split_path(path: str, data: object) -> tuple[str | int, ...]:
    """Split a dotted path along a tree: the longest key that exists wins, a number indexes a list."""
    if not path:
        return ()
    parts = path.split(".")
    if isinstance(data, list):
        index = int(parts[0]) if parts[0].isdecimal() else -1
        items = cast("list[object]", data)
        inside = items[index] if 0 <= index < len(items) else None
        return (index if index >= 0 else parts[0], *split_path(".".join(parts[1:]), inside))
    if isinstance(data, Mapping):
        tree = cast("Mapping[str, object]", data)
        for count in range(len(parts), 0, -1):
            key = ".".join(parts[:count])
            if key in tree:
                return (key, *split_path(".".join(parts[count:]), tree[key]))
    return tuple(parts)


def dotted(loc: Loc) -> str:
    """Join keys and indices with dots."""
    return ".".join(map(str, loc))


def place_order(problem: Problem) -> tuple[bool, int, int, str]:
    """Sort key: by place in the file; what has none comes last."""
    return problem.line is None, problem.line or 0, problem.column or 0, problem.path


def _decode(path: Path, raw: bytes) -> str:
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = error.object[: error.start].decode()  # its object has no byte-order mark any more
        place = position(before, len(before))
    else:
        if text.strip():
            return text
        raise ConfigInvalid([Problem("", "the file is empty", path.name, 1, 1, hint="it must hold a JSON object")])
    problem = Problem("", "not UTF-8", hint="save the file as UTF-8").at(path.name, *place)
    raise ConfigInvalid([problem])


@dataclass(slots=True)
class _Decoder:
    """The standard library's decoder, noting what its grammar lets pass and a configuration must not hold."""

    doubled: bool = False
    unusable: bool = False

    def decode(self, text: str) -> object:
        escaped = "\\u" in text and "\\ud" in text.lower()
        self.unusable = escaped or (not text.isascii() and LONE_SURROGATE.search(text) is not None)
        return json.loads(
            text,
            object_pairs_hook=self._object,
            parse_int=self._integer,
            parse_float=self._float,
            parse_constant=self._float,
        )

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        self.doubled |= len(result) < len(pairs)
        return result

    def _integer(self, text: str) -> int | float:
        return int(text) if len(text) <= MAX_INT_DIGITS else self._float("Infinity")

    def _float(self, text: str) -> float:
        value = float(text)
        self.unusable |= not math.isfinite(value)
        return value


def _loads(path: Path, expanded: Expanded, decoder: _Decoder) -> dict[str, Any]:
    deep = too_deep(expanded.text, MAX_DEPTH)
    if deep is not None:
        raise ConfigInvalid(
            [Problem("", f"nested deeper than {MAX_DEPTH} levels").at(path.name, *expanded.position(deep))]
        )
    try:
        data = decoder.decode(expanded.text)
    except json.JSONDecodeError as error:
        problem = _broken(path, expanded, error.msg, error.pos)
    else:
        if isinstance(data, dict):
            return cast("dict[str, Any]", data)
        start = len(expanded.text) - len(expanded.text.lstrip())
        place = expanded.position(start)
        problem = Problem("", "the top level must be an object", hint="begin with `{`").at(path.name, *place)
    # raised outside the handler: the decoder's error holds the whole text, secrets included
    raise ConfigInvalid([problem])


def _broken(path: Path, expanded: Expanded, message: str, offset: int) -> Problem:
    text = f"not JSON: {message[:1].lower()}{message[1:]}".removesuffix(" at").removesuffix(" starting")
    advice = _advice(expanded, message, offset)
    return Problem("", text, hint=advice).at(path.name, *expanded.position(offset))


def _advice(expanded: Expanded, message: str, offset: int) -> str | None:
    written = expanded.written_offset(offset)
    if span := expanded.span_at(offset):
        return f"the value of ${span.name} breaks the JSON around it; quotes and backslashes in it need a backslash"
    for name, start in expanded.unset:
        if start == written:
            return f"${name} is not set"
    return None if message.startswith("Expecting ':'") else hint(expanded.written, written)


class _Reader:
    """Turn places of one text into problems."""

    def __init__(self, file: str, expanded: Expanded, positions: Positions) -> None:
        self._file, self._expanded, self._positions = file, expanded, positions

    def unusable(self) -> list[Problem]:
        """Numbers and strings that JSON's grammar allows and no value can hold."""
        return [self._problem(place, reason) for place, reason in islice(self._positions.unusable(), MOST)]

    def duplicates(self) -> list[Problem]:
        """Keys given twice in one object."""
        places = islice(self._positions.duplicates(), MOST)
        return [self._problem(place, "the key is given twice", "keep one of them") for place in places]

    def unset(self) -> list[Problem]:
        """Variables that stay as written because they are not set."""
        found: list[Problem] = []
        for offset, message in islice(self._expanded.not_replaced(), MOST):
            place = self._positions.at(self._expanded.text_offset(offset))
            found.append(Problem(dotted(place.loc), message).at(self._file, *position(self._expanded.written, offset)))
        return found

    def _problem(self, place: Place, message: str, advice: str | None = None) -> Problem:
        return Problem(dotted(place.loc), message, hint=advice).at(self._file, *self._expanded.position(place.start))
