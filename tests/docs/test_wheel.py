"""What is installed is whole: a wheel, unpacked apart, runs the quickstart."""

from __future__ import annotations

import os
import shutil
import sys
import zipfile
from pathlib import Path

import anyio
import pytest

from tests.process.running import ROOT

pytestmark = pytest.mark.anyio
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")


async def test_a_wheel_has_all_and_runs_the_quickstart(short_path: Path) -> None:
    folder = short_path / "wheel"
    await anyio.run_process([*PIP, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)])
    (wheel,) = folder.iterdir()
    with zipfile.ZipFile(wheel) as packed:
        names = set(packed.namelist())
    suffixes = (".py", ".sql", ".typed", ".html", ".js", ".css")
    kept = (path for path in (ROOT / "hotreload").rglob("*") if path.suffix in suffixes)
    assert {str(path.relative_to(ROOT)) for path in kept} == {name for name in names if name.startswith("hotreload/")}
    assert any(name.endswith("licenses/LICENSE") for name in names)

    installed = short_path / "site"
    await anyio.run_process([*PIP, "install", "--no-deps", "--target", str(installed), str(wheel)])
    work = short_path / "work"
    (work / "texts").mkdir(parents=True)
    shutil.copy(ROOT / "examples/quickstart/service.py", work / "counting.py")
    (work / "texts/a.txt").write_text("three words here\n")
    (work / "ov.conf").write_text("{}")
    command = [str(installed / "bin/hotreload"), "run", "counting:service", "--until-idle", "--socket", "run/s"]
    environ = {**os.environ, "PYTHONPATH": str(installed)}
    where = [sys.executable, "-c", "import hotreload; print(hotreload.__file__)"]
    found = await anyio.run_process(where, cwd=work, env=environ)
    assert found.stdout.decode().strip() == str(installed / "hotreload/__init__.py")
    done = await anyio.run_process(command, cwd=work, env=environ, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert (work / "texts/a.count").read_text() == "3\n"
