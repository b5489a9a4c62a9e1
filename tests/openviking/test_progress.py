"""Finished model calls over a stop: those in flight are made again, no others; a reindex asks again."""

import sqlite3
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from signal import SIGKILL, SIGTERM, Signals
from types import SimpleNamespace
from typing import Any

import pytest
from ov_home import Home
from ov_process import Server, running, wait_until

from hotreload.openviking.progress import Progress, question

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]
FILES = 24
LIMIT = 4
CHAT = "get_completion_async"


async def add_folder(server: Server) -> None:
    """Import a folder of many files as one resource: one message, a model call for each file and one for the whole."""
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for number in range(FILES):
            archive.writestr(
                f"folder/part{number}.md", f"# Part {number}\n\nThe text of part {number}, unlike others.\n"
            )
    files = {"file": ("folder.zip", packed.getvalue())}
    sent = await server.http.post("/api/v1/resources/temp_upload", files=files, headers=server.user)
    wanted = {"temp_file_id": sent.raise_for_status().json()["result"]["temp_file_id"], "wait": False}
    wanted["to"] = "viking://resources/folder"
    (await server.http.post("/api/v1/resources", json=wanted, headers=server.user)).raise_for_status()


def repeated(model: Any) -> int:
    """Return how many model calls asked what had been asked before."""
    return sum(model.gauges.prompts.values()) - len(model.gauges.prompts)


@pytest.mark.parametrize("stop", [SIGTERM, SIGKILL], ids=lambda stop: stop.name)
async def test_a_stop_repeats_only_the_calls_in_flight(
    model: Any, home: Home, stop: Signals, figures: Callable[[str], None]
) -> None:
    home.write({"vlm": {"max_concurrent": LIMIT}, "hotreload": {"drain_deadline_s": 3}})
    async with running(home, home.ours, measured=True) as server:
        model.set(latency_s=0.05)
        await add_folder(server)
        await wait_until(lambda: model.gauges.answered >= FILES * 2 // 3, 30, "most of the calls")
        model.set(hang=True)
        await wait_until(lambda: model.gauges.hanging == LIMIT, 20, "hung calls")
        assert repeated(model) == 0
        server.signal(stop)
        await server.ended(10)
        answered = model.gauges.answered
    model.set(hang=False, latency_s=0.0)
    async with running(home, home.ours) as server:
        await server.finished(["folder"], 60)
        await wait_until(server.idle, 30, "empty queues")
        figures(f"{stop.name} after {answered} finished model calls of a folder: {repeated(model)} made again")
        assert len(model.gauges.prompts) >= FILES + 1
        assert repeated(model) <= LIMIT
        await wait_until(lambda: kept(home) == 0, 10, "nothing kept once acknowledged")

        calls = model.gauges.calls
        asked = {"uri": "viking://resources/folder", "mode": "semantic_and_vectors", "wait": False, "force": True}
        await server.http.post("/api/v1/content/reindex", json=asked, headers=server.user)
        await wait_until(lambda: model.gauges.calls >= calls + FILES, 30, "a forced reindex asks again")
        await wait_until(server.idle, 30, "empty queues")


def kept(home: Home) -> int:
    """Return how many answers the file holds."""
    with sqlite3.connect(f"file:{home.folder}/.hotreload/progress.db?mode=ro", uri=True) as connection:
        return connection.execute("SELECT count(*) FROM answers").fetchone()[0]


def test_answers_outlive_the_process_and_end_with_their_message(tmp_path: Path) -> None:
    path = tmp_path / "progress.db"
    first = Progress(path)
    first.keep(b"one", "m1", "1")
    first.keep(b"two", "m1", "2")
    first.keep(b"other", "m2", "3")
    assert path.stat().st_mode & 0o777 == 0o600
    first.acknowledged("m2")
    first.close()
    again = Progress(path)
    assert again.recall(b"other", "m3") is None
    assert again.recall(b"one", "m7") == "1"  # delivered again, under another id
    again.acknowledged("m7")
    again.close()
    last = Progress(path)
    assert [last.recall(asked, "m1") for asked in (b"one", b"two")] == [None, "2"]
    last.close()


def test_a_damaged_file_is_begun_anew_and_a_failing_one_costs_calls_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "progress.db"
    path.write_bytes(b"no database at all, " * 500)
    progress = Progress(path)
    assert "damaged" in caplog.text
    progress.keep(b"one", "m1", "1")
    assert progress.recall(b"one", "m1") == "1"
    with sqlite3.connect(path) as other:
        other.execute("DROP TABLE answers")
    caplog.clear()
    for _ in range(3):
        progress.keep(b"two", "m1", "2")
        assert progress.recall(b"two", "m1") is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    progress.close()


def test_a_question_is_all_that_shapes_its_answer() -> None:
    model = {"model": "m", "provider": "openai", "api_base": "http://a", "api_key": "k", "max_concurrent": 4}

    def asked(account: str = "a", prompt: Any = "p", method: str = CHAT, **over: Any) -> bytes | None:
        return question(account, SimpleNamespace(**model | over), method, [prompt], {})

    same = asked()
    assert asked() == same
    assert asked(api_key="k2", max_concurrent=9) == same
    others = [
        asked("b"),
        asked(prompt="q"),
        asked(prompt=b"p"),
        asked(method="get_vision_completion_async"),
        asked(model="n"),
        asked(thinking=True),
    ]
    assert len({same, *others}) == 1 + len(others)
    assert asked(prompt=object()) is None
    assert asked(method="get_media_completion_async") is None
