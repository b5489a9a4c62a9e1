"""The running OpenViking: its service, its accounts, and who acts in them."""

from __future__ import annotations

from typing import Any

from hotreload.openviking.messages import SCHEME


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
