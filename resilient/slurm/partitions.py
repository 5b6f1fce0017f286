"""What the partitions of a cluster allow, read from ``scontrol --oneliner show partition``.

SLURM takes many a job that can never start, such as one whose time is over its partition's limit, and lets it wait for
ever. So what is asked for is compared here, before it is submitted.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<rest>\d+(?::\d+){0,2})")
_FOR_EVER = frozenset({"", "NONE", "UNLIMITED", "INFINITE", "-1", "0"})
NODE_FORMAT = "%N|%R|%c"
"""For ``sinfo --Node``: see :func:`parse_nodes`."""
_ANYBODY = frozenset({"", "ALL", "(null)"})


@dataclass(frozen=True)
class Partition:
    """One partition.

    :param nodes: how many it has, or, if that is less, how many a job may have.
    :param seconds: the longest time limit of a job.
    :param accounts: those that may use it; empty for any.
    :param state: ``UP``; ``DOWN``: jobs wait; ``DRAIN`` and ``INACTIVE``: no job is taken.
    :param hidden: it is not shown to everybody.
    """

    name: str
    is_default: bool = False
    nodes: float = math.inf
    seconds: float = math.inf
    accounts: frozenset[str] = frozenset()
    denied_accounts: frozenset[str] = frozenset()
    qos: frozenset[str] = frozenset()
    state: str = "UP"
    hidden: bool = False

    def __str__(self) -> str:
        limits = [] if math.isinf(self.nodes) else [f"{self.nodes:g} node{'s' if self.nodes > 1 else ''}"]
        limits += [] if math.isinf(self.seconds) else [f"up to {as_time(self.seconds)}"]
        limits += [self.state.lower()] if self.state != "UP" else []
        return f"{self.name} ({', '.join(limits)})" if limits else self.name


@dataclass(frozen=True)
class Node:
    """One node in one partition."""

    name: str
    partition: str
    cpus: int


@dataclass(frozen=True)
class Request:
    """What a job asks for, as far as it can be compared.

    :param partitions: empty for the default one.
    :param seconds: its time limit; None for the partition's default.
    """

    partitions: tuple[str, ...] = ()
    nodes: int = 1
    seconds: float | None = None
    account: str = ""
    qos: str = ""
    cpus: int = 0

    def may_run_in(self, known: Sequence[Partition]) -> list[Partition]:
        """Those of the known partitions that are meant."""
        named = [partition for partition in known if partition.name in self.partitions]
        return named if self.partitions else [partition for partition in known if partition.is_default]


@dataclass(frozen=True)
class Objection:
    """Why a job would not start.

    :param setting: of the section ``slurm``.
    """

    setting: str
    problem: str


def parse_partitions(shown: str) -> list[Partition]:
    """All partitions that are shown; what is not understood counts as no limit."""
    return [
        _partition(dict(word.split("=", 1) for word in line.split() if "=" in word))
        for line in shown.splitlines()
        if line.startswith("PartitionName=")
    ]


def parse_nodes(shown: str) -> list[Node]:
    """What ``sinfo`` shows in :data:`NODE_FORMAT`; lines that are none are left out."""
    lines = (line.split("|") for line in shown.splitlines())
    return [Node(parts[0], parts[1], int(parts[2])) for parts in lines if len(parts) == 3 and parts[2].isdecimal()]


def parse_time(text: str) -> float | None:
    """Seconds of a time limit as SLURM writes and reads it: ``30``, ``30:00``, ``8:00:00``, ``1-12``, ``1-12:00:00``.

    A lone number is minutes. Infinity for no limit; None for what is no time.
    """
    if text.upper() in _FOR_EVER:
        return math.inf
    match = _TIME.fullmatch(text)
    if match is None:
        return None
    parts = [int(part) for part in match["rest"].split(":")]
    if match["days"] is not None or len(parts) == 3:  # they begin with hours
        hours, minutes, seconds = (*parts, 0, 0)[:3]
    else:  # with minutes
        hours, (minutes, seconds) = 0, (*parts, 0)[:2]
    return float(((int(match["days"] or 0) * 24 + hours) * 60 + minutes) * 60 + seconds)


def as_time(seconds: float) -> str:
    """``1-12:00:00``, as SLURM writes it."""
    days, rest = divmod(int(seconds), 86400)
    clock = f"{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}"
    return f"{days}-{clock}" if days else clock


def named(partitions: Sequence[Partition]) -> str:
    """What there is, for a message."""
    return f"partitions here: {', '.join(str(partition) for partition in partitions if not partition.hidden)}"


def objection(request: Request, known: Sequence[Partition], nodes: Sequence[Node] = ()) -> Objection | None:
    """Why the job would not start in any of the partitions it may run in; None if it may, or nothing is known.

    :param nodes: empty if they are not known.
    """
    if not known:
        return None
    found = {partition.name: partition for partition in known}
    for name in request.partitions:
        if name not in found:
            close = difflib.get_close_matches(name, found, 1)
            hint = f", did you mean {close[0]}?" if close else ""
            return Objection("partition", f"there is no partition {name}{hint}")
    meant = request.may_run_in(known)
    if not meant:
        return Objection("partition", "this cluster has no default partition")
    reasons = [next(_reasons(request, partition, nodes), None) for partition in meant]
    return reasons[0] if all(reasons) else None


def _reasons(request: Request, partition: Partition, nodes: Sequence[Node]) -> Iterator[Objection]:
    name = partition.name
    cpus = max((node.cpus for node in nodes if node.partition == name), default=math.inf)
    if request.cpus > cpus:
        yield Objection("cpus_per_task", f"a node in partition {name} has {cpus:g}, and not {request.cpus}")
    if request.nodes > partition.nodes:
        yield Objection("nodes", f"a job in partition {name} can have {partition.nodes:g}, and not {request.nodes}")
    if request.seconds is not None and request.seconds > partition.seconds:
        limit = as_time(partition.seconds)
        wanted = "no limit" if math.isinf(request.seconds) else as_time(request.seconds)
        yield Objection("time", f"a job in partition {name} can have {limit} at the most, and not {wanted}")
    if request.account in partition.denied_accounts:
        yield Objection("account", f"partition {name} is closed to account {request.account}")
    if request.account and partition.accounts and request.account not in partition.accounts:
        allowed = _listed(partition.accounts)
        yield Objection("account", f"partition {name} is for {allowed}, and not for account {request.account}")
    if request.qos and partition.qos and request.qos not in partition.qos:
        yield Objection("qos", f"partition {name} allows {_listed(partition.qos)}, and not {request.qos}")


def _partition(fields: dict[str, str]) -> Partition:
    most = [fields.get("MaxNodes", ""), fields.get("TotalNodes", "")]
    seconds = parse_time(fields.get("MaxTime", ""))
    return Partition(
        fields["PartitionName"],
        fields.get("Default") == "YES",
        min((int(number) for number in most if number.isdecimal()), default=math.inf),
        math.inf if seconds is None else seconds,
        _names(fields.get("AllowAccounts", "")),
        _names(fields.get("DenyAccounts", "")),
        _names(fields.get("AllowQos", "")),
        fields.get("State", "UP"),
        fields.get("Hidden") == "YES",
    )


def _names(text: str) -> frozenset[str]:
    return frozenset() if text in _ANYBODY else frozenset(text.split(","))


def _listed(names: frozenset[str]) -> str:
    return ", ".join(sorted(names))
