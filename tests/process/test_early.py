"""SIGHUP never kills a serving process: not before its first import, not after its last job."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAD = "import os, signal, sys; me = os.getpid(); hup = lambda: os.kill(me, signal.SIGHUP)\n"


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", HEAD + code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)


def test_early_ones_are_remembered_later_ones_called_back_the_last_ignored() -> None:
    done = run(
        "from hotreload import early\n"
        "early.install(); early.install(); hup(); hup()\n"
        "heard = []; print(early.take(lambda: heard.append(1)), early.reset())\n"
        "hup(); print(len(heard), early.reset())\n"
        "early.ignore(); hup(); hup(); print(len(heard), early.reset())\n"
    )
    assert (done.returncode, done.stdout.splitlines()) == (0, ["2 2", "1 1", "1 0"])


def test_a_host_that_was_not_started_by_the_command_hears_them_and_puts_the_handler_of_before_back() -> None:
    done = run(
        "from hotreload import early\n"
        "heard = []; hear = lambda: heard.append(1)\n"
        "print(early.take(hear)); hup(); print(len(heard), early.reset())\n"
        "early.release(hear); early.release(hear); print(signal.getsignal(signal.SIGHUP).name)\n"
        "early.take(hear); hup(); print(len(heard))\n"
    )
    assert (done.returncode, done.stdout.splitlines()) == (0, ["0", "1 1", "SIG_DFL", "2"])


@pytest.mark.parametrize("before", ["signal.SIG_IGN", "lambda *_heard: print('theirs')"])
def test_a_guest_leaves_it_to_a_server_that_uses_it(before: str) -> None:
    done = run(
        f"from hotreload import early\nbefore = {before}\nsignal.signal(signal.SIGHUP, before)\n"
        "print(early.take(ours := lambda: print('ours'), polite=True)); hup(); early.release(ours)\n"
        "print(signal.getsignal(signal.SIGHUP) is before)\n"
    )
    assert done.returncode == 0
    assert done.stdout.split() == ["0", *(["theirs"] if "theirs" in before else []), "True"]


def test_several_services_of_one_process_hear_them_until_each_ends() -> None:
    done = run(
        "from hotreload import early\n"
        "one, other = lambda: print('one'), lambda: print('other')\n"
        "early.take(one, polite=True); early.take(other, polite=True); hup()\n"
        "early.release(one); hup(); early.release(other); print(signal.getsignal(signal.SIGHUP).name)\n"
    )
    assert (done.returncode, done.stdout.split()) == (0, ["one", "other", "other", "SIG_DFL"])


def test_outside_the_main_thread_nothing_is_heard_and_nothing_fails() -> None:
    done = run(
        "import threading\nfrom hotreload import early\n"
        "thread = threading.Thread(target=lambda: print(early.take(print), early.release(print)))\n"
        "thread.start(); thread.join(); print(signal.getsignal(signal.SIGHUP).name)\n"
    )
    assert (done.returncode, done.stdout.splitlines()) == (0, ["0 None", "SIG_DFL"])


def test_a_closed_event_loop_does_not_bring_death_back() -> None:
    done = run(
        "from hotreload import early; import anyio\n"
        "async def main():\n"
        "    loop = anyio.lowlevel.current_token().native_token; heard = anyio.Event()\n"
        "    early.take(lambda: loop.call_soon_threadsafe(heard.set)); hup(); await heard.wait(); print('heard')\n"
        "early.install(); anyio.run(main); early.reset()\n"
        "hup(); hup(); print(early.pending_count())\n"
    )
    assert (done.returncode, done.stdout.split()) == (0, ["heard", "2"]), done.stderr


STATE = "[line.split()[1] for line in open('/proc/self/status') if line[:6] in ('SigBlk', 'SigIgn', 'SigCgt')]"
WAYS = {
    "Popen": "subprocess.check_output([sys.executable, '-c', SHOW], text=True)",
    "posix_spawn": "spawned()",
    "Popen with posix_spawn": "subprocess.check_output([sys.executable, '-c', SHOW], text=True, close_fds=False)",
    "asyncio": "asyncio.run(coroutine())",
    "system": "os.system(f'{sys.executable} -c {SHOW!r} > told') or open('told').read()",
    "spawned worker": "worker('spawn')",
    "fork server": "worker('forkserver')",
    "forked worker": "worker('fork')",
    "in a thread": "concurrent.futures.ThreadPoolExecutor().submit(subprocess.check_output,"
    " [sys.executable, '-c', SHOW], text=True).result()",
}
CHILDREN = """
import asyncio, concurrent.futures, multiprocessing, os, pathlib, signal, subprocess, sys
SHOW = {show!r}
def state(): return {state}
async def coroutine():
    pipe = subprocess.PIPE
    child = await asyncio.create_subprocess_exec(sys.executable, '-c', SHOW, stdout=pipe)
    return (await child.communicate())[0].decode()
def spawned():
    actions = [(os.POSIX_SPAWN_OPEN, 1, 'told', os.O_CREAT | os.O_WRONLY, 0o600)]
    child = os.posix_spawn(sys.executable, [sys.executable, '-c', SHOW], os.environ, file_actions=actions)
    os.waitpid(child, 0)
    return pathlib.Path('told').read_text()
def worker(how):
    with multiprocessing.get_context(how).Pool(1) as pool:
        return ' '.join(pool.apply(state))
if __name__ == '__main__':
    from hotreload import early
    if sys.argv[1] == 'serving':
        early.install()
    here = {way}
    hangup = 1 << signal.SIGHUP - 1
    print([bool(int(mask, 16) & hangup) for mask in here.split()])
"""


@pytest.mark.parametrize("way", WAYS)
def test_a_child_does_not_inherit_it(tmp_path: Path, way: str) -> None:
    """Neither blocked nor ignored nor caught, however it is started."""
    script = tmp_path / "script.py"
    show = f"print(' '.join({STATE}))"
    script.write_text(CHILDREN.replace("{show!r}", repr(show)).replace("{state}", STATE).replace("{way}", WAYS[way]))
    for serving in ("not", "serving"):
        command = [sys.executable, str(script), serving]
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=True, timeout=60
        )
        assert done.stdout.split() == ["[False,", "False,", "False]"]


def test_none_is_forgotten_while_children_are_started() -> None:
    done = run(
        "import subprocess, threading\n"
        "from hotreload import early\n"
        "early.install(); over = threading.Event()\n"
        "def start():\n    while not over.is_set(): subprocess.run(['true'])\n"
        "starting = [threading.Thread(target=start) for _ in range(2)]\n"
        "for each in starting: each.start()\n"
        "for _ in range(300): hup()\n"
        "over.set(); [each.join() for each in starting]; print(early.reset())\n"
    )
    assert (done.returncode, done.stdout.split()) == (0, ["300"]), done.stderr


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
        "    def run(self, options):\n"
        "        threading.Thread(target=threading.Event().wait).start(); print('ran'); return 1\n"
        "sys.modules['__main__'].stuck = Stuck()\n"
        "cli.main(['run', '__main__:stuck'])\n"
    )
    done = run(code)
    assert (done.returncode, done.stdout) == (1, "ran\n")
