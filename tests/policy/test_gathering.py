"""Runs of several nodes, told as histories: who is there before a round, and what is done about it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from resilient.errors import ExitCode
from resilient.policy.decisions import (
    FlushMemory,
    FormGroup,
    LaunchRound,
    ListSnapshots,
    RecordIncident,
    RegroupWorkers,
    RestoreSnapshot,
)
from resilient.policy.events import (
    FlushEnded,
    NodesSeen,
    RunOpened,
    SnapshotRestored,
    SnapshotsListed,
    StopRequested,
    Tier,
    WorkerExited,
)
from resilient.policy.failures import Failure, FailureClass
from resilient.policy.nodes import NodeSettings, Shortage
from resilient.policy.restarts import RestartSettings
from resilient.policy.state import Phase, PolicySettings
from tests.policy.test_machine import KILLED, PREEMPT, Story, ending, incident_in, kill_in, kinds

LOST = Failure(FailureClass.NODE_LOST, "node b is lost")
BROKEN_PIPE = Failure(FailureClass.NETWORK, "connection closed by peer")
TWO = NodeSettings(2)
ELASTIC = NodeSettings(2, least=1)


def seen(nodes: str, since: float = 0.0) -> NodesSeen:
    return NodesSeen(tuple(nodes), since)


def gathered(nodes: NodeSettings, names: str = "ab", **settings: object) -> Story:
    """A fresh run of nodes with one rank each, that has come to step 10."""
    story = Story(replace(PolicySettings(ranks=nodes.count, nodes=nodes), **settings))  # type: ignore[arg-type]
    story.on(RunOpened())
    assert kinds(story.on(seen(names))) == [FormGroup]
    story.on(SnapshotsListed(ranks=nodes.count))
    for rank in range(nodes.count):
        story.steps(10, rank=rank)
    return story


def lose_b(story: Story) -> None:
    """The second node is gone, and with it its rank."""
    kill_in(story.lose(LOST, 10, rank=1))
    assert kinds(story.lose(KILLED, 10, rank=0)) == [RecordIncident, ListSnapshots]
    assert story.phase is Phase.CHOOSING


def test_a_round_begins_when_all_nodes_are_there() -> None:
    story = Story(PolicySettings(ranks=2, nodes=TWO))
    assert story.on(RunOpened()) == (ListSnapshots(),)
    assert story.on(seen("a")) == ()
    assert story.on(seen("ab"), at=9.0) == (FormGroup(("a", "b")),)
    assert story.on(SnapshotsListed(None, ranks=2)) == (LaunchRound(0),)
    assert story.state.live == {0, 1}


def test_who_is_lost_between_the_group_and_its_round_is_gathered_anew() -> None:
    story = Story(PolicySettings(ranks=2, nodes=TWO))
    story.on(RunOpened())
    story.on(seen("ab"))
    assert story.on(seen("a")) == ()
    assert story.on(seen("ac")) == (FormGroup(("a", "c")),)


def test_a_lost_node_is_the_root_of_what_the_others_say_of_it() -> None:
    story = gathered(TWO)
    story.lose(BROKEN_PIPE, 10, rank=0)
    incident = incident_in(story.on(WorkerExited(1, 10, LOST), at=5.0))
    assert (incident.failure, incident.rank) == (LOST, 1)


def test_a_lost_node_costs_no_budget_as_long_as_there_is_progress() -> None:
    story = gathered(TWO, restarts=RestartSettings(max_failures=1, crash_loop=1))
    for step in range(11, 16):
        lose_b(story)
        assert story.on(seen("ab", since=story.now)) == (FormGroup(("a", "b")),)
        story.on(SnapshotsListed(10, ranks=2))
        for rank in (0, 1):
            story.steps(step, rank=rank)
    assert story.state.history.rounds == ()


def test_nodes_that_are_lost_again_and_again_without_progress_end_the_run() -> None:
    story = gathered(TWO, restarts=RestartSettings(max_failures=2, crash_loop=1, first_wait=0.0))
    codes = []
    for _ in range(3):
        story.lose(LOST, 10, rank=1)
        story.lose(KILLED, 10, rank=0)
        if story.phase is Phase.FLUSHING:
            codes.append(ending(story.on(FlushEnded(10))).exit_code)
            break
        story.on(seen("ab", since=story.now))
        story.on(SnapshotsListed(10, ranks=2))
    assert codes == [ExitCode.BUDGET_SPENT]


def test_a_run_that_may_shrink_goes_on_with_fewer_and_says_so_once() -> None:
    story = gathered(ELASTIC)
    lose_b(story)
    assert story.on(seen("a"), at=59.0) == ()
    recorded, formed = story.on(seen("a"), at=60.0)
    assert formed == FormGroup(("a",))
    incident = incident_in((recorded,))
    assert incident.failure.failure_class is FailureClass.NODE_LOST
    assert (incident.failure.signature, incident.remedy) == (
        "b did not come back within 60 s",
        "go on with 1 of 2 nodes",
    )
    (restore,) = story.on(SnapshotsListed(None, (10,), ranks=1))
    assert story.on(seen("a", since=60.0)) == (), "nobody gathers now"
    assert restore.tier is Tier.LOCAL  # type: ignore[attr-defined]


def shrunken() -> Story:
    story = gathered(ELASTIC)
    lose_b(story)
    story.on(seen("a"), at=60.0)
    assert story.on(SnapshotsListed(10, ranks=1)) == (LaunchRound(1, 10, Tier.MEMORY),)
    assert story.state.live == {0}
    story.steps(20)
    return story


def test_a_shrunken_group_that_all_finish_is_finished() -> None:
    story = shrunken()
    assert kinds(story.on(WorkerExited(0, 30, finished=True))) == [FlushMemory]
    assert ending(story.on(FlushEnded(30))).exit_code is ExitCode.FINISHED


def test_a_shrunken_group_takes_in_who_has_been_there_for_a_while_and_loses_no_step() -> None:
    story = shrunken()
    assert story.on(seen("ab", since=70.0), at=129.0) == ()
    assert story.on(seen("ab", since=70.0), at=130.0) == (RegroupWorkers(("a", "b")),)
    assert story.on(seen("ab", since=70.0), at=131.0) == (), "once is enough"
    assert story.phase is Phase.RUNNING
    story.steps(21)
    assert story.on(WorkerExited(0, 21)) == (ListSnapshots(),), "nobody has failed"
    assert story.on(seen("ab", since=131.0)) == (FormGroup(("a", "b")),)
    assert kinds(story.on(SnapshotsListed(None, (21,), ranks=2))) == [RestoreSnapshot]
    assert story.on(SnapshotRestored(21)) == (LaunchRound(2, 21, Tier.LOCAL),)
    assert story.state.live == {0, 1}
    story.lose(KILLED, 21)
    assert incident_in(story.lose(KILLED, 21, rank=1)).failure.failure_class is FailureClass.KILLED


def test_a_failure_while_the_workers_leave_is_one_as_ever() -> None:
    story = shrunken()
    story.on(seen("ab", since=70.0), at=130.0)
    assert kinds(story.lose(KILLED, 20)) == [RecordIncident, ListSnapshots]
    assert story.on(seen("ab", since=131.0)) == (FormGroup(("a", "b")),)


def test_a_request_to_stop_while_the_workers_leave_ends_the_run() -> None:
    story = shrunken()
    story.on(seen("ab", since=70.0), at=130.0)
    story.on(PREEMPT)
    assert kinds(story.on(WorkerExited(0, 21))) == [FlushMemory]
    assert ending(story.on(FlushEnded(21))).exit_code is ExitCode.REQUEUE


@pytest.mark.parametrize(
    ("names", "changed"),
    [
        pytest.param("ab", {"nodes": replace(ELASTIC, grow_seconds=math.inf)}, id="not wanted"),
        pytest.param("a", {}, id="nobody else"),
        pytest.param("bc", {}, id="one of the group is about to be lost"),
        pytest.param("ab", {"rolls_back": False}, id="the script could not go on from there"),
    ],
)
def test_a_round_goes_on_where_growing_is_no_gain(names: str, changed: dict[str, Any]) -> None:
    story = shrunken()
    story.state = replace(story.state, settings=replace(story.state.settings, **changed))
    assert story.on(seen(names, since=70.0), at=1e6) == ()


def test_a_full_group_takes_in_nobody() -> None:
    story = gathered(ELASTIC)
    assert story.on(seen("abc", since=0.0), at=1e6) == ()


def test_a_node_that_has_just_come_back_is_in_the_next_round() -> None:
    story = shrunken()
    assert story.on(seen("ab", since=70.0)) == ()
    story.lose(KILLED, 20)
    assert story.on(seen("ab", since=70.0)) == (FormGroup(("a", "b")),)
    story.on(SnapshotsListed(None, (10,), ranks=2))
    assert story.state.ranks == 2


def test_a_shrunken_group_that_fails_for_another_reason_goes_on_at_once_and_without_a_new_incident() -> None:
    story = shrunken()
    story.lose(KILLED, 20)
    assert story.on(seen("a", since=story.now)) == (FormGroup(("a",)),)


def test_too_few_nodes_ask_for_a_requeue_with_what_is_in_memory_made_durable() -> None:
    story = gathered(TWO)
    lose_b(story)
    assert kinds(story.on(seen("a"), at=60.0)) == [RecordIncident, FlushMemory]
    end = ending(story.on(FlushEnded(10)))
    assert end.exit_code is ExitCode.REQUEUE
    assert "1 of 2 nodes are there (a), and the run needs 2" in end.diagnosis
    assert "group.least=1" in end.diagnosis
    assert "all must see" not in end.diagnosis, "they have seen each other"


def test_nodes_that_never_met_may_not_share_a_directory() -> None:
    story = Story(PolicySettings(ranks=2, nodes=TWO))
    story.on(RunOpened())
    assert kinds(story.on(seen("a"), at=TWO.start_seconds)) == [RecordIncident, FlushMemory]
    assert "in the run's directory, which all must see" in ending(story.on(FlushEnded(0))).diagnosis


def test_or_end_the_run_where_nobody_would_requeue_it() -> None:
    story = gathered(replace(TWO, shortage=Shortage.stop))
    lose_b(story)
    story.on(seen("a"), at=60.0)
    assert ending(story.on(FlushEnded(10))).exit_code is ExitCode.NODES_MISSING


def test_who_takes_over_prefers_the_nodes_of_the_last_round_to_a_spare() -> None:
    story = Story(PolicySettings(ranks=2, nodes=NodeSettings(2, spares=1)))
    story.on(RunOpened(takeover=True, group=("lost", "b")))
    assert story.on(seen("cb"), at=1.0) == (), "the lost one may come back"
    assert story.on(seen("cb"), at=5.0) == (FormGroup(("c", "b")),)


def test_a_preemption_while_gathering_ends_it() -> None:
    story = gathered(TWO)
    lose_b(story)
    assert isinstance(PREEMPT, StopRequested)
    assert kinds(story.on(PREEMPT)) == [RecordIncident, FlushMemory]
    assert story.on(seen("a"), at=600.0) == ()


def test_a_lost_node_while_stopping_is_no_reason_to_wait_for_the_others() -> None:
    story = gathered(TWO)
    story.on(PREEMPT)
    kill_in(story.lose(LOST, 10, rank=1))
