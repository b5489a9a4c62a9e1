"""A line of a refused file is shown with its keys and numbers, and never with a text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotreload.config.secrets import LONGEST_LINE, shown_line


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (b'    "max_concurrent": -3,', '    "max_concurrent": -3,'),
        (b'  "watch": true, "url": "http://user:pw@host"', '  "watch": true, "url": "***"'),
        (b'  "url": "a \\" quote", "n": 1.5e3}', '  "url": "***", "n": 1.5e3}'),
        (b'  "api_key": 12345, "n": 2', '  "api_key": ***, "n": ***'),
        (b'  "name": sk-live-0123,', '  "name": ***,'),
        (b'  "name": "never closed', '  "name": "***"'),
        (b"", ""),
    ],
)
def test_a_line_shows_keys_and_numbers(line: bytes, shown: str) -> None:
    assert shown_line(b"{\n" + line + b"\n}", 2) == shown


def test_a_line_that_is_not_there_or_too_long_is_not_shown() -> None:
    assert shown_line(b"{}", 2) is None
    assert shown_line(b"[" + b"1," * LONGEST_LINE + b"1]", 1) is None


@given(st.text(alphabet=st.characters(min_codepoint=97, max_codepoint=122), min_size=9, max_size=40))
def test_no_text_of_a_value_is_shown(value: str) -> None:
    for line in (f'"x": "{value}"', f'"x": "{value}', f'["{value}", "{value}"]', f'"x": {value}-1'):
        assert value not in (shown_line(line.encode(), 1) or "")
