"""Import documents into an OpenViking on this machine and wait until each has its summaries: `begin`, `look`, `wait`.

Prints which of them lack one. `held` waits until the model endpoint on the port given holds so many calls.
"""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from typing import Any

import httpx

KEPT = Path("/run/importer.json")
SIDECARS = (".abstract.md", ".overview.md")


def begin(http: httpx.Client, root_key: str, count: int) -> None:
    """Make a user and queue `count` documents; what was answered with success must be finished some day."""
    made = http.post(
        "/api/v1/admin/accounts",
        json={"account_id": "acme", "admin_user_id": "alice"},
        headers={"X-API-Key": root_key},
    )
    headers = {"X-API-Key": made.raise_for_status().json()["result"]["user_key"]}
    names = [f"doc{number}" for number in range(count)]
    for name in names:
        text = f"# {name}\n\nThe text of {name}. It says little, and it says it for {name} alone.\n"
        sent = http.post(
            "/api/v1/resources/temp_upload", files={"file": (f"{name}.md", text.encode())}, headers=headers
        )
        wanted = {
            "temp_file_id": sent.raise_for_status().json()["result"]["temp_file_id"],
            "to": f"viking://resources/{name}",
            "wait": False,
        }
        http.post("/api/v1/resources", json=wanted, headers=headers).raise_for_status()
    KEPT.write_text(json.dumps({"headers": headers, "names": names}))


def unfinished(http: httpx.Client) -> list[str]:
    """Return which documents lack a summary."""
    kept: dict[str, Any] = json.loads(KEPT.read_text())
    options = {"uri": "viking://resources", "show_all_hidden": "true", "node_limit": "100000"}
    answer = http.get("/api/v1/fs/tree", params=options, headers=kept["headers"])
    sizes = {entry["rel_path"]: entry["size"] for entry in answer.raise_for_status().json()["result"]}
    return [name for name in kept["names"] if not all(sizes.get(f"{name}/{sidecar}") for sidecar in SIDECARS)]


def _held(http: httpx.Client) -> int:
    return http.get("/control").json()["hanging"]


def main(verb: str, port: str, argument: str = "", key: str = "") -> None:
    """Do one of them."""
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as http:
        if verb == "begin":
            begin(http, key, int(argument))
        pause = threading.Event()
        while (verb == "wait" and unfinished(http)) or (verb == "held" and _held(http) < int(argument)):
            pause.wait(0.2)
        print(json.dumps([] if verb == "held" else unfinished(http)))


if __name__ == "__main__":
    main(*sys.argv[1:])
