"""The image of `examples/container`, built without a registry: on a Debian made here, from wheels made here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.systemd.base import NOT_ROOT, ROOT, bootstrap

PROGRAMS = ("podman", "runc", "mmdebstrap", "catatonit")
PACKAGES = "python3,python3-venv"
WHEEL = (sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet")
OFFLINE = "[global]\nno-index = true\nfind-links = /wheels\n"


@dataclass
class Podman:
    """Runs podman with a runtime that works here, and its state in a folder of its own."""

    folder: Path

    def __call__(self, *arguments: str, check: bool = True) -> str:
        """Run podman and return what it wrote."""
        environ = {**os.environ, "CONTAINERS_CONF": str(self.folder / "containers.conf")}
        state = ["--root", str(self.folder / "images"), "--runroot", str(self.folder / "run")]
        done = subprocess.run(["podman", *state, *arguments], env=environ, capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, f"podman {arguments[0]}: {done.stdout}{done.stderr}"
        return done.stdout + (done.stderr if arguments[0] == "logs" else "")

    def python(self) -> str:
        """Make a base image with Python and the wheels of this project; return its name."""
        root = self.folder / "root"
        subprocess.run(["cp", "-a", str(bootstrap("bookworm", PACKAGES)), str(root)], check=True)  # devices as they are
        wheels = root / "wheels"
        command = [*WHEEL, "--constraint", str(ROOT / "constraints.txt"), "--wheel-dir", str(wheels)]
        subprocess.run([*command, str(ROOT), "hatchling"], check=True, cwd=self.folder)
        (root / "etc/pip.conf").write_text(OFFLINE)
        archive = self.folder / "root.tar"
        subprocess.run(["tar", "-C", str(root), "-cf", str(archive), "."], check=True)
        shutil.rmtree(root)
        self("import", str(archive), "localhost/python:test")
        archive.unlink()
        return "localhost/python:test"


@pytest.fixture(scope="session")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    """Podman with the image `localhost/quickstart` built."""
    lacking = [program for program in PROGRAMS if shutil.which(program) is None]
    if lacking:
        pytest.skip(f"not installed: {', '.join(lacking)}")
    if os.geteuid() != 0:
        pytest.skip(NOT_ROOT)
    folder = tmp_path_factory.mktemp("podman")
    runtime = Path(__file__).with_name("runc_plain.py")
    (folder / "containers.conf").write_text(
        f'[engine]\nruntime = "plain"\n[engine.runtimes]\nplain = ["{runtime}"]\n[containers]\nnetns = "host"\n'
    )
    made = Podman(folder)
    base, recipe = made.python(), str(ROOT / "examples/container/Containerfile")
    made("build", "--format", "docker", "--isolation", "chroot", "--network", "host", "--build-arg", f"BASE={base}",
         "-f", recipe, "-t", "localhost/quickstart", str(ROOT))  # fmt: skip
    try:
        yield made
    finally:
        made("pod", "rm", "--all", "--force", check=False)
        made("rm", "--all", "--force", check=False)
        made("system", "reset", "--force", check=False)
