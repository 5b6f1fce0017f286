"""Preempted with a disk that is too slow: what can be durable is, the run ends in time, and nothing is lost that need
not be.
"""

from __future__ import annotations

import shutil
import time

from resilient.drill.faults import Preempt, StallDisk
from resilient.errors import ExitCode
from resilient.protocol.board import Word
from resilient.snapshot import catalog
from resilient.supervisor.memory import RunMemory
from tests.run.harness import RunCase, Workspace


def test_snapshots_in_memory_go_on_while_the_disk_stands_still(workspace: Workspace, reference: RunCase) -> None:
    case = workspace.run("stalled", "stop.grace_seconds=3")
    running = case.start().wait_for_step(15)
    StallDisk().inject(running.target)
    running.wait_for_step(45)
    Preempt().inject(running.target)
    assert running.wait() == ExitCode.REQUEUE, case.output()
    assert max(catalog.committed_steps(case.paths.snapshots), default=0) <= 20
    assert "NOT durable: there was no time to write step" in case.output()
    assert "the newest state is still in" in case.output()
    assert case.finish() == 0
    memory_steps = [note["step"] for note in case.journal("LaunchRound") if note["source"] == "memory"]
    assert len(memory_steps) == 1
    assert int(str(memory_steps[0])) >= 45
    case.assert_equal_to(reference)


def test_on_another_machine_it_goes_on_from_what_is_durable(workspace: Workspace, reference: RunCase) -> None:
    case = workspace.run("moved", "stop.grace_seconds=3")
    running = case.start().wait_for_step(15)
    StallDisk().inject(running.target)
    running.wait_for_step(35)
    Preempt().inject(running.target)
    assert running.wait() == ExitCode.REQUEUE, case.output()
    shutil.rmtree(RunMemory.place(case.paths, ""))
    assert case.finish() == 0
    case.assert_equal_to(reference)


def test_a_finished_run_whose_last_snapshot_comes_too_late_is_not_finished(
    workspace: Workspace, reference: RunCase
) -> None:
    case = workspace.run("late", "stop.grace_seconds=2")
    running = case.start().wait_for_step(40)
    StallDisk().inject(running.target)
    running.wait_for_step(60)
    while running.target.read(Word.PHASE) != 6:  # finished, and the disk does not answer
        time.sleep(0.01)
    time.sleep(0.3)
    Preempt().inject(running.target)
    assert running.wait() == ExitCode.REQUEUE, case.output()
    assert case.finish() == 0
    case.assert_equal_to(reference)


def test_the_limit_slows_the_disk_and_not_the_training_nor_the_end(workspace: Workspace) -> None:
    case = workspace.run("limited", "snapshot.write_bytes_per_second=2000")  # an image takes some seconds
    running = case.start().wait_for_step(60)
    during = catalog.committed_steps(case.paths.snapshots)
    assert running.wait() == 0, case.output()
    assert len(during) <= 1
    assert max(catalog.committed_steps(case.paths.snapshots)) == 60
