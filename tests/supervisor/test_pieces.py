"""The supervisor's small parts, one by one."""

from __future__ import annotations

import io
import json
import math
import os
import signal
from pathlib import Path

import pytest

from resilient.errors import EntryPointMissing, ExitCode
from resilient.policy.decisions import EndRun, LaunchRound
from resilient.policy.events import Tier
from resilient.protocol.arena import Slot
from resilient.protocol.board import Command, Word
from resilient.protocol.paths import RunPaths
from resilient.supervisor.console import Console
from resilient.supervisor.journal import Journal, plain, read_journal
from resilient.supervisor.memory import RunMemory
from resilient.supervisor.settings import WorkerSettings
from resilient.supervisor.signals import SignalQueue
from resilient.supervisor.start import find_entry_point
from resilient.supervisor.status import Status


def test_journal_reads_back_what_was_written_and_skips_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    journal = Journal(path)
    journal.record("decision", LaunchRound(3, 17, Tier.MEMORY), 1.5)
    journal.write("note", "odd", 2.0, value=math.inf)
    journal.close()
    with path.open("ab") as stream:
        stream.write(b'{"cut off')
    first, second = read_journal(path)
    assert (first["name"], first["at"]) == ("LaunchRound", 1.5)
    assert first["data"] == {"round": 3, "step": 17, "source": "memory"}
    assert second["value"] == "inf"


def test_journal_appends_across_supervisors(tmp_path: Path) -> None:
    for number in range(2):
        journal = Journal(tmp_path / "j.jsonl")
        journal.write("note", f"n{number}", 0.0)
        journal.close()
    assert [entry["name"] for entry in read_journal(tmp_path / "j.jsonl")] == ["n0", "n1"]


def test_plain_turns_decisions_into_json() -> None:
    assert plain(EndRun(ExitCode.REQUEUE, "why")) == {"exit_code": 75, "diagnosis": "why"}
    json.dumps(plain({"a": (1, {2.0}), 3: float("nan")}))


def test_console_survives_a_terminal_that_is_gone() -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(5, "Input/output error")

    Console(Gone(), Gone()).say("hello")


def test_status_round_trip_and_what_is_not_one(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    assert Status.read(path) is None
    Status("running", 5, 10, 0).write(path)
    assert Status.read(path) is not None
    assert not Status.read(path).finished  # type: ignore[union-attr]
    Status("finished", 10, 10, 0, 0, "done").write(path)
    assert Status.read(path).finished  # type: ignore[union-attr]
    path.write_text("{")
    assert Status.read(path) is None


def test_signals_are_queued_in_order_and_wake_the_loop() -> None:
    queue = SignalQueue()
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGUSR1)
        assert queue.take() == [signal.SIGTERM, signal.SIGUSR1]
        assert queue.take() == []
    finally:
        queue.close()
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL


def test_entry_point(tmp_path: Path) -> None:
    (tmp_path / "train.py").touch()
    assert find_entry_point(WorkerSettings(script="train.py"), tmp_path).script == "train.py"
    assert find_entry_point(WorkerSettings(module="json.tool"), tmp_path).module == "json.tool"
    (tmp_path / "mine.py").touch()
    find_entry_point(WorkerSettings(module="mine"), tmp_path)
    with pytest.raises(EntryPointMissing, match=r"nope\.py"):
        find_entry_point(WorkerSettings(script="nope.py"), tmp_path)
    with pytest.raises(EntryPointMissing, match="no_such_module_x"):
        find_entry_point(WorkerSettings(module="no_such_module_x.train"), tmp_path)


# --- memory of two ranks


def fill(slot: Slot, step: int, sequence: int, *, hold: bool = False) -> None:
    slot.begin(step, 64)
    slot.complete(sequence, {}, hold=hold)


@pytest.fixture
def memory(tmp_path: Path) -> RunMemory:
    return RunMemory(tmp_path / "memory", ranks=2, slots=3, identity="this run")


def test_only_a_step_that_every_rank_holds_counts(memory: RunMemory) -> None:
    assert memory.newest_step() is None
    fill(memory.arenas[0].slots[0], 7, 1)
    fill(memory.arenas[0].slots[1], 8, 2)
    fill(memory.arenas[1].slots[2], 7, 1)
    assert memory.newest_step() == 7
    slots = memory.slots_of(7)
    assert slots is not None
    assert {rank: slot.index for rank, slot in slots.items()} == {0: 0, 1: 2}
    assert memory.slots_of(8) is None


def test_a_step_is_persisted_when_all_ranks_hold_it_for_that(memory: RunMemory) -> None:
    fill(memory.arenas[0].slots[0], 7, 1, hold=True)
    fill(memory.arenas[1].slots[0], 7, 1)
    assert memory.held_steps() == []
    memory.hold(7)
    assert memory.held_steps() == [7]
    memory.release(7)
    assert memory.held_steps() == []


def test_a_slot_in_the_middle_of_a_copy_is_no_snapshot(memory: RunMemory) -> None:
    for rank in (0, 1):
        fill(memory.arenas[rank].slots[0], 7, 1)
        fill(memory.arenas[rank].slots[1], 8, 2)
    memory.arenas[1].slots[1].begin(9, 64)
    assert memory.newest_step() == 7


def test_a_step_goes_to_disk_when_every_rank_holds_it_complete_or_growing(memory: RunMemory) -> None:
    fill(memory.arenas[0].slots[0], 7, 1, hold=True)
    fill(memory.arenas[0].slots[1], 7, 2)  # of the same step, and may be overwritten at any moment
    memory.arenas[1].slots[0].begin(7, 64)
    assert memory.held_steps() == []
    memory.arenas[1].slots[0].hold()
    assert memory.held_steps() == [7]
    slots = memory.held_slots(7)
    assert slots is not None
    assert {rank: slot.index for rank, slot in slots.items()} == {0: 0, 1: 0}
    assert memory.slots_of(7) is None, "it is no snapshot yet"
    memory.void_growing(0)
    assert memory.held_steps() == [7]
    memory.void_growing(1)
    assert memory.held_steps() == []
    assert memory.held_slots(7) is None
    assert memory.arenas[0].slots[0].info().held


def test_a_successor_finds_everything_by_name(memory: RunMemory, tmp_path: Path) -> None:
    fill(memory.arenas[0].slots[1], 5, 1)
    fill(memory.arenas[1].slots[1], 5, 1)
    memory.boards[1][Word.COMMAND] = Command.LEAVE
    memory.close()
    successor = RunMemory(tmp_path / "memory", ranks=2, slots=3, identity="this run")
    assert successor.newest_step() == 5
    assert successor.boards[1][Word.COMMAND] == Command.LEAVE
    successor.renew_boards()
    assert successor.boards[1][Word.COMMAND] == Command.NONE
    successor.remove()
    assert not (tmp_path / "memory").exists()


def test_memory_of_another_run_under_the_same_name_is_thrown_away(memory: RunMemory, tmp_path: Path) -> None:
    for rank in (0, 1):
        fill(memory.arenas[rank].slots[1], 5, 1)
    memory.close()
    other = RunMemory(tmp_path / "memory", ranks=2, slots=3, identity="made anew")
    assert other.newest_step() is None


def test_memory_names_differ_by_run_directory(tmp_path: Path) -> None:
    assert RunPaths.of(tmp_path, "a").memory_name != RunPaths.of(tmp_path, "b").memory_name
    assert RunPaths.of(tmp_path, "a").memory_name == RunPaths.of(tmp_path, "a").memory_name


def test_what_a_killed_supervisor_left_of_its_status_is_overwritten_by_its_successor(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    RunPaths.fresh(path).write_text("cut sho")
    Status("running", 5, 10, 0).write(path)
    assert list(tmp_path.iterdir()) == [path]
