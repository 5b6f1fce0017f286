"""The supervisor's side of peer memory's helper: requests, answers, and starting it again should it die."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from resilient.nodes.replica_fetch import Source
from resilient.supervisor.helper import Helper
from resilient.supervisor.helper_queue import MAX_DEATHS, HelperQueue


@dataclass(frozen=True)
class Done:
    """What came of a request.

    :param op: ``serve``, ``pull`` or ``fetch``.
    :param answer: what the helper says of it.
    :param problem: why it could not be done; empty where it was.
    :param damaged: it could not be done because images were damaged, or are not the ones that were copied.
    """

    op: str
    answer: dict[str, Any]
    problem: str = ""
    damaged: bool = False


@dataclass(frozen=True)
class Wanted:
    """An image to be fetched.

    :param slot: where it is to lie.
    :param root: checksum that it must have; empty for any.
    :param own: the rank's own slots hold an image of the step, which may be the one.
    :param sources: where else it can be had, the best first.
    """

    rank: int
    slot: str
    root: str
    own: bool
    sources: Sequence[Source]


class Replicas(HelperQueue[Done]):
    """The helper's queue of requests.

    :param memory: the node's memory directory.
    :param host: address of this node, at which the other nodes reach it.
    :param timeout: seconds without progress after which another node is given up.
    :cvar patience_seconds: how long the helper may take for what it does at once, and between two words of progress.
    """

    patience_seconds = 10.0

    def __init__(
        self,
        memory: Path,
        *,
        host: str,
        timeout: float,
        lock: int,
        log: Path,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._arguments = [str(memory), str(os.getpid()), host, str(timeout)]
        self._lock = lock
        self._log = log
        self._clock = clock
        self._number = 0
        self._token = ""
        self._timeout = timeout
        self._heard_at = 0.0
        self._cancelled = False
        super().__init__()

    def _make_helper(self) -> Helper:
        return Helper("resilient.nodes.replica_process", self._arguments, lock=self._lock, log=self._log)

    def serve(self, token: str) -> None:
        """Give images to whoever has this token, from now on, and ask with it."""
        self._token = token
        self._request("serve")

    def pull(
        self, images: Sequence[Source], set_name: str, keep: Collection[str], *, bytes_per_second: float = 0.0
    ) -> None:
        """Copy images of other nodes' ranks into replicas of one set.

        :param keep: sets whose replicas stay as they are.
        """
        bodies = [asdict(source) for source in images]
        rate = {"bytes_per_second": bytes_per_second}
        self._request("pull", images=bodies, set=set_name, keep=sorted(keep), **rate)

    def fetch(self, step: int, images: Sequence[Wanted], spill: Path | None) -> None:
        """Bring images of this node's ranks into their slots, while no worker is up. They are not complete then."""
        bodies = [asdict(wanted) for wanted in images]
        self._request("fetch", step=step, images=bodies, spill=str(spill or ""))

    def cancel(self) -> None:
        """What is being copied for replicas is not wanted any more; the answer says so."""
        if self._queue and self._queue[0]["op"] == "pull" and not self._cancelled:
            self._cancelled, self._heard_at = True, self._clock()
            if self._up:
                self._helper.send({"op": "cancel", "id": self._queue[0]["id"]})

    def check(self) -> None:
        """Kill a helper that is silent; the next one will not be. To be called often."""
        if not self._queue:
            return
        waits = self._queue[0]["op"] != "serve" and not self._cancelled  # for another node
        patience = self.patience_seconds + (self._timeout if waits else 0.0)
        if self._clock() - self._heard_at > patience:
            self.restart()

    def restart(self) -> None:
        """Kill the helper, which may have been stopped, and forget what it was to do."""
        self._stop()
        self._queue.clear()

    def receive(self) -> Done | None:
        """The answer to the oldest request; call it when :attr:`connection` is readable."""
        message = self._helper.receive()
        if message is None:
            self._deaths = MAX_DEATHS  # it is not asked again: the leader will, if it is still wanted
            return self._died()
        self._deaths = 0
        if message["op"] == "progress":
            self._heard_at = self._clock()
            return None
        operation = self._queue[0]["op"]
        self._next()
        return Done(operation, message, str(message.get("problem", "")), bool(message.get("damaged")))

    @property
    def up(self) -> bool:
        """Whether there is a helper, as far as is known."""
        return self._up

    def _request(self, operation: str, **body: Any) -> None:
        self._number += 1
        self._ask({"op": operation, "id": self._number, **body})

    def _sending(self, request: dict[str, Any]) -> None:
        request["token"] = self._token  # with each one: the helper may be another than the one before
        self._heard_at, self._cancelled = self._clock(), False

    def _given_up(self, request: dict[str, Any], words: str) -> Done:
        return Done(str(request["op"]), {}, f"the helper of peer memory died: {words}")

    def close(self) -> None:
        """End it at once: whatever it is doing can be done again."""
        self._stop()
