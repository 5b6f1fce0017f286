"""What the ranks of a node agree on: whatever the order in which they come to read and write."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from resilient.protocol.arena import Arena, Slot
from resilient.protocol.board import Board, Flag, Word
from resilient.protocol.neighbour import Neighbour
from resilient.worker.group import Group

SIZE = 64


def boards_of(directory: Path, ranks: int) -> dict[int, Board]:
    return {rank: Board.create(directory / f"rank-{rank:05d}.board") for rank in range(ranks)}


class Clock:
    """Each look at it costs a second, so that nothing is waited for."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def group_of(rank: int, boards: dict[int, Board], directory: Path) -> Group:
    neighbours = {other: Neighbour(directory, other) for other in boards if other != rank}
    return Group(rank, boards, neighbours, clock=Clock(), sleep=lambda _: None)


# --- leaving


class Deadlock(BaseException):
    """No rank can ever go on."""


class Conductor:
    """Lets one rank at a time go from one access to a board to the next, in an order drawn at random."""

    def __init__(self, seed: int, ranks: int) -> None:
        self._random = random.Random(seed)
        self._turns = {rank: threading.Semaphore(0) for rank in range(ranks)}
        self._back = threading.Semaphore(0)
        self.alive = set(range(ranks))
        self._stopped = False

    def pause(self, rank: int) -> None:
        self._back.release()
        self._turns[rank].acquire()
        if self._stopped:
            raise Deadlock

    def conduct(self, between: Callable[[], None], most: int = 20_000) -> bool:
        """Until all have ended; whether they have."""
        for _ in self._turns:
            self._back.acquire()
        for _ in range(most):
            if not self.alive:
                return True
            between()
            self._turns[self._random.choice(sorted(self.alive))].release()
            self._back.acquire()
        self._stopped = True
        for rank in sorted(self.alive):
            self._turns[rank].release()
        return False

    def ended(self, rank: int) -> None:
        self.alive.discard(rank)
        self._back.release()


class Watched:
    """A real board, each access to which is a moment at which another rank may come in between."""

    def __init__(self, board: Board, pause: Callable[[], None]) -> None:
        self._board = board
        self._pause = pause

    def __getitem__(self, word: Word) -> int:
        self._pause()
        return self._board[word]

    def __setitem__(self, word: Word, value: int) -> None:
        self._pause()
        self._board[word] = value

    def has_flag(self, flag: Flag) -> bool:
        self._pause()
        return self._board.has_flag(flag)


class Training:
    """Ranks that train together, each step of which needs them all, until they are asked to leave one by one."""

    def __init__(self, directory: Path, seed: int, ranks: int, total: int) -> None:
        self.boards = boards_of(directory, ranks)
        self.conductor = Conductor(seed, ranks)
        self.total = total
        self.begun = dict.fromkeys(range(ranks), 0)
        self.asked = dict.fromkeys(range(ranks), False)
        self.left: dict[int, int] = {}
        self.draw = random.Random(seed + 1)
        self.asking = self.draw.random() * 0.05

    def rank(self, rank: int) -> None:
        def pause() -> None:
            self.conductor.pause(rank)

        watched: Any = {other: Watched(board, pause) for other, board in self.boards.items()}
        group = Group(rank, watched, {}, sleep=lambda _: pause())
        try:
            pause()
            step = 0
            while step < self.total:
                if group.leaves(step, asked=self.asked[rank]):
                    self.boards[rank].raise_flag(Flag.LEFT_EARLY)
                    break
                group.enter(step + 1)
                self.begun[rank] = step + 1
                while min(self.begun.values()) <= step:  # the step's collective
                    pause()
                step += 1
            self.left[rank] = step
        except Deadlock:
            pass
        finally:
            self.conductor.ended(rank)

    def ask_somebody(self) -> None:
        """Commands come to the ranks one after the other, at any moment."""
        if self.draw.random() < self.asking:
            self.asked[self.draw.choice(sorted(self.asked))] = True

    def run(self) -> bool:
        threads = [threading.Thread(target=self.rank, args=(rank,)) for rank in self.begun]
        for thread in threads:
            thread.start()
        ended = self.conductor.conduct(self.ask_somebody)
        for thread in threads:
            thread.join()
        return ended


@pytest.mark.parametrize("ranks", [2, 3])
def test_all_leave_after_one_step_whatever_the_order(tmp_path: Path, ranks: int) -> None:
    early = 0
    for seed in range(150):
        training = Training(tmp_path, seed, ranks, total=12)
        assert training.run(), f"seed {seed}: nobody can go on; {training.asked}, {training.begun}"
        assert len(set(training.left.values())) == 1, f"seed {seed}: {training.left}"
        early += training.left[0] < 12
    assert 20 < early < 150, "some are asked in time, and some are not"


def test_asked_before_the_first_step_nobody_takes_one(tmp_path: Path) -> None:
    training = Training(tmp_path, 1, 2, total=5)
    training.asked = {0: True, 1: True}
    assert training.run()
    assert training.left == {0: 0, 1: 0}


def test_a_rank_that_has_finished_is_not_waited_for(tmp_path: Path) -> None:
    boards = boards_of(tmp_path, 2)
    boards[1].raise_flag(Flag.FINISHED)
    group = group_of(0, boards, tmp_path)
    assert group.leaves(3, asked=True)
    group.wait_until_all_left()


# --- what is due


def test_what_rank_0_says_before_a_step_holds_after_it_also_while_it_is_ahead(tmp_path: Path) -> None:
    boards = boards_of(tmp_path, 2)
    first, second = group_of(0, boards, tmp_path), group_of(1, boards, tmp_path)
    wanted = {step: (step % 3 == 0, step % 5 == 0) for step in range(1, 200)}
    heard = {}
    for step in range(1, 200):
        memory, durable = wanted[step]
        first.want(memory=memory, durable=durable)
        first.announce(step, may_hold=True)
        first.enter(step)
        if memory or durable:
            first.begun(step - 100, durable=durable)  # not the step before, after which nothing is held
        if step > 1:  # the second rank is one step behind
            heard[step - 1] = second.due(step - 1, aligned=True)
            assert heard[step - 1] == first.due(step - 1, aligned=True)
    assert heard == {step: wanted[step] for step in heard}


def test_what_could_not_be_held_is_announced_again_until_it_can(tmp_path: Path) -> None:
    boards = boards_of(tmp_path, 2)
    first = group_of(0, boards, tmp_path)
    first.want(memory=False, durable=True)
    first.announce(1, may_hold=False)
    first.announce(2, may_hold=True)
    first.enter(2)
    assert [first.due(step, aligned=True)[1] for step in (1, 2)] == [False, True]
    first.begun(2, durable=True)
    first.want(memory=False, durable=True)
    first.announce(3, may_hold=True)
    assert not first.due(3, aligned=False)[1], "the image of step 2 may still be being copied"
    first.announce(4, may_hold=True)
    assert first.due(4, aligned=False)[1]
    first.begun(4, durable=False)
    first.announce(6, may_hold=True)
    assert first.due(6, aligned=False)[1], "an image that is not held does not do"


def test_a_failed_image_is_wanted_anew(tmp_path: Path) -> None:
    first = group_of(0, boards_of(tmp_path, 2), tmp_path)
    first.want(memory=True, durable=False)
    first.announce(1, may_hold=True)
    first.begun(1, durable=False)
    first.announce(2, may_hold=True)
    first.want(memory=True, durable=False)
    first.announce(3, may_hold=True)
    assert [first.due(step, aligned=False)[0] for step in (1, 2, 3)] == [True, False, True]


def test_rank_0_s_word_is_waited_for_once_and_not_where_nothing_can_be_taken(tmp_path: Path) -> None:
    boards = boards_of(tmp_path, 2)
    sleeps: list[float] = []
    group = Group(1, boards, {}, clock=Clock(), sleep=sleeps.append)
    group.due(5, aligned=False)
    assert not sleeps
    group.due(5, aligned=True)
    waited = len(sleeps)
    assert waited
    group.due(6, aligned=True)
    assert len(sleeps) == waited, "the ranks of this script do not work together"


# --- what may be overwritten


class Rank:
    """A rank that takes images of its steps, each copied while the next step runs."""

    def __init__(self, rank: int, boards: dict[int, Board], arenas: dict[int, Arena], directory: Path) -> None:
        self.board, self.arena = boards[rank], arenas[rank]
        self.group = group_of(rank, boards, directory)
        self.step = 0
        self.missed = 0
        self.copying: Slot | None = None

    def settle(self, *, void: bool) -> None:
        if self.copying is not None and void:
            self.copying.void()
        elif self.copying is not None:
            self.copying.complete(self.arena.next_sequence(), {}, hold=False)
        self.copying = None

    def boundaries(self, steps: int, draw: random.Random, voids: float) -> Iterator[None]:
        """Each ``yield`` is a moment at which the others may go on, or the rank may die."""
        for _ in range(steps):
            self.settle(void=draw.random() < voids)
            yield
            step = self.step + 1
            slot = self.group.next_slot(self.arena)
            yield
            if slot is None:
                self.missed += 1
            else:
                slot.begin(step, SIZE)
                self.copying = slot
                yield
            self.board[Word.STEP] = self.step = step
            yield


def newest_common(arenas: dict[int, Arena]) -> int:
    complete = [{s.info().step for s in arena.slots if s.info().complete} for arena in arenas.values()]
    return max(set.intersection(*complete), default=-1)


@pytest.mark.parametrize("slots", [2, 3])
@pytest.mark.parametrize("voids", [0.0, 0.3])
def test_the_newest_common_image_is_never_lost_and_never_stands_in_the_way(
    tmp_path: Path, slots: int, voids: float
) -> None:
    for seed in range(60):
        draw = random.Random(seed)
        directory = tmp_path / str(seed)
        directory.mkdir()
        count = draw.choice([2, 3])
        boards = boards_of(directory, count)
        arenas = {rank: Arena.shared(directory, rank, slots) for rank in range(count)}
        ranks = [Rank(rank, boards, arenas, directory) for rank in range(count)]
        going = {rank.board.path: rank.boundaries(12, draw, voids) for rank in ranks}
        known = -1
        while going:
            # a collective in each step: nobody is more than one ahead
            slowest = min(rank.step for rank in ranks)
            free = [rank for rank in ranks if rank.board.path in going and rank.step <= slowest + 1]
            chosen = draw.choice(free)
            if next(going[chosen.board.path], StopIteration) is StopIteration:
                del going[chosen.board.path]
            common = newest_common(arenas)
            assert common >= known, f"seed {seed}: step {known} is lost; {ranks[0].step}"
            known = common
        for rank in ranks:
            rank.settle(void=False)
        for last in (13, 14):  # in step again, all of them get an image
            for rank in ranks:
                slot = rank.group.next_slot(rank.arena)
                if slot is not None:
                    slot.begin(last, SIZE)
                    rank.copying = slot
                rank.board[Word.STEP] = last
            for rank in ranks:
                rank.settle(void=False)
        assert newest_common(arenas) == 14, f"seed {seed}"
        for arena in arenas.values():
            arena.close()


def test_a_slot_is_waited_for_while_the_neighbour_copies(tmp_path: Path) -> None:
    boards = boards_of(tmp_path, 2)
    arenas = {rank: Arena.shared(tmp_path, rank, 2) for rank in range(2)}
    for arena in arenas.values():
        for step in (1, 2):
            slot = arena.next_free()
            assert slot is not None
            slot.begin(step, SIZE)
            if arena is arenas[0] or step == 1:
                slot.complete(step, {}, hold=False)
    boards[1][Word.STEP] = 2
    copying = next(slot for slot in arenas[1].slots if not slot.info().complete)
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        copying.complete(2, {}, hold=False)

    group = Group(0, boards, {1: Neighbour(tmp_path, 1)}, sleep=sleep)
    slot = group.next_slot(arenas[0])
    assert slot is not None
    assert slot.info().step == 1
    assert len(waits) == 1


def test_a_held_slot_is_not_waited_for(tmp_path: Path) -> None:
    boards = boards_of(tmp_path, 2)
    arenas = {rank: Arena.shared(tmp_path, rank, 2) for rank in range(2)}
    for step, slot in enumerate(arenas[0].slots, 1):
        slot.begin(step, SIZE)
        slot.complete(step, {}, hold=True)
    waits: list[float] = []
    group = Group(0, boards, {1: Neighbour(tmp_path, 1)}, sleep=waits.append)
    assert group.next_slot(arenas[0]) is None
    assert not waits
