"""A stop is bounded and tells how far it is; what was cut goes on after the start. Under either manager."""

from __future__ import annotations

import re

from hotreload.systemd.status import AHEAD_S
from tests.systemd.conftest import BOTH_MANAGERS
from tests.systemd.unit import Served

DEADLINE_S = 8.0
STOP_S = 4
"""The manager's own limit: what takes longer was given more time because it asked."""
LINE = re.compile(r"draining: (\d+) of (\d+) jobs, (\d+) s left \((\w+)\)")
JOBS, STEPS = 3, 8

pytestmark = BOTH_MANAGERS


def _install(served: Served, manner: str) -> None:
    served.install(
        f"TimeoutStopSec={STOP_S}", jobs=JOBS, manner=manner, steps=STEPS, hotreload={"drain_deadline_s": DEADLINE_S}
    )
    served.start()


def _start_hung(served: Served) -> None:
    _install(served, "hang")
    for job in range(JOBS):
        served.until_steps(job, 2)


def _all_go_on(served: Served, repeated: int = 0) -> None:
    """Assert that each job ends, and did no step twice, but for those in hand that were `repeated`."""
    for job in range(JOBS):
        served.until_finished(job)
        steps = served.steps(job)
        assert sorted(set(steps)) == list(range(STEPS))
        assert len(steps) <= STEPS + repeated, steps


def test_hung_jobs_are_given_their_time_and_no_more(served: Served) -> None:
    _start_hung(served)
    stopped = served.systemctl("stop")
    assert stopped.code == 0
    assert stopped.took_s > STOP_S
    assert served.show("Result", "ExecMainStatus", "NRestarts") == {
        "Result": "success",
        "ExecMainStatus": "0",
        "NRestarts": "0",
    }
    served.left_nothing()
    _lines_are_in_order(served)
    _time_is_asked_for_in_steps(served)
    assert [served.steps(job) for job in range(JOBS)] == [[0, 1]] * JOBS

    served.configure(jobs=JOBS, steps=STEPS)
    served.start()
    _all_go_on(served)
    served.ended_well()


def _lines_are_in_order(served: Served) -> None:
    said = served.said()
    stopping = next(number for number, datagram in enumerate(said) if datagram.has("STOPPING=1"))
    texts = [datagram.value("STATUS") for datagram in said[stopping:]]
    lines = [match for text in texts if text is not None and (match := LINE.fullmatch(text))]
    phases = list(dict.fromkeys(match[4] for match in lines))
    assert phases[:3] == ["quiescing", "grace", "interrupting"], texts
    assert set(phases[3:]) <= {"flushing", "stopped"}, texts
    left = [int(match[3]) for match in lines]
    assert left == sorted(left, reverse=True)
    assert {match[2] for match in lines} == {str(JOBS)}
    assert not any(datagram.has("READY=1") for datagram in said[stopping:])


def _time_is_asked_for_in_steps(served: Served) -> None:
    said = served.said()
    began = next(datagram.at_s for datagram in said if datagram.has("STOPPING=1"))
    asked_s = [
        int(us) / 1e6 for each in said if each.at_s >= began and (us := each.value("EXTEND_TIMEOUT_USEC")) is not None
    ]
    assert asked_s[0] == AHEAD_S
    assert asked_s == sorted(asked_s, reverse=True)
    assert asked_s[-1] < AHEAD_S, "the last step ends with the deadline"


def test_a_restart_with_hung_jobs(served: Served) -> None:
    _start_hung(served)
    pid = served.pid
    served.configure(jobs=JOBS, steps=STEPS)
    done = served.systemctl("restart")
    assert done.code == 0
    assert done.took_s > STOP_S
    assert served.active == "active"
    assert served.pid != pid
    _all_go_on(served)
    served.ended_well()


def test_a_job_that_blocks_the_loop_costs_no_other_its_place(served: Served) -> None:
    """The loop says nothing any more: the extensions come from the drain's own thread, as the flush does."""
    _install(served, "block once")
    served.until_written("blocks the loop")
    stopped = served.systemctl("stop")
    assert stopped.code == 0
    assert stopped.took_s > STOP_S
    assert served.show("Result", "ExecMainStatus") == {"Result": "success", "ExecMainStatus": "0"}
    served.left_nothing()

    served.start()
    drained = served.last_drain()
    assert (drained["lost"], drained["reconstructed"], drained["forced"]) == (0, False, True)
    assert len(drained["requeued"]) == JOBS
    assert any("threading.Event().wait()" in line for line in drained["stuck"]), drained
    _all_go_on(served)


def test_a_process_frozen_in_a_drain_is_ended_one_step_after_the_bound(served: Served) -> None:
    _start_hung(served)
    assert served.systemctl("stop", "--no-block").code == 0
    served.until_told("s left (interrupting)")
    assert served.systemctl("kill", "--signal=STOP").code == 0
    served.until_told("Failed with result", within_s=60)
    assert served.show("Result", "ActiveState") == {"Result": "timeout", "ActiveState": "failed"}
    assert [served.steps(job) for job in range(JOBS)] == [[0, 1]] * JOBS

    served.configure(jobs=JOBS, steps=STEPS)
    served.start()
    _all_go_on(served)


def test_a_process_that_hangs_before_the_stop_is_ended_after_the_unit_s_own_time(served: Served) -> None:
    """Code that keeps the interpreter's lock: nothing of it can ask for time. (A SIGSTOP, systemd would end.)"""
    _install(served, "keep the GIL once")
    served.until_written("keeps the GIL")
    stopped = served.systemctl("stop")
    assert stopped.took_s >= STOP_S
    assert served.show("Result", "ActiveState") == {"Result": "timeout", "ActiveState": "failed"}

    served.start()
    _all_go_on(served, repeated=1)
    drained = served.last_drain()
    assert (drained["reason"], drained["lost"], drained["reconstructed"]) == ("SIGTERM", 0, True)
    assert drained["requeued"] != []
