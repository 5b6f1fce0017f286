"""The arena: a worker's snapshot slots in shared memory, one file per slot.

A slot is a 4 KiB header page followed by an image, so the image is page-aligned in memory and in the file. It goes
EMPTY → WRITING → COMPLETE; a crash in the middle of a copy voids only the slot being written. The worker writes, the
drain reads, and nobody locks, because ownership is passed on explicitly: the worker sets ``HOLD`` on a slot that must
become durable and does not touch it again until the drain clears it. When the worker is dead, the supervisor owns all
slots.

The files belong to the run, not to a process: they outlive the worker, and the supervisor too.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from resilient.errors import SnapshotCorrupt, StorageFull

HEADER = 4096
_MAGIC = 0x31_54_4C_53_4C_53_45_52  # "RESLSLT1"
_META_AT = 512
_META_LIMIT = HEADER - _META_AT


class SlotState(IntEnum):
    EMPTY = 0
    WRITING = 1
    COMPLETE = 2


class _Word(IntEnum):
    MAGIC = 0
    STATE = 1
    STEP = 2
    SEQUENCE = 3  # counts completed images over all slots of the arena; orders images of equal steps
    SIZE = 4  # bytes of the image
    HOLD = 5
    META = 6  # bytes of JSON behind the words


@dataclass(frozen=True)
class SlotInfo:
    """What a slot holds, read at one moment."""

    index: int
    state: SlotState
    step: int
    sequence: int
    size: int
    held: bool

    @property
    def complete(self) -> bool:
        return self.state is SlotState.COMPLETE


class Slot:
    """One slot file, mapped. Growing it remaps it; the header page keeps its place in the file."""

    def __init__(self, path: Path, index: int) -> None:
        self.path = path
        self.index = index
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        size = os.fstat(self._descriptor).st_size
        if size < HEADER:
            self._reserve(HEADER)
            size = HEADER
        self.memory = mmap.mmap(self._descriptor, size)
        self._words = memoryview(self.memory)[:_META_AT].cast("Q")
        if self._words[_Word.MAGIC] != _MAGIC:
            for word in _Word:
                self._words[word] = 0
            self._words[_Word.MAGIC] = _MAGIC

    def info(self) -> SlotInfo:
        words = self._words
        state = words[_Word.STATE]
        return SlotInfo(
            self.index,
            SlotState(state) if state <= SlotState.COMPLETE else SlotState.EMPTY,
            words[_Word.STEP],
            words[_Word.SEQUENCE],
            words[_Word.SIZE],
            bool(words[_Word.HOLD]),
        )

    def begin(self, step: int, size: int) -> None:
        """EMPTY or COMPLETE → WRITING, with room for an image of ``size`` bytes.

        :raises StorageFull: shared memory has no room left.
        """
        self._words[_Word.STATE] = SlotState.WRITING
        self._words[_Word.STEP] = step
        if HEADER + size > len(self.memory):
            self._grow(HEADER + size)
        self._words[_Word.SIZE] = size

    def complete(self, sequence: int, meta: Mapping[str, Any], *, hold: bool) -> None:
        """WRITING → COMPLETE; with ``hold``, the slot is handed to the drain in the same breath."""
        encoded = json.dumps(meta).encode()
        if len(encoded) > _META_LIMIT:
            encoded = b"{}"  # what the manifest says of metrics is a convenience; the image itself is complete
        self.memory[_META_AT : _META_AT + len(encoded)] = encoded
        self._words[_Word.META] = len(encoded)
        self._words[_Word.SEQUENCE] = sequence
        self._words[_Word.HOLD] = int(hold)
        self._words[_Word.STATE] = SlotState.COMPLETE

    def hold(self) -> None:
        self._words[_Word.HOLD] = 1

    def release(self) -> None:
        self._words[_Word.HOLD] = 0

    def void(self) -> None:
        """Whatever the slot holds, it is not a snapshot."""
        self._words[_Word.STATE] = SlotState.EMPTY
        self._words[_Word.HOLD] = 0

    @property
    def meta(self) -> dict[str, Any]:
        size = min(self._words[_Word.META], _META_LIMIT)
        try:
            meta = json.loads(self.memory[_META_AT : _META_AT + size])
        except ValueError:
            return {}
        return meta if isinstance(meta, dict) else {}

    @property
    def image(self) -> memoryview:
        """The image's bytes. Release the view before the slot grows or closes.

        :raises SnapshotCorrupt: the header promises more than the file holds.
        """
        size = self._words[_Word.SIZE]
        if HEADER + size > len(self.memory):
            self._remap()
        if HEADER + size > len(self.memory):
            raise SnapshotCorrupt(f"{self.path} is shorter than the {size} bytes its header promises")
        return memoryview(self.memory)[HEADER : HEADER + size]

    def keep_linked(self) -> None:
        """If somebody has removed the file (some systems clear shared memory when a user logs out), write it anew.

        Call it only while no worker has the slot mapped: one that has would go on writing to the file that is gone.
        """
        try:
            if self.path.stat().st_ino == os.fstat(self._descriptor).st_ino:
                return
        except FileNotFoundError:
            pass
        fresh = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(self._descriptor, "rb", closefd=False) as source, open(fresh, "wb", closefd=False) as target:
            source.seek(0)
            shutil.copyfileobj(source, target, 1 << 24)
        os.close(self._descriptor)
        self._descriptor = fresh
        self._remap()

    def close(self) -> None:
        self._words.release()
        with suppress(BufferError):  # a tensor may still look at the image; the mapping goes when it goes
            self.memory.close()
        os.close(self._descriptor)

    def _reserve(self, size: int) -> None:
        # A sparse file in a full tmpfs kills its writer with SIGBUS at the first touch; reserving turns that into an
        # error.
        try:
            os.posix_fallocate(self._descriptor, 0, size)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EFBIG):
                raise StorageFull(
                    f"no room for {size} bytes of snapshot memory in {self.path.parent}",
                    "make /dev/shm larger, lower snapshot.slots, or set snapshot.memory_dir to a fast disk",
                ) from error
            raise

    def _grow(self, size: int) -> None:
        self._reserve(size)
        self._remap()

    def _remap(self) -> None:
        self._words.release()
        # The old mapping is dropped, not closed: a tensor may still look at it.
        self.memory = mmap.mmap(self._descriptor, os.fstat(self._descriptor).st_size)
        self._words = memoryview(self.memory)[:_META_AT].cast("Q")


class Arena:
    """All slots of one worker."""

    def __init__(self, slots: Sequence[Slot]) -> None:
        self.slots = slots
        self._sequence = max(slot.info().sequence for slot in self.slots)

    @classmethod
    def shared(cls, directory: Path, rank: int, slots: int) -> Arena:
        """The slots of ``rank`` in ``directory``, made if they are not there; more that an earlier life left are
        opened too.
        """
        found = len(list(directory.glob(f"rank-{rank:05d}.slot-*")))
        count = max(slots, found)
        return cls([Slot(directory / f"rank-{rank:05d}.slot-{index}", index) for index in range(count)])

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
        return [slot for slot in self.slots if slot.info().held and slot.info().complete]

    def next_free(self) -> Slot | None:
        """The slot to write next: never a held one, and never the only complete one. None when there is no such slot.

        Void slots come first, then the oldest image; a held slot counts as the complete one that remains.
        """
        infos = {slot.index: slot.info() for slot in self.slots}
        complete = sum(info.complete for info in infos.values())
        free = [
            slot
            for slot in self.slots
            if not infos[slot.index].held and not (infos[slot.index].complete and complete == 1)
        ]
        return min(free, key=lambda slot: (infos[slot.index].complete, infos[slot.index].sequence), default=None)

    def next_sequence(self) -> int:
        self._sequence += 1
        return self._sequence

    def void(self) -> None:
        for slot in self.slots:
            slot.void()

    def close(self) -> None:
        for slot in self.slots:
            slot.close()
