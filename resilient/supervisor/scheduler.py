"""What stands above the supervisor and may end or restart it: nothing but signals, or a batch system.

The supervisor asks three things of it: what a signal means and how long there is, when the run has to leave by itself,
and whether a run that has to leave comes back without anybody's doing.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from resilient.policy.decisions import EndRun
from resilient.policy.events import StopKind
from resilient.policy.state import StopSettings
from resilient.protocol import job_signals
from resilient.supervisor.journal import Journal


@dataclass(frozen=True)
class Notice:
    """The run has to leave; or, if it knew that, this is how long it really has.

    :param grace: seconds from now until the process is killed from outside.
    :param patient: nobody kills it then; see :class:`~resilient.policy.events.StopRequested`.
    :param reason: what is said to whoever looks on.
    """

    kind: StopKind
    grace: float
    reason: str
    patient: bool = False


@dataclass(frozen=True)
class Needed:
    """What leaving in good order is known to take, in seconds.

    :param step: until the workers are at a step boundary.
    :param flush: until their last snapshot is durable.
    """

    step: float = 0.0
    flush: float = 0.0

    def grace(self, settings: StopSettings) -> float:
        """The grace that is enough for it, as the run shares it out."""
        asked = self.step / settings.ask_fraction if settings.ask_fraction else self.step
        return max(asked, (self.step + self.flush) / (settings.flush_fraction or 1.0))


class Scheduler(Protocol):
    """See the module; calls come in this order, from one thread."""

    def begin(
        self, entries: Iterable[Mapping[str, Any]], step: int | None, journal: Journal, say: Callable[[str], None]
    ) -> None:
        """The run is ours, and nothing of it is up.

        :param entries: of its journal so far.
        :param step: newest durable step; None where that is not ours to know.
        :raises ResilientError: the run has come back too often, and is not to be started again.
        """

    def signalled(self, number: signal.Signals, *, stopping: bool) -> Notice | None:
        """A signal has reached the supervisor; None if nothing is to be done about it yet.

        :param stopping: the run was to leave already.
        """

    def poll(self, needed: Callable[[], Needed]) -> Notice | None:
        """Asked all the time: whether something has become known, or the time has come."""

    def conclude(self, ending: EndRun, reached: int) -> EndRun:
        """The run ends here: its ending, and what becomes of it.

        :param reached: the last step from which it could go on.
        """

    def leave(self) -> None:
        """The last thing that is done: everything is written and nothing is running. Does not raise."""


class Unscheduled:
    """Nobody but whoever sends signals: who sends two is in a hurry."""

    def __init__(self, settings: StopSettings) -> None:
        self._settings = settings

    def begin(
        self, entries: Iterable[Mapping[str, Any]], step: int | None, journal: Journal, say: Callable[[str], None]
    ) -> None:
        pass

    def signalled(self, number: signal.Signals, *, stopping: bool) -> Notice | None:  # noqa: ARG002
        grace = self._settings.grace_seconds
        reason = f"{number.name} received: asking the workers to save and leave ({grace:g} s of grace)"
        return Notice(kind_of(number, self._settings), grace, reason, patient=number is signal.SIGINT)

    def poll(self, needed: Callable[[], Needed]) -> Notice | None:  # noqa: ARG002
        return None

    def conclude(self, ending: EndRun, reached: int) -> EndRun:  # noqa: ARG002
        return ending

    def leave(self) -> None:
        pass


def kind_of(number: signal.Signals, settings: StopSettings) -> StopKind:
    """Whether a signal is a preemption or somebody's request."""
    preempted = number in job_signals.ANNOUNCING and settings.requeue_on_sigterm
    return StopKind.PREEMPTION if preempted else StopKind.REQUEST
