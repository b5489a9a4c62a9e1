"""The statements of both engines: under the same names, apart from those that one engine needs for itself."""

from __future__ import annotations

from hotreload.queue.postgres import statements as postgres
from hotreload.queue.sqlite import statements as sqlite

ONLY_SQLITE = {
    *("inserted", "next", "large", "fenced", "running_in"),  # many rows as one text, large ones one by one
    *("insert_payloads", "keep_cursor", "progressed"),  # long texts apart from the rows of their jobs
    *("counted", "fact", "put_fact"),  # whether a copy of the file is whole, what is kept beside the jobs
}
ONLY_POSTGRES = {"reserve", "insert_keyless"}


def test_both_engines_have_the_same_statements() -> None:
    assert sqlite.TEXTS.keys() - postgres.TEXTS.keys() == ONLY_SQLITE
    assert postgres.TEXTS.keys() - sqlite.TEXTS.keys() == ONLY_POSTGRES


def test_a_statement_is_its_text_without_the_comments_around_it() -> None:
    for text in (*sqlite.TEXTS.values(), *postgres.TEXTS.values()):
        assert text.split()[0] in {"SELECT", "INSERT", "UPDATE", "DELETE", "WITH"}
        assert "--" not in text
