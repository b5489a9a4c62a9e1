"""What is secret is hidden in every spelling, what looks harmless is left alone, and no text takes long."""

from __future__ import annotations

import base64
import html
import json
import math
import os
import re
import stat
import string
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotreload.config.fields import FieldRule, looks_secret
from hotreload.config.secrets import (
    CHUNK,
    KEPT,
    KEY_NAME,
    MOST,
    STRIDE,
    Redactor,
    Scrubber,
    SecretMatcher,
    is_weak,
    load_key,
    mask_text,
)
from hotreload.errors import ConfigUnreadable

INNOCENT = Path(__file__).with_name("innocent_lines.txt").read_text(encoding="utf-8").splitlines()
SECRET_NAMES = """
    api_key apiKey root_key token accessToken access_tokens secret client_secret password dbPassword passwd credential
    credentials Authorization X-Api-Key Set-Cookie passphrase private_key APIKey keys bearer_token key_0 api_key_2
    dbpassword authtoken privatekey accesskey bottoken clientsecret dbpass userpwd DBPASSWORD authtokens apikey rootpass
"""
OTHER_NAMES = """
    max_tokens maxTokens maxtokens token_limit tokens_per_minute key_file private_key_path token_url public_key
    cache_key partition_key keyword monkey model timeout_s author authority path passthrough secret_name key_id
    credentials_dir
    password_min_length input_tokens keyboard token_ttl publickey compass bypass turkey hockey tokenizer secretary
    page_token cachekey oauth sortkey
"""
REDACTOR = Redactor(b"k" * 32)
OPEN, HIDDEN = FieldRule("f"), FieldRule("f", secret=True)


def scrub(text: str, known: list[str]) -> str:
    return SecretMatcher(known).hide(text)


def rule(path: str) -> FieldRule:
    return FieldRule(path, secret=path == "password")


# --- names


@pytest.mark.parametrize("name", SECRET_NAMES.split())
def test_names_of_secrets(name: str) -> None:
    assert looks_secret(name)


@pytest.mark.parametrize("name", OTHER_NAMES.split())
def test_other_names(name: str) -> None:
    assert not looks_secret(name)


@pytest.mark.parametrize("name", ["key_0", "keys", "tokens", "token", "user_keys", "review_tokens", "sig"])
def test_a_number_is_secret_under_fewer_names(name: str) -> None:
    assert not looks_secret(name, number=True)
    assert all(looks_secret(other, number=True) for other in ("password", "api_key", "authtoken", "db_pass"))


# --- shapes


@pytest.mark.parametrize("line", INNOCENT)
def test_an_innocent_line_is_left_alone(line: str) -> None:
    matcher = SecretMatcher(["hunter2-hunter2", "EMPTY", "xyzzy", "9f86d081884c7d65aaaa", "日本語パスワード"])
    assert matcher.hide(line) == line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:hunter2@host/x", "https://me:***@host/x"),
        ("redis://:hunter2@host", "redis://:***@host"),
        ("https://hunter2@host", "https://***@host"),
        ("ssh://0123456789abcdef@host", "ssh://***@host"),
        ("https://host/x?a=1&api_key=hunter2&b=2", "https://host/x?a=1&api_key=***&b=2"),
        ("GET /ws?access_token=hunter2 HTTP/1.1", "GET /ws?access_token=*** HTTP/1.1"),
        ("https://g/v1:run?key=AIzaSyD-0123456789abcdef", "https://g/v1:run?key=***"),
        ("https://s3/x?X-Amz-Signature=28ee&b=2", "https://s3/x?X-Amz-Signature=***&b=2"),
        ("Authorization: Bearer hunter2.abc", "Authorization: Bearer ***"),
        ("authorization: basic aHVudGVyMg==", "authorization: basic ***"),
        ("{'Authorization': 'Bearer hunter2', 'Accept': 'x'}", "{'Authorization': 'Bearer ***', 'Accept': 'x'}"),
        (r"{\"authorization\": \"Token hunter2\"}", r"{\"authorization\": \"Token ***\"}"),
        ("[(b'authorization', b'Bearer hunter2')]", "[(b'authorization', b'Bearer ***')]"),
        ("Proxy-Authorization: Basic dXNlcjpwYXNz\r\nA: b", "Proxy-Authorization: Basic ***\r\nA: b"),
        ('Authorization: Digest username="me", response="75"', "Authorization: Digest ***"),
        (
            "Authorization: HMAC-SHA256 Credential=AK/x, SignedHeaders=a;b, Signature=28",
            "Authorization: HMAC-SHA256 ***",
        ),
        ("Authorization: 3f786850e387550f", "Authorization: ***"),
        ("host=db user=app password=secret dbname=x", "host=db user=app password=*** dbname=x"),
        ("host=db user=app password=secret", "host=db user=app password=***"),
        ("password='it is' host=x", "password=*** host=x"),
        ("Server=db;User Id=sa;Pwd=secret", "Server=db;User Id=sa;Pwd=***"),
        ("AccountName=a;AccountKey=Zm9v+/==;Suffix=core", "AccountName=a;AccountKey=***;Suffix=core"),
        (
            "jdbc:postgresql://db/x?user=a&password=secret&ssl=true",
            "jdbc:postgresql://db/x?user=a&password=***&ssl=true",
        ),
        ("password=hunter22 was refused", "password=*** was refused"),
        ("a:b@c is no URL", "a:b@c is no URL"),
        ("https://host:8080/x@y", "https://host:8080/x@y"),
        ("postgres://u:p%40ss:word@h,u2:other@h2/db", "postgres://u:***@h2/db"),
        ("https://u:hunter@2@host/", "https://u:***@host/"),
    ],
)
def test_a_credential_that_is_not_declared_is_hidden_by_its_shape(text: str, shown: str) -> None:
    assert mask_text(text) == shown
    assert mask_text(shown) == shown


# --- trees and fingerprints


def test_a_secret_field_shows_a_keyed_fingerprint() -> None:
    shown = REDACTOR.show("f", "hunter2", HIDDEN)
    assert isinstance(shown, str)
    assert re.fullmatch(r"secret:hmac:[0-9a-f]{12}", shown)
    assert shown == REDACTOR.show("f", "hunter2", HIDDEN)
    assert shown != REDACTOR.show("f", "hunter3", HIDDEN)
    assert shown != REDACTOR.show("g", "hunter2", HIDDEN)
    assert shown != Redactor(b"l" * 32).show("f", "hunter2", HIDDEN)
    assert REDACTOR.show("f", None, HIDDEN) is None


def test_a_number_under_a_secret_looking_key_is_not_shown() -> None:
    shown = REDACTOR.show("f", {"password": 12345678, "pins": [["token", 4711]], "max_tokens": 4711}, OPEN)
    assert "12345678" not in json.dumps(shown)
    assert json.dumps(shown).count("4711") == 1


def test_a_secret_that_stands_in_another_field_too_is_not_shown() -> None:
    redactor = Redactor(b"k" * 32)
    redactor.remember(frozenset({"hunter2 hunter2"}))
    assert redactor.show("url", "mine is hunter2%20hunter2!", OPEN) == "mine is ***!"
    assert redactor.show("map", {"a": ["hunter2 hunter2"]}, OPEN) == {"a": ["***"]}


def test_what_is_shown_is_json_whatever_a_default_is() -> None:
    value = {"most": math.inf, "least": [-math.inf], "mean": math.nan, "one": 1.5}
    shown = {"most": "Infinity", "least": ["-Infinity"], "mean": "NaN", "one": 1.5}
    assert REDACTOR.show("f", value, OPEN) == shown
    assert REDACTOR.show("f", math.inf, OPEN) == "Infinity"


SECRET = "hunter2hunter2"


@pytest.mark.parametrize(
    "value",
    [
        {"Authorization": f"Bearer {SECRET}"},
        {"Authorization": SECRET, "Accept": "x"},
        {"a": {"b": [{"password": SECRET}]}},
        {"api_key": [SECRET, {"x": SECRET}]},
        {"tokens": {"one": SECRET}},
        [["X-Api-Key", SECRET]],
        [{"name": "Cookie", "value": SECRET}],
        [{"key": "api_key", "value": SECRET}],
        f"https://me:{SECRET}@host",
        {"url": f"https://{SECRET}@host"},
        [f"https://host/?token={SECRET}"],
        [f"Bearer {SECRET}"],
        [f"Basic first-l1ne\n{SECRET}"],
    ],
)
def test_secrets_in_unmarked_fields_are_not_shown(value: object) -> None:
    assert SECRET not in json.dumps(REDACTOR.show("f", value, OPEN))


def test_what_is_not_secret_is_shown_as_it_is() -> None:
    value = {"a": [1, 2.5, None, True, "text"], "max_tokens": 5, "key": None, "key_count": 3, "list": ["a", "b"]}
    assert REDACTOR.show("f", value, OPEN) == value
    for value in (
        [{"key": "colour", "value": "red"}],
        {"token": "", "password": True},
        5,
        "Basic plan",
        "Token bucket",
    ):
        assert REDACTOR.show("f", value, OPEN) == value


@given(st.dictionaries(st.text(max_size=4), st.integers() | st.text(max_size=4), max_size=4))
def test_a_fingerprint_is_of_the_values_and_not_of_their_order(values: dict[str, object]) -> None:
    reverse = dict(reversed(values.items()))
    assert REDACTOR.fingerprint(values) == REDACTOR.fingerprint(reverse)
    assert REDACTOR.fingerprint(values) != REDACTOR.fingerprint({**values, "one more": 1})
    assert REDACTOR.fingerprint(values).startswith("hmac:")


def test_one_number_spelled_twice_has_one_fingerprint() -> None:
    assert REDACTOR.fingerprint({"a": [25, {"b": 1}]}) == REDACTOR.fingerprint({"a": [25.0, {"b": 1.0}]})
    assert REDACTOR.fingerprint({"a": 1}) != REDACTOR.fingerprint({"a": True})


# --- known secrets

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
    "日本語のパスワード",
    "a!b@c#d$e%f^g&",
    "00:/00:A",
    "0'¡000\"A",
    "a!'(b)*c;d",
)
PARTS = ("ecret", "chl", "ssel", "rger", "token", "lines", "emoji", "word", "more", "xyz", "語の", "c#d")
secrets = st.text(st.characters(codec="utf-8"), min_size=8, max_size=24).filter(
    lambda text: not is_weak(text.strip()) and not text.isdecimal() and set(text) & set(string.ascii_letters)
)


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


@given(secret=secrets, spellings=st.lists(st.sampled_from([name for name in ESCAPES if name != "HTML"]), max_size=2))
def test_whatever_the_secret_is(secret: str, spellings: list[str]) -> None:
    spelled = secret
    for name in spellings:
        spelled = ESCAPES[name](spelled)
    shown = scrub(f"xx{spelled}xx", [secret])
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


def test_a_weak_secret_is_hidden_only_as_a_word() -> None:
    known = ["test", "none", "abc", "production", "hunter2", "EMPTY", "naïve", "p:w"]
    text = (
        "the latest tests of nonetheless test-suite, test.py, abcd, productions, hunter22, EMPTYING, p:words, naïvety"
    )
    assert scrub(text, known) == text
    text = "test, 'none' (abc) production: /EMPTY/ user:hunter2@x naïve [p:w]."
    assert scrub(text, known) == "***, '***' (***) ***: /***/ user:***@x *** [***]."
    for spelled in (repr("\ntest\n"), json.dumps("é\ttest\té"), quote("é test é"), "k=test&x", "dGVzdA=="):
        assert "***" in scrub(spelled, known)
        assert "test" not in scrub(spelled, known)
    assert scrub("ab", ["ab"]) == "ab"


def test_secrets_that_overlap_leave_nothing_between_them() -> None:
    assert scrub("abc-hunter2-hunter3-hunter4.", ["hunter2-hunter3", "hunter3-hunter4"]) == "abc-***."
    assert scrub("hunter2-hunter22 hunter2-hunter2", ["hunter2-hunter2", "hunter2-hunter22"]) == "*** ***"


def test_a_text_with_half_a_surrogate_pair_is_searched_too() -> None:
    assert scrub("\udcff hunter2-hunter2 \udcfe", ["hunter2-hunter2"]) == "\udcff *** \udcfe"
    assert scrub("\udcff\ud83d\udcfe!", ["\udcff\ud83d\udcfe"]) == "***!"


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
        scrubber.learn({"password": f"draft of {number}"}, rule)
    assert scrubber.scrub(text) == "***, ***, secret of three"
    assert scrubber.scrub("draft of 0") == "draft of 0"
    assert scrubber.scrub(f"draft of {3 * KEPT - 1}") == "***"
    scrubber.release([2])
    assert scrubber.scrub(text) == "***, ***, secret of three"
    for number in range(KEPT):
        scrubber.learn({"password": f"another {number}"}, rule)
    assert scrubber.scrub(text) == "secret of one, ***, secret of three"
    scrubber.learn({"password": "secret of three"}, rule, generation=3)
    assert scrubber.scrub(text) == "secret of one, ***, ***"


# --- how long it takes

HOSTILE = (
    "a.",
    "a",
    "://",
    "https://a@",
    "://u:p@",
    "&",
    "&a",
    "&",
    "=&",
    "&key=b",
    "&key=b&key=aaaaaaaaaaaaaaaaaaaaaaaa",
    "&x_page_token=",
    "?secret",
    "?a.b.c.",
    "pwd='",
    "pwd='x' ",
    "AccountKey=abc==;",
    "password=",
    "password=a1b2c3 ",
    "Authorization: ",
    'Authorization: Digest a="b", ',
    "'\"\\\\'\"",
    "\\",
    "%25",
    "\\u00e4",
    "test ",
    "hunter2!hunter2!",
    "hunter2!",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa! ",
    "日本語の",
    base64.b64encode(bytes(range(256)) * 40).decode(),
)
KNOWN = [f"{number:05}-{number * 7919 % 10007:05}" for number in range(200)]
ODD_KNOWN = [*KNOWN, *ODD, "test", "hunter2!hunter2!hunter3", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!"]


def cpu_s(matcher: SecretMatcher, text: str) -> float:
    """Return the least processor time of this thread that it takes to hide what is in a text."""
    took: list[float] = []
    for _ in range(3):
        began = time.thread_time()
        matcher.hide(text)
        took.append(time.thread_time() - began)
    return min(took)


@pytest.mark.parametrize("unit", HOSTILE, ids=lambda unit: repr(unit[:16]))
def test_time_is_linear_in_the_text(unit: str) -> None:
    matcher = SecretMatcher(ODD_KNOWN)
    short, long = ((unit * (size // len(unit) + 1))[:size] for size in (20_000, 320_000))
    # sixteen times the text: a quadratic search would take 256 times as long
    assert cpu_s(matcher, long) < 64 * cpu_s(matcher, short) + 0.002


@pytest.mark.parametrize(
    "unit",
    ["://u:SECRET9@h ", "&api_key=SECRET9 ", "PASSWORD=SECRET9; ", "known-SECRET9-known ", "Authorization: SECRET9-9 "],
)
def test_a_text_with_too_many_secrets_is_cut_before_the_first_that_is_not_looked_at(unit: str) -> None:
    matcher = SecretMatcher(["known-SECRET9-known"])
    for count in (1, MOST - 1, MOST, MOST + 1, 3 * MOST):
        shown = matcher.hide(f"{unit * count}the end")
        assert "SECRET9" not in shown
        if count <= MOST:
            assert shown.endswith("the end")
    assert "the end" not in shown


@given(st.integers(STRIDE - 40, STRIDE + 40), st.text(max_size=3))
def test_a_secret_is_found_wherever_the_parts_of_a_long_text_meet(before: int, odd: str) -> None:
    text = f"{odd}{'-' * before} a1!b2-c3/d4 {'.' * STRIDE} a1!b2-c3/d4 "
    assert "b2-c3" not in SecretMatcher(["a1!b2-c3/d4", "other"]).hide(text)


def test_time_does_not_depend_on_how_many_secrets_are_known() -> None:
    line = "2026-11-26 INFO handled request 17 of user someone with a token and a key, status=200 " * 50
    few, many = (SecretMatcher([base64.b64encode(os.urandom(64)).decode() for _ in range(n)]) for n in (10, 3000))
    assert cpu_s(many, line) < 20 * cpu_s(few, line) + 0.002


# --- the key of the fingerprints


def test_the_key_is_made_once_and_private(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    key = load_key(folder)
    assert len(key) == 32
    assert load_key(folder) == key
    assert stat.S_IMODE((folder / KEY_NAME).stat().st_mode) == 0o600
    assert [path.name for path in folder.iterdir()] == [KEY_NAME]


def test_a_readable_key_is_closed_again_and_an_empty_one_made(tmp_path: Path) -> None:
    key = load_key(tmp_path)
    (tmp_path / KEY_NAME).chmod(0o644)
    assert load_key(tmp_path) == key
    assert stat.S_IMODE((tmp_path / KEY_NAME).stat().st_mode) == 0o600
    (tmp_path / KEY_NAME).write_bytes(b"")  # power was lost while it was made
    assert load_key(tmp_path) == load_key(tmp_path) != key


@pytest.mark.parametrize("content", [b"short", b"x" * 33])
def test_a_damaged_key_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / KEY_NAME).write_bytes(content)
    with pytest.raises(ConfigUnreadable, match="damaged"):
        load_key(tmp_path)


def test_a_key_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigUnreadable, match="cannot be used"):
        load_key(tmp_path / "file")
    (tmp_path / KEY_NAME).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigUnreadable, match="cannot be used"):
        load_key(tmp_path)


def test_creators_at_once_end_with_one_key(tmp_path: Path) -> None:
    keys: list[bytes] = []
    gate = threading.Barrier(8)

    def create() -> None:
        gate.wait()
        keys.append(load_key(tmp_path))

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keys) == 8
    assert len(set(keys)) == 1
    assert os.listdir(tmp_path) == [KEY_NAME]
