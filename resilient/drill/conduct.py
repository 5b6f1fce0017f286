"""One drill: start the run, do the fault to it, start it again where a scheduler would, and watch it to its end."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from resilient.drill.equality import compare_runs
from resilient.drill.faults import Fault, Lift
from resilient.drill.in_process import OrderedFault
from resilient.drill.progress import Progress
from resilient.drill.scratch import ScratchRun
from resilient.drill.target import Target
from resilient.drill.timeline import Timeline, read_timeline
from resilient.drill.verdict import Outcome
from resilient.errors import FaultNotInjected
from resilient.protocol.board import Word
from resilient.protocol.metrics_log import read_metrics
from resilient.protocol.paths import RunPaths
from resilient.supervisor.journal import read_journal
from resilient.supervisor.status import Status

_POLL_SECONDS = 0.01
_MOST_STARTS = 5


@dataclass(frozen=True)
class Moment:
    """When a fault is to happen: once ``step`` is done or, in a script that does not tell its steps, after so long."""

    step: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        return str(self.step) if self.step else f"{self.seconds:.1f} s"


@dataclass
class Drill:
    """One fault, done to one scratch run.

    :param timeout: seconds that all of it may take.
    """

    run: ScratchRun
    fault: Fault
    moment: Moment
    timeout: float
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    progress: Progress = field(default_factory=Progress)
    exit_codes: list[int] = field(default_factory=list)
    _injected_at: float = 0.0
    _injected_after: int = 0

    def conduct(self, reference: RunPaths) -> Outcome:
        """Do it, and compare with the run that nothing was done to."""
        outcome = Outcome(self.fault.name, str(self.moment), self.fault.keeps_state, expected=int(self.fault.expects))
        deadline = self.clock() + self.timeout
        target = self.run.start()
        try:
            outcome = replace(outcome, injected=self._inject(target, deadline))
        except FaultNotInjected as error:
            return replace(outcome, refused=error.problem, diagnosis=self._diagnosis())
        ended = self._follow(target, deadline)
        outcome = replace(
            outcome,
            exit_codes=tuple(self.exit_codes),
            timed_out=not ended,
            diagnosis=self._diagnosis(),
            timeline=self._timeline(),
        )
        if not outcome.finished:
            return outcome
        return replace(outcome, equality=compare_runs(reference, self.run.paths, self._injected_after))

    def _diagnosis(self) -> str:
        """What the run says of its end, or else the last of what it printed."""
        status = Status.read(self.run.paths.status)
        return (status.diagnosis if status is not None else "") or self.run.last_words(300)

    def _inject(self, target: Target, deadline: float) -> str:
        def alive() -> bool:
            if self.clock() > deadline:
                raise FaultNotInjected(f"it was not time for it within {self.timeout:.0f} s")
            return self.run.poll() is None

        fault, target = self.fault, replace(target, alive=alive)
        if isinstance(fault, OrderedFault) and self.moment.step:  # the worker knows best when it comes to that step
            fault = replace(fault, at=self.moment.step)
            target.wait_until(lambda: self._launched() is not None, "it had a worker")
        else:
            self._wait_for_moment(target)
        fault.prepare(target)
        self._injected_at, self._injected_after = time.time(), target.read(Word.STEP)
        what = fault.inject(target)
        if isinstance(fault, OrderedFault) and (record := fault.happened(target)) is not None:
            self._injected_at, self._injected_after = record.time, record.step - 1
        return what

    def _wait_for_moment(self, target: Target) -> None:
        if self.moment.step:
            target.wait_for_step(self.moment.step)
            return
        target.wait_until(
            lambda: time.time() >= (self._launched() or float("inf")) + self.moment.seconds, "it was time"
        )

    def _launched(self) -> float | None:
        notes = (entry for entry in read_journal(self.run.paths.journal) if entry["name"] == "worker launched")
        return next((float(entry["time"]) for entry in notes), None)

    def _follow(self, target: Target, deadline: float) -> bool:
        """Watch until the run has ended for good; returns whether it did in time."""
        lifted, lift = False, getattr(self.fault, "seconds", 0.0)
        while self.clock() < deadline:
            self.progress.note(target.read(Word.STEP))
            code = self.run.poll()
            if not lifted and self._is_over(code, lift):
                self.fault.lift(target)
                lifted = True
            if code is not None:
                self.exit_codes.append(code)
                if code not in self.fault.again_after or len(self.exit_codes) >= _MOST_STARTS:
                    return True
                target = self.run.start()
            self.sleep(_POLL_SECONDS)
        return False

    def _is_over(self, code: int | None, seconds: float) -> bool:
        if self.fault.lifted is Lift.AFTER_SECONDS:
            return time.time() >= self._injected_at + seconds
        if self.fault.lifted is Lift.WHEN_NOTICED:
            return code is not None or self._timeline().noticed is not None
        return self.fault.lifted is Lift.AT_END and code is not None

    def _timeline(self) -> Timeline:
        reported = [(entry.metrics.time, entry.metrics.step) for entry in read_metrics(self.run.paths.metrics)]
        return read_timeline(
            list(read_journal(self.run.paths.journal)), reported or self.progress.seen, self._injected_at
        )
