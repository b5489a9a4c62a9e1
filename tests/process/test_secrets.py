"""Fifty secrets are planted wherever one can stand; none is found in anything the service gives away."""

from __future__ import annotations

import base64
import json
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
import pytest

from tests.process.running import ROOT, hotreload, wait_until
from tests.process.serving import Running, serving, text

pytestmark = pytest.mark.anyio
TARGET = "tests.process.leaky:service"
OFF: dict[str, Any] = {"watch": False}


ODD = ("", "\"\\\\'", "\n", "äß🔑", "%&=+ /?#")
"""What stands in the middle of a secret: nothing, what repr and JSON escape, lines, characters, what URLs escape."""


class Plants:
    """Makes secrets nobody could take for anything else, and looks for them.

    Both ends of each are unlike anything else and no code escapes them, so that one is found in any spelling of the
    whole, and where only half of it is left.
    """

    def __init__(self) -> None:
        self.made: list[str] = []

    def new(self, *, plain: bool = False) -> str:
        """Return one more, for a text that is put together as it is with `plain`."""
        number = len(self.made)
        ends = [f"S3cr3t-{number:02d}-{(number + at) * 7919 % 10007:05d}-zq" for at in (1, 2)]
        self.made.append(ends[0] if plain else ODD[number % len(ODD)].join(ends))
        return self.made[-1]

    def in_url(self) -> str:
        """Return one more as a URL takes it."""
        return quote(self.new(), safe="")

    def number(self) -> int:
        """Return one more that is a number."""
        self.made.append(str(918273 + 7919 * len(self.made)) + f"{len(self.made):03d}")
        return int(self.made[-1])

    def found_in(self, output: str) -> list[str]:
        """Return what stands around those that an output holds, plainly or in base64."""
        return [
            output[max(0, output.index(form) - 80) : output.index(form) + 60]
            for secret in self.made
            for end in (re.findall(r"S3cr3t-[0-9-]+zq|^[0-9]+$", secret))
            for form in (end, *_base64(end))
            if form in output
        ]


def _base64(text: str) -> Iterator[str]:
    for before in range(3):
        yield base64.b64encode(b"-" * before + text.encode()).decode()[4 if before else 0 : -4]


def configuration(plants: Plants, **more: Any) -> dict[str, Any]:
    """Return settings with a secret in every place that takes one."""
    new, in_url = plants.new, plants.in_url
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
            "pin": {"password": plants.number(), "numbers": [["token", plants.number()]]},
            "deep": {"list": [{"client_secret": new()}, {"name": "password", "value": new()}, ["api_key", new()]]},
            "dsn": f"postgres://user:{in_url()}@db.example.org/x",
            "webhook": f"https://hooks.example.org/?access_token={in_url()}&x=1",
        },
        "url": f"https://user:{in_url()}@example.org/?api_key={in_url()}",
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
    yield text(**configuration(plants, keys={"a": {"password": plants.number()}}))
    yield text(**configuration(plants, place="validator"))
    yield text(**configuration(plants, place="validator that refuses"))
    yield text(**{**configuration(plants), "password": {"value": plants.new()}})
    yield text(**{**configuration(plants), "pasword": plants.new(), "value": -1})
    yield '{"password": "' + plants.new(plain=True) + '", "password": "' + plants.new(plain=True) + '"}'
    yield '{"password": ' + plants.new(plain=True) + "}"
    yield "{'password': '" + plants.new(plain=True) + "'}"
    yield '{"value": "$PLANTED", "url": ${PLANTED}}'


async def told(service: Running, *, ask: bool = True) -> str:
    """Return everything the service says when asked."""
    paths = ("config", "config/history", "config/schema", "status", "jobs")
    answers = [await service.http.get(path) for path in (*(f"/admin/{path}" for path in paths), "/metrics", "/readyz")]
    answers += [await service.http.get(f"/admin/jobs/{job['id']}") for job in answers[len(paths) - 1].json()["jobs"]]
    seen = [f"{answer.headers}{answer.text}" for answer in answers]
    verbs = [
        ("status",),
        ("reload",),
        ("reload", "--dry-run", "--json"),
        ("check", "--against-running"),
        ("jobs", "list"),
        ("reindex", "--dry-run"),
        ("reindex", "--dry-run", "--json"),
    ]
    return "\n".join([*seen, *[said(await service.verb(*verb)) for verb in verbs if ask]])


def said(done: subprocess.CompletedProcess[bytes]) -> str:
    """Return both outputs of a command."""
    return done.stdout.decode() + done.stderr.decode()


def heard(listener: socket.socket) -> str:
    """Return what systemd was told."""
    listener.setblocking(False)
    parts: list[bytes] = []
    while True:
        try:
            parts.append(listener.recv(65536))
        except BlockingIOError:
            return b"\n".join(parts).decode(errors="replace")


@pytest.mark.timeout(300)
async def test_no_secret_is_in_any_output(short_path: Path, figures: Callable[[str], None]) -> None:
    plants = Plants()
    credentials = short_path / "credentials"
    credentials.mkdir()
    (credentials / "password").write_text(plants.new())
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(str(short_path / "notify"))
    environ = {
        "NOTIFY_SOCKET": str(short_path / "notify"),
        "PLANTED": plants.new(plain=True),
        "OVCONF__HOTRELOAD__ROOT_KEY": plants.new(),
        "CREDENTIALS_DIRECTORY": str(credentials),
    }
    (short_path / "ov.conf").write_text(text(**configuration(plants)))
    with listener:
        async with serving(short_path, environ=environ, target=TARGET) as service:
            outputs = [await failed_jobs(service), await told(service)]
            applied = 0
            for number in range(3):
                service.conf.write_text(text(**configuration(plants, value=number + 1)))
                applied += (await service.reload())["outcome"] == "applied"
                (credentials / "password").write_text(plants.new())
                applied += (await service.reload())["outcome"] == "applied"
            assert applied == 6
            for count, content in enumerate(broken(plants)):
                service.conf.write_text(content)
                assert (await service.reload())["outcome"] in ("rejected", "applied")  # a credential may overrule
                outputs.append(await told(service, ask=count == 6))
                if count in (3, 6):
                    outputs.append(await checked(service.conf, environ))
            for trouble in ("resource", "prepare", "commit", "revert", "undo", "retire", "print"):
                service.conf.write_text(text(**configuration(plants, value=9, place=trouble, limit=5)))
                (credentials / "password").write_text(plants.new())
                await service.reload()
                outputs.append(await told(service, ask=False))
            outputs += [await failed_jobs(service), await told(service)]
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
    leaks = [secret for output in outputs for secret in plants.found_in(output)]
    assert leaks == [], "\n".join(leaks)
    figures(f"{len(plants.made)} secrets planted, none in {sum(map(len, outputs)):,} characters of output")
    assert any("reload.part_failed" in output and "Traceback" in output for output in outputs)
    assert any("STATUS=" in output for output in outputs)
    assert any("UserWarning: connected with" in output for output in outputs)
    assert any("ended early: ConnectionError" in output for output in outputs)


async def failed_jobs(service: Running) -> str:
    """Have a job of each kind fail; return what is told of it."""
    outputs: list[str] = []
    for queue in ("coroutine", "thread", "process"):
        body = {"queue": queue, "payload": "x"}
        job_id = (await service.http.post("/admin/jobs", json=body)).json()["id"]

        async def told_why(job_id: str = job_id) -> bool:
            return (await service.get(f"/admin/jobs/{job_id}"))["traceback"] is not None

        await wait_until(told_why, 20, f"a failed {queue}")
        job = await service.get(f"/admin/jobs/{job_id}")
        assert "refused" in job["traceback"]
        assert "***" in job["traceback"]
        outputs += [json.dumps(job), said(await service.verb("jobs", "show", job_id))]
    return "\n".join(outputs)


async def checked(conf: Path, environ: dict[str, str]) -> str:
    """Return what `check` says without a service, and how a start on this file ends."""
    said_by = [await ended(conf, environ, *verb) for verb in (("check", TARGET), ("run", TARGET))]
    assert [code for code, _ in said_by] in ([1, 78], [0, 4])
    return "".join(output for _, output in said_by)


async def ended(conf: Path, environ: dict[str, str], *verb: str) -> tuple[int, str]:
    """Run a command on a file to its end; returns its exit code and both outputs."""
    with anyio.fail_after(60):
        done = await hotreload(*verb, "--config", str(conf), environ={**environ, "PATH": "/usr/bin:/bin"})
    return done.returncode, said(done)


@pytest.mark.parametrize(
    ("trouble", "expected", "line"),
    [
        ({"place": "validator"}, 78, "a validator failed: LookupError: "),
        ({"place": "system"}, 4, "cannot start: "),
        ({"place": "defect"}, 1, "hotreload ended by a defect"),
        ({"value": "a word"}, 78, "value: must be a whole number"),
        ({"place": "resource"}, 78, "resources.client cannot be built: RuntimeError: "),
    ],
)
async def test_a_start_that_fails_tells_no_secret(
    short_path: Path, trouble: dict[str, Any], expected: int, line: str
) -> None:
    plants = Plants()
    (short_path / "credentials").mkdir()
    (short_path / "credentials/password").write_text(plants.new())
    (short_path / "ov.conf").write_text(text(**configuration(plants, **trouble)))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(short_path / "notify"))
        environ = {
            "NOTIFY_SOCKET": str(short_path / "notify"),
            "CREDENTIALS_DIRECTORY": str(short_path / "credentials"),
            "OVCONF__HOTRELOAD__ROOT_KEY": plants.new(),
        }
        code, output = await ended(
            short_path / "ov.conf", environ, "run", TARGET, "--socket", str(short_path / "run/s")
        )
        assert code == expected, output
        assert line in output
        assert plants.found_in(output + heard(listener)) == []


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
