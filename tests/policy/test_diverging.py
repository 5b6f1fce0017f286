"""Training that diverges, told as histories: what is seen, what is decided, in which order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from resilient.errors import ExitCode
from resilient.policy.decisions import (
    AskWorkers,
    Decision,
    DiscardAfter,
    DumpStacks,
    EndRun,
    FlushMemory,
    KillWorkers,
    LaunchRound,
    ListSnapshots,
    RecordIncident,
    ReportFinding,
    RestoreSnapshot,
    SaveLineage,
)
from resilient.policy.divergence import (
    Accepted,
    Alarm,
    Divergence,
    DivergenceKind,
    DivergenceSettings,
    Finding,
    LadderSettings,
    Recovered,
    ReplaySettings,
)
from resilient.policy.divergence.known_good import Grade
from resilient.policy.events import (
    FlushEnded,
    MetricsJudged,
    RunOpened,
    SkipResolved,
    SnapshotDurable,
    SnapshotRejected,
    SnapshotRestored,
    SnapshotsListed,
    StopKind,
    StopRequested,
    Tick,
    Tier,
    WorkerExited,
    WorkerProgressed,
)
from resilient.policy.failures import Failure, FailureClass
from resilient.policy.hang import HangSettings
from resilient.policy.lineage import Lineage, RollbackCause, Skip
from resilient.policy.state import Phase, PolicySettings
from tests.policy.test_machine import KILLED, SEGFAULT, Story, incident_in, kinds

LADDER = LadderSettings(attempts=3, budget=5, probation=40, restart_within=0)
DIVERGENCE = DivergenceSettings(good_after=20, margin=5, ladder=LADDER, replay=ReplaySettings(enabled=False))
POLICY = PolicySettings(divergence=DIVERGENCE, seed="exp")
NAN = Failure(FailureClass.NUMERIC, "ValueError: loss is nan")
PREEMPT = StopRequested(StopKind.PREEMPTION, grace=20.0)


def found(kind: type[Finding], onset: int, alarm: int | None = None, step: int | None = None) -> Finding:
    alarm = onset if alarm is None else alarm
    step = alarm if step is None else step
    return kind(DivergenceKind.SPIKE, "loss", onset, alarm, step, 9.0, 3.0, 0.1, (f"loss is up since {onset}",))


def judged(*findings: Finding) -> MetricsJudged:
    last = findings[-1]
    is_open = isinstance(last, (Alarm, Divergence))
    return MetricsJudged(last.step, findings, last.onset_step if is_open else None)


def trained(to: int = 130, *, durable: Sequence[int] = (50, 100), policy: PolicySettings = POLICY) -> Story:
    """A run that has come to ``to`` without an alarm, with these snapshots; those of 20 steps ago are good."""
    story = Story(policy)
    story.on(RunOpened())
    story.launch()
    train(story, 1, to, durable)
    return story


def train(story: Story, first: int, last: int, durable: Sequence[int] = ()) -> None:
    for step in range(first, last + 1):
        for rank in sorted(story.state.live):
            story.on(WorkerProgressed(rank, step))
        story.on(MetricsJudged(step))
        if step in durable:
            story.on(SnapshotDurable(step))


def diverge(story: Story, onset: int = 120, step: int = 130) -> tuple[Decision, ...]:
    return story.on(judged(found(Divergence, onset, onset + 5, step)))


def gone(story: Story) -> tuple[Decision, ...]:
    """The killed workers are gone."""
    decisions: tuple[Decision, ...] = ()
    for rank in sorted(story.state.live):
        decisions = story.on(WorkerExited(rank, story.state.steps[rank], KILLED))
    return decisions


def go_on(story: Story, durable: Sequence[int], memory: int | None = None) -> LaunchRound:
    """The next round is launched from what is there."""
    decisions = story.on(SnapshotsListed(memory, tuple(durable)))
    last = decisions[-1]
    if isinstance(last, RestoreSnapshot):
        decisions = story.on(SnapshotRestored(last.step))
    (launched,) = (decision for decision in decisions if isinstance(decision, LaunchRound))
    return launched


def lineage_in(decisions: Sequence[Decision]) -> Lineage:
    return [decision.lineage for decision in decisions if isinstance(decision, SaveLineage)][-1]


def ending_of(decisions: Sequence[Decision], story: Story) -> EndRun:
    """The run is flushed and ends."""
    assert isinstance(decisions[-1], FlushMemory)
    (ending,) = story.on(FlushEnded(100))
    assert isinstance(ending, EndRun)
    return ending


# --- one rollback


def test_a_divergence_is_written_down_and_then_the_workers_are_killed() -> None:
    story = trained()
    decisions = diverge(story)
    assert kinds(decisions) == [ReportFinding, SaveLineage, KillWorkers]
    assert story.phase is Phase.CLEARING
    lineage = lineage_in(decisions)
    assert lineage.pending
    (rollback,) = lineage.rollbacks
    assert (rollback.target, rollback.reached, rollback.round) == (100, 130, 0)
    assert (rollback.skip, rollback.lr_factor, rollback.cause) == ((101, 130), 1.0, RollbackCause.DIVERGENCE)


def test_when_they_are_gone_it_is_recorded_uncharged_and_what_came_after_is_set_aside() -> None:
    story = trained()
    diverge(story)
    decisions = gone(story)
    assert kinds(decisions) == [SaveLineage, RecordIncident, DiscardAfter, ListSnapshots]
    assert decisions[2] == DiscardAfter(100)
    record = decisions[1]
    assert isinstance(record, RecordIncident)
    assert record.charged is None
    incident = record.incident
    assert (incident.number, incident.rank, incident.step) == (1, None, 130)
    assert incident.failure.failure_class is FailureClass.NUMERIC
    assert incident.failure.message == "spike of loss since step 120: loss is up since 120"
    assert incident.remedy == "roll back to step 100, leaving out the data of steps 101 to 130"
    assert story.state.history.rounds == ()


def test_the_run_goes_on_from_the_target_and_then_nothing_is_pending() -> None:
    story = trained()
    diverge(story)
    gone(story)
    assert story.on(SnapshotsListed(None, (50, 100))) == (RestoreSnapshot(100),)
    launch, saved = story.on(SnapshotRestored(100))
    assert launch == LaunchRound(1, 100, Tier.LOCAL)
    assert isinstance(saved, SaveLineage)
    assert not saved.lineage.pending
    assert saved.lineage == story.state.lineage
    assert story.state.furthest == 100, "what was discarded need not be surpassed"


def test_neither_memory_nor_disk_brings_back_what_is_newer_than_the_target() -> None:
    story = trained()
    diverge(story)
    gone(story)
    assert go_on(story, (50, 100, 120), memory=130).step == 100


def test_workers_may_come_farther_until_they_are_gone() -> None:
    story = trained()
    diverge(story)
    story.on(WorkerProgressed(0, 133))
    assert lineage_in(gone(story)).rollbacks[-1].reached == 133


def test_a_worker_says_which_data_is_left_out() -> None:
    story = trained()
    diverge(story)
    gone(story)
    go_on(story, (50, 100))
    assert story.state.lineage.unresolved == ((101, 130),)
    skip = Skip((0, 800), (0, 1040))
    (saved,) = story.on(SkipResolved((skip,)))
    assert isinstance(saved, SaveLineage)
    assert saved.lineage.skips == (skip,)
    assert story.on(SkipResolved((skip,))) == (), "once is enough"


def test_what_a_worker_of_the_killed_round_says_is_not_taken_for_the_next_one() -> None:
    story = trained()
    diverge(story)
    assert story.on(SkipResolved((Skip((0, 800), (0, 1040)),))) == ()
    assert story.state.lineage.unresolved == ((101, 130),)


def test_where_no_snapshot_is_good_yet_nothing_newer_than_the_unproven_target_is_taken() -> None:
    story = trained(115, durable=(100,))
    diverge(story, 110, 115)
    gone(story)
    assert go_on(story, (100, 112), memory=115).step == 100


# --- the ladder


def test_what_recurs_goes_deeper_with_less_learning_and_then_the_run_stops() -> None:
    policy = replace(POLICY, divergence=replace(DIVERGENCE, ladder=replace(LADDER, cut_from=2)))
    story = trained(160, durable=(50, 80, 100), policy=policy)
    for target, there in ((100, (50, 80, 100)), (80, (50, 80)), (50, (50,))):
        diverge(story, 150, 160)
        gone(story)
        assert go_on(story, there).step == target
        train(story, target + 1, 160)
    assert [(one.target, one.lr_factor) for one in story.state.lineage.rollbacks] == [(100, 1.0), (80, 0.5), (50, 0.25)]
    diverge(story, 150, 160)
    decisions = gone(story)
    assert kinds(decisions) == [SaveLineage, RecordIncident, DiscardAfter, FlushMemory]
    assert incident_in(decisions).remedy == "stop: spike of loss since step 150; 3 rollbacks did not help"
    ending = ending_of(decisions, story)
    assert ending.exit_code is ExitCode.DIVERGED
    for told in (
        "Stopped after step 160: spike of loss since step 150; 3 rollbacks did not help.",
        "Seen: loss is up since 150.",
        "Tried: to step 100, leaving out the data of steps 101 to 160; to step 80, leaving out",
        "of steps 81 to 160, learning rate × 0.5; to step 50, leaving out the data of steps 51",
        "The same command goes on from step 50, before it.",
        "resilient incidents exp 4",
    ):
        assert told in ending.diagnosis


def test_a_run_that_was_given_up_does_not_go_on_from_what_diverged() -> None:
    story = trained(policy=replace(POLICY, divergence=replace(DIVERGENCE, ladder=replace(LADDER, attempts=0))))
    diverge(story)
    lineage = lineage_in(gone(story))
    assert (lineage.target, lineage.unresolved, lineage.ladder.rollbacks) == (100, (), 0)
    again = Story(POLICY)
    assert again.on(RunOpened(lineage=lineage, last_round=0)) == (DiscardAfter(100), ListSnapshots())
    assert go_on(again, (50, 100), memory=130).step == 100


def test_a_run_without_a_snapshot_that_is_old_enough_stops_with_what_there_is() -> None:
    story = trained(durable=())
    diverge(story)
    decisions = gone(story)
    assert kinds(decisions) == [RecordIncident, FlushMemory]
    ending = ending_of(decisions, story)
    assert ending.exit_code is ExitCode.DIVERGED
    assert "Tried: nothing yet. No snapshot is older than that" in ending.diagnosis


def test_the_budget_of_rollbacks_outlives_the_supervisor() -> None:
    story = trained()
    lineage = story.state.lineage
    spent = replace(lineage, ladder=replace(lineage.ladder, rollbacks=5))
    again = Story(POLICY)
    again.on(RunOpened(lineage=spent, last_round=0))
    go_on(again, (50, 100), memory=130)
    train(again, 131, 140)
    diverge(again, 135, 140)
    ending = ending_of(gone(again), again)
    assert ending.exit_code is ExitCode.DIVERGED
    assert "the budget of 5 rollbacks is spent" in ending.diagnosis


def test_an_episode_goes_on_after_a_restart_and_is_over_past_its_probation() -> None:
    story = trained()
    diverge(story)
    lineage = lineage_in(gone(story))
    again = Story(POLICY)
    again.on(RunOpened(lineage=lineage, last_round=0))
    go_on(again, (50, 100))
    train(again, 101, 170)
    assert again.state.lineage.ladder.targets == (100,)
    saved = again.on(MetricsJudged(171))
    assert lineage_in(saved).ladder.targets == ()
    assert lineage_in(saved).ladder.rollbacks == 1


def test_an_episode_is_not_over_while_an_alarm_is_open() -> None:
    story = trained()
    diverge(story)
    gone(story)
    go_on(story, (50, 100))
    train(story, 101, 160)
    story.on(judged(found(Alarm, 160)))
    story.on(MetricsJudged(170, (), 160))
    assert story.state.lineage.ladder.targets == (100,)
    diverge(story, 160, 171)
    assert story.state.lineage.target == 50, "deeper than the time before"


def test_what_is_dated_back_before_the_last_target_goes_deeper() -> None:
    story = trained()
    diverge(story)
    gone(story)
    go_on(story, (50, 100))
    train(story, 101, 110)
    diverge(story, 98, 110)
    assert story.state.lineage.target == 50
    assert [item.step for item in story.state.lineage.known.snapshots] == [50]


# --- the beginning


def test_a_young_run_begins_anew() -> None:
    policy = replace(POLICY, divergence=replace(DIVERGENCE, ladder=replace(LADDER, restart_within=30)))
    story = trained(20, durable=(15,), policy=policy)
    diverge(story, 18, 20)
    decisions = gone(story)
    assert DiscardAfter(0) in decisions
    assert incident_in(decisions).remedy == "roll back to the beginning, leaving out the data of steps 1 to 28"
    launch, saved = story.on(SnapshotsListed(quarantined=1))
    assert launch == LaunchRound(1)
    assert isinstance(saved, SaveLineage)


def test_a_run_that_has_begun_anew_may_crash_before_its_first_snapshot() -> None:
    policy = replace(POLICY, divergence=replace(DIVERGENCE, ladder=replace(LADDER, restart_within=30)))
    story = trained(20, durable=(), policy=policy)
    diverge(story, 18, 20)
    gone(story)
    go_on(story, ())
    story.lose(KILLED, 0)
    assert story.on(SnapshotsListed(quarantined=1)) == (LaunchRound(2),)
    train(story, 1, 10, durable=(10,))
    story.lose(KILLED, 10)
    (ending,) = story.on(SnapshotsListed(quarantined=1, remote_problem=None))
    assert isinstance(ending, EndRun), "there has been a snapshot since: it is not lost in silence"
    assert ending.exit_code is ExitCode.NO_SNAPSHOT


def test_an_old_run_does_not_begin_anew() -> None:
    policy = replace(POLICY, divergence=replace(DIVERGENCE, ladder=replace(LADDER, restart_within=30)))
    story = trained(60, durable=(), policy=policy)
    diverge(story, 31, 60)
    assert ending_of(gone(story), story).exit_code is ExitCode.DIVERGED


# --- the target cannot be had


def test_a_corrupt_target_gives_way_to_an_older_one_and_never_to_a_newer_one() -> None:
    story = trained()
    diverge(story)
    gone(story)
    story.on(SnapshotsListed(None, (50, 100, 120)))
    story.on(SnapshotRejected(100, Tier.LOCAL, "checksum"))
    decisions = story.on(SnapshotsListed(None, (50, 120), 1))
    assert kinds(decisions) == [SaveLineage, DiscardAfter, RestoreSnapshot]
    lineage = lineage_in(decisions)
    assert (lineage.target, lineage.unresolved, lineage.ladder.targets) == (50, ((101, 130),), (50,))
    assert decisions[1:] == (DiscardAfter(50), RestoreSnapshot(50))
    assert not lineage.holds(60, 0)


def test_a_good_one_comes_before_one_that_is_only_nearer() -> None:
    story = trained()
    diverge(story)
    gone(story)
    story.on(SnapshotsListed(None, (50, 100)))
    story.on(SnapshotRejected(100, Tier.LOCAL, "checksum"))
    assert story.on(SnapshotsListed(None, (50, 99), 1))[-1] == RestoreSnapshot(50)


def test_without_a_target_or_anything_before_it_the_run_stops_and_says_what_it_could_not_do() -> None:
    story = trained()
    diverge(story)
    gone(story)
    story.on(SnapshotsListed(None, (50, 100)))
    story.on(SnapshotRejected(100, Tier.LOCAL, "checksum"))
    story.on(SnapshotsListed(None, (50,), 1))
    story.on(SnapshotRejected(50, Tier.LOCAL, "checksum"))
    (ending,) = story.on(SnapshotsListed(None, (), 2))
    assert isinstance(ending, EndRun)
    assert ending.exit_code is ExitCode.NO_SNAPSHOT
    assert "is to be rolled back to step 50" in ending.diagnosis


def test_where_the_remote_tier_does_not_answer_nothing_is_forgotten() -> None:
    story = trained()
    story.lose(SEGFAULT, 130)
    story.on(SnapshotsListed(130, (100,), remote_problem="no answer"))
    assert grades(story) == {50: Grade.GOOD, 100: Grade.GOOD}


# --- where it happens


def test_a_divergence_in_the_first_step_of_a_round() -> None:
    story = trained()
    story.lose(SEGFAULT, 130)
    go_on(story, (50, 100), memory=130)
    assert story.phase is Phase.STARTING
    assert KillWorkers in kinds(diverge(story, 131, 131))
    assert DiscardAfter(100) in gone(story)


def test_a_divergence_while_the_stacks_of_a_hung_group_are_written() -> None:
    hang = HangSettings(startup_seconds=100.0, min_seconds=3.0, factor=2.0, phase_seconds=20.0)
    story = trained(policy=replace(POLICY, hang=hang))
    (dump,) = story.on(Tick(), at=50.0)
    assert isinstance(dump, DumpStacks)
    assert KillWorkers in kinds(diverge(story))
    incident = incident_in(gone(story))
    assert incident.number == dump.number
    assert incident.failure.signature == "spike of loss"


def test_a_divergence_that_is_seen_after_a_rank_was_lost_is_what_is_wrong() -> None:
    story = trained(policy=replace(POLICY, ranks=2))
    story.lose(SEGFAULT, 130, rank=1)
    decisions = diverge(story)
    assert kinds(decisions) == [ReportFinding, SaveLineage], "they are being killed already"
    incident = incident_in(gone(story))
    assert incident.number == 1
    assert incident.failure.signature == "spike of loss"
    assert incident.others == ("rank 1 after step 130: crash: SIGSEGV",)


def test_a_divergence_after_one_rank_has_finished() -> None:
    story = trained(policy=replace(POLICY, ranks=2))
    story.on(WorkerExited(1, 130, None, finished=True))
    diverge(story)
    assert story.on(WorkerExited(0, 130, None, finished=True))[-1] == ListSnapshots()
    assert go_on(story, (50, 100)).step == 100


def test_what_the_detectors_say_of_a_group_that_is_gone_says_nothing_of_the_next_one() -> None:
    story = trained()
    diverge(story)
    lineage = story.state.lineage
    assert diverge(story, 90, 131) == ()
    gone(story)
    assert diverge(story, 90, 131) == ()
    assert story.state.lineage == lineage
    go_on(story, (50, 100))
    story.lose(KILLED, 101)
    assert diverge(story, 90, 131) == ()


# --- a script that finds it itself


def test_a_script_that_raises_on_a_number_that_is_not_finite_is_on_the_same_ladder() -> None:
    story = trained()
    decisions = story.lose(NAN, 130)
    assert kinds(decisions) == [SaveLineage, SaveLineage, RecordIncident, DiscardAfter, ListSnapshots]
    incident = incident_in(decisions)
    assert (incident.rank, incident.step, incident.failure) == (0, 130, NAN)
    lineage = lineage_in(decisions)
    assert (lineage.target, lineage.unresolved) == (100, ((101, 136),))
    assert story.state.history.rounds == ()


def test_of_several_ranks_the_one_that_found_it_is_the_root() -> None:
    story = trained(policy=replace(POLICY, ranks=3))
    story.lose(Failure(FailureClass.ECHO, "connection closed"), 130, rank=2)
    story.on(WorkerExited(1, 130, NAN, at=-1.0))
    incident = incident_in(story.on(WorkerExited(0, 130, KILLED)))
    assert (incident.rank, incident.failure) == (1, NAN)
    assert incident.others == ("rank 2 after step 130: echo of another rank's failure: connection closed",)
    assert story.state.lineage.target == 100


@pytest.mark.parametrize(
    "policy", [replace(POLICY, rolls_back=False), replace(POLICY, divergence=replace(DIVERGENCE, respond=False))]
)
def test_where_nothing_is_rolled_back_it_is_relaunched_once_as_ever(policy: PolicySettings) -> None:
    story = trained(policy=policy)
    decisions = story.lose(NAN, 130)
    assert incident_in(decisions).remedy == "relaunch once from the last snapshot"
    assert not story.state.lineage.rollbacks


# --- nothing is done about it


@pytest.mark.parametrize(
    ("policy", "why"),
    [
        (replace(POLICY, rolls_back=False), "the script does not attach"),
        (replace(POLICY, divergence=replace(DIVERGENCE, respond=False)), "divergence.respond is off"),
    ],
)
def test_a_divergence_that_is_only_told(policy: PolicySettings, why: str) -> None:
    story = trained(policy=policy)
    decisions = diverge(story)
    assert kinds(decisions) == [ReportFinding, SaveLineage, RecordIncident]
    assert incident_in(decisions).remedy == f"none: {why}"
    assert story.phase is Phase.RUNNING
    assert not story.state.lineage.pending
    story.on(judged(found(Recovered, 120, step=131)))
    assert RecordIncident not in kinds(diverge(story, 132, 135)), "not each time that it comes and goes"
    assert RecordIncident in kinds(diverge(story, 171, 171))


def test_what_is_only_told_leaves_the_number_of_a_failure_alone() -> None:
    story = trained(policy=replace(POLICY, ranks=2, rolls_back=False))
    story.lose(SEGFAULT, 130, rank=1)
    assert RecordIncident not in kinds(diverge(story))
    assert incident_in(gone(story)).failure == SEGFAULT


@pytest.mark.parametrize("kind", [Alarm, Recovered, Accepted])
def test_what_is_no_divergence_is_told_and_changes_no_phase(kind: type[Finding]) -> None:
    story = trained()
    decisions = story.on(judged(found(kind, 125, step=130)))
    assert decisions[0] == ReportFinding(found(kind, 125, step=130))
    assert set(kinds(decisions)) <= {ReportFinding, SaveLineage}
    assert story.phase is Phase.RUNNING


# --- what is known of the snapshots


def grades(story: Story) -> dict[int, Grade]:
    return {item.step: item.grade for item in story.state.lineage.known.snapshots}


def test_grades_are_written_down_when_they_change_and_only_then() -> None:
    story = trained(60, durable=(50,))
    assert grades(story) == {50: Grade.TAKEN}
    assert story.on(MetricsJudged(69)) == ()
    assert kinds(story.on(MetricsJudged(70))) == [SaveLineage]
    assert grades(story) == {50: Grade.GOOD}


def test_what_retention_deletes_is_not_known_any_more() -> None:
    story = trained()
    (saved,) = story.on(SnapshotDurable(120, removed=(50,)))
    assert isinstance(saved, SaveLineage)
    assert grades(story) == {100: Grade.GOOD, 120: Grade.TAKEN}


def test_a_snapshot_taken_under_an_alarm_is_suspect_until_it_recovers() -> None:
    story = trained()
    story.on(judged(found(Alarm, 125, step=130)))
    story.on(SnapshotDurable(130))
    assert grades(story)[130] is Grade.SUSPECT
    story.on(judged(found(Recovered, 125, step=140)))
    assert grades(story)[130] is Grade.TAKEN
    train(story, 141, 160)
    assert grades(story)[130] is Grade.GOOD


def test_a_run_that_goes_on_from_memory_knows_what_it_knew() -> None:
    story = trained()
    story.lose(SEGFAULT, 130)
    go_on(story, (50, 100), memory=130)
    assert grades(story) == {50: Grade.GOOD, 100: Grade.GOOD}


def test_a_successor_knows_what_was_written_down_of_what_is_still_there() -> None:
    again = Story(POLICY)
    again.on(RunOpened(takeover=True, lineage=trained().state.lineage))
    go_on(again, (50,), memory=130)
    assert grades(again) == {50: Grade.GOOD}


def test_a_snapshot_that_nobody_knows_of_is_on_probation_from_now_on() -> None:
    again = Story(POLICY)
    again.on(RunOpened(lineage=trained(durable=(50,)).state.lineage))
    go_on(again, (50, 100), memory=130)
    assert grades(again) == {50: Grade.GOOD, 100: Grade.TAKEN}
    train(again, 131, 149)
    assert grades(again)[100] is Grade.TAKEN
    train(again, 150, 150)
    assert grades(again)[100] is Grade.GOOD


def test_what_becomes_durable_too_late_is_off_the_lineage() -> None:
    story = trained()
    diverge(story)
    story.on(SnapshotDurable(130))
    assert 130 not in grades(story)


# --- asked to stop meanwhile


def test_a_diverged_state_is_not_worth_a_last_snapshot() -> None:
    story = trained()
    assert kinds(story.on(PREEMPT)) == [AskWorkers, RecordIncident]
    assert kinds(diverge(story)) == [ReportFinding, SaveLineage, KillWorkers]
    decisions = gone(story)
    assert kinds(decisions) == [SaveLineage, RecordIncident, DiscardAfter, FlushMemory]
    assert incident_in(decisions).number == 2, "the preemption was the first, and is not told twice"
    ending = ending_of(decisions, story)
    assert ending.exit_code is ExitCode.REQUEUE
    assert "It rolls back to step 100, leaving out the data of steps 101 to 130: spike of loss" in ending.diagnosis


def test_asked_to_stop_while_the_diverged_workers_are_being_killed() -> None:
    story = trained()
    diverge(story)
    assert story.on(PREEMPT) == ()
    decisions = gone(story)
    assert kinds(decisions) == [SaveLineage, RecordIncident, DiscardAfter, RecordIncident, FlushMemory]
    assert lineage_in(decisions).pending
    assert ending_of(decisions, story).exit_code is ExitCode.REQUEUE


def test_workers_that_cannot_be_killed_do_not_keep_a_diverged_run_from_stopping() -> None:
    story = trained()
    diverge(story)
    story.on(PREEMPT)
    decisions = story.on(Tick(), at=19.0)
    assert kinds(decisions) == [SaveLineage, RecordIncident, DiscardAfter, RecordIncident, FlushMemory]


def test_asked_to_stop_before_the_next_round() -> None:
    story = trained()
    diverge(story)
    gone(story)
    story.on(SnapshotsListed(None, (50, 100)))
    assert story.phase is Phase.RESTORING
    decisions = story.on(PREEMPT)
    assert kinds(decisions) == [RecordIncident, FlushMemory], "all is set aside already"
    assert story.state.lineage.pending
    assert "It rolls back to step 100" in ending_of(decisions, story).diagnosis


@pytest.mark.parametrize("told", [0, 1, 2, 3, 4, 5, 6, 7, 8])
def test_a_supervisor_that_dies_between_any_two_decisions_has_a_successor_that_goes_on_from_the_target(
    told: int,
) -> None:
    story = trained()
    before = story.state.lineage
    decisions = (*diverge(story), *gone(story))
    done = decisions[:told]
    saved = lineage_in((SaveLineage(before), *done))
    again = Story(POLICY)
    again.on(RunOpened(takeover=True, lineage=saved, last_round=0))
    if told < 2:  # it saw nothing, and its workers died with it: they meet it again
        go_on(again, (50, 100), memory=130)
        diverge(again, 120, 131)
        gone(again)
    launch = go_on(again, (50, 100), memory=None if DiscardAfter(100) in done or told < 2 else 130)
    assert launch.step == 100
    assert not again.state.lineage.pending
    assert [one.target for one in again.state.lineage.rollbacks] == [100]


def test_a_run_that_ends_under_an_alarm_says_so() -> None:
    story = trained()
    story.on(judged(found(Alarm, 128, step=130)))
    ending = ending_of(story.on(WorkerExited(0, 130, None, finished=True)), story)
    assert ending.exit_code is ExitCode.FINISHED
    told = "what was trained since step 128 may have diverged. The newest that is known to be good is step 100."
    assert told in ending.diagnosis
