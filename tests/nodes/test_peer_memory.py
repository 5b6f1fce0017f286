"""Two supervisors, one of which is lost with its memory: the run goes on from what its partner remembers."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from resilient.errors import ExitCode
from resilient.nodes.replica_files import ReplicaFiles
from resilient.protocol.paths import NODE
from resilient.snapshot import catalog
from resilient.supervisor.memory import RunMemory
from tests.nodes.several import TIMEOUT, Nodes
from tests.run.harness import RunCase, Workspace

_SLOW = ("train.step_seconds=0.1", "snapshot.every_steps=1000", "peer.every_steps=5")
"""Nothing is durable before the end."""


def place(nodes: Nodes, name: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a node has its memory."""
    with monkeypatch.context() as patched:
        patched.setenv(NODE, name)
        return RunMemory.place(nodes.paths, "")


def lose(nodes: Nodes, name: str, monkeypatch: pytest.MonkeyPatch, *, after: int) -> None:
    """End a node, and forget what a machine without power forgets, when its partner has a set of a later step."""
    (partner,) = set(nodes.names) - {name}
    files, deadline = ReplicaFiles(place(nodes, partner, monkeypatch)), time.monotonic() + TIMEOUT
    while (settled := files.settled()) is None or settled.step <= after:
        assert time.monotonic() < deadline, nodes.output()
        time.sleep(0.01)
    nodes.kill_node(name)
    shutil.rmtree(place(nodes, name, monkeypatch))


def test_a_member_or_the_leader_is_lost_with_its_memory(
    workspace: Workspace, one_node: RunCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = Nodes(workspace, "lost", _SLOW).start()
    nodes.wait_for_step(12)
    lose(nodes, "n2", monkeypatch, after=0)
    nodes.start("n2").wait_for_step(30)
    lose(nodes, "n1", monkeypatch, after=25)
    nodes.start("n1")
    assert nodes.wait() == [0, 0], nodes.output()
    assert nodes.sources() == [None, "peer", "peer"], nodes.output()
    nodes.assert_equal_to(one_node)


def test_what_a_lost_node_had_becomes_durable_from_its_copies_when_nobody_takes_its_place(
    workspace: Workspace, one_node: RunCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = Nodes(workspace, "short", [*_SLOW, "group.wait_seconds=1"]).start()
    lose(nodes, "n2", monkeypatch, after=0)
    assert nodes.wait("n1") == [ExitCode.REQUEUE], nodes.output()
    steps = catalog.committed_steps(nodes.paths.snapshots)
    assert max(steps, default=0) > 0, nodes.output()
    assert nodes.start().wait() == [0, 0], nodes.output()
    assert nodes.sources() == [None, "local"], nodes.output()
    nodes.assert_equal_to(one_node)
