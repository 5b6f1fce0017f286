"""Several nodes that have lost all but the remote tier, and another number of ranks that has."""

from __future__ import annotations

import shutil
import time

from tests.nodes.several import Nodes
from tests.run.harness import TIMEOUT, RunCase, Workspace


def test_what_lies_only_in_the_remote_tier_is_resumed_on_all_nodes(workspace: Workspace, one_node: RunCase) -> None:
    remote = f"remote.url='{workspace.directory / 'remote'}'"
    (workspace.directory / "remote").mkdir()
    nodes = Nodes(workspace, "remote", [remote, "train.steps=30", "run.allow_drift=true"])
    assert nodes.start().wait() == [0, 0], nodes.output()
    lose_all_but_the_remote_tier(nodes)
    nodes.settings = [remote, "train.steps=60", "run.allow_drift=true"]
    nodes.start("n2")
    wait_until_changed(nodes)
    nodes.start("n1")  # which finds the configuration as it is to be, and the run finished
    assert nodes.wait() == [0, 0], nodes.output()
    assert nodes.sources() == [None, "local"]
    assert [fetched["step"] for fetched in nodes.noted("Fetched")] == [30]
    nodes.assert_equal_to(one_node)

    lose_all_but_the_remote_tier(nodes)
    settings = (remote, "worker.ranks=3", "train.steps=70", "run.allow_drift=true", "run.allow_reshard=true")
    alone = workspace.run("remote", *settings, conf="ranks", ranks=3)
    assert alone.finish() == 0, alone.output()
    assert "step 60 verified and copied here" in alone.output()
    assert sorted(nodes.losses(2)) == list(range(61, 71)), "three ranks do what two did"


def wait_until_changed(nodes: Nodes) -> None:
    """Until the first of them has written down the new configuration."""
    deadline = time.monotonic() + TIMEOUT
    while "steps: 60" not in nodes.paths.config.read_text():
        assert time.monotonic() < deadline, nodes.output()
        time.sleep(0.01)


def lose_all_but_the_remote_tier(nodes: Nodes) -> None:
    shutil.rmtree(nodes.paths.snapshots)
    for name in nodes.names:
        nodes.switch_off(name)
