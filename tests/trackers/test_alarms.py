"""The webhook against a real server, and the command: what they are told, when they hang, and what nobody may see."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

from resilient.protocol.tracker_settings import CommandSettings, WebhookSettings
from resilient.trackers import lane, webhook
from resilient.trackers.command import Command
from resilient.trackers.webhook import Webhook
from tests.trackers.logs import Logs, tell, wait_until

SECRET = "T0PS3CRET"


@pytest.fixture
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Logs:
    monkeypatch.setattr(lane, "_FIRST_WAIT", 0.01)
    return Logs(tmp_path / "run")


class Server:
    """Keeps what is posted."""

    def __init__(self, *codes: int, hangs: bool = False) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.codes = list(codes)
        self.hangs = hangs
        self.url = ""


@contextmanager
def serving(server: Server) -> Iterator[Server]:
    released = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            server.paths.append(self.path)
            body = self.rfile.read(int(self.headers["Content-Length"]))
            server.bodies.append(json.loads(body))
            server.headers.append(dict(self.headers))
            if server.hangs:
                released.wait(60)
            self.send_response(server.codes.pop(0) if server.codes else 200)
            self.send_header("Location", f"{server.url}/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_GET(self) -> None:
            server.paths.append(self.path)
            self.send_error(404)

        def log_message(self, *_: Any) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{listening.server_address[1]}"
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        released.set()
        listening.shutdown()
        listening.server_close()


def eventful(logs: Logs) -> None:
    logs.open()
    logs.steps(1, 3)
    logs.incident(1, 3)
    logs.preempt()
    logs.end()


def test_the_webhook_posts_what_is_alarming_with_its_secrets_from_the_environment(
    logs: Logs, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    eventful(logs)
    said: list[str] = []
    with serving(Server(500, 404)) as server:
        monkeypatch.setenv("HOOK", f"{server.url}/{SECRET}")
        monkeypatch.setenv("HOOK_TOKEN", SECRET)
        settings = WebhookSettings(url_variable="HOOK", token_variable="HOOK_TOKEN")  # noqa: S106  its name
        tell("webhook", Webhook, logs.context(said.append, webhook=settings))
    assert [body["kind"] for body in server.bodies] == ["incident"] * 3 + ["preempting", "ended"]
    assert server.bodies[2]["text"].startswith("run: Incident 1: rank 0 after step 3: killed")
    assert server.bodies[2]["facts"]["class"] == "killed"
    assert set(server.paths) == {f"/{SECRET}"}
    assert server.headers[0]["Authorization"] == f"Bearer {SECRET}"
    written = "".join(path.read_text() for path in logs.paths.root.rglob("*") if path.is_file())
    assert SECRET not in "".join([*said, *capfd.readouterr(), written])


def test_a_webhook_that_does_not_answer_is_given_up(logs: Logs) -> None:
    eventful(logs)
    said: list[str] = []
    with serving(Server(hangs=True)) as server:
        settings = WebhookSettings(url=server.url, on=["incident"], timeout_seconds=0.2)
        tell("webhook", Webhook, logs.context(said.append, webhook=settings))
    assert len(server.bodies) == 3
    assert said[-1] == "tracker webhook has left out 1 things in all"


def test_a_redirect_is_not_followed(logs: Logs) -> None:
    eventful(logs)
    with serving(Server(302, 302, 302)) as server:
        settings = WebhookSettings(url=server.url, on=["incident"])
        tell("webhook", Webhook, logs.context(webhook=settings))
    assert "/elsewhere" not in server.paths


def test_what_is_long_ago_alarms_nobody(logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    eventful(logs)
    monkeypatch.setattr(webhook, "OLDEST_SECONDS", 0.0)
    with serving(Server()) as server:
        tell("webhook", Webhook, logs.context(webhook=WebhookSettings(url=server.url)))
    assert not server.bodies


def test_the_command_gets_json_and_no_shell_sees_it(logs: Logs, tmp_path: Path) -> None:
    eventful(logs)
    script = tmp_path / "alarm.py"
    out = tmp_path / "out.jsonl"
    script.write_text(f"import sys; open({str(out)!r}, 'a').write(sys.stdin.read() + '\\n'); print(sys.argv[1:])")
    argv = [sys.executable, str(script), "; touch /tmp/never", "$(x)"]
    tell("command", Command, logs.context(command=CommandSettings(argv=argv)))
    assert [json.loads(line)["kind"] for line in out.read_text().splitlines()] == ["incident", "preempting", "ended"]


def test_a_command_that_hangs_is_killed_with_what_it_has_started(logs: Logs, tmp_path: Path) -> None:
    eventful(logs)
    pid_file = tmp_path / "pid"
    argv = ["sh", "-c", f"sleep 600 & echo $! > {pid_file}; wait"]
    settings = CommandSettings(argv=argv, on=["incident"], timeout_seconds=0.5)
    began = time.monotonic()
    tell("command", Command, logs.context(command=settings))
    assert time.monotonic() - began < 600
    pid = int(pid_file.read_text())
    wait_until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
