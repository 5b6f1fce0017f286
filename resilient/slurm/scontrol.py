"""What ``scontrol show`` says, as objects. Pure parsers; :mod:`resilient.slurm.commands` asks.

SLURM's times have no zone: they are those of this machine, as the commands' are that wrote them.
"""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass

_FIELD = re.compile(r"(?:^|\s)([A-Z][A-Za-z/:\-]*)=")
_SETTING = re.compile(r"^(\S+)\s*=\s?(.*)$", re.MULTILINE)
_DURATION = re.compile(r"(?:(\d+)-)?(\d+):(\d+)(?::(\d+))?")
_NOT_A_TIME = frozenset({"", "Unknown", "None", "N/A", "NONE"})


def show_job(job: str) -> tuple[str, ...]:
    return ("scontrol", "--oneliner", "show", "job", job)


def show_partition(name: str) -> tuple[str, ...]:
    return ("scontrol", "--oneliner", "show", "partition", name)


SHOW_CONFIG = ("scontrol", "show", "config")


def requeue(job: str) -> tuple[str, ...]:
    return ("scontrol", "requeue", job)


def exclude(job: str, nodes: str) -> tuple[str, ...]:
    """To be called when the job is in the queue again: a job that runs cannot be changed so."""
    return ("scontrol", "update", f"JobId={job}", f"ExcNodeList={nodes}")


@dataclass(frozen=True)
class Job:
    """A job as the controller sees it. Times are seconds since the epoch; None where SLURM names none.

    :param state: such as ``RUNNING``; ``COMPLETING`` also while it is on its way back into the queue.
    :param reason: such as ``TimeLimit``.
    :param requeue: it may go back into the queue.
    :param batch: it has a batch script; only such a job can.
    :param restarts: how often it has gone back, a return that has just been ordered included.
    :param preempted: when another job has claimed its nodes.
    :param ends: when its time is up. A preemption sets it to the end of the grace.
    :param excluded: nodes it must not have, as SLURM writes them.
    """

    number: int
    state: str
    reason: str = ""
    requeue: bool = True
    batch: bool = True
    restarts: int = 0
    preempted: float | None = None
    ends: float | None = None
    excluded: str = ""
    partition: str = ""


@dataclass(frozen=True)
class Site:
    """What holds for every job of the cluster.

    :param kill_wait: seconds from SIGTERM to SIGKILL.
    :param requeue_exits: exit codes of a batch script after which SLURM itself puts a job back into the queue.
    """

    kill_wait: float = 30.0
    requeue_exits: frozenset[int] = frozenset()
    version: str = ""


def parse_fields(line: str) -> dict[str, str]:
    """The fields of one line of ``--oneliner``. Values may hold blanks; of a name that comes twice the first counts."""
    found: dict[str, str] = {}
    marks = list(_FIELD.finditer(line))
    for mark, following in itertools.zip_longest(marks, marks[1:]):
        value = line[mark.end() : None if following is None else following.start()]
        found.setdefault(mark[1], value.strip())
    return found


def parse_job(text: str) -> Job:
    """Of ``scontrol --oneliner show job``.

    :raises ValueError: it is no such line.
    """
    fields = parse_fields(text.strip().split("\n")[0])
    try:
        excluded = fields.get("ExcNodeList", "")
        return Job(
            number=int(fields["JobId"]),
            state=fields["JobState"],
            reason=fields.get("Reason", ""),
            requeue=fields.get("Requeue", "1") != "0",
            batch=fields.get("BatchFlag", "1") != "0",
            restarts=int(fields.get("Restarts", "0")),
            preempted=parse_time(fields.get("PreemptTime", "")),
            ends=parse_time(fields.get("EndTime", "")),
            excluded="" if excluded == "(null)" else excluded,
            partition=fields.get("Partition", ""),
        )
    except KeyError as error:
        raise ValueError(f"{error.args[0]} is missing in what scontrol says of the job") from error


def parse_grace(text: str) -> float:
    """``GraceTime`` of a partition in seconds.

    :raises ValueError: there is none.
    """
    grace = parse_fields(text.strip().split("\n")[0]).get("GraceTime", "")
    if grace == "NONE":
        return 0.0
    return parse_seconds(grace)


def parse_site(text: str) -> Site:
    """Of ``scontrol show config``; what is not there, or not readable, keeps its default."""
    settings: Mapping[str, str] = {match[1]: match[2].strip() for match in _SETTING.finditer(text)}
    kill_wait = Site.kill_wait
    if match := re.match(r"(\d+)", settings.get("KillWait", "")):
        kill_wait = float(match[1])
    return Site(kill_wait, _codes(settings.get("RequeueExit", "")), settings.get("SLURM_VERSION", ""))


def _codes(text: str) -> frozenset[int]:
    """Exit codes of a list such as ``75,100-102``."""
    found: set[int] = set()
    for first, last in re.findall(r"\b(\d{1,3})(?:-(\d{1,3}))?\b", text):
        found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)


def parse_time(text: str) -> float | None:
    """Seconds since the epoch of ``2026-11-28T17:31:46``.

    :raises ValueError: it is something else.
    """
    if text in _NOT_A_TIME:
        return None
    return time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%S"))


def parse_seconds(text: str) -> float:
    """``90`` or ``00:01:30`` or ``1-00:00:00`` in seconds.

    :raises ValueError: it is something else.
    """
    if text.isdecimal():
        return float(text)
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"{text[:40]!r} is no duration")
    days, *parts = (int(part or 0) for part in match.groups())
    if match[4] is None and match[1] is None:
        parts = [0, *parts[:2]]  # minutes and seconds
    hours, minutes, seconds = parts
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
