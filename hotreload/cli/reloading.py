"""The verbs about configuration: what a file would do, do it, and what may stand in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import click

from hotreload.cli.client import Client, Verdict
from hotreload.cli.exits import Exit, Failure
from hotreload.cli.fleet import reload_all
from hotreload.cli.options import PATH, SECONDS, aside, finds_service, prints_json
from hotreload.cli.show import console, plan_view, print_json, problem_line, reload_view
from hotreload.cli.target import OPENVIKING_TEXT, target_of
from hotreload.client.find import Wanted, find

MAX_BYTES: Final = 1024 * 1024
_EXITS: Final = {
    "applied": Exit.DONE,
    "unchanged": Exit.DONE,
    "valid": Exit.DONE,
    "rejected": Exit.REFUSED_BY_CONTENT,
    "rolled_back": Exit.REFUSED_BY_CONTENT,
    "refused": Exit.REFUSED_BY_STATE,
}


@click.command()
@click.argument("target", metavar="[MODULE:ATTR]", required=False)
@click.option("--openviking", is_flag=True, help=OPENVIKING_TEXT)
@click.option("--against-running", is_flag=True, help="Ask the running service, and show what a reload would do.")
@click.option("--config", type=PATH, help="The configuration file, ov.conf.")
@click.option("-v", "--verbose", is_flag=True, help="With --against-running: name the unchanged fields too.")
@click.option("--timeout", "timeout_s", type=SECONDS, default=30.0, show_default=True, metavar="S")
@finds_service
@prints_json
def check(
    target: str | None,
    openviking: bool,
    against_running: bool,
    config: Path | None,
    verbose: bool,
    timeout_s: float,
    wanted: Wanted,
    as_json: bool,
) -> int:
    """Validate a configuration file without applying it.

    \b
    hotreload check examples.summaries.service:service --config ov.conf
    hotreload check --openviking --config ov.conf
    hotreload check --against-running --config new.conf
    """
    if (target is not None) + openviking + against_running != 1:
        raise click.UsageError("give one of MODULE:ATTR, --openviking and --against-running")
    if not against_running:
        report = aside(lambda: target_of(target, openviking=openviking).check(config))
        return _show_verdict(report.to_dict(), as_json)
    with Client(find(wanted)) as client:
        if config is None or _is_its_own(config, client.status()):
            verdict = client.reload(dry_run=True, timeout_s=timeout_s)
        else:
            verdict = client.check(config.name, _bytes(config), timeout_s=timeout_s)
        report = _in_time(verdict, timeout_s)
        report["unchanged"] = _unchanged(report, client.config()["settings"])
    code = _show_verdict(report, as_json)
    if not as_json:
        console().print(plan_view(report, changes=code != Exit.DONE, verbose=verbose))
    return code


@click.command()
@click.option("--dry-run", is_flag=True, help="Load, validate and plan; apply nothing.")
@click.option(
    "--timeout",
    "timeout_s",
    type=SECONDS,
    default=30.0,
    show_default=True,
    metavar="S",
    help="Seconds to wait for the verdict; the reload goes on after.",
)
@click.option("--fail-on-pending-restart", is_flag=True, help="Exit 6 where fields wait for a restart.")
@click.option("--all", "everywhere", is_flag=True, help="Every node on the same PostgreSQL store, or none of them.")
@finds_service
@prints_json
def reload(
    dry_run: bool, timeout_s: float, fail_on_pending_restart: bool, everywhere: bool, wanted: Wanted, as_json: bool
) -> int:
    """Ask the running service to reload, wait for the verdict and show it.

    \b
    hotreload reload --timeout 20
    """
    if everywhere and (dry_run or fail_on_pending_restart):
        raise click.UsageError("--all goes with neither --dry-run nor --fail-on-pending-restart")
    with Client(find(wanted)) as client:
        if everywhere:
            return reload_all(client, timeout_s, as_json=as_json)
        verdict = client.reload(dry_run=dry_run, timeout_s=timeout_s)
    report = _in_time(verdict, timeout_s)
    code = _show_verdict(report, as_json)
    pending = bool(report["pending_restart"])
    return Exit.PENDING_RESTART if fail_on_pending_restart and pending and code == Exit.DONE else code


@click.command()
@click.argument("target", metavar="[MODULE:ATTR]", required=False)
@click.option("--openviking", is_flag=True, help=OPENVIKING_TEXT)
@prints_json
def schema(target: str | None, openviking: bool, as_json: bool) -> int:
    """Print the JSON Schema of ov.conf, for an editor; it is JSON with and without --json.

    \b
    hotreload schema examples.summaries.service:service > ov.schema.json
    hotreload schema --openviking > ov.schema.json
    """
    del as_json
    print_json(aside(lambda: target_of(target, openviking=openviking).schema()))
    return Exit.DONE


def _in_time(verdict: Verdict, timeout_s: float) -> dict[str, Any]:
    if verdict.report is None:
        raise Failure(
            Exit.TIMED_OUT,
            f"no verdict within {timeout_s:g} s; the reload goes on, its id is {verdict.id}",
            ["hotreload status shows its outcome"],
            id=verdict.id,
        )
    return verdict.report


def _unchanged(report: Mapping[str, Any], running: Iterable[str]) -> list[str]:
    """Return the fields that stay as they run; none for a file that is not a configuration: it has no plan."""
    touched = [each["path"] for each in (*report["changes"], *report["pending_restart"])]
    if not touched and report["outcome"] != "valid":
        return []
    return [path for path in running if not any(path == top or path.startswith(f"{top}.") for top in touched)]


def _show_verdict(report: dict[str, Any], as_json: bool) -> int:
    """Print a reload report; what was refused goes to standard error, the reason in its first line."""
    code = _EXITS[report["outcome"]]
    if as_json:
        print_json(report)
    if code == Exit.DONE:
        if not as_json:
            console().print(reload_view(report))
        return code
    errors = [problem_line(error) for error in report["errors"]]
    first = errors[0] if errors else "see the report"
    more = [*errors[1:], *(f"warning: {problem_line(warning)}" for warning in report["warnings"])]
    stays = f", generation {report['generation']} stays" if report["generation"] else ""  # 0: nothing is running
    if stays:
        more.append(f"id {report['id']}")
    failure = Failure(code, f"{report['outcome']}{stays}: {first}", more)
    failure.show()
    return code


def _is_its_own(config: Path, running: dict[str, Any]) -> bool:
    return config.resolve() == Path(running["config_file"]).resolve()


def _bytes(config: Path) -> bytes:
    """Read a file as who typed the command: the service need not be able to."""
    try:
        with config.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise Failure(Exit.REFUSED_BY_CONTENT, f"{config} cannot be read: {error.strerror}") from error
