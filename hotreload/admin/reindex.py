"""Look for missing work on demand: what `POST /admin/reindex` and `GET /admin/reindex/{id}` answer."""

from __future__ import annotations

from typing import Any, Final

import anyio
from starlette.exceptions import HTTPException
from starlette.requests import Request

from hotreload.admin.control import Control, Searches
from hotreload.admin.exchange import preferred_wait_s, read_body
from hotreload.lifecycle import Phase
from hotreload.recovery.findings import Wanted

URI_CHARS: Final = 4_096


async def search(control: Control, request: Request) -> tuple[dict[str, Any], int]:
    """Return what was found and queued, and the status: 202, with `dry_run` 200.

    It answers once the search has ended; with `Prefer: wait=N` after N seconds at the latest, with 202, `ended`
    false and the `id` to ask for. 404 where the folder or account asked for does not exist. 409 in a drain, where
    nothing says what should exist, and where many wait already.
    """
    body = await read_body(request, {"dry_run": bool, "uri": str, "account": str})
    dry_run, uri = body.get("dry_run", False), body.get("uri") or None
    if uri is not None and len(uri) > URI_CHARS:
        raise HTTPException(400, f"uri may have {URI_CHARS} characters")
    searches = _searches(control)
    if control.phase not in (Phase.STARTING, Phase.RUNNING):
        raise HTTPException(409, "the service is draining")
    if searches.full:
        raise HTTPException(409, "many searches wait already")
    ticket = searches.submit(Wanted(uri, repair=not dry_run, retry=not dry_run, account=body.get("account")))
    with anyio.move_on_after(preferred_wait_s(request.headers.get("prefer"))):
        await ticket.wait()
    if ticket.findings.unknown:
        raise HTTPException(404, ticket.findings.error)
    done = dry_run and ticket.findings.ended
    return ticket.findings.to_dict(), 200 if done else 202


async def progress(control: Control, search_id: str) -> dict[str, Any]:
    """Return a search of this process and how far what it found is made: `made` has `left`, `done` and `failed`.

    404 for one that is not among the last twenty.
    """
    searches = _searches(control)
    ticket = searches.find(search_id)
    if ticket is None:
        raise HTTPException(404, "no such search; the last twenty of this process are kept")
    made = await searches.making(ticket)
    whole = ticket.findings.to_dict() if ticket.findings.ended else ticket.findings.summary()
    return {**whole, "made": made.to_dict()}


def _searches(control: Control) -> Searches:
    if control.searches is None:
        raise HTTPException(409, "nothing to look for: this service has no scan that says what should exist")
    return control.searches
