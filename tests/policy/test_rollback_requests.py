"""A person wants the run to go on from an earlier step, in whatever it is at."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from resilient.errors import ExitCode
from resilient.policy.decisions import (
    AbandonRestore,
    DiscardAfter,
    FlushMemory,
    KillWorkers,
    LaunchRound,
    ListSnapshots,
    RecordIncident,
    RefuseRollback,
    SaveLineage,
)
from resilient.policy.events import (
    FlushEnded,
    RollbackRequested,
    RunOpened,
    SnapshotsListed,
    StopKind,
    StopRequested,
    Tick,
    Tier,
    WorkerExited,
)
from resilient.policy.failures import Failure, FailureClass
from resilient.policy.lineage import RollbackCause
from resilient.policy.state import Phase
from tests.policy.test_diverging import DIVERGENCE, POLICY, diverge, ending_of, go_on, gone, lineage_in, train, trained
from tests.policy.test_machine import SEGFAULT, Story, incident_in, kinds

BACK = RollbackRequested(50, (61, 70), 0.5, "c0ffee")
STOP = StopRequested(StopKind.REQUEST, grace=20.0)


def refused(story: Story, request: RollbackRequested) -> str:
    (decision,) = story.on(request)
    assert isinstance(decision, RefuseRollback)
    assert decision.request == request
    return decision.why


def test_a_running_group_is_killed_and_goes_on_from_there_without_an_incident() -> None:
    story = trained()
    assert kinds(story.on(BACK)) == [SaveLineage, KillWorkers]
    decisions = gone(story)
    assert kinds(decisions) == [SaveLineage, DiscardAfter, ListSnapshots]
    lineage = lineage_in(decisions)
    (rollback,) = lineage.rollbacks
    assert (rollback.target, rollback.reached, rollback.skip, rollback.lr_factor) == (50, 130, (61, 70), 0.5)
    assert (rollback.cause, rollback.reason) == (RollbackCause.REQUEST, "a person asked for it (c0ffee)")
    assert (lineage.ladder.rollbacks, lineage.ladder.targets) == (0, ())
    assert story.state.incidents == 0
    assert go_on(story, (50, 100)).step == 50


def test_without_a_step_it_is_the_newest_good_one() -> None:
    story = trained(105)
    story.on(RollbackRequested(None))
    assert story.state.lineage.target == 50


def test_the_beginning_may_be_asked_for() -> None:
    story = trained()
    story.on(RollbackRequested(0))
    assert DiscardAfter(0) in gone(story)
    assert LaunchRound(1) in story.on(SnapshotsListed(quarantined=3))


def test_the_learning_rate_is_lowered_beside_what_it_is_already() -> None:
    story = trained()
    story.on(RollbackRequested(100, lr_factor=0.5))
    gone(story)
    go_on(story, (50, 100))
    train(story, 101, 130)
    story.on(RollbackRequested(100, lr_factor=0.5))
    assert story.state.lineage.lr_factor == 0.25


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (RollbackRequested(60), r"no snapshot of step 60: name one of \[0, 50, 100\]"),
        (RollbackRequested(-1), "no snapshot of step -1"),
        (RollbackRequested(50, (50, 60)), "from step 51 on, not from 50 to 60"),
        (RollbackRequested(50, (60, 59)), "not from 60 to 59"),
        (RollbackRequested(50, None, 0.0), "cannot be multiplied by 0"),
        (RollbackRequested(50, None, -1.0), "cannot be multiplied by -1"),
        (RollbackRequested(50, None, math.nan), "cannot be multiplied by nan"),
        (RollbackRequested(50, None, math.inf), "cannot be multiplied by inf"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(request_: RollbackRequested, why: str) -> None:
    story = trained()
    before = story.state
    (decision,) = story.on(request_)
    assert isinstance(decision, RefuseRollback)
    with pytest.raises(AssertionError, match=why):
        raise AssertionError(decision.why)
    assert story.state == before


def test_without_a_good_one_a_step_must_be_named() -> None:
    assert "no snapshot is known to be good yet: name one of [0, 50]" in refused(trained(60), RollbackRequested(None))


def test_a_script_that_does_not_attach_goes_on_from_what_it_likes() -> None:
    assert "does not attach" in refused(trained(policy=replace(POLICY, rolls_back=False)), BACK)


def test_detectors_that_may_not_act_do_not_keep_a_person_from_it() -> None:
    story = trained(policy=replace(POLICY, divergence=replace(DIVERGENCE, respond=False)))
    assert kinds(story.on(BACK)) == [SaveLineage, KillWorkers]


def test_one_at_a_time() -> None:
    story = trained()
    diverge(story)
    told = "a rollback to step 100, leaving out the data of steps 101 to 130 is under way: ask again"
    assert told in refused(story, BACK)
    gone(story)
    assert told in refused(story, BACK)
    go_on(story, (50, 100))
    assert kinds(story.on(BACK)) == [SaveLineage, KillWorkers]


def test_a_run_that_is_not_open_or_ends_refuses() -> None:
    story = Story(POLICY)
    assert "not up" in refused(story, BACK)
    story = trained()
    story.on(WorkerExited(0, 130, None, finished=True))
    assert story.phase is Phase.FLUSHING
    assert "not up" in refused(story, BACK)
    story.on(FlushEnded(130))
    assert "not up" in refused(story, BACK)


def test_while_a_lost_group_is_cleared_its_incident_is_recorded_all_the_same() -> None:
    story = trained(policy=replace(POLICY, ranks=2))
    story.lose(SEGFAULT, 130, rank=1)
    assert kinds(story.on(BACK)) == [SaveLineage], "they are being killed already"
    decisions = gone(story)
    assert kinds(decisions) == [SaveLineage, RecordIncident, DiscardAfter, ListSnapshots]
    incident = incident_in(decisions)
    assert (incident.rank, incident.failure) == (1, SEGFAULT)
    assert incident.remedy.startswith("roll back to step 50")
    assert incident.remedy.endswith("as a person asked")
    assert story.state.history.rounds == ()


def test_while_it_waits_before_a_relaunch_it_goes_on_waiting() -> None:
    story = trained()
    story.lose(Failure(FailureClass.NETWORK, "connection reset"), 130)
    assert story.phase is Phase.WAITING
    assert kinds(story.on(BACK)) == [SaveLineage, DiscardAfter]
    assert story.state.lineage.rollbacks[-1].reached == 130
    assert story.on(Tick(), at=1000.0) == (ListSnapshots(),)
    assert go_on(story, (50,)).step == 50


def test_while_it_is_chosen_what_to_resume_from_the_answer_is_awaited() -> None:
    story = Story(POLICY)
    story.on(RunOpened(lineage=trained().state.lineage))
    assert kinds(story.on(BACK)) == [SaveLineage, DiscardAfter]
    assert story.phase is Phase.CHOOSING
    assert go_on(story, (50,), memory=130).step == 50


def test_a_restore_is_given_up_for_another_one() -> None:
    story = Story(POLICY)
    story.on(RunOpened(lineage=trained().state.lineage))
    story.on(SnapshotsListed(None, (50, 100)))
    decisions = story.on(BACK)
    assert kinds(decisions) == [AbandonRestore, SaveLineage, DiscardAfter, ListSnapshots]
    assert decisions[0] == AbandonRestore(100, Tier.LOCAL)
    assert go_on(story, (50,)).step == 50


def test_a_run_that_is_asked_to_stop_goes_back_when_it_is_started_again() -> None:
    story = trained()
    story.on(STOP)
    assert kinds(story.on(BACK)) == [SaveLineage, KillWorkers]
    decisions = gone(story)
    assert kinds(decisions) == [SaveLineage, DiscardAfter, FlushMemory]
    ending = ending_of(decisions, story)
    assert ending.exit_code is ExitCode.TERMINATED
    assert "It rolls back to step 50" in ending.diagnosis


def test_a_divergence_that_is_seen_while_a_person_goes_back_is_none_of_what_follows() -> None:
    story = trained()
    story.on(BACK)
    assert diverge(story) == ()
    assert [one.target for one in story.state.lineage.rollbacks] == [50]


def test_a_suspect_snapshot_that_a_person_trusts_is_on_probation_again() -> None:
    story = trained(policy=replace(POLICY, divergence=replace(DIVERGENCE, respond=False)))
    diverge(story, 99, 130)
    story.on(RollbackRequested(100))
    gone(story)
    go_on(story, (50, 100))
    train(story, 101, 119)
    assert story.state.lineage.known.newest_good() == 50
    train(story, 120, 120)
    assert story.state.lineage.known.newest_good() == 100
