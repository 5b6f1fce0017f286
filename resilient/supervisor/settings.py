"""Settings of the supervisor alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from resilient.errors import ConfigurationError

_MOST_RANKS = 1024  # processes on one machine; more is a slip of the finger


class FinishedBy(str, Enum):
    """What makes a worker's exit 0 the end of the run."""

    run = "run"  # members are what the configuration file says, and OmegaConf goes by their names
    exit_code = "exit_code"


@dataclass(frozen=True)
class RunSettings:
    """The section ``run``.

    :param id: name of the run and of its directory; the name of the configuration where it is empty. It is the same
        at every relaunch.
    :param dir: directory that holds the runs.
    :param allow_drift: resume although the configuration is not the one the run was started with, and record the
        difference.
    """

    id: str = ""
    dir: str = "runs"
    allow_drift: bool = False


@dataclass(frozen=True)
class WorkerSettings:
    """What is trained; the section ``worker``.

    :param script: the training script.
    :param module: a module to be run as ``python -m`` does, instead of a script.
    :param args: its command line arguments.
    :param ranks: how many processes train together on this machine. Each finds its part in the variables that torchrun
        sets, such as ``RANK``, ``LOCAL_RANK`` and ``WORLD_SIZE``.
    :param preload: modules imported once, before the workers are forked. They must not start threads or touch CUDA.
    :param env: variables added to its environment.
    :param finished_by: ``run``: exit 0 counts only after the run said that it is finished; ``exit_code``: exit 0 is
        enough.
    """

    script: str = ""
    module: str = ""
    args: list[str] = field(default_factory=list)
    preload: list[str] = field(default_factory=lambda: ["torch", "torch._dynamo", "torch.utils.data", "numpy"])
    env: dict[str, str] = field(default_factory=dict)
    finished_by: FinishedBy = FinishedBy.run
    ranks: int = 1

    def __post_init__(self) -> None:
        if bool(self.script) == bool(self.module):
            problem = "both worker.script and worker.module are set" if self.script else "nothing to train is named"
            raise ConfigurationError(problem, "set worker.script=train.py, or worker.module=package.train")
        if not 1 <= self.ranks <= _MOST_RANKS:
            raise ConfigurationError(
                f"worker.ranks must be at least 1 and at most {_MOST_RANKS}, not {self.ranks}",
                "set it to the number of processes on this machine, usually one for each GPU",
            )
