"""The section ``slurm`` of the configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from resilient.errors import ConfigurationError


class Requeue(str, Enum):
    """Whether a job that is to go on another time comes back by itself."""

    auto = "auto"
    never = "never"


@dataclass(frozen=True)
class SlurmSettings:
    """What is asked of SLURM, and how a job there ends; the section ``slurm``.

    Those up to ``extra`` are for ``resilient submit`` alone; where one is empty, SLURM's own default holds. The others
    are read by the supervisor inside a job, however the job was submitted.

    :param partition: the partition, or several with commas between them.
    :param nodes: how many nodes.
    :param time: the time limit as SLURM writes it: ``90`` minutes, ``1:30:00``, ``2-12:00:00``.
    :param account: who pays.
    :param qos: the quality of service.
    :param gres: generic resources of each node, such as ``gpu:8``.
    :param cpus_per_task: CPU cores for the supervisor of a node and all its workers; 0 for SLURM's default.
    :param mem: memory of each node, such as ``64G``.
    :param array: indices of a job array, such as ``0-7%2``; each of its jobs is a run of its own.
    :param exclude: nodes that are not to be used, as SLURM writes them.
    :param constraint: features that the nodes must have.
    :param extra: other options of ``sbatch``, by their long names: ``{mail-type: END}``; true for one without a value.
    :param requeue: ``auto``: a job that is preempted, or near its time limit, goes back into the queue and carries on
        from there; ``never``: it ends.
    :param max_requeues: a job comes back so many times at the most; 0 for no limit. Those that an administrator or
        SLURM itself has caused count as well.
    :param max_without_progress: and so many times in a row without one new step.
    :param margin_seconds: so long before SLURM ends the job everything has to be over, beside what was measured.
    :param grace_seconds: what there is between a signal and SIGKILL, where SLURM's own account of it is wrong or cannot
        be had; 0 for what SLURM says.
    :param command_seconds: a command of SLURM's is given so long to answer.
    """

    partition: str = ""
    nodes: int = 1
    time: str = ""
    account: str = ""
    qos: str = ""
    gres: str = ""
    cpus_per_task: int = 0
    mem: str = ""
    array: str = ""
    exclude: str = ""
    constraint: str = ""
    extra: dict[str, Any] = field(default_factory=dict)
    requeue: Requeue = Requeue.auto
    max_requeues: int = 0
    max_without_progress: int = 5
    margin_seconds: float = 5.0
    grace_seconds: float = 0.0
    command_seconds: float = 10.0

    def __post_init__(self) -> None:
        if self.nodes < 1:
            raise ConfigurationError(f"slurm.nodes must be at least 1, not {self.nodes}")
        for name in ("cpus_per_task", "max_requeues", "margin_seconds", "grace_seconds"):
            if getattr(self, name) < 0:
                raise ConfigurationError(f"slurm.{name} must not be negative, not {getattr(self, name)}")
        if self.max_without_progress < 1:
            raise ConfigurationError(f"slurm.max_without_progress must be at least 1, not {self.max_without_progress}")
        if self.command_seconds <= 0:
            raise ConfigurationError(f"slurm.command_seconds must be more than 0, not {self.command_seconds}")
