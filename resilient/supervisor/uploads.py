"""The supervisor's side of the uploader: requests, answers, and starting it again should it die."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resilient.policy.lineage import Lineage
from resilient.protocol.arena import Slot
from resilient.protocol.remote_settings import RemoteSettings
from resilient.supervisor.drain_answers import Rejected, Restored, RestoreFailed
from resilient.supervisor.helper import Helper
from resilient.supervisor.helper_queue import MAX_DEATHS, HelperQueue


@dataclass(frozen=True)
class Remote:
    """A snapshot that may be loaded from the remote tier.

    :param round: that took it.
    :param term: whose leader committed it.
    """

    identity: str
    created: float
    round: int = 0
    term: int = 0


@dataclass(frozen=True)
class RemoteListed:
    """What lies in the remote tier, by step.

    :param damaged: how many snapshots there cannot be loaded.
    :param lineage: as the one that was made last has it.
    """

    snapshots: Mapping[int, Remote]
    damaged: int
    lineage: Lineage = field(default_factory=Lineage)


@dataclass(frozen=True)
class ListingFailed:
    """Nothing is known of the remote tier."""

    problem: str


@dataclass(frozen=True)
class Uploaded:
    """A snapshot is committed in the remote tier.

    :param sent: bytes that were not there yet.
    :param removed: steps that retention there no longer wanted.
    :param problem: why what is not wanted could not be removed.
    :param round: that took it.
    """

    step: int
    identity: str
    created: float
    bytes: int
    sent: int
    seconds: float
    removed: tuple[int, ...]
    problem: str = ""
    round: int = 0
    term: int = 0


@dataclass(frozen=True)
class UploadFailed:
    """A snapshot is not in the remote tier.

    :param lost: trying again would not help, for the local copy cannot be read.
    """

    step: int
    problem: str
    lost: bool = False


@dataclass(frozen=True)
class Fetched:
    """A remote snapshot was verified and is one of the local tier now."""

    step: int
    seconds: float


Answer = Fetched | RemoteListed | ListingFailed | Uploaded | UploadFailed | Restored | Rejected | RestoreFailed


class Uploads(HelperQueue[Answer]):
    """The uploader's queue of requests."""

    def __init__(self, settings: RemoteSettings, snapshots: Path, run_id: str, *, lock: int, log: Path) -> None:
        self.settings = settings
        self._arguments = [str(snapshots), str(os.getpid()), run_id, json.dumps(settings.to_json())]
        self._lock = lock
        self._log = log
        super().__init__()

    def _make_helper(self) -> Helper:
        return Helper("resilient.supervisor.upload_process", self._arguments, lock=self._lock, log=self._log)

    @property
    def uploading(self) -> int | None:
        """The step that is being uploaded, if one is."""
        return next((request["step"] for request in self._queue if request["op"] == "upload"), None)

    def list(self) -> None:
        """Ask what lies there."""
        self._ask({"op": "list"})

    def upload(self, step: int, lineage: Mapping[str, Any]) -> None:
        """Ask for the local snapshot of ``step`` to be copied, and what is not on the lineage to be deleted there.

        :param lineage: as JSON.
        """
        self._ask({"op": "upload", "step": step, "lineage": dict(lineage)})

    def forget_after(self, step: int) -> None:
        """Later snapshots than ``step`` are not to be uploaded any more."""
        doomed = [request for request in self._queue if request["op"] == "upload" and request["step"] > step]
        if not doomed:
            return
        if self._queue[0] in doomed:
            self._stop()
        first = self._queue[0]
        self._queue = deque(request for request in self._queue if request not in doomed)
        if first in doomed:
            self._send_oldest()

    def restore(
        self, step: int, slots: Mapping[int, Slot], sequence: int, lineage: Mapping[str, Any], *, fetch: bool
    ) -> None:
        """Ask for a snapshot to be read into ``slots``. An upload that is under way gives way: training waits for this,
        and what has been sent of it lies there.

        :param lineage: as JSON; copies that are not on it are passed over.
        :param fetch: it is to become a snapshot of the local tier instead, and the slots are left as they are.
        """
        paths = {str(rank): str(slot.path) for rank, slot in slots.items()}
        if self._queue:
            self._stop()
        request = {"op": "restore", "step": step, "slots": paths, "sequence": sequence, "lineage": dict(lineage)}
        self._queue.appendleft({**request, "fetch": fetch})
        self._send()

    def abandon(self) -> None:
        """Forget all requests; what has been uploaded so far lies there."""
        if self._queue:
            self._stop()
        self._queue.clear()

    def receive(self) -> Answer | None:
        """The answer to the oldest request; call it when :attr:`connection` is readable."""
        message = self._helper.receive()
        if message is None:
            return self._died()
        self._deaths = 0
        self._next()
        event = message["event"]
        if event == "listed":
            found = {step: Remote(*known) for step, *known in message["snapshots"]}
            return RemoteListed(found, message["damaged"], _lineage(message["lineage"]))
        if event == "uploaded":
            body = {name: value for name, value in message.items() if name not in {"event", "removed"}}
            return Uploaded(**body, removed=tuple(message["removed"]))
        if event == "restored":
            known = {name: message[name] for name in ("durations", "divergence")}
            return Restored(message["step"], message["identity"], message["seconds"], **known)
        if event == "fetched":
            return Fetched(message["step"], message["seconds"])
        if event == "rejected":
            return Rejected(message["step"], message["reason"], message["kept_as"])
        return _failed(message, message["problem"], lost=message["lost"])

    def _given_up(self, request: dict[str, Any], words: str) -> Answer:
        return _failed(request, f"the uploader died {MAX_DEATHS} times over it: {words}")

    def close(self) -> None:
        """End it at once: whatever it is doing can be taken up by the next one."""
        self._stop()


def _lineage(saved: Any) -> Lineage:
    """From a manifest; of an older release it has none."""
    try:
        return Lineage.from_json(saved)
    except ValueError:
        return Lineage()


def _failed(request: Mapping[str, Any], problem: str, *, lost: bool = False) -> Answer:
    if request["op"] == "list":
        return ListingFailed(problem)
    if request["op"] == "restore":
        return RestoreFailed(request["step"], problem)
    return UploadFailed(request["step"], problem, lost)
