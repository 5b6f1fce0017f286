"""Faults done to processes that only pretend to be a run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from resilient.drill.faults import CorruptSnapshot, KillDrain, KillWorker, SlowWorker, StopWorker, Target
from resilient.drill.in_process import Hang
from resilient.drill.storage import FillDisk
from resilient.errors import ExitCode, FaultNotInjected
from resilient.protocol.board import Board, Word
from resilient.protocol.drill import Order, Record, full_disk
from resilient.protocol.paths import RunPaths


class Pretended:
    """A process that is supervisor and worker in one, and its board."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        self.paths = RunPaths(folder / "run")
        self.paths.create()
        self.target = Target(self.paths, self.process.pid, str(folder))
        self.target.memory.mkdir()
        self.board = Board.create(self.target.memory / "rank-00000.board")
        self.board[Word.PID] = self.process.pid
        self.board[Word.STEP] = 7

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Pretended]:
    pretended = Pretended(tmp_path)
    yield pretended
    pretended.end()


def test_kill(run: Pretended) -> None:
    assert KillWorker().inject(run.target) == f"SIGKILL to rank 0 (process {run.process.pid}) after step 7"
    assert run.process.wait(10) == -signal.SIGKILL


def test_stop(run: Pretended) -> None:
    StopWorker().inject(run.target)
    while psutil.Process(run.process.pid).status() != psutil.STATUS_STOPPED:
        time.sleep(0.01)


def test_a_rank_that_is_not_there_and_one_that_is_gone(run: Pretended) -> None:
    with pytest.raises(FaultNotInjected, match="rank 1 of run is not running") as caught:
        KillWorker(rank=1).inject(run.target)
    assert caught.value.exit_code is ExitCode.DRILL_FAILED
    run.end()
    with pytest.raises(FaultNotInjected, match="was gone before SIGKILL"):
        KillWorker().inject(run.target)


def test_slow_ends_with_its_steps_and_leaves_the_process_running(run: Pretended) -> None:
    def advance() -> None:
        for step in range(8, 10):
            time.sleep(0.05)
            run.board[Word.STEP] = step

    thread = threading.Thread(target=advance)
    thread.start()
    assert SlowWorker(steps=2, factor=2).inject(run.target) == "rank 0 2 times slower from step 8 to 9"
    thread.join()
    while psutil.Process(run.process.pid).status() == psutil.STATUS_STOPPED:
        time.sleep(0.01)


def test_slow_when_somebody_ends_the_process(run: Pretended) -> None:
    thread = threading.Timer(0.1, run.end)
    thread.start()
    assert "times slower" in SlowWorker(steps=100).inject(run.target)
    thread.join()


def test_no_helper_and_no_snapshot(run: Pretended) -> None:
    with pytest.raises(FaultNotInjected, match="drain_process"):
        KillDrain().inject(run.target)
    with pytest.raises(FaultNotInjected, match="no snapshot to corrupt"):
        CorruptSnapshot().inject(run.target)


def test_full_disk_until_it_is_lifted(run: Pretended) -> None:
    FillDisk().inject(run.target)
    assert full_disk(run.paths).exists()
    FillDisk().lift(run.target)
    assert not full_disk(run.paths).exists()


def test_what_a_worker_does_to_itself_is_waited_for(run: Pretended) -> None:
    def obey() -> None:
        while (order := Order.read(run.paths)) is None:
            time.sleep(0.005)
        Record(order.id, 1.5, order.at, f"{order.fault} in step {order.at}").write(run.paths)

    thread = threading.Thread(target=obey)
    thread.start()
    fault = Hang(at=9)
    assert fault.inject(run.target) == "hang in step 9"
    thread.join()
    assert fault.happened(run.target) == Record(Order.read(run.paths).id, 1.5, 9, "hang in step 9")  # type: ignore[union-attr]


def test_a_run_that_ends_before(run: Pretended) -> None:
    os.kill(run.process.pid, signal.SIGKILL)
    with pytest.raises(FaultNotInjected, match="ended before an optimizer's step was seen in step 9 of rank 0"):
        Hang(at=9).inject(run.target)
    with pytest.raises(FaultNotInjected, match="ended before step 8"):
        run.target.wait_for_step(8)
