"""The arena: a worker's snapshot slots in shared memory, one file per slot.

The worker writes, the drain reads, and nobody locks, because ownership is passed on explicitly: the worker sets
``HOLD`` on a slot that must become durable and does not touch it again until the drain clears it, but for what it has
not yet written of the image. When the worker is dead, the supervisor owns all slots.

The files belong to the run, not to a process: they outlive the worker, and the supervisor too.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from resilient.errors import StorageFull
from resilient.protocol.pages import Interrupted, never
from resilient.protocol.slot import Slot
from resilient.protocol.slot_header import HEADER, Loan, SlotInfo, SlotState
from resilient.protocol.spill import Spill

__all__ = ["HEADER", "Arena", "Loan", "Slot", "SlotInfo", "SlotState"]


def _none(_: SlotInfo) -> bool:
    return False


class Arena:
    """All slots of one worker."""

    def __init__(self, slots: Sequence[Slot]) -> None:
        self.slots = slots
        self._sequence = max(slot.info().sequence for slot in self.slots)

    @classmethod
    def shared(cls, directory: Path, rank: int, slots: int, spill: Spill | None = None) -> Arena:
        """The slots of ``rank`` in ``directory``, made if they are not there; more that an earlier life left are
        opened too.

        :param spill: takes slots for which the directory has no room.
        :raises StorageFull: neither has room for even a header.
        """
        found = len(list(directory.glob(f"rank-{rank:05d}.slot-*")))
        count = max(slots, found)
        return cls([Slot(directory / f"rank-{rank:05d}.slot-{index}", index, spill) for index in range(count)])

    @classmethod
    def private(cls, slots: int) -> Arena:
        """Slots that end with this process and leave nothing behind."""
        made = []
        for index in range(slots):
            descriptor = os.memfd_create(f"resilient-slot-{index}")
            made.append(Slot(Path(f"/proc/self/fd/{descriptor}"), index))
            os.close(descriptor)
        return cls(made)

    def newest(self) -> Slot | None:
        """The complete slot that was written last."""
        complete = [slot for slot in self.slots if slot.info().complete]
        return max(complete, key=lambda slot: slot.info().sequence, default=None)

    def find(self, step: int) -> Slot | None:
        """The last written complete slot that holds ``step``."""
        matching = [slot for slot in self.slots if slot.info().complete and slot.info().step == step]
        return max(matching, key=lambda slot: slot.info().sequence, default=None)

    def held(self) -> list[Slot]:
        """Slots that wait for the disk, complete or still being written."""
        found = [(slot, slot.info()) for slot in self.slots if slot.may_be_held]
        return [slot for slot, info in found if info.held and info.state is not SlotState.EMPTY]

    def void_growing(self) -> None:
        """Nobody will go on writing what is held and not complete."""
        for slot in self.slots:
            if slot.info().growing:
                slot.void()

    def next_free(self, spared: Callable[[SlotInfo], bool] = _none) -> Slot | None:
        """The slot to write next: never a held or kept one, and never the only complete one. None when there is no such
        slot.

        Void slots come first, then the oldest image, then those that there was no room for, and last one that is being
        copied to another node; a held slot counts as the complete one that remains.

        :param spared: which images must stay for another reason.
        """
        infos = {slot.index: slot.info() for slot in self.slots}
        complete = sum(info.complete for info in infos.values())
        free = [
            slot
            for slot in self.slots
            if not infos[slot.index].held
            and infos[slot.index].lent is not Loan.KEPT
            and not (infos[slot.index].complete and complete == 1)
        ]

        def rank(slot: Slot) -> tuple[bool, bool, bool, int]:
            info = infos[slot.index]
            return info.lent is Loan.COPYING, slot.cramped, info.complete, info.sequence

        for slot in sorted(free, key=rank):
            if not (infos[slot.index].complete and spared(infos[slot.index])):
                return slot
        return None

    def prepare(self, size: int, interrupted: Interrupted = never) -> bool:
        """Let the next captures find room for images of ``size`` bytes and filled page tables in all slots.

        For a thread in the background of the worker. The newest complete slot and held ones are not resized. Where
        there is no room, that is for the capture to deal with, which knows whether it needs some.

        :returns: whether all is done; False when a slot was in use, or ``interrupted``.
        """
        newest, done = self.newest(), True
        order = sorted(self.slots, key=lambda slot: (slot.info().complete, slot.info().sequence))  # as they are needed
        for slot in order:
            with suppress(StorageFull):
                grow = slot is not newest and not slot.info().held and slot.info().lent is not Loan.KEPT
                done = slot.prepare(size, grow=grow, interrupted=interrupted) and done
        return done

    def next_sequence(self) -> int:
        self._sequence += 1
        return self._sequence

    def void(self) -> None:
        for slot in self.slots:
            slot.void()

    def close(self) -> None:
        for slot in self.slots:
            slot.close()
