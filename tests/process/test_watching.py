"""The watch shows how it does, makes good what it missed, follows secrets, and obeys its settings while it runs."""

# ruff: noqa: ASYNC221, ASYNC230, ASYNC240

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import aclosing
from pathlib import Path

import anyio
import pytest

from hotreload.config.settings import HotreloadSettings
from hotreload.reload.folder_watch import FolderWatch
from hotreload.reload.load import Reader
from hotreload.reload.reading import Reading, Version, read_file
from hotreload.reload.route import Route, survey
from hotreload.reload.triggers import FileWatch
from tests.process.running import hotreload, wait_until
from tests.process.serving import TARGET, Running, put, serving, text

pytestmark = pytest.mark.anyio
QUEUED = Path("/proc/sys/fs/inotify/max_queued_events")


@pytest.fixture
def conf(short_path: Path) -> Path:
    folder = short_path / "a" / "etc"
    folder.mkdir(parents=True)
    put(folder / "ov.conf")
    return folder / "ov.conf"


async def watch(service: Running) -> tuple[bool, str, int]:
    """Return health, backend and overflows, which status and metrics must tell alike."""
    shown = (await service.status())["watch"]
    metrics = (await service.http.get("/metrics")).text
    if shown == (await service.status())["watch"]:
        assert f"hotreload_config_watch_healthy {float(shown['healthy'])}" in metrics
        assert f"hotreload_config_watch_overflows_total {float(shown['overflows'])}" in metrics
    return shown["healthy"], shown["backend"], shown["overflows"]


async def becomes(service: Running, wanted: tuple[bool, str, int], within_s: float = 5) -> None:
    async def is_so() -> bool:
        return await watch(service) == wanted

    await wait_until(is_so, within_s, f"watch is {wanted}")


def versions(conf: Path) -> dict[Path, Version]:
    return {conf: read_file(conf).version}


def route_to(conf: Path) -> Route:
    return survey([conf], Reader().read).route


def flood(folder: Path, events: int) -> None:
    """Cause more events than the kernel keeps; the same twice in a row would be one."""
    for number in range(events // 2):
        path = folder / f"{number % 2}"
        path.touch()
        path.unlink()


def another_tree(folder: Path, **conf: int) -> None:
    """Put another tree in the place of `a`: the watched folder in it is told nothing of this."""
    (folder / "c" / "etc").mkdir(parents=True)
    put(folder / "c" / "etc" / "ov.conf", **conf)
    (folder / "a").rename(folder / "b")
    (folder / "c").rename(folder / "a")


async def test_an_overflow_is_counted_and_nothing_is_missed(short_path: Path, conf: Path) -> None:
    async with serving(short_path, conf=conf) as service:
        await becomes(service, (True, "inotify", 0))
        service.process.send_signal(signal.SIGSTOP)
        await anyio.to_thread.run_sync(flood, conf.parent, int(QUEUED.read_text()) + 1000)
        put(conf, value=1)
        service.process.send_signal(signal.SIGCONT)
        await service.applied(1, within_s=3)
        assert (await watch(service))[2] == 1
        await becomes(service, (True, "inotify", 1))
        put(conf, value=2)
        await service.applied(2)
        assert len(service.reloads) == 2


async def test_a_watch_that_went_deaf_is_made_good_by_the_next_look(short_path: Path, conf: Path) -> None:
    async with serving(short_path, conf=conf) as service:
        await becomes(service, (True, "inotify", 0))
        another_tree(short_path, value=1)
        await service.applied(1, within_s=3)
        assert (await watch(service))[::2] == (False, 1)
        await becomes(service, (True, "inotify", 1))
        put(conf, value=2)
        await service.applied(2)


async def test_a_folder_that_is_away_is_unhealthy_until_it_is_back(short_path: Path, conf: Path) -> None:
    async with serving(short_path, conf=conf) as service:
        conf.parent.rename(short_path / "away")
        await becomes(service, (False, "poll", 0))
        put(short_path / "away" / "ov.conf", value=1)
        (short_path / "away").rename(conf.parent)
        await service.applied(1, within_s=3)
        await becomes(service, (True, "inotify", 0))
        assert len(service.reloads) == 1


async def test_what_was_saved_after_it_was_read_and_before_it_is_watched_is_found(conf: Path) -> None:
    gc.collect()
    descriptors = len(os.listdir("/proc/self/fd"))
    seen = versions(conf)
    put(conf, value=1)
    watched = FileWatch(lambda: [conf], HotreloadSettings, seen, Reader())
    async with aclosing(watched.changes()) as changes:
        with anyio.fail_after(5):
            await anext(changes)
    put(conf, value=2)
    watched.taken(versions(conf))
    with anyio.move_on_after(0.2) as waiting:
        async for _ in watched.changes():
            pass
    assert waiting.cancelled_caught, "what a reload has read is no news"
    gc.collect()
    await wait_until(lambda: len(os.listdir("/proc/self/fd")) <= descriptors, 5, "all is given back")


async def test_a_look_that_is_faster_than_the_watch_finds_no_fault_with_it(conf: Path) -> None:
    watched = FileWatch(lambda: [conf], lambda: HotreloadSettings(poll_s=0.05), versions(conf), Reader())
    async with aclosing(watched.changes()) as changes:
        for value in range(1, 21):
            put(conf, value=value)
            with anyio.fail_after(5):
                await anext(changes)
            assert (watched.health.healthy, watched.health.overflows) == (True, 0), value
            watched.taken(versions(conf))


async def test_what_a_reload_could_not_read_is_still_news(conf: Path) -> None:
    watched = FileWatch(lambda: [conf], lambda: HotreloadSettings(poll_s=0.05), versions(conf), Reader())
    put(conf, value=1)
    async with aclosing(watched.changes()) as changes:
        with anyio.fail_after(5):
            await anext(changes)
            await anext(changes)
            watched.taken(versions(conf))
            with anyio.move_on_after(0.2) as waiting:
                await anext(changes)
    assert waiting.cancelled_caught


async def news(watched: FileWatch, within_s: float) -> bool:
    """Return whether there is news within a time."""
    async with aclosing(watched.changes()) as changes:
        with anyio.move_on_after(within_s):
            await anext(changes)
            return True
    return False


async def test_a_file_that_is_only_opened_is_no_news_and_one_that_was_unfinished_is_once_closed(conf: Path) -> None:
    watched = FileWatch(lambda: [conf], lambda: HotreloadSettings(poll_s=0.05), versions(conf), Reader())
    with conf.open("r+") as file:
        assert not await news(watched, 0.2)
        file.write(" ")
        file.flush()
        assert await news(watched, 5)
        watched.taken(versions(conf))
        assert not await news(watched, 0.2)
    assert await news(watched, 5)


WITHOUT_INSTANCES = 'echo 0 > /proc/sys/user/max_inotify_instances && exec "$0" "$@"'


async def test_where_nothing_can_be_watched_the_file_is_looked_at(short_path: Path, conf: Path) -> None:
    before = ("unshare", "--user", "--map-root-user", "sh", "-c", WITHOUT_INSTANCES)
    if subprocess.run([*before, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no user namespace can be had here")
    async with serving(short_path, conf=conf, before=before) as service:
        await becomes(service, (False, "poll", 0))
        put(conf, value=1)
        await service.applied(1)
        again = "echo 8 > /proc/sys/user/max_inotify_instances"
        await anyio.run_process(["nsenter", "-U", "-t", str(service.process.pid), "sh", "-c", again])
        await becomes(service, (True, "inotify", 0))
        put(conf, value=2)
        await service.applied(2)
        assert sum("watch.failed" in line for line in service.spoken.lines) == 1


async def test_a_name_that_is_not_utf8_in_the_folder_is_made_good(short_path: Path, conf: Path) -> None:
    async with serving(short_path, conf=conf) as service:
        odd = os.fsencode(conf.parent) + b"/\xff\xfe"
        for value in (1, 2):
            with open(odd, "w"):
                pass
            os.unlink(odd)
            put(conf, value=value)
            await service.applied(value)
        await becomes(service, (True, "inotify", 0))


async def test_a_way_that_changes_twice_in_one_save_is_followed_to_its_end(short_path: Path) -> None:
    link = short_path / "ov.conf"
    places = [short_path / name / "ov.conf" for name in ("first", "second", "third")]
    for place in places:
        place.parent.mkdir()
        put(place)
    link.symlink_to(places[0])
    settings = HotreloadSettings(poll_s=60)
    watched = FileWatch(lambda: [link], lambda: settings, versions(link), Reader())

    def retarget(place: Path) -> None:
        (short_path / "new").symlink_to(place)
        (short_path / "new").replace(link)

    async with aclosing(watched.changes()) as changes, anyio.create_task_group() as tasks:

        async def twice() -> None:
            await wait_until(lambda: watched.health.healthy, 5, "it watches")
            retarget(places[1])
            retarget(places[2])
            watched.taken(versions(link))  # a reload that was asked for otherwise has read it
            watched.nudge()
            await anyio.sleep(0.2)
            put(places[2], value=7)

        tasks.start_soon(twice)
        with anyio.fail_after(5):
            await anext(changes)
    assert (watched.health.healthy, watched.health.overflows) == (True, 0)


async def test_a_file_system_that_hangs_is_unhealthy_and_costs_one_thread(
    conf: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hangs, looks = threading.Event(), 0

    def hanging(path: Path) -> Reading:
        nonlocal looks
        looks += 1
        if looks == 3:
            hangs.wait()
        return read_file(path)

    settings = HotreloadSettings(poll_s=0.05)
    watched = FileWatch(lambda: [conf], lambda: settings, versions(conf), Reader(read=hanging), look_s=0.05)
    async with aclosing(watched.changes()) as changes, anyio.create_task_group() as tasks:

        async def recovers() -> None:
            await wait_until(lambda: looks == 3 and not watched.health.healthy, 5, "it hangs")
            threads = threading.active_count()
            await anyio.sleep(0.3)
            assert (looks, threading.active_count()) == (3, threads)
            hangs.set()
            await wait_until(lambda: watched.health.healthy, 5, "it is well")
            put(conf, value=1)

        tasks.start_soon(recovers)
        with anyio.fail_after(5):
            await anext(changes)
    assert caplog.text.count("watch.look_failed") == 1


async def test_what_changes_between_two_waits_is_told_by_the_next(conf: Path) -> None:
    watcher = FolderWatch()
    try:
        assert await watcher.arm(route_to(conf)) is False
        assert watcher.failure is None
        assert await watcher.wait(0.05) is False
        put(conf, value=1)
        await anyio.sleep(0.1)
        assert await watcher.wait(5) is True
        (conf.parent / "another").write_text("not ours")
        assert await watcher.wait(0.1) is False
        watcher.ring()
        assert await watcher.wait(5) is True
        with anyio.move_on_after(0.05) as left:
            await watcher.wait(60)
        assert left.cancelled_caught
        assert await watcher.arm(route_to(conf)) is True
        put(conf, value=2)
        assert await watcher.wait(5) is True
    finally:
        watcher.close()


async def test_a_folder_that_was_replaced_since_the_look_is_not_watched(conf: Path) -> None:
    route = route_to(conf)
    conf.parent.rename(conf.parent.with_name("old"))
    conf.parent.mkdir()
    watcher = FolderWatch()
    assert await watcher.arm(route) is False
    assert "was replaced meanwhile" in (watcher.failure or "")
    conf.parent.rmdir()
    assert await watcher.arm(route) is False
    assert "No such file" in (watcher.failure or "")


async def test_a_watch_left_behind_does_not_disturb_the_end_of_the_interpreter(conf: Path) -> None:
    script = (
        "import anyio, sys\nfrom pathlib import Path\nfrom hotreload.reload.folder_watch import FolderWatch\n"
        "from tests.process.test_watching import route_to\n"
        "async def main():\n watch = FolderWatch()\n await watch.arm(route_to(Path(sys.argv[1])))\n"
        " print(watch.failure, flush=True)\nanyio.run(main)\n"
    )
    for _ in range(3):
        done = await anyio.run_process([sys.executable, "-c", script, str(conf)], stderr=subprocess.STDOUT)
        assert done.stdout == b"None\n"


async def test_a_rotated_secret_is_a_reload(short_path: Path, conf: Path) -> None:
    credentials = short_path / "credentials"
    credentials.mkdir()
    (credentials / "password").write_text("first secret\n")
    environ = {"CREDENTIALS_DIRECTORY": str(credentials)}
    async with serving(short_path, conf=conf, environ=environ) as service:
        shown = await service.get("/admin/config")
        assert shown["provenance"]["password"] == "credential"
        new = credentials / ".new"
        new.write_text("second secret\n")
        new.replace(credentials / "password")
        await service.until("a verdict", lambda reloads: len(reloads) == 1)
        (report,) = service.reloads
        assert (report["outcome"], [change["path"] for change in report["changes"]]) == ("applied", ["password"])
        (credentials / "hotreload.root_key").write_text("a root key")
        await service.until("a verdict", lambda reloads: len(reloads) == 2)
        assert [change["path"] for change in service.reloads[1]["changes"]] == ["hotreload.root_key"]
        (credentials / "password").unlink()
        await service.until("a verdict", lambda reloads: len(reloads) == 3)
        assert (await service.get("/admin/config"))["provenance"]["password"] == "default"
        (credentials / "nobodys").write_text("x")
        await service.rest()
        assert len(service.reloads) == 3
        told = json.dumps([service.reloads, service.spoken.lines])
        assert "first secret" not in told
        assert "second secret" not in told


async def test_how_to_watch_is_live(short_path: Path, conf: Path) -> None:
    async with serving(short_path, conf=conf) as service:
        put(conf, value=1, hotreload={"watch": False, "poll_s": 3600})
        await service.applied(1)
        await becomes(service, (True, "off", 0), 1)
        put(conf, value=2, hotreload={"watch": True, "poll_s": 3600})
        with anyio.move_on_after(0.3):
            await service.applied(2)
            raise AssertionError("nobody asked")
        assert (await service.reload())["outcome"] == "applied"
        await becomes(service, (True, "inotify", 0), 1)
        put(conf, value=3, hotreload={"poll_s": 0.05})
        await service.applied(3)
        another_tree(short_path, value=4)
        await service.applied(4, within_s=1)


async def test_history_and_deadline_are_live(short_path: Path, conf: Path) -> None:
    async with serving(short_path, conf=conf) as service:
        for value in range(1, 6):
            put(conf, value=value)
            await service.applied(value)
        assert len(await service.get("/admin/config/history")) == 5
        put(conf, value=9, hotreload={"history": 2, "recovery": "off", "drain_deadline_s": 7.5})
        report = await service.applied(9)
        assert report["pending_restart"] == []
        assert [kept["id"] for kept in await service.get("/admin/config/history")] == [
            report["id"],
            service.reloads[-2]["id"],
        ]
        assert (await service.http.post("/admin/drain")).json()["deadline_s"] == 7.5
        await service.process.wait()
    async with serving(short_path, conf=conf) as service:
        kept = await service.get("/admin/config/history")
        assert (len(kept), kept[0]["id"]) == (2, report["id"])


async def test_another_file_is_checked_against_what_runs(short_path: Path, conf: Path) -> None:
    other = short_path / "other.conf"
    other.write_text(text(value=7, place="there"))
    async with serving(short_path, conf=conf) as service:
        done = await service.verb("check", "--against-running", "--config", str(other), "--json")
        report = json.loads(done.stdout)
        assert (done.returncode, report["outcome"], report["dry_run"], report["generation"]) == (0, "valid", True, 1)
        assert [(change["path"], change["old"], change["new"]) for change in report["changes"]] == [("value", 0, 7)]
        assert [pending["path"] for pending in report["pending_restart"]] == ["place"]
        other.write_text('{\n  "value": -1\n}')
        done = await service.verb("check", "--against-running", "--config", str(other), "--json")
        (error,) = json.loads(done.stdout)["errors"]
        assert (done.returncode, error["file"], error["line"], error["column"]) == (1, "other.conf", 2, 12)
        assert (service.reloads, (await service.status())["pending_restart"]) == ([], [])
        done = await service.verb("check", "--against-running", "--json")
        assert json.loads(done.stdout)["changes"] == []


async def test_who_leaves_in_time_knows_the_id_and_the_reload_goes_on(short_path: Path, conf: Path) -> None:
    async with serving(short_path, conf=conf) as service:
        put(conf, value=1, hotreload={"watch": False})
        await service.applied(1)
        put(conf, value=2, first={"value": 1, "trouble": "hang"}, hotreload={"watch": False})
        done = await service.verb("reload", "--timeout", "1")
        assert done.returncode == 5
        asked = done.stderr.decode().split("its id is ")[1].split()[0]
        put(conf, value=3, hotreload={"watch": False})
        shown = await service.http.post("/admin/config/reload", headers={"Prefer": "wait=0"})
        assert (shown.status_code, shown.json()["outcome"]) == (202, None)
        assert shown.headers["X-Reload-Id"] == shown.json()["id"] != asked
        await service.until("a verdict", lambda reloads: len(reloads) == 3)
        assert [report["id"] for report in service.reloads[1:]] == [asked, shown.json()["id"]]
        assert [report["outcome"] for report in service.reloads[1:]] == ["rolled_back", "applied"]
        assert "resources.first: prepare did not end" in service.reloads[1]["errors"][0]["message"]
        (last,) = (await service.get("/admin/config/history"))[:1]
        assert last == service.reloads[-1] == (await service.status())["last_reload"]


async def test_the_schema_of_a_target_is_printed() -> None:
    done = await hotreload("schema", TARGET)
    leaf = json.loads(done.stdout)["properties"]["value"]
    assert done.returncode == 0
    assert (leaf["x-reload"], leaf["x-secret"], leaf["default"], leaf["minimum"]) == ("live", False, 0, 0)
    assert json.loads(done.stdout)["properties"]["hotreload"]["properties"]["root_key"]["x-secret"] is True
