"""What a failure is called: from the evidence about one dead worker to a class and a signature.

A pure function over an :class:`Evidence`; gathering the evidence is the supervisor's work.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from enum import Enum


class FailureClass(str, Enum):
    """What happened; decides the remedy."""

    KILLED = "killed"
    CRASH = "crash"
    HOST_OOM = "host out of memory"
    DEVICE_OOM = "device out of memory"
    CODE = "code or configuration"
    APPLICATION = "application error"
    DATA = "data loading"
    TRANSIENT_IO = "transient I/O"
    DISK = "disk full"
    BAD_SNAPSHOT = "bad snapshot"
    HANG = "hang"
    UNFINISHED = "exited before the run was finished"
    PREEMPTION = "preemption"
    DECLARED = "declared by the script"
    SUPERVISOR_LOST = "supervisor lost"


@dataclass(frozen=True)
class Evidence:
    """What is known about a worker that is gone.

    :param exit_code: as ``subprocess`` reports it: ``-n`` for death by signal *n*.
    :param error_type: class name of the exception that ended the script, with its bases, most derived first.
    :param error_message: the exception's message, one line.
    :param hung: the supervisor killed it for lack of progress.
    :param announced_finish: the worker said that the run is finished.
    """

    exit_code: int
    error_type: tuple[str, ...] = ()
    error_message: str = ""
    hung: bool = False
    announced_finish: bool = False


@dataclass(frozen=True)
class Failure:
    """A classified failure. Two failures with one ``signature`` are taken to have one cause."""

    failure_class: FailureClass
    signature: str


_CRASH_SIGNALS = frozenset({signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE})

_SIGNALS = frozenset(int(number) for number in signal.Signals)

_CODE_ERRORS = frozenset(
    {
        "TypeError",
        "NameError",
        "SyntaxError",
        "ImportError",
        "ModuleNotFoundError",
        "AttributeError",
        "KeyError",
        "PermissionError",
        "FileNotFoundError",
        "StateError",
        "UsageError",
        "ConfigurationError",
    }
)

# First match wins; the message is searched in lower case. The rows are those of the failure catalogue that a Python
# exception can show.
_BY_MESSAGE: tuple[tuple[str, FailureClass], ...] = (
    ("cuda out of memory", FailureClass.DEVICE_OOM),
    ("cublas_status_alloc_failed", FailureClass.DEVICE_OOM),
    ("no space left on device", FailureClass.DISK),
    ("disk quota exceeded", FailureClass.DISK),
    ("dataloader worker", FailureClass.DATA),
    ("stale file handle", FailureClass.TRANSIENT_IO),
    ("connection reset", FailureClass.TRANSIENT_IO),
    ("timed out", FailureClass.TRANSIENT_IO),
)

_BY_TYPE: tuple[tuple[frozenset[str], FailureClass], ...] = (
    (frozenset({"SnapshotCorrupt"}), FailureClass.BAD_SNAPSHOT),
    (frozenset({"StorageFull"}), FailureClass.DISK),
    (frozenset({"OutOfMemoryError"}), FailureClass.DEVICE_OOM),
    (frozenset({"MemoryError"}), FailureClass.HOST_OOM),
    (_CODE_ERRORS, FailureClass.CODE),
    (frozenset({"ConnectionError", "TimeoutError"}), FailureClass.TRANSIENT_IO),
)


def classify(evidence: Evidence) -> Failure:
    """Name the failure that the evidence shows."""
    if evidence.hung:
        return Failure(FailureClass.HANG, "no progress")
    if evidence.error_type:
        return _classify_exception(evidence)
    if evidence.exit_code < 0:
        return _classify_signal(-evidence.exit_code)
    if evidence.exit_code - 128 in _SIGNALS:  # a shell between us and the training process reports a signal this way
        return _classify_signal(evidence.exit_code - 128)
    if evidence.exit_code == 0:
        return Failure(FailureClass.UNFINISHED, "exit 0 without finishing")
    return Failure(FailureClass.APPLICATION, f"exit {evidence.exit_code}")


def _classify_exception(evidence: Evidence) -> Failure:
    signature = f"{evidence.error_type[0]}: {evidence.error_message}".rstrip(": ")
    message = evidence.error_message.lower()
    for pattern, failure_class in _BY_MESSAGE:
        if pattern in message:
            return Failure(failure_class, signature)
    names = frozenset(evidence.error_type)
    for types, failure_class in _BY_TYPE:
        if names & types:
            return Failure(failure_class, signature)
    return Failure(FailureClass.APPLICATION, signature)


def _classify_signal(number: int) -> Failure:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    failure_class = FailureClass.CRASH if number in _CRASH_SIGNALS else FailureClass.KILLED
    return Failure(failure_class, name)
