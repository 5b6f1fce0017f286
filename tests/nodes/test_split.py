"""Two halves of a run that cannot reach each other, or one that stood still: only one of them ever goes on."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest

from resilient.errors import ExitCode
from resilient.snapshot import catalog
from tests.nodes.network import Cable, cable, why_not
from tests.nodes.several import Nodes
from tests.run.harness import RunCase, Workspace

_SLOW = "train.step_seconds=0.05"


@pytest.fixture
def between() -> Iterator[Cable]:
    if reason := why_not():
        pytest.skip(reason)
    with cable() as made:
        yield made


def connected(workspace: Workspace, run_id: str, between: Cable, *settings: str) -> Nodes:
    names = ("n1", "n2")
    return Nodes(
        workspace,
        run_id,
        [_SLOW, *settings],
        prefix={name: between.prefix(end) for end, name in enumerate(names)},
        own={name: [f"group.address={between.addresses[end]}"] for end, name in enumerate(names)},
    )


def terms_of(nodes: Nodes) -> dict[int, int]:
    """The term of each snapshot that there is, by step."""
    paths = nodes.paths.snapshots
    return {step: catalog.read_manifest(nodes.paths.snapshot(step)).term for step in catalog.committed_steps(paths)}


def wait_until_said(nodes: Nodes, words: str) -> None:
    deadline = time.monotonic() + 120
    while words not in nodes.output():
        assert time.monotonic() < deadline, nodes.output()
        time.sleep(0.05)


def test_with_the_cable_cut_only_the_leader_s_half_goes_on(workspace: Workspace, between: Cable) -> None:
    nodes = connected(workspace, "cut", between, "group.least=1", "group.wait_seconds=2", "train.steps=80").start()
    nodes.wait_for_step(15)
    leader = nodes.leader()
    other = next(name for name in nodes.names if name != leader)
    between.cut()
    assert nodes.wait(leader) == [0], nodes.output()
    assert f"node {other} is lost: nothing was heard of it" in nodes.output()
    assert nodes.leader() == leader, "while it shows signs of life in the directory, nobody else takes the lead"
    rounds = nodes.noted("LaunchRound")
    assert len(rounds) == 2, nodes.output()
    assert set(terms_of(nodes).values()) == {1}
    assert nodes.wait(other) == [0], "it finds the run finished"


def test_a_cable_that_is_cut_for_a_while_costs_no_step(workspace: Workspace, between: Cable, one_node: RunCase) -> None:
    nodes = connected(workspace, "mended", between).start().wait_for_step(20)
    between.cut()
    wait_until_said(nodes, "is lost: nothing was heard of it")
    between.mend()
    assert nodes.wait() == [0, 0], nodes.output()
    assert nodes.sources() == [None, "memory"], nodes.output()
    nodes.assert_equal_to(one_node)


def test_a_leader_that_stood_still_finds_itself_replaced_and_commits_nothing(workspace: Workspace) -> None:
    settings = [_SLOW, "group.least=1", "group.wait_seconds=1", "train.steps=120"]
    nodes = Nodes(workspace, "still", settings).start().wait_for_step(15)
    leader = nodes.leader()
    other = next(name for name in nodes.names if name != leader)
    for process in nodes.everything_of(leader):
        process.send_signal(signal.SIGSTOP)
    wait_until_said(nodes, "term 2: this node leads")
    wait_until_said(nodes, "round 1: starting")
    for process in nodes.everything_of(leader):
        process.send_signal(signal.SIGCONT)
    codes = dict(zip(nodes.names, nodes.wait(), strict=True))
    assert codes[other] == 0, nodes.output()
    assert codes[leader] in (0, ExitCode.REQUEUE), nodes.output()
    assert "term 1 is over" in nodes.output()
    began = next(launch["step"] or 0 for launch in nodes.noted("LaunchRound") if launch["round"] == 1)
    for step, term in terms_of(nodes).items():
        assert (term == 1) == (step <= began), f"step {step} of term {term}, while term 2 began at step {began}"
