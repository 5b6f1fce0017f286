"""Two supervisors, one of which is lost with its memory: the run goes on from what its partner remembers."""

from __future__ import annotations

import shutil

import pytest

from resilient.errors import ExitCode
from resilient.protocol.paths import NODE
from resilient.snapshot import catalog
from resilient.supervisor.memory import RunMemory
from tests.nodes.several import Nodes
from tests.run.harness import RunCase, Workspace

_SLOW = ("train.step_seconds=0.05", "snapshot.every_steps=1000", "peer.every_steps=5")
"""Nothing is durable before the end."""


def lose_memory(nodes: Nodes, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a machine without power forgets."""
    with monkeypatch.context() as patched:
        patched.setenv(NODE, name)
        shutil.rmtree(RunMemory.place(nodes.paths, ""))


def replicated(nodes: Nodes) -> list[int]:
    return [body["step"] for body in nodes.noted("Replicated")]


def test_a_member_or_the_leader_is_lost_with_its_memory(
    workspace: Workspace, one_node: RunCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = Nodes(workspace, "lost", _SLOW).start()
    nodes.wait_for_step(20).kill_node("n2")
    lose_memory(nodes, "n2", monkeypatch)
    nodes.start("n2").wait_for_step(40)
    nodes.kill_node("n1")
    lose_memory(nodes, "n1", monkeypatch)
    nodes.start("n1")
    assert nodes.wait() == [0, 0], nodes.output()
    assert nodes.sources() == [None, "peer", "peer"], nodes.output()
    assert replicated(nodes)
    nodes.assert_equal_to(one_node)


def test_what_a_lost_node_had_becomes_durable_from_its_copies_when_nobody_takes_its_place(
    workspace: Workspace, one_node: RunCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = Nodes(workspace, "short", [*_SLOW, "group.wait_seconds=1"]).start()
    nodes.wait_for_step(20).kill_node("n2")
    lose_memory(nodes, "n2", monkeypatch)
    assert nodes.wait("n1") == [ExitCode.REQUEUE], nodes.output()
    steps = catalog.committed_steps(nodes.paths.snapshots)
    assert max(steps, default=0) > 0, nodes.output()
    assert nodes.start().wait() == [0, 0], nodes.output()
    assert nodes.sources() == [None, "local"], nodes.output()
    nodes.assert_equal_to(one_node)
