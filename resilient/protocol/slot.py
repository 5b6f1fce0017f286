"""One slot: a file in shared memory that holds one snapshot image, mapped by everybody who needs it.

A slot is a 4 KiB header page followed by an image, so the image is page-aligned in memory and in the file. It goes
EMPTY → WRITING → COMPLETE; a crash in the middle of a copy voids only the slot being written.

A slot may be held while it is still being written. It then *grows*: ``REACHED`` says how much of the image, from its
beginning, is final, so that the drain can write that much, and nothing of it counts before the slot is COMPLETE.

A complete slot may be *lent*: its image is being copied to another node. The supervisor alone says so, and the worker,
which never waits for a copy, writes a lent slot when there is no other. So whoever copies compares ``BEGUN`` before
and after. A lent slot that is *kept* is part of the last set of images that were copied, and is never written.

A slot for which shared memory has no room moves to a file on disk: a symbolic link takes its place in the directory,
and ``MOVED`` in the header of the old file tells those who still have that one mapped to open it again by its path.
"""

from __future__ import annotations

import json
import mmap
import os
import shutil
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from resilient.errors import SnapshotCorrupt, StorageFull
from resilient.protocol.pages import FULL, Interrupted, never, populate, reserve
from resilient.protocol.slot_header import (
    HEADER,
    MAGIC,
    META_AT,
    META_LIMIT,
    MOST_IMAGES,
    WORDS,
    Loan,
    SlotInfo,
    SlotState,
    Word,
    meta_of,
)
from resilient.protocol.spill import REMEDY, Spill


class Slot:
    """One slot file, mapped. Growing it remaps it; the header page keeps its place in the file.

    :param spill: where the slot goes when its filesystem has no room for it; without one, that is an error.
    :ivar cramped: there was no room for it when it was to be written last.
    """

    def __init__(self, path: Path, index: int, spill: Spill | None = None) -> None:
        self.path = path
        self.index = index
        self.cramped = False
        self._spill = spill
        self._lock = threading.Lock()  # between a capture and what prepares the slot in the background
        self._wanted = self._writing = self._grown = False
        # as it was last: it is asked for far more often than it changes
        self._seen: tuple[list[int], SlotInfo] = [], SlotInfo(index, SlotState.EMPTY, 0, 0, 0, held=False)
        self._populated: mmap.mmap | None = None  # the mapping whose page tables are filled
        self._descriptor = _open(path)
        if os.fstat(self._descriptor).st_size < HEADER:
            self._reserve_first_page()
        self._map()
        if self._words[Word.MAGIC] != MAGIC:
            self._clear()

    def info(self) -> SlotInfo:
        if self._words[Word.MOVED]:
            self._follow()
        words: list[int] = self._words[:WORDS].tolist()
        words[Word.BEGUN] = self._words[Word.BEGUN]  # last: if it is what it was, so is all that was read before it
        known, info = self._seen
        if words != known:
            info = SlotInfo.of(self.index, words)
            self._seen = words, info
        return info

    @property
    def may_be_held(self) -> bool:
        """Whether somebody holds what there is; for looking often, where hardly ever anything is held."""
        return bool(self._words[Word.HOLD] or self._words[Word.MOVED])

    def header(self) -> bytes:
        """What is behind :meth:`info`, by which a change is seen soonest; but for how far an image has come."""
        if self._words[Word.MOVED]:
            self._follow()
        return self.memory[: 8 * Word.REACHED] + self.memory[8 * Word.BEGUN : 8 * WORDS]

    def begin(self, step: int, size: int) -> None:
        """EMPTY or COMPLETE → WRITING, with room for an image of ``size`` bytes.

        :raises StorageFull: there is no room left for it; the slot is as it was.
        """
        self._wanted = True  # whoever prepares it stops at the next piece
        with self._lock:
            self._wanted, self.cramped = False, True
            self._grow(HEADER + size)
            self.cramped = self._grown = False
            self._words[Word.BEGUN] = (self._words[Word.BEGUN] + 1) % MOST_IMAGES
            self._words[Word.LENT] = Loan.NONE  # after it has been counted: see `lend`
            self._words[Word.REACHED] = 0
            self._words[Word.STATE] = SlotState.WRITING
            self._words[Word.STEP] = step
            self._words[Word.SIZE] = size
            self._writing = True

    def prepare(self, size: int, *, grow: bool, interrupted: Interrupted = never) -> bool:
        """Let the next capture find everything there: room for an image of ``size`` bytes, and filled page tables.

        Called in a thread of its own. What the slot holds stays as it is. A ``begin`` waits for a piece of it at the
        most.

        :param grow: False for a slot that must not be resized.
        :returns: whether nothing is left to do; a capture does by itself what it has interrupted.
        :raises StorageFull: there is no room; the slot is as it was.
        """

        def stop() -> bool:
            return self._wanted or interrupted()

        with self._lock:
            if self._writing or stop():
                return True
            if grow:
                self._grow(HEADER + size, stop, move=not self.info().complete)
            if self._populated is not self.memory:
                populate(self.memory, len(self.memory), stop)
                self._populated = None if stop() else self.memory
            return HEADER + size <= len(self.memory) or stop()

    def complete(self, sequence: int, meta: Mapping[str, Any], *, hold: bool) -> None:
        """WRITING → COMPLETE; with ``hold``, the slot is handed to the drain in the same breath.

        One that was held while it was written is left held or not: the drain may have given it up meanwhile.
        """
        encoded = json.dumps(meta).encode()
        if len(encoded) > META_LIMIT:
            encoded = b"{}"  # what the manifest says of metrics is a convenience; the image itself is complete
        self.memory[META_AT : META_AT + len(encoded)] = encoded
        self._words[Word.META] = len(encoded)
        self._words[Word.SEQUENCE] = sequence
        if not self._grown:
            self._words[Word.HOLD] = int(hold)
        self._words[Word.STATE] = SlotState.COMPLETE
        self._writing = False

    def reached(self, size: int) -> None:
        """The first ``size`` bytes of the image that is being written will not change any more."""
        self._words[Word.REACHED] = size

    def hold(self) -> None:
        """Hand the slot to the drain; while it is WRITING, as far as it is :meth:`reached`."""
        self._grown = self._writing
        self._words[Word.HOLD] = 1

    def release(self) -> None:
        self._words[Word.HOLD] = 0

    def lend(self, loan: Loan, begun: int) -> bool:
        """Lend the image that was begun as number ``begun``, or end its loan; whether it is still there.

        Only the supervisor calls this. The worker may be about to begin the slot: it counts that before it ends a
        loan, so either it ends this one, or we see that it has counted.
        """
        info = self.info()
        if not info.complete or info.begun != begun:
            return False
        self._words[Word.LENT] = loan
        if self._words[Word.BEGUN] == begun:
            return True
        self._words[Word.LENT] = Loan.NONE
        return False

    def void(self) -> None:
        """Whatever the slot holds, it is not a snapshot."""
        self._words[Word.STATE] = SlotState.EMPTY
        self._words[Word.HOLD] = 0
        self._writing = False

    @property
    def meta(self) -> dict[str, Any]:
        return meta_of(self.memory[META_AT : META_AT + min(self._words[Word.META], META_LIMIT)])

    @property
    def image(self) -> memoryview:
        """The image's bytes. Release the view before the slot grows or closes.

        :raises SnapshotCorrupt: the header promises more than the file holds.
        """
        if self._words[Word.MOVED]:
            self._follow()
        size = self._words[Word.SIZE]
        if HEADER + size > len(self.memory):
            self._map()
        if HEADER + size > len(self.memory):
            raise SnapshotCorrupt(f"{self.path} is shorter than the {size} bytes its header promises")
        return memoryview(self.memory)[HEADER : HEADER + size]

    def put(self, offset: int, data: memoryview) -> None:
        """Write a piece of the image that is being written, through the file: whoever has not touched the mapping yet
        would take a fault for each of its pages, which is longer than the copy.

        :raises SnapshotCorrupt: the header does not promise so many bytes.
        """
        if offset + len(data) > self._words[Word.SIZE]:
            raise SnapshotCorrupt(f"{self.path} has no room for {len(data)} bytes at byte {offset} of the image")
        while data:
            count = os.pwrite(self._descriptor, data, HEADER + offset)
            data, offset = data[count:], offset + count

    def keep_linked(self) -> None:
        """If somebody has removed the file (some systems clear shared memory when a user logs out), write it anew.

        Call it only while no worker has the slot mapped: one that has would go on writing to the file that is gone.

        :raises StorageFull: there is no room to write it.
        """
        if self._is_ours(self.path):
            return
        if self._spill is not None and (self._words[Word.MOVED] or self._is_ours(self._spill.file_of(self.path))):
            with suppress(OSError):
                self._spill.link(self.path)  # the file on disk is still there
        if self.path.is_symlink() and self.path.exists():  # a worker died before it could say that the slot has moved
            self._follow()
            return
        try:
            self._copy_to(_open(self.path, os.O_TRUNC))
        except OSError as error:
            if error.errno not in FULL:
                raise
            self.path.unlink()
            self._move(os.fstat(self._descriptor).st_size, keep=True)

    def close(self) -> None:
        self._words.release()
        with suppress(BufferError):  # a tensor may still look at the image; the mapping goes when it goes
            self.memory.close()
        os.close(self._descriptor)

    def _map(self) -> None:
        """Map the file as long as it is now. The old mapping is dropped, not closed: a tensor may still look at it, and
        another thread at the words.
        """
        memory = mmap.mmap(self._descriptor, os.fstat(self._descriptor).st_size)
        self.memory, self._words = memory, memoryview(memory)[:META_AT].cast("Q")

    def _clear(self) -> None:
        for word in Word:
            self._words[word] = 0
        self._words[Word.MAGIC] = MAGIC

    def _reserve_first_page(self) -> None:
        try:
            reserve(self._descriptor, HEADER)
        except OSError as error:
            if self._spill is None or error.errno not in FULL:
                raise self._full(HEADER, error) from error
            os.close(self._descriptor)
            self._descriptor = self._spill.take(self.path, HEADER)
            self._spill.link(self.path)

    def _grow(self, size: int, interrupted: Interrupted = never, *, move: bool = True) -> None:
        """Make the file ``size`` bytes long and map it so, unless it is or there is an interruption.

        :param move: where there is no room, the slot may move, which empties it.
        """
        if size <= len(self.memory):
            return
        try:
            reserve(self._descriptor, size, interrupted)
        except OSError as error:
            if error.errno not in FULL or not move or self._spill is None or self.path.is_symlink():
                raise self._full(size, error) from error
            self._move(size)
            return
        if os.fstat(self._descriptor).st_size >= size:
            self._map()

    def _full(self, size: int, error: OSError) -> Exception:
        if error.errno not in FULL:
            return error
        return StorageFull(f"no room for {size} bytes of snapshot memory in {self.path.resolve().parent}", REMEDY)

    def _move(self, size: int, *, keep: bool = False) -> None:
        """Go on in a file on disk, and give the memory back.

        The old file keeps its first page. Nobody looks at the others: only held slots are read, and they never move.

        :param keep: with all that the slot holds; otherwise it is empty then.
        :raises StorageFull: the disk has no room either; the slot is as it was.
        """
        if self._spill is None:
            raise StorageFull(f"no room for {size} bytes of snapshot memory in {self.path.parent}", REMEDY)
        old, words = os.dup(self._descriptor), self._words
        try:
            fresh = self._spill.take(self.path, size)
            if keep:
                self._copy_to(fresh)
            else:
                os.close(self._descriptor)
                self._descriptor = fresh
                self._map()
                self._clear()
                before = SlotInfo.of(self.index, words)
                self._words[Word.SEQUENCE], self._words[Word.BEGUN] = before.sequence, before.begun
            self._spill.link(self.path)
            words[Word.MOVED] = 1  # only now, so that whoever sees it finds the link
            os.ftruncate(old, HEADER)
        finally:
            os.close(old)

    def _copy_to(self, descriptor: int) -> None:
        """Copy the whole slot to another file, and go on there.

        :raises OSError: there is no room; the slot goes on where it was.
        """
        try:
            with open(self._descriptor, "rb", closefd=False) as source, open(descriptor, "wb", closefd=False) as target:
                source.seek(0)
                shutil.copyfileobj(source, target, 1 << 24)
        except OSError:
            os.close(descriptor)
            raise
        os.close(self._descriptor)
        self._descriptor = descriptor
        self._map()
        self._words[Word.MOVED] = 0

    def _follow(self) -> None:
        """Open the slot again by its path: its file is another one now. If it is not, or none is there, stay."""
        if self._spill is None or self._is_ours(self.path):
            return
        try:
            fresh = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return
        if os.fstat(fresh).st_size < HEADER:
            os.close(fresh)
            return
        os.close(self._descriptor)
        self._descriptor = fresh
        self._map()

    def _is_ours(self, path: Path) -> bool:
        try:
            return os.path.samestat(path.stat(), os.fstat(self._descriptor))
        except OSError:
            return False


def _open(path: Path, flags: int = 0) -> int:
    """Open a slot's file, or the one on disk that it links to; make it if it is not there."""
    if path.is_symlink() and not path.exists():
        path.unlink()  # what it links to was removed
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | flags, 0o600)
