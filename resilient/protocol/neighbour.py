"""A neighbour's slots, seen from another rank of the same node: what they hold, and nothing else.

Only the header page of each is mapped, and only to be read, so a look costs a few words and can harm nobody.
"""

from __future__ import annotations

import mmap
import os
from contextlib import suppress
from pathlib import Path

from resilient.protocol.slot_header import HEADER, SlotState, Word


class SlotView:
    """One slot of a neighbour."""

    def __init__(self, path: Path) -> None:
        """Map the header.

        :raises OSError: there is no such file.
        """
        self._path = path
        self._map()

    def _map(self) -> None:
        descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            memory = mmap.mmap(descriptor, HEADER, prot=mmap.PROT_READ)
        finally:
            os.close(descriptor)
        self._words = memoryview(memory).cast("Q")

    def holds(self) -> tuple[SlotState, int]:
        """Its state, and of which step.

        One that its owner is about to begin anew may still be told as what it held before.
        """
        if self._words[Word.MOVED]:
            with suppress(OSError, ValueError):
                self._map()
        words = self._words
        while True:
            begun = words[Word.BEGUN]
            state, step = words[Word.STATE], words[Word.STEP]
            if words[Word.BEGUN] == begun:  # or it was begun in between, and the two do not belong together
                return SlotState(state), step


class Neighbour:
    """The arena of another rank."""

    def __init__(self, directory: Path, rank: int) -> None:
        self._slots = [SlotView(path) for path in sorted(directory.glob(f"rank-{rank:05d}.slot-*"))]

    def steps(self) -> tuple[frozenset[int], frozenset[int]]:
        """The steps of which it has a complete image, and those of which it is writing one."""
        held = [view.holds() for view in self._slots]
        return (
            frozenset(step for state, step in held if state is SlotState.COMPLETE),
            frozenset(step for state, step in held if state is SlotState.WRITING),
        )
