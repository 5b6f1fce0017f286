"""What SLURM says of itself, of a partition and of this job, as far as the checks read it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field

from resilient.doctor.world import World
from resilient.slurm.commands import Commands
from resilient.slurm.environment import JobEnvironment
from resilient.slurm.scontrol import SHOW_CONFIG, parse_fields, parse_seconds, show_job

SECONDS = 10.0  # for each question
_SHOW_PARTITIONS = ("scontrol", "--oneliner", "show", "partition")
_SETTING = re.compile(r"^([A-Za-z_]+(?:\[\d+\])?)\s*=[ \t]*(.*)$", re.MULTILINE)


class Unasked(Exception):  # noqa: N818  named by condition
    """SLURM cannot be asked from here."""


@dataclass(frozen=True)
class Cluster:
    """A cluster, as the job that is to run sees it.

    :param settings: ``scontrol show config``.
    :param partition: of the job, or that it would be in; empty if it is not known.
    :param job: this job; empty outside one.
    """

    settings: Mapping[str, str] = field(default_factory=dict)
    partition: Mapping[str, str] = field(default_factory=dict)
    job: Mapping[str, str] = field(default_factory=dict)

    @property
    def kill_wait(self) -> float | None:
        """Seconds from SIGTERM to SIGKILL at the time limit, and whenever SLURM ends a job without more words."""
        return seconds_of(self.settings.get("KillWait", "").removesuffix(" sec"))

    @property
    def grace(self) -> float | None:
        """Seconds of the partition's preemption grace."""
        return seconds_of(self.partition.get("GraceTime", ""))

    @property
    def preempt_mode(self) -> str:
        """What happens to a job that is preempted: ``OFF``, ``REQUEUE``, ``CANCEL``, ``SUSPEND`` or ``GANG``."""
        if self.settings.get("PreemptType", "preempt/none") == "preempt/none":
            return "OFF"
        modes = (self.partition.get("PreemptMode") or self.settings.get("PreemptMode", "OFF")).split(",")
        return next((mode for mode in modes if mode not in {"GANG", "WITHIN"}), modes[0])

    @property
    def requeues_on(self) -> frozenset[int]:
        """Exit codes after which SLURM requeues a job by itself."""
        return codes_of(self.settings.get("RequeueExit", ""))

    @property
    def holds_on(self) -> frozenset[int]:
        """Exit codes after which it requeues a job and then keeps it from starting."""
        return codes_of(self.settings.get("RequeueExitHold", ""))


def parse_settings(shown: str) -> dict[str, str]:
    """``scontrol show config``: lines ``Name = value``."""
    return {match[1]: match[2].strip() for match in _SETTING.finditer(shown)}


def parse_rows(shown: str) -> list[dict[str, str]]:
    """``scontrol --oneliner show …``, a thing on each line."""
    return [parse_fields(line) for line in shown.splitlines() if re.match(r"[A-Z][A-Za-z]*=", line)]


def seconds_of(text: str) -> float | None:
    """A time as SLURM writes it; None for what is none, and for no limit."""
    try:
        return parse_seconds(text)
    except ValueError:
        return None


def codes_of(text: str) -> frozenset[int]:
    """``1,75-77``, as in ``RequeueExit``."""
    found: set[int] = set()
    for part in text.split(","):
        if match := re.fullmatch(r"\s*(\d{1,3})(?:-(\d{1,3}))?\s*", part):
            found.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return frozenset(found)


def wanted_partition(rows: list[dict[str, str]], named: str) -> dict[str, str]:
    """The partition of that name, the first of several; the default one where none is named."""
    name = named.partition(",")[0]
    wanted = (row for row in rows if (row.get("PartitionName") == name if name else row.get("Default") == "YES"))
    return next(wanted, {})


def has_scontrol(world: World) -> bool:
    return shutil.which("scontrol", path=world.environment.get("PATH")) is not None


def is_here(world: World) -> bool:
    """Whether this is a job, or a machine that has SLURM's commands."""
    return "SLURM_JOB_ID" in world.environment or has_scontrol(world)


def ask(world: World, seconds: float = SECONDS) -> Cluster:
    """Ask SLURM.

    :param seconds: that each of three questions may take.
    :raises Unasked: there is no ``scontrol``, or the controller does not answer.
    :raises ConfigurationError: the variables of the job are not as SLURM sets them.
    """
    if not has_scontrol(world):
        raise Unasked("there is no scontrol here")
    commands, here = Commands(seconds, environ=world.environment), JobEnvironment.read(world.environment)
    settings = parse_settings(_said(commands, SHOW_CONFIG))
    job = next(iter(parse_rows(_said(commands, show_job(here.name)))), {}) if here is not None else {}
    rows = parse_rows(_said(commands, _SHOW_PARTITIONS))
    named = here.partition if here is not None else ""
    if not named and world.subject is not None:
        named = world.subject.slurm.partition
    return Cluster(settings, wanted_partition(rows, named), job)


def _said(commands: Commands, command: tuple[str, ...]) -> str:
    answer = commands.call(*command)
    if answer.problem:
        raise Unasked(f"scontrol fails: {answer.problem.rpartition('scontrol: ')[2]}")
    return answer.output
