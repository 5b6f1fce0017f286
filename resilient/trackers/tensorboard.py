"""TensorBoard: scalars by step. What a rollback has discarded, and what is done again, is purged."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resilient.trackers.details import Details
from resilient.trackers.event_file import EventFile
from resilient.trackers.tracker import Context, Tracker


class Tensorboard(Tracker):
    """One event file for each process that tells it something."""

    def __init__(self, context: Context) -> None:
        super().__init__()
        chosen = context.settings.tensorboard.dir
        self._directory = Path(chosen) if chosen else context.paths.root / "tensorboard"
        self._file: EventFile | None = None
        self._purge_from: int | None = None

    def resume(self, state: Mapping[str, Any]) -> None:
        super().resume(state)
        self._purge_from = int(self.state.get("step", 0)) + 1  # told again after a kill, and then it counts once

    def metrics(self, details: Details) -> None:
        if details.round != self.state.get("round") and details.step <= self.state.get("step", 0):
            self._purge(details.step)
        values = {
            **details.values,
            "resilient/lineage": float(details.lineage),
            "resilient/round": float(details.round),
        }
        seconds = details.facts.get("seconds")
        if seconds is not None:
            values["resilient/step_seconds"] = float(seconds)
        self._open().scalars(details.step, values, details.time)
        self.state.update(step=details.step, round=details.round)

    def rollback(self, details: Details) -> None:
        self._purge(int(details.facts["target"]) + 1)

    def _purge(self, step: int) -> None:
        self._open().purge(step)
        self.state["step"] = step - 1

    def _open(self) -> EventFile:
        if self._file is None:
            number = self.state["files"] = int(self.state.get("files", 0)) + 1
            self._file = EventFile(self._directory, purge_from=self._purge_from, number=number)
        return self._file

    def flush(self) -> None:
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
