"""Peer memory's helper: gives images to other nodes, and copies theirs into this node's memory, as its own process.

A network that hangs must delay neither the supervisor nor the drain. It only reads slots of the node's own ranks while
their workers run; it keeps no state but the address it listens at, and can be killed at any moment. Run as
``python -m resilient.nodes.replica_process FD LOCK MEMORY PARENT HOST TIMEOUT``.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from resilient.errors import ResilientError, SnapshotCorrupt
from resilient.nodes.replica_fetch import Fetcher, Source, first_sound
from resilient.nodes.replica_files import ReplicaFiles, tagged
from resilient.nodes.replica_server import ReplicaServer
from resilient.protocol import job_signals, wire
from resilient.protocol.parent import die_with_parent
from resilient.protocol.slot import Slot
from resilient.protocol.spill import Spill
from resilient.snapshot.upload import Pace

_TOLD_SECONDS = 1.0  # between two words of progress


class Cancelled(ConnectionError):  # noqa: N818  named by condition, as all our errors
    """The supervisor does not want it any more."""


class Replicator:
    """Carries out requests, one at a time, in a thread of its own."""

    def __init__(
        self, files: ReplicaFiles, server: ReplicaServer, timeout: float, tell: Callable[[wire.Message], None]
    ) -> None:
        """Nothing is done yet.

        :param tell: takes word of progress, for the supervisor.
        """
        self._files = files
        self._tell = tell
        self._told_at = 0.0
        self._server = server
        self._timeout = timeout
        self._cancelled = 0  # the last request that is
        self._fetcher: Fetcher | None = None
        self._used = time.process_time()

    def cancel(self, request: int) -> None:
        """From another thread: end what is being copied for replicas, up to this request."""
        self._cancelled = max(self._cancelled, request)
        if self._fetcher is not None:
            self._fetcher.hang_up()

    def _progress(self) -> None:
        if time.monotonic() - self._told_at > _TOLD_SECONDS:
            self._told_at = time.monotonic()
            self._tell({"op": "progress"})

    def answer(self, request: Mapping[str, Any]) -> wire.Message:
        """Carry a request out; what came of it."""
        began, self._server.token = time.monotonic(), str(request["token"])
        try:
            done = {"serve": self._serve, "pull": self._pull, "fetch": self._fetch}[request["op"]](request)
        except SnapshotCorrupt as error:
            return {**_failed(request, error.problem), "damaged": True}
        except ResilientError as error:
            return _failed(request, error.problem)
        except OSError as error:
            return _failed(request, str(error) or repr(error))
        seconds = round(time.monotonic() - began, 6)
        return {"op": request["op"], "address": self._server.address, "seconds": seconds, **done}

    def _serve(self, _request: Mapping[str, Any]) -> wire.Message:
        return {}

    def _pull(self, request: Mapping[str, Any]) -> wire.Message:
        """Copy images of other nodes' ranks into replicas of one set."""
        pace, roots, size = Pace(float(request["bytes_per_second"])), {}, 0

        def spend(count: int) -> None:
            if request["id"] <= self._cancelled:
                raise Cancelled("it is not wanted any more")
            self._progress()
            pace.spend(count)

        fetcher = self._fetcher = Fetcher(self._files, self._server.token, self._timeout, spend)
        try:
            for body in request["images"]:
                source = Source.of(body)
                slot = self._files.target(source.rank, request["keep"])
                try:
                    got = fetcher.fill(slot, source)
                    slot.complete(1, tagged(got.meta, request["set"]), hold=False)
                finally:
                    slot.close()
                roots[str(source.rank)], size = got.root, size + got.size
        finally:
            self._fetcher = None
        return {"set": request["set"], "roots": roots, "bytes": size, "busy": self._busy()}

    def _busy(self) -> float:
        """Since the last time this was asked: seconds for which the helper, what it gives to others among it, would
        have kept all processors of the node busy.
        """
        before, self._used = self._used, time.process_time()
        return round((self._used - before) / (os.cpu_count() or 1), 6)

    def _fetch(self, request: Mapping[str, Any]) -> wire.Message:
        """Bring the images of the node's own ranks into slots, while no worker is up. The supervisor completes them
        when all nodes have theirs.
        """
        fetcher, size = Fetcher(self._files, self._server.token, self._timeout, lambda _count: self._progress()), 0
        with ExitStack() as stack:
            filled: dict[str, Mapping[str, Any]] = {}
            for body in request["images"]:
                rank, root = int(body["rank"]), str(body["root"])
                if body["own"] and fetcher.verify(Source(rank, request["step"]), root):
                    continue
                problem = f"rank {rank}'s own image is not the one that was copied" if body["own"] else ""
                slot = Slot(Path(body["slot"]), 0, Spill(Path(request["spill"])) if request["spill"] else None)
                stack.callback(slot.close)
                sources = [Source.of(source) for source in body["sources"]]
                got = first_sound(fetcher, slot, sources, root, problem)
                filled[str(rank)] = got.meta
                size += got.size
        return {"filled": filled, "bytes": size}


def _failed(request: Mapping[str, Any], problem: str) -> wire.Message:
    return {"op": request["op"], "problem": problem}


def main(arguments: list[str]) -> int:
    """Answer requests until the supervisor is gone."""
    connection = wire.own_end(arguments)
    die_with_parent(int(arguments[3]))
    job_signals.ignore()
    files, timeout = ReplicaFiles(Path(arguments[2])), float(arguments[5])
    server = ReplicaServer(files, arguments[4], timeout)
    replicator = Replicator(files, server, timeout, lambda message: wire.send(connection, message))
    requests: queue.SimpleQueue[wire.Message] = queue.SimpleQueue()

    def work() -> None:
        while True:
            request = requests.get()
            try:
                answer = replicator.answer(request)
            except Exception as error:  # noqa: BLE001  one failed request must not end the helper
                answer = _failed(request, repr(error))
            wire.send(connection, answer)

    threading.Thread(target=work, name="resilient-replicator", daemon=True).start()
    while (request := wire.receive(connection)) is not None:
        if request["op"] == "cancel":
            replicator.cancel(request["id"])
        else:
            requests.put(request)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
