"""Known secrets are found in every spelling other code gives them, for as long as anything runs on them."""

from __future__ import annotations

import base64
import html
import json
import re
import string
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotreload.config.fields import FieldRule
from hotreload.config.scrubbing import CHUNK, KEPT, Scrubber, scrub

ESCAPES: dict[str, Callable[[str], str]] = {
    "itself": lambda text: text,
    "repr": repr,
    "repr beside both quotes": lambda text: repr(f"{text} '\""),
    "ascii": ascii,
    "repr of bytes": lambda text: repr(text.encode()),
    "JSON": json.dumps,
    "JSON with characters": lambda text: json.dumps(text, ensure_ascii=False),
    "URL": quote,
    "URL, all of it": lambda text: quote(text, safe=""),
    "form": quote_plus,
    "URL in lower case": lambda text: re.sub("%..", lambda found: found[0].lower(), quote(text, safe="")),
    "HTML": html.escape,
    "map": lambda text: str({"k": [text]}),
}
PEM = "-----BEGIN PRIVATE KEY-----\n" + "\n".join("MIIEvQ" + f"{n:02}" * 29 for n in range(9)) + "\n-----END KEY-----\n"
ODD = (
    "p\\a\"ss'w/o rd",
    "Schlüssel-für-Ärger",
    "naïve\ttoken\nof lines",
    "🔑🔑 emoji+word",
    "100%&more;=<xyz>",
    "$ecret\\n{}",
)
PARTS = ("ecret", "chl", "ssel", "rger", "token", "lines", "emoji", "word", "more", "xyz")
secrets = st.text(st.characters(codec="utf-8"), min_size=4, max_size=24).filter(
    lambda text: len(text.strip()) >= 4 and not text.isdecimal() and set(text) & set(string.ascii_letters)
)


def rule(path: str) -> FieldRule:
    return FieldRule(path, secret=path == "password")


def test_known_secrets_are_taken_out_of_messages() -> None:
    assert scrub("bad hunter22 and hunter2, abc", ["hunter2", "hunter22", "abc"]) == "bad *** and ***, abc"


@pytest.mark.parametrize("outer", ESCAPES)
@pytest.mark.parametrize("inner", ESCAPES)
def test_a_secret_in_any_spelling_within_any_other_is_found(inner: str, outer: str) -> None:
    if inner == "HTML" and outer in ("URL", "URL, all of it", "URL in lower case", "form"):
        outer = "itself"
    for secret in ODD:
        shown = scrub(f"refused: {ESCAPES[outer](f'({ESCAPES[inner](secret)})')} at once", [secret])
        assert "***" in shown
        assert [part for part in PARTS if part in shown] == []
        assert shown.startswith("refused: ")
        assert shown.endswith(" at once")


@given(secret=secrets, spellings=st.lists(st.sampled_from([name for name in ESCAPES if name != "HTML"]), max_size=3))
def test_whatever_the_secret_is(secret: str, spellings: list[str]) -> None:
    spelled = secret
    for name in spellings:
        spelled = ESCAPES[name](spelled)
    shown = scrub(spelled, [secret])
    assert "***" in shown
    assert secret not in shown


@pytest.mark.parametrize("secret", ["hunter2-hunter2", *ODD])
@pytest.mark.parametrize("before", ["", "u:", "me:", "user:"])
def test_base64_of_a_secret_among_other_things_is_found(secret: str, before: str) -> None:
    raw = f"{before}{secret}:and more".encode()
    for spelled in (base64.b64encode(raw).decode(), base64.urlsafe_b64encode(raw).decode()):
        for text in (spelled, quote(spelled, safe="")):
            shown = scrub(f"sent {text} to it", [secret])
            assert "***" in shown
            assert len(shown) < len("sent *** to it") + 4 * (len(before) + len(":and more")) / 3 + 8


def test_each_long_line_of_a_secret_is_one() -> None:
    for line in PEM.splitlines()[1:-1]:
        assert scrub(f"bad line {line!r}", [PEM]) == "bad line '***'"
    assert scrub("-----BEGIN PRIVATE KEY-----", [PEM]) == "-----BEGIN PRIVATE KEY-----"
    assert "MIIE" not in scrub(json.dumps({"key": PEM}), [PEM])
    long = "ab1" * CHUNK
    assert scrub(long, [long]).strip("*") == ""


@pytest.mark.parametrize(
    ("secret", "part"),
    [
        ("Bearer hunter2hunter2", "hunter2hunter2"),
        ("session=hunter2hunter2; path=/", "hunter2hunter2"),
        ("https://u:hunter2@host/", "hunter2"),
        ("https://u:p%40ssword@host/", "p@ssword"),
        ("https://host/?token=hunter%2B2", "hunter+2"),
        ("https://t0ken-t0ken-t0ken@host", "t0ken-t0ken-t0ken"),
    ],
)
def test_what_is_secret_inside_one_is_found_alone(secret: str, part: str) -> None:
    assert scrub(f"sent {part} to it", [secret]) == "sent *** to it"


def test_a_number_is_found_by_itself_only() -> None:
    scrubber = Scrubber()
    scrubber.learn({"password": [12345678, 99, True, 4711.25], "n": 5}, rule)
    assert scrubber.scrub("12345678, 99, True, 4711.25 and 912345678") == "***, 99, True, *** and 912345678"


def test_what_was_learnt_is_taken_out_of_what_others_wrote() -> None:
    scrubber = Scrubber()
    values = {
        "password": "open sesame",
        "nested": {"token": ["t0ken-t0ken"], "dsn": "postgres://u:pa55word@h", "note": "a plain note"},
        "url": "https://host/?api_key=k3y-k3y",
        "name": "plain",
    }
    scrubber.learn(values, rule)
    text = "cannot log in to https://u:x@h as plain with open sesame, t0ken-t0ken, pa55word or k3y-k3y: a plain note"
    assert scrubber.scrub(text) == ("cannot log in to https://u:***@h as plain with ***, ***, *** or ***: a plain note")


def test_secrets_are_known_for_as_long_as_a_generation_is_in_use() -> None:
    scrubber = Scrubber()
    scrubber.learn({"password": "secret of one"}, rule, generation=1)
    scrubber.learn({"password": "secret of two"}, rule, generation=2)
    text = "secret of one, secret of two, secret of three"
    for number in range(3 * KEPT):
        scrubber.learn({"password": f"draft {number}"}, rule)
    assert scrubber.scrub(text) == "***, ***, secret of three"
    assert scrubber.scrub("draft 0") == "draft 0"
    assert scrubber.scrub(f"draft {3 * KEPT - 1}") == "***"
    scrubber.release([2])
    assert scrubber.scrub(text) == "***, ***, secret of three"
    for number in range(KEPT):
        scrubber.learn({"password": f"another {number}"}, rule)
    assert scrubber.scrub(text) == "secret of one, ***, secret of three"
    scrubber.learn({"password": "secret of three"}, rule, generation=3)
    assert scrubber.scrub(text) == "secret of one, ***, ***"
