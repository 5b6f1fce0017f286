"""What SLURM tells a job of itself in its environment: one typed view of every variable that is read.

The names are those of ``man sbatch`` and ``man srun``, "output environment variables".
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

from resilient.errors import ConfigurationError
from resilient.protocol.paths import NODE


@dataclass(frozen=True)
class JobEnvironment:
    """The job that this process belongs to.

    :param job: its number, of its own also where it is one of an array.
    :param restarts: how often it has come back from the queue.
    :param nodes: how many nodes it has.
    :param node_rank: this node's number among them.
    :param node: this node's name, as SLURM writes it.
    :param node_list: all of them, as SLURM writes them; see :mod:`resilient.slurm.nodelist`.
    :param step: number of the step; None in the batch script itself.
    :param array: the job's array and its index in it; None outside one.
    :param ends_at: seconds since the epoch at which its time limit was when it began, where SLURM is new enough to say.
    """

    job: int
    restarts: int = 0
    nodes: int = 1
    node_rank: int = 0
    node: str = ""
    node_list: str = ""
    partition: str = ""
    step: int | None = None
    array: tuple[int, int] | None = None
    ends_at: float | None = None

    @classmethod
    def read(cls, environ: Mapping[str, str] = os.environ) -> JobEnvironment | None:
        """The job, or None outside one.

        :raises ConfigurationError: the variables are not as SLURM sets them.
        """
        if not environ.get("SLURM_JOB_ID"):
            return None
        array, index = _number(environ, "SLURM_ARRAY_JOB_ID"), _number(environ, "SLURM_ARRAY_TASK_ID")
        end = _number(environ, "SLURM_JOB_END_TIME")
        return cls(
            job=_number(environ, "SLURM_JOB_ID") or 0,
            restarts=_number(environ, "SLURM_RESTART_COUNT") or 0,
            nodes=_number(environ, "SLURM_JOB_NUM_NODES") or 1,
            node_rank=_number(environ, "SLURM_NODEID") or 0,
            node=environ.get("SLURMD_NODENAME", ""),
            node_list=environ.get("SLURM_JOB_NODELIST", ""),
            partition=environ.get("SLURM_JOB_PARTITION", ""),
            step=_number(environ, "SLURM_STEP_ID"),
            array=None if array is None or index is None else (array, index),
            ends_at=None if end is None else float(end),
        )

    @property
    def name(self) -> str:
        """What commands are to be told. The number alone will not do: one job of an array has the number of the array,
        and a command that is told it means all of them.
        """
        return str(self.job) if self.array is None else f"{self.array[0]}_{self.array[1]}"

    @property
    def leads(self) -> bool:
        """Whether this node speaks for the job, where its nodes do not settle that among themselves."""
        return self.node_rank == 0

    def __str__(self) -> str:
        return f"SLURM job {self.name} on {self.node_list or self.node or 'this node'}"


def name_node(environ: MutableMapping[str, str] = os.environ) -> None:
    """Have this node of a run of several, and all that is started here, called what SLURM calls it."""
    if environ.get("SLURM_JOB_ID") and environ.get("SLURMD_NODENAME"):
        environ.setdefault(NODE, environ["SLURMD_NODENAME"])


def _number(environ: Mapping[str, str], name: str) -> int | None:
    text = environ.get(name, "").strip()
    if not text:
        return None
    if not text.isdecimal():
        raise ConfigurationError(
            f"{name}={text[:40]} in the environment is no number", "SLURM sets it; outside of a job, unset SLURM_JOB_ID"
        )
    return int(text)
