"""The admin page and the metrics on OpenViking's port, below its own admin path and under its root key."""

import json
from typing import Any

import httpx
import pytest
from ov_home import ROOT_KEY, UNWATCHED
from ov_process import Server
from playwright.async_api import expect

from tests.page.browser import browser, needs_chromium, visit

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]
PREFIXES = ("/admin", "/api/v1/admin/hotreload")


@needs_chromium
@pytest.mark.parametrize("prefix", PREFIXES)
async def test_a_person_signs_in_with_the_root_key_and_sees_a_limit_change(server: Server, prefix: str) -> None:
    url = f"http://127.0.0.1:{server.home.port}"
    async with browser() as chromium, visit(chromium, f"{url}{prefix}/") as visited:
        page = visited.page
        await page.fill("#key", "another-key-than-that-one")
        await page.click("main button")
        await expect(page.locator("#sign-in-error")).to_contain_text("not the root key")
        await visited.sign_in(ROOT_KEY)
        await expect(page.locator("[data-pool='workers.semantic'] .legend")).to_contain_text("running of 4")
        server.home.write({"vlm": {"max_concurrent": 7}} | UNWATCHED)
        await page.get_by_role("button", name="Reload now").click()
        await expect(page.locator("[data-pool='workers.semantic'] .legend")).to_contain_text("running of 7")
        for name, heading in {"reloads": "Reloads", "check": "Check a file", "config": "Settings"}.items():
            await visited.view(name, heading)
        await page.get_by_role("button", name="Sign out").click()
        await page.wait_for_selector("#key")
        assert visited.foreign(url) == visited.errors == []


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_a_session_is_for_the_page_alone(server: Server, prefix: str) -> None:
    url = f"http://127.0.0.1:{server.home.port}"
    async with httpx.AsyncClient(base_url=url) as person:
        signed = await person.post(f"{prefix}/session", json={"key": ROOT_KEY}, headers={"Origin": url})
        assert signed.status_code == 204
        cookie = signed.headers["Set-Cookie"]
        assert f"Path={prefix};" in cookie
        assert (await person.get(f"{prefix}/status")).json()["result"]["name"] == "openviking"
        foreign = await person.post(f"{prefix}/drain", headers={"Origin": "http://elsewhere.example"})
        assert (foreign.status_code, foreign.json()["error"]["code"]) == (403, "PERMISSION_DENIED")
        unsaid = await person.post(f"{prefix}/drain")
        assert unsaid.status_code == 403
        rebound = await person.get(f"{prefix}/status", headers={"Host": "rebound.example"})
        assert rebound.status_code == 403
        forged = {"Cookie": "hotreload_session=" + "A" * 76}
        assert (await person.get(f"{prefix}/status", headers=forged)).status_code in (401, 403)
    answer: Any = await server.http.get("/api/v1/admin/accounts", headers={"Cookie": cookie.partition(";")[0]})
    assert answer.status_code == 401, json.dumps(answer.json())


@pytest.mark.parametrize("prefix", [*PREFIXES, "/api/v1/admin/config"])
async def test_metrics_are_for_root(server: Server, prefix: str) -> None:
    text = (await server.http.get(f"{prefix}/metrics", headers=server.root)).raise_for_status().text
    assert 'hotreload_pool_limit{pool="workers.semantic"}' in text
    assert (await server.http.get(f"{prefix}/metrics")).status_code == 401
    assert (await server.http.get(f"{prefix}/metrics", headers=server.user)).status_code == 403
