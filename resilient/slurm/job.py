"""The SLURM job that a supervisor runs in, as the scheduler above it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

from resilient.errors import ExitCode, RequeuesSpent
from resilient.policy.decisions import EndRun
from resilient.policy.state import StopSettings
from resilient.protocol import job_signals
from resilient.slurm import excluding, grace, requeue, scontrol
from resilient.slurm.commands import Answer, Call, Commands
from resilient.slurm.environment import JobEnvironment
from resilient.slurm.grace import Fate
from resilient.slurm.settings import SlurmSettings
from resilient.supervisor.journal import Journal
from resilient.supervisor.scheduler import Needed, Notice, kind_of

_LOOK_SECONDS = 900.0  # an administrator may have changed the time limit; not so often that a controller would notice
_LOOK_LEAST_SECONDS = 15.0
_REQUEUE_TRIES = 3
_COMES_BACK = frozenset({ExitCode.REQUEUE, ExitCode.UNTRUSTED_NODE})


class SlurmJob:
    """Keeps what is known of the job, asks the controller without waiting for it, and has the job come back."""

    def __init__(
        self,
        environment: JobEnvironment,
        settings: SlurmSettings,
        stop: StopSettings,
        *,
        distrusted: Callable[[], Collection[str]] = tuple,
        several: bool = False,
        commands: Commands | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Nothing is asked yet.

        :param distrusted: names the nodes that the run must keep off, now.
        :param several: the run is one of several nodes, of which the one that leads it concludes.
        :param wall: seconds since the epoch, as SLURM counts.
        """
        self._environment = environment
        self._settings = settings
        self._stop = stop
        self._distrusted = distrusted
        self._speaks = several or environment.leads
        self._commands = commands or Commands(settings.command_seconds)
        self._clock = clock
        self._wall = wall
        self._say: Callable[[str], None] = lambda _: None
        self._journal: Journal | None = None
        self._site = scontrol.Site()
        self._partition_grace = 0.0
        self._ends = environment.ends_at
        self._known: list[requeue.Attempt] = []
        self._excluded_by_us: frozenset[str] = frozenset()
        self._exclude: str | None = None
        self._asked: Call | None = None
        self._signalled: tuple[signal.Signals, float] | None = None
        self._looked = clock()
        self._left = False  # it was told to leave because of the time limit
        self._comes_back = False
        self._ordered = False

    @classmethod
    def current(
        cls,
        settings: SlurmSettings,
        stop: StopSettings,
        distrusted: Callable[[str], Collection[str]],
        *,
        several: bool = False,
        environ: Mapping[str, str] = os.environ,
    ) -> SlurmJob | None:
        """The job of this process, or None outside one.

        :param distrusted: names the nodes that the run must keep off; it is told what SLURM calls this one.
        :param several: the run is one of several nodes.
        :raises ConfigurationError: SLURM's variables are set and make no sense.
        """
        environment = JobEnvironment.read(environ)
        if environment is None:
            return None
        return cls(environment, settings, stop, distrusted=lambda: distrusted(environment.node), several=several)

    # --- the beginning

    def begin(
        self, entries: Iterable[Mapping[str, Any]], step: int | None, journal: Journal, say: Callable[[str], None]
    ) -> None:
        """Write down that the job has begun, and learn what holds for it.

        :raises RequeuesSpent: it has come back too often.
        """
        self._journal, self._say = journal, say
        environment = self._environment
        entries = list(entries)
        known, reached = requeue.attempts(entries)
        self._excluded_by_us = excluding.excluded_by_us(entries, environment.job)
        reached = reached if step is None else step
        known = [attempt for attempt in known if (attempt.job, attempt.restarts) != self._place]
        if step is not None and (why := requeue.spent(self._allowing_this_one, environment, known, reached)):
            raise RequeuesSpent(
                f"{environment} does not go on: {why}",
                "everything that was durable still is. When the cause is gone, submit the run again: it resumes",
            )
        self._known = [*known, requeue.Attempt(environment.job, environment.restarts, reached)]
        self._note(requeue.BEGAN, job=environment.job, restarts=environment.restarts, step=reached)
        self._learn()
        came = f", for the {_ordinal(environment.restarts + 1)} time" if environment.restarts else ""
        say(f"{environment}{came}{self._limit()}")

    @property
    def _place(self) -> tuple[int, int]:
        return self._environment.job, self._environment.restarts

    @property
    def _allowing_this_one(self) -> SlurmSettings:
        """The present restart was taken from the budget when it was ordered."""
        more = self._settings.max_requeues + 1 if self._settings.max_requeues else 0
        return replace(self._settings, max_requeues=more)

    def _learn(self) -> None:
        """Ask for what holds for the whole time. Where there is no answer, SLURM's defaults are assumed."""
        shown = self._commands.call(*scontrol.SHOW_CONFIG)
        self._site = scontrol.parse_site(shown.output)
        if shown.problem:
            self._say(f"WARNING: {shown.problem}: a grace of {self._site.kill_wait:g} s is assumed")
        if self._environment.partition and not shown.absent:
            partition = self._commands.call(*scontrol.show_partition(self._environment.partition))
            self._partition_grace = _parsed(scontrol.parse_grace, partition) or 0.0
        if not shown.absent:
            self._understand(self._commands.call(*scontrol.show_job(self._environment.name)))

    def _limit(self) -> str:
        if self._ends is None:
            return ""
        return f", until {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(self._ends))} at the latest"

    def _understand(self, answer: Answer) -> scontrol.Job | None:
        """What the controller says of the job, if it says anything."""
        job: scontrol.Job | None = _parsed(scontrol.parse_job, answer)
        if job is None:
            self._note("slurm silent", problem=answer.problem or "its answer cannot be read")
        elif grace.fate_of(job, self._environment) is Fate.RUNNING:
            self._ends = job.ends
        return job

    # --- while it runs

    def signalled(self, number: signal.Signals, *, stopping: bool) -> Notice | None:
        """What is certain now; the controller is asked what else there is, and :meth:`poll` says so."""
        if number not in job_signals.ANNOUNCING:
            seconds = self._stop.grace_seconds
            reason = f"{number.name} received: asking the workers to save and leave"
            return Notice(kind_of(number, self._stop), seconds, reason, patient=number is signal.SIGINT)
        self._signalled = (number, self._wall())
        if self._settings.grace_seconds <= 0:
            self._ask()
        if stopping:
            return None  # SLURM repeats its signals; that is no hurry. It may mean another deadline.
        seconds = self._settings.grace_seconds or self._least_grace()
        reason = f"{number.name} received: asking the workers to save and leave ({seconds:.0f} s of grace at least)"
        return Notice(kind_of(number, self._stop), self._without_margin(seconds), reason)

    def _least_grace(self) -> float:
        left = None if self._ends is None else self._ends - self._wall()
        return grace.least_grace(self._site, self._partition_grace, left)

    def _without_margin(self, seconds: float) -> float:
        """The order to requeue, and whatever else has to be done, need time as well: half of what there is at most."""
        return max(seconds - self._settings.margin_seconds, seconds / 2)

    def _ask(self) -> None:
        if self._asked is None:
            self._asked = self._commands.begin(*scontrol.show_job(self._environment.name))
            self._looked = self._clock()

    def poll(self, needed: Callable[[], Needed]) -> Notice | None:
        """What the controller has answered; or that the time limit is near."""
        if self._asked is not None:
            answer = self._asked.poll(self._clock())
            if answer is None:
                return None
            self._asked = None
            job = self._understand(answer)
            if (notice := self._explained(job, needed)) is not None:
                return notice
        elif self._signalled is None and self._clock() - self._looked > self._look_seconds():
            self._ask()
        return self._near_the_end(needed)

    def _look_seconds(self) -> float:
        """A batch script is not told of a preemption before the grace is over, so it has to look."""
        if self._environment.step is not None or self._partition_grace <= 0:
            return _LOOK_SECONDS
        return max(_LOOK_LEAST_SECONDS, self._partition_grace / 3)

    def _explained(self, job: scontrol.Job | None, needed: Callable[[], Needed]) -> Notice | None:
        """How long there is, now that the controller has said what is going on."""
        if job is None:
            return None
        fate = grace.fate_of(job, self._environment)
        if self._signalled is None and fate is Fate.RUNNING:
            return None
        number, at = self._signalled or (signal.SIGTERM, self._wall())
        self._signalled = None
        account = grace.account(job, self._environment, self._site, at, self._partition_grace)
        left = None if account.ends is None else account.ends - self._wall()
        if account.fate is Fate.RUNNING:  # a signal that somebody has sent, and nobody follows it up
            enough = self._enough(needed)
            left = enough if left is None else min(left, enough)
        seconds = self._without_margin(max(0.0, left or 0.0))
        reason = f"the job is {_TOLD[account.fate]}: {seconds:.0f} s to leave"
        self._note("slurm grace", fate=account.fate.value, seconds=round(seconds, 3))
        return Notice(kind_of(number, self._stop), seconds, reason)

    def _enough(self, needed: Callable[[], Needed]) -> float:
        """Twice what was measured: the last snapshot may be the first that is written."""
        return max(self._stop.grace_seconds, 2 * needed().grace(self._stop))

    def _near_the_end(self, needed: Callable[[], Needed]) -> Notice | None:
        """Leave before the time is up. The controller is asked again first: the limit may have been changed."""
        by = grace.leave_by(self._ends, 0.0, self._settings.margin_seconds)
        if by is None or self._left or self._wall() < by - 3600.0:
            return None
        by -= self._enough(needed)
        now = self._wall()
        if now >= by - self._settings.command_seconds and self._clock() - self._looked > _LOOK_SECONDS / 10:
            self._ask()
        if now < by or self._asked is not None:
            return None
        assert self._ends is not None  # noqa: S101  there is a time to leave by
        self._left = True
        seconds = self._without_margin(max(0.0, self._ends - now))
        reason = f"the time limit is {max(0.0, self._ends - now):.0f} s away: leaving in time"
        return Notice(kind_of(signal.SIGTERM, self._stop), seconds, reason)

    # --- the end

    def conclude(self, ending: EndRun, reached: int) -> EndRun:
        """Whether the job comes back; an ending with its own exit code where the budget for that is spent."""
        environment, code = self._environment, ending.exit_code
        self._note(requeue.ENDED, reached=reached, exit_code=int(code))
        if code not in _COMES_BACK or not self._speaks:
            return ending
        job = self._understand(self._commands.call(*scontrol.show_job(environment.name)))
        fate = Fate.RUNNING if job is None else grace.fate_of(job, environment)
        if fate is Fate.CANCELLED:
            return _with(ending, "The SLURM job was cancelled, so it does not come back.")
        if why := requeue.forbidden(self._settings, job):
            return _with(ending, f"The SLURM job does not come back by itself: {why}.")
        if code is ExitCode.REQUEUE and (why := requeue.spent(self._settings, environment, self._known, reached)):
            told = f"{ending.diagnosis} The SLURM job is not requeued: {why}."
            return replace(ending, exit_code=ExitCode.BUDGET_SPENT, diagnosis=told)
        self._comes_back, self._ordered = True, fate is Fate.REQUEUED
        self._choose_nodes(job)
        return _with(ending, f"SLURM job {environment.name} goes back into the queue.")

    def _choose_nodes(self, job: scontrol.Job | None) -> None:
        distrusted = tuple(self._distrusted())
        self._exclude = excluding.to_exclude("" if job is None else job.excluded, self._excluded_by_us, distrusted)
        if self._exclude is not None:
            self._note(excluding.EXCLUDED, job=self._environment.job, nodes=list(distrusted))

    def leave(self) -> None:
        """Have the job requeued. It ends this process as well, so nothing comes after it."""
        if not self._comes_back:
            return
        job = self._environment.name
        problem = "" if self._ordered else self._order(job)
        if problem:
            self._say(f"WARNING: the job could not be requeued: {problem}. {self._other_ways()}")
            return
        if self._exclude is not None:  # only now: SLURM does not change the nodes of a job that runs
            answer = self._commands.call(*scontrol.exclude(job, self._exclude))
            told = f"job {job} keeps off {self._exclude or 'no node'} from now on"
            self._say(f"WARNING: {answer.problem}" if answer.problem else told)

    def _other_ways(self) -> str:
        code = int(ExitCode.REQUEUE)
        if code in self._site.requeue_exits:
            return f"This cluster requeues a job whose batch script leaves with {code}, as this process does now"
        return f"A batch script that sees exit code {code} can do it; otherwise submit it again"

    def _order(self, job: str) -> str:
        """Order the requeue once; an order that was not answered may have been heard all the same."""
        for _ in range(_REQUEUE_TRIES):
            answer = self._commands.call(*scontrol.requeue(job))
            if not answer.problem or answer.absent:
                break
            now = _parsed(scontrol.parse_job, self._commands.call(*scontrol.show_job(job)))
            if now is not None and grace.fate_of(now, self._environment) is Fate.REQUEUED:
                return ""
        return answer.problem

    def _note(self, name: str, **fields: Any) -> None:
        if self._journal is not None:
            self._journal.write("note", name, self._clock(), **fields)


_TOLD = {
    Fate.RUNNING: "not to be killed before its time limit",
    Fate.PREEMPTED: "preempted",
    Fate.REQUEUED: "being requeued",
    Fate.TIMED_OUT: "over its time limit",
    Fate.CANCELLED: "cancelled",
}


def _with(ending: EndRun, sentence: str) -> EndRun:
    return replace(ending, diagnosis=f"{ending.diagnosis} {sentence}")


def _parsed(parse: Callable[[str], Any], answer: Answer) -> Any:
    """The answer, parsed; None if there is none, or it cannot be understood."""
    if answer.problem:
        return None
    try:
        return parse(answer.output)
    except ValueError:
        return None


def _ordinal(number: int) -> str:
    suffix = "th" if 10 < number % 100 < 14 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix}"
