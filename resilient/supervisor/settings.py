"""Settings of the supervisor alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

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


class Prefix(str, Enum):
    """Whether a worker's line on the terminal begins with its rank."""

    auto = "auto"
    always = "always"
    never = "never"


@dataclass(frozen=True)
class ConsoleSettings:
    """What of the workers' output is shown while training; the section ``console``. The logs have everything.

    :param ranks: the ranks whose output is shown, such as ``[0,3]``, or ``all``. The end of a rank that failed is shown
        in any case.
    :param prefix: begin each line with its rank: ``auto`` where there is more than one, ``always`` or ``never``.
    :param lines_per_second: of each rank at the most; of more it is said how many there are.
    """

    ranks: Any = field(default_factory=lambda: [0])
    prefix: Prefix = Prefix.auto
    lines_per_second: int = 200

    def __post_init__(self) -> None:
        listed = isinstance(self.ranks, (list, tuple)) and all(type(rank) is int and rank >= 0 for rank in self.ranks)
        if not listed and self.ranks != "all":
            raise ConfigurationError(
                f"console.ranks={self.ranks!r} names no ranks", "use a list such as console.ranks=[0,1], or all"
            )
        if self.lines_per_second < 1:
            raise ConfigurationError(f"console.lines_per_second must be at least 1, not {self.lines_per_second}")

    def shows(self, rank: int) -> bool:
        return bool(self.ranks == "all" or rank in self.ranks)


@dataclass(frozen=True)
class LogSettings:
    """How much room the workers' logs may take; the section ``logs``.

    :param max_bytes: a rank's log that is larger is rotated, without losing a line; 0 for never.
    :param keep: older pieces that are kept of each rank's log in each round.
    :param keep_rounds: the logs of so many of the last rounds are kept; 0 for all. Those of the first round, and of
        rounds that ended with a failure, stay in any case.
    """

    max_bytes: int = 256 << 20
    keep: int = 4
    keep_rounds: int = 50

    def __post_init__(self) -> None:
        if self.max_bytes != 0 and self.max_bytes < 4096:
            raise ConfigurationError(f"logs.max_bytes must be 0, for no limit, or at least 4096, not {self.max_bytes}")
        if self.keep < 1:
            raise ConfigurationError(
                f"logs.keep must be at least 1, not {self.keep}: what was written last is in the last older piece"
            )
        if self.keep_rounds < 0:
            raise ConfigurationError(f"logs.keep_rounds must be 0, for all, or more, not {self.keep_rounds}")
