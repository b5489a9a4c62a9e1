"""Load what `MODULE:ATTR` names."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import sysconfig
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import click

from hotreload.cli.exits import Exit, Failure
from hotreload.errors import DeclarationError

if TYPE_CHECKING:
    from hotreload.host.start import RunOptions
    from hotreload.reload.report import ReloadReport


INSTALL: Final = "pip install 'openviking-hotreload[openviking]', or from a clone: pip install '.[openviking]'"
OPENVIKING_TEXT: Final = "The stock openviking-server, instead of MODULE:ATTR."


class Target(Protocol):
    """What the verbs need of a `hotreload.Service`, or of the stock OpenViking."""

    @property
    def name(self) -> str:
        """The service's name."""
        ...

    def check(self, config: Path | None) -> ReloadReport:
        """Validate a file."""
        ...

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of its configuration file."""
        ...


class Runnable(Target, Protocol):
    """What the verb `run` needs besides."""

    def run(self, options: RunOptions) -> int:
        """Run until a drain has ended, or say why it cannot start; returns the exit code."""
        ...


class OpenViking:
    """The stock server, installed with the extra `openviking`. Meets `Target`; Failure (usage) without the extra.

    It logs to standard output: verbs that print an answer there send what it says aside.
    """

    name = "openviking"

    def __init__(self) -> None:
        if importlib.util.find_spec("openviking_cli") is None:
            raise Failure(Exit.USAGE, "OpenViking is not installed here", [INSTALL])

    def check(self, config: Path | None) -> ReloadReport:
        """Validate a file."""
        from hotreload.openviking import launcher  # not with the other verbs: it is the adapter of an extra

        return launcher.check_config(config)

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of its configuration file."""
        from hotreload.openviking import launcher

        return launcher.schema()

    def run(self, options: RunOptions, arguments: Sequence[str] = ()) -> int:
        """Run until a drain ends; the arguments are openviking-server's own."""
        from hotreload.openviking import launcher

        return launcher.run(options, arguments)


def target_of(text: str | None, *, openviking: bool) -> Target:
    """Return what either MODULE:ATTR or `--openviking` names; wrong usage with both or neither."""
    if openviking == (text is not None):
        raise click.UsageError("give either MODULE:ATTR or --openviking")
    return OpenViking() if text is None else load_target(text)


def load_target(text: str) -> Runnable:
    """Import MODULE, with the current folder on the path, and return its ATTR; Failure (usage) where that fails."""
    module_name, separator, attribute = text.partition(":")
    if not (separator and module_name and attribute):
        raise Failure(Exit.USAGE, f"{text!r} is not of the form MODULE:ATTR, for example app.service:service")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: object = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except DeclarationError:
        raise
    except BaseException as error:  # whatever a user's module raises when it is imported, SystemExit included
        raise _not_imported(error, module_name, attribute) from error
    if not (callable(getattr(found, "run", None)) and callable(getattr(found, "check", None))):
        raise Failure(Exit.USAGE, f"{text} is a {type(found).__name__}, not a hotreload.Service")
    return cast("Runnable", found)


def _not_imported(error: BaseException, module_name: str, attribute: str) -> Failure:
    """Return what an import ended with: the user's line first, the traceback from there on below."""
    every = [frame for frame in traceback.extract_tb(error.__traceback__) if _of_a_module(frame.filename)]
    frames = [frame for frame in every if not _installed(frame.filename)] or every
    missing = isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}.")
    if missing:
        return Failure(Exit.USAGE, f"cannot import {module_name}: {error}", [f"looked in {p}" for p in sys.path])
    if isinstance(error, SyntaxError) and error.filename:
        place = f"{error.filename}:{error.lineno}"
    elif frames:
        place = f"{frames[-1].filename}:{frames[-1].lineno}"
    else:
        return Failure(Exit.USAGE, f"{module_name} has no {attribute}: {error}")
    said = " ".join(str(error).split())
    told = f"importing {module_name} failed at {place}: {type(error).__name__}: {said}"
    return Failure(Exit.USAGE, told, "".join(traceback.format_list(frames)).splitlines())


def _installed(filename: str) -> bool:
    """Say whether a file is one of a library; the user's own lines are what can be mended."""
    folders = sysconfig.get_paths()
    return any(filename.startswith(folders[name] + os.sep) for name in ("stdlib", "purelib", "platlib"))


def _of_a_module(filename: str) -> bool:
    return not (filename.startswith("<") or filename == __file__ or f"{os.sep}importlib{os.sep}" in filename)
