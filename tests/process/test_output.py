"""What a verb answers reaches any standard output, and where it cannot, the exit code still says what was done."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.process.running import HOTRELOAD, ROOT
from tests.process.serving import Running, serving, text

pytestmark = pytest.mark.anyio


async def ended(service: Running, *verb: str, encoding: str = "utf-8", **streams: Any) -> tuple[int, bytes, bytes]:
    """Run a verb with the given streams; returns its exit code and both outputs."""
    command = [*HOTRELOAD, *verb, "--socket", str(service.folder / "run" / "s.sock")]
    environ = {**os.environ, "PYTHONUTF8": "0", "PYTHONIOENCODING": encoding}
    options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    with anyio.fail_after(60):
        done = await anyio.to_thread.run_sync(
            lambda: subprocess.run(command, check=False, cwd=ROOT, env=environ, **options)
        )
    return done.returncode, done.stdout or b"", done.stderr or b""


def change(service: Running, value: int) -> None:
    service.conf.write_text(text(value=value, hotreload={"watch": False}), encoding="utf-8")


async def test_any_encoding_takes_the_verdict(short_path: Path) -> None:
    (short_path / "ov.conf").write_text(text(value=1, hotreload={"watch": False}))
    async with serving(short_path, target="tests.process.leaky:service") as service:
        for value, (encoding, arrow) in enumerate((("ascii", b"->"), ("latin-1", b"->"), ("utf-8", "→".encode())), 2):
            change(service, value)
            code, out, err = await ended(service, "reload", encoding=encoding)
            assert (code, err) == (0, b"")
            assert b"applied  generation %d %b %d" % (value - 1, arrow, value) in out
            added = await ended(service, "jobs", "add", "coroutine", '"x"', "--key", f"schlüssel-🔑-{value}")
            assert added[0] == 0
            code, out, _ = await ended(service, "jobs", "list", "--json", encoding=encoding)
            assert code == 0
            assert f"schlüssel-🔑-{value}" in json.dumps(json.loads(out.decode(encoding)), ensure_ascii=False)
            assert (await ended(service, "jobs", "list", encoding=encoding))[0] == 0


def nobody_reads() -> int:
    """Return the writing end of a pipe that has no reader."""
    reads, writes = os.pipe()
    os.close(reads)
    return writes


def full() -> int:
    """Return a device that is always full."""
    return os.open("/dev/full", os.O_WRONLY)


@pytest.mark.parametrize(
    ("made", "read_only", "said"),
    [(nobody_reads, 0, b""), (full, 1, b"hotreload: the answer could not be written: No space left on device\n")],
)
async def test_an_answer_that_cannot_be_written_does_not_change_the_verdict(
    short_path: Path, made: Callable[[], int], read_only: int, said: bytes
) -> None:
    (short_path / "ov.conf").write_text(text(value=1, hotreload={"watch": False}))
    async with serving(short_path) as service:

        async def run(*verb: str) -> tuple[int, bytes]:
            stdout = made()
            try:
                code, _, err = await ended(service, *verb, stdout=stdout)
            finally:
                os.close(stdout)
            return code, err

        change(service, 2)
        assert await run("reload") == (0, said)
        assert (await service.get("/admin/status"))["generation"] == 2
        change(service, 3)
        assert await run("reload", "--json") == (0, said)
        service.conf.write_text(text(value=-1, hotreload={"watch": False}))
        code, err = await run("reload", "--json")
        assert (code, err.splitlines()[0][:20]) == (1, b"hotreload: rejected,")
        assert await run("status") == (read_only, said)
        assert await run("status", "--json") == (read_only, said)
        assert await run("status", "--watch") == (read_only, said)  # ends with its reader, not with the service


async def test_a_closed_output_is_no_socket(short_path: Path) -> None:
    (short_path / "ov.conf").write_text(text(value=1, hotreload={"watch": False}))
    async with serving(short_path) as service:
        change(service, 2)
        assert (await ended(service, "reload", stdout=None, preexec_fn=lambda: os.close(1)))[0] == 0
        change(service, 3)
        assert (await ended(service, "reload", stdout=None, preexec_fn=lambda: os.closerange(0, 3)))[0] == 0
        assert (await service.get("/admin/status"))["generation"] == 3
