"""The plan of a round: everything a worker is told when it is launched, as one JSON file.

The supervisor writes it before the launch and names it in the environment; nothing else passes from supervisor to
worker at start-up.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from resilient.protocol.settings import SnapshotSettings


@dataclass(frozen=True)
class RoundPlan:
    """What all workers of one round are to do.

    :param memory_dir: directory with the boards and slots of this node's workers.
    :param restore_step: resume from the memory image of this step; None starts afresh.
    :param lineage: identity of the snapshot resumed from, recorded as parent of the next one.
    :param train: the user's own section of the configuration.
    :param failure_seconds: mean time until what is in memory is lost, as far as it is known.
    :param restart_seconds: from such a loss to the next step.
    """

    run_id: str
    run_root: str
    round: int
    memory_dir: str
    restore_step: int | None = None
    lineage: str | None = None
    snapshot: SnapshotSettings = field(default_factory=SnapshotSettings)
    train: Mapping[str, Any] = field(default_factory=dict)
    failure_seconds: float = 86400.0
    restart_seconds: float = 0.0

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> RoundPlan:
        plan = cls(**json.loads(path.read_text()))
        return replace(plan, snapshot=SnapshotSettings(**plan.snapshot))  # type: ignore[arg-type]  # a dict as parsed
