"""What a tracker is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from resilient.protocol.paths import RunPaths
from resilient.protocol.tracker_settings import TrackersSettings
from resilient.trackers.details import Details


@dataclass(frozen=True)
class Context:
    """What a tracker is made with.

    :param config: of the run, without secrets.
    :param say: tells the person at the terminal; no secret may be in it.
    """

    paths: RunPaths
    settings: TrackersSettings
    identity: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    say: Callable[[str], None] = lambda _: None


class Tracker:
    """One hook for each kind of details; those that are not overridden call :meth:`told`, which does nothing.

    Any hook may raise or take its time: only this tracker comes to a halt. What it raised at is tried again, by
    another object that is made with the same context and the :attr:`state` of this one.

    :cvar settle_seconds: what was told so long ago is safe, should this process be killed; later things are told again.
    :ivar state: plain values, kept beside how far it has come, and given back to its successor by :meth:`resume`.
    """

    settle_seconds: float = 0.0

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on from a predecessor's state; called before anything is told, where there is one."""
        self.state = dict(state)

    def handle(self, details: Details) -> None:
        getattr(self, details.kind.value)(details)

    def told(self, details: Details) -> None:
        """What is done where nothing else is."""

    def started(self, details: Details) -> None:
        self.told(details)

    def metrics(self, details: Details) -> None:
        self.told(details)

    def snapshot(self, details: Details) -> None:
        self.told(details)

    def incident(self, details: Details) -> None:
        self.told(details)

    def rollback(self, details: Details) -> None:
        self.told(details)

    def preempting(self, details: Details) -> None:
        self.told(details)

    def resumed(self, details: Details) -> None:
        self.told(details)

    def ended(self, details: Details) -> None:
        self.told(details)

    def flush(self) -> None:
        """There is nothing more for now. Afterwards what was told counts as done."""

    def close(self) -> None:
        """There will be nothing more; also called after a hook has raised, and may raise itself then."""
