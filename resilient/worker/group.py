"""What the ranks of a run agree on, so that their images are of the same steps.

They agree through their boards, without a collective: a rank that waits in one cannot be asked to leave, and a rank
that is gone would take the others' agreement with it.

* **Leaving.** All ranks leave after the same step, or a collective of the next would wait for ever. At a boundary
  where it is asked to leave, a rank says that it has *arrived* and waits: until all have arrived there, and then all
  leave; or until another has *entered* the next step, because it was not asked yet, and then it enters too, and tries
  again at the next boundary. A rank that has arrived enters only behind another that did not arrive, so "all have
  arrived" and "some rank has entered" cannot both come true.
* **What is due.** Rank 0 decides before a step of which step's end there is to be an image, and whether it is to be
  durable; it says so before it enters the step, so every rank that has completed the step can know it.
* **What may be overwritten.** A crash goes back to the newest step of which *all* ranks have a complete image. An image
  is spared when it is of that step, or of a newer one of which the others have an image or may still get one. So what
  is overwritten was older than a common step, or can never become one, and the newest common step only ever rises.

Ranks on other nodes are seen together, as one more rank of which all is true that is true of each of them, and a few
milliseconds late (:mod:`resilient.protocol.world_view`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from resilient.protocol.arena import Arena, Slot, SlotInfo
from resilient.protocol.bell import BellPull
from resilient.protocol.board import Board, Word
from resilient.protocol.neighbour import Neighbour
from resilient.protocol.world_view import Everybody, First, WorldView, is_done

_POLL_SECONDS = 0.0005
_COPY_SECONDS = 1.0  # a neighbour's copy is waited for so long; training would wait for it too, in the next collective
_WORD_SECONDS = 5.0  # for rank 0's word, which is there in time in every script whose ranks work together
_PLANNED = 64  # steps of which a plan knows

Sleep = Callable[[float], None]
_Seen = Board | Everybody


class Group:
    """The part of one rank in the agreements.

    :param boards: of all ranks on this node.
    :param neighbours: the arenas of all others of them.
    :param world: all ranks of the run, where some are on other nodes.
    :param bell: is rung when there is something that ranks on other nodes wait for.
    :ivar leads: whether this is rank 0.
    """

    def __init__(
        self,
        rank: int,
        boards: Mapping[int, Board],
        neighbours: Mapping[int, Neighbour],
        *,
        world: WorldView | None = None,
        bell: BellPull | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Sleep = time.sleep,
    ) -> None:
        self.leads = rank == 0
        self._own = boards[rank]
        self._others: list[_Seen] = [board for other, board in boards.items() if other != rank]
        self._neighbours: list[tuple[_Seen, Neighbour | Everybody]] = [
            (boards[other], neighbour) for other, neighbour in neighbours.items()
        ]
        if world is not None:
            everybody = Everybody(world)
            self._others.append(everybody)
            self._neighbours.append((everybody, everybody))
        self._first: Board | First = boards[0] if world is None or 0 in boards else First(world)
        self._bell = bell
        self._clock = clock
        self._sleep = sleep
        self._memory_wanted = self._durable_wanted = False
        self._held_last: int | None = None  # the step whose image was begun as a durable one last
        self._out_of_step = False

    @classmethod
    def join(cls, memory: Path, rank: int, ranks: range, own: Board, *, alone: bool = True) -> Group:
        """The group of which ``ranks`` have their boards and slots in ``memory``.

        :param alone: there are no others.
        """
        others = [other for other in ranks if other != rank]
        boards = {other: Board.open(memory / f"rank-{other:05d}.board") for other in others}
        world = None if alone else WorldView.open(memory)
        if not alone and world is None:
            raise ValueError(f"{memory} has nothing of the other nodes")
        neighbours = {other: Neighbour(memory, other) for other in others}
        bell = None if alone else BellPull.find(memory)
        return cls(rank, {rank: own, **boards}, neighbours, world=world, bell=bell)

    # --- leaving

    def leaves(self, step: int, *, asked: bool) -> bool:
        """Whether all ranks leave after ``step``; the same answer in each of them.

        :param asked: whether this rank has been asked to.
        """
        if not asked:
            return False
        self._own[Word.ARRIVED] = step + 1
        self._ring(waiting=True)
        while not all(board[Word.ARRIVED] == step + 1 or is_done(board) for board in self._others):
            if any(board[Word.ENTERED] > step for board in self._others):
                return False
            self._sleep(_POLL_SECONDS)
        return True

    def enter(self, step: int) -> None:
        """Begin ``step``; rank 0 must have said before what is due after it."""
        self._own[Word.ENTERED] = step
        self._ring()

    def wait_until_all_left(self) -> None:
        """Return when every rank has what it needs to leave. The first to be gone takes the others along."""
        self._ring(waiting=True)
        while not all(is_done(board) for board in self._others):
            self._sleep(_POLL_SECONDS)

    def _ring(self, *, waiting: bool = False) -> None:
        if self._bell is not None:
            self._bell.ring(waiting=waiting)

    # --- what is due

    def want(self, *, memory: bool, durable: bool) -> None:
        """In rank 0: an image is due, and stays so until one has been begun."""
        self._memory_wanted |= memory
        self._durable_wanted |= durable

    def announce(self, step: int, *, may_hold: bool) -> None:
        """In rank 0: say what is due after ``step``, which has not been entered.

        :param may_hold: whether one more slot may wait for the disk, as far as can be seen: that of the step before
            may still be being copied, and held only then.
        """
        may_hold = may_hold and self._held_last != step - 1
        self._write(Word.MEMORY_PLAN, step, self._memory_wanted)
        self._write(Word.DURABLE_PLAN, step, self._durable_wanted and may_hold)

    def begun(self, step: int, *, durable: bool) -> None:
        """The image of ``step`` is being taken, with which what was wanted is done, unless it fails."""
        self._memory_wanted = False
        if durable:
            self._durable_wanted, self._held_last = False, step

    def written(self) -> None:
        """The image is complete, or will not be; called in whatever thread has written it."""
        self._ring()

    def due(self, step: int, *, aligned: bool) -> tuple[bool, bool]:
        """What rank 0 has said of ``step``, which is completed: whether there is to be an image, and a durable one.

        :param aligned: whether there can be one. Where there cannot, rank 0 will say so again.
        """
        if aligned and self._first[Word.ENTERED] < step and not self._out_of_step:
            self._out_of_step = not self._wait(lambda: self._first[Word.ENTERED] >= step, _WORD_SECONDS)
        bit = step % _PLANNED
        return bool(self._first[Word.MEMORY_PLAN] >> bit & 1), bool(self._first[Word.DURABLE_PLAN] >> bit & 1)

    def _write(self, word: Word, step: int, value: bool) -> None:
        bit = 1 << step % _PLANNED
        self._own[word] = self._own[word] | bit if value else self._own[word] & ~bit

    def _wait(self, condition: Callable[[], bool], seconds: float) -> bool:
        deadline = self._clock() + seconds
        while not condition():
            if self._clock() >= deadline or all(is_done(board) for board in self._others):
                return condition()
            self._sleep(_POLL_SECONDS)
        return True

    # --- what may be overwritten

    def next_slot(self, arena: Arena) -> Slot | None:
        """The slot to write next; where only the others' copies stand in the way, a moment later."""
        slot = arena.next_free(self._spares(arena))
        if slot is not None or arena.next_free() is None:
            return slot
        self._wait(lambda: arena.next_free(self._spares(arena)) is not None, _COPY_SECONDS)
        return arena.next_free(self._spares(arena))

    def _spares(self, arena: Arena) -> Callable[[SlotInfo], bool]:
        # The step first: a rank that has passed a step has begun its image before, or never will.
        passed = [board[Word.STEP] for board, _ in self._neighbours]
        others = [neighbour.steps() for _, neighbour in self._neighbours]
        own = {info.step for info in (slot.info() for slot in arena.slots) if info.complete}
        common = max(own.intersection(*(complete for complete, _ in others)), default=-1)

        def spared(info: SlotInfo) -> bool:
            return info.step >= common and all(
                at < info.step or info.step in complete or info.step in writing
                for at, (complete, writing) in zip(passed, others, strict=True)
            )

        return spared
