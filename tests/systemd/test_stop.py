"""A stop is bounded and tells how far it is; what was cut goes on after the start."""

from __future__ import annotations

import re
from itertools import pairwise

from hotreload.host.voice import AHEAD_S
from tests.systemd.conftest import FULL
from tests.systemd.unit import UNIT, Served

DEADLINE_S = 25.0 if FULL else 7.0
SLACK_S = 1.5
"""Around the deadline: the start of `systemctl`, and the manager's own cleaning up."""
LINE = re.compile(r"draining: (\d+) of (\d+) jobs, (\d+) s left \((\w+)\)")
JOBS = 3


def _start_hung(served: Served, *drop_in: str) -> None:
    drain = {"drain_deadline_s": DEADLINE_S}
    served.install("TimeoutStopSec=2", *drop_in, jobs=JOBS, manner="hang", steps=8, hotreload=drain)
    served.start()
    for job in range(JOBS):
        _until_steps(served, job, 2)


def _until_steps(served: Served, job: int, count: int) -> None:
    """Wait until a job has written so many steps; a shell inside looks."""
    name = f"/var/lib/served/*-{job}"
    served.box.ok("sh", "-c", f"until [ $(cat {name} 2>/dev/null | wc -l) -ge {count} ]; do sleep 0.05; done")


def test_hung_jobs_are_given_their_time_and_no_more(served: Served) -> None:
    _start_hung(served)
    stopped = served.systemctl("stop")
    assert stopped.code == 0
    assert stopped.took_s < DEADLINE_S + SLACK_S
    assert served.show("Result", "ExecMainStatus", "NRestarts") == {
        "Result": "success",
        "ExecMainStatus": "0",
        "NRestarts": "0",
    }
    _lines_are_in_order(served)
    _time_is_asked_for_in_steps(served)
    assert [served.steps(job) for job in range(JOBS)] == [[0, 1]] * JOBS

    served.configure(jobs=JOBS, steps=8)
    served.start()
    for job in range(JOBS):
        _until_steps(served, job, 8)
    assert [served.steps(job) for job in range(JOBS)] == [list(range(8))] * JOBS


def _lines_are_in_order(served: Served) -> None:
    said = served.said()
    stopping = next(number for number, datagram in enumerate(said) if datagram.has("STOPPING=1"))
    texts = [datagram.value("STATUS") for datagram in said[stopping:]]
    lines = [match for text in texts if text is not None and (match := LINE.fullmatch(text))]
    phases = list(dict.fromkeys(match[4] for match in lines))
    assert phases[:4] == ["quiescing", "grace", "interrupting", "flushing"], texts
    assert phases[4:] in ([], ["stopped"]), texts
    left = [int(match[3]) for match in lines]
    assert left == sorted(left, reverse=True)
    assert {match[2] for match in lines} == {str(JOBS)}
    assert not any(datagram.has("READY=1") for datagram in said[stopping:])


def _time_is_asked_for_in_steps(served: Served) -> None:
    said = served.said()
    began = next(datagram.at_s for datagram in said if datagram.has("STOPPING=1"))
    asked = [
        (datagram.at_s - began, int(us) / 1e6)
        for datagram in said
        if datagram.at_s >= began and (us := datagram.value("EXTEND_TIMEOUT_USEC"))
    ]
    assert len(asked) >= DEADLINE_S / 2
    assert max(later[0] - earlier[0] for earlier, later in pairwise(asked)) < 2
    assert all(step_s <= AHEAD_S for _, step_s in asked)
    assert all(at_s + step_s <= DEADLINE_S + 1.2 for at_s, step_s in asked), asked


def test_a_restart_with_hung_jobs(served: Served) -> None:
    _start_hung(served)
    pid = served.pid
    served.configure(jobs=JOBS, steps=8)
    done = served.systemctl("restart")
    assert done.code == 0
    assert done.took_s < DEADLINE_S + SLACK_S + 3
    assert served.show("Result", "ActiveState") == {"Result": "success", "ActiveState": "active"}
    assert served.pid != pid
    for job in range(JOBS):
        _until_steps(served, job, 8)
    assert [served.steps(job) for job in range(JOBS)] == [list(range(8))] * JOBS


def test_a_frozen_process_is_ended_one_step_after_the_bound(served: Served) -> None:
    _start_hung(served)
    served.box.ok("systemctl", "stop", "--no-block", UNIT)
    served.box.until("s left (grace)", f"UNIT={UNIT}")
    served.box.ok("systemctl", "kill", "--signal=STOP", UNIT)
    served.box.until("Stopped served", f"UNIT={UNIT}", within_s=DEADLINE_S + AHEAD_S + SLACK_S)
    assert served.active in ("inactive", "failed")
    assert [served.steps(job) for job in range(JOBS)] == [[0, 1]] * JOBS
