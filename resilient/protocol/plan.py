"""The plan of a round: everything a worker is told when it is launched, as one JSON file.

The supervisor writes it before the launch and names it in the environment; nothing else passes from supervisor to
worker at start-up.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from resilient.policy.lineage import Skip
from resilient.protocol.settings import FingerprintSettings, SnapshotSettings


@dataclass(frozen=True)
class RoundPlan:
    """What all workers of one round are to do.

    :param memory_dir: directory with the boards and slots of this node's workers.
    :param restore_step: resume from the memory image of this step; None starts afresh.
    :param reshard_from: path of the durable snapshot of that step, where it may be one of another number of ranks, in
        which case nothing of it is in memory, or of another mesh: each worker reads its part for itself then.
    :param lineage: identity of the snapshot resumed from, recorded as parent of the next one.
    :param train: the user's own section of the configuration.
    :param failure_seconds: mean time until what is in memory is lost, as far as it is known.
    :param restart_seconds: from such a loss to the next step.
    :param skips: data that is left out.
    :param skip_steps: first and last step of each range whose data is to be left out as well, counted on from the step
        that the round resumes from, with the ranges before it left out; rank 0 says on its board which data they are.
    :param lr_factor: what the learning rate is multiplied by while an optimizer steps.
    :param stop_after: leave after this step without finishing, and without a snapshot of it; for replays.
    :param fingerprint: hashes that are reported.
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
    skips: tuple[Skip, ...] = ()
    skip_steps: tuple[tuple[int, int], ...] = ()
    lr_factor: float = 1.0
    stop_after: int | None = None
    fingerprint: FingerprintSettings = field(default_factory=FingerprintSettings)
    reshard_from: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "skips": [skip.to_json() for skip in self.skips]}

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> RoundPlan:
        body = dict(saved)
        body["snapshot"] = SnapshotSettings(**body["snapshot"])
        body["fingerprint"] = FingerprintSettings(**body["fingerprint"])
        body["skips"] = tuple(map(Skip.from_json, body["skips"]))
        body["skip_steps"] = tuple((first, last) for first, last in body["skip_steps"])
        return cls(**body)

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(self.to_json()))

    @classmethod
    def read(cls, path: Path) -> RoundPlan:
        return cls.from_json(json.loads(path.read_text()))
