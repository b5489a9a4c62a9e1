"""A reload report as JSON: every key always there, values as the interfaces promise them."""

from __future__ import annotations

from hotreload.config.fields import Effect
from hotreload.errors import Problem
from hotreload.reload.report import (
    Change,
    Converging,
    Outcome,
    PendingRestart,
    ReloadReport,
    Trigger,
    TriggerKind,
    problem_to_dict,
)

TRIGGER = Trigger(TriggerKind.CLI, "pid 812 uid 0", 1_795_540_803_120)
KEYS = [
    "id", "outcome", "dry_run", "trigger", "generation", "previous_generation", "fingerprint", "changes",
    "pending_restart", "errors", "warnings", "converging", "timings_ms", "in_force",
]  # fmt: skip


def report(outcome: Outcome, **parts: object) -> ReloadReport:
    return ReloadReport("5f0c", outcome, False, TRIGGER, 8, 7, "hmac:1", **parts)  # type: ignore[arg-type]


def test_an_empty_report_has_every_key() -> None:
    document = report(Outcome.UNCHANGED).to_dict()
    assert list(document) == KEYS
    assert document["trigger"] == {"kind": "cli", "principal": "pid 812 uid 0", "at": "2026-11-24T17:20:03.120Z"}
    assert all(document[key] == [] for key in ("changes", "pending_restart", "errors", "warnings", "converging"))
    assert document["timings_ms"] == {}


def test_a_full_report_tells_each_part() -> None:
    document = report(
        Outcome.APPLIED,
        changes=(Change("a.b", 4, 12, Effect.LIVE, "workers.a"),),
        pending_restart=(PendingRestart("c", "/a", "/b", "it is opened at the start"),),
        warnings=(Problem("d", "unknown key", "ov.conf", 2, 3, hint="did you mean e?"),),
        converging=(Converging("workers.a", 4, 9),),
        timings_ms={"load": 0.41249},
    ).to_dict()
    assert list(document) == KEYS
    assert document["changes"] == [{"path": "a.b", "old": 4, "new": 12, "effect": "live", "owner": "workers.a"}]
    assert document["pending_restart"] == [
        {"path": "c", "running": "/a", "on_disk": "/b", "reason": "it is opened at the start"}
    ]
    assert document["warnings"] == [
        {"path": "d", "file": "ov.conf", "line": 2, "column": 3, "message": "unknown key", "hint": "did you mean e?"}
    ]
    assert document["converging"] == [{"owner": "workers.a", "limit": 4, "running": 9}]
    assert document["timings_ms"] == {"load": 0.412}


def test_an_unchanged_report_tells_which_reload_made_what_is_in_force() -> None:
    change = Change("a.b", 4, 12, Effect.LIVE, "workers.a")
    document = report(Outcome.UNCHANGED, in_force=report(Outcome.APPLIED, changes=(change,))).to_dict()
    assert document["changes"] == []
    assert document["in_force"] == {
        "id": "5f0c", "generation": 8, "trigger": TRIGGER.to_dict(), "changes": [change.to_dict()],
    }  # fmt: skip


def test_a_problem_leaves_out_what_it_does_not_know() -> None:
    assert problem_to_dict(Problem("", "draining")) == {"path": "", "message": "draining"}


def test_a_summary_is_one_line() -> None:
    assert report(Outcome.UNCHANGED).summary() == "reload unchanged (id 5f0c), generation 8"
    change = Change("a.b", 4, 12, Effect.LIVE, "workers.a")
    pending = PendingRestart("c", "/a", "/b", "it is opened at the start")
    applied = report(Outcome.APPLIED, changes=(change,), pending_restart=(pending,))
    assert applied.summary() == "reload applied (id 5f0c), generation 8: a.b 4 → 12; pending restart: c"
    rejected = report(Outcome.REJECTED, changes=(change,), errors=(Problem("a.b", "too small"),))
    assert rejected.summary() == "reload rejected (id 5f0c), generation 8: a.b: too small"
