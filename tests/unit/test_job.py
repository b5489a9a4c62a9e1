"""What each verdict makes of a job, to the last branch."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotreload.queue.job import (
    CRASHES_ALONE_TO_PARK,
    CRASHES_TO_SUSPECT,
    DELAY_MOST_S,
    Backoff,
    Done,
    Failed,
    Interrupted,
    JobRow,
    JobState,
    Snoozed,
    Transition,
    Verdict,
    after_crash,
    decide,
    storable,
)

NOW_MS = 1_800_000_000_000
ROW = JobRow(
    id="7",
    queue="semantic",
    payload_json='{"uri":"a"}',
    cursor_json=None,
    lease_seq=3,
    attempts=0,
    max_attempts=5,
    interruptions=0,
    crashes=0,
    dedupe_key=None,
    priority=0,
    version=1,
    enqueued_at_ms=NOW_MS - 1000,
    run_at_ms=NOW_MS - 500,
)
counts = st.integers(min_value=0, max_value=20)
rows = st.builds(
    lambda attempts, most, interruptions, crashes, stalled, alone, suspect: replace(
        ROW,
        attempts=attempts,
        max_attempts=most,
        interruptions=interruptions,
        crashes=crashes,
        stalled_crashes=stalled,
        alone_crashes=alone,
        suspect=suspect,
    ),
    counts,
    st.integers(min_value=1, max_value=20),
    counts,
    counts,
    counts,
    st.integers(min_value=0, max_value=CRASHES_ALONE_TO_PARK - 1),
    st.booleans(),
)
failures = st.builds(
    Failed,
    error=st.text(),
    traceback=st.none() | st.text(),
    delay_s=st.none() | st.floats(min_value=-10, max_value=1e6),
    for_good=st.booleans(),
)
verdicts = st.builds(Done, st.integers()) | failures | st.just(Interrupted())
jitters = st.floats(min_value=0, max_value=1, exclude_max=True)


def after(row: JobRow, to: Transition) -> JobRow:
    """Return the row as a next claim has it."""
    return replace(
        row,
        attempts=to.attempts,
        interruptions=to.interruptions,
        crashes=to.crashes,
        run_at_ms=to.run_at_ms,
        stalled_crashes=to.stalled_crashes,
        alone_crashes=to.alone_crashes,
        suspect=to.suspect,
        lease_seq=row.lease_seq + 1,
    )


@given(rows, verdicts, jitters)
def test_each_counter_counts_one_thing(row: JobRow, verdict: Done | Failed | Interrupted, jitter: float) -> None:
    to = decide(row, verdict, NOW_MS, jitter=jitter)
    assert to.attempts == row.attempts + isinstance(verdict, Failed)
    assert to.interruptions == row.interruptions + isinstance(verdict, Interrupted)
    assert to.crashes == row.crashes
    assert to.state is not JobState.RUNNING


@given(rows)
def test_an_interruption_keeps_place_and_suspicion(row: JobRow) -> None:
    to = decide(row, Interrupted(), NOW_MS)
    assert (to.state, to.run_at_ms, to.suspect, to.stalled_crashes, to.alone_crashes) == (
        JobState.READY,
        row.run_at_ms,
        row.suspect,
        row.stalled_crashes,
        row.alone_crashes,
    )


@given(rows, failures, jitters)
def test_a_failure_waits_or_ends(row: JobRow, failed: Failed, jitter: float) -> None:
    to = decide(row, failed, NOW_MS, jitter=jitter)
    assert (to.reason, to.traceback, to.suspect) == (failed.error, failed.traceback, False)
    if failed.for_good or row.attempts + 1 >= row.max_attempts:
        assert to.state is JobState.DEAD
    else:
        assert to.state is (JobState.SCHEDULED if to.run_at_ms > NOW_MS else JobState.READY)
        assert to.run_at_ms >= NOW_MS


def test_done_keeps_its_result_and_clears_suspicion() -> None:
    to = decide(replace(ROW, suspect=True, stalled_crashes=2), Done({"n": 1}), NOW_MS)
    assert (to.state, to.result, to.suspect, to.stalled_crashes) == (JobState.DONE, {"n": 1}, False, 0)


def test_a_delay_overrides_the_backoff() -> None:
    assert decide(ROW, Failed("x", delay_s=2.5), NOW_MS).run_at_ms == NOW_MS + 2500
    assert decide(ROW, Failed("x", delay_s=0), NOW_MS).state is JobState.READY


@pytest.mark.parametrize("delay_s", [1e300, float("inf"), float("nan"), 1e12])
@pytest.mark.parametrize("verdict", [Snoozed, Interrupted, lambda delay_s: Failed("x", delay_s=delay_s)])
def test_a_delay_beyond_any_date_is_the_most(verdict: Callable[[float], Verdict], delay_s: float) -> None:
    to = decide(ROW, verdict(delay_s), NOW_MS)
    assert (to.state, to.run_at_ms) == (JobState.SCHEDULED, NOW_MS + DELAY_MOST_S * 1000)


@given(st.integers(min_value=1, max_value=5000), jitters)
def test_backoff_grows_within_its_bounds(failures_so_far: int, jitter: float) -> None:
    backoff = Backoff(first_s=1, power=4, most_s=60)
    delay_ms = backoff.delay_ms(failures_so_far, jitter)
    assert 500 <= delay_ms <= 60_000
    assert backoff.delay_ms(failures_so_far + 1, jitter) >= delay_ms


def test_backoff_beyond_any_float_is_the_most() -> None:
    assert Backoff(power=1e3, most_s=60).delay_ms(5_000, 1.0) == 60_000


@pytest.mark.parametrize(("failures_so_far", "jitter", "delay_ms"), [(1, 0.0, 500), (2, 0.0, 8000), (3, 0.5, 60750)])
def test_backoff_is_the_fourth_power(failures_so_far: int, jitter: float, delay_ms: int) -> None:
    assert Backoff().delay_ms(failures_so_far, jitter) == delay_ms


def test_two_crashes_without_progress_make_a_suspect() -> None:
    once = after_crash(ROW)
    assert (once.state, once.suspect, once.attempts, once.crashes) == (JobState.READY, False, 0, 1)
    twice = after_crash(after(ROW, once))
    assert (twice.state, twice.suspect, twice.crashes) == (JobState.READY, True, CRASHES_TO_SUSPECT)


def test_three_crashes_alone_park_and_say_so() -> None:
    row = ROW
    for _ in range(CRASHES_TO_SUSPECT + CRASHES_ALONE_TO_PARK - 1):
        to = after_crash(row)
        assert to.state is JobState.READY
        row = after(row, to)
    to = after_crash(row)
    assert (to.state, to.suspect, to.alone_crashes, to.attempts) == (JobState.DEAD, False, CRASHES_ALONE_TO_PARK, 0)
    assert to.reason is not None
    assert to.reason.startswith("parked")


def test_progress_clears_the_suspicion_of_the_next_crash() -> None:
    row = replace(ROW, crashes=4, stalled_crashes=0, alone_crashes=0, suspect=True)
    to = after_crash(row)
    assert (to.state, to.suspect, to.crashes) == (JobState.READY, False, 5)


def test_a_machine_that_ended_raises_no_suspicion() -> None:
    row = replace(ROW, crashes=4, stalled_crashes=1, suspect=False)
    to = after_crash(row, machine_ended=True)
    assert (to.state, to.suspect, to.crashes, to.stalled_crashes) == (JobState.READY, False, 5, 1)


@given(rows, st.booleans())
def test_only_one_that_was_alone_is_parked(row: JobRow, only_suspect: bool) -> None:
    to = after_crash(row, only_suspect=only_suspect)
    parked = row.suspect and only_suspect and row.alone_crashes + 1 >= CRASHES_ALONE_TO_PARK
    assert (to.state is JobState.DEAD) == parked
    assert to.suspect == (not parked and row.stalled_crashes + 1 >= CRASHES_TO_SUSPECT)
    assert (to.attempts, to.interruptions, to.run_at_ms) == (row.attempts, row.interruptions, row.run_at_ms)


@given(st.text("\\udcf8x0a\0\udc80\udcff", max_size=12))
def test_what_is_stored_for_a_name_says_which_name_it_was(name: str) -> None:
    assert _name_of(storable(name)) == name
    storable(name).encode()


def test_an_ordinary_name_is_stored_as_it_is() -> None:
    for name in ("a/b", "C:\\x\\udc", "ü", "\\\\server\\x1", "\\"):
        assert storable(name) == name
    assert storable("\\" * 100_000) == "\\" * 100_000


def _name_of(kept: str) -> str:
    """Read a stored name back: of backslashes before an escape, or what reads like it, an odd one begins it."""

    def read(found: re.Match[str]) -> str:
        literal, escape = "\\" * (len(found[1]) // 2), found[2]
        if len(found[1]) % 2 == 0:
            return literal + escape
        return literal + chr(int(escape[1:], 16))

    return re.sub(r"(\\*)(udc[89a-f][0-9a-f]|x00)", read, kept)
