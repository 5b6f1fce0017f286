"""The supervisor's side of the drain: requests, answers, and starting it again should it die."""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resilient.protocol.arena import Slot
from resilient.supervisor.helper import Helper


@dataclass(frozen=True)
class Persisted:
    """A snapshot is durable."""

    step: int
    identity: str
    bytes: int
    seconds: float
    removed: tuple[int, ...]


@dataclass(frozen=True)
class PersistFailed:
    """A snapshot could not be made durable; its images are still in memory."""

    step: int
    problem: str


@dataclass(frozen=True)
class Restored:
    """A snapshot was verified and lies in the slots."""

    step: int
    identity: str
    seconds: float


@dataclass(frozen=True)
class Rejected:
    """A snapshot failed verification and was set aside as ``kept_as``."""

    step: int
    reason: str
    kept_as: str


@dataclass(frozen=True)
class RestoreFailed:
    """A snapshot could not be read into the slots, though nothing is known to be wrong with it."""

    step: int
    problem: str


Answer = Persisted | PersistFailed | Restored | Rejected | RestoreFailed
_MAX_DEATHS = 3


class Drain:
    """Sends one request at a time; requests that a dead drain did not answer are sent to its successor."""

    def __init__(self, snapshots: Path, *, lock: int, log: Path) -> None:
        self._snapshots = snapshots
        self._lock = lock
        self._log = log
        self._queue: deque[dict[str, Any]] = deque()
        self._deaths = 0
        self._idle = socket.socketpair()  # never readable: what stands for the connection while there is none
        self._start()

    def _start(self) -> None:
        self._up = True
        arguments = [str(self._snapshots), str(os.getpid())]
        module = "resilient.supervisor.drain_process"
        self._helper = Helper(module, arguments, lock=self._lock, log=self._log)

    @property
    def connection(self) -> socket.socket:
        """Readable when :meth:`receive` should be called. It is another one once the helper had to be started again."""
        return self._helper.connection if self._up else self._idle[0]

    @property
    def busy(self) -> bool:
        return bool(self._queue)

    def pending(self, step: int) -> bool:
        """Whether ``step`` is being made durable or waits for it."""
        return any(request["op"] == "persist" and request["step"] == step for request in self._queue)

    def persist(self, step: int, slots: Mapping[int, Slot], details: Mapping[str, Any]) -> None:
        """Ask for a durable snapshot of the images in ``slots`` (by rank), which are held until the answer is here."""
        self._ask({"op": "persist", "step": step, "slots": _paths(slots), **details})

    def restore(self, step: int, slots: Mapping[int, Slot], sequence: int) -> None:
        """Ask for a snapshot to be read into ``slots``."""
        self._ask({"op": "restore", "step": step, "slots": _paths(slots), "sequence": sequence})

    def _ask(self, request: dict[str, Any]) -> None:
        self._queue.append(request)
        if len(self._queue) == 1:
            self._send()

    def receive(self) -> Answer | None:
        """The answer to the oldest request; call it when :attr:`connection` is readable."""
        message = self._helper.receive()
        if message is None:
            return self._died()
        self._deaths = 0
        self._next()
        if message["event"] == "persisted":
            return Persisted(
                message["step"],
                message["identity"],
                message["bytes"],
                message["seconds"],
                tuple(message["removed"]),
            )
        if message["event"] == "restored":
            return Restored(message["step"], message["identity"], message["seconds"])
        if message["event"] == "rejected":
            return Rejected(message["step"], message["reason"], message["kept_as"])
        if message.get("op") == "restore":
            return RestoreFailed(message["step"], message["problem"])
        return PersistFailed(message["step"], message["problem"])

    def _died(self) -> Answer | None:
        self._deaths += 1
        words = self._helper.last_words(400)
        self._helper.close()
        self._up = False
        if not self._queue:
            return None  # the next request starts it again; a drain that cannot live must not be respawned for ever
        if self._deaths < _MAX_DEATHS:
            self._send()
            return None
        self._deaths = 0
        request = self._queue[0]
        self._next()
        problem = f"the drain died {_MAX_DEATHS} times over it: {words}"
        if request["op"] == "restore":
            return RestoreFailed(request["step"], problem)
        return PersistFailed(request["step"], problem)

    def _next(self) -> None:
        self._queue.popleft()
        if self._queue:
            self._send()

    def _send(self) -> None:
        """Send the oldest request; a drain that dies of it is found out by the next :meth:`receive`."""
        if not self._up:
            self._start()
        self._helper.send(self._queue[0])

    @property
    def pid(self) -> int:
        """Process number of the drain."""
        return self._helper.pid

    def close(self) -> None:
        if self._up:
            self._helper.close()


def _paths(slots: Mapping[int, Slot]) -> dict[str, str]:
    return {str(rank): str(slot.path) for rank, slot in slots.items()}
