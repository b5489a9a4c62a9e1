"""Nothing secret is shown: by mark, by name, by shape; fingerprints are keyed."""

from __future__ import annotations

import json
import os
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotreload.config.fields import FieldRule
from hotreload.config.masking import looks_secret, mask_text
from hotreload.config.redact import KEY_NAME, Redactor, load_key
from hotreload.errors import ConfigUnreadable

SECRET_NAMES = """
    api_key apiKey root_key token accessToken access_tokens secret client_secret password dbPassword passwd credential
    credentials Authorization X-Api-Key Set-Cookie passphrase private_key APIKey keys bearer_token
"""
OTHER_NAMES = """
    max_tokens maxTokens token_limit tokens_per_minute key_file private_key_path token_url public_key cache_key
    partition_key keyword monkey model timeout_s author authority path passthrough secret_name key_id credentials_dir
    password_min_length input_tokens keyboard token_ttl
"""
REDACTOR = Redactor(b"k" * 32)
OPEN, HIDDEN = FieldRule("f"), FieldRule("f", secret=True)


@pytest.mark.parametrize(
    "name",
    SECRET_NAMES.split(),
)
def test_names_of_secrets(name: str) -> None:
    assert looks_secret(name)


@pytest.mark.parametrize(
    "name",
    OTHER_NAMES.split(),
)
def test_names_of_no_secrets(name: str) -> None:
    assert not looks_secret(name)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:hunter2@host/x", "https://me:***@host/x"),
        ("redis://:hunter2@host", "redis://:***@host"),
        ("https://hunter2@host", "https://***@host"),
        ("https://host/x?a=1&api_key=hunter2&b=2", "https://host/x?a=1&api_key=***&b=2"),
        ("Bearer hunter2.abc", "Bearer ***"),
        ("basic aHVudGVyMg==", "basic ***"),
        ("a:b@c is no URL", "a:b@c is no URL"),
        ("https://host:8080/x@y", "https://host:8080/x@y"),
        ("postgres://u:p%40ss:word@h,u2:other@h2/db", "postgres://u:***@h2/db"),
        ("https://u:hunter@2@host/", "https://u:***@host/"),
    ],
)
def test_secrets_by_shape(text: str, shown: str) -> None:
    assert mask_text(text) == shown


def test_a_secret_field_shows_a_keyed_fingerprint() -> None:
    shown = REDACTOR.show("f", "hunter2", HIDDEN)
    assert isinstance(shown, str)
    assert shown.startswith("secret:hmac:")
    assert len(shown) == len("secret:hmac:") + 12
    assert shown == REDACTOR.show("f", "hunter2", HIDDEN)
    assert shown != REDACTOR.show("f", "hunter3", HIDDEN)
    assert shown != REDACTOR.show("g", "hunter2", HIDDEN)
    assert shown != Redactor(b"l" * 32).show("f", "hunter2", HIDDEN)
    assert REDACTOR.show("f", None, HIDDEN) is None


def test_a_number_under_a_secret_looking_key_is_not_shown() -> None:
    shown = REDACTOR.show("f", {"password": 12345678, "pins": [["token", 4711]], "max_tokens": 4711}, OPEN)
    assert "12345678" not in json.dumps(shown)
    assert json.dumps(shown).count("4711") == 1


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
        [f"Bearer x y\n{SECRET}"],
    ],
)
def test_secrets_in_unmarked_fields_are_not_shown(value: object) -> None:
    assert SECRET not in json.dumps(REDACTOR.show("f", value, OPEN))
    assert "f" in repr(HIDDEN)


def test_what_is_no_secret_is_shown_as_it_is() -> None:
    value = {"a": [1, 2.5, None, True, "text"], "max_tokens": 5, "key": None, "key_count": 3, "list": ["a", "b"]}
    assert REDACTOR.show("f", value, OPEN) == value
    assert REDACTOR.show("f", [{"key": "colour", "value": "red"}], OPEN) == [{"key": "colour", "value": "red"}]
    assert REDACTOR.show("f", {"token": "", "password": True}, OPEN) == {"token": "", "password": True}
    assert REDACTOR.show("f", 5, OPEN) == 5


@given(st.dictionaries(st.text(max_size=4), st.integers() | st.text(max_size=4), max_size=4))
def test_a_fingerprint_is_of_the_values_and_not_of_their_order(values: dict[str, object]) -> None:
    reverse = dict(reversed(values.items()))
    assert REDACTOR.fingerprint(values) == REDACTOR.fingerprint(reverse)
    assert REDACTOR.fingerprint(values) != REDACTOR.fingerprint({**values, "one more": 1})
    assert REDACTOR.fingerprint(values).startswith("hmac:")


def test_one_number_spelled_twice_has_one_fingerprint() -> None:
    assert REDACTOR.fingerprint({"a": [25, {"b": 1}]}) == REDACTOR.fingerprint({"a": [25.0, {"b": 1.0}]})
    assert REDACTOR.fingerprint({"a": 1}) != REDACTOR.fingerprint({"a": True})


def test_the_key_is_made_once_and_private(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    key = load_key(folder)
    assert len(key) == 32
    assert load_key(folder) == key
    assert stat.S_IMODE((folder / KEY_NAME).stat().st_mode) == 0o600
    assert [path.name for path in folder.iterdir()] == [KEY_NAME]


def test_a_readable_key_is_closed_again(tmp_path: Path) -> None:
    key = load_key(tmp_path)
    (tmp_path / KEY_NAME).chmod(0o644)
    assert load_key(tmp_path) == key
    assert stat.S_IMODE((tmp_path / KEY_NAME).stat().st_mode) == 0o600


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 33])
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
