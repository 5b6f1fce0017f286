"""``status.json``: what a run is doing, for whoever looks from outside, and whether it is finished."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from resilient.errors import ExitCode
from resilient.policy.decisions import EndRun
from resilient.policy.state import RunState
from resilient.protocol.paths import RunPaths

_USUAL = {"rollbacks": 0, "lr_factor": 1.0, "ranks": 0, "step_seconds": 0.0, "memory_step": None}
"""Not in the file where there is nothing else to say."""


@dataclass(frozen=True)
class Status:
    """The latest state of a run. ``state`` is the phase while it is up, afterwards how it ended.

    :param rollbacks: how many there have been; not in the file where there was none.
    :param lr_factor: what the learning rate is multiplied by; not in the file where it is 1.
    :param ranks: how many train together; 0 where that is not said.
    :param step_seconds: what a step takes now; 0 where that is not known.
    :param memory_step: the newest step of which every rank has an image in memory.
    """

    state: str
    step: int
    total: int
    round: int
    exit_code: int | None = None
    diagnosis: str = ""
    updated: float = 0.0
    rollbacks: int = 0
    lr_factor: float = 1.0
    ranks: int = 0
    step_seconds: float = 0.0
    memory_step: int | None = None

    @property
    def finished(self) -> bool:
        return self.exit_code == 0

    @property
    def came_to_nothing(self) -> bool:
        """Whether it stopped at a mistake before the first step: what corrects that spoils nothing."""
        return self.step == 0 and self.exit_code in {ExitCode.WORKER_ERROR, ExitCode.CRASH_LOOP}

    @classmethod
    def of(cls, state: RunState, name: str, total: int, ending: EndRun | None = None) -> Status:
        """What is to be said of ``state``, under that name."""
        lineage = state.lineage
        status = cls(name, state.step, total, max(state.round, 0))
        status = replace(status, rollbacks=len(lineage.rollbacks), lr_factor=lineage.lr_factor)
        if ending is None:
            return status
        return replace(status, exit_code=int(ending.exit_code), diagnosis=ending.diagnosis)

    def write(self, path: Path) -> None:
        """Replace the file in one step.

        :raises OSError: there is no room; the file is as it was.
        """
        fresh = RunPaths.fresh(path)
        body = {**asdict(self), "updated": round(time.time(), 3)}
        for name, usual in _USUAL.items():
            if body[name] == usual:
                del body[name]
        fresh.write_text(json.dumps(body))
        fresh.replace(path)

    @classmethod
    def read(cls, path: Path) -> Status | None:
        try:
            body = json.loads(path.read_text())
            return cls(**{name: body[name] for name in body.keys() & cls.__dataclass_fields__.keys()})
        except (OSError, ValueError, TypeError, AttributeError):
            return None
