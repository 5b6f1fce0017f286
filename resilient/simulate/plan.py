"""What is simulated: a cluster, a model, a storage, and how the run is supervised."""

from __future__ import annotations

from dataclasses import dataclass, field

from resilient.errors import ConfigurationError
from resilient.policy.hang import HangSettings
from resilient.policy.restart_settings import RestartSettings
from resilient.policy.state import StopSettings

HOUR, DAY, GB = 3600.0, 86400.0, 1e9


@dataclass(frozen=True)
class Plan:
    """Everything that a simulation can be told. Sizes are in GB of 10⁹ bytes, times in seconds unless they say so.

    :param groups: ranks that the decision core sees. Each stands for an equal part of the cluster, because its state
        grows with the ranks, and what it decides does not depend on how many were only killed along.
    :param days: simulated time.
    :param steps: the run is finished after so many; 0 for never.
    :param failures_per_gpu_hour: unexpected failures of all kinds.
    :param bug_step: a deterministic bug, at the step after this one; 0 for none.
    :param preemptions_per_day: of the whole job, each announced ``grace_seconds`` before the machines are taken.
    :param requeue_seconds: mean time in the queue until the job has machines again; none of them the same.
    :param spares: nodes that stand ready. Without any, a node that fails has to be repaired before the run goes on.
    :param swap_seconds: to have a spare node take part.
    :param launch_seconds: from the launch to the beginning of the first step: imports, communicators, compilation.
    :param clear_seconds: from SIGKILL until the last worker is gone.
    :param list_seconds: to find out what could be resumed from.
    :param parameters: of the model, in 10⁹.
    :param bytes_per_parameter: in a snapshot, the optimizer's state included.
    :param device_gbs: GB/s from each GPU to its host's memory.
    :param local_gbs: GB/s to and from the disk of each node.
    :param remote_gbs: GB/s to and from the remote tier, of the whole cluster together.
    :param remote_node_gbs: the most that one node reaches.
    :param peer_gbs: GB/s at which each node sends its part of a memory snapshot to another node; 0 for no peer memory.
        Two nodes that have a part between them never fail at once here.
    :param peer_share: of the time, may be spent on that, and it happens no more than once a second; as ``peer.share``.
    :param overhead: what memory snapshots may cost, as a fraction of the step time.
    :param durable_seconds: between two snapshots that are made durable; 0 for the interval that the run would choose.
    :param remote_every: one in so many durable snapshots is copied to the remote tier.
    :param slowdown: part of its speed that training loses while a snapshot is written, or copied to another node.
    :param blocking: training stands still until a snapshot is in the remote tier, as with a plain save.
    :param corrupt: part of the durable snapshots that turn out to be damaged when they are read.
    :param every_step: decide about every single step, in place of many uneventful ones at once; for the same result.
    """

    cluster: str = ""
    gpus: int = 1024
    gpus_per_node: int = 8
    groups: int = 8
    days: float = 30.0
    steps: int = 0
    seed: int = 0
    step_seconds: float = 5.0
    failures_per_gpu_hour: float = 1.97e-5
    bug_step: int = 0
    preemptions_per_day: float = 0.0
    grace_seconds: float = 120.0
    requeue_seconds: float = 1800.0
    spares: int = 8
    swap_seconds: float = 300.0
    repair_seconds: float = 2 * DAY
    launch_seconds: float = 180.0
    clear_seconds: float = 10.0
    list_seconds: float = 2.0
    parameters: float = 70.0
    bytes_per_parameter: float = 6.0
    device_gbs: float = 20.0
    local_gbs: float = 2.0
    remote_gbs: float = 100.0
    remote_node_gbs: float = 5.0
    peer_gbs: float = 0.0
    peer_share: float = 0.1
    overhead: float = 0.01
    durable_seconds: float = 0.0
    remote_every: int = 1
    slowdown: float = 0.02
    blocking: bool = False
    corrupt: float = 0.0
    every_step: bool = False
    restarts: RestartSettings = field(default_factory=RestartSettings)
    hang: HangSettings = field(default_factory=HangSettings)
    stop: StopSettings = field(default_factory=StopSettings)

    def __post_init__(self) -> None:
        for name in ("gpus", "gpus_per_node", "groups", "days", "step_seconds", "parameters", "bytes_per_parameter"):
            self._require(name, more_than_zero=True)
        for name in ("overhead", "peer_share"):
            self._require(name, more_than_zero=True)
        for name in ("device_gbs", "local_gbs", "remote_gbs", "remote_node_gbs", "remote_every"):
            self._require(name, more_than_zero=True)
        for name in ("steps", "failures_per_gpu_hour", "bug_step", "preemptions_per_day", "requeue_seconds", "spares"):
            self._require(name)
        for name in ("swap_seconds", "repair_seconds", "launch_seconds", "clear_seconds", "list_seconds"):
            self._require(name)
        for name in ("durable_seconds", "grace_seconds", "peer_gbs"):
            self._require(name)
        if not 0 <= self.slowdown < 1:
            raise ConfigurationError(f"slowdown must be at least 0 and below 1, not {self.slowdown}")
        if not 0 <= self.corrupt < 1:
            raise ConfigurationError(f"corrupt must be at least 0 and below 1, not {self.corrupt}")
        if self.groups > self.nodes:
            object.__setattr__(self, "groups", self.nodes)

    def _require(self, name: str, *, more_than_zero: bool = False) -> None:
        value = getattr(self, name)
        if value < 0 or (more_than_zero and value == 0):
            least = "more than 0" if more_than_zero else "0 or more"
            raise ConfigurationError(f"{name} must be {least}, not {value}")

    @property
    def seconds(self) -> float:
        return self.days * DAY

    @property
    def nodes(self) -> int:
        return max(1, -(-self.gpus // self.gpus_per_node))

    @property
    def failures_per_second(self) -> float:
        return self.failures_per_gpu_hour * self.gpus / HOUR

    @property
    def snapshot_bytes(self) -> float:
        """Of one snapshot of the whole model."""
        return self.parameters * 1e9 * self.bytes_per_parameter
