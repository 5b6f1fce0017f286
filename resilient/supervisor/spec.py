"""What a supervisor is told about its run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resilient.policy.lineage import Lineage
from resilient.policy.state import PolicySettings
from resilient.protocol.paths import RunPaths
from resilient.protocol.peer_settings import PeerSettings
from resilient.protocol.remote_settings import RemoteSettings
from resilient.protocol.settings import FingerprintSettings, RetentionSettings, SnapshotSettings
from resilient.protocol.tracker_settings import TrackersSettings
from resilient.supervisor.settings import ConsoleSettings, GroupSettings, LogSettings, WorkerSettings


@dataclass(frozen=True)
class RunSpec:
    """Everything about the run that the supervisor needs to know.

    :param worker: how many ranks there are of it is those of this node; the ranks of all nodes are in ``policy``.
    :param group: of a run of several nodes.
    :param directory: working directory of the workers.
    :param lineage: as it was written down; None where it is not.
    :param trust_node: supervise it on this machine although it computes wrong results.
    :param stop_after: the workers leave after this step without finishing; None for never.
    :param allow_reshard: a durable snapshot may be of another number of ranks.
    """

    paths: RunPaths
    worker: WorkerSettings
    snapshot: SnapshotSettings
    policy: PolicySettings
    retention: RetentionSettings = field(default_factory=RetentionSettings)
    remote: RemoteSettings = field(default_factory=RemoteSettings)
    fingerprint: FingerprintSettings = field(default_factory=FingerprintSettings)
    logs: LogSettings = field(default_factory=LogSettings)
    console: ConsoleSettings = field(default_factory=ConsoleSettings)
    peer: PeerSettings = field(default_factory=PeerSettings)
    group: GroupSettings = field(default_factory=GroupSettings)
    trackers: TrackersSettings = field(default_factory=TrackersSettings)
    train: Mapping[str, Any] = field(default_factory=dict)
    directory: Path = field(default_factory=Path.cwd)
    takeover: bool = False
    lineage: Lineage | None = None
    trust_node: bool = False
    stop_after: int | None = None
    allow_reshard: bool = False
    versions: Mapping[str, str] = field(default_factory=dict)
