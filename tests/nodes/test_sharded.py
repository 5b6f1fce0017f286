"""Two nodes with two ranks each, over which parameters and optimizer state are spread, as FSDP2 does it."""

from __future__ import annotations

import signal

import pytest

from resilient.errors import ExitCode
from resilient.snapshot import catalog
from resilient.snapshot.image import Layout
from tests.nodes.several import Nodes
from tests.run.harness import Workspace

_STEPS = 40
_TRAINING = (f"train.steps={_STEPS}", "train.samples=100", "snapshot.every_steps=1000")


@pytest.mark.timeout(900)  # five starts of four ranks, one after the other, on a machine that may be busy
def test_parts_of_a_model_come_back_from_memory_another_node_s_memory_and_disk(workspace: Workspace) -> None:
    clean = workspace.run("clean", "worker.ranks=4", *_TRAINING, steps=_STEPS, conf="spread", ranks=4)
    assert clean.finish() == 0, clean.output()
    settings = (*_TRAINING, "train.step_seconds=0.05", "peer.every_steps=1")
    nodes = Nodes(workspace, "spread", settings, conf="spread", per_node=2).start()
    nodes.wait_for_step(6).kill_rank(3)
    nodes.wait_for_step(14)
    lost = nodes.leader()
    nodes.kill_node(lost)
    nodes.switch_off(lost)
    nodes.start(lost).wait_for_step(24)
    nodes.processes[lost].send_signal(signal.SIGTERM)
    assert nodes.wait() == [ExitCode.REQUEUE] * 2, nodes.output()
    between = catalog.committed_steps(nodes.paths.snapshots)[-1]
    assert nodes.start().wait() == [0, 0], nodes.output()
    assert nodes.sources() == [None, "memory", "peer", "local"], nodes.output()
    nodes.assert_equal_to(clean, _STEPS)
    for step in (between, _STEPS):  # written by both nodes, each its ranks' parts
        assert [file.base for file in catalog.verify(nodes.paths.snapshot(step)).files] == [None] * 4
        layouts = [Layout.parse(nodes.image(step, rank)) for rank in range(4)]
        assert [layout.tensors["model.0.weight"].spec.shape[0] for layout in layouts] == [9, 9, 9, 6]
