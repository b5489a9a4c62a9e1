"""The same under a user's own manager."""

from __future__ import annotations

import json

from tests.systemd.box import Box
from tests.systemd.unit import NAME, UNIT, printed

USER = "ov"
HOME = f"/home/{USER}"


class UserServed:
    """The service under `systemctl --user`."""

    def __init__(self, box: Box) -> None:
        self.box = box
        box.ok("useradd", "--create-home", USER)
        box.ok("systemd-run", "--wait", "--quiet", "loginctl", "enable-linger", USER)  # from a group of the box's own
        uid = box.ok("id", "-u", USER).strip()
        box.ok("systemctl", "start", f"user@{uid}.service")
        box.write(f"{HOME}/.config/systemd/user/{UNIT}", printed(box, "served:service", "--user"))

    def systemctl(self, *arguments: str) -> int:
        return self.box.run("systemctl", "--user", "-M", f"{USER}@", *arguments, UNIT).code

    def show(self, *names: str) -> dict[str, str]:
        options = [f"--property={name}" for name in names]
        lines = self.box.ok("systemctl", "--user", "-M", f"{USER}@", "show", UNIT, *options).splitlines()
        return dict(line.split("=", 1) for line in lines)

    def configure(self, **settings: object) -> None:
        own = {"watch": False, "drain_deadline_s": 4.0}
        self.box.write(f"{HOME}/.config/{NAME}/ov.conf", json.dumps({"hotreload": own, **settings}), owner=USER)
        self.box.ok("chown", "-R", f"{USER}:", HOME)


def test_reload_stop_and_restart(box: Box) -> None:
    user = UserServed(box)
    user.configure(jobs=1, manner="hang", steps=6)
    assert user.systemctl("start") == 0, box.journal()[-3000:]
    user.configure(value=1, jobs=1, manner="hang", steps=6)
    assert user.systemctl("reload") == 0
    assert "generation 2, reload applied" in user.show("StatusText")["StatusText"]
    user.configure(value=-1)
    assert user.systemctl("reload") != 0
    assert user.show("ActiveState", "StatusErrno") == {"ActiveState": "active", "StatusErrno": "22"}

    user.configure(jobs=1, steps=6)
    assert user.systemctl("restart") == 0
    box.ok("sh", "-c", f"until find {HOME} -name done-0 | grep -q .; do sleep 0.05; done")
    assert user.systemctl("stop") == 0
    assert user.show("Result", "NRestarts") == {"Result": "success", "NRestarts": "0"}

    user.configure(value=-1)
    assert user.systemctl("start") != 0
    assert user.show("ExecMainStatus", "NRestarts") == {"ExecMainStatus": "78", "NRestarts": "0"}
