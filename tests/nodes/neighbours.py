"""Nodes without supervisors: memories of their own, real helpers that speak over real sockets, and a leader's part."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from resilient.nodes.node_replicas import Message, NodeReplicas
from resilient.nodes.replicas import Replicas
from resilient.nodes.replication import Replication
from resilient.policy import events as on
from resilient.protocol.arena import Slot
from resilient.protocol.lock import RunLock
from resilient.protocol.past import Began, Past
from resilient.protocol.paths import RunPaths, hostname
from resilient.protocol.peer_settings import PeerSettings
from resilient.supervisor.console import Console
from resilient.supervisor.journal import Journal, read_journal
from resilient.supervisor.memory import RunMemory

PATIENCE = 60.0
SIZE = (9 << 20) + 4096  # two whole chunks and a part of one


def content(rank: int, step: int, branch: int = 0, size: int = SIZE) -> bytes:
    """The image that a rank has of a step, which no other has."""
    return (f"rank {rank} step {step} branch {branch} ".encode() * (size // 20 + 1))[:size]


def write_image(memory: RunMemory, rank: int, step: int, branch: int = 0, size: int = SIZE) -> Slot | None:
    """A worker's memory snapshot, as it takes one; None where it has no slot for it."""
    arena = memory.arenas[rank]
    slot = arena.next_free()
    if slot is None:
        return None
    slot.begin(step, size)
    slot.image[:] = content(rank, step, branch, size)
    slot.complete(arena.next_sequence(), {"metrics": {"loss": step / 2}}, hold=False)
    return slot


class Node:
    """One node of a cluster: its memory, its helper, and the part that listens to the leader."""

    def __init__(self, cluster: Cluster, name: str, ranks: Sequence[int]) -> None:
        self.name, self.ranks, self.root = name, ranks, cluster.root / name
        self.paths = RunPaths.of(self.root, "run")
        self.paths.create()
        self.lock = RunLock(self.paths.lock, hostname())
        self.memory = self._open(ranks)
        self.replicas = Replicas(
            self.memory.directory, host="127.0.0.1", timeout=2.0, lock=self.lock.fileno(), log=self.root / "peer.log"
        )
        self.part = NodeReplicas(self.directory, self.replicas)
        self.part.send = lambda message: cluster.answered(name, message)
        self.part.use(self.memory)

    def _open(self, ranks: Sequence[int]) -> RunMemory:
        return RunMemory(self.root / "memory", range(ranks[0], ranks[-1] + 1), slots=4, identity="this run")

    def take(self, ranks: Sequence[int]) -> None:
        """It has other ranks from now on."""
        self.memory.close()
        self.ranks, self.memory = ranks, self._open(ranks)
        self.part.use(self.memory)

    @property
    def directory(self) -> Path:
        return self.memory.directory

    def train(self, *steps: int, branch: int = 0, size: int = SIZE) -> None:
        for step in steps:
            for rank in self.ranks:
                write_image(self.memory, rank, step, branch, size)

    def images(self, step: int) -> dict[int, bytes]:
        """What the workers would resume from."""
        return {rank: bytes(slot.image) for rank, slot in (self.memory.slots_of(step) or {}).items()}

    def close(self) -> None:
        self.part.close()
        self.memory.close()
        self.lock.release()


class Cluster:
    """Nodes and a leader, in one process but for the helpers."""

    def __init__(self, root: Path, ranks: Mapping[str, Sequence[int]], **settings: Any) -> None:
        root.mkdir(exist_ok=True)
        self.root, self.ranks = root, dict(ranks)
        self.said, self.now = io.StringIO(), 0.0
        self.nodes: dict[str, Node] = {}
        self.passing: Callable[[str, Message], Message | None] = lambda _node, message: message
        self._inbox: list[tuple[str, Message]] = []
        self.journal = Journal(root / "journal.jsonl")
        self.leader = self.elect(**settings)
        for name, own in ranks.items():
            self.join(name, own)

    def elect(self, **settings: Any) -> Replication:
        """A leader that knows nothing yet."""
        self.leader = Replication(
            PeerSettings(**{"timeout_seconds": 2.0, **settings}),
            self.post,
            term=1,
            journal=self.journal,
            say=Console(io.StringIO(), self.said).say,
            clock=lambda: self.now,
        )
        return self.leader

    def join(self, name: str, ranks: Sequence[int]) -> Node:
        self.nodes[name] = Node(self, name, ranks)
        return self.nodes[name]

    def lose(self, name: str) -> None:
        """The node is gone, with its memory."""
        self.nodes.pop(name).close()
        self.leader.lost(name)

    def post(self, node: str, message: Message) -> None:
        if node in self.nodes and (passed := self.passing(node, message)) is not None:
            self.nodes[node].part.hear(json.loads(json.dumps(passed)))

    def answered(self, node: str, message: Message) -> None:
        self._inbox.append((node, json.loads(json.dumps(message))))

    def turn(self) -> None:
        """One turn of all nodes' loops."""
        for node in self.nodes.values():
            os.set_blocking(node.replicas.connection.fileno(), False)
            try:
                node.part.receive() if _readable(node.replicas.connection) else None
            finally:
                os.set_blocking(node.replicas.connection.fileno(), True)
            node.part.poll()
        while self._inbox:
            self.leader.hear(*self._inbox.pop(0))
        time.sleep(0.002)

    def until(self, condition: Callable[[], Any], poll: Callable[[], None] = lambda: None) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, self.said.getvalue()
            poll()
            self.turn()

    # --- what a leader does

    def open(self, token: str = "the group's") -> None:  # noqa: S107
        self.leader.open(self.nodes, token)
        self.until(lambda: self.leader.heard_all)

    def begin(self, past: Past | None = None) -> None:
        """Have a round launched.

        :param past: of all memory from now on; one of its own where nothing is said.
        """
        self.open()
        ranks = {name: node.ranks for name, node in self.nodes.items()}
        self.leader.begin_round(0, ranks)
        world = sum(map(len, ranks.values()))
        for node in self.nodes.values():
            node.memory.mark(past or Past(world, (Began(1, 0, 0),)))

    def notes(self, name: str) -> list[Any]:
        return [entry["data"] for entry in read_journal(self.root / "journal.jsonl") if entry.get("name") == name]

    def replicate(self, step: int) -> None:
        """Have the images of ``step`` copied."""
        before = len(self.notes("Replicated"))
        self.until(lambda: len(self.notes("Replicated")) > before, lambda: self._time_passes(step))

    def _time_passes(self, step: int) -> None:
        """Longer than any pause between two sets."""
        if self.leader._attempt is None:
            self.now += 1000.0
            self.leader.poll(step)

    def fail_to_replicate(self, step: int) -> str:
        """The reason why it did not work."""
        before = len(self.notes("NotReplicated"))
        self._time_passes(step)
        self.until(lambda: len(self.notes("NotReplicated")) > before)
        return str(self.notes("NotReplicated")[-1]["problem"])

    def restore(self, step: int) -> on.Event:
        """Have the images of ``step`` brought to where their ranks are now."""
        self.leader.restore(step, {name: node.ranks for name, node in self.nodes.items()})
        events: list[on.Event] = []

        def ended() -> bool:
            if (event := self.leader.take()) is not None:
                events.append(event)
            return bool(events)

        self.until(ended)
        return events[0]

    def peer_step(self) -> int | None:
        self.open()
        found = self.leader.found(sum(len(node.ranks) for node in self.nodes.values()))
        return None if found is None else found.step

    def close(self) -> None:
        for node in self.nodes.values():
            node.close()


def _readable(connection: Any) -> bool:
    import select

    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))
