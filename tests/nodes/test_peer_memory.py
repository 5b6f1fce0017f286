"""Two supervisors, one of which is lost with its memory: the run goes on from what its partner remembers."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable

from resilient.errors import ExitCode
from resilient.nodes.replica_files import ReplicaFiles
from resilient.snapshot import catalog
from tests.nodes.several import TIMEOUT, Nodes
from tests.run.harness import RunCase, Workspace

_SLOW = ("train.step_seconds=0.1", "snapshot.every_steps=1000", "peer.every_steps=5")
"""Nothing is durable before the end."""


def lose(nodes: Nodes, name: str, *, after: int) -> None:
    """End a node, and forget what a machine without power forgets, when its partner has a set of a later step."""
    (partner,) = set(nodes.names) - {name}
    files, deadline = ReplicaFiles(nodes.memory_of(partner)), time.monotonic() + TIMEOUT
    while (settled := files.settled()) is None or settled.step <= after:
        assert time.monotonic() < deadline, nodes.output()
        time.sleep(0.01)
    nodes.kill_node(name)
    shutil.rmtree(nodes.memory_of(name))


def test_a_member_or_the_leader_is_lost_with_its_memory(workspace: Workspace, one_node: RunCase) -> None:
    nodes = Nodes(workspace, "lost", _SLOW).start()
    nodes.wait_for_step(12)
    lose(nodes, "n2", after=0)
    nodes.start("n2").wait_for_step(30)
    lose(nodes, "n1", after=25)
    nodes.start("n1")
    assert nodes.wait() == [0, 0], nodes.output()
    assert nodes.sources() == [None, "peer", "peer"], nodes.output()
    nodes.assert_equal_to(one_node)


def end_the_term(nodes: Nodes, end: Callable[[str], None]) -> tuple[str, int]:
    """End the leader, or its node, until another one leads; who it was, and the last step that all ranks have done."""
    leader, claims = nodes.leader(), list(nodes.paths.terms.glob("*.json"))
    end(leader)
    deadline = time.monotonic() + TIMEOUT
    while list(nodes.paths.terms.glob("*.json")) == claims:
        assert time.monotonic() < deadline, nodes.output()
        time.sleep(0.05)
    assert nodes.leader() != leader
    done = [max(entry.metrics.step for entry in nodes.entries() if entry.rank == rank) for rank in range(nodes.world)]
    return leader, min(done)


def test_another_node_takes_the_lead_and_no_step_is_lost_that_was_whole(
    workspace: Workspace, one_node: RunCase
) -> None:
    settings = ("train.step_seconds=0.1", "snapshot.every_steps=1000", "peer.every_steps=1000")
    nodes = Nodes(workspace, "heirs", settings).start().wait_for_step(12)
    expected = []
    for end in (nodes.kill_node, nodes.kill_supervisor):
        leader, whole = end_the_term(nodes, end)
        expected.append(whole - 1)  # the image of the last one may not be complete yet
        nodes.start(leader).wait_for_step(whole + 10)
    assert nodes.wait() == [0, 0], nodes.output()
    assert nodes.sources() == [None, "peer", "peer"], nodes.output()
    resumed = [launch["step"] for launch in nodes.noted("LaunchRound")[1:]]
    assert all(step >= least for step, least in zip(resumed, expected, strict=True)), f"{resumed}\n{nodes.output()}"
    nodes.assert_equal_to(one_node)


def durable(nodes: Nodes) -> int:
    """The newest step that is on disk; there is one."""
    steps = catalog.committed_steps(nodes.paths.snapshots)
    assert steps, nodes.output()
    return max(steps)


def test_what_a_lost_node_had_becomes_durable_from_its_copies_when_nobody_takes_its_place(
    workspace: Workspace, one_node: RunCase
) -> None:
    nodes = Nodes(workspace, "short", [*_SLOW, "group.wait_seconds=1"]).start().wait_for_step(1)
    leader = nodes.leader()
    (member,) = set(nodes.names) - {leader}
    lose(nodes, leader, after=0)  # the other leads then, and has never had a set made
    assert nodes.wait(member) == [ExitCode.REQUEUE], nodes.output()
    first = durable(nodes)
    nodes.switch_off(member)  # it is started again on other machines
    nodes.start().wait_for_step(first + 1)
    leader = nodes.leader()
    (member,) = set(nodes.names) - {leader}
    lose(nodes, member, after=first)
    assert nodes.wait(leader) == [ExitCode.REQUEUE], nodes.output()
    assert durable(nodes) > first, nodes.output()
    nodes.switch_off(leader)
    assert nodes.start().wait() == [0, 0], nodes.output()
    assert nodes.sources() == [None, "local", "local"], nodes.output()
    nodes.assert_equal_to(one_node)


def test_a_group_that_shrinks_goes_on_from_the_copies_of_what_is_lost(workspace: Workspace) -> None:
    nodes = Nodes(workspace, "shrinks", [*_SLOW, "group.wait_seconds=1", "group.least=1"]).start().wait_for_step(1)
    leader = nodes.leader()
    (member,) = set(nodes.names) - {leader}
    lose(nodes, member, after=0)
    assert nodes.wait(leader) == [0], nodes.output()
    first, second = nodes.noted("LaunchRound")
    assert (first["source"], second["source"]) == (None, "local"), nodes.output()
    assert second["step"] > 0
