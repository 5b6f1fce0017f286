"""The supervisor's side of the drain: requests, answers, and starting it again should it die."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from resilient.policy.flush import Writing
from resilient.protocol.arena import Slot
from resilient.supervisor.drain_answers import TIDYING, Answer, answer_in, failed
from resilient.supervisor.helper import Helper
from resilient.supervisor.helper_queue import MAX_DEATHS, HelperQueue

_WRITING = frozenset({"persist", "persist_part"})
_MAKING = _WRITING | {"commit_parts"}


class Drain(HelperQueue[Answer]):
    """The drain's queue of requests.

    :ivar rate: bytes per second from a slot to durable, as the last snapshot went, time that a limit has cost not
        counted; 0 before the first.
    """

    reap_seconds = 10.0  # its disk may be slow to let go of it

    def __init__(
        self,
        snapshots: Path,
        *,
        lock: int,
        log: Path,
        clock: Callable[[], float] = time.monotonic,
        sweeps: bool = True,
    ) -> None:
        """Start it.

        :param sweeps: whether it removes unfinished snapshots whenever it is started. Where several nodes write into
            one directory they may be another one's, and somebody who knows has to :meth:`sweep`.
        """
        self._sweeps = sweeps
        self.rate = 0.0
        self._clock = clock
        self._sent_at = 0.0
        self._waited = 0.0  # what a limit has cost the one that is being written
        self._writing: Writing | None = None
        self._snapshots = snapshots
        self._lock = lock
        self._log = log
        super().__init__()

    def _make_helper(self) -> Helper:
        arguments = [str(self._snapshots), str(os.getpid()), *([] if self._sweeps else ["keep"])]
        return Helper("resilient.supervisor.drain_process", arguments, lock=self._lock, log=self._log)

    def pending(self, step: int) -> bool:
        """Whether ``step`` is being made durable or waits for it."""
        return any(request["op"] in _MAKING and request["step"] == step for request in self._queue)

    @property
    def writing(self) -> Writing | None:
        """What is being made durable now, and how far that is."""
        return self._writing

    @property
    def current_rate(self) -> float:
        """Bytes per second that the disk takes, as seen with what is being written now or with the last one, whichever
        is less; 0 if nothing is known.

        The first pieces of a file say little, for they may only have gone into a cache.
        """
        elapsed = self._clock() - self._sent_at - self._waited
        written = self._writing.written if self._writing is not None else 0
        enough = self._writing is not None and written >= self._writing.size // 4
        if elapsed <= 0 or not written or (self.rate and not enough):
            return self.rate
        seen = written / elapsed
        return min(seen, self.rate) if self.rate else seen

    @property
    def growing(self) -> bool:
        """Whether what is being made durable was still being written when that was asked for."""
        return bool(self._queue) and bool(self._queue[0].get("growing"))

    def hurry(self) -> None:
        """Let what is being written now, and what waits behind it, be written without a limit."""
        for request in self._queue:
            request["write_bytes_per_second"] = 0.0
        if self._up and self._writing is not None:
            self._helper.send({"op": "hurry"})

    def forget(self, keep: Collection[int]) -> None:
        """Drop what waits to be made durable, but for the steps in ``keep``."""
        current, *waiting = self._queue or [None]
        wanted = [request for request in waiting if request and (request["step"] in keep or request["op"] in TIDYING)]
        self._queue = deque([current, *wanted] if current else [])

    def abandon(self) -> None:
        """Cut off what is being written or read now, and go on with what waits.

        A snapshot that is cut off does not exist: its temporary directory goes when the drain is started again.
        """
        if not self._queue or self._queue[0]["op"] in TIDYING:
            return
        self._stop()
        self._next()

    def discard_after(self, step: int, lineage: Mapping[str, Any]) -> None:
        """The run goes on from ``step``: forget what of later ones waits to be made durable, cut off one that is being
        written, and set aside those that are.

        :param lineage: as JSON; it says which.
        """
        current, *waiting = self._queue or [None]
        wanted = [request for request in waiting if request and not _is_later(request, step)]
        self._queue = deque([current, *wanted] if current else [])
        if current is not None and _is_later(current, step):
            self.abandon()
        self.set_aside(lineage)

    def set_aside(self, lineage: Mapping[str, Any]) -> None:
        """Ask for snapshots that are not on the lineage to be renamed."""
        self._ask({"op": "set_aside", "step": 0, "lineage": dict(lineage)})

    def delete_discarded(self) -> None:
        """Ask for what was renamed so to be deleted."""
        self._ask({"op": "delete_discarded", "step": 0})

    def persist(self, step: int, slots: Mapping[int, Slot], details: Mapping[str, Any]) -> None:
        """Ask for a durable snapshot of the images in ``slots`` (by rank), which are held until the answer is here.

        They may still be being written; then it may turn out :class:`Unfinished`.
        """
        self._ask({"op": "persist", "step": step, **_images(slots), **details})

    def persist_part(self, step: int, slots: Mapping[int, Slot], details: Mapping[str, Any], staging: str) -> None:
        """Ask for this node's part of a snapshot of several nodes: answered by :class:`PartWritten`, or as
        :meth:`persist`.

        :param details: with ``world_size``, the number of all ranks; and on the leader alone with ``retention``, for it
            makes room for all.
        :param staging: name of the directory that all nodes write into; see
            :func:`resilient.snapshot.commit.temporary_name`.
        """
        self._ask({"op": "persist_part", "step": step, "staging": staging, **_images(slots), **details})

    def commit_parts(
        self, step: int, staging: str, parts: Sequence[Mapping[str, Any]], details: Mapping[str, Any]
    ) -> None:
        """Ask for the parts of all nodes to become a snapshot: :class:`Persisted`, :class:`PersistFailed`, or
        :class:`Fenced`.

        :param details: with ``term``, that of the leader that asks, and ``world_size``.
        """
        parts = [dict(part) for part in parts]
        self._ask({"op": "commit_parts", "step": step, "staging": staging, "parts": parts, **details})

    def drop_parts(self, staging: str) -> None:
        """Ask for an unfinished snapshot of several nodes to be removed."""
        self._ask({"op": "drop_parts", "step": 0, "staging": staging})

    def sweep(self) -> None:
        """Ask for all unfinished snapshots to be removed; of several nodes, the leader does when its term begins."""
        self._ask({"op": "sweep", "step": 0})

    def restore(
        self,
        step: int,
        slots: Mapping[int, Slot],
        sequence: int,
        *,
        reshard: bool = False,
        world_size: int | None = None,
    ) -> None:
        """Ask for a snapshot to be read into ``slots``.

        :param reshard: one of another number of ranks is only verified, and the slots are left as they are.
        :param world_size: number of all ranks, where this node has some of them.
        """
        request = {"op": "restore", "step": step, "slots": _paths(slots), "sequence": sequence}
        self._ask({**request, "reshard": reshard, "world_size": world_size or len(slots)})

    def receive(self) -> Answer | None:
        """The answer to the oldest request; call it when :attr:`connection` is readable."""
        message = self._helper.receive()
        if message is None:
            return self._died()
        self._deaths = 0
        if message["event"] == "progress":
            if self._writing is not None:
                self._writing, self._waited = replace(self._writing, written=message["written"]), message["waited"]
            return None
        request = self._queue[0]
        self._next()
        if "image_bytes" in message and request["op"] in _WRITING:
            self.rate = message["image_bytes"] / max(message["seconds"] - message["waited"], 1e-6)
        return answer_in(message)

    def late(self) -> Answer | None:
        """An answer of another node's drain, where there are any; none else is late."""
        return None

    def _given_up(self, request: dict[str, Any], words: str) -> Answer:
        problem = f"the drain died {MAX_DEATHS} times over it: {words}"
        return failed(request["op"], {**request, "problem": problem})

    def _send_oldest(self) -> None:
        self._writing = None
        super()._send_oldest()

    def _sending(self, request: dict[str, Any]) -> None:
        self._sent_at, self._waited = self._clock(), 0.0
        if request["op"] in _WRITING:
            self._writing = Writing(request["step"], request["size"])

    def close(self) -> None:
        if self._up:
            self._helper.close()


def _is_later(request: Mapping[str, Any], step: int) -> bool:
    return request["op"] in _MAKING and int(request["step"]) > step


def _images(slots: Mapping[int, Slot]) -> dict[str, Any]:
    """What a request says of images, which may be growing."""
    infos = {str(rank): slot.info() for rank, slot in slots.items()}
    return {
        "size": sum(info.size for info in infos.values()),
        "slots": _paths(slots),
        "begun": {rank: info.begun for rank, info in infos.items()},
        "growing": not all(info.complete for info in infos.values()),
    }


def _paths(slots: Mapping[int, Slot]) -> dict[str, str]:
    return {str(rank): str(slot.path) for rank, slot in slots.items()}
