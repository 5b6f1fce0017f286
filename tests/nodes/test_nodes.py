"""Two nodes, each with a supervisor of its own: whatever happens to one of them, both go on from one step."""

from __future__ import annotations

import signal

from resilient.errors import ExitCode
from tests.nodes.several import Nodes
from tests.run.harness import RunCase, Workspace

_SLOW = "train.step_seconds=0.05"  # there is time to do something to it


def test_two_nodes_train_as_one_does(workspace: Workspace, one_node: RunCase) -> None:
    nodes = Nodes(workspace, "clean").start()
    assert nodes.wait() == [0, 0], nodes.output()
    nodes.assert_equal_to(one_node)
    assert nodes.sources() == [None]


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
    assert nodes.start().wait() == [0, 0], nodes.output()
    assert nodes.sources() == [None, "local", "local"], nodes.output()
    nodes.assert_equal_to(one_node)
