"""Two nodes, each with a supervisor of its own: whatever happens to one of them, both go on from one step."""

from __future__ import annotations

import signal

from resilient.errors import ExitCode
from resilient.snapshot import catalog
from tests.nodes.several import Nodes
from tests.run.harness import RunCase, Workspace

_SLOW = "train.step_seconds=0.05"  # there is time to do something to it


def test_two_nodes_train_as_one_does(workspace: Workspace, one_node: RunCase) -> None:
    nodes = Nodes(workspace, "clean").start()
    assert nodes.wait() == [0, 0], nodes.output()
    nodes.assert_equal_to(one_node)
    assert nodes.sources() == [None]
    first, second = catalog.verify(nodes.paths.snapshot(60)).files
    assert (first.base, second.base) == (None, 0), "what both have alike is stored once"


def test_a_rank_is_killed_on_either_node(workspace: Workspace, one_node: RunCase) -> None:
    nodes = Nodes(workspace, "killed", [_SLOW]).start()
    for step, rank in ((9, 1), (22, 0), (37, 1)):
        nodes.wait_for_step(step)
        nodes.kill_rank(rank)
    assert nodes.wait() == [0, 0], nodes.output()
    assert nodes.sources() == [None, "memory", "memory", "memory"], nodes.output()
    assert nodes.classes() == ["killed"] * 3
    nodes.assert_equal_to(one_node)


def test_a_supervisor_is_killed_and_started_again(workspace: Workspace, one_node: RunCase) -> None:
    nodes = Nodes(workspace, "supervisor", [_SLOW]).start()
    nodes.wait_for_step(12).kill_supervisor("n2")
    nodes.start("n2").wait_for_step(30)
    nodes.kill_supervisor("n1")
    nodes.start("n1")
    assert nodes.wait() == [0, 0], nodes.output()
    assert nodes.sources() == [None, "memory", "memory"], nodes.output()
    nodes.assert_equal_to(one_node)


def test_all_of_a_node_is_killed(workspace: Workspace, one_node: RunCase) -> None:
    nodes = Nodes(workspace, "node", [_SLOW]).start()
    nodes.wait_for_step(12).kill_node("n1")
    nodes.start("n1").wait_for_step(30)
    nodes.kill_node("n2")
    nodes.start("n2")
    assert nodes.wait() == [0, 0], nodes.output()
    nodes.assert_equal_to(one_node)


def test_preempted_on_one_node_or_both_and_started_again(workspace: Workspace, one_node: RunCase) -> None:
    nodes = Nodes(workspace, "preempted", [_SLOW]).start().wait_for_step(15)
    nodes.processes["n2"].send_signal(signal.SIGTERM)
    assert nodes.wait() == [ExitCode.REQUEUE] * 2, nodes.output()
    nodes.start().wait_for_step(35)
    for name in nodes.names:
        for process in nodes.everything_of(name):
            process.send_signal(signal.SIGTERM)
    assert nodes.wait() == [ExitCode.REQUEUE] * 2, nodes.output()
    assert "a second time" not in nodes.output(), "who tells both nodes is in no hurry"
    assert nodes.start().wait() == [0, 0], nodes.output()
    assert nodes.sources() == [None, "local", "local"], nodes.output()
    nodes.assert_equal_to(one_node)


def test_a_node_that_does_not_come_back_is_replaced_by_a_spare(workspace: Workspace, one_node: RunCase) -> None:
    nodes = Nodes(workspace, "spare", [_SLOW, "nodes=2:3"], names=("n1", "n2", "n3")).start().wait_for_step(25)
    lost = next(name for name in nodes.names if any(entry.rank == 1 for entry in nodes.entries_of(name)))
    nodes.kill_node(lost)
    left = [name for name in nodes.names if name != lost]
    assert nodes.wait(*left) == [0, 0], nodes.output()
    assert "node lost" in nodes.classes(), nodes.output()
    nodes.assert_equal_to(one_node)
    nodes.switch_off(lost)


def test_the_leader_s_node_does_not_come_back_and_a_spare_takes_its_place(
    workspace: Workspace, one_node: RunCase
) -> None:
    nodes = Nodes(workspace, "heir", [_SLOW, "nodes=2:3"], names=("n1", "n2", "n3")).start().wait_for_step(25)
    leader = nodes.leader()
    (spare,) = [name for name in nodes.names if not nodes.entries_of(name)]
    nodes.kill_node(leader)
    left = [name for name in nodes.names if name != leader]
    assert nodes.wait(*left) == [0, 0], nodes.output()
    assert nodes.leader() == spare, "who has something in memory keeps its ranks"
    nodes.assert_equal_to(one_node)
    nodes.switch_off(leader)


def test_with_too_few_nodes_the_run_asks_for_a_requeue_and_goes_on_then(
    workspace: Workspace, one_node: RunCase
) -> None:
    nodes = Nodes(workspace, "few", [_SLOW, "group.wait_seconds=4"]).start().wait_for_step(15)
    lost = next(name for name in nodes.names if name != nodes.leader())
    nodes.kill_node(lost)
    done = [max(entry.metrics.step for entry in nodes.entries() if entry.rank == rank) for rank in range(2)]
    left = nodes.leader()
    assert nodes.wait(left) == [ExitCode.REQUEUE], nodes.output()
    assert "waiting for more nodes: 1 of 2 are there" in nodes.output()
    assert nodes.start().wait() == [0, 0], nodes.output()
    resumed = nodes.noted("LaunchRound")[-1]
    assert resumed["source"] in ("memory", "peer"), nodes.output()
    assert resumed["step"] >= min(done) - 1, "what is whole in the memory of both is nothing that may be given up"
    nodes.assert_equal_to(one_node)


def test_without_a_lost_node_the_run_goes_on_smaller_until_it_is_there_again(workspace: Workspace) -> None:
    settings = [_SLOW, "group.wait_seconds=2", "group.least=1", "group.grow_seconds=1", "train.steps=120"]
    nodes = Nodes(workspace, "smaller", settings).start().wait_for_step(15)
    lost = next(name for name in nodes.names if name != nodes.leader())
    nodes.kill_node(lost)
    nodes.switch_off(lost)
    nodes.wait_for_round(1)
    nodes.start(lost)
    assert nodes.wait() == [0, 0], nodes.output()
    _, smaller, grown = nodes.noted("LaunchRound")
    assert smaller["source"] == "local", "what all had in memory is lost with the node"
    assert (grown["source"], nodes.noted("RegroupWorkers")) == ("local", [{"nodes": [nodes.leader(), lost]}])
    alone = [entry.metrics.step for entry in nodes.entries() if entry.round == 1]
    assert grown["step"] == max(alone) < 120, "no step is done twice"
    assert nodes.classes() == ["node lost", "node lost"], "the round ended without a failure"
    for rank in (0, 1):
        assert max(nodes.losses(rank)) == 120
