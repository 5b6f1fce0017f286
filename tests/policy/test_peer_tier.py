"""What other nodes remember, in the life of a run: nearer than the disk, and never the last resort."""

from __future__ import annotations

from resilient.errors import ExitCode
from resilient.policy.decisions import Decision, DiscardMemory, EndRun, LaunchRound, ListSnapshots, RestoreSnapshot
from resilient.policy.events import (
    Event,
    RestoreFailed,
    RunOpened,
    SnapshotRejected,
    SnapshotRestored,
    SnapshotsListed,
    Tick,
    Tier,
    WorkerExited,
    WorkerProgressed,
)
from resilient.policy.failures import Failure, FailureClass
from resilient.policy.machine import decide
from resilient.policy.state import RunState

LISTED = SnapshotsListed(None, (40,), peer_step=50)


class Story:
    def __init__(self) -> None:
        self.state, self.now = RunState(), 0.0
        self.on(RunOpened())

    def on(self, *events: Event) -> tuple[Decision, ...]:
        """The decisions that the last of the events leads to."""
        decisions: tuple[Decision, ...] = ()
        for event in events:
            self.now += 1000.0  # longer than any wait before a relaunch
            self.state, decisions = decide(self.state, event, self.now)
        return decisions


def test_after_the_loss_of_a_node_its_state_comes_from_its_partner() -> None:
    story = Story()
    assert story.on(LISTED) == (RestoreSnapshot(50, Tier.PEER),)
    assert story.on(SnapshotRestored(50, Tier.PEER)) == (LaunchRound(0, 50, Tier.PEER),)


def test_images_that_were_damaged_on_the_way_are_passed_over_for_the_disk() -> None:
    story = Story()
    assert ListSnapshots() in story.on(LISTED, SnapshotRejected(50, Tier.PEER, "checksum mismatch"))
    assert story.on(LISTED) == (RestoreSnapshot(40, Tier.LOCAL),)


def test_partners_that_do_not_answer_are_asked_again_and_then_the_disk_is() -> None:
    story = Story()
    for _ in range(3):
        assert story.on(LISTED) == (RestoreSnapshot(50, Tier.PEER),)
        assert story.on(RestoreFailed(50, "timed out", Tier.PEER)) == (ListSnapshots(),)
    assert story.on(LISTED) == (RestoreSnapshot(40, Tier.LOCAL),)
    for _ in range(2):
        assert story.on(RestoreFailed(40, "no room")) == (ListSnapshots(),), "the disk has all its tries"
        story.on(LISTED)


def test_partners_that_do_not_answer_are_no_reason_to_start_over() -> None:
    story, only = Story(), SnapshotsListed(peer_step=50)
    for _ in range(3):
        story.on(only, RestoreFailed(50, "timed out", Tier.PEER))
    (end,) = story.on(only)
    assert isinstance(end, EndRun)
    assert end.exit_code is ExitCode.NO_SNAPSHOT


def test_an_image_that_no_worker_can_resume_from_is_not_fetched_again_from_its_copy() -> None:
    story = Story()
    story.on(LISTED, SnapshotRestored(50, Tier.PEER))
    bad = Failure(FailureClass.BAD_SNAPSHOT, "SnapshotCorrupt: no such tensor")
    assert DiscardMemory() in story.on(WorkerExited(0, 50, bad))
    assert story.on(Tick(), LISTED) == (RestoreSnapshot(40, Tier.LOCAL),)
    story.on(SnapshotRestored(40), WorkerProgressed(0, 50), WorkerExited(0, 50, Failure(FailureClass.KILLED, "")))
    assert story.on(Tick(), LISTED) == (RestoreSnapshot(50, Tier.PEER),), "it is another copy by now"
