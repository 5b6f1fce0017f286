"""Shared memory that is too small, or full, and disks that are slow: real runs go on, bit for bit."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from resilient.drill.faults import KillSupervisor, KillWorker, Preempt, StallDisk, Target
from resilient.errors import ExitCode
from resilient.protocol.arena import HEADER, SlotInfo
from resilient.protocol.board import SIZE, Word
from resilient.supervisor.memory import RunMemory
from tests.mounts import fill, mounted
from tests.run.harness import RunCase, Running, Workspace


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """Memory of 4 MiB."""
    with mounted(tmp_path / "shm", "size=4m") as path:
        yield path


@pytest.fixture(scope="module")
def slot_size(reference: RunCase) -> int:
    return HEADER + len(reference.image(60))


def start(case: RunCase, memory: Path, *extra: str) -> Running:
    running = case.start(f"snapshot.memory_dir={memory}", *extra)
    return Running(case, running.process, Target(case.paths, running.process.pid, str(memory)))


def leave_room_for(memory: Path, slots: int, slot_size: int) -> None:
    """Room for board, plan, identity, tenant and three headers, for so many images, and two pages more."""
    fill(memory, SIZE + 8 * HEADER + slots * (slot_size - HEADER))


def directory(case: RunCase, memory: Path) -> Path:
    return RunMemory.place(case.paths, str(memory))


def moved(case: RunCase, memory: Path) -> list[Path]:
    return [path for path in directory(case, memory).glob("rank-*.slot-*") if path.is_symlink()]


def assert_nothing_is_left(case: RunCase, memory: Path) -> None:
    assert [path.name for path in memory.iterdir() if path.name != "ballast"] == []
    assert not case.paths.memory.exists()


@pytest.mark.parametrize("room", [0, 1, 2])
def test_slots_there_is_no_room_for_are_kept_on_disk(
    workspace: Workspace, reference: RunCase, memory: Path, slot_size: int, room: int
) -> None:
    leave_room_for(memory, room, slot_size)
    case = workspace.run(f"room-{room}", "train.step_seconds=0.1")
    running = start(case, memory).wait_for_step(20)
    deadline = time.monotonic() + 60  # a slot moves when it is needed, or prepared in the background
    while len(moved(case, memory)) < 3 - room and running.process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(moved(case, memory)) == 3 - room
    KillWorker().inject(running.target)
    assert running.wait() == 0, case.output()
    assert case.incidents() == ["killed"]
    resumed = case.journal("LaunchRound")[1]
    assert resumed["source"] == "memory"
    assert isinstance(resumed["step"], int)
    assert resumed["step"] >= 19
    assert case.output().count("shared memory is too small") == 1
    assert f"kept in {case.paths.memory}" in case.output()
    case.assert_equal_to(reference)
    assert_nothing_is_left(case, memory)


@pytest.mark.parametrize("room", [0, 1])
def test_the_successor_of_a_killed_supervisor_finds_the_slots_on_disk(
    workspace: Workspace, reference: RunCase, memory: Path, slot_size: int, room: int
) -> None:
    leave_room_for(memory, room, slot_size)
    case = workspace.run("taken-over")
    running = start(case, memory).wait_for_step(25)
    KillSupervisor().inject(running.target)
    running.wait()
    assert len(moved(case, memory)) == 3 - room
    assert start(case, memory).wait() == 0, case.output()
    resumed = case.journal("LaunchRound")[1]
    assert resumed["source"] == "memory"
    assert isinstance(resumed["step"], int)
    assert resumed["step"] >= 24
    case.assert_equal_to(reference)
    assert_nothing_is_left(case, memory)


def test_a_snapshot_from_disk_is_restored_where_memory_has_no_room(
    workspace: Workspace, reference: RunCase, memory: Path, slot_size: int
) -> None:
    leave_room_for(memory, 0, slot_size)
    case = workspace.run("restored")
    running = start(case, memory).wait_for_step(25)
    Preempt().inject(running.target)
    assert running.wait() == ExitCode.REQUEUE, case.output()
    assert_nothing_is_left(case, memory)
    assert start(case, memory).wait() == 0, case.output()
    case.assert_equal_to(reference)
    assert_nothing_is_left(case, memory)


def test_memory_that_somebody_else_fills_later_changes_nothing(
    workspace: Workspace, reference: RunCase, memory: Path
) -> None:
    case = workspace.run("filled")
    running = start(case, memory).wait_for_step(15)
    fill(memory, 0)
    KillWorker().inject(running.target)
    running.wait_for_step(25)
    fill(memory, 0)
    KillWorker().inject(running.target)
    running.wait_for_step(30)
    assert moved(case, memory) == []
    assert running.wait() == 0, case.output()
    assert case.incidents() == ["killed", "killed"]
    assert "too small" not in case.output()
    case.assert_equal_to(reference)
    assert_nothing_is_left(case, memory)


def test_no_room_anywhere_for_the_first_image_stops_the_run(
    workspace: Workspace, tmp_path: Path, memory: Path, slot_size: int
) -> None:
    leave_room_for(memory, 0, slot_size)
    with mounted(tmp_path / "small", "size=1m") as disk:
        (workspace.directory / "runs").symlink_to(disk)
        script = workspace.directory / "large.py"
        script.write_text(
            "import torch, resilient\n"
            "run = resilient.attach(model=torch.nn.Linear(1000, 1000))\n"
            "for step, _ in run.steps(total=5):\n"
            "    pass\n"
        )
        case = workspace.run("nowhere", f"worker.script={script}")
        assert start(case, memory).wait() == ExitCode.DISK_FULL, case.output()
        assert f"are free in {directory(case, memory)} and " in case.output()
        assert f"in {case.paths.memory}" in case.output()


def test_a_state_that_outgrows_all_room_is_trained_on_and_one_that_fits_again_is_saved_again(
    workspace: Workspace, tmp_path: Path, memory: Path, slot_size: int
) -> None:
    """The same state at the end as at the beginning; in between it is larger than memory and disk together."""
    leave_room_for(memory, 3, slot_size)
    script = workspace.directory / "growing.py"
    script.write_text(
        "import torch, resilient\n"
        "class Store:\n"
        "    value = torch.zeros(10)\n"
        "    def state_dict(self): return {'value': self.value}\n"
        "    def load_state_dict(self, state): self.value = state['value']\n"
        "store = Store()\n"
        "run = resilient.attach(store=store)\n"
        "for step, _ in run.steps(total=30):\n"
        "    store.value = torch.full((10 if step < 11 or step > 20 else 8_000_000,), float(step))\n"
        "    run.report(loss=step)\n"
    )
    with mounted(tmp_path / "small", "size=24m") as disk:
        (workspace.directory / "runs").symlink_to(disk)
        case = workspace.run("outgrown", f"worker.script={script}")
        assert start(case, memory).wait() == 0, case.output()
        assert case.output().count("NO MEMORY SNAPSHOT CAN BE TAKEN") == 1
        assert len(case.losses()) == 30
        assert case.incidents() == []
        durable = {int(str(note["step"])) for note in case.journal("Persisted")}
        assert {10, 30} <= durable
        assert not durable & set(range(11, 21))


def test_a_run_whose_last_state_has_no_room_is_not_called_finished(
    workspace: Workspace, tmp_path: Path, memory: Path, slot_size: int
) -> None:
    leave_room_for(memory, 3, slot_size)
    script = workspace.directory / "outgrowing.py"
    script.write_text(
        "import torch, resilient\n"
        "class Store:\n"
        "    value = torch.zeros(10)\n"
        "    def state_dict(self): return {'value': self.value}\n"
        "    def load_state_dict(self, state): self.value = state['value']\n"
        "store = Store()\n"
        "run = resilient.attach(store=store)\n"
        "for step, _ in run.steps(total=15):\n"
        "    store.value = torch.full((10 if step < 11 else 8_000_000,), float(step))\n"
    )
    with mounted(tmp_path / "small", "size=24m") as disk:
        (workspace.directory / "runs").symlink_to(disk)
        case = workspace.run("unfinished", f"worker.script={script}")
        assert start(case, memory).wait() == ExitCode.DISK_FULL, case.output()
        assert "no room for" in case.output()


def infos(case: RunCase, memory: Path) -> list[SlotInfo]:
    found = [SlotInfo.peek(path) for path in directory(case, memory).glob("rank-*.slot-*")]
    return [info for info in found if info is not None]


@pytest.mark.parametrize("slots", [2, 3])
def test_while_the_disk_is_stuck_a_snapshot_is_still_taken_of_each_step(
    workspace: Workspace, reference: RunCase, memory: Path, slots: int
) -> None:
    """With three slots it is complete within a step. With two, the one on its way to disk is the only complete one
    while the other is being written.
    """
    case = workspace.run("stuck", "snapshot.every_steps=5", f"snapshot.slots={slots}")
    running = start(case, memory).wait_for_step(12)
    StallDisk().inject(running.target)
    seen: set[int] = set()
    while len(seen) < 20:
        step = running.target.read(Word.STEP)
        found = infos(case, memory)
        assert max(info.step for info in found) >= step - 1  # the step may have been completed this moment
        if slots == 3:
            assert max(info.step for info in found if info.complete) >= step - 1
        assert any(info.complete for info in found), "something can always be loaded"
        seen.add(step)
        time.sleep(0.002)
    before = running.target.read(Word.STEP)
    KillWorker().inject(running.target)
    running.wait_for_step(before + 3)
    resumed = case.journal("LaunchRound")[1]
    assert resumed["source"] == "memory"
    assert isinstance(resumed["step"], int)
    assert resumed["step"] >= (before - 1 if slots == 3 else 10)
    StallDisk().lift(running.target)
    assert running.wait() == 0, case.output()
    case.assert_equal_to(reference)


def test_everything_killed_at_once_and_started_again_goes_on_from_memory(
    workspace: Workspace, reference: RunCase
) -> None:
    case = workspace.run("all-killed", "train.workers=2", "snapshot.every_steps=50")
    case.start().wait_for_step(25)
    victims = workspace.processes()
    for process in victims:
        process.kill()
    psutil.wait_procs(victims, 10)
    assert case.finish() == 0, case.output()
    resumed = case.journal("LaunchRound")[1]
    assert resumed["source"] == "memory"
    assert isinstance(resumed["step"], int)
    assert resumed["step"] >= 24
    case.assert_equal_to(reference)


def test_memory_that_a_run_has_left_is_found_by_the_next_start_of_any_run(
    workspace: Workspace, reference: RunCase, memory: Path
) -> None:
    left, other = (
        workspace.run("left", "snapshot.every_steps=50", "train.hang_at=26", "hang.min_seconds=300"),
        workspace.run("other", steps=5),
    )
    running = start(left, memory).wait_for_step(25)
    assert start(other, memory).wait() == 0
    assert "has left" not in other.output()
    assert "removed" not in other.output()
    KillSupervisor().inject(running.target)
    running.wait()
    assert workspace.wait_until_alone() == []
    another = workspace.run("another", steps=5)
    assert start(another, memory).wait() == 0
    assert f"left ({left.paths.root}) has left step 25 in memory" in another.output()
    assert directory(left, memory).exists()
    assert start(left, memory).wait() == 0, left.output()
    left.assert_equal_to(reference)


def test_memory_of_a_finished_run_that_was_killed_in_its_last_moment_is_removed(
    workspace: Workspace, memory: Path
) -> None:
    case = workspace.run("last-moment", steps=5)
    assert start(case, memory).wait() == 0, case.output()
    RunMemory(directory(case, memory), 1, 3, case.paths.identity(), case.paths.root).close()
    assert start(case, memory).wait() == 0
    assert "finished already" in case.output()
    assert_nothing_is_left(case, memory)
