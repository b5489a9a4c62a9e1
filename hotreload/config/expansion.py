"""PURE: `$VAR` and `${VAR}` in a configuration text, with the way back to the text as written.

The text is expanded before it is parsed, as `os.path.expandvars` does (and stock OpenViking with it): a
variable may stand for a number or for part of a string, a value is inserted once and not looked at again,
an unset one stays as it is written. In own services `$$` is a `$`. Places are always those of the text as written.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

NAMES = r"\$(?:(%s)|\{([^}]*)\})", r"\$(%s)()"  # the second for what follows the last brace: `${${${…` is linear
PLAIN = tuple(re.compile(each % r"\w+", re.ASCII) for each in NAMES)
ESCAPED = tuple(re.compile(each % r"\w+|\$", re.ASCII) for each in NAMES)
MEANT = re.compile(r"\$(?:([A-Z_][A-Z0-9_]*)(?!\w)|\{([A-Za-z_]\w*)([:?=+-][^}\"]*)?\})", re.ASCII)
"""What was meant as a variable: a name in capitals, or any in braces. `$5` was not, nor the `$2y$10$` of a hash."""


class Span(NamedTuple):
    """One replaced variable: where it is written, and where its value stands in the expanded text."""

    name: str
    written_start: int
    written_end: int
    start: int
    end: int


@dataclass(frozen=True, slots=True, repr=False)
class Expanded:
    """A text before and after expansion; `unset` lists the variables left as written, with their offset."""

    written: str
    text: str
    spans: tuple[Span, ...]
    unset: tuple[tuple[str, int], ...]

    def written_offset(self, offset: int) -> int:
        """Return where a character of the expanded text was written; inside a value it is the `$`."""
        index = bisect_right(self.spans, offset, key=lambda span: span.start) - 1
        if index < 0:
            return offset
        span = self.spans[index]
        return span.written_start if offset < span.end else span.written_end + offset - span.end

    def text_offset(self, written: int) -> int:
        """Return where a written character that no variable covers stands in the expanded text."""
        index = bisect_right(self.spans, written, key=lambda span: span.written_start) - 1
        return written if index < 0 else written + self.spans[index].end - self.spans[index].written_end

    def span_at(self, offset: int) -> Span | None:
        """Return the variable whose value covers this character of the expanded text."""
        index = bisect_right(self.spans, offset, key=lambda span: span.start) - 1
        return self.spans[index] if index >= 0 and offset < self.spans[index].end else None

    def touches(self, start: int, end: int) -> bool:
        """Tell whether a variable was replaced inside `start..end` of the expanded text."""
        index = bisect_right(self.spans, start, key=lambda span: span.end)
        return index < len(self.spans) and self.spans[index].start < end

    def not_replaced(self) -> Iterator[tuple[int, str]]:
        """Yield the offset of what was meant as a variable and stays as written, and why it does."""
        hashed = -1
        for name, offset in self.unset:
            meant = MEANT.match(self.written, offset)
            if meant is None or offset == hashed:  # `$6$SALT$…`: what follows at once is the same hash
                hashed = offset + 1 + len(name)
            elif meant[3]:
                yield offset, f"${{{meant[2]}{meant[3][0]}…}} stays as written: only $NAME and ${{NAME}} are replaced"
            else:
                yield offset, f"${name} is not set and stays as written"

    def position(self, offset: int) -> tuple[int, int]:
        """Return line and column, from 1, in characters, of a character of the expanded text."""
        return position(self.written, self.written_offset(offset))


def expand(written: str, environ: Mapping[str, str], *, escapes: bool = False) -> Expanded:
    """Replace every set variable by its value, and with `escapes` each `$$` by a `$`."""
    parts: list[str] = []
    spans: list[Span] = []
    unset: list[tuple[str, int]] = []
    done = length = 0
    braced, bare = ESCAPED if escapes else PLAIN
    last = written.rfind("}") + 1
    for match in chain(braced.finditer(written, 0, last), bare.finditer(written, last)):
        name = match[1] or match[2] or ""
        value = "$" if match[1] == "$" else environ.get(name)
        if value is None:
            unset.append((name, match.start()))
            continue
        start = length + match.start() - done
        parts += (written[done : match.start()], value)
        spans.append(Span(name, match.start(), match.end(), start, start + len(value)))
        done, length = match.end(), start + len(value)
    parts.append(written[done:])
    return Expanded(written, "".join(parts), tuple(spans), tuple(unset))


def position(text: str, offset: int) -> tuple[int, int]:
    """Return line and column, both from 1, of a character offset; a line ends with LF or CRLF."""
    return text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)
