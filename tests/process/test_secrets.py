"""Fifty secrets are planted wherever one can stand; none is found in anything the service gives away."""

from __future__ import annotations

import base64
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
import pytest

from tests.process.running import HOTRELOAD, ROOT
from tests.process.serving import Running, serving, text

pytestmark = pytest.mark.anyio
TARGET = "tests.process.leaky:service"
OFF: dict[str, Any] = {"watch": False}


class Plants:
    """Makes secrets nobody could take for anything else, and looks for them."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def new(self) -> str:
        """Return one more."""
        self.made.append(f"S3cr3t-{len(self.made):02d}-{len(self.made) * 7919 % 10007:05d}-zq")
        return self.made[-1]

    def found_in(self, output: str) -> list[str]:
        """Return what stands around those that an output holds, plainly or as URLs or base64 write them."""
        return [
            output[max(0, output.index(form) - 80) : output.index(form) + 60]
            for secret in self.made
            for form in (secret, quote(secret), base64.b64encode(secret.encode()).decode().rstrip("=")[:-2])
            if form in output
        ]


def configuration(plants: Plants, **more: Any) -> dict[str, Any]:
    """Return settings with a secret in every place that takes one."""
    new = plants.new
    return {
        "password": new(),
        "headers": {
            "Authorization": f"Bearer {new()}",
            "X-Api-Key": new(),
            "Cookie": f"session={new()}",
            "Proxy-Authorization": f"Basic {new()}",
        },
        "nested": {
            "token": new(),
            "deep": {"list": [{"client_secret": new()}, {"name": "password", "value": new()}, ["api_key", new()]]},
            "dsn": f"postgres://user:{new()}@db.example.org/x",
            "webhook": f"https://hooks.example.org/?access_token={new()}&x=1",
        },
        "url": f"https://user:{new()}@example.org/?api_key={new()}",
        "hotreload": {**OFF, "root_key": new(), **more.pop("hotreload", {})},
        **more,
    }


def broken(plants: Plants) -> Iterator[str]:
    """Return files that are refused, each with secrets near what is wrong."""
    good = text(**configuration(plants))
    yield good.rstrip()[:-1]
    yield good.replace('"url"', '"url" "x"')
    yield good.replace(": {", ": [", 1)
    yield text(**configuration(plants, value="a word"))
    yield text(**configuration(plants, headers=[f"Bearer {plants.new()}"]))
    yield text(**{**configuration(plants), "password": {"value": plants.new()}})
    yield text(**{**configuration(plants), "pasword": plants.new(), "value": -1})
    yield '{"password": "' + plants.new() + '", "password": "' + plants.new() + '"}'
    yield '{"password": ' + plants.new() + "}"
    yield "{'password': '" + plants.new() + "'}"
    yield '{"value": "$PLANTED", "url": ${PLANTED}}'


async def told(service: Running, *, ask: bool = True) -> str:
    """Return everything the service says when asked."""
    paths = ("/admin/config", "/admin/config/history", "/admin/config/schema", "/admin/status", "/metrics", "/readyz")
    answers = [await service.http.get(path) for path in paths]
    verbs = [await service.verb(*verb) for verb in (("status",), ("reload",), ("reload", "--dry-run", "--json")) if ask]
    seen = [f"{answer.headers}{answer.text}" for answer in answers]
    return "\n".join([*seen, *(f"{done.stdout!r}{done.stderr!r}" for done in verbs)])


def heard(listener: socket.socket) -> str:
    """Return what systemd was told."""
    listener.setblocking(False)
    parts: list[bytes] = []
    while True:
        try:
            parts.append(listener.recv(65536))
        except BlockingIOError:
            return b"\n".join(parts).decode(errors="replace")


async def test_no_secret_is_in_any_output(short_path: Path) -> None:
    plants = Plants()
    credentials = short_path / "credentials"
    credentials.mkdir()
    (credentials / "password").write_text(plants.new())
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(str(short_path / "notify"))
    environ = {
        "NOTIFY_SOCKET": str(short_path / "notify"),
        "PLANTED": plants.new(),
        "OVCONF__HOTRELOAD__ROOT_KEY": plants.new(),
    }
    first = configuration(plants)
    (short_path / "ov.conf").write_text(text(**first))
    with listener:
        async with serving(
            short_path, environ={**environ, "CREDENTIALS_DIRECTORY": str(credentials)}, target=TARGET
        ) as service:
            outputs = [await told(service)]
            applied = 0
            for number in range(3):
                (service.conf).write_text(text(**configuration(plants, value=number + 1)))
                applied += (await service.reload())["outcome"] == "applied"
                (credentials / "password").write_text(plants.new())
                applied += (await service.reload())["outcome"] == "applied"
            assert applied == 6
            for count, content in enumerate(broken(plants)):
                service.conf.write_text(content)
                assert (await service.reload())["outcome"] in ("rejected", "applied")  # a credential may overrule
                outputs.append(await told(service, ask=count % 4 == 0))
                if count == 3:
                    outputs.append(await checked(service.conf, environ))
            for trouble in ("prepare", "commit", "undo", "retire", "print"):
                service.conf.write_text(text(**configuration(plants, value=9, place=trouble, limit=5)))
                (credentials / "password").write_text(plants.new())
                await service.reload()
                outputs.append(await told(service, ask=False))
            service.process.terminate()
            with anyio.fail_after(10):
                await service.process.wait()
            await service.spoken.line("draining")
            outputs += [heard(listener), "\n".join(service.spoken.lines), json.dumps(service.reloads)]
    outputs += [
        kept.read_bytes().decode(errors="replace")
        for kept in (short_path / ".hotreload").iterdir()
        if kept.name != "last-known-good.json"
    ]
    assert len(plants.made) >= 50
    assert [secret for output in outputs for secret in plants.found_in(output)] == []
    assert any("reload.part_failed" in output and "Traceback" in output for output in outputs)
    assert any("STATUS=" in output for output in outputs)


async def checked(conf: Path, environ: dict[str, str]) -> str:
    """Return what `check` says without a service, and how a start on this file ends."""
    said = ""
    for verb in (("check", TARGET), ("run", TARGET)):
        done = await anyio.run_process(
            [*HOTRELOAD, *verb, "--config", str(conf)], check=False, cwd=ROOT, env={**environ, "PATH": "/usr/bin:/bin"}
        )
        assert done.returncode in (0, 1, 78)
        said += f"{done.stdout!r}{done.stderr!r}"
    return said


def test_a_traceback_of_a_settings_error_holds_no_value() -> None:
    code = (
        "from pathlib import Path\nfrom hotreload.config.document import parse\n"
        "from hotreload.config.settings import SettingsModel\nfrom tests.process.sample import Sample\n"
        "model = SettingsModel(Sample, environ={})\n"
        "model.validate({'password': 'hunter2-hunter2', 'value': 'hunter2-hunter2'}, Path('/'))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "ConfigInvalid" in done.stderr
    shown = done.stderr.replace(code, "").replace("'hunter2-hunter2', 'value': 'hunter2-hunter2'", "")
    assert "password" not in shown or "hunter2" not in shown.split("password")[-1]
