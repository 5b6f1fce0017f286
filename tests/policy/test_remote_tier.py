"""The remote tier in the life of a run: the last resort to resume from, and a promise at the end."""

from __future__ import annotations

import pytest

from resilient.errors import ExitCode
from resilient.policy.decisions import Decision, EndRun, FlushMemory, LaunchRound, ListSnapshots, RestoreSnapshot
from resilient.policy.events import (
    Event,
    FlushEnded,
    RestoreFailed,
    RunOpened,
    SnapshotRejected,
    SnapshotRestored,
    SnapshotsListed,
    StopKind,
    StopRequested,
    Tier,
    WorkerExited,
    WorkerProgressed,
)
from resilient.policy.failures import Failure, FailureClass
from resilient.policy.machine import decide
from resilient.policy.state import RunState

KILLED = Failure(FailureClass.KILLED, "SIGKILL")


class Story:
    def __init__(self) -> None:
        self.state = RunState()
        self.on(RunOpened())

    def on(self, *events: Event) -> tuple[Decision, ...]:
        """The decisions that the last of the events leads to."""
        decisions: tuple[Decision, ...] = ()
        for event in events:
            self.state, decisions = decide(self.state, event, 0.0)
        return decisions


def listed(memory: int | None = None, local: tuple[int, ...] = (), remote: tuple[int, ...] = ()) -> SnapshotsListed:
    return SnapshotsListed(memory, local, 0, remote)


def test_on_a_bare_machine_the_newest_remote_snapshot_is_restored_and_the_launch_says_so() -> None:
    story = Story()
    assert story.on(listed(remote=(10, 20))) == (RestoreSnapshot(20, Tier.REMOTE),)
    assert story.on(SnapshotRestored(20, Tier.REMOTE)) == (LaunchRound(0, 20, Tier.REMOTE),)


def test_a_corrupt_local_snapshot_is_replaced_by_the_remote_copy_of_the_same_step() -> None:
    story = Story()
    story.on(listed(local=(10, 20), remote=(20,)))
    assert ListSnapshots() in story.on(SnapshotRejected(20, Tier.LOCAL, "checksum mismatch"))
    assert story.on(listed(local=(10,), remote=(20,))) == (RestoreSnapshot(20, Tier.REMOTE),)


def test_a_rejected_remote_copy_is_not_tried_again_though_it_could_not_be_marked() -> None:
    story = Story()
    story.on(listed(local=(10,), remote=(20,)), SnapshotRejected(20, Tier.REMOTE, "checksum mismatch"))
    assert story.on(listed(local=(10,), remote=(20,))) == (RestoreSnapshot(10, Tier.LOCAL),)


def test_what_is_taken_again_after_a_rejection_counts_again() -> None:
    story = Story()
    story.on(listed(local=(20,), remote=()), SnapshotRejected(20, Tier.LOCAL, "checksum mismatch"))
    story.on(listed(remote=(10,)), SnapshotRestored(10, Tier.REMOTE))
    story.on(WorkerProgressed(0, 20), WorkerProgressed(0, 21), WorkerExited(0, 21, KILLED))
    assert story.on(listed(local=(20,), remote=(10,))) == (RestoreSnapshot(20, Tier.LOCAL),)


def test_without_knowing_what_lies_there_a_run_with_nothing_else_is_not_started_over() -> None:
    (end,) = Story().on(SnapshotsListed(remote_problem="connection refused"))
    assert isinstance(end, EndRun)
    assert end.exit_code is ExitCode.REMOTE_UNAVAILABLE
    assert "connection refused" in end.diagnosis
    assert "Nothing was started" in end.diagnosis


@pytest.mark.parametrize("near", [{"memory_step": 5}, {"durable_steps": (5,)}])
def test_with_something_nearer_the_run_goes_on_without_knowing(near: dict[str, object]) -> None:
    (decision,) = Story().on(SnapshotsListed(remote_problem="connection refused", **near))  # type: ignore[arg-type]
    assert isinstance(decision, (LaunchRound, RestoreSnapshot))


def test_only_damaged_remote_snapshots_are_no_fresh_run() -> None:
    (end,) = Story().on(SnapshotsListed(quarantined=2))
    assert isinstance(end, EndRun)
    assert end.exit_code is ExitCode.NO_SNAPSHOT


def test_a_remote_snapshot_that_cannot_be_brought_here_ends_the_run_without_blaming_it() -> None:
    story, decisions = Story(), tuple[Decision, ...]()
    for _ in range(3):
        decisions = story.on(listed(remote=(20,)), RestoreFailed(20, "timed out", Tier.REMOTE))
    (end,) = decisions
    assert isinstance(end, EndRun)
    assert end.exit_code is ExitCode.REMOTE_UNAVAILABLE


def finished() -> Story:
    story = Story()
    story.on(listed(), WorkerProgressed(0, 60))
    assert story.on(WorkerExited(0, 60, finished=True)) == (FlushMemory(),)
    return story


def test_a_run_is_not_finished_before_its_last_snapshot_is_in_the_remote_tier() -> None:
    (end,) = finished().on(FlushEnded(60, remote_problem="step 60 could not be uploaded: connection refused"))
    assert isinstance(end, EndRun)
    assert end.exit_code is ExitCode.DISK_FULL
    assert "Durable up to step 60. NOT in the remote tier: step 60 could not be uploaded" in end.diagnosis
    assert "The same command tries again" in end.diagnosis
    assert finished().on(FlushEnded(60)) == (EndRun(ExitCode.FINISHED, "Finished at step 60. Durable up to step 60."),)


def test_a_preempted_run_is_durable_on_this_machine_and_may_be_requeued() -> None:
    story = Story()
    story.on(listed(), WorkerProgressed(0, 60), StopRequested(StopKind.PREEMPTION, 20.0), WorkerExited(0, 61))
    (end,) = story.on(FlushEnded(61, remote_problem="there was no time to upload step 61"))
    assert isinstance(end, EndRun)
    assert end.exit_code is ExitCode.REQUEUE
    assert "no time to upload step 61" in end.diagnosis


def test_what_is_not_even_durable_here_is_said_first() -> None:
    (end,) = finished().on(FlushEnded(50, "the disk is full", remote_problem="no time"))
    assert isinstance(end, EndRun)
    assert end.exit_code is ExitCode.DISK_FULL
    assert "NOT durable: the disk is full" in end.diagnosis
