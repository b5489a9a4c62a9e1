"""How files are saved out there: each of these makes `text` the content of `conf`, the way its namesake does."""

# ruff: noqa: ASYNC221, ASYNC240 - it is the files that are written here

from __future__ import annotations

import os
import pty
import shutil
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio

Save = Callable[[Path, str], Awaitable[None]]
VIM = shutil.which("vim") or shutil.which("vim.tiny") or "vi"


def _beside(conf: Path, text: str) -> Path:
    """Put the text into another folder of the same file system."""
    new = conf.parent.parent / "new.conf"
    new.write_text(text)
    return new


async def _run(*command: str | Path) -> None:
    await anyio.run_process([str(part) for part in command], stderr=subprocess.STDOUT)


async def in_place(conf: Path, text: str) -> None:
    """Truncate and write."""
    conf.write_text(text)


def truncated(pause_s: float, parts: int = 2) -> Save:
    """Truncate, then write in parts with pauses, the file held open."""

    async def save(conf: Path, text: str) -> None:
        step = -(-len(text) // parts)
        with conf.open("w") as file:
            for start in range(0, len(text), step):
                await anyio.sleep(pause_s)
                file.write(text[start : start + step])
                file.flush()

    return save


def reopened(pause_s: float) -> Save:
    """Empty the file, close it, write half, close it, write the rest: a pause after each."""

    async def save(conf: Path, text: str) -> None:
        conf.write_text("")
        half = len(text) // 2
        for part in (text[:half], text[half:]):
            await anyio.sleep(pause_s)
            with conf.open("a") as file:
                file.write(part)

    return save


async def over_the_old(conf: Path, text: str) -> None:
    """Write over the old bytes without truncating first, with a pause: a mixture stands there."""
    half = len(text) // 2
    with conf.open("r+") as file:
        file.write(text[:half])
        file.flush()
        await anyio.sleep(0.15)
        file.write(text[half:])
        file.truncate()


async def atomic_rename(conf: Path, text: str) -> None:
    """Write beside, fsync, rename."""
    new = conf.with_name(".ov.conf.tmp")
    with new.open("w") as file:
        file.write(text)
        os.fsync(file.fileno())
    new.replace(conf)


async def moved(conf: Path, text: str) -> None:
    """mv(1)."""
    await _run("mv", _beside(conf, text), conf)


async def copied(conf: Path, text: str) -> None:
    """cp(1)."""
    await _run("cp", _beside(conf, text), conf)


async def copied_preserving(conf: Path, text: str) -> None:
    """cp -p of an old file: the times go back."""
    new = _beside(conf, text)
    os.utime(new, (1, 1))
    await _run("cp", "-p", new, conf)


async def installed(conf: Path, text: str) -> None:
    """install(1): unlinks, creates, sets the mode last."""
    await _run("install", "-m", "0640", _beside(conf, text), conf)


async def synchronised(conf: Path, text: str) -> None:
    """rsync(1)."""
    await _run("rsync", "--archive", "--ignore-times", _beside(conf, text), conf)


async def synchronised_in_place(conf: Path, text: str) -> None:
    """rsync --inplace."""
    await _run("rsync", "--inplace", "--ignore-times", _beside(conf, text), conf)


async def sed(conf: Path, text: str) -> None:
    """sed -i, every line replaced."""
    script = conf.parent.parent / "script.sed"
    script.write_text("1{\nr " + str(_beside(conf, text)) + "\n}\nd\n")
    await _run("sed", "-i", "-f", script, conf)
    assert conf.read_text() == text


def vim(*options: str) -> Save:
    """vim: put another text into the buffer, `:wq`."""

    async def save(conf: Path, text: str) -> None:
        settings = ["nocompatible", "backupskip=", *options]  # it makes no backups below /tmp by default
        script = [*(f"set {setting}" for setting in settings), f"%!cat {_beside(conf, text)}", "wq"]
        await _run(VIM, "-u", "NONE", "-es", *(part for line in script for part in ("-c", line)), conf)
        assert conf.read_text() == text

    return save


async def nano(conf: Path, text: str) -> None:
    """nano on a terminal: cut all, read the other file, write."""
    new = _beside(conf, text.rstrip("\n"))
    master, slave = pty.openpty()
    keys = b"\x1bT" + b"\x12" + str(new).encode() + b"\r" + b"\x0f\r" + b"\x18"
    environ = {**os.environ, "TERM": "xterm"}
    process = await anyio.open_process(
        ["nano", "--ignorercfiles", str(conf)], stdin=slave, stdout=slave, stderr=slave, env=environ
    )
    os.close(slave)
    os.set_blocking(master, False)
    shown = b""
    try:
        with anyio.fail_after(30):
            while process.returncode is None:
                with anyio.move_on_after(0.05):
                    await process.wait()
                try:
                    shown += os.read(master, 65536)
                except OSError:
                    continue
                if keys and b"Exit" in shown:  # what is typed before it draws its keys is thrown away
                    os.write(master, keys)
                    keys = b""
    finally:
        if process.returncode is None:
            process.kill()
        os.close(master)
    assert conf.read_text() == text


async def emacs(conf: Path, text: str) -> None:
    """emacs, with its backup: renamed away at the first save."""
    insert = f'(progn (erase-buffer) (insert-file-contents "{_beside(conf, text)}") (save-buffer))'
    await _run("emacs", "-Q", "--batch", conf, "--eval", insert)
    assert conf.read_text() == text


async def checked_out(conf: Path, text: str) -> None:
    """git checkout of a branch with another version."""
    git = ("git", "-C", conf.parent, "-c", "user.name=t", "-c", "user.email=t@example.org")
    if not (conf.parent / ".git").exists():
        await _run(*git, "init", "--quiet", "--initial-branch=main")
    await _run(*git, "add", conf.name)
    await _run(*git, "commit", "--quiet", "--allow-empty", "-m", "before")
    made = subprocess.run(
        [*map(str, git), "hash-object", "-w", "--stdin"], input=text.encode(), capture_output=True, check=True
    )
    entry = f"100644,{made.stdout.decode().strip()},{conf.name}"
    await _run(
        "sh", "-c", f'cd "{conf.parent}" && GIT_INDEX_FILE=.git/other git update-index --add --cacheinfo {entry}'
    )
    tree = await anyio.run_process(["sh", "-c", f'cd "{conf.parent}" && GIT_INDEX_FILE=.git/other git write-tree'])
    name = tree.stdout.decode().strip()
    commit = await anyio.run_process([*map(str, git), "commit-tree", name, "-m", "after"])
    await _run(*git, "checkout", "--quiet", "--detach", commit.stdout.decode().strip())


def recreated(after_s: float) -> Save:
    """Delete it, and make it again later."""

    async def save(conf: Path, text: str) -> None:
        conf.unlink()
        await anyio.sleep(after_s)
        conf.write_text(text)

    return save


async def parent_away(conf: Path, text: str) -> None:
    """Rename the parent away, change the file there, rename it back."""
    away = conf.parent.with_name("away")
    conf.parent.rename(away)
    await anyio.sleep(0.1)
    (away / conf.name).write_text(text)
    await anyio.sleep(0.1)
    away.rename(conf.parent)


async def parent_swapped(conf: Path, text: str) -> None:
    """Put another folder in the place of the parent."""
    old, new = conf.parent.with_name("old"), conf.parent.with_name("new")
    shutil.rmtree(old, ignore_errors=True)
    new.mkdir()
    (new / conf.name).write_text(text)
    conf.parent.rename(old)
    new.rename(conf.parent)


TOOLS = {
    "rsync": "rsync",
    "rsync --inplace": "rsync",
    "nano": "nano",
    "emacs": "emacs",
    "git checkout": "git",
    **{f"vim, {how}": VIM for how in ("backupcopy=no", "backupcopy=yes", "no backup")},
}
MISSING = sorted({tool for tool in TOOLS.values() if shutil.which(tool) is None})


PATTERNS: dict[str, Save] = {
    "in place": in_place,
    **{f"truncate, pause {pause} ms, write": truncated(pause / 1000) for pause in (0, 10, 60, 120, 250, 500)},
    "many small writes": truncated(0.03, parts=20),
    **{f"written in three goes, {pause} ms between": reopened(pause / 1000) for pause in (0, 50, 120, 500)},
    "over the old bytes": over_the_old,
    "atomic rename": atomic_rename,
    "mv": moved,
    "cp": copied,
    "cp -p": copied_preserving,
    "install": installed,
    "rsync": synchronised,
    "rsync --inplace": synchronised_in_place,
    "sed -i": sed,
    "vim, backupcopy=no": vim("backup", "writebackup", "backupcopy=no"),
    "vim, backupcopy=yes": vim("backup", "writebackup", "backupcopy=yes"),
    "vim, no backup": vim("nobackup", "nowritebackup"),
    "nano": nano,
    "emacs": emacs,
    "git checkout": checked_out,
    "delete and recreate after 0.2 s": recreated(0.2),
    "delete and recreate after 5 s": recreated(5.0),
    "parent renamed and back": parent_away,
    "parent swapped": parent_swapped,
}
