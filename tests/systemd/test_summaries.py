"""The example under its printed unit: reload, good and bad, a stop with work under way, and all of it done at last."""

from __future__ import annotations

import json
from typing import Any

from tests.systemd.unit import HOTRELOAD, Manager, Unit, printed

NAME = "summaries"
DOCUMENTS = 12


class Summaries(Unit):
    """`summaries.service`."""

    def __init__(self, manager: Manager) -> None:
        super().__init__(manager, NAME)
        for number in range(DOCUMENTS):
            sections = [f"# Part {part}\n\nDocument {number} says {part}.\n" + "More. " * 200 for part in range(8)]
            self.box.write(f"/srv/documents/{number}.md", "\n\n".join(sections))
        target = ("examples.summaries.service:service", "--http", "127.0.0.1:8750")
        self.write_unit(printed(self.box, *target))

    def configure(self, **vlm: Any) -> None:
        """Write ov.conf."""
        settings = {
            "hotreload": {"watch": False, "drain_deadline_s": 3.0},
            "documents": {"path": "/srv/documents"},
            "storage": {"workspace": f"/var/lib/{NAME}/workspace"},
            "vlm": vlm,
        }
        self.write(json.dumps(settings))

    def written(self) -> int:
        """Count the documents that have their summary."""
        return len(list(self.state("workspace").rglob(".abstract.md")))


def test_reload_stop_with_work_and_resume(manager: Manager) -> None:
    summaries = Summaries(manager)
    summaries.configure(max_concurrent=2, pace_s=2.0)
    summaries.start()
    summaries.configure(max_concurrent=4, pace_s=2.1)
    assert summaries.systemctl("reload").code == 0
    assert "vlm.max_concurrent 2 → 4" in summaries.status
    summaries.configure(max_concurrent=0, pace_s=2.1)
    assert summaries.systemctl("reload").code != 0
    assert "generation 2, reload rejected" in summaries.status
    assert "vlm.max_concurrent" in summaries.status

    look = f"until {HOTRELOAD} status --json --name {NAME} | grep -q '\"running\": 4'; do sleep 0.05; done"
    summaries.box.ok("sh", "-c", look)
    summaries.configure(max_concurrent=8, pace_s=0.0)
    assert summaries.systemctl("stop").code == 0
    assert summaries.show("Result") == {"Result": "success"}
    assert summaries.written() < DOCUMENTS

    summaries.start()
    summaries.ended_well()
    assert len(summaries.last_drain()["requeued"]) == 4
    look = f"until [ $(find /var/lib/{NAME}/workspace -name .abstract.md | wc -l) = {DOCUMENTS} ]; do sleep 0.05; done"
    summaries.box.ok("sh", "-c", look)
