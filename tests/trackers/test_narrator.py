"""What trackers are told of a run, from what its supervisor has written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from resilient.errors import ExitCode
from resilient.policy.lineage import Rollback, RollbackCause
from resilient.trackers.details import Details, Kind
from resilient.trackers.narrator import Narrator
from resilient.trackers.tail import Tail
from tests.trackers.logs import Logs


@pytest.fixture
def logs(tmp_path: Path) -> Logs:
    return Logs(tmp_path / "run")


def told(logs: Logs, narrator: Narrator | None = None, tail: Tail | None = None) -> list[Details]:
    narrator = narrator or Narrator("run")
    tail = tail or Tail(logs.paths, {}, 1 << 20)
    found = []
    for line in tail.lines():
        found += list(narrator.tell(line))
        tail.passed(line)
    return found


def test_a_run_from_its_beginning_to_its_end(logs: Logs) -> None:
    logs.open()
    logs.steps(1, 3)
    logs.persisted(3)
    logs.incident(1, 3)
    logs.launch(1, 3)
    logs.preempt()
    logs.preempt()  # SLURM repeats its signals
    logs.end(ExitCode.REQUEUE)
    found = told(logs)
    assert [details.kind for details in found] == [
        Kind.STARTED,
        *[Kind.METRICS] * 3,
        Kind.SNAPSHOT,
        Kind.INCIDENT,
        Kind.RESUMED,
        Kind.PREEMPTING,
        Kind.ENDED,
    ]
    started, first, second, _, snapshot, incident, resumed, preempting, ended = found
    assert started.facts["first"]
    assert (first.step, dict(first.values)) == (1, {"loss": 1.0})  # what is ours is not shown
    assert first.facts["seconds"] is None
    assert second.facts["seconds"] >= 0
    assert (snapshot.step, snapshot.facts["bytes"], snapshot.facts["tier"]) == (3, 1000, "local")
    assert incident.words == "Incident 1: rank 0 after step 3: killed (it said so); relaunch."
    assert (resumed.round, resumed.step, resumed.facts["source"]) == (1, 3, "local")
    assert preempting.facts["grace"] == 25.0
    assert (ended.facts["exit_code"], ended.words) == (75, "It is over.")


def test_what_a_rollback_discards_and_what_is_done_again_can_be_told_apart(logs: Logs) -> None:
    logs.open()
    logs.steps(1, 6)
    logs.launch(1, 4)
    logs.steps(5, 8)
    logs.roll_back(Rollback(2, 8, 1, lr_factor=0.5, cause=RollbackCause.DIVERGENCE))
    logs.launch(2, 2)
    logs.steps(3, 4)
    found = told(logs)
    metrics = [(d.lineage, d.step, d.facts["repeated"]) for d in found if d.kind is Kind.METRICS]
    assert metrics == [
        *[(0, step, False) for step in range(1, 7)],
        *[(0, 5, True), (0, 6, True), (0, 7, False), (0, 8, False)],
        *[(1, 3, False), (1, 4, False)],
    ]
    (rollback,) = (d for d in found if d.kind is Kind.ROLLBACK)
    assert (rollback.facts["target"], rollback.facts["reached"], rollback.lineage) == (2, 8, 1)


def test_metrics_that_come_after_the_rollback_of_their_round_are_of_the_old_lineage(logs: Logs) -> None:
    logs.open()
    logs.roll_back(Rollback(2, 8, 0))
    logs.steps(7, 7)
    assert [d.lineage for d in told(logs) if d.kind is Kind.METRICS] == [0]


def test_a_successor_goes_on_as_if_nothing_had_happened(logs: Logs) -> None:
    narrator, tail = Narrator("run"), Tail(logs.paths, {}, 1 << 20)
    logs.open()
    logs.steps(1, 6)
    logs.roll_back(Rollback(2, 6, 0))
    before = told(logs, narrator, tail)
    logs.launch(1, 2)
    logs.steps(3, 4)
    known = json.loads(json.dumps(narrator.known()))
    after = told(logs, Narrator("run", known), Tail(logs.paths, tail.places, 1 << 20))
    assert before + after == told(logs)


def test_only_rank_0_speaks_for_the_run(logs: Logs) -> None:
    logs.open()
    logs.steps(1, 2, rank=1)
    assert [details.kind for details in told(logs)] == [Kind.STARTED]


def test_lines_of_another_release_are_passed_over(logs: Logs) -> None:
    logs.journal.write("decision", "RecordIncident", 0.0, data={"incident": "of another shape"})
    logs.journal.write("event", "RunOpened", 0.0)
    logs.journal.write("note", "whatever", 0.0, data=[1])
    logs.steps(1, 1)
    assert [details.kind for details in told(logs)] == [Kind.METRICS]


def test_numbers_that_json_does_not_have_are_strings(logs: Logs) -> None:
    logs.steps(1, 1, loss=float("nan"), up=float("inf"))
    (details,) = told(logs)
    assert json.loads(json.dumps(details.to_json(), allow_nan=False))["values"] == {"loss": "nan", "up": "inf"}
