"""Carries a plan out: starts the run as a scheduler would, again and again, and lets the faults happen meanwhile."""

from __future__ import annotations

import contextlib
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from resilient.drill.faults import CorruptSnapshot, Fault
from resilient.drill.process_faults import LoseMemory
from resilient.errors import ExitCode, ResilientError
from resilient.protocol.board import Word
from resilient.snapshot import catalog
from resilient.snapshot.commit import TEMPORARY
from resilient.supervisor.status import Status
from tests.chaos.plan import STEPS, Moment, On, Plan, Planned
from tests.run.harness import RunCase, Running, Workspace

_PATIENCE = 5  # steps after a fault, after which what recovering begins with will not come any more
_LONGEST = 180.0  # seconds for all of a campaign
_POLL = 0.002
STATES = {On.LAUNCH: "starting", On.RESTORE: "restoring", On.FLUSH: "flushing", On.END: "finished"}
RECOVERING = {On.LAUNCH, On.RESTORE}  # what may come of the fault before
_BY_OUR_HAND = {-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT}  # the last two before it listens to signals
AGAIN = {ExitCode.REQUEUE, ExitCode.TERMINATED, *_BY_OUR_HAND}


class CampaignFailed(AssertionError):  # noqa: N818  named by condition
    """The run does not end, or ends as it must not."""


class ChaosWorkspace(Workspace):
    """Everything that the campaign's processes leave in a temporary directory, they leave in one that we look at."""

    @property
    def temporary(self) -> Path:
        return self.directory / "tmp"

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "TMPDIR": str(self.temporary)}


@dataclass
class History:
    """What was done to the run, for the checks.

    :ivar memory_lost: wall times; so ``disk_lost`` and ``stood_still``, of supervisors of nodes.
    :ivar corrupted: identities of the snapshots in which a bit was flipped.
    """

    lines: list[str] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)
    memory_lost: list[float] = field(default_factory=list)
    disk_lost: list[float] = field(default_factory=list)
    stood_still: list[float] = field(default_factory=list)
    corrupted: set[str] = field(default_factory=set)
    done: list[str] = field(default_factory=list)


class HasMoment(Protocol):
    """A fault, and when it happens."""

    @property
    def moment(self) -> Moment: ...


P = TypeVar("P", bound=HasMoment)


class Campaign(ABC, Generic[P]):
    """Faults happen to a run, one after the other."""

    poll = 0.01

    def __init__(self, faults: Sequence[P]) -> None:
        self.history = History()
        self._faults = faults
        self._began = self._started = self._fault_at = time.monotonic()
        self._fault_step = 0

    def run(self) -> None:
        """Until the run has finished, on all of its nodes.

        :raises CampaignFailed: it does not.
        """
        for planned in self._faults:
            if not self._reached(planned.moment):
                self._note(f"never came: {planned.moment}")
                continue
            self._inject(planned)
        while self._goes_on():
            time.sleep(self.poll)

    def _note(self, text: str) -> None:
        self.history.lines.append(f"{time.monotonic() - self._began:7.3f} {text}")

    def _since(self, moment: Moment) -> float | None:
        """When what the moment counts from came; None if it has not."""
        if moment.on is On.START:
            return self._started
        if moment.on is On.FAULT:
            return self._fault_at
        return time.monotonic() if self._is_now(moment) else None

    @abstractmethod
    def _goes_on(self) -> bool:
        """Whether the run is not finished yet; what was ended from outside is started again."""

    @abstractmethod
    def _reached(self, moment: Moment) -> bool:
        """Wait for it; False if the run finishes before, or it will not come."""

    @abstractmethod
    def _is_now(self, moment: Moment) -> bool:
        """Whether the run is where the moment is."""

    @abstractmethod
    def _inject(self, planned: P) -> None:
        """Have the fault happen."""


class Scheduler(Campaign[Planned]):
    """Runs one campaign."""

    def __init__(self, case: RunCase, plan: Plan) -> None:
        super().__init__(plan.faults)
        self.case = case
        self.plan = plan
        self._running = self._start()

    def _start(self) -> Running:
        self._started = time.monotonic()
        return self.case.start()

    def _goes_on(self) -> bool:
        if self.history.codes[-1:] == [0]:
            return False
        if time.monotonic() - self._began > _LONGEST:
            raise CampaignFailed("the run does not end")
        code = self._running.process.poll()
        if code is None:
            return True
        self.history.codes.append(code)
        self._note(f"exit {code}")
        if code == 0:
            return False
        if code not in AGAIN:
            raise CampaignFailed(f"exit {code}")
        self._running = self._start()
        return True

    def _reached(self, moment: Moment) -> bool:
        while self._goes_on():
            since = self._since(moment)
            if since is not None:
                time.sleep(max(0.0, since + moment.delay - time.monotonic()))
                return True
            if moment.on in RECOVERING and self._has_gone_on():
                return False
            time.sleep(_POLL)
        return False

    def _has_gone_on(self) -> bool:
        """Whether the fault before has led to no new round, or to one that is under way already."""
        target = self._running.target
        if time.monotonic() - self._fault_at < 0.5:
            return False
        said = self._status(since_fault=False)
        return said is not None and said.state == "running" and target.read(Word.STEP) - self._fault_step > _PATIENCE

    def _is_now(self, moment: Moment) -> bool:
        if self._running.target.read(Word.STEP) < moment.step:
            return False
        if moment.on is On.STEP:
            return True
        if moment.on is On.COMMIT:
            with contextlib.suppress(OSError):
                return any(path.name.startswith(TEMPORARY) for path in self.case.paths.snapshots.iterdir())
            return False
        status = self._status(since_fault=moment.on in RECOVERING)
        return status is not None and status.state == STATES[moment.on]

    def _status(self, *, since_fault: bool) -> Status | None:
        """What the supervisor that is up has said of itself, if it has said something yet."""
        status, since = Status.read(self.case.paths.status), self._started
        if since_fault:
            since = max(since, self._fault_at)
        age = time.monotonic() - since
        return status if status is not None and time.time() - status.updated <= age else None

    def _inject(self, planned: Planned) -> None:
        fault: Fault = planned.fault
        if isinstance(fault, CorruptSnapshot) and not self._may_corrupt():
            self._note("left out: no other snapshot would be sound")
            return
        if isinstance(fault, LoseMemory) and fault.disk and self._is_finished():
            self._note("left out: nobody would bring back the snapshots of a run that is finished")
            return
        try:
            self._note(fault.inject(self._running.target))
        except (ResilientError, OSError) as error:
            self._note(f"missed: {fault}: {error}")
            return
        self._fault_at, self._fault_step = time.monotonic(), self._running.target.read(Word.STEP)
        self.history.done.append(str(fault).partition("(")[0] + str(getattr(fault, "role", "")).removeprefix("Role"))
        if isinstance(fault, LoseMemory):
            self.history.memory_lost.append(time.time())
            if fault.disk:
                self.history.disk_lost.append(time.time())

    def _is_finished(self) -> bool:
        status = Status.read(self.case.paths.status)
        return status is not None and status.finished

    def _may_corrupt(self) -> bool:
        """Only a snapshot beside which there is another: a run whose only snapshot is corrupt stops, and rightly so."""
        found = {}
        with contextlib.suppress(ResilientError, OSError):
            for step in catalog.committed_steps(self.case.paths.snapshots):
                found[step] = catalog.read_manifest(self.case.paths.snapshot(step)).identity
        sound = {step for step, identity in found.items() if identity not in self.history.corrupted}
        newest = max(found, default=None)
        if newest is None or newest not in sound or len(sound) < 2 or newest == STEPS:
            return False
        self.history.corrupted.add(found[newest])
        return True
