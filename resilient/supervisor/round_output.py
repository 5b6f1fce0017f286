"""The output of the round that is up, as far as it is shown."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from resilient.policy.events import Incident
from resilient.protocol.launch import WorkerError
from resilient.supervisor.console import Console
from resilient.supervisor.output import WorkerOutput
from resilient.supervisor.spec import RunSpec
from resilient.supervisor.view import View

_LOOK_SECONDS = 0.09  # between two looks, which nobody who reads can tell from none


class RoundOutput:
    """Follows the logs of one round after the other: those of the ranks that are shown."""

    def __init__(self, spec: RunSpec, console: Console, clock: Callable[[], float]) -> None:
        self._spec = spec
        self._console = console
        self._clock = clock
        self._passed_on = -math.inf
        self._output: WorkerOutput | None = None
        self._view: View | None = None

    def follow(self, round_number: int) -> None:
        """A round begins: leave the logs of the one before."""
        self.close()
        spec, paths = self._spec, self._spec.paths
        self._view = View(
            self._console, spec.console, spec.policy.ranks, lambda rank: paths.log(round_number, rank), self._clock
        )
        self._output = WorkerOutput({rank: paths.log(round_number, rank) for rank in self._view.ranks})

    def pass_on(self) -> None:
        """Show what has come since the last call."""
        now = self._clock()
        if self._output is not None and self._view is not None and now - self._passed_on >= _LOOK_SECONDS:
            self._passed_on = now
            self._tell(self._output.read())
            self._view.look(self._output.unfinished())

    def ended(self, rank: int) -> None:
        """A worker is gone: show the rest of what it has written."""
        if self._output is not None and self._view is not None:
            self._tell(self._output.read_to_end(rank))
            self._view.ended(rank)

    def explain(self, incident: Incident) -> None:
        """Show how the rank that failed has ended, where that has not been seen."""
        if incident.rank is None or self._view is None:
            return
        error = WorkerError.read(self._spec.paths.error_file(incident.round, incident.rank)) or WorkerError()
        self._view.failed(incident.rank, error.traceback)

    def close(self) -> None:
        if self._output is not None:
            self._output.close()
            self._output = None

    def _tell(self, lines: Iterable[tuple[int, str]]) -> None:
        assert self._view is not None  # noqa: S101  there is one as long as there is output
        for rank, line in lines:
            self._view.show(rank, line)
