"""Settings of the supervisor alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from resilient.errors import ConfigurationError
from resilient.policy.nodes import NodeSettings, Shortage
from resilient.supervisor.patterns import LOSS, check_metric_name, check_pattern

_MOST_RANKS = 1024  # processes on one machine; more is a slip of the finger


class FinishedBy(str, Enum):
    """What makes a worker's exit 0 the end of the run."""

    run = "run"  # members are what the configuration file says, and OmegaConf goes by their names
    exit_code = "exit_code"


class ExitMeaning(str, Enum):
    """What a script says by an exit code of its own."""

    finished = "finished"
    restart = "restart"
    stop = "stop"
    requeue = "requeue"


_STOP_SIGNALS = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2")


@dataclass(frozen=True)
class RunSettings:
    """The section ``run``.

    :param id: name of the run and of its directory; the name of the configuration where it is empty. It is the same
        at every relaunch.
    :param dir: directory that holds the runs.
    :param allow_drift: resume although the configuration is not the one the run was started with, and record the
        difference.
    :param trust_node: start on this machine although the run has found that it computes wrong results.
    :param stop_after: leave after this step without finishing, for a replay of the steps before it; 0 for never.
    :param allow_reshard: resume with another number of ranks than the newest snapshot is of, or on another mesh. Every
        sample of an epoch is still seen once, and distributed tensors are the same; the run does not go on bit for bit.
    """

    id: str = ""
    dir: str = "runs"
    allow_drift: bool = False
    trust_node: bool = False
    stop_after: int = 0
    allow_reshard: bool = False

    def __post_init__(self) -> None:
        if self.stop_after < 0:
            raise ConfigurationError(f"run.stop_after must be a step, or 0, not {self.stop_after}")


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
        enough, unless it comes after a request to stop.
    :param exit_codes: what exit codes of the script's own mean: ``finished``; ``restart``: a failure like any other;
        ``stop``: it must not be started again; ``requeue``: it is to go on another time, as after a preemption.
    :param stop_signal: what asks a script to leave that does not attach: SIGTERM, SIGINT, SIGUSR1 or SIGUSR2.
    :param checkpoints: a glob, or several, of the checkpoints that the script writes itself; ``**`` goes through
        directories, as for output folders named after the time.
    :param resume_args: appended to its arguments when there is a complete checkpoint: ``{latest}`` is the newest one,
        ``{latest_dir}`` the directory it is in, ``{step}`` the last number in its name.
    :param metrics: a regular expression for each metric that is read from what rank 0 prints, for a script that does
        not report; its first group is the number.
    :param step_pattern: likewise for the step, where its optimizers do not show it.
    """

    script: str = ""
    module: str = ""
    args: list[str] = field(default_factory=list)
    preload: list[str] = field(default_factory=lambda: ["torch", "torch._dynamo", "torch.utils.data", "numpy"])
    env: dict[str, str] = field(default_factory=dict)
    finished_by: FinishedBy = FinishedBy.run
    ranks: int = 1
    exit_codes: dict[int, str] = field(default_factory=dict)
    stop_signal: str = "SIGTERM"
    checkpoints: Any = ""
    resume_args: list[str] = field(default_factory=list)
    metrics: dict[str, str] = field(default_factory=lambda: {"loss": LOSS})
    step_pattern: str = ""

    def __post_init__(self) -> None:
        if bool(self.script) == bool(self.module):
            problem = "both worker.script and worker.module are set" if self.script else "nothing to train is named"
            raise ConfigurationError(problem, "set worker.script=train.py, or worker.module=package.train")
        if not 1 <= self.ranks <= _MOST_RANKS:
            raise ConfigurationError(
                f"worker.ranks must be at least 1 and at most {_MOST_RANKS}, not {self.ranks}",
                "set it to the number of processes on this machine, usually one for each GPU",
            )
        for code, meaning in self.exit_codes.items():
            if not 0 <= code <= 255:
                raise ConfigurationError(f"worker.exit_codes: {code} is no exit code", "they are from 0 to 255")
            if meaning not in ExitMeaning.__members__:
                known = ", ".join(ExitMeaning.__members__)
                raise ConfigurationError(f"worker.exit_codes: {code} cannot mean {meaning}", f"known are: {known}")
        if self.stop_signal not in _STOP_SIGNALS:
            raise ConfigurationError(f"worker.stop_signal={self.stop_signal}", f"one of {', '.join(_STOP_SIGNALS)}")
        for name, pattern in self.metrics.items():
            check_metric_name(name)
            check_pattern(f"worker.metrics.{name}", pattern)
        if self.step_pattern:
            check_pattern("worker.step_pattern", self.step_pattern)
        self._check_checkpoints()

    def _check_checkpoints(self) -> None:
        globs = [self.checkpoints] if isinstance(self.checkpoints, str) else self.checkpoints
        if not isinstance(globs, list) or not all(isinstance(glob, str) for glob in globs):
            raise ConfigurationError(
                f"worker.checkpoints={self.checkpoints!r} is neither a glob nor a list of them", "write 'out/ckpt_*.pt'"
            )
        if self.checkpoint_globs and not self.resume_args:
            raise ConfigurationError(
                "worker.checkpoints says where checkpoints are, but not how the script is told to resume from one",
                "set worker.resume_args='[--resume,{latest}]', with the script's own option",
            )
        if self.resume_args and not self.checkpoint_globs:
            raise ConfigurationError(
                "worker.resume_args is set, but not where the script's checkpoints are",
                "set worker.checkpoints='out/ckpt_*.pt'",
            )

    @property
    def checkpoint_globs(self) -> tuple[str, ...]:
        return tuple(filter(None, [self.checkpoints] if isinstance(self.checkpoints, str) else self.checkpoints))

    @property
    def unmodified(self) -> bool:
        """The script is taken for one that knows nothing of us, until it attaches."""
        return self.finished_by is FinishedBy.exit_code


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
    :param progress: show how far the run is in the terminal's last line, where there is a terminal.
    """

    ranks: Any = field(default_factory=lambda: [0])
    prefix: Prefix = Prefix.auto
    lines_per_second: int = 200
    progress: bool = True

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


@dataclass(frozen=True)
class GroupSettings:
    """How the supervisors of several nodes find and lose each other; the section ``group``. How many there are is said
    by ``nodes``.

    :param least: with fewer nodes than are wanted, but at least so many, the run goes on smaller; 0 for never. What it
        goes on from is dealt out to fewer ranks, so it does not go on bit for bit.
    :param wait_seconds: how long is waited for a lost node, or for another in its place.
    :param start_seconds: how long the nodes may take to come together when the run is started.
    :param grow_seconds: a group that shrank takes in nodes that have been there for so long: the workers leave at their
        next step with a last snapshot, and all go on from it. ``.inf`` for not before a round ends by itself.
    :param shortage: with too few nodes: ``requeue`` ends with the exit code that asks for a requeue, ``stop`` for good.
    :param silent_seconds: a node that says nothing for so long is lost.
    :param lease_seconds: another node takes the lead when the leader has shown no sign of life for so long.
    :param address: where this node listens, as ``host:port``, ``host`` or ``:port``; the host is what other nodes
        connect to. Empty for the address that the machine has in its network, and any free port.
    """

    least: int = 0
    wait_seconds: float = 60.0
    start_seconds: float = 600.0
    grow_seconds: float = 60.0
    shortage: Shortage = Shortage.requeue
    silent_seconds: float = 10.0
    lease_seconds: float = 10.0
    address: str = ""

    def __post_init__(self) -> None:
        if self.least < 0:
            raise ConfigurationError(f"group.least must be 0, for never fewer, or a number of nodes, not {self.least}")
        for name in ("silent_seconds", "lease_seconds"):
            if getattr(self, name) < 2:
                raise ConfigurationError(
                    f"group.{name} must be at least 2, not {getattr(self, name)}",
                    "signs of life come once a second, and a busy machine is late",
                )
        port = self.address.rpartition(":")[2] if ":" in self.address else ""
        if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise ConfigurationError(
                f"group.address={self.address} has no valid port", "write host:port, or host alone"
            )

    @property
    def host(self) -> str:
        """Empty where it has to be found out."""
        return self.address.rpartition(":")[0] if ":" in self.address else self.address

    @property
    def port(self) -> int:
        """0 for any free one."""
        return int(self.address.rpartition(":")[2] or 0) if ":" in self.address else 0

    def settings(self, nodes: Any) -> NodeSettings | None:
        """What the decision core is told.

        :param nodes: ``4``, or ``4:5`` for four that train and a fifth that stands by.
        :returns: None for one node alone.
        :raises ConfigurationError: it is neither, or the numbers do not fit together.
        """
        train, spares = _numbers(nodes)
        if train == 1 and spares == 0:
            return None
        return NodeSettings(
            train,
            spares,
            least=self.least or None,
            wait_seconds=self.wait_seconds,
            start_seconds=self.start_seconds,
            grow_seconds=self.grow_seconds,
            shortage=self.shortage,
        )


def _numbers(nodes: Any) -> tuple[int, int]:
    """How many train, and how many more stand by."""
    text = "" if isinstance(nodes, bool) else str(nodes)
    train, separator, whole = text.partition(":")
    words = [train, whole] if separator else [train]
    if not all(word.isascii() and word.isdigit() for word in words) or int(words[-1]) < int(train):
        raise ConfigurationError(
            f"nodes={nodes} is no number of nodes",
            "write nodes=4, or nodes=4:5 for four that train and a fifth that stands by",
        )
    return int(train), int(words[-1]) - int(train)
