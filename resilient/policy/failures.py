"""What a failure is called: from the evidence about one dead worker to a class and a signature.

A pure function over an :class:`Evidence`; gathering the evidence is the supervisor's work, the catalogue is in
:mod:`resilient.policy.failure_table`, and which of several ranks' failures was first is decided in
:mod:`resilient.policy.roots`.

What an exception says outranks how the process ended, because a script that raised may be killed while it tears down.
What the kernel says outranks both where they only show the consequence: a process that is gone without a word, a device
that does not answer. It does not where the program itself is plainly wrong: another job's bad GPU is no reason for a
``KeyError`` here.
"""

from __future__ import annotations

import builtins
import re
import signal
from collections.abc import Iterable
from dataclasses import dataclass, field

from resilient.policy.failure_class import FailureClass
from resilient.policy.failure_table import BY_TYPE, BY_TYPE_ALONE, EXCEPTION, KERNEL, LOG, Row, find_row
from resilient.policy.signatures import normalised, without_secrets

__all__ = ["Evidence", "Failure", "FailureClass", "classify", "is_noise"]

_MOST_LINE = 400  # characters of a line kept as evidence
_MOST_MESSAGE = 1000


@dataclass(frozen=True)
class Evidence:
    """What is known about a worker that is gone.

    :param exit_code: as ``subprocess`` reports it: ``-n`` for death by signal *n*.
    :param error_type: class name of the exception that ended the script, with its bases, most derived first.
    :param error_message: the exception's message.
    :param causes: ``Type: message`` of the exceptions it was raised from, nearest first.
    :param hung: the supervisor killed it for lack of progress.
    :param announced_finish: the worker said that the run is finished.
    :param log: the last lines of its log, of this round only.
    :param kernel: lines of the kernel's log since the round began.
    :param oom_kills: how often the kernel has killed in the worker's cgroup for lack of memory since the round began.
    :param processes: numbers of the worker and what it had started, as far as they are known.
    """

    exit_code: int
    error_type: tuple[str, ...] = ()
    error_message: str = ""
    hung: bool = False
    announced_finish: bool = False
    causes: tuple[str, ...] = ()
    log: tuple[str, ...] = ()
    kernel: tuple[str, ...] = ()
    oom_kills: int = 0
    processes: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Failure:
    """A classified failure. Two failures with one class and ``signature`` are taken to have one cause.

    :param message: the same for a person, with all its numbers; the signature where it says no more.
    :param evidence: the lines that led to the class.
    :param alone: the class of an echo when no other rank has failed before it.
    :param where: the place in the code, if it is known; it may be another line the next time, with the same cause.
    """

    failure_class: FailureClass
    signature: str
    message: str = field(default="", compare=False)
    evidence: tuple[str, ...] = field(default=(), compare=False)
    alone: FailureClass | None = field(default=None, compare=False)
    where: str = field(default="", compare=False)

    @property
    def text(self) -> str:
        return self.message or self.signature

    @property
    def headline(self) -> str:
        """The same in one line: where messages have more of them, the first says what it is."""
        return next(iter(self.text.splitlines()), "")

    @property
    def told(self) -> str:
        """In one line, with the place."""
        return f"{self.headline}, in {self.where}" if self.where else self.headline


_CRASH_SIGNALS = frozenset({signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE})
_SIGNALS = frozenset(int(number) for number in signal.Signals)
_RANK_PREFIX = re.compile(r"^\[?rank ?\d+\]?: ?")  # torch puts it before what an exception hook writes
_ENDS_A_TRACEBACK = re.compile(r"^(?P<type>[A-Za-z_][\w.]*)(?:: (?P<message>.*))?$")
_BEGINS_A_TRACEBACK = "Traceback (most recent call last):"
_FROM_A_DATALOADER = "Original Traceback (most recent call last):"
_FROM_A_SPAWNED_PROCESS = "ProcessRaisedException"
_MOST_LINES = 8  # of a message; libraries put the reason first and a backtrace after it
_KILLED_PID = re.compile(r"Killed process (\d+)")
# What is believed to be a consequence, where the kernel knows the cause.
_BY_HARDWARE = frozenset(
    {
        FailureClass.KILLED,
        FailureClass.CRASH,
        FailureClass.DEVICE_ERROR,
        FailureClass.DEVICE_ASSERT,
        FailureClass.ECHO,
        FailureClass.HANG,
    }
)
_BY_THE_DEVICE = frozenset({FailureClass.CRASH, FailureClass.ECHO})
_BY_LACK_OF_MEMORY = frozenset({FailureClass.KILLED, FailureClass.DATA})


def classify(evidence: Evidence) -> Failure:
    """Name the failure that the evidence shows. Every evidence has a name; nothing is raised."""
    return _explained(_first_sight(evidence), evidence)


def is_noise(evidence: Evidence) -> bool:
    """Whether this is only the way in which a worker went that had done all it was to do.

    A DataLoader's workers are killed while the interpreter shuts down, and the DataLoader complains of it.
    """
    return evidence.announced_finish and _first_sight(evidence).failure_class is FailureClass.DATA


def _first_sight(evidence: Evidence) -> Failure:
    if evidence.hung:
        return Failure(FailureClass.HANG, "no progress")
    if evidence.error_type:
        return _of_exception(evidence)
    number = -evidence.exit_code if evidence.exit_code < 0 else evidence.exit_code - 128
    if evidence.exit_code < 0 or number in _SIGNALS:  # a shell between us and the process adds 128 to the signal
        return _of_signal(number, evidence)
    if evidence.exit_code == 0:
        return Failure(FailureClass.UNFINISHED, "exit 0 without finishing")
    return _of_exit_code(evidence)


def _of_exception(evidence: Evidence) -> Failure:
    if evidence.error_type[0] == _FROM_A_SPAWNED_PROCESS:
        # torch.multiprocessing.spawn passes on what a process raised as text: the traceback, after a line of its own.
        raised = _raised_in_log(tuple(evidence.error_message.splitlines()))
        if raised is not None:
            return raised
    failure = _named(evidence.error_type, evidence.error_message)
    if failure.failure_class is FailureClass.APPLICATION:
        for cause in evidence.causes:
            kind, _, message = cause.partition(": ")
            found = _named((kind,), message)
            if found.failure_class is not FailureClass.APPLICATION:
                return Failure(
                    found.failure_class,
                    failure.signature,
                    f"{failure.text} (from {found.text})"[:_MOST_MESSAGE],
                    (*failure.evidence, *found.evidence),
                    found.alone,
                )
    if failure.failure_class is FailureClass.ECHO and (root := _in_log(evidence.log, echoes=False)) is not None:
        return root
    return failure


def _named(types: tuple[str, ...], message: str) -> Failure:
    """The failure that an exception of these types, most derived first, shows with this message."""
    message = without_secrets(message)
    lines = [line for line in message.splitlines() if line.strip()]
    if any(_FROM_A_DATALOADER in line for line in lines):  # between them is what the worker ran, which proves nothing
        lines = [lines[0], lines[-1]]
        told = lines[-1]
    else:
        told = lines[0] if lines else ""
    whole = "\n".join([f"{types[0]}: {lines[0] if lines else ''}".rstrip(": "), *lines[1:_MOST_LINES]])
    signature = f"{types[0]}: {normalised(told)}".rstrip(": ")
    failure_class, alone = FailureClass.APPLICATION, None
    names = frozenset(name.rpartition(".")[2] for name in types) | _bases(types[0])
    row = find_row(whole, EXCEPTION)
    if (found := _by_type(names, BY_TYPE_ALONE)) is not None:
        failure_class = found
    elif row is not None:
        failure_class, alone = row.failure_class, row.alone
    elif (found := _by_type(names, BY_TYPE)) is not None:
        failure_class = found
        alone = FailureClass.NETWORK if found is FailureClass.ECHO else None
    return Failure(failure_class, signature, whole[:_MOST_MESSAGE], (_line(whole),), alone)


def _bases(name: str) -> frozenset[str]:
    """Names of the bases of a built-in exception: a traceback in a log tells only the class itself."""
    kind = getattr(builtins, name, None)
    if not (isinstance(kind, type) and issubclass(kind, BaseException)):
        return frozenset()
    return frozenset(base.__name__ for base in kind.__mro__)


def _by_type(names: frozenset[str], table: tuple[tuple[frozenset[str], FailureClass], ...]) -> FailureClass | None:
    return next((failure_class for types, failure_class in table if names & types), None)


def _of_signal(number: int, evidence: Evidence) -> Failure:
    name = signal.Signals(number).name if number in _SIGNALS else f"signal {number}"
    if number == signal.SIGTERM:
        return Failure(FailureClass.PREEMPTION, name)
    if number not in _CRASH_SIGNALS:
        return Failure(FailureClass.KILLED, name)  # it had no time to say why: what its log ends with is another story
    found = _in_log(evidence.log)
    if found is not None:
        return found
    last = [
        line for line in evidence.log[-40:] if line.startswith(("Fatal Python error", "terminate called", "  what()"))
    ]
    return Failure(FailureClass.CRASH, name, evidence=tuple(map(_line, last[-3:])))


def _of_exit_code(evidence: Evidence) -> Failure:
    found = _in_log(evidence.log)
    raised = _raised_in_log(evidence.log)
    if raised is not None and (found is None or found.failure_class is FailureClass.ECHO):
        return raised
    if found is not None:
        return found
    return Failure(FailureClass.APPLICATION, f"exit {evidence.exit_code}")


def _in_log(lines: Iterable[str], *, echoes: bool = True) -> Failure | None:
    """The first line that the catalogue knows and that is no echo; else the first echo."""
    echo: Failure | None = None
    for line in lines:
        row = find_row(line, LOG)
        if row is None:
            continue
        if row.failure_class is not FailureClass.ECHO:
            return _of_line(row, line)
        echo = echo or _of_line(row, line)
    return echo if echoes else None


def _raised_in_log(lines: tuple[str, ...]) -> Failure | None:
    """The exception that ended the script, from the last traceback in its log."""
    inside, found = False, None
    for line in lines:
        text = _RANK_PREFIX.sub("", line, count=1).rstrip()
        if text == _BEGINS_A_TRACEBACK:
            inside = True
        elif inside and text and not text.startswith(" "):  # frames and source lines are indented, the last line is not
            inside, found = False, _ENDS_A_TRACEBACK.match(text) or found
    if found is None:
        return None
    return _named((found["type"].rpartition(".")[2],), found["message"] or "")


def _of_line(row: Row, line: str) -> Failure:
    text = _line(line)
    return Failure(row.failure_class, normalised(text), text, (text,), row.alone)


def _explained(failure: Failure, evidence: Evidence) -> Failure:
    """``failure``, or what the kernel knows of its cause."""
    for cause, consequences in ((FailureClass.HARDWARE, _BY_HARDWARE), (FailureClass.DEVICE_ERROR, _BY_THE_DEVICE)):
        for line in evidence.kernel if failure.failure_class in consequences else ():
            row = find_row(line, KERNEL)
            if row is not None and row.failure_class is cause:
                return _caused(failure, _of_line(row, line))
    if failure.failure_class in _BY_LACK_OF_MEMORY:
        proof = [_line(line) for line in evidence.kernel if _is_our_oom_kill(line, evidence.processes)]
        if evidence.oom_kills:
            proof.insert(
                0, f"the kernel's count of kills for lack of memory rose by {evidence.oom_kills} in the cgroup"
            )
        if proof:
            message = f"{failure.text}: killed by the kernel for lack of memory"
            signature = f"{failure.signature}: killed for lack of memory"
            return Failure(FailureClass.HOST_OOM, signature, message, (*failure.evidence, *proof[-5:]))
    return failure


def _caused(consequence: Failure, cause: Failure) -> Failure:
    told = f"{cause.text} (seen as: {consequence.text})"[:_MOST_MESSAGE]
    return Failure(cause.failure_class, cause.signature, told, (*cause.evidence, *consequence.evidence))


def _is_our_oom_kill(line: str, processes: frozenset[int]) -> bool:
    row = find_row(line, KERNEL)
    if row is None or row.failure_class is not FailureClass.HOST_OOM:
        return False
    killed = _KILLED_PID.search(line)
    return not processes or (killed is not None and int(killed[1]) in processes)


def _line(text: str) -> str:
    return without_secrets(" ".join(text.split())[:_MOST_LINE])
