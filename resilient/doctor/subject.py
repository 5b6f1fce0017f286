"""The configuration that is examined, as far as the checks read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from resilient.policy.nodes import NodeSettings
from resilient.policy.state import StopSettings
from resilient.protocol.paths import RunPaths
from resilient.protocol.remote_settings import RemoteSettings
from resilient.protocol.settings import RetentionSettings, SnapshotSettings
from resilient.slurm.settings import SlurmSettings
from resilient.snapshot.inventory import State, inventory
from resilient.supervisor.settings import RunSettings, WorkerSettings


class Configured(Protocol):
    """A checked configuration; the class itself is in a layer above this one."""

    @property
    def run(self) -> RunSettings: ...

    @property
    def worker(self) -> WorkerSettings: ...

    @property
    def snapshot(self) -> SnapshotSettings: ...

    @property
    def retention(self) -> RetentionSettings: ...

    @property
    def remote(self) -> RemoteSettings: ...

    @property
    def stop(self) -> StopSettings: ...

    @property
    def slurm(self) -> SlurmSettings: ...

    @property
    def node_settings(self) -> NodeSettings | None: ...


@dataclass(frozen=True)
class Subject:
    """The settings that are examined, and where their run is, or will be.

    :param nodes: of a run of several; None for one.
    """

    paths: RunPaths
    worker: WorkerSettings
    snapshot: SnapshotSettings
    retention: RetentionSettings
    remote: RemoteSettings
    stop: StopSettings
    slurm: SlurmSettings
    nodes: NodeSettings | None = None

    @classmethod
    def of(cls, config: Configured) -> Subject:
        paths = RunPaths.of(config.run.dir, config.run.id)
        common = (config.worker, config.snapshot, config.retention, config.remote, config.stop, config.slurm)
        return cls(paths, *common, config.node_settings)

    @property
    def world_size(self) -> int:
        """Ranks of all nodes together."""
        return self.worker.ranks * (1 if self.nodes is None else self.nodes.count)

    def state_bytes(self) -> int | None:
        """Bytes of the newest snapshot's images on this machine; None before there is one."""
        whole = [item for item in inventory(self.paths.snapshots) if item.state is State.COMMITTED]
        if not whole or whole[-1].manifest is None:
            return None
        manifest = whole[-1].manifest
        return round(manifest.size * min(1.0, self.worker.ranks / manifest.world_size))
