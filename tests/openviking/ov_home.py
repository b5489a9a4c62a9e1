"""The folder of a real OpenViking server: its ov.conf, its workspace, its environment."""

import json
import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT_KEY = "root-key-of-a-test-0123456789"
REPOSITORY = Path(__file__).parents[2]
UNWATCHED = {"hotreload": {"watch": False}}
"""Settings under which no trigger but the one that is tried reloads."""


def free_port() -> int:
    """Return a loopback port that was free a moment ago."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with `over` laid over it, objects key by key."""
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        result[key] = merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return result


@dataclass
class Home:
    """The folder of one server: its ov.conf, its workspace, its logs; it outlives the processes started in it.

    `warm` is the address of the interpreter that forks its servers; without one they are started from nothing.
    """

    folder: Path
    model_url: str
    warm: Path | None = None
    port: int = field(default_factory=free_port)
    user_key: str = ""
    starts: int = 0

    @property
    def conf(self) -> Path:
        """The ov.conf."""
        return self.folder / "ov.conf"

    @property
    def socket(self) -> Path:
        """The control socket."""
        return self.folder / "run" / "control.sock"

    @property
    def ours(self) -> tuple[str, ...]:
        """The command that runs OpenViking with this library around it."""
        return (sys.executable, "-m", "hotreload", "openviking", "--socket", str(self.socket))

    def environment(self) -> dict[str, str]:
        """Return the environment of its processes: nothing of who runs the tests says what OpenViking is."""
        clean = {key: value for key, value in os.environ.items() if not key.startswith("OPENVIKING")}
        own = {"HOME": str(self.folder), "OPENVIKING_CONFIG_FILE": str(self.conf), "PYTHONPATH": str(REPOSITORY)}
        return {**clean, **own, "PYTHONDONTWRITEBYTECODE": ""}

    def settings(self, over: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the test's ov.conf as a value, `over` laid over it."""
        model = {"provider": "openai", "api_base": f"{self.model_url}/v1"}
        base: dict[str, Any] = {
            "server": {"host": "127.0.0.1", "port": self.port, "root_api_key": ROOT_KEY},
            "storage": {
                "workspace": str(self.folder / "data"),
                "vectordb": {"backend": "local"},
                "agfs": {"backend": "local"},
            },
            "embedding": {"dense": {**model, "model": "stub-embedding", "api_key": "key-e", "dimension": 8}},
            "vlm": {**model, "model": "stub", "api_key": "key-1", "max_concurrent": 4, "max_retries": 0},
            "queue_workers": {"add_resource": {"max_concurrent": 32}},
        }
        return merged(base, over or {})

    def write(self, over: Mapping[str, Any] | None = None, *, atomic: bool = False) -> dict[str, Any]:
        """Write ov.conf in place, or beside it and renamed over it; returns the settings."""
        settings = self.settings(over)
        self.write_text(json.dumps(settings, indent=2), atomic=atomic)
        return settings

    def write_text(self, text: str, *, atomic: bool = False) -> None:
        """Write these very characters as ov.conf."""
        target = self.conf.with_suffix(".new") if atomic else self.conf
        target.write_text(text)
        if atomic:
            target.replace(self.conf)
