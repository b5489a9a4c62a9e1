"""The command line: verbs over a running service or a declared one; no logic of its own."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

import click
import httpx

from hotreload import early
from hotreload.admin.place import Places
from hotreload.cli.exits import Exit, Failure
from hotreload.cli.output import close_streams, open_streams
from hotreload.cli.show import print_json
from hotreload.cli.verbs import root
from hotreload.errors import (
    ConfigError,
    ControlSocketUnsafe,
    DeclarationError,
    ServiceMisnamed,
    ServiceUnreachable,
    StoreOwned,
    reason_of,
)
from hotreload.host.exit import end_process

__all__ = ["main", "run_verb"]

log = logging.getLogger(__name__)
_INTERRUPTED: Final = 130
TOLD: Final = (
    ConfigError,
    ControlSocketUnsafe,
    ServiceMisnamed,
    ServiceUnreachable,
    StoreOwned,
    OSError,
    httpx.ReadTimeout,
)


def main(arguments: Sequence[str]) -> NoReturn:
    """Run a verb and end the process with its exit code.

    A serving verb leaves without joining threads, however it ended: a job stuck in one must not hold the process.
    """
    if not arguments or arguments[0] not in early.SERVING_VERBS:
        open_streams()
        sys.exit(close_streams(arguments[0] if arguments else "", run_verb(arguments)))
    code = int(Exit.REFUSED_BY_CONTENT)
    try:
        code = run_verb(arguments)
    except BaseException:
        from hotreload import logs

        logs.configure()
        log.critical("hotreload ended by a defect", exc_info=True)
    finally:
        end_process(code)


def run_verb(arguments: Sequence[str], places: Places | None = None) -> int:
    """Run a verb and return its exit code; whatever refuses it is printed.

    `places` are those in which it looks for a running service, by default those of this process.
    """
    try:
        return int(root.main(list(arguments), prog_name="hotreload", standalone_mode=False, obj=places) or 0)
    except click.exceptions.Exit as error:
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return _INTERRUPTED
    except Failure as failure:
        return _fail(failure, arguments)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.UsageError as error:
        return _fail(_misused(error), arguments)
    except DeclarationError as error:
        return _fail(_misdeclared(error, serves=arguments[0] in early.SERVING_VERBS), arguments)
    except TOLD as error:
        return _fail(_failure(error), arguments)


def _fail(failure: Failure, arguments: Sequence[str]) -> int:
    failure.show()
    if "--json" in arguments:
        print_json(failure.to_dict())
    return failure.code


def _misused(error: click.UsageError) -> Failure:
    """Return what is wrong first, how it is used after."""
    usage = [error.ctx.get_usage(), f"{error.ctx.command_path} --help says more"] if error.ctx else []
    return Failure(Exit.USAGE, error.format_message(), [line for text in usage for line in text.splitlines()])


def _misdeclared(error: DeclarationError, *, serves: bool) -> Failure:
    code = Exit.CONFIG if serves else Exit.REFUSED_BY_CONTENT
    return Failure(code, f"cannot start: {error}" if serves else str(error))


def _failure(error: Exception) -> Failure:
    """Return what an error of the library means to who typed the command."""
    first, *more = reason_of(error).splitlines()
    match error:
        case ConfigError():
            return Failure(Exit.CONFIG, f"cannot start: {first}", more)
        case ServiceMisnamed():
            return Failure(Exit.USAGE, first, more)
        case ServiceUnreachable():
            return Failure(Exit.UNREACHABLE, first, more)
        case httpx.ReadTimeout():
            return Failure(Exit.TIMED_OUT, "the service does not answer in time")
        case _:
            return Failure(Exit.REFUSED_BY_STATE, first, more)
