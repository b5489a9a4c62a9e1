"""The admin page in a real browser on a real service: what a person does with it, and what a hostile hand tries."""

from __future__ import annotations

import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from anyio.abc import Process
from playwright.async_api import Browser, expect

from tests.contracts.postgres import Server
from tests.process.running import HOTRELOAD, Spoken, started, wait_until

from .browser import Visit, needs_chromium, visit
from .hostile import MARKUP

pytestmark = [pytest.mark.anyio, needs_chromium]
KEY = "root-key-of-the-page-0123456789"
PLANTED = "planted-secret-8c1f"
VIEWS = {"overview": "Overview", "reloads": "Reloads", "check": "Check a file", "config": "Settings", "jobs": "Jobs",
         "recovery": "Recovery", "drain": "Drain"}  # fmt: skip


@dataclass
class Served:
    """A running service with jobs, and its admin routes over TCP."""

    url: str
    conf: Path
    settings: dict[str, Any]
    process: Process
    spoken: Spoken
    http: httpx.AsyncClient

    def save(self, **changes: Any) -> None:
        """Change settings on disk, whole; nothing is asked for."""
        self.settings.update(changes)
        new = self.conf.with_suffix(".new")
        new.write_text(json.dumps(self.settings, indent=2))
        new.replace(self.conf)

    async def add(self, payload: Any, **more: Any) -> str:
        """Queue a job and return its id."""
        answer = await self.http.post("/admin/jobs", json={"queue": "work", "payload": payload, **more})
        answer.raise_for_status()
        return answer.json()["id"]

    async def state(self, job: str, state: str, within_s: float = 20) -> None:
        """Wait until a job is in a state."""

        async def reached() -> bool:
            return (await self.http.get(f"/admin/jobs/{job}")).json()["state"] == state

        await wait_until(reached, within_s, f"job {job} is {state}")


@asynccontextmanager
async def served(
    folder: Path, port: int = 0, *more: str, key: str = KEY, socket: Path | None = None
) -> AsyncIterator[Served]:
    """Run the service; `folder` may be that of one before, `key` the root key of a file that is there already."""
    conf = folder / "ov.conf"
    settings: dict[str, Any] = {
        "hotreload": {"root_key": KEY, "drain_deadline_s": 8.0, "drain_grace_s": 3.0, "watch": False},
        "limit": 2,
        "api_key": PLANTED,
    }
    if not conf.exists():
        conf.write_text(json.dumps(settings, indent=2))
    arguments = [
        "--config",
        str(conf),
        "--http",
        f"127.0.0.1:{port}",
        "--socket",
        str(socket or folder / "run" / "s"),
        *more,
    ]
    async with started(*HOTRELOAD, "run", "tests.page.hostile:service", *arguments) as (process, spoken):
        url = "http://" + (await spoken.line("listening on http://")).rpartition("http://")[2].strip()
        async with httpx.AsyncClient(base_url=url, headers={"X-API-Key": key}, timeout=20) as http:

            async def ready() -> bool:
                return (await http.get("/readyz")).status_code == 200

            await wait_until(ready, 20, "ready")
            yield Served(url, conf, settings, process, spoken, http)


@asynccontextmanager
async def signed_in(service: Served, chromium: Browser, **options: Any) -> AsyncIterator[Visit]:
    async with visit(chromium, f"{service.url}/admin/", **options) as visited:
        await visited.sign_in(KEY)
        yield visited


async def test_a_limit_changed_by_sighup_appears_without_reloading_the_page(
    short_path: Path, chromium: Browser
) -> None:
    async with served(short_path) as service, signed_in(service, chromium) as visited:
        page = visited.page
        await expect(page.locator("[data-pool='workers.work'] .legend")).to_contain_text("0 running of 2")
        service.save(limit=7)
        service.process.send_signal(signal.SIGHUP)
        await expect(page.locator("[data-pool='workers.work'] .legend")).to_contain_text("0 running of 7")
        await expect(page.locator("#glance")).to_contain_text("generation 2", use_inner_text=True)
        await visited.view("reloads", "Reloads")
        await expect(page.locator("[data-outcome='applied']")).to_contain_text("limit")
        service.save(limit=-4)
        service.process.send_signal(signal.SIGHUP)
        refused = page.locator("[data-outcome='rejected']")
        await expect(refused).to_contain_text(f"ov.conf:{line_of(service, 'limit')}:")
        await expect(refused).to_contain_text("got -4")
        assert visited.foreign(service.url) == visited.errors == []


async def test_a_pasted_file_is_compared_with_what_runs_and_nothing_is_applied(
    short_path: Path, chromium: Browser
) -> None:
    async with served(short_path) as service, signed_in(service, chromium) as visited:
        page = visited.page
        await visited.view("check", "Check a file")
        draft = {**service.settings, "limit": 9, "workspace": "/elsewhere"}
        await page.fill("#draft", json.dumps(draft))
        await page.get_by_role("button", name="Check", exact=True).click()
        result = page.locator("#verdict")
        await expect(result).to_contain_text("valid")
        await expect(result).to_contain_text("limit")
        await expect(result).to_contain_text("workspace")
        await page.fill("#draft", '{"limit": 2,\n "limit": }')
        await page.get_by_role("button", name="Check", exact=True).click()
        await expect(result).to_contain_text("rejected")
        await expect(result).to_contain_text("ov.conf:2:")
        status = (await service.http.get("/admin/status")).json()
        assert (status["generation"], status["pending_restart"]) == (1, [])


async def test_a_dead_job_is_retried(short_path: Path, chromium: Browser) -> None:
    async with served(short_path) as service, signed_in(service, chromium) as visited:
        page = visited.page
        job = await service.add({"fail": True, "text": "no such thing"}, key="k1")
        await service.state(job, "dead", within_s=40)
        await service.http.post("/admin/jobs/pause", json={"queue": "work"})
        await page.goto(f"{service.url}/admin/#/job/{job}")
        await expect(page.locator("main")).to_contain_text("no such thing")
        await expect(page.locator("main .badge")).to_have_text("dead")
        history = page.get_by_role("table", name="What befell this job")
        await expect(history.locator("tbody tr").last).to_contain_text("dead")
        await page.click("text=Retry")
        await expect(page.locator("main .badge")).to_have_text("ready")
        await expect(history.locator("tbody tr").last).to_contain_text("retried")
        await page.go_back()


def line_of(service: Served, key: str) -> int:
    """Return the line of the configuration file that a key is on."""
    return next(n for n, line in enumerate(service.conf.read_text().splitlines(), 1) if f'"{key}"' in line)


async def test_a_drain_is_followed_to_its_end_and_found_after_the_restart(short_path: Path, chromium: Browser) -> None:
    async with served(short_path) as service:
        port = int(service.url.rpartition(":")[2])
        job = await service.add({"wait": True, "text": "long"})
        await service.state(job, "running")
        async with visit(chromium, f"{service.url}/admin/") as visited:
            page = visited.page
            await visited.sign_in(KEY)
            await visited.view("drain", "Drain")
            page.on("dialog", lambda dialog: dialog.accept())
            await page.click("text=Drain and stop")
            await expect(page.locator(".phases [aria-current=step]")).to_have_text("grace")
            await expect(page.locator("main")).to_contain_text("1 of 1 jobs still run")
            await expect(page.locator("[data-drain]")).to_contain_text(
                "requeued 1", timeout=20_000, use_inner_text=True
            )
            await service.process.wait()
            assert service.process.returncode == 0
            await expect(page.locator("#connection")).to_contain_text("lost")
            async with served(short_path, port):
                await expect(page.locator("#glance")).to_contain_text("running", timeout=20_000)
                await visited.view("drain", "Drain")
                await expect(page.locator("[data-drain]")).to_contain_text("nothing lost")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_view_is_accessible_in_light_and_dark_and_on_a_telephone(
    short_path: Path, chromium: Browser, scheme: Any
) -> None:
    async with served(short_path) as service:
        await service.add({"text": "plain"})
        size = {"width": 360, "height": 740}
        async with visit(chromium, f"{service.url}/admin/", color_scheme=scheme, viewport=size) as visited:
            assert await visited.violations() == []
            await visited.sign_in(KEY)
            for name, heading in VIEWS.items():
                await visited.view(name, heading)
                assert await visited.violations() == [], name
                wide = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
                assert not await visited.page.evaluate(wide), f"{name} scrolls sideways"


async def test_every_view_is_reached_by_keyboard(short_path: Path, chromium: Browser) -> None:
    async with served(short_path) as service, signed_in(service, chromium) as visited:
        page = visited.page
        for name, heading in list(VIEWS.items())[1:]:
            await page.focus(f"nav a[href='#/{name}']")
            await page.keyboard.press("Enter")
            await page.wait_for_selector(f"main h2:has-text('{heading}')")
            assert await page.evaluate("document.activeElement.id") == "main"


async def test_texts_of_users_are_never_markup_and_secrets_never_shown(short_path: Path, chromium: Browser) -> None:
    async with served(short_path) as service:
        await service.add({"fail": True, "text": MARKUP}, key=MARKUP)
        waiting = await service.add({"wait": True, "text": MARKUP}, key=MARKUP + "2")
        await service.state(waiting, "running")
        service.save(greeting=MARKUP, **{MARKUP: 1})
        assert (await service.http.post("/admin/config/reload")).json()["outcome"] == "applied"
        async with signed_in(service, chromium) as visited:
            page = visited.page
            shown = ""
            for name, heading in VIEWS.items():
                await visited.view(name, heading)
                shown += await page.content()
            await page.goto(f"{service.url}/admin/#/job/{waiting}")
            await expect(page.locator("pre").first).to_contain_text("<img src=x")
            await page.goto(f"{service.url}/admin/#/job/{MARKUP}")
            await expect(page.locator("main")).to_contain_text("Not Found")
            shown += await page.content()
            assert await page.locator("main img, main script").count() == 0
            assert "owned" not in await page.title()
            assert PLANTED not in shown
            assert KEY not in shown
            assert visited.errors == []


async def test_a_session_ends_when_the_key_is_rotated_or_the_person_signs_out(
    short_path: Path, chromium: Browser
) -> None:
    async with served(short_path) as service, signed_in(service, chromium) as visited:
        page = visited.page
        [cookie] = [one for one in await page.context.cookies() if one["name"] == "hotreload_session"]
        assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/admin")
        await page.click("#sign-out")
        await page.wait_for_selector("#key")
        assert await page.context.cookies() == []
        await visited.sign_in(KEY)
        service.save(hotreload={**service.settings["hotreload"], "root_key": "another-key-0123456789"})
        service.process.send_signal(signal.SIGHUP)
        await service.spoken.line("applied")
        await page.reload()
        await page.wait_for_selector("#key")


async def test_a_planted_session_is_not_taken(short_path: Path, chromium: Browser) -> None:
    """Fixation: what another hand put into the cookie never becomes a session, before or after the sign-in."""
    async with served(short_path) as service:
        async with visit(chromium, f"{service.url}/admin/") as visited:
            planted = {"name": "hotreload_session", "value": "cGxhbnRlZA==", "url": f"{service.url}/admin"}
            await visited.page.context.add_cookies([planted])  # pyright: ignore[reportArgumentType]
            await visited.page.reload()
            await visited.sign_in(KEY)
            values = [one["value"] for one in await visited.page.context.cookies(f"{service.url}/admin/")]
            assert len(set(values) - {planted["value"]}) == 1, "the session is a new one"
        assert (
            await httpx.AsyncClient().get(f"{service.url}/admin/status", cookies={"hotreload_session": "cGxhbnRlZA=="})
        ).status_code == 401


async def test_another_site_can_neither_ask_nor_frame(short_path: Path, chromium: Browser) -> None:
    async with served(short_path) as service, signed_in(service, chromium) as visited:
        page = visited.page
        context = page.context
        foreign = await context.new_page()
        await foreign.goto("data:text/html,<p>elsewhere</p>")
        options = "{method: 'POST', mode: 'no-cors', credentials: 'include'}"
        await foreign.evaluate(f"fetch('{service.url}/admin/drain', {options}).then(() => 0, () => 0)")
        frame = f"""() => new Promise((done) => {{
            const frame = document.createElement('iframe');
            frame.src = '{service.url}/admin/'; frame.onload = done; document.body.append(frame); }})"""
        await foreign.evaluate(frame)
        assert [one.url for one in foreign.frames[1:]] == ["chrome-error://chromewebdata/"], "it was framed"
        assert (await service.http.get("/admin/status")).json()["phase"] == "running"


async def test_the_page_works_through_the_tunnel_without_a_key_and_only_with_its_secret(
    short_path: Path, chromium: Browser
) -> None:
    async with served(short_path) as service:
        await service.add({"text": "plain"})
        tunnel = (*HOTRELOAD, "page", "--no-open", "--socket", str(short_path / "run" / "s"))
        async with started(*tunnel, environ={"PYTHONUNBUFFERED": "1"}) as (process, spoken):
            url = await spoken.line("http://127.0.0.1:")
            base = url.removesuffix("/admin/")
            async with visit(chromium, url) as visited:
                await visited.page.wait_for_selector("nav a")
                await visited.page.click("text=Pause work")
                await expect(visited.page.locator("text=Resume work")).to_be_visible()
                assert visited.foreign(url) == visited.errors == []
            async with httpx.AsyncClient() as http:
                wrong = base[:-1] + ("A" if base[-1] != "A" else "B")
                assert (await http.get(f"{wrong}/admin/status")).status_code == 404
                assert (await http.get(f"{base}/admin/status")).status_code == 200
                assert (await http.get(f"{base}/admin/status", headers={"Host": "evil.example"})).status_code == 404
                evil = {"Origin": "http://evil.example"}
                assert (await http.post(f"{base}/admin/drain", headers=evil)).status_code == 404
            process.send_signal(signal.SIGINT)
            await process.wait()
        status = (await service.http.get("/admin/status")).json()
        assert status["phase"] == "running"
        assert status["queues"][0]["paused"]


async def test_nodes_on_one_store_are_seen_one_that_differs_and_one_that_is_gone(
    short_path: Path, own_server: Server, chromium: Browser
) -> None:
    own = {"root_key": KEY, "watch": False, "store": own_server.dsn, "node_ttl_s": 5}
    folders = [short_path / name for name in "abc"]
    for folder in folders:
        folder.mkdir()
        (folder / "ov.conf").write_text(json.dumps({"hotreload": own, "limit": 2}))
    async with (
        served(folders[0]) as first,
        served(folders[1]) as second,
        served(folders[2]),
        signed_in(first, chromium) as seen,
    ):
        await seen.view("nodes", "Nodes")
        rows = seen.page.locator("main table tbody tr")
        await expect(rows).to_have_count(3)
        await expect(seen.page.locator("main")).to_contain_text("a/.hotreload (this one)")
        await expect(seen.page.locator("main")).not_to_contain_text("differs")
        (folders[1] / "ov.conf").write_text(json.dumps({"hotreload": own, "limit": 5}))
        assert (await second.http.post("/admin/config/reload")).json()["outcome"] == "applied"
        await expect(rows.nth(1)).to_contain_text("differs")
        assert await seen.violations() == []
        second.process.kill()
        await expect(rows.nth(1)).to_contain_text("gone", timeout=20_000)
        assert PLANTED not in await seen.page.content()
        assert "postgresql://" not in await seen.page.content()
