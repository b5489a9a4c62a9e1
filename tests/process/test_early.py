"""SIGHUP never kills a serving process: not before its first import, not after its last job."""

from __future__ import annotations

import signal
import subprocess
import sys

HEAD = "import os, signal, sys; me = os.getpid(); hup = lambda: os.kill(me, signal.SIGHUP)\n"


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", HEAD + code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)


def test_early_ones_are_counted_later_ones_called_back_the_last_ignored() -> None:
    done = run(
        "from hotreload import early\n"
        "early.install(); hup(); hup(); print(early.pending_count())\n"
        "heard = []; print(early.take(lambda: heard.append(1)), early.pending_count())\n"
        "hup(); print(len(heard))\n"
        "early.ignore(); hup(); print(len(heard), early.reset())\n"
    )
    assert (done.returncode, done.stdout.split()) == (0, ["2", "2", "0", "1", "1", "0"])


def test_a_closed_event_loop_does_not_bring_death_back() -> None:
    done = run(
        "from hotreload import early; import anyio\n"
        "async def main():\n    early.take(lambda: print('heard', flush=True)); hup(); await anyio.sleep(0.01)\n"
        "anyio.run(main); hup(); print('alive')\n"
    )
    assert (done.returncode, done.stdout.split()) == (0, ["heard", "heard", "alive"])


def test_the_entry_point_installs_it_before_any_third_party_import() -> None:
    code = (
        "sys.argv = ['hotreload', 'run']\n"
        "before = set(sys.modules); import hotreload.__main__; hup()\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(new - sys.stdlib_module_names))\n"
    )
    done = run(code)
    assert (done.returncode, done.stdout.strip()) == (0, "['hotreload']")


def test_a_verb_that_serves_nothing_keeps_the_default() -> None:
    done = run("sys.argv = ['hotreload', 'status']\nimport hotreload.__main__\nhup()\n")
    assert done.returncode == -signal.SIGHUP


def test_a_thread_that_never_ends_does_not_hold_a_drained_process() -> None:
    code = (
        "import threading\nimport hotreload.cli as cli\n"
        "class Stuck:\n    name = 'stuck'\n    def check(self, c): ...\n"
        "    def run(self, options, *, end):\n"
        "        threading.Thread(target=threading.Event().wait).start(); print('ran'); return 1\n"
        "sys.modules['__main__'].stuck = Stuck()\n"
        "cli.main(['run', '__main__:stuck'])\n"
    )
    done = run(code)
    assert (done.returncode, done.stdout) == (1, "ran\n")
