"""Run the stock OpenViking server with a host around it, from its arguments to the end of the process."""

from __future__ import annotations

import functools
import importlib
import json
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import anyio

from hotreload import logs
from hotreload.admin.control_socket import bind_control_socket, bind_tcp
from hotreload.admin.place import default_socket_path
from hotreload.errors import ConfigUnreadable, Problem
from hotreload.host.process import CANNOT_START, EX_CONTENT, EX_OK, EX_STATE, complain
from hotreload.host.start import RunOptions, Started, start
from hotreload.lifecycle import Phase
from hotreload.reload.first import check
from hotreload.reload.report import ReloadReport
from hotreload.reload.validate import Source
from hotreload.systemd.listen import handed_over
from hotreload.systemd.notifier import Notifier
from hotreload.systemd.status import StartUp

if TYPE_CHECKING:
    from hotreload.openviking.configuration import OpenVikingModel

log = logging.getLogger(__name__)
NAME = "openviking"
CONFIG_VARIABLE = "OPENVIKING_CONFIG_FILE"
HOME_CONFIG, SYSTEM_CONFIG = "~/.openviking/ov.conf", "/etc/openviking/ov.conf"
OTHER_COMMANDS = ("init", "doctor", "ingest")
INFORMATION = frozenset({"-h", "--help", "--version"})
OLDEST = (0, 5)
"""The first release whose queue workers can be replaced."""
UVICORN_STARTUP_FAILURE = 3
SIGTERM_EXIT = 143


def run(options: RunOptions, arguments: Sequence[str]) -> int:
    """Run `openviking-server ARGUMENTS` until a drain ends; returns the exit code, as for our own services.

    Leave with `os._exit` then: everything durable is durable, the interpreter's teardown after OpenViking takes
    seconds in native code, and the drain's deadline is enforced until the process is gone.
    """
    given = list(arguments)
    if not _is_old():
        _take_out_own_section()
    if (given[:1] and given[0] in OTHER_COMMANDS) or not INFORMATION.isdisjoint(given):
        return _stock(given)
    logs.configure(only="hotreload")
    try:
        _refuse_old()
        path = find_config(_stated_config(given) or options.config)
        os.environ[CONFIG_VARIABLE] = str(path)
        _find_places_taken(path, options, given)
        source, probes = _source(path, options)
        started = anyio.run(start, NAME, source, options)
    except CANNOT_START as error:
        StartUp(Notifier()).failed(error)
        return complain(error)
    for warning in started.warnings:
        log.warning("config.warning %s", warning)
    return _serve(started, probes, [*_without_config(given), "--config", str(_served_file(started))])


def _is_old() -> bool:
    """Say whether the installed OpenViking is older than what this package knows; False where it does not say."""
    numbers = [int(part) for part in _installed().split(".")[:2] if part.isdigit()]
    return len(numbers) == 2 and tuple(numbers) < OLDEST


def _installed() -> str:
    try:
        return metadata.version("openviking")
    except metadata.PackageNotFoundError:
        return ""


def _refuse_old() -> None:
    """Raise ConfigUnreadable where OpenViking is too old; it lacks the queue workers that are replaced here."""
    if _is_old():
        oldest = ".".join(map(str, OLDEST))
        raise ConfigUnreadable([Problem("", f"OpenViking {_installed()} is too old: {oldest}.0 or newer is needed")])


def check_config(config: Path | None) -> ReloadReport:
    """Validate a file as a reload would, without a running server; outcome `valid` or `rejected`.

    Only OpenViking's models are imported, not its server: what its seams are changes no verdict on a file.
    """
    stated = config or os.environ.get(CONFIG_VARIABLE)
    places = [stated] if stated else [HOME_CONFIG, SYSTEM_CONFIG]
    paths = [Path(place).expanduser().absolute() for place in places]
    _refuse_old()
    os.environ[CONFIG_VARIABLE] = os.devnull  # OpenViking's modules load what it names, and that makes folders
    logging.disable(logging.WARNING)  # OpenViking's modules tell of themselves on standard error
    _take_out_own_section()
    from hotreload.openviking.configuration import OpenVikingModel

    path = next((path for path in paths if path.exists()), paths[0])
    return anyio.run(check, Source(path, OpenVikingModel(), dialect="openviking"))


def schema() -> dict[str, Any]:
    """Return the JSON Schema of OpenViking's ov.conf, each leaf with `x-reload` and `x-secret`."""
    os.environ[CONFIG_VARIABLE] = os.devnull
    source, _ = _source(Path(os.devnull), RunOptions())
    return cast("OpenVikingModel", source.model).schema(source.own_model.schema())


def find_config(stated: Path | None) -> Path:
    """Return the ov.conf OpenViking would take: as stated, its variable, the home folder, /etc."""
    from openviking_cli.utils.config.config_loader import resolve_config_path

    found: Path | None = resolve_config_path(str(stated) if stated else None, CONFIG_VARIABLE, "ov.conf")
    if found is not None:
        return found.expanduser().absolute()
    looked = stated or os.environ.get(CONFIG_VARIABLE) or f"{HOME_CONFIG}, {SYSTEM_CONFIG}"
    raise ConfigUnreadable([Problem("", f"there is no configuration file: {looked}")])


def _find_places_taken(path: Path, options: RunOptions, arguments: Sequence[str]) -> None:
    """Raise now what the end of a start of many seconds would: ControlSocketUnsafe or OSError, with the address."""
    bind_control_socket(options.socket or default_socket_path(options.name or NAME)).close()
    if handed_over():
        return
    with suppress(ValueError, TypeError, AttributeError, LookupError):  # what is wrong with the file is told later
        server = json.loads(path.read_bytes())["server"]
        host = _option(arguments, "--host") or server["host"]
        port = int(_option(arguments, "--port") or server["port"])
        if host and 0 < port < 65536:
            bind_tcp(str(host), port).close()


def _stock(arguments: list[str]) -> int:
    """Run OpenViking's own command; returns its exit code."""
    from openviking_cli import server_bootstrap

    sys.argv = ["openviking-server", *arguments]
    try:
        server_bootstrap.main()
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    return EX_OK


def _source(path: Path, options: RunOptions) -> tuple[Source[Any], Any]:
    """Import OpenViking, probe what it is, and say how its file is read."""
    os.environ.setdefault(CONFIG_VARIABLE, str(path))
    _take_out_own_section()
    importlib.import_module("openviking.server.bootstrap")  # first, as stock: else litellm looks for prices on the net
    from hotreload.openviking import seams
    from hotreload.openviking.configuration import OpenVikingModel

    probes = seams.probe()
    off = [name for name, probe in probes.items() if not probe.ok]
    return Source(path, OpenVikingModel(off), dialect="openviking", own_options=options.own_settings()), probes


def _serve(started: Started, probes: Any, arguments: list[str]) -> int:
    from openviking import __version__
    from openviking.server import bootstrap

    if not probes["server"].ok:
        log.error("hotreload is off: %s", probes["server"])
        started.start_up.end()
        started.start_up.notifier.ready(f"hotreload is off: {probes['server']}", 1)
        return _stock(arguments)
    from hotreload.openviking.hosting import Hosting

    hosting = Hosting(started, probes, started.source.model, __version__)  # pyright: ignore[reportArgumentType]
    hosting.attach(bootstrap)
    code = _stock(arguments)
    if hosting.server is None:  # several server processes: none of them is ours
        return code
    if hosting.failure is not None:
        return _complain(hosting.failure, started)
    report = hosting.host.drain.report
    if report is None or code not in (EX_OK, SIGTERM_EXIT):
        if code == UVICORN_STARTUP_FAILURE:
            started.start_up.failed(OSError("its address cannot be had; the lines before say why"))
            return EX_STATE
        return code or EX_CONTENT
    return EX_OK if report.whole else EX_CONTENT


def _complain(error: BaseException, started: Started) -> int:
    if started.lifecycle.phase is not Phase.STARTING or not isinstance(error, CANNOT_START):
        log.critical("the host failed", exc_info=error)
        return EX_CONTENT
    started.start_up.failed(error)
    return complain(error)


def _take_out_own_section() -> None:
    """Keep the section `hotreload` from OpenViking, which would warn of it; the file stays as it is.

    Before anything else of it is imported: its loggers load the configuration when they are made.
    """
    from openviking_cli.utils.config.open_viking_config import OpenVikingConfig

    config_class: Any = OpenVikingConfig
    stock = config_class.from_dict.__func__
    if hasattr(stock, "__wrapped__"):
        return

    @functools.wraps(stock)
    def from_dict(cls: Any, config: dict[str, Any]) -> Any:
        return stock(cls, {key: value for key, value in config.items() if key != "hotreload"})

    config_class.from_dict = classmethod(from_dict)


def _served_file(started: Started) -> Path:
    """Return the file OpenViking reads at its start: ov.conf, or with a broken one the last-known-good."""
    return started.last_known_good.path if started.degraded else started.source.path


def _stated_config(arguments: Sequence[str]) -> Path | None:
    """Return what a `--config` among the server's own arguments says: it means the same as ours."""
    stated = _option(arguments, "--config")
    return None if stated is None else Path(stated)


def _option(arguments: Sequence[str], name: str) -> str | None:
    """Return the value of an option among the server's own arguments."""
    for position, argument in enumerate(arguments):
        if argument == name and position + 1 < len(arguments):
            return arguments[position + 1]
        if argument.startswith(f"{name}="):
            return argument.partition("=")[2]
    return None


def _without_config(arguments: Sequence[str]) -> list[str]:
    kept: list[str] = []
    skip = False
    for argument in arguments:
        if skip or argument == "--config":
            skip = not skip and argument == "--config"
        elif not argument.startswith("--config="):
            kept.append(argument)
    return kept
