"""One tree of errors. Every error carries the exit code of the process it ends and what the user does next.

The codes below 79 follow ``sysexits.h``, where schedulers and shells already give them a meaning; those from 80 up are
ours and tell apart the ways in which a training run can end for good.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of ``resilient``; the README's table is made from the ``description`` of each."""

    description: str

    def __new__(cls, value: int, description: str) -> ExitCode:
        member = int.__new__(cls, value)
        member._value_ = value
        member.description = description
        return member

    FINISHED = 0, "the run is finished: every step was done and its last snapshot is durable"
    DIFFERENT = 1, "replay: today's policy decides otherwise somewhere; verify: the hardware computed wrong"
    USAGE = 2, "the command line could not be understood"
    UNDECIDED = 3, "verify: replays differ among themselves, or nothing could be concluded"
    UNREADABLE = 65, "the journal or the metrics cannot be read, or hold nothing that could be replayed"
    NO_ENTRY_POINT = 66, "the script or module to train does not exist"
    NO_SNAPSHOT = 67, "snapshots exist, but none of them can be loaded, or the one asked for is corrupt"
    NOT_FOUND = 68, "there is no such run or snapshot"
    NOT_RUNNING = 69, "no supervisor on this machine is running that run"
    INTERNAL = 70, "a bug in resilient itself"
    NOT_WRITABLE = 73, "the run directory, or the target of an export, cannot be created or written"
    DISK_FULL = 74, "the state could not be made durable: the disk is full, or cannot be written"
    REQUEUE = 75, "preempted: start the same command again to carry on from the last snapshot"
    RUN_LOCKED = 76, "another live supervisor owns this run"
    CONFIG = 78, "the configuration is wrong: unknown key, bad value or impossible combination"
    CONFIG_DRIFT = 79, "the configuration is not the one this run was started with"
    WORKER_ERROR = 80, "the training script raises an error that a relaunch cannot cure"
    CRASH_LOOP = 81, "the same failure at the same step, again and again, without progress"
    BUDGET_SPENT = 82, "more failures than the restart budget allows"
    HUNG = 83, "the workers hang again and again"
    DIVERGED = 84, "the loss diverged and could not be brought back"
    REMOTE_UNAVAILABLE = 85, "the remote tier cannot be used, and what was asked for lies nowhere else"
    UNTRUSTED_NODE = 86, "this machine computes wrong results: start the same command on another one"
    SCHEDULER = 87, "the scheduler takes no such job, has it already, or cannot be reached"
    WILL_NOT_WORK = 88, "doctor: something of this machine or this configuration will not work"
    NODES_MISSING = 89, "too few of the run's nodes are there, and group.shortage=stop ends it then"
    DRILL_FAILED = 90, "a drill failed: a fault was not recovered from, not noticed, or could not be injected"
    TIMED_OUT = 124, "what was asked for did not happen in time"
    TERMINATED = 143, "stopped by request; start the same command again to carry on"


class ResilientError(Exception):
    """Root of all errors raised on purpose.

    :param problem: what is wrong, naming the thing.
    :param remedy: what the user does next.
    """

    exit_code = ExitCode.INTERNAL

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.problem}\n  next: {self.remedy}" if self.remedy else self.problem


class ConfigurationError(ResilientError):
    """A key, a value or a combination of values in the configuration is wrong."""

    exit_code = ExitCode.CONFIG


class ConfigurationDrift(ResilientError):
    """A run is started again with another configuration than it was begun with."""

    exit_code = ExitCode.CONFIG_DRIFT


class EntryPointMissing(ResilientError):
    """The script or module to train does not exist."""

    exit_code = ExitCode.NO_ENTRY_POINT


class RunDirectoryNotWritable(ResilientError):
    """The run directory cannot be created or written."""

    exit_code = ExitCode.NOT_WRITABLE


class LineageUnreadable(ResilientError):
    """What is known of a run's rollbacks cannot be read; to go on without it would bring back what was discarded."""

    exit_code = ExitCode.UNREADABLE


class TargetNotWritable(ResilientError):
    """What is to be exported cannot be written where it is to be, or something is there already."""

    exit_code = ExitCode.NOT_WRITABLE


class RunLocked(ResilientError):
    """Another live process owns the run on this node."""

    exit_code = ExitCode.RUN_LOCKED


class UntrustedNode(ResilientError):
    """The run is kept off this machine, which computed wrong results."""

    exit_code = ExitCode.UNTRUSTED_NODE


class RequeuesSpent(ResilientError):
    """A job has come back from the queue as often as it may, or without making progress."""

    exit_code = ExitCode.BUDGET_SPENT


class StateError(ResilientError):
    """A piece of training state cannot be captured or restored; the message names its path in the state tree."""

    exit_code = ExitCode.WORKER_ERROR


class UsageError(ResilientError):
    """The worker API is used in a way that cannot work."""

    exit_code = ExitCode.WORKER_ERROR


class SnapshotError(ResilientError):
    """Root of what can be wrong with a snapshot."""

    exit_code = ExitCode.NO_SNAPSHOT


class SnapshotCorrupt(SnapshotError):
    """A snapshot fails verification: truncated, altered, incomplete or malformed."""


class TermUnreadable(ResilientError):
    """What says who leads a run of several nodes was not written by one of them."""

    exit_code = ExitCode.UNREADABLE


class TermOver(SnapshotError):
    """Another node leads the run, and the one before commits nothing any more."""


class NoLoadableSnapshot(SnapshotError):
    """Snapshots exist, but every one of them fails verification."""


class RunNotFound(ResilientError):
    """There is no run of that name in that directory."""

    exit_code = ExitCode.NOT_FOUND


class JournalUnreadable(ResilientError):
    """A journal cannot be read, or nothing in it can be replayed."""

    exit_code = ExitCode.UNREADABLE


class CurveUnreadable(ResilientError):
    """What the divergence detectors are to be tried on cannot be read, or holds no numbers."""

    exit_code = ExitCode.UNREADABLE


class SnapshotNotFound(SnapshotError):
    """The run has no snapshot of that step."""

    exit_code = ExitCode.NOT_FOUND


class RunNotUp(ResilientError):
    """Something is asked of a run that nobody supervises on this machine."""

    exit_code = ExitCode.NOT_RUNNING


class SchedulerRefused(ResilientError):
    """SLURM does not take the job, or cannot be asked; nothing was submitted."""

    exit_code = ExitCode.SCHEDULER


class SchedulerSilent(SchedulerRefused):
    """SLURM was given a job, and did not answer: it may have taken it."""


class JobQueued(SchedulerRefused):
    """The run is in the queue already, or on a node: a second job of it would only be in the way of the first."""


class FaultNotInjected(ResilientError):
    """A fault that was ordered could not be made to happen; the message says why."""

    exit_code = ExitCode.DRILL_FAILED


class NotInTime(ResilientError):
    """Something was asked for, and did not happen within the time given for it."""

    exit_code = ExitCode.TIMED_OUT


class StorageFull(ResilientError):
    """A snapshot does not fit on the disk (or in shared memory)."""

    exit_code = ExitCode.DISK_FULL


class RemoteUnavailable(ResilientError):
    """The remote tier cannot be reached, or refuses what is asked of it.

    :param transient: it may succeed later; it has been tried as often as the settings say.
    """

    exit_code = ExitCode.REMOTE_UNAVAILABLE

    def __init__(self, problem: str, remedy: str = "", *, transient: bool = True) -> None:
        super().__init__(problem, remedy)
        self.transient = transient
