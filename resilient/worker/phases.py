"""What the run is doing beside its steps, for the hang detector, and signs of life."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from resilient.errors import UsageError
from resilient.protocol.board import PHASE_NAME_BYTES, WorkerPhase
from resilient.worker.host import Host
from resilient.worker.own_work import OwnWork

_PHASES = {"eval": WorkerPhase.EVALUATION, "evaluation": WorkerPhase.EVALUATION, "save": WorkerPhase.SAVE}
_RESERVED = frozenset({"startup", "step", "stopping", "finished"})  # what the run itself is in


class Stand(Protocol):
    """How far a run is."""

    step: int
    start_step: int
    finished: bool
    left_early: bool


class Phases:
    """The phase that a run is in.

    :param stand: how far it is. Until its first step is over everything is start-up: it may compile for minutes.
    """

    def __init__(self, stand: Stand, host: Host, own_time: OwnWork | None) -> None:
        self._stand = stand
        self._host = host
        self._own_time = own_time
        self._now, self._name = WorkerPhase.STEP, ""

    @contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """See :meth:`resilient.worker.run.Run.phase`."""
        if not name or name in _RESERVED or len(name.encode()) > PHASE_NAME_BYTES or not name.isprintable():
            raise UsageError(
                f"run.phase({name!r}) cannot be the name of a phase",
                f"use a word of at most {PHASE_NAME_BYTES} bytes, other than {', '.join(sorted(_RESERVED))}",
            )
        outer = self._now, self._name
        self._enter(_PHASES.get(name, WorkerPhase.NAMED), name)
        try:
            yield
        finally:
            self._enter(*outer)

    def beat(self, phase: WorkerPhase | None = None) -> None:
        """A sign of progress within a step, or within the phase that the run is in."""
        stand = self._stand
        if stand.step > stand.start_step and not stand.finished and not stand.left_early:
            self._host.beat(self._now if phase is None else phase)

    def _enter(self, phase: WorkerPhase, name: str) -> None:
        self._now, self._name = phase, name
        if self._own_time is not None:
            self._own_time.counts = phase is WorkerPhase.STEP
        if phase is WorkerPhase.NAMED:
            self._host.name_phase(name)
        self.beat(phase)
