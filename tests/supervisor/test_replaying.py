"""A replay as a process: whatever it ends with, there is a verdict, and nothing of it is left."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from resilient.policy.decisions import ReplayWindow
from resilient.policy.verdict import Verdict, VerdictKind
from resilient.protocol.paths import RunPaths
from resilient.supervisor.replaying import Replay

WINDOW = ReplayWindow(number=3, snapshot=20, first=31, last=35, by=100.0)
Start = Callable[[str], Replay]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Start a replay by a module with this body."""

    def started(body: str) -> Replay:
        (tmp_path / "a_replay.py").write_text(f"import json, sys, time\ndef main(arguments):\n    {body}\n")
        paths = RunPaths.of(tmp_path, "run")
        place = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
        return Replay(paths, WINDOW, now=40.0, environment=place, kill_orphans=lambda: None, module="a_replay")

    return started


def verdict(replay: Replay) -> Verdict:
    deadline = time.monotonic() + 60
    while (found := replay.poll()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def test_what_it_says(start: Start) -> None:
    said = Verdict(VerdictKind.TRANSIENT_HARDWARE, "a bit", 33, ("step 33 differs",))
    assert verdict(start(f"print(json.dumps({said.to_json()!r}))")) == said


def test_what_it_is_told(start: Start, tmp_path: Path) -> None:
    replay = start("sys.exit(' '.join(arguments))")
    found = verdict(replay)
    root = tmp_path / "run"
    wanted = (
        f"--run {root} --snapshot 20 --first 31 --last 35 --seconds 60.0 --into {root}/incidents/0003/replay --json"
    )
    assert wanted in found.reason


@pytest.mark.parametrize(
    "body",
    [
        "raise SystemExit(3)",
        "print('not JSON')",
        'print(\'{"kind": "sorcery", "reason": "", "step": null, "evidence": []}\')',
        "print('[]')",
        "import os; os.kill(os.getpid(), 9)",
    ],
)
def test_whatever_else_it_ends_with_is_inconclusive(start: Start, body: str) -> None:
    found = verdict(start(body))
    assert found.kind is VerdictKind.INCONCLUSIVE
    assert "no verdict" in found.reason


def test_its_last_words_are_told(start: Start) -> None:
    assert "the disk is on fire" in verdict(start("raise OSError('the disk is on fire')")).reason


def test_abandoned_it_is_gone_with_what_it_started(start: Start, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    note = f"open({str(ready)!r}, 'w').write(str(child.pid))"
    body = f"import subprocess; child = subprocess.Popen(['sleep', '600']); {note}; time.sleep(600)"
    replay = start(body)
    deadline = time.monotonic() + 60
    while not (ready.exists() and ready.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    replay.abandon()
    for pid in (replay.pid, int(ready.read_text())):
        while psutil.pid_exists(pid) and time.monotonic() < deadline:  # killed, and not yet taken apart
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                break
            time.sleep(0.01)
        assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
