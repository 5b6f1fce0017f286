"""Brings an image into a slot of this node: from another node, or from another place in this node's memory."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resilient.errors import SnapshotCorrupt
from resilient.nodes.image_stream import CHUNK, copy_image, receive_image, root_of
from resilient.nodes.peer_link import Link, Refused
from resilient.nodes.replica_files import ReplicaFiles, untagged
from resilient.protocol.slot import Slot
from resilient.protocol.slot_header import HEADER, SlotInfo

_MOST = 1 << 50  # bytes of an image; more is nonsense, for which no memory is reserved


@dataclass(frozen=True)
class Source:
    """Where an image can be had.

    :param address: of the node's server; empty for this node.
    :param set: of a replica; empty for what the rank itself has written.
    :param begun: which image of the slot, where that is known.
    """

    rank: int
    step: int
    address: str = ""
    set: str = ""
    begun: int | None = None

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Source:
        return cls(**body)


@dataclass(frozen=True)
class Got:
    """What was received."""

    size: int
    root: str
    meta: Mapping[str, Any]


class Fetcher:
    """Fills slots.

    :param spend: called often, with the number of bytes that come next; it may wait, or raise to end it.
    """

    def __init__(self, files: ReplicaFiles, token: str, timeout: float, spend: Callable[[int], None]) -> None:
        self._files = files
        self._token = token
        self._timeout = timeout
        self._spend = spend
        self._link: Link | None = None

    def hang_up(self) -> None:
        """From another thread: end the conversation that is going on."""
        link = self._link
        if link is not None:
            link.hang_up()

    def fill(self, slot: Slot, source: Source) -> Got:
        """Begin the slot and bring the image into it. It is the caller's to complete it.

        :raises SnapshotCorrupt: it was damaged on its way.
        :raises Refused: there is no such image, or it was overwritten meanwhile.
        :raises StorageFull: there is no room for it here.
        :raises OSError: it cannot be reached.
        """
        return self._from_peer(slot, source) if source.address else self._from_here(slot, source)

    def verify(self, source: Source, root: str) -> bool:
        """Whether the image that lies here is the one with this root; with none, whether it is here."""
        image = self._files.find(source.rank, source.step, replica_of=source.set, begun=source.begun)
        if image is None:
            return False
        if not root:
            return True
        with _mapped(image.path) as (_, view):
            return root_of(view) == root

    def _from_peer(self, slot: Slot, source: Source) -> Got:
        request = {"rank": source.rank, "step": source.step, "set": source.set, "begun": source.begun}
        link = self._link = Link.ask(source.address, self._token, request, self._timeout)
        try:
            told = link.receive_answer()
            if int(told["chunk"]) != CHUNK or not 0 <= int(told["size"]) < _MOST:
                raise Refused(f"{source.address} runs another release")
            self._begin(slot, source.step, int(told["size"]))
            image = slot.image
            try:
                root = receive_image(link.connection, image, self._spend)
            finally:
                image.release()
            link.receive_answer()  # that it was whole all the time
            return Got(int(told["size"]), root, told["meta"])
        finally:
            self._link = None
            link.close()

    def _begin(self, slot: Slot, step: int, size: int) -> None:
        """With room for an image, which takes its time where the memory is new."""

        def look() -> bool:
            self._spend(0)
            return False

        slot.prepare(size, grow=True, interrupted=look)
        slot.begin(step, size)

    def _from_here(self, slot: Slot, source: Source) -> Got:
        image = self._files.find(source.rank, source.step, replica_of=source.set, begun=source.begun)
        found = None if image is None else SlotInfo.peek_with_meta(image.path)
        if image is None or found is None:
            raise Refused(f"rank {source.rank} has no image of step {source.step} here")
        with _mapped(image.path) as (info, view):
            self._begin(slot, source.step, info.size)
            target = slot.image
            try:
                root = copy_image(view, target, self._spend)
            finally:
                target.release()
            return Got(info.size, root, untagged(found[1]))


def first_sound(fetcher: Fetcher, slot: Slot, sources: Sequence[Source], root: str, problem: str = "") -> Got:
    """Fill the slot from the first source that has the image with this root (any, where it is empty).

    :param problem: what is wrong with the image that lies here already.
    :raises SnapshotCorrupt: some could be read, and none of them is that image.
    :raises OSError: none could be read.
    """
    problems, damaged = [problem] if problem else [], bool(problem)
    for source in sources:
        try:
            got = fetcher.fill(slot, source)
        except SnapshotCorrupt as error:
            damaged = True
            problems.append(f"{source.address or 'here'}: {error.problem}")
        except OSError as error:
            problems.append(f"{source.address or 'here'}: {error}")
        else:
            if root in ("", got.root):
                return got
            damaged = True
            problems.append(f"{source.address or 'here'}: it is not the image that was copied")
    told = "; ".join(problems) or "nobody has it"
    raise SnapshotCorrupt(told) if damaged else Refused(told)


@contextmanager
def _mapped(path: Path) -> Iterator[tuple[SlotInfo, memoryview]]:
    """A slot's image, to be read."""
    info = SlotInfo.peek(path)
    if info is None:
        raise Refused(f"{path.name} holds no image any more")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as memory:
        whole = memoryview(memory)
        view = whole[HEADER : HEADER + info.size]
        try:
            yield info, view
        finally:
            view.release()
            whole.release()
