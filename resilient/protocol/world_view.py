"""What the workers of one node see of all ranks of a run, in runs of several nodes: one page of shared memory.

Each rank would need the boards and slots of all others for what ranks agree on (see the workers' ``group`` module). A
sum of them is enough: what *all* have reached, what *some* have begun. The node's supervisor writes it when it hears of
a change, a few milliseconds late. That does no harm, for all of it only grows: what has been true of a rank once, that
it has arrived at a step, or has the image of one, counts as long as it matters.

There are two places, and a word that says which of them counts, so a reader always finds one that is whole, also where
the writer died.
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path

from resilient.protocol.board import Board, Flag, Word
from resilient.protocol.world_sum import DONE, World

NAME = "world.view"
_MAGIC = 0x31_44_4C_57_4C_53_45_52  # "RESLWLD1"
_SIZE = 4096
_PLACES = (64, 256)  # words
_MOST = 64  # steps in each list


def is_done(board: Board | Everybody) -> bool:
    """Whether the rank has what it needs to leave."""
    return any(map(board.has_flag, DONE))


class WorldView:
    """The page, written by the supervisor and read by its workers."""

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory
        self._words = memoryview(memory).cast("Q")

    @classmethod
    def create(cls, directory: Path) -> WorldView:
        """Make a fresh one, or begin anew with the one that is there."""
        path = directory / NAME
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, _SIZE)
            view = cls(mmap.mmap(descriptor, _SIZE))
        finally:
            os.close(descriptor)
        view.write(World())
        view._words[0] = _MAGIC
        return view

    @classmethod
    def open(cls, directory: Path) -> WorldView | None:
        """The one in that directory; None where there is none."""
        try:
            descriptor = os.open(directory / NAME, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            view = cls(mmap.mmap(descriptor, _SIZE, prot=mmap.PROT_READ))
        finally:
            os.close(descriptor)
        return view if view._words[0] == _MAGIC else None

    def write(self, world: World) -> None:
        generation = self._words[1] + 1
        at = _PLACES[generation % 2]
        complete, writing = world.complete[-_MOST:], world.writing[-_MOST:]
        counts = (len(complete), len(writing))
        words = (world.arrived, world.entered, world.step, world.done, *world.first, *counts, *complete, *writing)
        struct.pack_into(f"{len(words)}Q", self._memory, 8 * at, *words)
        self._words[1] = generation  # last, so that the rest is there when it counts

    def read(self) -> World:
        while True:
            generation = self._words[1]
            words = self._words[_PLACES[generation % 2] : _PLACES[generation % 2] + 9 + 2 * _MOST].tolist()
            if self._words[1] - generation < 2:  # or the place may have been written meanwhile
                break
        arrived, entered, step, done, begun, memory, durable, complete, writing = words[:9]
        steps = words[9:]
        return World(
            arrived,
            entered,
            step,
            bool(done),
            (begun, memory, durable),
            tuple(steps[:complete]),
            tuple(steps[complete : complete + writing]),
        )

    def close(self) -> None:
        self._words.release()
        self._memory.close()


class Everybody:
    """All ranks, as one that is looked at like any other: a board and an arena."""

    def __init__(self, view: WorldView) -> None:
        self._view = view

    def __getitem__(self, word: Word) -> int:
        world = self._view.read()
        return {Word.ARRIVED: world.arrived, Word.ENTERED: world.entered, Word.STEP: world.step}[word]

    def has_flag(self, flag: Flag) -> bool:
        return flag in DONE and self._view.read().done

    def steps(self) -> tuple[frozenset[int], frozenset[int]]:
        """The steps of which all have a complete image, and those of which all have one or are writing it."""
        world = self._view.read()
        return frozenset(world.complete), frozenset(world.writing)


class First:
    """Rank 0, as far as it says what is due."""

    def __init__(self, view: WorldView) -> None:
        self._view = view

    def __getitem__(self, word: Word) -> int:
        entered, memory, durable = self._view.read().first
        return {Word.ENTERED: entered, Word.MEMORY_PLAN: memory, Word.DURABLE_PLAN: durable}[word]
