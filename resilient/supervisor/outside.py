"""What is to be seen of a run from outside while it is up: its status file, and the last line of the terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace

from resilient.policy.decisions import EndRun
from resilient.policy.state import Phase, RunState
from resilient.protocol.board import Word
from resilient.protocol.metrics_log import OURS
from resilient.supervisor.console import Console
from resilient.supervisor.memory import RunMemory
from resilient.supervisor.progress_line import Pace, Progress
from resilient.supervisor.spec import RunSpec
from resilient.supervisor.status import Status

_WRITE_SECONDS = 10.0
_SHOW_SECONDS = 0.5


class Outside:
    """Keeps both up to date.

    :param latest: the metrics that rank 0 has reported last.
    """

    def __init__(
        self,
        spec: RunSpec,
        memory: RunMemory,
        console: Console,
        *,
        clock: Callable[[], float],
        latest: Callable[[], Mapping[str, float]],
    ) -> None:
        self._spec = spec
        self._memory = memory
        self._console = console
        self._clock = clock
        self._latest = latest
        self._pace = Pace()
        self._shows = spec.console.progress and console.has_last_line
        self._shown_at = self._written_at = -math.inf
        self._line = ""

    def write(self, state: RunState, name: str, ending: EndRun | None = None) -> None:
        """Write the status file."""
        self._written_at = self._clock()
        status = replace(
            Status.of(state, name, self._total(), ending),
            ranks=state.settings.ranks,
            step_seconds=round(self._pace.seconds, 6),
            memory_step=self._memory.newest_step(),
        )
        with suppress(OSError):  # a full disk must not end the run for the sake of its status
            status.write(self._spec.paths.status)
        if ending is not None and self._shows:
            self._console.progress("")

    def look(self, state: RunState) -> None:
        """Whether it is time to say something new."""
        now = self._clock()
        if now - self._shown_at < _SHOW_SECONDS:
            return
        self._shown_at = now
        if state.phase is Phase.RUNNING:
            self._pace.note(now, state.step)
        elif state.phase is not Phase.STOPPING:
            self._pace.pause()
        if now - self._written_at >= _WRITE_SECONDS:
            self.write(state, state.phase.value)
        if self._shows:
            self._show(state)

    def _show(self, state: RunState) -> None:
        line = Progress(
            self._spec.paths.run_id,
            state.phase.value,
            state.step,
            self._total(),
            self._pace.seconds,
            _loss(self._latest()),
            state.incidents,
        ).line(self._console.columns)
        if line != self._line:
            self._line = line
            self._console.progress(line)

    def _total(self) -> int:
        return max((board[Word.TOTAL] for board in self._memory.boards.values()), default=0)


def _loss(values: Mapping[str, float]) -> tuple[str, float] | None:
    names = [name for name in values if "loss" in name.lower() and not name.startswith(OURS)]
    name = "loss" if "loss" in names else next(iter(names), None)
    return None if name is None else (name, values[name])
