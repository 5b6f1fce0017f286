"""The supervisor's side of a script that knows nothing of us: what it prints, how it exits, what it resumes from."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from resilient.policy import events as on
from resilient.policy.failures import Failure, FailureClass
from resilient.protocol.board import Board, Flag, Metrics, Word, WorkerPhase
from resilient.protocol.metrics_log import Entry, MetricsLog
from resilient.supervisor.checkpoints import OwnCheckpoints, fill_in
from resilient.supervisor.patterns import LinePatterns
from resilient.supervisor.printed_lines import PrintedLines
from resilient.supervisor.settings import ExitMeaning
from resilient.supervisor.spec import RunSpec
from resilient.supervisor.step_times import StepTimes


@dataclass(frozen=True)
class Start:
    """What a round of the script begins with.

    :param arguments: appended to its own.
    :param step: at which the count of its steps goes on.
    :param source: what it resumes from, in words; empty where that is not known here.
    :param finds_itself: it may resume from a checkpoint that nobody told us of.
    """

    arguments: tuple[str, ...] = ()
    step: int = 0
    source: str = ""
    finds_itself: bool = False


class UnmodifiedScript:
    """Does nothing for a script from the moment at which it attaches itself."""

    def __init__(
        self, spec: RunSpec, metrics: MetricsLog, say: Callable[[str], None], clock: Callable[[], float] = time.time
    ) -> None:
        self._worker = spec.worker
        self._paths = spec.paths
        self._metrics = metrics
        self._clock = clock
        self._patterns = LinePatterns(spec.worker.metrics, spec.worker.step_pattern)
        self._own = OwnCheckpoints(spec.worker.checkpoint_globs, spec.directory, say, clock)
        self._times = StepTimes(spec.paths.step_times)
        self._lines: PrintedLines | None = None
        self._last: dict[str, tuple[int, float]] = {}
        self._start = self._printed = 0
        self._counted = False  # an optimizer of torch's has made a step
        self._seen = False  # a step was, in whatever way
        self._finished = False
        self._round = 0
        self._ended: float | None = None

    @property
    def expected(self) -> bool:
        """Whether the script is taken for one that knows nothing of us, until it attaches."""
        return self._worker.unmodified

    def begin_round(self, number: int) -> Start:
        """Choose what the round resumes from; its log is there already or will be."""
        self._round, self._start, self._printed = number, 0, 0
        if not self._worker.unmodified:
            return Start()
        self.close()
        self._lines = PrintedLines(self._paths.log(number, 0))
        chosen = self._own.choose(self._ended) if self._worker.checkpoint_globs else None
        self._last.clear()
        if chosen is None:
            return Start(finds_itself=number > 0 and not self._worker.checkpoint_globs)
        self._start = self._times.step_at(chosen.modified)
        return Start(fill_in(self._worker.resume_args, chosen), self._start, f"its own checkpoint {chosen.name}")

    def poll(self, board: Board, *, last: bool = False) -> on.WorkerProgressed | None:
        """Read what rank 0 has printed since the last call; returns what that shows of its progress.

        :param last: the script has ended.
        """
        if self._lines is None:
            return None
        if board.has_flag(Flag.ATTACHED):
            self.close()
            return None
        lines = self._lines.read_last() if last else self._lines.read()
        in_startup = board[Word.PHASE] == WorkerPhase.STARTUP
        self._counted = self._counted or not in_startup
        stepped = self._read(lines, board)
        step = self.step(board)
        self._times.note(self._clock(), step)
        self._seen = self._seen or step > 0
        if stepped and self._patterns.reads_steps:
            return on.WorkerProgressed(0, self._printed, "step")
        if lines and in_startup and not (self._printed and self._patterns.reads_steps):
            return on.WorkerProgressed(0, step, "startup")  # it is alive, and nothing else shows it
        return None

    def speaks_for(self, board: Board) -> bool:
        """Whether what rank 0 has printed of its steps is all that is known of this rank's: nothing counts them there.

        A script without an optimizer of torch's is one that we see only by what it prints.
        """
        return self._lines is not None and board[Word.PHASE] == WorkerPhase.STARTUP and self._printed > 0

    def step(self, board: Board) -> int:
        """The last step that the script is known to have done."""
        return max(board[Word.STEP], self._printed)

    def _read(self, lines: list[str], board: Board) -> bool:
        stepped, entries = False, []
        for line in lines:
            step = self._patterns.step(line)
            if step is not None and step > self._printed:
                self._printed, stepped = step, True
            at = self.step(board)
            values = {
                name: value
                for name, value in self._patterns.values(line).items()
                if self._last.get(name) != (at, value)  # a progress bar says the same many times
            }
            if values and not (self._counted or self._patterns.reads_steps):
                # Nothing else shows that it gets anywhere: relaunched now and then, it would be taken for a crash loop.
                at = self._printed = max(at, self._start) + 1
            if values:
                self._last.update({name: (at, value) for name, value in values.items()})
                entries.append(Entry(self._round, 0, Metrics(at, self._clock(), values)))
        self._metrics.write(entries)
        return stepped

    def close(self) -> None:
        """Follow its output no longer."""
        if self._lines is not None:
            self._lines.close()
            self._lines = None

    # --- how it exits

    def meaning(self, code: int, board: Board, *, asked: bool) -> ExitMeaning | None:
        """What the exit code says where it is the script's to say something; None where it is a failure like others.

        :param asked: the run is being brought to a stop.
        """
        declared = ExitMeaning[self._worker.exit_codes[code]] if code in self._worker.exit_codes else None
        if declared is not None and (code or declared is not ExitMeaning.finished):
            return declared
        if code == 0 and self._worker.unmodified and not board.has_flag(Flag.LEFT_EARLY):
            if asked:
                return ExitMeaning.requeue  # a script that ends with 0 because it was asked to stop has not finished
            return None if board.has_flag(Flag.ASKED) else ExitMeaning.finished
        return None

    def failure(self, failure: Failure, board: Board) -> Failure:
        """The failure as the rules are to see it."""
        if self._lines is None:
            return failure
        if board.has_flag(Flag.ASKED):
            return Failure(FailureClass.PREEMPTION, "SIGTERM reached the worker alone")
        if (
            self._own.used is not None
            and self.step(board) <= self._start
            and failure.failure_class is FailureClass.CODE
        ):
            # It may be the checkpoint that is bad, not the code: an older one is worth a try.
            return replace(failure, failure_class=FailureClass.APPLICATION)
        return failure

    def ended(self, board: Board, *, failed: bool, orderly: bool, finished: bool = False) -> None:
        """Rank 0 is gone.

        :param orderly: by the script's own end, until when it has written what it had to write.
        :param finished: with all that it had to do.
        """
        self._ended = math.inf if orderly else self._clock()
        self._finished = finished
        self._times.save()
        if failed:
            self._own.crashed(progressed=self.step(board) > self._start)

    def describe(self, flushed: on.FlushEnded) -> on.FlushEnded:
        """The same for a script whose state is its own affair."""
        if self._lines is None or flushed.step is not None:
            return flushed
        newest = self._own.choose(self._ended) if self._worker.checkpoint_globs else None
        own = f"Its newest checkpoint is {newest.name}." if newest is not None else "Its checkpoints are its own."
        if self._finished and not self._seen:
            own = f"No step of it was seen; worker.step_pattern reads them from what it prints. {own}"
        return replace(flushed, own=own)
