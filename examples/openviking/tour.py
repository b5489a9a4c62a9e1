"""Take stock OpenViking through reloads and a drain, on this machine alone: no account, no network, no model.

    python examples/openviking/tour.py

It starts the model endpoint beside it and `hotreload openviking`, imports documents, changes `vlm.max_concurrent`
while they are summarised, offers a broken file, stops the server while every model call hangs, and starts it
again. What it prints beside each step is what the endpoint has seen. It ends with exit code 0 if all held, and with 1
at the first claim that did not, and says which.
"""

import argparse
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from time import monotonic
from typing import Any

import httpx

HERE = Path(__file__).parent
PAUSE = Event()
LIMIT = '"max_concurrent": 4'
"""What is edited in the ov.conf beside this file."""
DEADLINE_S = 10
"""`hotreload.drain_deadline_s` in the ov.conf beside this file."""
LATE_S = 0.5
"""What this process itself may take to see the end of another, on a busy machine."""


def say(text: str) -> None:
    """Print one line at once."""
    print(text, flush=True)


def until(reached: Callable[[], Any], seconds: float, what: str) -> Any:
    """Look until `reached` is true and return what it says; exit with 1 where it does not come true in time."""
    ends = monotonic() + seconds
    while monotonic() < ends:
        if answer := reached():
            return answer
        PAUSE.wait(0.05)
    sys.exit(f"not within {seconds:g} s: {what}")


def held(claim: bool, what: str) -> None:
    """End with exit code 1 where a claim does not hold."""
    if not claim:
        sys.exit(f"does not hold: {what}")


class Tour:
    """One folder with an ov.conf, the endpoint its models are served by, and the server that runs in it."""

    def __init__(self, folder: Path, model: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.conf = folder / "ov.conf"
        self.socket = folder / "run" / "control.sock"
        self.log = folder / "server.log"
        self.root_key = secrets.token_urlsafe(24)
        values = {"TOUR_ROOT_KEY": self.root_key, "TOUR_MODEL": model, "TOUR_FOLDER": str(folder)}
        self.environment = {**os.environ, **values, "HOME": str(folder)}
        self.endpoint = httpx.Client(base_url=model)
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30)
        self.settings = (HERE / "ov.conf").read_text()
        self.conf.write_text(self.settings)
        self.user: dict[str, str] = {}

    @contextmanager
    def server(self) -> Generator[subprocess.Popen[bytes]]:
        """Run the server in this folder; it is gone at the end."""
        command = [sys.executable, "-m", "hotreload", "openviking", "--config", str(self.conf)]
        command += ["--socket", str(self.socket), "--", "--port", str(self.port)]
        with self.log.open("ab") as log:
            process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)
        try:
            until(lambda: self._answers(process), 90, f"the server answers; its log is {self.log}")
            yield process
        finally:
            process.kill()
            process.wait()

    def _answers(self, process: subprocess.Popen[bytes]) -> bool:
        if process.poll() is not None:
            sys.exit(f"the server ended with {process.returncode}:\n{self.log.read_text()}")
        try:
            return self.http.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def seen(self, **change: Any) -> dict[str, Any]:
        """Change the endpoint's behaviour, if asked to, and return what it has seen."""
        return self.endpoint.patch("/control", json=change).raise_for_status().json()

    def sign_up(self) -> None:
        """Make an account and keep its key."""
        body = {"account_id": "tour", "admin_user_id": "guest"}
        made = self.http.post("/api/v1/admin/accounts", json=body, headers={"X-API-Key": self.root_key})
        self.user = {"X-API-Key": made.raise_for_status().json()["result"]["user_key"]}

    def import_documents(self, count: int) -> list[str]:
        """Queue documents and return their names."""
        names = [f"chapter-{secrets.token_hex(3)}" for _ in range(count)]
        for name in names:
            file = (f"{name}.md", f"# {name}\n\nA chapter that only {name} tells.\n".encode())
            sent = self.http.post("/api/v1/resources/temp_upload", files={"file": file}, headers=self.user)
            wanted = {"temp_file_id": sent.raise_for_status().json()["result"]["temp_file_id"]}
            wanted |= {"to": f"viking://resources/{name}", "wait": False}
            self.http.post("/api/v1/resources", json=wanted, headers=self.user).raise_for_status()
        return names

    def without_summary(self, names: list[str]) -> list[str]:
        """Return the documents that have no abstract (L0) or no overview (L1) yet."""
        options = {"uri": "viking://resources", "show_all_hidden": "true", "node_limit": "100000"}
        tree = self.http.get("/api/v1/fs/tree", params=options, headers=self.user).raise_for_status().json()["result"]
        sizes = {entry["rel_path"]: entry["size"] for entry in tree}
        return [n for n in names if not (sizes.get(f"{n}/.abstract.md") and sizes.get(f"{n}/.overview.md"))]

    def command(self, *verb: str) -> dict[str, Any]:
        """Run a verb of the command `hotreload` on this server and return its JSON."""
        command = [sys.executable, "-m", "hotreload", *verb, "--json", "--socket", str(self.socket)]
        return json.loads(subprocess.run(command, capture_output=True, check=False).stdout)

    def limit(self, number: int) -> None:
        """Write a new limit into ov.conf, reload, and see it at the endpoint, which holds its calls to be counted."""
        self.conf.write_text(self.settings.replace(LIMIT, f'"max_concurrent": {number}'))
        report = self.command("reload")
        self.seen(hang=False)
        until(lambda: self.seen()["running"] <= number, 20, "calls above the limit have ended")
        self.seen(hang=True, reset=True)
        begun = until(lambda: (now := self.seen())["hanging"] >= number and now, 30, f"{number} calls at a time")
        self.seen(hang=False)
        until(lambda: self.seen()["calls"] >= begun["calls"] + number, 30, "another round of calls")
        seen = self.seen()
        say(
            f"  vlm.max_concurrent {number:>2}: generation {report['generation']}; "
            f"calls at a time at the endpoint: {seen['peak']}, cut: {seen['cut']}"
        )
        held(report["outcome"] in ("applied", "unchanged"), f"{number} was applied: {report}")
        held(seen["peak"] == number, f"never more than {number} calls at a time: {seen['peak']}")
        held(seen["cut"] == 0, f"no call was cut: {seen['cut']}")

    def offer_a_broken_file(self) -> None:
        """Show what a bad value is answered with."""
        self.conf.write_text(self.settings.replace(LIMIT, '"max_concurrent": -3'))
        line = 1 + self.conf.read_text().partition("-3")[0].count("\n")
        report = self.command("reload")
        error = report["errors"][0]
        say(f"  vlm.max_concurrent -3: {report['outcome']} at line {error['line']}: {error['message']}")
        held((report["outcome"], error["line"]) == ("rejected", line), f"it was refused at line {line}")
        held(self.command("status")["generation"] == report["generation"], "nothing was changed")
        self.conf.write_text(self.settings.replace(LIMIT, '"max_concurrent": 6'))

    def stop_with_hung_calls(self, process: subprocess.Popen[bytes]) -> list[str]:
        """Import some more and stop the server while no model call ends; returns the names of what was imported."""
        self.seen(hang=True)
        names = self.import_documents(12)
        until(lambda: self.seen()["hanging"] >= 6, 30, "model calls hang")
        began = monotonic()
        process.send_signal(signal.SIGTERM)
        code = process.wait()
        took_s, cut = monotonic() - began, self.seen()["cut"]
        say(f"  gone after {took_s:.1f} s of {DEADLINE_S}, exit code {code}; calls cut: {cut}")
        held(took_s <= DEADLINE_S + LATE_S, f"it was gone within {DEADLINE_S} s")
        held((code, cut) == (0, 6), "exit code 0, and only the calls that hang were cut")
        self.seen(hang=False, latency_s=0.1, reset=True)
        return names


def main(documents: int) -> None:
    """Run the tour."""
    with tempfile.TemporaryDirectory(prefix="openviking-tour-") as folder:
        model = subprocess.Popen(
            [sys.executable, HERE / "endpoint.py", "--port", "0", "--latency", "0.5"], stdout=subprocess.PIPE
        )
        try:
            assert model.stdout is not None
            walk(Tour(Path(folder), json.loads(model.stdout.readline())["url"]), documents)
        finally:
            model.terminate()
            model.wait()


def walk(tour: Tour, documents: int) -> None:
    """Go through the steps."""
    say("start hotreload openviking")
    with tour.server() as process:
        tour.sign_up()
        names = tour.import_documents(documents)
        say(f"change the limit while {documents} documents are summarised")
        for number in (4, 12, 2, 6):
            tour.seen(hang=True)  # no document is finished before the limit has changed, however long that takes
            if len(tour.without_summary(names)) < documents // 2:
                names += tour.import_documents(documents // 2)
            tour.limit(number)
        say("offer a broken file")
        tour.offer_a_broken_file()
        say("stop while every model call hangs")
        names += tour.stop_with_hung_calls(process)
    say("start again")
    with tour.server():
        drain = tour.command("status")["last_drain"]
        say(f"  the last drain: {drain['phase']}, back in the queue: {len(drain['requeued'])}, lost: {drain['lost']}")
        held((drain["phase"], drain["lost"], drain["abandoned"]) == ("stopped", 0, []), "the drain lost nothing")
        held(len(drain["requeued"]) >= 6, "what hung is back in the queue")
        until(lambda: not tour.without_summary(names), 120, "every document has its summaries")
        say(f"  documents without L0 or L1: {len(tour.without_summary(names))} of {len(names)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=60)
    main(parser.parse_args().documents)
