"""The same agreements where some ranks are on another node, and are seen together and late, however late."""

from __future__ import annotations

import random
import threading
from collections import deque
from pathlib import Path
from typing import Any

import pytest

from resilient.protocol.arena import Arena, Slot, SlotInfo
from resilient.protocol.board import Board, Flag, Word
from resilient.protocol.neighbour import Neighbour
from resilient.protocol.world_sum import Part, World, WorldSum
from resilient.protocol.world_view import WorldView
from resilient.worker.group import Group
from tests.worker.test_group import Clock, Deadlock, Rank, Training, boards_of, newest_common

Seen = tuple[dict[int, list[int]], dict[int, list[SlotInfo]]]


class Copied:
    """A board as it was."""

    def __init__(self, words: list[int]) -> None:
        self._words = words

    def __getitem__(self, word: Word) -> int:
        return self._words[word - 1]

    def has_flag(self, flag: Flag) -> bool:
        return bool(self[Word.FLAGS] & flag)


class Network:
    """Carries news of each node's ranks to the leader, and the sum of all ranks to each node; each at its own time.

    :param nodes: the ranks of each.
    """

    def __init__(
        self, directory: Path, nodes: list[list[int]], boards: dict[int, Board], arenas: dict[int, Arena], seed: int
    ) -> None:
        self.nodes, self._boards, self._arenas = nodes, boards, arenas
        self._draw = random.Random(seed)
        self.views = []
        for number in range(len(nodes)):
            (directory / f"node-{number}").mkdir(exist_ok=True)
            self.views.append(WorldView.create(directory / f"node-{number}"))
        self._world = WorldSum()
        self._known: dict[int, Seen] = {number: self._look(number) for number in range(len(nodes))}
        self._to_leader: dict[int, deque[Seen]] = {number: deque() for number in range(len(nodes))}
        self._to_nodes: dict[int, deque[World]] = {number: deque() for number in range(len(nodes))}

    def _look(self, node: int) -> Seen:
        ranks = self.nodes[node]
        words = {rank: self._boards[rank].worker_words() for rank in ranks}  # before the slots, as the node does
        return words, {rank: [slot.info() for slot in self._arenas[rank].slots] for rank in ranks if self._arenas}

    def carry(self) -> None:
        """One of the things that may happen next happens."""
        node = self._draw.randrange(len(self.nodes))
        what = self._draw.randrange(4)
        if what == 0:
            self._to_leader[node].append(self._look(node))
        elif what == 1 and self._to_leader[node]:
            self._known[node] = self._to_leader[node].popleft()
        elif what == 2:
            self._to_nodes[node].append(self._sum())
        elif what == 3 and self._to_nodes[node]:
            self.views[node].write(self._to_nodes[node].popleft())

    def _sum(self) -> World:
        own, others = self._look(0), [self._known[node] for node in range(1, len(self.nodes))]
        for words, infos in (own, *others):
            for rank in words:
                copied: Any = Copied(words[rank])
                self._world.put(rank, Part.of(copied, infos.get(rank, ())))
        return self._world.world()

    def node_of(self, rank: int) -> int:
        return next(number for number, ranks in enumerate(self.nodes) if rank in ranks)


class OfNodes(Training):
    """As in the test of one node: each step needs all ranks, until they are asked to leave one by one."""

    def __init__(self, directory: Path, seed: int, nodes: list[list[int]], total: int) -> None:
        super().__init__(directory, seed, sum(map(len, nodes)), total)
        self.network = Network(directory, nodes, self.boards, {}, seed)
        self.asking *= 1.6

    def rank(self, rank: int) -> None:
        def pause() -> None:
            self.conductor.pause(rank)

        node = self.network.node_of(rank)
        here = {other: self.boards[other] for other in self.network.nodes[node]}
        group = Group(rank, here, {}, world=self.network.views[node], sleep=lambda _: pause())
        try:
            pause()
            step = 0
            while step < self.total:
                if group.leaves(step, asked=self.asked[rank]):
                    self.boards[rank].raise_flag(Flag.LEFT_EARLY)
                    group.wait_until_all_left()
                    break
                pause()
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
        super().ask_somebody()
        self.network.carry()


@pytest.mark.parametrize("nodes", [[[0], [1]], [[0, 1], [2, 3]], [[0], [1], [2]]])
def test_all_leave_after_one_step_however_late_they_hear_of_each_other(tmp_path: Path, nodes: list[list[int]]) -> None:
    early = 0
    for seed in range(60):
        training = OfNodes(tmp_path, seed, nodes, total=10)
        assert training.run(), f"seed {seed}: nobody can go on; {training.asked}, {training.begun}"
        assert len(set(training.left.values())) == 1, f"seed {seed}: {training.left}"
        early += training.left[0] < 10
    assert 2 < early < 60, "some are asked in time, and some are not"


class Distant(Rank):
    """A rank that sees those of other nodes through the network."""

    def __init__(
        self, rank: int, boards: dict[int, Board], arenas: dict[int, Arena], directory: Path, network: Network
    ) -> None:
        self.board, self.arena = boards[rank], arenas[rank]
        node = network.node_of(rank)
        here = {other: boards[other] for other in network.nodes[node]}
        neighbours = {other: Neighbour(directory, other) for other in here if other != rank}
        self.group = Group(
            rank, here, neighbours, world=network.views[node], clock=Clock(), sleep=lambda _: network.carry()
        )
        self.step = 0
        self.missed = 0
        self.copying: Slot | None = None


@pytest.mark.parametrize("slots", [2, 3])
@pytest.mark.parametrize("voids", [0.0, 0.3])
def test_the_newest_image_that_all_nodes_have_is_never_lost(tmp_path: Path, slots: int, voids: float) -> None:
    taken = 0
    for seed in range(40):
        draw = random.Random(seed)
        directory = tmp_path / str(seed)
        directory.mkdir()
        nodes = draw.choice([[[0], [1]], [[0, 1], [2]], [[0], [1], [2]]])
        count = sum(map(len, nodes))
        boards = boards_of(directory, count)
        arenas = {rank: Arena.shared(directory, rank, slots) for rank in range(count)}
        network = Network(directory, nodes, boards, arenas, seed)
        ranks = [Distant(rank, boards, arenas, directory, network) for rank in range(count)]
        going = {rank.board.path: rank.boundaries(20, draw, voids) for rank in ranks}
        known = -1
        while going:
            for _ in range(draw.randrange(12)):
                network.carry()
            slowest = min(rank.step for rank in ranks)
            free = [rank for rank in ranks if rank.board.path in going and rank.step <= slowest + 1]
            chosen = draw.choice(free)
            if next(going[chosen.board.path], StopIteration) is StopIteration:
                del going[chosen.board.path]
            common = newest_common(arenas)
            assert common >= known, f"seed {seed}: step {known} is lost; {ranks[0].step}"
            known = common
        taken += known
        for rank in ranks:
            rank.settle(void=False)
        for arena in arenas.values():
            arena.close()
    assert taken > 40 * 5, "images are taken all the same"


def test_what_rank_0_says_is_heard_on_another_node_before_it_counts(tmp_path: Path) -> None:
    boards = boards_of(tmp_path, 2)
    network = Network(tmp_path, [[0], [1]], boards, {}, 3)
    first = Group(0, {0: boards[0]}, {}, world=network.views[0], clock=Clock(), sleep=lambda _: None)
    second = Group(1, {1: boards[1]}, {}, world=network.views[1], sleep=lambda _: network.carry())
    for step in range(1, 80):
        first.want(memory=step % 3 == 0, durable=step % 5 == 0)
        first.announce(step, may_hold=True)
        first.enter(step)
        if step % 3 == 0 or step % 5 == 0:
            first.begun(step - 100, durable=step % 5 == 0)
        assert second.due(step, aligned=True) == (step % 3 == 0, step % 5 == 0)


def test_a_view_is_whole_whenever_it_is_read(tmp_path: Path) -> None:
    view = WorldView.create(tmp_path)
    seen = WorldView.open(tmp_path)
    assert seen is not None
    assert seen.read() == World()
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            view.write(World(number, number, number, bool(number % 2), (number,) * 3, (number,) * 5, (number,) * 3))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(3000):
            world = seen.read()
            numbers = {world.arrived, world.entered, world.step, *world.first, *world.complete, *world.writing}
            assert len(numbers) == 1, world
    finally:
        stop.set()
        writer.join()
    assert WorldView.open(tmp_path / "nowhere") is None
