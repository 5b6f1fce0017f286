"""Writing down where everybody is, before a hung group is killed.

Each process of each rank (the worker, its DataLoader processes and whatever else it has forked) is asked for its
stacks, see :mod:`resilient.protocol.stack_dumps`; what the kernel says of its threads is noted beside it; and py-spy
is run on it where it is installed, which reads the stacks from outside, even those of a stopped process. Nothing here
waits: :meth:`StackDump.poll` is called until it has an answer, which it has when everybody has said what they can say,
or when the time is up.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from resilient.policy.culprit import Condition, RankAccount
from resilient.policy.stacks import (
    Stack,
    describe,
    is_idle_loader,
    main_stack,
    waits_for_data,
    waits_for_ranks,
)
from resilient.protocol.stack_dumps import DUMP_SIGNAL, MEMORY_FILE
from resilient.supervisor import kernel_view, processes

_HELD = (Condition.STOPPED, Condition.TRACED, Condition.UNINTERRUPTIBLE)
_AT_ONCE = 4  # runs of py-spy
_MOST_PROCESSES = 64  # of one rank
_MOST_TEXT = 1 << 20  # of one process's stacks


def find_py_spy() -> str | None:
    """Where py-spy is, if it is: beside this Python, or on the path."""
    beside = Path(sys.executable).with_name("py-spy")
    return str(beside) if os.access(beside, os.X_OK) else shutil.which("py-spy")


@dataclass(frozen=True)
class Suspect:
    """A rank whose stacks are wanted.

    :param pid: its worker, or what was to launch it.
    :param launched: whether it is the worker.
    :param headline: what the first line of its file says.
    """

    rank: int
    pid: int
    launched: bool
    headline: str
    path: Path


class StackDump:
    """One dump of a group. Its files are written when it ends, or is cut short by :meth:`close`."""

    def __init__(
        self, suspects: Sequence[Suspect], *, by: float, clock: Callable[[], float], py_spy: str | None = None
    ) -> None:
        """Ask everybody.

        :param suspects: the ranks, those that are hung first.
        :param by: when to give up on those that have not answered.
        :param py_spy: the program, or None to do without.
        """
        self._suspects = suspects
        self._by = by
        self._clock = clock
        self._answers: dict[int, list[_Answer]] = {}
        asked: set[int] = set()
        for suspect in suspects:
            family = processes.tree(suspect.pid, threads=True) if suspect.launched else [suspect.pid]
            answers = [_Answer(pid, asked, native=pid == suspect.pid) for pid in family[:_MOST_PROCESSES]]
            self._answers[suspect.rank] = answers
        everybody = [answer for each in self._answers.values() for answer in each]
        # the workers first, then what they have forked
        self._waiting = sorted(everybody, key=lambda answer: not answer.native) if py_spy else []
        self._py_spy = py_spy or ""
        self._closed = False

    def poll(self) -> tuple[RankAccount, ...] | None:
        """What was found, when it is all there or time is up; its files are written then."""
        answers = [answer for each in self._answers.values() for answer in each]
        running = sum(answer.is_spied_on() for answer in answers)
        while self._waiting and running < _AT_ONCE:
            running += self._waiting.pop(0).spy(self._py_spy)
        unsettled = bool(self._waiting or running) or not all(answer.is_complete() for answer in answers)
        if unsettled and self._clock() < self._by:
            return None
        self.close()
        return tuple(self._account(suspect) for suspect in self._suspects)

    def close(self) -> None:
        """Write down what there is, and end whatever is still running for it."""
        if self._closed:
            return
        self._closed = True
        for suspect in self._suspects:
            answers = self._answers[suspect.rank]
            for answer in answers:
                answer.finish()
            with suppress(OSError):  # the disk may be what hangs; the group is killed all the same
                suspect.path.parent.mkdir(parents=True, exist_ok=True)
                body = "\n".join(line for answer in answers for line in answer.lines())
                suspect.path.write_text(f"{suspect.headline}\n\n{body}\n", errors="replace")

    def _account(self, suspect: Suspect) -> RankAccount:
        first, *others = self._answers[suspect.rank]
        if not suspect.launched:
            told = f" ({first.condition.value})" if first.condition in _HELD else ""
            stack = first.main_stack()
            place = f": {describe(stack.frames)}" if stack is not None else ""
            return RankAccount(suspect.rank, Condition.MISSING, f"the process that is to fork it{told}{place}")
        stack = first.main_stack()
        if stack is None:
            return RankAccount(suspect.rank, first.condition)
        where = describe(stack.frames)
        if waits_for_data(stack.frames):
            where += "".join(f"; {loader}" for loader in _busy_loaders(others)[:1])
        return RankAccount(suspect.rank, first.condition, where, waits_for_ranks(stack.frames))


def _busy_loaders(answers: Sequence[_Answer]) -> list[str]:
    """What keeps the processes that load data, the stopped ones first."""
    found = []
    for answer in sorted(answers, key=lambda answer: answer.condition not in _HELD):
        stack = answer.main_stack()
        if answer.condition in _HELD:
            found.append(f"process {answer.pid}, which loads data, is {answer.condition.value}")
        elif stack is not None and not is_idle_loader(stack.frames):
            found.append(f"process {answer.pid}, which loads data, in {describe(stack.frames)}")
    return found


class _Answer:
    """What one process says, and what is said of it."""

    def __init__(self, pid: int, files: set[int], *, native: bool) -> None:
        """Ask it.

        :param files: the anonymous files in which others answer already; a process that was forked past Python has its
            parent's, and is not asked.
        :param native: look at its C code too; that takes longer.
        """
        self.pid = pid
        self.native = native
        self.condition = kernel_view.condition(pid) or Condition.MISSING
        self._command = kernel_view.command(pid)
        self._threads = list(kernel_view.describe_threads(pid))
        self._spying: subprocess.Popen[bytes] | None = None
        self._spied: IO[bytes] | None = None
        self._seen = ""  # by py-spy
        self._told = ""  # by itself
        self._file = kernel_view.answer_file(pid, MEMORY_FILE)
        self._asked = self._ask(files)

    def _ask(self, files: set[int]) -> bool:
        if self._file is None or self.condition in (Condition.STOPPED, Condition.TRACED):
            return False
        if not kernel_view.catches(self.pid, DUMP_SIGNAL):
            return False
        try:
            about = self._file.stat()
            if about.st_ino in files:
                return False
            files.add(about.st_ino)
            self._from = about.st_size
            self._held_back = kernel_view.blocking(self.pid, DUMP_SIGNAL)
            os.kill(self.pid, DUMP_SIGNAL)
        except OSError:
            return False
        return True

    def is_complete(self) -> bool:
        """Whether it has said all that it will: the thread that answers holds the signal back until it is done."""
        if not self._asked or self._told:
            return True
        try:
            begun = self._file is not None and self._file.stat().st_size > self._from
        except OSError:
            return True  # it is gone
        if (
            not begun
            or kernel_view.is_pending(self.pid, DUMP_SIGNAL)
            or kernel_view.blocking(self.pid, DUMP_SIGNAL) - self._held_back
        ):
            return False
        self._listen()
        return True

    def _listen(self) -> None:
        if self._file is None or not self._asked:
            return
        with suppress(OSError), self._file.open("rb") as stream:
            stream.seek(self._from)
            self._told = stream.read(_MOST_TEXT).decode(errors="replace")

    def spy(self, program: str) -> bool:
        """Run py-spy on it; returns whether it runs."""
        self._program = program
        options = ["--nonblocking"] if self.condition in _HELD else ["--native"] if self.native else []
        command = [program, "dump", "--full-filenames", *options, "--pid", str(self.pid)]
        try:
            self._spied = tempfile.TemporaryFile()  # noqa: SIM115  closed when it has been read
            self._spying = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=self._spied, stderr=self._spied, start_new_session=True
            )
        except OSError:
            return False
        return True

    def is_spied_on(self) -> bool:
        """Whether py-spy is still running; without the C code, should it have failed with it."""
        if self._spying is None or (code := self._spying.poll()) is None:
            return self._spying is not None
        self._spying = None
        if code != 0 and self.native and self.condition not in _HELD:
            self.native = False
            return self.spy(self._program)
        self._read_spy()
        return False

    def _read_spy(self) -> None:
        if self._spied is not None:
            self._spied.seek(0)
            self._seen = self._spied.read(_MOST_TEXT).decode(errors="replace")
            self._spied.close()
            self._spied = None

    def finish(self) -> None:
        """Take what there is."""
        if self._spying is not None:
            self._spying.kill()
            self._spying.wait()
            self._spying = None
            self._read_spy()
        if not self._told:
            self._listen()
        if self.condition is Condition.UNINTERRUPTIBLE:  # for a moment, everybody is who reads a file
            self.condition = kernel_view.condition(self.pid) or Condition.MISSING

    def main_stack(self) -> Stack | None:
        return main_stack(self._seen) or main_stack(self._told)

    def lines(self) -> Iterator[str]:
        """Everything about it, for a person."""
        yield f"== process {self.pid}: {self._command}"
        yield f"   {self.condition.value}"
        yield from (f"   {line}" for line in self._threads)
        if self._told:
            yield from ("-- as it says itself (faulthandler)", self._told.rstrip())
        elif self._asked:
            yield "-- it was asked for its stacks and has not answered"
        else:
            yield "-- it cannot be asked for its stacks"
        if self._seen:
            yield from ("-- as seen from outside (py-spy)", self._seen.rstrip())
        yield ""
