"""Bytes become values that know their line and column, or a problem that does."""

from __future__ import annotations

import json
import os.path
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotreload.config.document import MAX_BYTES, Document, parse, split_path
from hotreload.config.expansion import expand
from hotreload.errors import ConfigError, ConfigInvalid, ConfigUnreadable, Problem

OV_CONF = Path("/etc/x/ov.conf")
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
TREES = st.recursive(
    SCALARS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=12,
)


def read(text: str | bytes, **options: Any) -> Document:
    raw = text if isinstance(text, bytes) else text.encode()
    return parse(OV_CONF, raw, **{"environ": {}, **options})


def problems(text: str | bytes, **options: Any) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        read(text, **options)
    return list(caught.value.problems)


def found(text: str | bytes) -> list[Problem]:
    try:
        read(text)
    except ConfigError as error:
        return list(error.problems)
    return []


def problem(text: str | bytes, **options: Any) -> Problem:
    (only,) = problems(text, **options)
    return only


def place(text: str | bytes, **options: Any) -> tuple[int | None, int | None]:
    only = problem(text, **options)
    assert only.file == "ov.conf"
    return only.line, only.column


@pytest.mark.parametrize(
    ("text", "loc", "expected"),
    [
        ('{"a": 1}', ["a"], (1, 7)),
        ('\ufeff{"a": 1}', ["a"], (1, 7)),
        ('{\r\n\t"a":\r\n 1}', ["a"], (3, 2)),
        ('{"😀é": 1, "b": 2}', ["b"], (1, 16)),
        ('{"a": [1, {"b": true}]}', ["a", 1, "b"], (1, 17)),
        ('{"a": {"b": 1}}', ["a", "missing", "deeper"], (1, 7)),
        ('{"a": 1}', ["b"], (1, 1)),
        ('\n  {"a": 1}', [], (2, 3)),
        ('{"a\\u0062": 5}', ["ab"], (1, 13)),
        ('{"a": [1]}', ["a", 7], (1, 7)),
    ],
)
def test_a_value_is_found_where_it_is_written(text: str, loc: list[str | int], expected: tuple[int, int]) -> None:
    assert read(text).locate(loc) == expected


def test_a_key_is_found_where_it_is_written() -> None:
    document = read('{\n "vlm": {"modl": 1}, "l": [{"x": 1}]}')
    assert document.locate_key(["vlm", "modl"]) == (2, 10)
    assert document.locate_key(["l", 0, "x"]) == (2, 29)
    assert document.locate_key(["vlm", "absent"]) is None
    assert document.locate_key(["absent", "x"]) is None
    assert document.locate_key([]) is None


@given(st.dictionaries(TEXTS, TREES, max_size=4), st.sampled_from([None, 1, "\t"]), st.booleans(), st.data())
def test_every_place_holds_its_value(tree: dict[str, Any], indent: Any, ascii_only: bool, data: st.DataObject) -> None:
    text = json.dumps(tree, indent=indent, ensure_ascii=ascii_only)
    document = read(text, dialect="openviking")  # which leaves `$$` as it is
    assert document.data == tree
    loc: list[str | int] = []
    value: Any = tree
    while isinstance(value, (dict, list)) and value:
        step = data.draw(st.sampled_from(list(value) if isinstance(value, dict) else range(len(value))))
        loc.append(step)
        value = value[step]
    line, column = document.locate(loc)
    rest = "\n".join(text.split("\n")[line - 1 :])[column - 1 :]
    assert json.JSONDecoder().raw_decode(rest)[0] == value


@pytest.mark.parametrize(
    ("text", "expected", "says", "advises"),
    [
        ("", (1, 1), "the file is empty", "must hold a JSON object"),
        (" \n\t\n", (1, 1), "the file is empty", "must hold a JSON object"),
        ("\ufeff", (1, 1), "the file is empty", "must hold a JSON object"),
        ("[1]", (1, 1), "the top level must be an object", "begin with"),
        ("\n  null", (2, 3), "the top level must be an object", "begin with"),
        ('{\n "a": {"b": 1\n', (3, 1), "expecting ',' delimiter", "`{` opened at line 2, column 7 is not closed"),
        ('{"a": [1, 2}', (1, 12), "expecting ',' delimiter", "`[` opened at line 1, column 7 is not closed before"),
        ('{"a": 1}}', (1, 9), "extra data", "closes nothing"),
        ('{"a": 1,}', (1, 9), "expecting property name", "no comma goes before"),
        ('{"a": [1,]}', (1, 10), "expecting value", "no comma goes before"),
        ('{"a": 1\n "b": 2}', (2, 2), "expecting ',' delimiter", "a comma is missing before"),
        ("{'a': 1}", (1, 2), "expecting property name", "double quotes"),
        ('{"a": True}', (1, 7), "expecting value", "write true"),
        ('{"a": None}', (1, 7), "expecting value", "write null"),
        ('{"a": 1]', (1, 8), "expecting ',' delimiter", "`{` opened at line 1, column 1 is not closed before"),
        ("}", (1, 1), "expecting value", "closes nothing"),
        ('{"a": tru}', (1, 7), "expecting value", None),
        ('{"a": 1 // one\n}', (1, 9), "expecting ',' delimiter", "no comments"),
        ('{"é": "x', (1, 7), "unterminated string", None),
        ('{"a": "x\ny"}', (1, 9), "invalid control character", "a line break is written \\n"),
        ('{\0"\0a\0"', (1, 2), "expecting property name", "save the file as UTF-8"),
        ('{"a": "\\x"}', (1, 8), "invalid \\escape", None),
        ('{"a" "b"}', (1, 6), "expecting ':' delimiter", None),
        ('{"a" 1}', (1, 6), "expecting ':' delimiter", None),
    ],
)
def test_what_is_not_json_says_where_and_what_would_be_right(
    text: str, expected: tuple[int, int], says: str, advises: str | None
) -> None:
    found = problem(text)
    assert (found.line, found.column) == expected
    assert says in found.message
    assert (advises in (found.hint or "")) if advises else found.hint is None


def test_a_missing_brace_in_the_middle_is_suspected_by_its_indentation() -> None:
    found = problem('{\n  "vlm": {\n    "a": 1,\n  "storage": {\n    "b": 2\n  }\n}\n')
    assert (found.line, found.column) == (8, 1)
    assert found.hint is not None
    assert "line 1, column 1 is not closed" in found.hint
    assert "line 2, column 10" in found.hint


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize(
    ("raw", "line", "column"),
    [
        (b'\xff{"a": 1}', 1, 1),
        (b'{"a": "\xff"}', 1, 8),
        (b'{\n "a": "\xc3\xa9\xf0\x9f\x94\x91 \xff"}', 2, 11),
        (b'{"a": "\xc3', 1, 8),
    ],
)
def test_bytes_that_are_not_utf8_are_placed_after_a_byte_order_mark_too(
    mark: bytes, raw: bytes, line: int, column: int
) -> None:
    assert place(mark + raw) == (line, column)


def test_bytes_that_are_not_utf8_are_placed() -> None:
    assert place(b'{"\xc3\xa9": 1,\n "b": "\xff"}') == (2, 8)
    assert place(b'\xff\xfe{\x00"\x00') == (1, 1)


def test_a_key_that_no_utf8_can_hold_is_an_error_in_its_place() -> None:
    (found,) = problems('{"a": 1,\n "\\ud800": {"b": 1}}')
    assert (found.line, found.column) == (2, 2)
    assert "half a character" in found.message


def test_numbers_that_are_not_finite_are_errors_all_at_once() -> None:
    text = '{"NaN": NaN, "a": [1, -Infinity], "b": 1e999,\n"c": -1e999, "d": "NaN"}'
    found = problems(text)
    assert [(each.path, each.line, each.column) for each in found] == [
        ("NaN", 1, 9),
        ("a.1", 1, 23),
        ("b", 1, 40),
        ("c", 2, 6),
    ]


def test_an_over_long_number_is_an_error() -> None:
    assert place('{"a": ' + "9" * 5000 + "}") == (1, 7)


@pytest.mark.parametrize("text", ['{"a": "\\ud83d"}', '{"a": "\\uDE00x"}'])
def test_half_a_character_is_an_error(text: str) -> None:
    assert place(text) == (1, 7)


def test_a_whole_astral_character_in_escapes_is_none() -> None:
    assert read('{"a": "\\ud83d\\ude00"}').data == {"a": "😀"}


def test_duplicate_keys_are_errors_with_the_place_of_the_second() -> None:
    found = problems('{"a": 1, "b": {"c": 1, "c": 2},\n "a": 3}')
    assert [(each.path, each.line, each.column) for each in found] == [("b.c", 1, 24), ("a", 2, 2)]


def test_duplicate_keys_can_be_warnings_and_the_last_counts() -> None:
    document = read('{"a": 1, "a": 2}', dialect="openviking")
    assert document.data == {"a": 2}
    assert [(each.path, each.column) for each in document.warnings] == [("a", 10)]
    assert document.locate(["a"]) == (1, 15)


def test_nesting_is_limited() -> None:
    assert place('{"a": ' + "[" * 5000 + "]" * 5000 + "}") == (1, 106)
    assert read('{"a": ' + "[" * 99 + "]" * 99 + "}").data
    assert read('{"a": "' + "[" * 200 + '"}').data


def test_a_file_over_the_limit_is_unreadable() -> None:
    with pytest.raises(ConfigUnreadable):
        read(b" " * (MAX_BYTES + 1))
    assert read(b'{"a": "' + b"x" * (MAX_BYTES - 9) + b'"}').data


def test_variables_are_expanded_as_text_and_places_are_those_written() -> None:
    text = '{"$K": "a${V}b$V", "n": $N, "after": {"x": true}}'
    document = read(text, environ={"K": "a long key name", "V": "é", "N": "12"})
    assert document.data == {"a long key name": "aébé", "n": 12, "after": {"x": True}}
    assert document.locate(["n"]) == (1, text.index("$N") + 1)
    assert document.locate(["after", "x"]) == (1, text.index("true") + 1)
    assert document.locate_key(["after"]) == (1, text.index('"after"') + 1)
    assert document.written(["a long key name"]) == '"a${V}b$V"'
    assert document.written(["n"]) == "$N"
    assert document.written(["after", "x"]) is None
    assert document.written(["absent"]) is None


def test_a_value_is_inserted_once_and_an_empty_one_vanishes() -> None:
    document = read('{"a": "$A|$E|"}', environ={"A": "$B", "B": "no", "E": ""})
    assert document.data == {"a": "$B||"}


@given(st.text("$AB{}_x é", max_size=20))
def test_expansion_is_that_of_the_standard_library(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("A", "one")
        patch.setenv("B", "")
        assert expand(text, os.environ).text == os.path.expandvars(text)


def test_an_unset_variable_stays_and_is_warned_about() -> None:
    document = read('{"a": "$SET",\n "vlm": {"key": "x${UNSET}"}}', environ={"SET": "longer than it was"})
    assert document.data["vlm"]["key"] == "x${UNSET}"
    (warning,) = document.warnings
    assert (warning.path, warning.line, warning.column) == ("vlm.key", 2, 19)
    assert "UNSET" in warning.message


@pytest.mark.parametrize(
    ("text", "value", "warned"),
    [
        ('{"a": "pa$$HOME$$$HOME"}', "pa$HOME$/h", []),
        ('{"a": "$$$$"}', "$$", []),
        ('{"a": "$2b$12$ABCDEFGHIJKLMNOPQRSTUV./x"}', "$2b$12$ABCDEFGHIJKLMNOPQRSTUV./x", []),
        ('{"a": "$6$SALT$HASH", "b": "$argon2id$v=19$m=65536,t=3,p=4$c29tZXNhbHQ$x"}', "$6$SALT$HASH", []),
        ('{"a": "^a.*z$", "$schema": "./x", "$id": "$5 or $lower or ${9}"}', "^a.*z$", []),
        ('{"a": "$HOME:$HOST:$PORT"}', "/h:$HOST:$PORT", [(14, "$HOST is not set"), (20, "$PORT is not set")]),
        ('{"a": "${host}"}', "${host}", [(8, "$host is not set and stays as written")]),
        ('{"a": "${A:-secret}"}', "${A:-secret}", [(8, "${A:…} stays as written: only $NAME and ${NAME}")]),
        ('{"a": "${A-b}${HOME}"}', "${A-b}/h", [(8, "${A-…} stays as written")]),
    ],
)
def test_a_dollar_is_what_it_was_meant_to_be(text: str, value: str, warned: list[tuple[int, str]]) -> None:
    document = read(text, environ={"HOME": "/h"})
    assert document.data["a"] == value
    assert [each.column for each in document.warnings] == [column for column, _ in warned]
    assert all(says in each.message for each, (_, says) in zip(document.warnings, warned, strict=True))
    assert "secret" not in str(document.warnings)


def test_stock_openviking_knows_no_escape() -> None:
    environ = {"HOME": "/h"}
    assert read('{"a": "$$HOME"}', environ=environ, dialect="openviking").data == {"a": "$/h"}


@given(st.text('$AB{}_:-"x é', max_size=20))
def test_every_place_of_an_expanded_text_is_found_again(text: str) -> None:
    expanded = expand(text, {"A": "one", "B": ""}, escapes=True)
    for _, offset in expanded.unset:
        assert expanded.written_offset(expanded.text_offset(offset)) == offset
    assert all(text[offset] == "$" for offset, _ in expanded.not_replaced())


def test_a_value_that_breaks_the_json_is_blamed_and_not_shown() -> None:
    found = problem('{"a": "x$SECRET"}', environ={"SECRET": 'hunter"2'})
    assert (found.line, found.column) == (1, 9)
    assert "$SECRET" in (found.hint or "")
    assert "hunter" not in str(found)


def test_an_unset_variable_outside_quotes_is_blamed() -> None:
    found = problem('{"a": $PORT}')
    assert (found.line, found.column) == (1, 7)
    assert found.hint == "$PORT is not set"


def test_a_broken_file_shows_nothing_of_its_text() -> None:
    with pytest.raises(ConfigInvalid) as caught:
        read('{"key": "hunter2" "b": 1}')
    assert "hunter2" not in repr(caught.value)
    assert caught.value.__context__ is None


def test_a_document_shows_no_values() -> None:
    document = read('{"key": "hunter2"}')
    assert "hunter2" not in repr(document)
    assert document.name == "ov.conf"
    assert document.digest == read('{"key": "hunter2"}').digest


@given(st.text(max_size=40) | st.binary(max_size=40))
def test_whatever_is_in_the_file_the_answer_is_a_document_or_a_config_error(text: str | bytes) -> None:
    raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    assert all(each.line and each.column and each.message for each in found(raw))


@given(st.dictionaries(TEXTS, TREES, max_size=3), st.data())
def test_a_cut_or_damaged_file_is_placed(tree: dict[str, Any], data: st.DataObject) -> None:
    text = json.dumps(tree, indent=1)
    cut = data.draw(st.integers(0, len(text)))
    junk = data.draw(st.sampled_from(["", '"', "{", "}", "]", ",", ":", "$", "NaN", "\\"]))
    damaged = text[:cut] + junk + text[data.draw(st.integers(cut, len(text))) :]
    assert all(each.line and each.column for each in found(damaged))


@pytest.mark.parametrize(
    "entry",
    [
        '"é{n}": "$UNSET"',
        '"{n}": [[[[{}], "$UNSET"]]]',
        '"é{n}": {n}, "é{n}": 1',
        '"é{n}": [NaN, 1e999]',
        '"é{n}": "\\\\ud83d"',
    ],
)
def test_a_large_file_is_read_in_bounded_time(entry: str) -> None:
    entries = ", ".join(entry.replace("{n}", str(n)) for n in range(20_000))
    began = time.process_time()
    problems = found("{" + entries + "}")
    assert len(problems) in (0, 100, 200)
    assert time.process_time() - began < 10


FULL = json.dumps({f"k{i:05}": {"n": i} for i in range(45_000)})


@pytest.mark.parametrize(
    "text",
    [
        FULL[:-1],
        FULL[:-1] + ",}",
        FULL[: len(FULL) // 2],
        FULL.replace(" ", "\n")[:-1],
        '{"a": ' + '"' * 1_000_000,
        '{"a": "' + "\\" * 1_000_000,
        '{"a": ' + "[" * 1_000_000,
        '{"a": ' + "[" * 500_000 + "]" * 500_000 + "}",
        '{"a": "' + "${" * 500_000,
        '{"a": "' + "$A" * 500_000,
        '{"a": "' + "$" * 1_000_000,
    ],
)
def test_a_large_broken_file_is_refused_in_bounded_time(text: str) -> None:
    began = time.process_time()
    assert len(found(text)) == 1
    assert time.process_time() - began < 10


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("", ()),
        ("a.b", ("a", "b")),
        ("l.1.x", ("l", 1, "x")),
        ("l.9", ("l", 9)),
        ("l.x", ("l", "x")),
        ("dotted.key.inner", ("dotted.key", "inner")),
        ("none.at.all", ("none", "at", "all")),
    ],
)
def test_a_dotted_path_is_split_along_the_tree(path: str, expected: tuple[str | int, ...]) -> None:
    assert split_path(path, {"a": {"b": 1}, "l": [1, {"x": 2}], "dotted.key": {"inner": 3}}) == expected
