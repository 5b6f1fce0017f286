"""The journal and the log of metrics of a run, as a supervisor writes them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from resilient.errors import ExitCode
from resilient.policy.decisions import EndRun, LaunchRound, RecordIncident, SaveLineage
from resilient.policy.events import Incident, RunOpened, StopKind, StopRequested, Tier
from resilient.policy.failures import Failure, FailureClass
from resilient.policy.lineage import Lineage, Rollback
from resilient.protocol.board import Metrics
from resilient.protocol.metrics_log import Entry, MetricsLog
from resilient.protocol.paths import RunPaths
from resilient.protocol.tracker_settings import TrackersSettings
from resilient.supervisor.drain_answers import Persisted
from resilient.supervisor.journal import Journal, plain
from resilient.supervisor.tracking import ENDED
from resilient.trackers.lane import Lane
from resilient.trackers.tracker import Context, Tracker

TIMEOUT = 60.0


class Logs:
    """Writes what happens to a run."""

    def __init__(self, root: Path) -> None:
        self.paths = RunPaths(root)
        self.paths.create()
        self.identity = self.paths.identity()
        self.journal = Journal(self.paths.journal)
        self.metrics = MetricsLog(self.paths.metrics)
        self.round = 0

    def open(self, last_round: int = -1, step: int = 0) -> None:
        self.journal.record("event", RunOpened(last_round=last_round, step=step), 0.0)
        self.launch(last_round + 1, step or None)

    def launch(self, round_number: int, step: int | None = None) -> None:
        self.round = round_number
        self.journal.record("decision", LaunchRound(round_number, step, Tier.LOCAL if step else None), 0.0)

    def steps(self, first: int, last: int, rank: int = 0, **values: float) -> None:
        for step in range(first, last + 1):
            body = {"loss": 1.0 / step, "resilient.batch": 7.0, **values}
            self.metrics.write([Entry(self.round, rank, Metrics(step, time.time(), body))])

    def persisted(self, step: int) -> None:
        self.journal.record("note", Persisted(step, "x", 1000, 0.5, ()), 0.0)

    def incident(self, number: int, step: int, kind: FailureClass = FailureClass.KILLED) -> None:
        failure = Failure(kind, "signature", message="it said so")
        self.journal.record("decision", RecordIncident(Incident(number, self.round, 0, step, failure, "relaunch")), 0.0)

    def roll_back(self, *rollbacks: Rollback) -> None:
        self.journal.record("decision", SaveLineage(Lineage(rollbacks)), 0.0)

    def preempt(self) -> None:
        self.journal.record("event", StopRequested(StopKind.PREEMPTION, 25.0), 0.0)

    def end(self, code: ExitCode = ExitCode.FINISHED) -> None:
        self.journal.write("note", ENDED, 0.0, **plain(EndRun(code, "It is over.")))

    def context(self, say: Callable[[str], None] = lambda _: None, **settings: Any) -> Context:
        return Context(self.paths, TrackersSettings(**settings), self.identity, {"train": {"lr": 0.1}}, say)


class Telling:
    """A lane at work; leaving the block is the end of the launch."""

    def __init__(self, name: str, make: Callable[[Context], Tracker], context: Context) -> None:
        self.ending = threading.Event()
        self.lane = Lane(name, make, context, self.ending)

    def __enter__(self) -> Telling:
        self.lane.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ending.set()
        self.lane.join(TIMEOUT)
        assert not self.lane.is_alive()


def tell(name: str, make: Callable[[Context], Tracker], context: Context) -> None:
    """All that is there."""
    with Telling(name, make, context):
        pass


def wait_until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + TIMEOUT
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found
