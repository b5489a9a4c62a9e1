"""Type what the documents say: a tree as a user has it, its commands as they stand there, in a shell."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import anyio

from tests.process.running import ROOT


def tree(folder: Path) -> Path:
    """Copy what a clone has for its users, with an environment that is made already: that of these tests."""
    for name in ("Makefile", "README.md", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / "examples", folder / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    put_command(folder)
    (folder / ".venv/bin/python").symlink_to(sys.executable)
    for stamp in (".made", ".runs"):
        (folder / ".venv" / stamp).touch()
    return folder


def put_command(folder: Path) -> Path:
    """Put the command where a page has it; what it covers is not measured, which takes as long as it takes itself."""
    command = folder / ".venv/bin/hotreload"
    command.parent.mkdir(parents=True)
    python = f'PYTHONPATH={ROOT} exec {sys.executable} -m hotreload "$@"'
    command.write_text(f"#!/bin/sh\nunset COVERAGE_PROCESS_CONFIG\n{python}\n")
    command.chmod(0o755)
    return command


def section(text: str, heading: str) -> str:
    """Return what stands below a heading, up to the next of its rank."""
    rank = heading.partition(" ")[0]
    found = text.partition(f"\n{heading}\n")[2]
    assert found, heading
    return found.partition(f"\n{rank} ")[0]


def commands(text: str) -> list[str]:
    """Return the commands of the console blocks, without prompt and comment."""
    return re.findall(r"^\$ (.*?)(?: +#.*)?$", text, re.MULTILINE)


async def type_in(folder: Path, script: str, environ: Mapping[str, str] = os.environ) -> tuple[int, str]:
    """Type lines into bash; return the exit code of the last one and all that was printed."""
    done = await anyio.run_process(
        ["bash", "-c", script], cwd=folder, env=environ, stderr=subprocess.STDOUT, check=False
    )
    return done.returncode, done.stdout.decode()
