"""What a box is made of: a Debian with its systemd, made once and cached, and this Python with its packages.

    python -m tests.systemd.base

makes those that are missing. The packages come from the mirror in this machine's own apt sources. Nothing here is
removed by the tests: delete the cache folder to have it made again.
"""

from __future__ import annotations

import compileall
import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
SYSTEMD = {"bookworm": 252, "trixie": 257}
PACKAGES = "systemd,systemd-sysv,dbus,dbus-user-session,libpam-systemd,util-linux,procps,iproute2"
LEFT_OUT = ("/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*")
OPTIONS = (
    "--mode=root", "--variant=minbase", "--quiet",
    *(f"--dpkgopt=path-exclude={path}" for path in LEFT_OUT),
    '--aptopt=Acquire::Check-Valid-Until "false"',
)  # fmt: skip
NOT_ROOT = "only root can boot a container"
PROGRAMS = ("mmdebstrap", "systemd-nspawn", "nsenter")
OF_THE_BOX = ("ld-linux", "libc.so", "libm.so", "libdl.so", "libpthread.so", "librt.so", "libutil.so", "libresolv.so")
PROGRAMS_INSIDE = ("served", "clients", "importer")
INSIDE = Path("/opt/hotreload")
PYTHON = f"python{sys.version_info[0]}.{sys.version_info[1]}"


def lacking() -> list[str]:
    """Return the programs that root needs to run boxes and that are not installed."""
    return [program for program in PROGRAMS if shutil.which(program) is None]


def cache() -> Path:
    """Return the folder where bases are kept."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "hotreload-tests"


def bootstrap(release: str, packages: str = PACKAGES) -> Path:
    """Return the folder of a Debian with these packages, made where it is missing."""
    cache().mkdir(parents=True, exist_ok=True)
    options = [*OPTIONS, f"--include={packages}"]
    made = cache() / f"{release}-{hashlib.sha256(' '.join(options).encode()).hexdigest()[:12]}"
    with _locked(cache() / f"{release}.lock"):
        if not made.is_dir():
            new = cache() / f"{release}.new"
            _clear(new)
            _install(release, options, new)
            new.rename(made)
    return made


def _clear(folder: Path) -> None:
    """Remove what an installation that was killed left; first what it had mounted there, as this machine's `/proc`."""
    mounted = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for place in reversed(mounted):
        if Path(place).is_relative_to(folder):
            subprocess.run(["umount", place], check=True)
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _install(release: str, options: list[str], folder: Path) -> None:
    done = subprocess.run(
        ["mmdebstrap", *options, release, folder, _mirror()], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def _mirror() -> str:
    """Return the address of the first Debian archive in apt's sources."""
    wanted = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages"]
    lines = subprocess.run(wanted, capture_output=True, text=True, check=True).stdout.splitlines()
    found = [line.split()[0] for line in lines if line.split()[1:] in ([release] for release in (*SYSTEMD, "sid"))]
    assert found, "apt's sources name no Debian archive"
    return found[0]


class Python:
    """This interpreter as a box sees it, below `/opt/hotreload`: bindings, and the libraries it needs beside libc.

    A virtual environment bound as it is does not work: its interpreter is a link to one that is not there.
    """

    def __init__(self, folder: Path, packages: Path) -> None:
        """`folder` holds the skeleton, see `make`; `packages` is the site-packages that boxes see."""
        self._folder = folder
        self._packages = packages

    def make(self) -> None:
        """Make the skeleton."""
        folder, packages = self._folder, self._packages
        for part in ("bin", f"lib/{PYTHON}", "shared", "app", "packages"):
            (folder / part).mkdir(parents=True)
        (folder / "bin" / PYTHON).touch()
        for library in _libraries(self._executable(), self._stdlib() / "lib-dynload", packages):
            shutil.copy(library, folder / "shared" / library.name)
        self._command(folder / "bin/hotreload", "-m hotreload")
        self._command(folder / "bin/python", "")

    def _command(self, path: Path, what: str) -> None:
        path.write_text(
            "#!/bin/sh\n"
            f"export LD_LIBRARY_PATH={INSIDE}/shared PYTHONPATH={INSIDE}/app:{INSIDE}/packages\n"
            "export PYTHONDONTWRITEBYTECODE=1\n"
            f'exec {INSIDE}/bin/{PYTHON} {what} "$@"\n'
        )
        path.chmod(0o755)

    @staticmethod
    def _executable() -> Path:
        return Path(sys.base_prefix, "bin", PYTHON).resolve()

    @staticmethod
    def _stdlib() -> Path:
        return Path(sysconfig.get_path("stdlib"))

    def bindings(self) -> list[str]:
        """Return nspawn's options."""
        inside = {
            self._folder: INSIDE,
            self._executable(): INSIDE / "bin" / PYTHON,
            self._stdlib(): INSIDE / "lib" / PYTHON,
            self._packages: INSIDE / "packages",
        }
        return [f"--bind-ro={outside}:{place}" for outside, place in inside.items()]


def shared_python(folder: Path) -> Python:
    """Return this interpreter fit for boxes, made in `folder` by the first of the processes that ask."""
    python = Python(folder / "interpreter", Path(sysconfig.get_path("purelib")))
    with _locked(folder / "interpreter.lock"):
        if not (folder / "interpreter.made").exists():
            _build(python, folder / "interpreter")
            (folder / "interpreter.made").touch()
    return python


def _build(python: Python, folder: Path) -> None:
    """Make the skeleton; its application is this library, the examples and the tests' service."""
    python.make()
    for package in ("hotreload", "examples"):
        shutil.copytree(ROOT / package, folder / "app" / package, ignore=shutil.ignore_patterns("__pycache__"))
    for program in (*(f"tests/systemd/{name}.py" for name in PROGRAMS_INSIDE), "examples/openviking/endpoint.py"):
        shutil.copy(ROOT / program, folder / "app")
    compileall.compile_dir(folder / "app", quiet=1)


def _libraries(executable: Path, extensions: Path, packages: Path) -> set[Path]:
    """Return the shared libraries of this machine that Python and the packages used here are linked with."""
    names = ("apsw", "pydantic_core", "watchfiles")
    folders = [packages / name for name in names if importlib.util.find_spec(name)]
    objects = [executable, *extensions.glob("*.so"), *(file for folder in folders for file in folder.rglob("*.so"))]
    listed = subprocess.run(["ldd", *objects], capture_output=True, text=True, check=False).stdout
    places = {Path(line.split()[2]) for line in listed.splitlines() if "=> /" in line}
    return {place for place in places if not place.name.startswith(OF_THE_BOX)}


def scratch() -> Path:
    """Return a new private folder with a short name."""
    return Path(tempfile.mkdtemp(prefix="hr-box-", dir="/tmp"))


def main() -> None:
    """Make the bases that are missing, side by side."""
    if os.geteuid() != 0 or lacking():
        sys.exit(NOT_ROOT if os.geteuid() != 0 else f"not installed: {', '.join(lacking())}")
    with ThreadPoolExecutor() as side_by_side:
        for folder in side_by_side.map(bootstrap, SYSTEMD):
            print(folder)


if __name__ == "__main__":
    main()
