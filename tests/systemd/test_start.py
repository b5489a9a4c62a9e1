"""A start on a broken ov.conf, a slow one, one with credentials, and one whose file is mounted alone."""

from __future__ import annotations

from tests.systemd.conftest import BOTH_MANAGERS
from tests.systemd.unit import NAME, Served

BROKEN = '{"value": 1,,}'


@BOTH_MANAGERS
def test_a_broken_file_ends_the_start_once(served: Served) -> None:
    served.install()
    served.write(BROKEN)
    assert served.systemctl("start").code != 0
    assert served.show("Result", "ExecMainStatus", "NRestarts", "ActiveState") == {
        "Result": "exit-code",
        "ExecMainStatus": "78",
        "NRestarts": "0",
        "ActiveState": "failed",
    }
    assert "cannot start" in served.status
    errors = served.box.entries(f"{served.manager.written_by}={served.unit}", "PRIORITY=3")
    assert any("cannot start" in entry["MESSAGE"] and "ov.conf:1:" in entry["MESSAGE"] for entry in errors), errors

    served.configure()
    served.start()
    assert served.active == "active"


@BOTH_MANAGERS
def test_the_last_known_good_is_used_where_asked_for(served: Served) -> None:
    served.install("Environment=OVCONF__HOTRELOAD__LAST_KNOWN_GOOD=1", value=5)
    served.start()
    assert served.systemctl("stop").code == 0
    served.write(BROKEN)
    served.start()
    assert "degraded: runs on the last-known-good file" in served.status
    assert served.systemctl("reload").code != 0
    assert "degraded" in served.status

    served.configure(value=6)
    assert served.systemctl("reload").code == 0
    assert "degraded" not in served.status


def test_credentials_are_read_by_the_service_and_never_by_its_client(served: Served) -> None:
    served.box.write("/etc/served.key", "first-key-of-a-test", mode=0o600)
    served.install("LoadCredential=key:/etc/served.key")
    served.start()
    assert served.state("key").read_text() == "first-key-of-a-test"
    served.configure(value=1)
    assert served.systemctl("reload").code == 0

    served.box.write("/etc/served.key", "second-key-of-a-test", mode=0o600)
    assert served.systemctl("restart").code == 0
    assert served.state("key").read_text() == "second-key-of-a-test"
    assert "key-of-a-test" not in served.box.journal()


def test_a_file_mounted_alone_is_warned_about(served: Served) -> None:
    served.install(f"BindReadOnlyPaths=/srv/ov.conf:/etc/{NAME}/ov.conf")
    served.box.write("/srv/ov.conf", '{"hotreload": {"watch": true}}')
    served.start()
    served.until_written("mounted as a single file")
    assert served.show("ActiveState") == {"ActiveState": "active"}


def test_the_folders_are_private_and_systemd_s_own_default_is_good_enough(served: Served) -> None:
    shown = ("stat", "-c", "%U %a", f"/run/{NAME}", f"/run/{NAME}/hotreload.sock", f"/var/lib/{NAME}")
    served.install()
    served.start()
    assert served.box.ok(*shown).split("\n")[:3] == [f"{NAME} 700", f"{NAME} 600", f"{NAME} 700"]

    served.install("RuntimeDirectoryMode=0755")
    served.box.ok("systemctl", "daemon-reload")
    assert served.systemctl("restart").code == 0
    assert served.box.ok(*shown).split("\n")[:2] == [f"{NAME} 755", f"{NAME} 600"]
    assert served.systemctl("reload").code == 0
    assert served.ask("status").code == 0
