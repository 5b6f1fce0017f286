"""What the supervisor passes on between ranks, and takes back from them."""

from __future__ import annotations

from pathlib import Path

import pytest

from resilient.protocol.board import Command, Word
from resilient.supervisor.agreement import pass_on_termination, release_unfulfilled, unfulfilled
from resilient.supervisor.memory import RunMemory


@pytest.fixture
def memory(tmp_path: Path) -> RunMemory:
    return RunMemory(tmp_path / "memory", ranks=2, slots=3, identity="this run")


def image(memory: RunMemory, rank: int, step: int, *, hold: bool = False, slot: int = 0) -> None:
    """A complete image of a step that the rank has passed."""
    memory.arenas[rank].slots[slot].begin(step, 64)
    memory.arenas[rank].slots[slot].complete(step, {}, hold=hold)
    memory.boards[rank][Word.STEP] = step


def test_sigterm_to_one_rank_is_told_to_all(memory: RunMemory) -> None:
    pass_on_termination(memory)
    assert [board[Word.COMMAND] for board in memory.boards.values()] == [Command.NONE, Command.NONE]
    memory.boards[1][Word.TERMINATED] = 1
    pass_on_termination(memory)
    assert [board[Word.COMMAND] for board in memory.boards.values()] == [Command.LEAVE, Command.LEAVE]


def test_what_both_hold_is_left_alone(memory: RunMemory) -> None:
    for rank in range(2):
        image(memory, rank, 7, hold=True)
    assert release_unfulfilled(memory) == []
    assert memory.held_steps() == [7]


def test_a_slower_rank_may_still_come_to_hold_it(memory: RunMemory) -> None:
    image(memory, 0, 7, hold=True)
    assert unfulfilled(memory) == []
    memory.arenas[1].slots[0].begin(7, 64)
    assert unfulfilled(memory) == [], "it has begun the image"
    memory.boards[1][Word.STEP] = 7
    assert unfulfilled(memory) == [], "and copies it, while its next step runs"
    memory.arenas[1].slots[0].complete(1, {}, hold=True)
    assert unfulfilled(memory) == []


@pytest.mark.parametrize("how", ["void", "not begun", "not held"])
def test_a_rank_without_the_image_frees_the_others_and_rank_0_tries_again(memory: RunMemory, how: str) -> None:
    image(memory, 0, 7, hold=True)
    slot = memory.arenas[1].slots[0]
    if how == "not held":
        image(memory, 1, 7)
    if how == "void":
        slot.begin(7, 64)
        slot.void()
    memory.boards[1][Word.STEP] = 7
    assert release_unfulfilled(memory) == [7]
    assert memory.arenas[0].held() == []
    assert memory.boards[0][Word.RETRIES] == 1
    assert release_unfulfilled(memory) == []
    assert memory.boards[0][Word.RETRIES] == 1


def test_where_rank_0_has_no_image_itself_it_is_not_told(memory: RunMemory) -> None:
    image(memory, 1, 7, hold=True)
    memory.boards[0][Word.STEP] = 8
    assert release_unfulfilled(memory) == [7]
    assert memory.arenas[1].held() == []
    assert memory.boards[0][Word.RETRIES] == 0


def test_rank_0_is_freed_last(memory: RunMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the others' slots to be free when its own are."""
    order: list[str] = []
    for rank in range(2):
        image(memory, rank, 7, hold=True)
        slot = memory.arenas[rank].slots[0]
        monkeypatch.setattr(slot, "release", lambda slot=slot: order.append(slot.path.name))
    memory.release(7)
    assert [name[:10] for name in order] == ["rank-00001", "rank-00000"]


def test_a_round_that_goes_on_from_an_older_step_forgets_what_only_some_ranks_have(memory: RunMemory) -> None:
    for rank in range(2):
        image(memory, rank, 7, slot=0)
    image(memory, 0, 8, hold=True, slot=1)
    memory.forget_newer(7)
    assert memory.newest_step() == 7
    assert memory.arenas[0].find(8) is None
    assert memory.arenas[0].held() == []
    memory.forget_newer(None)
    assert memory.newest_step() is None


def test_a_restore_from_disk_leaves_the_newest_common_image(memory: RunMemory) -> None:
    image(memory, 0, 7, slot=0)
    image(memory, 0, 8, slot=1)
    image(memory, 0, 9, slot=2)
    image(memory, 1, 7, slot=0)
    slots = memory.free_slots()
    assert slots[0].info().step == 8
    assert slots[1] is not memory.arenas[1].find(7)
