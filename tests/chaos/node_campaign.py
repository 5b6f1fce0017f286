"""One campaign on two nodes, or many: ``python -m tests.chaos.node_campaign --seed 123`` or ``--count 100``.

Those with an even seed train with DistributedDataParallel, those with an odd one with FSDP2. The directory of a
campaign that fails is kept, with the run's journals, logs and output.
"""

from __future__ import annotations

import random
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from resilient.protocol import bell
from tests.chaos.campaign import BUDGETS, Result, at_interrupt, campaigns_of, make_workspace
from tests.chaos.checks import Entry, Evidence, problems, read_strictly
from tests.chaos.node_plan import PER_NODE, RANKS, NodePlan, node_plan
from tests.chaos.node_scheduler import NodeScheduler
from tests.chaos.plan import STEPS
from tests.chaos.scheduler import CampaignFailed, ChaosWorkspace
from tests.nodes.several import Nodes
from tests.run.harness import RunCase

_PORTS = range(20000, 32000)
_MODULE = "tests.chaos.node_campaign"


@dataclass
class NodeCampaigns:
    """Campaigns in one directory, which share the clean runs that they are compared with."""

    directory: Path
    keep: bool = False  # of campaigns in which nothing was wrong, too
    _references: dict[bool, RunCase] = field(default_factory=dict)

    def run(self, seed: int) -> Result:
        """One campaign. Its directory is removed unless something is wrong."""
        began, planned = time.monotonic(), node_plan(seed)
        at_interrupt()
        reference = self._reference(planned)
        workspace = make_workspace(self.directory / f"seed-{seed}")
        preload = ["torch", "torch._dynamo", *["torch.distributed.fsdp"] * planned.sharded, "torch.utils.data", "numpy"]
        wanted = [f"train.steps={STEPS}", f"train.sharded={planned.sharded}", *planned.settings, *BUDGETS]
        wanted.append(f"worker.preload=[{','.join(preload)}]")  # each rank would import it in each round
        nodes = Nodes(workspace, "chaos", wanted, conf="small", per_node=PER_NODE)
        if planned.fixed_ports:
            nodes.own = {name: [f"group.address=127.0.0.1:{_free_port()}"] for name in nodes.names}
        scheduler = NodeScheduler(nodes, planned)
        try:
            found = self._judge(workspace, nodes, reference, scheduler)
        finally:
            for process in workspace.processes():
                process.kill()
            for name in nodes.names:
                if (memory := nodes.memory_of(name)).exists():  # of a run that did not end; it may say why
                    (memory / bell.NAME).unlink(missing_ok=True)  # a pipe, which cannot be copied to another disk
                    shutil.move(memory, workspace.directory / f"memory-{name}")
        if not found and not self.keep:
            shutil.rmtree(workspace.directory)
        return Result(planned, scheduler.history, time.monotonic() - began, found, workspace.directory, _MODULE)

    def _judge(
        self, workspace: ChaosWorkspace, nodes: Nodes, reference: RunCase, scheduler: NodeScheduler
    ) -> list[str]:
        try:
            scheduler.run()
            journal = _journals(nodes)
            if not scheduler.plan.peers:
                scheduler.history.memory_lost += _changes_of_leader(nodes)
        except (CampaignFailed, ValueError) as error:
            return [str(error)]
        evidence = Evidence(workspace, nodes, reference, scheduler.plan, scheduler.history, journal)
        return [*problems(evidence), *_memory(nodes)]

    def _reference(self, planned: NodePlan) -> RunCase:
        """The clean run, by as many ranks of one node."""
        kind = planned.sharded
        if kind not in self._references:
            workspace = make_workspace(self.directory / f"reference-{'fsdp' if kind else 'ddp'}")
            settings = (f"worker.ranks={RANKS}", f"train.sharded={kind}")
            case = workspace.run("clean", *settings, steps=STEPS, ranks=RANKS)
            if case.finish() != 0:
                raise CampaignFailed(f"the clean run fails:\n{case.output()}")
            self._references[kind] = case
        return self._references[kind]


def _free_port() -> int:
    """One that the system gives to no connection by itself."""
    for port in random.SystemRandom().sample(_PORTS, 100):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise CampaignFailed("no port is free")


def _journals(nodes: Nodes) -> list[Entry]:
    """The entries of all nodes, by time.

    :raises ValueError: a line cannot be read.
    """
    found = [entry for path in (nodes.paths.root / "journal").glob("*.jsonl") for entry in read_strictly(path)]
    return sorted(found, key=lambda entry: float(entry["time"]))


def _changes_of_leader(nodes: Nodes) -> list[float]:
    """When another node took the lead: it has other ranks then, and without peer memory their images stay behind."""
    files = (nodes.paths.root / "journal").glob("*.jsonl")
    opened = sorted(
        (float(entry["time"]), path.stem)
        for path in files
        for entry in read_strictly(path)
        if entry["name"] == "RunOpened"
    )
    return [time for (_, before), (time, now) in pairwise(opened) if now != before]


def _memory(nodes: Nodes) -> Iterator[str]:
    """Nothing of either node is left in memory."""
    for name in nodes.names:
        if nodes.memory_of(name).exists():
            yield f"memory: {nodes.memory_of(name)} of {name} is left"


if __name__ == "__main__":
    sys.exit(campaigns_of(sys.argv[1:], NodeCampaigns, node_plan, str(__doc__), _MODULE))
