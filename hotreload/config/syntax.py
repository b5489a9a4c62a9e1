"""PURE: what to say of a text that is not JSON: what is unclosed, where it opened, what would be right."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hotreload.config.expansion import position

TOKEN = re.compile(r'"(?:[^"\\\n]|\\.)*"?|[{}\[\]]')
CLOSER = {"{": "}", "[": "]"}


@dataclass(frozen=True, slots=True)
class Bracket:
    """An opening bracket and where it stands in the text."""

    sign: str
    offset: int


def open_brackets(text: str, end: int) -> list[Bracket]:
    """Return the brackets open at `end`, outermost first; stops at the first that closes a wrong one."""
    stack: list[Bracket] = []
    for match in TOKEN.finditer(text, 0, end):
        sign = match[0]
        if sign in CLOSER:
            stack.append(Bracket(sign, match.start()))
        elif sign in "}]" and stack and CLOSER[stack[-1].sign] == sign:
            stack.pop()
        elif sign in "}]":
            break
    return stack


def too_deep(text: str, limit: int) -> int | None:
    """Return the offset of the bracket that opens level `limit` + 1; None where nothing is that deep."""
    if text.count("{") + text.count("[") <= limit:
        return None
    depth = 0
    for match in TOKEN.finditer(text):
        depth += (match[0] in CLOSER) - (match[0] in "}]")
        if depth > limit:
            return match.start()
    return None


def hint(text: str, offset: int) -> str | None:
    """Return what is probably wrong where `json` stopped; None where its own message says all."""
    rest = text[offset:]
    before = text[:offset].rstrip()
    if not rest.strip():
        return _unclosed(text, offset)
    if rest[0] < " ":
        return "in a text a line break is written \\n and a tab \\t"
    if rest[0] in "}]":
        return _at_closer(text, offset, before)
    if rest.startswith(("//", "/*", "#")):
        return "JSON has no comments"
    if rest[0] == "'":
        return "JSON takes double quotes"
    if word := re.match(r"(?:True|False|None|undefined)\b", rest):
        return f"write {({'True': 'true', 'False': 'false'}).get(word[0], 'null')}"
    if rest[0] in '"{[' and (before.endswith(('"', "}", "]")) or before[-1:].isalnum()):
        return "a comma is missing before this"
    return None


def _unclosed(text: str, offset: int) -> str | None:
    opened = open_brackets(text, offset)
    if not opened:
        return None
    return f"`{opened[-1].sign}` opened at {_place(text, opened[-1].offset)} is not closed{_suspect(text)}"


def _at_closer(text: str, offset: int, before: str) -> str | None:
    if before.endswith(","):
        return "no comma goes before a closing bracket"
    opened = open_brackets(text, offset)
    if not opened:
        return "this closes nothing"
    if CLOSER[opened[-1].sign] == text[offset]:
        return None
    return f"`{opened[-1].sign}` opened at {_place(text, opened[-1].offset)} is not closed before this"


def _suspect(text: str) -> str:
    """Name a bracket whose closer stands at another indentation: its own was probably forgotten."""
    stack: list[Bracket] = []
    for match in TOKEN.finditer(text):
        if match[0] in CLOSER:
            stack.append(Bracket(match[0], match.start()))
        elif match[0] in "}]" and stack:
            opened = stack.pop()
            if _first_on_line(text, match.start()) and _indent(text, opened.offset) != _indent(text, match.start()):
                return f" (by the indentation, perhaps the one of {_place(text, opened.offset)})"
    return ""


def _first_on_line(text: str, offset: int) -> bool:
    return not text[text.rfind("\n", 0, offset) + 1 : offset].strip()


def _indent(text: str, offset: int) -> str:
    line = text[text.rfind("\n", 0, offset) + 1 :]
    return line[: len(line) - len(line.lstrip())]


def _place(text: str, offset: int) -> str:
    line, column = position(text, offset)
    return f"line {line}, column {column}"
