"""The life of a run, told as histories: given this state, these events, those decisions."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import pytest

from resilient.errors import ConfigurationError, ExitCode
from resilient.policy.culprit import Condition, RankAccount
from resilient.policy.decisions import (
    AbandonRestore,
    AskWorkers,
    Decision,
    DiscardMemory,
    DumpStacks,
    EndRun,
    FlushMemory,
    KillWorkers,
    LaunchRound,
    ListSnapshots,
    RecordIncident,
    ReportStraggler,
    RestoreSnapshot,
    SignalWorkers,
)
from resilient.policy.events import (
    Event,
    FlushEnded,
    Incident,
    LaunchFailed,
    OwnTimesSeen,
    RanksProgressed,
    RestoreFailed,
    RunOpened,
    SnapshotRejected,
    SnapshotRestored,
    SnapshotsListed,
    StacksDumped,
    StopKind,
    StopRequested,
    Tick,
    Tier,
    WorkerExited,
    WorkerProgressed,
)
from resilient.policy.failures import Failure, FailureClass
from resilient.policy.hang import HangSettings
from resilient.policy.machine import TABLE, Row, UnlistedTransition, decide
from resilient.policy.restarts import RestartSettings
from resilient.policy.state import Phase, PolicySettings, RunState, StopSettings
from resilient.policy.stragglers import OwnTime, StragglerSettings

KILLED = Failure(FailureClass.KILLED, "SIGKILL")
SEGFAULT = Failure(FailureClass.CRASH, "SIGSEGV")
CODE = Failure(FailureClass.CODE, "TypeError: bad")
CORRUPT = Failure(FailureClass.BAD_SNAPSHOT, "SnapshotCorrupt: the image is damaged")
NO_FORK = Failure(FailureClass.CRASH, "fork: Cannot allocate memory")
ALONE = Failure(FailureClass.PREEMPTION, "SIGTERM reached the worker alone")

PREEMPT = StopRequested(StopKind.PREEMPTION, grace=20.0)
STOP = StopRequested(StopKind.REQUEST, grace=20.0)


class Story:
    """A run whose events are told one after the other; answers with the decisions each one leads to."""

    def __init__(self, settings: PolicySettings | None = None) -> None:
        self.state = RunState(settings=settings or PolicySettings())
        self.now = 0.0

    @property
    def phase(self) -> Phase:
        return self.state.phase

    def on(self, event: Event, *, at: float | None = None) -> tuple[Decision, ...]:
        self.now = self.now if at is None else at
        self.state, decisions = decide(self.state, event, self.now)
        return decisions

    def launch(self, memory: int | None = None, durable: tuple[int, ...] = ()) -> LaunchRound:
        """Answer ``ListSnapshots`` and follow the choice up to the launch."""
        (decision,) = self.on(SnapshotsListed(memory, durable))
        if isinstance(decision, RestoreSnapshot):
            (decision,) = self.on(SnapshotRestored(decision.step))
        assert isinstance(decision, LaunchRound)
        return decision

    def steps(self, *steps: int, rank: int = 0) -> None:
        for step in steps:
            assert self.on(WorkerProgressed(rank, step)) == ()

    def lose(self, failure: Failure, step: int, rank: int = 0) -> tuple[Decision, ...]:
        return self.on(WorkerExited(rank, step, failure))


def running(*, step: int = 10, **settings: object) -> Story:
    """A fresh run that has come to ``step``."""
    story = Story(replace(PolicySettings(), **settings))  # type: ignore[arg-type]
    story.on(RunOpened())
    story.launch()
    for rank in range(story.state.settings.ranks):
        story.steps(step, rank=rank)
    return story


def incident_in(decisions: Sequence[Decision]) -> Incident:
    (found,) = [decision.incident for decision in decisions if isinstance(decision, RecordIncident)]
    return found


def kill_in(decisions: Sequence[Decision]) -> KillWorkers:
    (found,) = [decision for decision in decisions if isinstance(decision, KillWorkers)]
    return found


def kinds(decisions: Sequence[Decision]) -> list[type[Decision]]:
    return [type(decision) for decision in decisions]


def ending(decisions: Sequence[Decision]) -> EndRun:
    (found,) = decisions
    assert isinstance(found, EndRun)
    return found


# --- where to begin


def test_a_fresh_run_starts_from_the_beginning() -> None:
    story = Story()
    assert story.on(RunOpened()) == (ListSnapshots(),)
    assert story.on(SnapshotsListed()) == (LaunchRound(0),)


def test_a_round_is_running_with_its_first_step_and_not_before() -> None:
    story = Story()
    story.on(RunOpened())
    story.launch()
    story.on(WorkerProgressed(0, 0, "startup"))
    assert [story.phase] == [Phase.STARTING]
    story.steps(1)
    assert [story.phase] == [Phase.RUNNING]


def test_ranks_that_move_on_together_are_as_if_each_had_by_itself() -> None:
    moved = [WorkerProgressed(0, 11), WorkerProgressed(2, 11, "eval"), WorkerProgressed(1, 12)]
    together, apart = running(ranks=3), running(ranks=3)
    together.on(RanksProgressed(tuple(moved)), at=7.0)
    for each in moved:
        apart.on(each, at=7.0)
    assert together.state == apart.state
    assert together.state.step == 11
    story = Story(PolicySettings(ranks=2))
    story.on(RunOpened())
    story.launch()
    story.on(RanksProgressed((WorkerProgressed(0, 1), WorkerProgressed(1, 0, "startup"))))
    assert story.phase is Phase.RUNNING


def test_a_newer_memory_image_is_resumed_from_without_the_disk() -> None:
    story = Story()
    story.on(RunOpened())
    assert story.on(SnapshotsListed(57, (40, 50))) == (LaunchRound(0, 57, Tier.MEMORY),)


def test_the_disk_is_read_into_memory_and_then_resumed_from() -> None:
    story = Story()
    story.on(RunOpened())
    assert story.on(SnapshotsListed(None, (40, 50))) == (RestoreSnapshot(50),)
    assert story.phase is Phase.RESTORING
    assert story.on(SnapshotRestored(50)) == (LaunchRound(0, 50, Tier.LOCAL),)


def test_a_corrupt_snapshot_is_an_incident_and_the_next_older_one_is_taken() -> None:
    story = Story()
    story.on(RunOpened())
    story.on(SnapshotsListed(None, (40, 50)))
    decisions = story.on(SnapshotRejected(50, Tier.LOCAL, "checksum mismatch"))
    assert kinds(decisions) == [RecordIncident, ListSnapshots]
    found = incident_in(decisions)
    assert (found.step, found.failure.failure_class) == (50, FailureClass.BAD_SNAPSHOT)
    assert story.on(SnapshotsListed(None, (40,))) == (RestoreSnapshot(40),)
    assert story.on(SnapshotRestored(40)) == (LaunchRound(0, 40, Tier.LOCAL),)


def test_when_no_snapshot_is_left_the_run_ends_and_never_starts_over_in_silence() -> None:
    story = Story()
    story.on(RunOpened())
    story.on(SnapshotsListed(None, (40, 50)))
    story.on(SnapshotRejected(50, Tier.LOCAL, "checksum mismatch"))
    story.on(SnapshotsListed(None, (40,)))
    story.on(SnapshotRejected(40, Tier.LOCAL, "truncated"))
    end = ending(story.on(SnapshotsListed()))
    assert end.exit_code is ExitCode.NO_SNAPSHOT
    assert story.phase is Phase.ENDED
    for word in ("2 failed verification", "step 40", "truncated", "run.id"):
        assert word in end.diagnosis


def test_a_restore_that_fails_for_no_fault_of_the_snapshot_is_tried_again_and_then_left_to_a_person() -> None:
    story = Story()
    story.on(RunOpened())
    for _ in range(2):
        assert story.on(SnapshotsListed(None, (40, 50))) == (RestoreSnapshot(50),)
        assert story.on(RestoreFailed(50, "no room in shared memory")) == (ListSnapshots(),)
    story.on(SnapshotsListed(None, (40, 50)))
    end = ending(story.on(RestoreFailed(50, "no room in shared memory")))
    assert end.exit_code is ExitCode.NO_SNAPSHOT
    for words in ("step 50", "no room in shared memory", "Nothing is lost"):
        assert words in end.diagnosis


def test_every_round_has_its_own_tries_to_restore() -> None:
    story = Story()
    story.on(RunOpened())
    for _ in range(5):
        story.on(SnapshotsListed(None, (50,)))
        story.on(RestoreFailed(50, "the drain died"))
        assert story.launch(durable=(50,)).step == 50
        story.lose(KILLED, story.state.furthest + 1)


def test_a_rejected_snapshot_is_charged_to_no_budget() -> None:
    story = Story()
    story.on(RunOpened())
    story.on(SnapshotsListed(None, (50,)))
    story.on(SnapshotRejected(50, Tier.LOCAL, "truncated"))
    assert story.state.history.rounds == ()


def test_taking_over_from_a_killed_supervisor_is_an_incident_but_no_failure_of_the_run() -> None:
    story = Story()
    decisions = story.on(RunOpened(takeover=True))
    assert kinds(decisions) == [RecordIncident, ListSnapshots]
    assert incident_in(decisions).failure.failure_class is FailureClass.SUPERVISOR_LOST
    assert story.state.history.rounds == ()
    assert story.launch(memory=57).step == 57


def test_a_successor_goes_on_counting_rounds_and_incidents() -> None:
    story = Story()
    decisions = story.on(RunOpened(takeover=True, last_round=4, incidents=7, step=30))
    assert incident_in(decisions).number == 8
    assert incident_in(decisions).step == 30
    assert story.launch(memory=30).round == 5


# --- failures and relaunches


def test_a_killed_worker_is_relaunched_at_once_from_memory() -> None:
    story = running(step=10)
    decisions = story.lose(KILLED, 11)
    assert kinds(decisions) == [RecordIncident, ListSnapshots]
    found = incident_in(decisions)
    assert (found.number, found.round, found.rank, found.step, found.failure) == (1, 0, 0, 11, KILLED)
    assert story.on(SnapshotsListed(11, (10,))) == (LaunchRound(1, 11, Tier.MEMORY),)


def test_a_group_is_relaunched_only_when_all_of_it_is_gone() -> None:
    story = running(ranks=3)
    assert kinds(story.lose(SEGFAULT, 10, rank=1)) == [KillWorkers]
    assert story.phase is Phase.CLEARING
    assert story.lose(KILLED, 10, rank=0) == ()
    assert story.phase is Phase.CLEARING
    decisions = story.lose(KILLED, 10, rank=2)
    assert kinds(decisions) == [RecordIncident, ListSnapshots]
    found = incident_in(decisions)
    assert (found.rank, found.failure, found.others) == (1, SEGFAULT, ())
    assert story.launch(memory=10).round == 1
    assert story.state.live == {0, 1, 2}


def test_the_first_failure_of_a_group_is_the_one_that_is_judged() -> None:
    """What follows it, such as a NCCL error or our own SIGKILL, is its echo."""
    story = running(ranks=2)
    story.lose(SEGFAULT, 10, rank=1)
    story.lose(KILLED, 10, rank=0)
    assert [failed.failure for failed in story.state.history.rounds] == [SEGFAULT]


def test_a_relaunched_round_starts_without_the_failure_of_the_last() -> None:
    story = running(ranks=2)
    story.lose(SEGFAULT, 10, rank=1)
    story.lose(KILLED, 10, rank=0)
    story.launch(memory=10)
    assert story.state.failure is None
    assert story.state.finished == frozenset()


def test_progress_reported_while_the_group_is_cleared_still_counts() -> None:
    story = running(ranks=2)
    story.lose(KILLED, 12, rank=1)
    story.steps(10, rank=0)
    story.lose(KILLED, 11, rank=0)
    assert story.state.history.rounds[-1].step == 11


def test_a_copy_restored_from_the_remote_tier_and_written_to_disk_anew_can_be_restored_from_there() -> None:
    story = Story()
    story.on(RunOpened(False))
    story.on(SnapshotsListed(None, (1, 2), 0, (2,)))
    assert story.on(SnapshotRejected(2, Tier.LOCAL, "damaged"))[-1] == ListSnapshots()
    assert story.on(SnapshotsListed(None, (1,), 1, (2,))) == (RestoreSnapshot(2, Tier.REMOTE),)
    story.on(SnapshotRestored(2, Tier.REMOTE))
    story.lose(CORRUPT, 2)
    assert story.on(SnapshotsListed(None, (1, 2), 1, (2,))) == (RestoreSnapshot(2, Tier.LOCAL),)


def test_a_step_is_done_when_the_slowest_rank_has_done_it() -> None:
    story = running(ranks=2)
    story.steps(10, rank=0)
    story.steps(11, rank=1)
    story.lose(CODE, 10, rank=0)
    story.lose(KILLED, 11, rank=1)
    assert story.state.history.rounds[-1].step == 10


def test_a_worker_lost_while_it_starts_is_handled_like_any_other() -> None:
    story = Story(PolicySettings(ranks=2))
    story.on(RunOpened())
    story.launch()
    assert kinds(story.lose(KILLED, 0, rank=0)) == [KillWorkers]
    assert kinds(story.lose(KILLED, 0, rank=1)) == [RecordIncident, ListSnapshots]


def test_after_failures_without_progress_there_is_a_wait_that_doubles() -> None:
    story = running(step=10, restarts=RestartSettings(first_wait=2.0, crash_loop=9, jitter=0.0))
    story.lose(KILLED, 10)
    story.launch(memory=10)
    assert kinds(story.lose(SEGFAULT, 10)) == [RecordIncident, ListSnapshots]
    story.launch(memory=10)
    assert kinds(story.lose(KILLED, 10)) == [RecordIncident]
    assert story.phase is Phase.WAITING
    assert story.on(Tick(), at=1.9) == ()
    assert story.on(Tick(), at=2.0) == (ListSnapshots(),)
    story.launch(memory=10)
    story.lose(SEGFAULT, 10)
    assert story.state.relaunch_at == 2.0 + 4.0


def test_repeating_steps_is_no_progress() -> None:
    """A bug five steps after the newest snapshot is a crash loop, though every round does five steps."""
    story = running(step=15)
    story.lose(SEGFAULT, 15)
    for _ in range(2):
        story.launch(durable=(10,))
        story.steps(11, 12, 13, 14, 15)
        decisions = story.lose(SEGFAULT, 15)
    assert kinds(decisions) == [RecordIncident, FlushMemory]
    end = ending(story.on(FlushEnded(10)))
    assert end.exit_code is ExitCode.CRASH_LOOP
    assert "SIGSEGV: 3 times in a row after step 15" in end.diagnosis


def test_new_steps_between_equal_failures_are_no_crash_loop() -> None:
    story = running(step=10)
    for step in range(11, 40):
        story.lose(SEGFAULT, step)
        assert story.launch(memory=step).step == step
        story.now += 60.0


def test_a_code_error_before_the_first_step_stops_the_run() -> None:
    story = Story()
    story.on(RunOpened())
    story.launch()
    assert kinds(story.lose(CODE, 0)) == [RecordIncident, FlushMemory]
    end = ending(story.on(FlushEnded()))
    assert end.exit_code is ExitCode.WORKER_ERROR
    assert "TypeError: bad" in end.diagnosis
    assert "No snapshot is durable yet" in end.diagnosis


def test_a_code_error_after_progress_is_retried_once() -> None:
    story = running(step=10)
    story.lose(CODE, 11)
    story.launch(memory=11)
    story.lose(CODE, 11)
    assert ending(story.on(FlushEnded(11))).exit_code is ExitCode.WORKER_ERROR


def test_too_many_failures_in_too_short_a_time_stop_the_run_though_it_progresses() -> None:
    story = running(step=10, restarts=RestartSettings(intensity=3, intensity_seconds=60.0))
    for step in (11, 12, 13):
        story.lose(KILLED, step)
        story.launch(memory=step)
        story.now += 1.0
    assert kinds(story.lose(KILLED, 14)) == [RecordIncident, FlushMemory]
    assert ending(story.on(FlushEnded(14))).exit_code is ExitCode.BUDGET_SPENT


def test_workers_that_cannot_be_started_are_tried_again_and_then_given_up() -> None:
    story = Story(PolicySettings(restarts=RestartSettings(crash_loop=2)))
    story.on(RunOpened())
    story.launch()
    decisions = story.on(LaunchFailed(NO_FORK))
    assert kinds(decisions) == [RecordIncident, ListSnapshots]
    assert story.state.live == frozenset()
    assert story.launch().round == 1
    assert kinds(story.on(LaunchFailed(NO_FORK))) == [RecordIncident, FlushMemory]
    assert ending(story.on(FlushEnded())).exit_code is ExitCode.CRASH_LOOP


def test_an_image_that_the_worker_cannot_load_is_thrown_away_and_the_disk_is_used() -> None:
    story = running(step=57)
    story.lose(KILLED, 57)
    assert story.launch(memory=57).source is Tier.MEMORY
    decisions = story.lose(CORRUPT, 57)
    assert kinds(decisions) == [RecordIncident, DiscardMemory, ListSnapshots]
    assert story.launch(durable=(50,)) == LaunchRound(2, 50, Tier.LOCAL)


def test_an_unloadable_image_and_nothing_on_disk_is_no_fresh_start() -> None:
    story = running(step=57)
    story.lose(KILLED, 57)
    story.launch(memory=57)
    story.lose(CORRUPT, 57)
    assert ending(story.on(SnapshotsListed())).exit_code is ExitCode.NO_SNAPSHOT


def test_a_worker_signalled_alone_is_relaunched_and_charged_to_no_budget() -> None:
    story = running(step=10, restarts=RestartSettings(max_failures=1, intensity=1, crash_loop=1))
    for step in range(11, 31):
        assert kinds(story.lose(ALONE, step)) == [RecordIncident, ListSnapshots]
        story.launch(memory=step)
    assert story.state.history.rounds == ()


def test_a_worker_that_is_signalled_alone_for_ever_without_a_step_between_is_given_up() -> None:
    story = running(step=10, restarts=RestartSettings(max_failures=4, first_wait=0.0))
    for _ in range(4):
        story.lose(ALONE, 10)
        story.launch(memory=10)
    assert kinds(story.lose(ALONE, 10)) == [RecordIncident, FlushMemory]
    assert ending(story.on(FlushEnded(10))).exit_code is ExitCode.BUDGET_SPENT


# --- hangs


WATCHFUL = HangSettings(startup_seconds=100.0, min_seconds=5.0, factor=2.0, phase_seconds=30.0)


def noticed(story: Story) -> Incident:
    """What this round is known to have failed of; it is recorded when the group is gone."""
    assert story.state.failure is not None
    return story.state.failure


def hanging(*, ranks: int = 1) -> Story:
    """A group of which rank 0 has come to step 12 and every other to step 10; the latter are over their limit."""
    story = running(step=10, ranks=ranks, hang=WATCHFUL)
    story.steps(11, 12)
    if ranks > 1:
        story.on(WorkerProgressed(0, 12), at=5.0)
    decisions = story.on(Tick(), at=5.1)
    assert decisions == (DumpStacks(1, tuple(range(ranks)), tuple(range(1, ranks)) or (0,), by=7.1),)
    assert story.phase is Phase.DUMPING
    return story


def test_the_stacks_of_a_silent_group_are_written_before_it_is_killed_and_relaunched() -> None:
    story = running(step=10, ranks=2, hang=WATCHFUL)
    assert story.on(Tick(), at=5.0) == ()
    story = hanging(ranks=2)
    assert story.on(Tick(), at=5.2) == ()
    decisions = story.on(StacksDumped((RankAccount(0, waits=True), RankAccount(1, where="load (train.py:41)"))))
    assert kinds(decisions) == [KillWorkers]
    assert "rank 1 hangs: no progress in phase step, in load (train.py:41)" in kill_in(decisions).reason
    assert story.phase is Phase.CLEARING
    assert story.on(Tick(), at=50.0) == ()
    assert story.lose(KILLED, 12, rank=0) == ()
    decisions = story.lose(KILLED, 10, rank=1)
    assert kinds(decisions) == [RecordIncident, ListSnapshots]
    found = incident_in(decisions)
    assert (found.number, found.rank) == (1, 1)
    assert found.failure == Failure(FailureClass.HANG, "no progress in phase step")
    assert found.failure.where == "load (train.py:41)"
    assert story.state.history.rounds[-1].failure.failure_class is FailureClass.HANG


def test_stacks_that_nobody_writes_are_not_waited_for() -> None:
    story = hanging(ranks=2)
    assert story.on(Tick(), at=9.0) == ()
    assert kinds(story.on(Tick(), at=9.2)) == [KillWorkers]
    assert noticed(story).rank == 1


def test_without_stacks_a_hung_group_is_killed_at_once() -> None:
    story = running(hang=replace(WATCHFUL, stack_seconds=0.0))
    assert kinds(story.on(Tick(), at=5.1)) == [KillWorkers]
    assert story.phase is Phase.CLEARING


def test_a_stopped_rank_is_named_with_the_reason() -> None:
    story = hanging(ranks=3)
    story.on(StacksDumped((RankAccount(1), RankAccount(2, Condition.STOPPED))))
    assert noticed(story).rank == 2
    assert noticed(story).failure.signature == "no progress in phase step: stopped by a signal (SIGSTOP)"


def test_where_no_rank_can_be_named_the_group_is() -> None:
    story = running(step=10, ranks=4, hang=WATCHFUL)
    assert isinstance(story.on(Tick(), at=5.1)[0], DumpStacks)
    decisions = story.on(StacksDumped(tuple(RankAccount(rank, waits=True) for rank in range(4))))
    assert noticed(story).rank is None
    assert kill_in(decisions).reason.startswith("the group of 4 hangs")


def test_a_rank_that_moves_on_while_its_stack_is_written_is_forgiven() -> None:
    story = hanging(ranks=2)
    assert story.on(WorkerProgressed(1, 11), at=6.0) == ()
    decisions = story.on(StacksDumped((RankAccount(0), RankAccount(1))))
    assert kinds(decisions) == [RecordIncident]
    assert "moved on" in incident_in(decisions).remedy
    assert story.phase is Phase.RUNNING
    assert story.state.failure is None
    assert story.on(Tick(), at=6.1) == ()
    assert story.state.incidents == 1, "the stacks that were written are this incident's"
    assert not story.state.history.rounds


def test_a_group_is_not_forgiven_while_one_of_it_stays_silent() -> None:
    story = running(ranks=3, hang=WATCHFUL)
    story.on(Tick(), at=5.1)
    story.on(RanksProgressed((WorkerProgressed(0, 11), WorkerProgressed(1, 11))), at=6.0)
    assert kinds(story.on(StacksDumped())) == [KillWorkers]
    assert noticed(story).rank == 2


def test_a_slow_start_that_ends_while_stacks_are_written_goes_on_as_running() -> None:
    story = Story(PolicySettings(hang=WATCHFUL))
    story.on(RunOpened())
    story.launch()
    story.on(Tick(), at=100.1)
    story.on(WorkerProgressed(0, 1), at=100.2)
    story.on(StacksDumped())
    assert story.phase is Phase.RUNNING


def test_a_rank_that_dies_while_stacks_are_written_is_what_the_others_waited_for() -> None:
    story = hanging(ranks=2)
    assert kinds(story.lose(SEGFAULT, 10, rank=1)) == [KillWorkers]
    assert story.phase is Phase.CLEARING
    decisions = story.lose(KILLED, 12, rank=0)
    assert kinds(decisions) == [RecordIncident, ListSnapshots]
    found = incident_in(decisions)
    assert (found.number, found.rank, found.failure) == (1, 1, SEGFAULT)


def test_who_asks_to_stop_while_stacks_are_written_does_not_wait_for_them() -> None:
    story = hanging(ranks=2)
    assert kinds(story.on(PREEMPT)) == [KillWorkers]
    assert story.phase is Phase.CLEARING
    story.lose(KILLED, 12, rank=0)
    decisions = story.lose(KILLED, 10, rank=1)
    assert kinds(decisions) == [RecordIncident, RecordIncident, FlushMemory]


def test_a_group_that_has_moved_on_is_asked_to_stop_like_any_other() -> None:
    story = hanging(ranks=2)
    story.on(WorkerProgressed(1, 11), at=6.0)
    decisions = story.on(PREEMPT)
    assert kinds(decisions) == [RecordIncident, AskWorkers, RecordIncident]
    assert story.phase is Phase.STOPPING


def test_a_start_that_takes_too_long_is_a_hang() -> None:
    story = Story(PolicySettings(hang=WATCHFUL))
    story.on(RunOpened(), at=50.0)
    story.launch()
    assert story.on(Tick(), at=150.0) == ()
    assert kinds(story.on(Tick(), at=150.1)) == [DumpStacks]
    assert kinds(story.on(StacksDumped((RankAccount(0, Condition.MISSING),)))) == [KillWorkers]
    assert "not there yet" in noticed(story).failure.signature


def test_a_declared_evaluation_may_take_longer_than_a_step() -> None:
    story = running(hang=WATCHFUL)
    story.on(WorkerProgressed(0, 10, "eval"))
    assert story.on(Tick(), at=30.0) == ()
    assert kinds(story.on(Tick(), at=30.1)) == [DumpStacks]


def test_what_was_learned_outlives_the_round_and_the_supervisor() -> None:
    story = running(step=1, hang=WATCHFUL)
    for number in range(2, 5):
        story.on(WorkerProgressed(0, number), at=20.0 * number)
    story.lose(KILLED, 4)
    story.launch(memory=4)
    story.on(WorkerProgressed(0, 5), at=story.now + 1.0)
    limit = story.state.watches[0].limit(WATCHFUL)
    assert limit >= 40.0

    successor = Story(PolicySettings(hang=WATCHFUL))
    successor.on(RunOpened(durations=story.state.durations))
    successor.launch(memory=5)
    successor.on(WorkerProgressed(0, 6), at=1.0)
    assert successor.state.watches[0].limit(WATCHFUL) == limit


def test_another_machine_learns_from_the_snapshot_what_it_has_not_seen_itself() -> None:
    story = Story(PolicySettings(hang=WATCHFUL))
    story.on(RunOpened(durations={"step": 7.0}))
    story.on(SnapshotsListed(None, (5,)))
    story.on(SnapshotRestored(5, Tier.LOCAL, {"step": 9.0, "eval": 40.0}), at=3.0)
    assert story.state.learned == {"step": 7.0, "eval": 40.0, "restore from local": 3.0}


def test_a_restore_that_is_never_answered_is_ended_and_tried_again() -> None:
    story = Story(PolicySettings(hang=WATCHFUL))
    story.on(RunOpened())
    for attempt in range(2):
        story.on(SnapshotsListed(None, (5,)))
        assert story.on(Tick(), at=story.now + 30.0) == ()
        decisions = story.on(Tick(), at=story.now + 0.1)
        assert decisions == (AbandonRestore(5, Tier.LOCAL), ListSnapshots()), attempt
    story.on(SnapshotsListed(None, (5,)))
    end = ending(story.on(Tick(), at=story.now + 30.1)[1:])
    assert end.exit_code is ExitCode.NO_SNAPSHOT
    assert "no answer" in end.diagnosis


def test_how_long_a_restore_may_take_is_learned() -> None:
    story = Story(PolicySettings(hang=WATCHFUL))
    story.on(RunOpened(durations={"restore from local": 40.0}))
    story.on(SnapshotsListed(None, (5,)))
    assert story.on(Tick(), at=80.0) == ()
    assert story.on(Tick(), at=80.1) == (AbandonRestore(5, Tier.LOCAL), ListSnapshots())


def test_a_rank_that_has_left_cannot_hang() -> None:
    story = running(ranks=2, hang=WATCHFUL)
    story.on(WorkerExited(0, 10, finished=True))
    story.on(WorkerProgressed(1, 11), at=90.0)
    assert story.on(Tick(), at=91.0) == ()


def test_hanging_at_the_same_step_again_and_again_stops_the_run() -> None:
    story = running(hang=WATCHFUL, step=10)
    for round_number in range(3):
        story.on(Tick(), at=story.now + 1000.0)
        story.on(StacksDumped((RankAccount(0, where=f"train (train.py:{round_number})"),)))
        decisions = story.lose(KILLED, 10)
        if round_number < 2:
            if story.phase is Phase.WAITING:
                story.on(Tick(), at=story.now + 100.0)
            story.launch(memory=10)
            story.steps(10)
    assert kinds(decisions) == [RecordIncident, FlushMemory]
    end = ending(story.on(FlushEnded(10)))
    assert end.exit_code is ExitCode.HUNG
    assert "train (train.py:2)" in end.diagnosis


# --- stragglers


def test_a_straggler_is_reported_once_in_a_round_and_changes_nothing_else() -> None:
    story = running(ranks=2, stragglers=StragglerSettings(steps=5))

    def said(step: int) -> tuple[Decision, ...]:
        return story.on(OwnTimesSeen({0: OwnTime(step, 0.0, 0.1), 1: OwnTime(step, 0.3, 0.1)}))

    decisions = [decision for step in range(20) for decision in said(step)]
    assert [type(decision) for decision in decisions] == [ReportStraggler]
    assert isinstance(decisions[0], ReportStraggler)
    assert (decisions[0].straggler.rank, decisions[0].straggler.step) == (1, 5)
    assert story.phase is Phase.RUNNING
    story.lose(KILLED, 10)
    story.lose(KILLED, 10, rank=1)
    story.launch(memory=10)
    story.steps(11)
    assert [type(decision) for step in range(20) for decision in said(step)] == [ReportStraggler]


# --- stopping


def test_a_preempted_run_is_asked_saves_and_asks_for_a_requeue() -> None:
    story = running(step=10)
    decisions = story.on(PREEMPT)
    assert decisions[0] == AskWorkers(StopKind.PREEMPTION, gone_by=story.now + 12.0, flush_by=story.now + 19.0)
    assert story.phase is Phase.STOPPING
    story.steps(11)
    assert story.on(WorkerExited(0, 11)) == (FlushMemory(by=19.0),)
    end = ending(story.on(FlushEnded(11)))
    assert end.exit_code is ExitCode.REQUEUE
    assert "Preempted at step 11" in end.diagnosis
    assert "Durable up to step 11" in end.diagnosis


def test_a_preemption_is_an_incident_but_charged_to_no_budget() -> None:
    story = running(step=10, restarts=RestartSettings(max_failures=1, intensity=1, crash_loop=1))
    decisions = story.on(PREEMPT)
    assert incident_in(decisions).failure.failure_class is FailureClass.PREEMPTION
    story.lose(KILLED, 10)
    assert story.state.history.rounds == ()
    assert ending(story.on(FlushEnded(10))).exit_code is ExitCode.REQUEUE


def test_a_request_to_stop_is_no_incident_and_ends_with_its_own_code() -> None:
    story = running(step=10)
    assert story.on(STOP) == (AskWorkers(StopKind.REQUEST, story.now + 12.0, story.now + 19.0),)
    story.on(WorkerExited(0, 10))
    assert ending(story.on(FlushEnded(10))).exit_code is ExitCode.TERMINATED
    assert story.state.incidents == 0


def test_escalation_asks_then_signals_then_kills_each_at_its_time() -> None:
    story = running(stop=StopSettings(ask_fraction=0.5, term_fraction=0.75))
    story.on(STOP, at=100.0)
    assert story.on(Tick(), at=110.0) == ()
    assert story.on(Tick(), at=110.1) == (SignalWorkers(),)
    assert story.on(Tick(), at=115.0) == ()
    assert kinds(story.on(Tick(), at=115.1)) == [KillWorkers]
    assert story.on(Tick(), at=116.9) == ()


def test_escalation_skips_no_stage_when_time_jumps() -> None:
    story = running()
    story.on(STOP)
    assert kinds(story.on(Tick(), at=1000.0)) == [SignalWorkers]
    assert kinds(story.on(Tick(), at=1000.0)) == [KillWorkers]


def test_whoever_asks_twice_is_in_a_hurry() -> None:
    story = running()
    story.on(STOP)
    assert kinds(story.on(STOP)) == [KillWorkers]
    assert story.on(Tick(), at=15.0) == ()
    assert story.lose(KILLED, 10) == (FlushMemory(by=19.0),)


def test_a_group_is_flushed_only_when_the_last_one_has_left() -> None:
    story = running(ranks=2)
    story.on(STOP)
    assert story.on(WorkerExited(0, 11)) == ()
    assert story.on(WorkerExited(1, 11)) == (FlushMemory(by=19.0),)


def test_a_worker_that_fails_while_stopping_does_not_bring_a_relaunch() -> None:
    story = running()
    story.on(PREEMPT)
    assert FlushMemory(by=19.0) in story.lose(SEGFAULT, 10)
    assert ending(story.on(FlushEnded(10))).exit_code is ExitCode.REQUEUE


def test_a_rank_lost_while_stopping_takes_along_those_that_wait_for_it() -> None:
    story = running(ranks=3)
    story.on(PREEMPT)
    (kill,) = story.on(WorkerExited(1, 10, KILLED))
    assert isinstance(kill, KillWorkers)
    assert "rank 1 is lost" in kill.reason
    assert story.on(WorkerExited(0, 10, KILLED)) == (), "they are killed once"
    assert story.on(Tick(), at=15.0) == ()
    assert story.on(WorkerExited(2, 10, KILLED)) == (FlushMemory(by=19.0),)


@pytest.mark.parametrize(
    "failure", [None, Failure(FailureClass.KILLED, "SIGTERM"), Failure(FailureClass.APPLICATION, "exit 3")]
)
def test_a_rank_that_leaves_in_its_own_way_while_stopping_lets_the_others_do_so_too(failure: Failure | None) -> None:
    story = running(ranks=2)
    story.on(PREEMPT)
    assert story.on(WorkerExited(1, 10, failure)) == ()
    assert story.phase is Phase.STOPPING


def test_a_run_that_finishes_while_it_is_asked_to_stop_is_finished() -> None:
    story = running(ranks=2)
    story.on(PREEMPT)
    story.on(WorkerExited(0, 20, finished=True))
    story.on(WorkerExited(1, 20, finished=True))
    assert ending(story.on(FlushEnded(20))).exit_code is ExitCode.FINISHED


def test_a_stop_while_a_lost_group_is_cleared_ends_the_run_instead_of_relaunching() -> None:
    story = running(ranks=2)
    story.lose(SEGFAULT, 10, rank=0)
    assert story.on(PREEMPT) == ()
    assert story.phase is Phase.CLEARING
    failure, preemption, flush = story.lose(KILLED, 10, rank=1)
    assert (incident_in([failure]).number, incident_in([preemption]).number) == (1, 2)
    assert incident_in([preemption]).failure.failure_class is FailureClass.PREEMPTION
    assert flush == FlushMemory(by=19.0)
    assert ending(story.on(FlushEnded(10))).exit_code is ExitCode.REQUEUE


def _new() -> Story:
    return Story()


def _choosing() -> Story:
    story = _new()
    story.on(RunOpened())
    return story


def _restoring() -> Story:
    story = _choosing()
    story.on(SnapshotsListed(None, (50,)))
    return story


def _waiting() -> Story:
    story = running(restarts=RestartSettings(crash_loop=9))
    for failure in (KILLED, SEGFAULT, KILLED):
        story.lose(failure, 10)
        if story.phase is Phase.CHOOSING:
            story.launch(memory=10)
    return story


@pytest.mark.parametrize(
    ("story", "phase"),
    [
        (_new(), Phase.NEW),
        (_choosing(), Phase.CHOOSING),
        (_restoring(), Phase.RESTORING),
        (_waiting(), Phase.WAITING),
    ],
    ids=lambda value: value.value if isinstance(value, Phase) else "",
)
def test_a_stop_while_nothing_runs_flushes_at_once(story: Story, phase: Phase) -> None:
    assert story.phase is phase
    assert story.on(PREEMPT)[-1] == FlushMemory(by=story.now + 19.0)
    assert ending(story.on(FlushEnded(10))).exit_code is ExitCode.REQUEUE


def test_a_restore_that_ends_after_the_stop_launches_nothing() -> None:
    for late in (SnapshotRestored(50), SnapshotRejected(50, Tier.LOCAL, "truncated"), RestoreFailed(50, "died")):
        story = _restoring()
        story.on(STOP)
        assert story.on(late) == ()
        assert story.phase is Phase.FLUSHING


# --- the end


def test_a_finished_run_is_flushed_and_ends() -> None:
    story = running(ranks=2)
    assert story.on(WorkerExited(0, 20, finished=True)) == ()
    assert story.on(WorkerExited(1, 20, finished=True)) == (FlushMemory(),)
    end = ending(story.on(FlushEnded(20)))
    assert end == EndRun(ExitCode.FINISHED, "Finished at step 20. Durable up to step 20.")
    assert story.state.ending == end


def test_a_run_may_finish_without_a_step_to_do() -> None:
    story = _choosing()
    story.launch(memory=20)
    assert story.on(WorkerExited(0, 20, finished=True)) == (FlushMemory(),)


def test_one_rank_that_finishes_does_not_finish_the_run() -> None:
    story = running(ranks=2)
    story.on(WorkerExited(0, 20, finished=True))
    assert kinds(story.lose(KILLED, 19, rank=1)) == [RecordIncident, ListSnapshots]
    story.launch(memory=19)
    assert story.state.finished == frozenset()
    story.on(WorkerExited(1, 20, finished=True))
    assert story.phase is Phase.STARTING


@pytest.mark.parametrize("promise", ["finished", "preempted", "stopped"])
def test_an_end_whose_last_state_is_not_durable_says_disk_full(promise: str) -> None:
    story = running(step=20)
    if promise != "finished":
        story.on(PREEMPT if promise == "preempted" else STOP)
    story.on(WorkerExited(0, 20, finished=promise == "finished"))
    end = ending(story.on(FlushEnded(10, "the disk is full")))
    assert end.exit_code is ExitCode.DISK_FULL
    for words in ("Durable up to step 10", "NOT durable", "the disk is full"):
        assert words in end.diagnosis


def test_a_flush_problem_does_not_hide_why_the_run_stopped() -> None:
    story = _choosing()
    story.launch()
    story.lose(CODE, 0)
    assert ending(story.on(FlushEnded(None, "the disk is full"))).exit_code is ExitCode.WORKER_ERROR


def test_nothing_moves_a_run_that_has_ended() -> None:
    story = running()
    story.on(WorkerExited(0, 20, finished=True))
    story.on(FlushEnded(20))
    before = story.state
    assert story.on(STOP) == ()
    assert story.on(Tick(), at=1e6) == ()
    assert story.state == before


# --- the table


@pytest.mark.parametrize(
    ("story", "event"),
    [
        (_new(), SnapshotsListed()),
        (_choosing(), SnapshotRestored(1)),
        (_choosing(), RunOpened()),
        (_restoring(), WorkerExited(0, 1)),
        (running(), LaunchFailed(NO_FORK)),
        (running(), FlushEnded()),
        (_waiting(), WorkerProgressed(0, 1)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_event_that_the_table_does_not_foresee_is_a_bug(story: Story, event: Event) -> None:
    with pytest.raises(UnlistedTransition, match=rf"{type(event).__name__} in phase {story.phase.value}"):
        story.on(event)


def test_a_rule_that_leads_where_its_row_does_not_list_is_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    row = TABLE[Phase.NEW][RunOpened]
    monkeypatch.setitem(TABLE[Phase.NEW], RunOpened, Row(row.rule, frozenset({Phase.ENDED})))
    with pytest.raises(UnlistedTransition, match="new → choosing is not listed"):
        _new().on(RunOpened())


def test_every_phase_has_a_row_for_a_stop_and_for_time() -> None:
    assert set(TABLE) == set(Phase)
    for phase, rows in TABLE.items():
        assert {StopRequested, Tick} <= set(rows), phase


def test_every_phase_can_be_reached_from_the_first_and_every_one_but_the_last_can_be_left() -> None:
    leads_to = {
        phase: frozenset[Phase]().union(*(row.targets for row in rows.values())) for phase, rows in TABLE.items()
    }
    reached, frontier = frozenset[Phase](), frozenset({Phase.NEW})
    while frontier:
        reached |= frontier
        frontier = frozenset[Phase]().union(*(leads_to[phase] for phase in frontier)) - reached
    assert reached == set(Phase)
    assert leads_to[Phase.ENDED] == {Phase.ENDED}
    assert all(targets - {phase} for phase, targets in leads_to.items() if phase is not Phase.ENDED)


# --- purity


def test_the_same_input_gives_the_same_output_and_is_left_as_it_was() -> None:
    story = running(ranks=2)
    events = (Tick(), STOP, WorkerProgressed(0, 11, "eval"), WorkerExited(1, 10, SEGFAULT), WorkerExited(0, 9))
    for event in events:
        state, untouched = story.state, copy.deepcopy(story.state)
        first = decide(state, event, 1e6)
        assert decide(state, event, 1e6) == first
        assert decide(untouched, event, 1e6) == first
        assert state == untouched


# --- settings


@pytest.mark.parametrize(("ask", "term"), [(-0.1, 0.5), (0.6, 0.5), (0.5, 1.1)])
def test_stages_of_a_stop_out_of_order_are_refused(ask: float, term: float) -> None:
    with pytest.raises(ConfigurationError, match=r"stop\.ask_fraction"):
        StopSettings(ask_fraction=ask, term_fraction=term)


def test_a_stop_without_grace_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"stop\.grace_seconds"):
        StopSettings(grace_seconds=0)


# --- asked to stop twice

PERSON = StopRequested(StopKind.REQUEST, grace=20.0, patient=True)


def flush_in(decisions: Sequence[Decision]) -> FlushMemory:
    (found,) = [decision for decision in decisions if isinstance(decision, FlushMemory)]
    return found


def test_a_preemption_after_a_patient_stop_sets_its_deadline() -> None:
    story = running()
    story.on(PERSON, at=100.0)
    story.on(PREEMPT, at=110.0)
    decisions = story.on(WorkerExited(0, 11), at=111.0)
    assert flush_in(decisions).by == 110.0 + 0.95 * 20.0
    assert story.state.ending is not None
    assert story.state.ending.exit_code is ExitCode.TERMINATED


def test_a_person_who_asks_twice_kills_the_workers_and_still_waits_for_the_disk() -> None:
    story = running()
    story.on(PERSON, at=100.0)
    assert kinds(story.on(PERSON, at=101.0)) == [KillWorkers]
    assert flush_in(story.on(WorkerExited(0, 11, KILLED), at=102.0)).by is None


@pytest.mark.parametrize("clearing", [False, True])
def test_asking_again_never_moves_the_end_away(clearing: bool) -> None:
    story = running(ranks=2 if clearing else 1)
    if clearing:
        story.lose(KILLED, 10, rank=1)
    story.on(PREEMPT, at=100.0)
    story.on(PREEMPT, at=115.0)
    rank = min(story.state.live)
    assert flush_in(story.on(WorkerExited(rank, 11, KILLED), at=116.0)).by == 100.0 + 0.95 * 20.0
