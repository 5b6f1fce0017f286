"""Images that go to disk while a worker is still writing them: what waits for each part of them to be final.

Whether they are a snapshot is known at the end alone. Until then the worker may die or find that its copy is void, and
its slot may be begun again; what was read in between was for nothing then, and is thrown away.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from resilient.protocol.arena import Slot, SlotInfo

_POLL_SECONDS = 0.001


class Unfinished(Exception):  # noqa: N818  no error: the copy that was being written is void
    """A slot does not hold what was asked for, nor will it."""


class GrowingImages:
    """The images of one step, by rank.

    A worker does not touch a complete slot that it has held itself. One that was held by the supervisor it may have
    chosen to be written next the moment before; that too is seen at the end.

    :param begun: which image of each slot is meant: how often the slot had been begun.
    :param idle: told the seconds that were spent waiting.
    :raises Unfinished: some slot holds another image, or none.
    """

    def __init__(
        self, slots: Mapping[int, Slot], step: int, begun: Mapping[int, int], idle: Callable[[float], None]
    ) -> None:
        self._slots = slots
        self._step = step
        self._begun = begun
        self._idle = idle
        self._growing = {rank for rank in slots if not self._look(rank).complete}

    def ready(self, rank: int, size: int) -> None:
        """Return when the first ``size`` bytes of an image are final.

        :raises Unfinished: the copy is void, or nobody wants it on disk any more.
        """
        if rank in self._growing:
            self._wait(rank, lambda info: info.reached >= size)

    def settle(self) -> Mapping[str, float]:
        """Return when all images are complete; the metrics of rank 0, if it is among them.

        :raises Unfinished: a copy is void.
        """
        for rank in self._slots:
            self._wait(rank, lambda _: False)
        metrics: Mapping[str, float] = self._slots[0].meta.get("metrics", {}) if 0 in self._slots else {}
        for rank in self._slots:
            self._wait(rank, lambda _: False)  # and nobody has begun the slot again meanwhile
        return metrics

    def _wait(self, rank: int, enough: Callable[[SlotInfo], bool]) -> None:
        """Until the image is complete, or there is enough of it."""
        while not ((info := self._look(rank)).complete or enough(info)):
            began = time.monotonic()
            time.sleep(_POLL_SECONDS)
            self._idle(time.monotonic() - began)

    def _look(self, rank: int) -> SlotInfo:
        info = self._slots[rank].info()
        there = info.complete or info.growing
        if not there or info.step != self._step or info.begun != self._begun[rank]:
            raise Unfinished
        return info
