"""The memory of a run on several nodes, as its leader sees it: what was not heard of need not be looked at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from resilient.nodes.mirror import header_of
from resilient.nodes.world_memory import WorldMemory
from resilient.protocol.board import Command, Flag, Word
from resilient.protocol.slot_header import SlotInfo, SlotState
from resilient.supervisor.agreement import pass_on_termination, unfulfilled

HERE, THERE = 0, 1  # a rank on the leader's node, and one on the other


class Post:
    """Numbers messages as a hub does, and keeps them."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, object]] = []

    def __call__(self, node: str, message: object) -> int:
        self.sent.append((node, message))
        return len(self.sent)


@pytest.fixture
def post() -> Post:
    return Post()


@pytest.fixture
def memory(tmp_path: Path, post: Post) -> Iterator[WorldMemory]:
    world = WorldMemory(tmp_path / "memory", range(1), 2, "this run", None, post=post, term=1)
    world.world = 2
    world.attach("b", range(1, 2), 2, None)
    yield world
    world.close()


def news(memory: WorldMemory, post: Post, *, words: dict[Word, int] | None = None, held: int | None = None) -> bool:
    """The other node says this of its rank, having carried out all that it was told; ``held`` is a step. Whether
    somebody waits for it.
    """
    boards = {str(THERE): {str(int(word)): value for word, value in (words or {}).items()}} if words else {}
    slots = {}
    if held is not None:
        info = SlotInfo(0, SlotState.COMPLETE, held, 1, 64, held=True, begun=1)
        slots = {str(THERE): {"0": header_of(info)}}
    return memory.take("b", {"boards": boards, "slots": slots, "done": len(post.sent), "at": 0})


def test_only_ranks_that_something_was_heard_of_have_moved(memory: WorldMemory, post: Post) -> None:
    assert memory.moved() == {HERE, THERE}
    assert memory.moved() == {HERE}, "what the workers here write, nobody tells of"
    news(memory, post, words={Word.BEATS: 5})
    assert memory.moved() == {HERE, THERE}
    memory.renew_boards()
    assert memory.moved() == {HERE, THERE}


def test_sigterm_to_a_rank_elsewhere_is_told_to_all_once(memory: WorldMemory, post: Post) -> None:
    assert not memory.some_terminated()
    news(memory, post, words={Word.TERMINATED: 1})
    pass_on_termination(memory)
    pass_on_termination(memory)
    assert [board[Word.COMMAND] for board in memory.boards.values()] == [Command.LEAVE, Command.LEAVE]
    assert len(post.sent) == 1
    memory.renew_boards()
    assert not memory.some_terminated()


def test_what_is_held_elsewhere_is_known_until_it_is_let_go(memory: WorldMemory, post: Post) -> None:
    assert not memory.some_held()
    news(memory, post, words={Word.STEP: 7}, held=7)
    assert memory.some_held()
    assert unfulfilled(memory) == []
    memory.boards[HERE][Word.STEP] = 7
    assert unfulfilled(memory) == [7]
    memory.release(7)
    assert not memory.some_held()


def test_it_is_seen_when_a_rank_elsewhere_begins_to_wait_for_the_others(memory: WorldMemory, post: Post) -> None:
    assert not news(memory, post, words={Word.STEP: 7, Word.ENTERED: 8, Word.BEATS: 9}, held=7)
    assert news(memory, post, words={Word.ARRIVED: 9})
    assert news(memory, post, words={Word.FLAGS: Flag.ATTACHED | Flag.LEFT_EARLY})


def test_nothing_of_a_lost_node_is_looked_at(memory: WorldMemory, post: Post) -> None:
    news(memory, post, words={Word.TERMINATED: 1}, held=7)
    memory.detach("b")
    assert not memory.some_held()
    assert not memory.some_terminated()
    assert memory.moved() == {HERE}
