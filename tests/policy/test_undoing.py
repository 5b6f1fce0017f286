"""The steps before a divergence run again, and what follows from what that shows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from resilient.errors import ExitCode
from resilient.policy.decisions import (
    AbandonReplay,
    DiscardAfter,
    DistrustNode,
    FlushMemory,
    ListSnapshots,
    RecordIncident,
    ReplayWindow,
    SaveLineage,
)
from resilient.policy.divergence import ReplaySettings
from resilient.policy.events import MetricsJudged, ReplayEnded, SnapshotDurable, StopKind, StopRequested, Tick
from resilient.policy.lineage import RollbackCause
from resilient.policy.state import Phase, PolicySettings
from resilient.policy.verdict import Verdict, VerdictKind
from tests.policy.test_diverging import (
    DIVERGENCE,
    LADDER,
    NAN,
    POLICY,
    diverge,
    ending_of,
    go_on,
    gone,
    lineage_in,
    train,
    trained,
)
from tests.policy.test_machine import Story, incident_in, kinds

PREEMPT = StopRequested(StopKind.PREEMPTION, grace=20.0)
TRANSIENT = Verdict(
    VerdictKind.TRANSIENT_HARDWARE, "two replays agree, and not with the run", 121, ("the loss differs",)
)
PERSISTENT = Verdict(VerdictKind.PERSISTENT_HARDWARE, "another device gives another result", 121)


def replaying(max_seconds: float = 600.0, **changes: object) -> PolicySettings:
    divergence = replace(DIVERGENCE, replay=ReplaySettings(max_seconds=max_seconds), **changes)  # type: ignore[arg-type]
    return replace(POLICY, divergence=divergence)


def asked(policy: PolicySettings | None = None) -> Story:
    """A run that has diverged, and waits for what a replay shows."""
    story = trained(policy=policy or replaying())
    diverge(story)
    gone(story)
    assert story.phase is Phase.REPLAYING
    return story


def test_the_steps_before_the_divergence_are_run_again_from_the_target() -> None:
    story = trained(policy=replaying())
    diverge(story)
    assert gone(story) == (ReplayWindow(number=1, snapshot=100, first=120, last=125, by=600.0),)
    assert story.state.lineage.pending, "whatever happens meanwhile"


def test_from_the_beginning_where_that_is_the_target() -> None:
    story = trained(20, durable=(), policy=replaying(ladder=replace(LADDER, restart_within=30)))
    diverge(story, 10, 20)
    (window,) = gone(story)
    assert isinstance(window, ReplayWindow)
    assert (window.snapshot, window.first, window.last) == (0, 10, 15)


def test_what_a_script_found_itself_is_run_again_as_far_as_it_came() -> None:
    story = trained(policy=replaying())
    window = story.lose(NAN, 130)[-1]
    assert isinstance(window, ReplayWindow)
    assert (window.first, window.last) == (130, 130)


@pytest.mark.parametrize("kind", [VerdictKind.REPRODUCED, VerdictKind.NOT_REPRODUCIBLE, VerdictKind.INCONCLUSIVE])
def test_where_the_hardware_is_not_at_fault_it_goes_on_as_was_decided(kind: VerdictKind) -> None:
    story = asked()
    decided = story.state.lineage
    decisions = story.on(ReplayEnded(Verdict(kind, "it is so", None, ("and so",))))
    assert kinds(decisions) == [SaveLineage, RecordIncident, DiscardAfter, ListSnapshots]
    assert lineage_in(decisions) == decided
    told = incident_in(decisions).failure.evidence
    assert told == ("loss is up since 120", f"run again: {kind.value}: it is so", "and so")


def test_hardware_that_erred_once_costs_no_data_and_no_rung() -> None:
    story = asked()
    decisions = story.on(ReplayEnded(TRANSIENT))
    assert kinds(decisions) == [SaveLineage, RecordIncident, DiscardAfter, ListSnapshots]
    lineage = lineage_in(decisions)
    (rollback,) = lineage.rollbacks
    assert (rollback.target, rollback.skip, rollback.lr_factor) == (100, None, 1.0)
    assert rollback.cause is RollbackCause.HARDWARE
    assert (lineage.ladder.targets, lineage.ladder.rollbacks) == ((), 1)
    assert incident_in(decisions).remedy == "roll back to step 100"
    assert go_on(story, (50, 100)).step == 100


def test_hardware_that_errs_again_errs_for_good() -> None:
    story = asked()
    story.on(ReplayEnded(TRANSIENT))
    go_on(story, (50, 100))
    train(story, 101, 130)
    diverge(story)
    gone(story)
    decisions = story.on(ReplayEnded(TRANSIENT))
    assert DistrustNode(TRANSIENT.reason, 2) in decisions


def test_hardware_that_errs_for_good_ends_the_run_on_this_machine() -> None:
    story = asked()
    decisions = story.on(ReplayEnded(PERSISTENT))
    assert kinds(decisions) == [SaveLineage, RecordIncident, DiscardAfter, DistrustNode, FlushMemory]
    lineage = lineage_in(decisions)
    assert (lineage.target, lineage.unresolved) == (100, ())
    ending = ending_of(decisions, story)
    assert ending.exit_code is ExitCode.UNTRUSTED_NODE
    for told in (
        "this machine computes wrong at step 121: another device gives another result.",
        "Seen: loss is up since 120; run again: persistent hardware",
        "on another machine: it goes on from step 100, with all of the data.",
        "resilient incidents exp 1",
    ):
        assert told in ending.diagnosis


def test_a_replay_that_does_not_answer_is_given_up() -> None:
    story = asked()
    assert story.on(Tick(), at=601.0) == ()
    decisions = story.on(Tick(), at=603.0)
    assert kinds(decisions) == [AbandonReplay, SaveLineage, RecordIncident, DiscardAfter, ListSnapshots]
    assert lineage_in(decisions).unresolved == ((101, 130),)
    assert "did not answer in time" in incident_in(decisions).failure.evidence[1]


def test_asked_to_stop_the_replay_is_given_up_and_the_rollback_is_left_to_the_next_start() -> None:
    story = asked()
    decisions = story.on(PREEMPT)
    assert kinds(decisions) == [
        AbandonReplay,
        SaveLineage,
        RecordIncident,
        DiscardAfter,
        RecordIncident,
        FlushMemory,
    ]
    assert lineage_in(decisions).pending
    assert ending_of(decisions, story).exit_code is ExitCode.REQUEUE


def test_an_answer_that_comes_too_late_says_nothing() -> None:
    story = asked()
    story.on(PREEMPT)
    assert story.on(ReplayEnded(PERSISTENT)) == ()


def test_nothing_is_run_again_when_the_run_is_to_stop() -> None:
    story = trained(policy=replaying())
    diverge(story)
    story.on(PREEMPT)
    assert ReplayWindow not in kinds(gone(story))


@pytest.mark.parametrize("policy", [replaying(max_seconds=20.0), POLICY])
def test_nothing_is_run_again_where_that_may_not_be(policy: PolicySettings) -> None:
    story = trained(policy=policy)
    diverge(story)
    assert gone(story)[-1] == ListSnapshots()


@pytest.mark.parametrize(("seconds", "is_worth_it"), [(20.0, True), (25.0, False)])
def test_what_it_costs_is_known_from_the_longest_step(seconds: float, *, is_worth_it: bool) -> None:
    """From step 100 to step 125, and 30 seconds to begin."""
    story = trained(policy=replaying())
    story.now = seconds
    train(story, 131, 131)
    story.now = 2 * seconds
    train(story, 132, 132)
    diverge(story)
    assert (ReplayWindow in kinds(gone(story))) is is_worth_it


def test_nothing_is_run_again_where_nothing_else_can_be_tried() -> None:
    story = trained(policy=replaying(ladder=replace(LADDER, attempts=0)))
    diverge(story)
    assert kinds(gone(story)) == [SaveLineage, RecordIncident, DiscardAfter, FlushMemory]


def test_what_becomes_durable_during_a_replay_is_off_the_lineage() -> None:
    story = asked()
    assert story.on(SnapshotDurable(130)) == ()
    assert story.on(MetricsJudged(131)) == ()
    assert story.phase is Phase.REPLAYING
