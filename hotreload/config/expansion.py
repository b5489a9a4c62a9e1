"""PURE: `$VAR` and `${VAR}` in a configuration text, with the way back to the text as written.

The text is expanded before it is parsed, as `os.path.expandvars` does (and stock OpenViking with it): a
variable may stand for a number or for part of a string, a value is inserted once and not looked at again,
an unset one stays as it is written. Places are always those of the text as written.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass

VARIABLE = re.compile(r"\$(?:(\w+)|\{([^}]*)\})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Span:
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

    def span_at(self, offset: int) -> Span | None:
        """Return the variable whose value covers this character of the expanded text."""
        index = bisect_right(self.spans, offset, key=lambda span: span.start) - 1
        return self.spans[index] if index >= 0 and offset < self.spans[index].end else None

    def touches(self, start: int, end: int) -> bool:
        """Tell whether a variable was replaced inside `start..end` of the expanded text."""
        return any(span.start < end and start < span.end for span in self.spans)

    def position(self, offset: int) -> tuple[int, int]:
        """Return line and column, from 1, in characters, of a character of the expanded text."""
        return position(self.written, self.written_offset(offset))


def expand(written: str, environ: Mapping[str, str]) -> Expanded:
    """Replace every set variable by its value."""
    parts: list[str] = []
    spans: list[Span] = []
    unset: list[tuple[str, int]] = []
    done = length = 0
    for match in VARIABLE.finditer(written):
        name = match[1] or match[2] or ""
        value = environ.get(name)
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
