"""PURE: what to say of a text that is not JSON: what is unclosed, where it opened, what would be right."""

from __future__ import annotations

import re

from hotreload.config.expansion import position

TOKEN = re.compile(r'"[^"\\\n]*(?:\\.[^"\\\n]*)*"?|[{}\[\]]')
TOKEN_OR_LINE = re.compile(TOKEN.pattern + r"|\n")
INDENT = re.compile(r"[ \t]*")
CLOSER = {"{": "}", "[": "]"}


def open_brackets(text: str, end: int) -> list[int]:
    """Return where the brackets open at `end` stand, outermost first; stops at the first that closes a wrong one."""
    stack: list[int] = []
    for match in TOKEN.finditer(text, 0, end):
        sign = match[0]
        if sign in CLOSER:
            stack.append(match.start())
        elif sign in "}]" and stack and CLOSER[text[stack[-1]]] == sign:
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
        nul = "a NUL character is not text; save the file as UTF-8"
        return "in a text a line break is written \\n and a tab \\t" if rest[0] > "\0" else nul
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
    return f"`{text[opened[-1]]}` opened at {_place(text, opened[-1])} is not closed{_suspect(text)}"


def _at_closer(text: str, offset: int, before: str) -> str | None:
    if before.endswith(","):
        return "no comma goes before a closing bracket"
    opened = open_brackets(text, offset)
    if not opened:
        return "this closes nothing"
    if CLOSER[text[opened[-1]]] == text[offset]:
        return None
    return f"`{text[opened[-1]]}` opened at {_place(text, opened[-1])} is not closed before this"


def _suspect(text: str) -> str:
    """Name a bracket whose closer stands at another indentation: its own was probably forgotten."""
    stack: list[tuple[int, str]] = []
    line = 0
    for match in TOKEN_OR_LINE.finditer(text):
        sign, offset = match[0], match.start()
        if sign == "\n":
            line = match.end()
        elif sign in CLOSER:
            stack.append((offset, _indent(text, line)))
        elif sign in "}]" and stack:
            opened, indent = stack.pop()
            here = _indent(text, line)
            if line + len(here) == offset and here != indent:
                return f" (by the indentation, perhaps the one of {_place(text, opened)})"
    return ""


def _indent(text: str, line: int) -> str:
    match = INDENT.match(text, line)
    return match[0] if match else ""


def _place(text: str, offset: int) -> str:
    line, column = position(text, offset)
    return f"line {line}, column {column}"
