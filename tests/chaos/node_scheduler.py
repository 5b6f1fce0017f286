"""Carries a plan out on two nodes: starts each of them again when it has ended; meanwhile the faults happen."""

from __future__ import annotations

import contextlib
import math
import time

from resilient.snapshot.commit import TEMPORARY
from resilient.supervisor.status import Status
from tests.chaos.node_faults import Missed, StopNodeSupervisor
from tests.chaos.node_plan import NodePlan, PlannedOnNodes
from tests.chaos.plan import Moment, On
from tests.chaos.scheduler import AGAIN, RECOVERING, STATES, Campaign, CampaignFailed
from tests.nodes.several import Nodes

_LONGEST = 300.0  # seconds for all of a campaign
_PATIENCE = 5  # steps after a fault, after which what recovering begins with will not come any more
_WAIT = 15.0  # seconds for what is to be hit to be there
_LOOK_SECONDS = 0.1
_POLL = 0.02


class NodeScheduler(Campaign[PlannedOnNodes]):
    """Runs one campaign."""

    poll = _POLL

    def __init__(self, nodes: Nodes, plan: NodePlan) -> None:
        super().__init__(plan.faults)
        self.nodes = nodes
        self.plan = plan
        self._due: dict[str, float] = {}  # nodes that have ended, and when they are started again
        self._ended: set[str] = set()  # with exit code 0
        self._starts = 0
        self._furthest, self._looked = 0, -math.inf
        nodes.start()

    def _goes_on(self) -> bool:
        """Whether a node is not finished yet; those that were ended from outside are started again."""
        now = time.monotonic()
        if now - self._began > _LONGEST:
            raise CampaignFailed("the run does not end")
        for name in self.nodes.names:
            if name in self._ended or (name in self._due and now < self._due[name]):
                continue
            if self._due.pop(name, None) is not None:
                self._started = now
                self.nodes.start(name)
                self._note(f"{name} is started again")
            code = self.nodes.processes[name].poll()
            if code is None:
                continue
            self.history.codes.append(code)
            self._note(f"{name} exit {code}")
            if code == 0:
                self._ended.add(name)
            elif code not in AGAIN:
                raise CampaignFailed(f"{name} exit {code}")
            else:
                self._due[name] = now + self.plan.absences[self._starts % len(self.plan.absences)]
                self._starts += 1
        return len(self._ended) < len(self.nodes.names)

    def _reached(self, moment: Moment) -> bool:
        while self._goes_on():
            since = self._since(moment)
            if since is not None:
                while (left := since + moment.delay - time.monotonic()) > 0 and self._goes_on():
                    time.sleep(min(_POLL, left))
                return True
            if moment.on in RECOVERING and self._has_gone_on():
                return False
            time.sleep(_POLL)
        return False

    def _is_now(self, moment: Moment) -> bool:
        if moment.step and self._step() < moment.step:
            return False
        if moment.on is On.STEP:
            return True
        if moment.on is On.COMMIT:
            with contextlib.suppress(OSError):
                return any(path.name.startswith(TEMPORARY) for path in self.nodes.paths.snapshots.iterdir())
            return False
        status = Status.read(self.nodes.paths.status)
        since = self._fault_at if moment.on in RECOVERING else self._started
        fresh = status is not None and time.time() - status.updated <= time.monotonic() - since
        return fresh and status is not None and status.state == STATES[moment.on]

    def _has_gone_on(self) -> bool:
        """Whether the fault before has led to no new round, or to one that is under way already."""
        return self._step() - self._fault_step > _PATIENCE

    def _step(self) -> int:
        """The furthest that a rank has reported, as of a moment ago: all that was ever reported is read for it."""
        if time.monotonic() - self._looked > _LOOK_SECONDS:
            self._furthest = max((entry.metrics.step for entry in self.nodes.entries()), default=0)
            self._looked = time.monotonic()
        return self._furthest

    def _inject(self, planned: PlannedOnNodes) -> None:
        """Do it as soon as there is something to do it to."""
        since = time.monotonic()
        while True:
            try:
                self._note(f"step {self._step()}: {planned.fault.inject(self.nodes)}")
                break
            except Missed as missed:
                if not self._goes_on() or time.monotonic() - since > _WAIT:
                    self._note(f"missed: {planned.fault}: {missed}")
                    return
                time.sleep(_POLL)
        self._fault_at, self._fault_step = time.monotonic(), self._step()
        self.history.done.append(type(planned.fault).__name__ + ", memory lost" * planned.fault.memory_lost)
        if planned.fault.memory_lost:
            self.history.memory_lost.append(time.time())
        if isinstance(planned.fault, StopNodeSupervisor):
            self.history.stood_still.append(time.time())
