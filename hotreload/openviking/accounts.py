"""The running OpenViking: its service, its accounts, who acts in them, and what they set over fields of ov.conf."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import anyio

from hotreload.errors import Problem, reason_of
from hotreload.openviking.messages import SCHEME

MODELS: Final = ("vlm", "query_planner")
"""An account that sets its model in these takes nothing that names the endpoint from ov.conf."""
OF_ENDPOINT: Final = frozenset(
    {"model", "provider", "backend", "api_key", "api_base", "api_version", "credentials", "providers", "backup"}
    | {"extra_headers", "extra_request_body", "forward_api_key"}
)
SECTIONS: Final = (*MODELS, "embedding")
LISTED: Final = 3
LOOK_S: Final = 2.0
"""How long the accounts are looked through at most, well below the limit of a part."""


def service() -> Any:
    """Return the service of this process."""
    from openviking.server.dependencies import get_service

    return get_service()


async def accounts() -> list[str]:
    """Return the accounts that have files."""
    agfs: Any = service().viking_fs._async_agfs
    names = [str(entry["name"]) for entry in await agfs.ls("/local") if entry.get("isDir", entry.get("is_dir"))]
    return sorted(name for name in names if not name.startswith((".", "_")))


def acting(account: str, uri: str = "") -> Any:
    """Return who acts: root, in the name of the user whose files they are."""
    from openviking.server.identity import RequestContext, Role
    from openviking_cli.session.user_id import UserIdentifier

    parts = uri.removeprefix(SCHEME).split("/")
    user = parts[1] if parts[0] == "user" and len(parts) > 1 else "default"
    root: Any = Role.ROOT
    return RequestContext(user=UserIdentifier(account, user), role=root, bypass_acl=True)


async def overridden(paths: Sequence[str]) -> list[Problem]:
    """Return a warning for each changed path over which accounts have values of their own, which stay in force."""
    concerned = [path for path in paths if path.partition(".")[0] in SECTIONS]
    if not concerned:
        return []
    found: dict[str, list[str]] = {path: [] for path in concerned}
    missed = "in time"
    try:
        with anyio.move_on_after(LOOK_S):
            for name in await accounts():
                own = await _settings(name)
                for path in concerned:
                    if _sets(own, path):
                        found[path].append(name)
            missed = ""
    except Exception as error:  # noqa: BLE001 - what cannot be told refuses no reload
        missed = f"({reason_of(error)})"
    warnings = [Problem(path, _said(those)) for path, those in found.items() if those]
    if missed:
        warnings.append(Problem("", f"not every account was asked for values of its own {missed}"))
    return warnings


async def _settings(account: str) -> Mapping[str, Any]:
    from openviking.config.scope import ConfigScope

    return await service().runtime_config_manager.get_settings(ConfigScope.account(account))


def _sets(own: Mapping[str, Any], path: str) -> bool:
    section, _, rest = path.partition(".")
    field, stated = rest.partition(".")[0], own.get(section)
    if not isinstance(stated, Mapping):
        return False
    return field in stated or (section in MODELS and field in OF_ENDPOINT)


def _said(names: Sequence[str]) -> str:
    more = len(names) - LISTED
    listed = ", ".join(names[:LISTED]) + (f" and {more:,} more" if more > 0 else "")
    return f"has another value, set over OpenViking's API, in accounts that keep it: {listed}"
