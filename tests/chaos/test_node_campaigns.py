"""Two campaigns on two nodes for every change; ``make chaos-nodes N=100`` runs many."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from tests.chaos.node_campaign import NodeCampaigns

_FIXED = {
    124: "DDP: a rank is killed, then all of the leader's node, and its memory is gone",
    497: "FSDP2: a rank is killed; later a node is lost with its memory",
}


@pytest.mark.timeout(900)  # with the clean run, three starts of four ranks, on a machine that may be busy
@pytest.mark.parametrize("seed", _FIXED)
def test_a_campaign(seed: int) -> None:
    # not pytest's own directory, which is kept, and has names too long for sockets
    with tempfile.TemporaryDirectory(prefix="resilient-chaos-") as directory:
        result = NodeCampaigns(Path(directory)).run(seed)
    assert not result.problems, f"\n{result}"
