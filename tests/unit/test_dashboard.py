"""The terminal dashboard says what the status document and the history say, whatever is in them."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from hotreload.cli.dashboard import RELOADS, dashboard
from hotreload.errors import Problem
from hotreload.reload.report import Outcome
from tests.control import FakeControl, drain_report, report


def shown(status: dict[str, Any], history: list[dict[str, Any]]) -> str:
    screen = Console(file=io.StringIO(), width=120, force_terminal=False, markup=False)
    screen.print(dashboard(status, history))
    return screen.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType]


def test_pools_queues_and_reloads_are_shown() -> None:
    refused = report(Outcome.REJECTED, errors=(Problem("vlm", "must be an object", file="ov.conf", line=3),)).to_dict()
    text = shown(FakeControl().status(), [refused, report().to_dict()])
    for part in ("summaries  running  generation 8", "4/4", "limit", "vlm.max_concurrent 4 → 12"):
        assert part in text
    assert "ov.conf:3: vlm: must be an object" in text


def test_a_limit_that_shrank_and_an_empty_service_are_shown() -> None:
    status = FakeControl().status()
    status["pools"][0] |= {"limit": 0, "running": 4}
    assert "4/0" in shown(status, [])
    text = shown({**status, "pools": [], "queues": [], "degraded": "vlm endpoint: 401"}, [])
    assert "no reload since the start" in text
    assert "degraded: vlm endpoint: 401" in text


def test_only_the_newest_reloads_are_listed() -> None:
    text = shown(FakeControl().status(), [report().to_dict()] * (RELOADS + 3))
    assert text.count("applied") == RELOADS


def test_a_drain_is_shown_against_its_deadline_and_the_last_one_after_it() -> None:
    control = FakeControl()
    text = shown({**control.status(), "drain": control.progress(2)}, [])
    assert "1 of 5 s" in text
    assert "1 of 3" in text
    assert "2 requeued" in shown({**control.status(), "last_drain": drain_report()}, [])
