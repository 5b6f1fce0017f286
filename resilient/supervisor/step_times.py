"""When a run reached which step: what step a file stands for that was written at some time.

A script that resumes from its own checkpoint counts its steps from one again. The step that the run had reached when
the checkpoint was written is where it goes on, so that steps in the metrics and the rules about progress go on as well.
It is known to within the steps between two looks at the board, and never too high.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from contextlib import suppress
from pathlib import Path

from resilient.protocol.paths import RunPaths

_MOST = 2048
_SAVE_SECONDS = 60.0


class StepTimes:
    """A bounded record, the finer the more recent, kept in a file across supervisors."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._times: list[float] = []
        self._steps: list[int] = []
        self._saved = 0.0
        with suppress(OSError, ValueError, TypeError):
            pairs = json.loads(path.read_text())
            self._times = [float(time) for time, _ in pairs]
            self._steps = [int(step) for _, step in pairs]

    def note(self, now: float, step: int) -> None:
        """The run is at ``step`` now; seconds since the epoch."""
        if self._steps and self._steps[-1] == step:
            return
        self._times.append(now)
        self._steps.append(step)
        if len(self._times) > _MOST:
            half = _MOST // 2
            self._times[:half] = self._times[:half:2]
            self._steps[:half] = self._steps[:half:2]
        if now - self._saved > _SAVE_SECONDS:
            self.save()
            self._saved = now

    def step_at(self, time: float) -> int:
        """The step that was reached by ``time``; 0 where nothing is known of it."""
        found = bisect_right(self._times, time)
        return self._steps[found - 1] if found else 0

    def save(self) -> None:
        """Write the file; a full disk costs only the record."""
        fresh = RunPaths.fresh(self._path)
        with suppress(OSError):
            fresh.write_text(json.dumps(list(zip(self._times, self._steps, strict=True))))
            fresh.replace(self._path)
