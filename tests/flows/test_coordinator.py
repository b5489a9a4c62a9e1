"""One verdict: whoever asks meanwhile shares the waiting reload, and nobody is left without an answer."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import anyio
import anyio.lowlevel
import pytest
from pydantic import BaseModel, Field, SecretStr

from hotreload import Live, LiveSettings, Restart
from hotreload.config.document import Document, parse
from hotreload.config.secrets import Redactor
from hotreload.config.settings import SettingsModel
from hotreload.config.store import SnapshotStore
from hotreload.lifecycle import Lifecycle, Phase
from hotreload.reload.apply import Limits, Transition
from hotreload.reload.attempt import Flow
from hotreload.reload.coordinator import ReloadCoordinator, Ticket
from hotreload.reload.report import Outcome, ReloadReport, Trigger, TriggerKind
from hotreload.reload.validate import Source, build_candidate, first_snapshot

pytestmark = pytest.mark.anyio
SIGNAL = Trigger(TriggerKind.SIGNAL, "SIGHUP", 0)
HTTP = Trigger(TriggerKind.HTTP, "pid 1 uid 0", 0)


class VLM(BaseModel):
    max_concurrent: Annotated[int, Live, Field(ge=1, le=1024)] = 4
    api_key: Annotated[SecretStr | None, Live] = None


class Conf(LiveSettings):
    vlm: VLM = VLM()
    workspace: Annotated[str, Restart] = "here"


@dataclass
class Gate:
    """A part whose prepare waits until it is let through, and counts."""

    name: str = "workers.semantic"
    paths: Sequence[str] = ("",)
    entered: list[anyio.Event] = field(default_factory=list)
    open: anyio.Event | None = None
    arrived: anyio.Event = field(default_factory=anyio.Event)
    prepared: list[Transition] = field(default_factory=list)
    half: Half | None = None

    async def prepare(self, transition: Transition) -> Half | None:
        self.prepared.append(transition)
        self.arrived.set()
        if self.open is not None:
            await self.open.wait()
        return self.half


@dataclass
class Half:
    """What a part prepared, with a step that raises or never ends."""

    fails: str = ""
    hangs: str = ""
    stages: list[str] = field(default_factory=list)
    committed: Callable[[], None] = lambda: None

    def commit(self) -> None:
        self.stages.append("commit")
        self.committed()
        if self.fails.startswith("commit"):
            raise RuntimeError("no commit")

    def revert(self) -> None:
        self.stages.append("revert")

    async def step(self, stage: str) -> None:
        self.stages.append(stage)
        if stage in self.fails:
            raise RuntimeError(f"no {stage}")
        if stage == self.hangs:
            await anyio.sleep_forever()

    async def undo(self) -> None:
        await self.step("undo")

    async def retire(self) -> None:
        await self.step("retire")


@dataclass
class Running:
    """A coordinator over a real file."""

    path: Path
    coordinator: ReloadCoordinator
    lifecycle: Lifecycle
    snapshots: SnapshotStore[Any]
    gate: Gate
    heard: list[tuple[ReloadReport, Document | None]]
    began: list[str]
    flow_parts: list[Gate]
    serving: anyio.CancelScope

    def cut(self) -> None:
        """Cancel the coordinator at its next await."""
        self.serving.cancel()

    def save(self, **conf: Any) -> None:
        self.path.write_text(json.dumps(conf))

    async def reload(self, **asked: Any) -> ReloadReport:
        with anyio.fail_after(20):
            return await self.coordinator.submit(SIGNAL, **asked).wait()


@asynccontextmanager
async def running(folder: Path, limits: Limits = Limits()) -> AsyncIterator[Running]:  # noqa: B008 - frozen
    path = folder / "ov.conf"
    path.write_text(json.dumps({"vlm": {"max_concurrent": 4}}))
    source = Source(path=path, model=SettingsModel(Conf, environ={}))
    redactor = Redactor(b"k" * 32)
    snapshots = SnapshotStore(first_snapshot(build_candidate(parse(path, path.read_bytes()), source), redactor))
    lifecycle, gate = Lifecycle(), Gate()
    lifecycle.move(Phase.RUNNING)
    heard: list[tuple[ReloadReport, Document | None]] = []
    began: list[str] = []

    def begin(ticket: Ticket) -> None:
        began.append(ticket.id)

    parts = [gate]
    coordinator = ReloadCoordinator(
        Flow(source, snapshots, parts, redactor, limits=limits),
        lifecycle,
        began=begin,
        heard=lambda report, document: heard.append((report, document)),
    )
    serving = anyio.CancelScope()

    async def serve() -> None:
        with serving:
            await coordinator.run()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve)
        yield Running(path, coordinator, lifecycle, snapshots, gate, heard, began, parts, serving)
        tasks.cancel_scope.cancel()


async def test_a_changed_live_field_is_applied(tmp_path: Path) -> None:
    async with running(tmp_path) as one:
        one.save(vlm={"max_concurrent": 12})
        report = await one.reload()
        assert (report.outcome, report.generation, report.previous_generation) == (Outcome.APPLIED, 2, 1)
        [change] = report.changes
        assert (change.path, change.old, change.new, change.owner) == (
            "vlm.max_concurrent",
            4,
            12,
            "workers.semantic",
        )
        assert one.snapshots.current.settings.vlm.max_concurrent == 12
        assert one.heard[0][0] is report
        assert one.heard[0][1] is not None
        assert one.began == [report.id]
        assert set(report.timings_ms) == {"load", "validate", "plan", "prepare", "commit", "total"}


async def test_the_same_settings_call_no_part(tmp_path: Path) -> None:
    async with running(tmp_path) as one:
        one.path.write_text('{\n  "workspace": "here", "vlm": {"max_concurrent": 4}\n}\n')
        report = await one.reload()
        assert (report.outcome, report.generation) == (Outcome.UNCHANGED, 1)
        assert one.gate.prepared == []


async def test_a_bad_file_changes_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as one:
        one.save(vlm={"max_concurrent": -3})
        report = await one.reload()
        assert report.outcome is Outcome.REJECTED
        assert (report.errors[0].path, report.errors[0].line, report.errors[0].column) == ("vlm.max_concurrent", 1, 28)
        assert one.snapshots.current.generation == 1


async def test_a_restart_field_is_pending_until_the_edit_is_taken_back(tmp_path: Path) -> None:
    async with running(tmp_path) as one:
        one.save(workspace="there", vlm={"max_concurrent": 5})
        report = await one.reload()
        assert report.outcome is Outcome.APPLIED
        [pending] = report.pending_restart
        assert (pending.path, pending.running, pending.on_disk) == ("workspace", "here", "there")
        assert one.snapshots.current.settings.workspace == "here"
        one.save(vlm={"max_concurrent": 5})
        assert (await one.reload()).pending_restart == ()
        assert one.coordinator.pending_restart == ()


async def test_a_dry_run_is_validated_planned_and_not_applied(tmp_path: Path) -> None:
    async with running(tmp_path) as one:
        one.save(workspace="there", vlm={"max_concurrent": 12})
        report = await one.reload(dry_run=True)
        assert (report.outcome, report.dry_run, report.generation) == (Outcome.VALID, True, 1)
        assert [change.path for change in report.changes] == ["vlm.max_concurrent"]
        assert [pending.path for pending in report.pending_restart] == ["workspace"]
        assert one.gate.prepared == []
        assert one.heard == []
        assert one.coordinator.pending_restart == ()


async def test_secrets_are_shown_nowhere(tmp_path: Path) -> None:
    async with running(tmp_path) as one:
        one.save(vlm={"max_concurrent": 4, "api_key": "sk-very-secret"})
        report = await one.reload()
        assert report.outcome is Outcome.APPLIED
        assert "sk-very-secret" not in json.dumps(report.to_dict()) + repr(report)


async def test_those_who_ask_meanwhile_share_one_waiting_reload(tmp_path: Path) -> None:
    async with running(tmp_path) as one:
        one.gate.open = anyio.Event()
        one.save(vlm={"max_concurrent": 5})
        first = one.coordinator.submit(SIGNAL)
        await one.gate.arrived.wait()
        one.save(vlm={"max_concurrent": 6})
        later = [one.coordinator.submit(HTTP) for _ in range(1000)]
        assert len({ticket.id for ticket in later}) == 1
        assert later[0].id != first.id
        one.gate.open.set()
        with anyio.fail_after(20):
            assert (await first.wait()).changes[0].new == 5
            reports = [await ticket.wait() for ticket in later]
        assert {report.changes[0].new for report in reports} == {6}
        assert len(one.gate.prepared) == 2


async def test_a_caller_who_leaves_does_not_stop_the_reload(tmp_path: Path) -> None:
    async with running(tmp_path) as one:
        one.gate.open = anyio.Event()
        one.save(vlm={"max_concurrent": 5})
        ticket = one.coordinator.submit(SIGNAL, ticket_id="mine")
        with anyio.move_on_after(0.01):
            await ticket.wait()
        one.gate.open.set()
        with anyio.fail_after(20):
            report = await ticket.wait()
        assert (report.id, report.outcome) == ("mine", Outcome.APPLIED)


async def test_what_is_not_confirmed_is_taken_back_and_what_is_was_prepared_before(tmp_path: Path) -> None:
    async with running(tmp_path) as one:
        asked: list[tuple[Outcome, int, int]] = []
        one.gate.half = Half()

        async def confirm(report: ReloadReport) -> str | None:
            asked.append((report.outcome, len(one.gate.prepared), one.snapshots.current.generation))
            one.save(vlm={"max_concurrent": 7})
            return "another node refused" if len(asked) == 1 else None

        one.save(vlm={"max_concurrent": 5})
        report = await one.reload(confirm=confirm)
        assert (report.outcome, report.errors[0].message) == (Outcome.ROLLED_BACK, "another node refused")
        assert one.gate.half.stages == ["undo"]
        assert one.snapshots.current.settings.vlm.max_concurrent == 4
        one.save(vlm={"max_concurrent": 5})
        report = await one.reload(confirm=confirm)
        assert (report.outcome, report.changes[0].new) == (Outcome.APPLIED, 5), "what was checked"
        assert asked == [(Outcome.VALID, 1, 1), (Outcome.VALID, 2, 1)]


async def test_a_reload_cut_before_it_is_confirmed_is_taken_back(tmp_path: Path) -> None:
    async with running(tmp_path) as one:
        waits = anyio.Event()
        one.gate.half = Half()

        async def confirm(_report: ReloadReport) -> str | None:
            waits.set()
            await anyio.sleep_forever()
            return None

        one.save(vlm={"max_concurrent": 5})
        ticket = one.coordinator.submit(SIGNAL, confirm=confirm)
        await waits.wait()
        await one.coordinator.close(5)
        assert (await ticket.wait()).outcome is Outcome.REFUSED
        assert one.snapshots.current.generation == 1
        assert one.gate.half.stages == ["undo"]


async def test_a_file_that_is_refused_is_not_asked_to_be_confirmed(tmp_path: Path) -> None:
    async with running(tmp_path) as one:

        async def confirm(_report: ReloadReport) -> str | None:
            raise AssertionError("there is nothing to confirm")

        one.save(vlm={"max_concurrent": -5})
        assert (await one.reload(confirm=confirm)).outcome is Outcome.REJECTED


async def test_a_generation_that_moved_on_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path) as one:
        one.save(vlm={"max_concurrent": 5})
        report = await one.reload(if_match=7)
        assert (report.outcome, report.errors[0].path) == (Outcome.REFUSED, "generation")
        assert (await one.reload(if_match=1)).outcome is Outcome.APPLIED


async def test_while_draining_and_after_it_everyone_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path) as one:
        one.lifecycle.move(Phase.QUIESCING)
        report = await one.reload()
        assert (report.outcome, report.errors[0].path) == (Outcome.REFUSED, "phase")
        coordinator = one.coordinator
    with anyio.fail_after(20):
        assert (await coordinator.submit(SIGNAL).wait()).outcome is Outcome.REFUSED


async def test_a_reload_cut_by_the_end_answers_those_who_wait(tmp_path: Path) -> None:
    async with running(tmp_path) as one:
        one.gate.open = anyio.Event()
        one.save(vlm={"max_concurrent": 5})
        tickets = [one.coordinator.submit(SIGNAL)]
        await one.gate.arrived.wait()
        tickets.append(one.coordinator.submit(HTTP))
    with anyio.fail_after(20):
        reports = [await ticket.wait() for ticket in tickets]
    assert [report.outcome for report in reports] == [Outcome.REFUSED] * 2
    assert one.snapshots.current.generation == 1


async def test_a_defect_in_a_part_is_reported_and_the_next_reload_works(tmp_path: Path) -> None:
    async with running(tmp_path) as one:

        async def broken(_transition: Transition) -> None:
            raise ZeroDivisionError

        fine, one.gate.prepare = one.gate.prepare, broken  # type: ignore[method-assign]
        one.save(vlm={"max_concurrent": 5})
        report = await one.reload()
        assert report.outcome is Outcome.ROLLED_BACK
        assert "workers.semantic" in report.errors[0].message
        assert one.snapshots.current.generation == 1
        one.gate.prepare = fine  # type: ignore[method-assign]
        assert (await one.reload()).outcome is Outcome.APPLIED


@pytest.mark.parametrize("trouble", [{"hangs": "retire"}, {"fails": "retire"}])
async def test_what_is_applied_stays_applied_whatever_retires_and_the_verdict_does_not_wait(
    tmp_path: Path, trouble: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    limits = Limits()
    async with running(tmp_path, limits) as one:
        one.gate.half = half = Half(**trouble)
        one.save(vlm={"max_concurrent": 5})
        with anyio.fail_after(limits.part_s / 2):
            report = await one.reload()
        assert (report.outcome, report.generation) == (Outcome.APPLIED, 2)
        assert [entry for entry, _ in one.heard] == [report]
        one.gate.half = None
        one.save(vlm={"max_concurrent": 6})
        with anyio.fail_after(limits.part_s / 2):
            assert (await one.reload()).generation == 3
        with anyio.fail_after(5):
            while "retire" not in half.stages:
                await anyio.lowlevel.checkpoint()
            while "fails" in trouble and "reload.not_retired" not in caplog.text:
                await anyio.lowlevel.checkpoint()
    assert half.stages == ["commit", "retire"]


async def test_an_applied_reload_cut_in_the_moment_of_its_swap_is_told_as_applied(tmp_path: Path) -> None:
    async with running(tmp_path) as one:
        one.gate.half = half = Half(hangs="retire")
        half.committed = one.cut
        one.save(vlm={"max_concurrent": 5})
        ticket = one.coordinator.submit(SIGNAL)
        with anyio.fail_after(5):
            report = await ticket.wait()
            await one.coordinator.close(1)
        assert (report.outcome, one.snapshots.current.generation) == (Outcome.APPLIED, 2)
        assert [entry.id for entry, _ in one.heard] == [ticket.id]


async def test_closing_cuts_what_runs_and_answers_everybody_in_time(tmp_path: Path) -> None:
    async with running(tmp_path, Limits(part_s=0.5)) as one:
        one.gate.half = half = Half(hangs="undo")
        stuck = Gate(name="stuck", open=anyio.Event())
        one.flow_parts.append(stuck)
        one.save(vlm={"max_concurrent": 5})
        tickets = [one.coordinator.submit(SIGNAL)]
        await stuck.arrived.wait()
        tickets += [one.coordinator.submit(HTTP), one.coordinator.submit(HTTP, dry_run=True)]
        with anyio.fail_after(1):
            await one.coordinator.close(0.2)
            reports = [await ticket.wait() for ticket in (*tickets, one.coordinator.submit(HTTP))]
            await one.coordinator.close(0.2)
        assert {report.outcome for report in reports} == {Outcome.REFUSED}
        assert {report.errors[0].path for report in reports} == {"phase"}
        assert (half.stages, one.snapshots.current.generation) == (["undo"], 1)
        assert [report.id for report, _ in one.heard] == [ticket.id for ticket in tickets[:2]]


async def test_a_part_that_cannot_go_back_is_named_until_it_is_right_again(tmp_path: Path) -> None:
    async with running(tmp_path) as one:
        one.gate.half = Half(fails="commit and undo")
        one.save(vlm={"max_concurrent": 5})
        report = await one.reload()
        assert report.outcome is Outcome.ROLLED_BACK
        assert [(error.message, error.hint) for error in report.errors] == [
            ("workers.semantic: commit failed: RuntimeError: no commit", None),
            (
                "workers.semantic: undo failed: RuntimeError: no undo",
                "it may not be as it was; the log has the details",
            ),
        ]
        assert one.coordinator.impaired is not None
        assert "workers.semantic: undo failed" in one.coordinator.impaired
        one.save(vlm={"max_concurrent": 4})
        assert (await one.reload()).outcome is Outcome.UNCHANGED
        assert one.coordinator.impaired is not None
        one.gate.half = Half()
        one.save(vlm={"max_concurrent": 5})
        assert (await one.reload()).outcome is Outcome.APPLIED
        assert one.coordinator.impaired is None


async def test_a_part_that_went_back_leaves_everything_as_it_was(tmp_path: Path) -> None:
    async with running(tmp_path) as one:
        one.gate.half = Half(fails="commit")
        one.save(vlm={"max_concurrent": 5})
        [error] = (await one.reload()).errors
        assert error.hint == "everything is as it was; the log has the details"
        assert one.coordinator.impaired is None
