"""Killing workers by number, when the number may not be theirs any more."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import psutil

from resilient.protocol.launch import LaunchSpec
from resilient.protocol.scratch import Scratch
from resilient.supervisor.launcher import Failed, Launcher


def test_a_process_that_has_a_workers_number_by_now_is_not_touched(tmp_path: Path) -> None:
    lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    shell = subprocess.Popen(["sh", "-c", "sleep 600 & echo $!; wait"], stdout=subprocess.PIPE)
    assert shell.stdout is not None
    stranger = psutil.Process(int(shell.stdout.readline()))
    launcher = Launcher((), lock=lock, log=tmp_path / "log", scratch=Scratch(tmp_path.name))
    try:
        launcher._live[0] = stranger.pid
        launcher.signal(signal.SIGTERM)
        launcher.kill()
        assert stranger.is_running()
        assert stranger.status() != psutil.STATUS_ZOMBIE
        tree = ["sh", "-c", "setsid sleep 600 & echo $!; wait"]
        ours = subprocess.Popen(tree, start_new_session=True, stdout=subprocess.PIPE)
        assert ours.stdout is not None
        away = psutil.Process(int(ours.stdout.readline()))
        launcher._live[0] = ours.pid
        launcher.kill()
        assert ours.wait() == -signal.SIGKILL
        ours.stdout.close()
        psutil.wait_procs([away], timeout=60)
        assert not away.is_running() or away.status() == psutil.STATUS_ZOMBIE, "it has a group of its own"
    finally:
        launcher._live.clear()
        launcher.close()
        stranger.kill()
        shell.wait()
        shell.stdout.close()
        os.close(lock)


def test_worker_that_is_not_there_yet_is_not_started_after_a_signal_that_it_missed(tmp_path: Path) -> None:
    lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    launcher = Launcher(("torch",), lock=lock, log=tmp_path / "log", scratch=Scratch(tmp_path.name))
    try:
        launcher.launch(
            [LaunchSpec(0, str(tmp_path / "none.py"), None, (), str(tmp_path), {}, "/dev/null", "/dev/null")]
        )
        launcher.signal(signal.SIGTERM)
        (report,) = launcher.receive()  # it would be "ready" otherwise
        assert isinstance(report, Failed)
        assert not launcher.workers
    finally:
        launcher.close()
        os.close(lock)
