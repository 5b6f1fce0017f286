"""Workers of which some could not be started."""

from __future__ import annotations

import os
from collections import deque
from typing import Any

import pytest

from resilient.protocol.launch import LaunchSpec
from resilient.protocol.scratch import Scratch
from resilient.supervisor import kernel_view
from resilient.supervisor import launcher as module
from resilient.supervisor.launcher import Exited, Failed, Launched, Launcher


class Forkserver:
    """Says what a forkserver would, had the system let it fork one worker and no other, which root cannot arrange."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.messages: deque[dict[str, Any]] = deque()
        self.pid = -1

    def send(self, message: dict[str, Any]) -> bool:
        return True

    def receive(self) -> dict[str, Any]:
        return self.messages.popleft()

    def close(self) -> None:
        pass


def spec(rank: int) -> LaunchSpec:
    return LaunchSpec(rank, "train.py", None, (), "/", {}, "/dev/null", "/dev/null")


def test_a_fork_that_fails_is_one_rank_s_and_the_others_are_still_known(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setattr(module, "Helper", Forkserver)
    launcher = Launcher([], lock=0, log=tmp_path / "log", scratch=Scratch(tmp_path.name))
    killed: list[int] = []
    monkeypatch.setattr(Launcher, "_is_ours", lambda *_: True)
    monkeypatch.setattr(os, "killpg", lambda pid, _: killed.append(pid))
    helper: Any = launcher._helper
    launcher.launch([spec(rank) for rank in range(3)])
    helper.messages += [
        {"event": "ready", "pid": 1},
        {"event": "launched", "rank": 0, "pid": 1000},
        {"event": "failed", "rank": 1, "reason": "fork: Cannot allocate memory"},
    ]
    assert launcher.receive() == []
    assert launcher.receive() == [Launched(0, 1000)]
    assert launcher.receive() == [Failed("fork: Cannot allocate memory", 1)]
    launcher.kill()
    assert killed == [1000]
    helper.messages += [
        {"event": "launched", "rank": 2, "pid": 1002},
        {"event": "exited", "rank": 0, "pid": 1000, "code": -9},
        {"event": "exited", "rank": 2, "pid": 1002, "code": -9},
    ]
    assert launcher.receive() == [Launched(2, 1002)]
    assert 1002 in killed, "it was doomed before it was there"
    assert launcher.receive() == [Exited(0, -9)]
    assert launcher.receive() == [Exited(2, -9)]
    Scratch(tmp_path.name).remove()


def test_a_forkserver_that_has_imported_for_long_is_given_its_time_to_fork_all_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setattr(module, "Helper", Forkserver)
    monkeypatch.setattr(kernel_view, "condition", lambda _: None)
    killed: list[float] = []
    clock = [0.0]
    monkeypatch.setattr(Forkserver, "kill", lambda _: killed.append(clock[0]), raising=False)
    launcher = Launcher([], lock=0, log=tmp_path / "log", scratch=Scratch(tmp_path.name), clock=lambda: clock[0])
    helper: Any = launcher._helper
    launcher.launch([spec(0)])
    for clock[0] in range(100):
        launcher.check()
    helper.messages.append({"event": "ready", "pid": 1})
    assert launcher.receive() == []
    for clock[0] in range(100, 200):
        launcher.check()
    assert killed == [131]
    Scratch(tmp_path.name).remove()
