"""The environment of a worker: one typed view for every variable that we set or read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PLAN = "RESILIENT_PLAN"
"""Path of the round's plan; set in every supervised worker and nowhere else."""


@dataclass(frozen=True)
class WorkerEnvironment:
    """Who a worker is. The variables are torchrun's, which every distributed library reads."""

    plan: Path
    rank: int = 0
    local_rank: int = 0
    world_size: int = 1

    @classmethod
    def read(cls, environ: Mapping[str, str] = os.environ) -> WorkerEnvironment | None:
        """The view of a supervised worker, or None in a process that no supervisor started."""
        plan = environ.get(PLAN)
        if plan is None:
            return None
        return cls(
            Path(plan),
            int(environ.get("RANK", "0")),
            int(environ.get("LOCAL_RANK", "0")),
            int(environ.get("WORLD_SIZE", "1")),
        )

    def variables(self, *, round_number: int) -> dict[str, str]:
        """What to add to the worker's environment."""
        return {
            PLAN: str(self.plan),
            "RANK": str(self.rank),
            "LOCAL_RANK": str(self.local_rank),
            "WORLD_SIZE": str(self.world_size),
            "LOCAL_WORLD_SIZE": str(self.world_size),
            "TORCHELASTIC_RESTART_COUNT": str(round_number),
        }
