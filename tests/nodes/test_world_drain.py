"""The leader's drain while a snapshot is being read on all nodes, and one of them is lost."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from resilient.nodes.world_drain import WorldDrain
from resilient.protocol.arena import Arena
from resilient.protocol.lock import RunLock
from resilient.protocol.paths import RunPaths, hostname
from resilient.snapshot.commit import Draft, commit
from resilient.snapshot.storage import Storage
from resilient.supervisor.drain_answers import Answer, Restored, RestoreFailed

OTHER = "n2"


class Bench:
    """A leader with one rank, another node with the other, and a snapshot of both."""

    def __init__(self, root: Path) -> None:
        paths = RunPaths.of(root, "run")
        paths.create()
        images = {rank: memoryview(bytes([rank]) * 100_000) for rank in (0, 1)}
        commit(Storage(), paths.snapshots, Draft("run", 5, 0, images))
        self.posted: list[tuple[str, str]] = []
        self.arenas = [Arena.shared(root, rank, 2) for rank in (0, 1)]
        self._lock = RunLock(paths.lock, hostname())
        self.drain = WorldDrain(
            paths.snapshots,
            lock=self._lock.fileno(),
            log=root / "drain.log",
            clock=time.monotonic,
            node_of=lambda rank: OTHER if rank else None,
            post=self._post,
            term=1,
        )

    def _post(self, node: str, message: Mapping[str, Any]) -> int:
        self.posted.append((node, str(message["op"])))
        return len(self.posted)

    def restore(self) -> None:
        self.drain.restore(5, {rank: arena.slots[0] for rank, arena in enumerate(self.arenas)}, 9, world_size=2)

    def answers(self, until: Callable[[list[Answer]], bool]) -> list[Answer]:
        found: list[Answer] = []
        deadline = time.monotonic() + 60
        while not until(found):
            assert time.monotonic() < deadline, found
            if select.select([self.drain.connection], [], [], 0.05)[0]:
                found += [answer for answer in [self.drain.receive()] if isinstance(answer, (Restored, RestoreFailed))]
            found += [answer for answer in [self.drain.late()] if answer is not None]
        return found

    def heard_of_the_other(self) -> None:
        self.drain.heard(OTHER, {"answer": "Restored", "data": {"step": 5, "identity": "x", "seconds": 0.1}})

    def close(self) -> None:
        self.drain.close()
        for arena in self.arenas:
            arena.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize("had_read", [False, True])
def test_a_lost_node_ends_the_reading_and_nothing_of_it_is_taken_for_the_next(bench: Bench, *, had_read: bool) -> None:
    bench.restore()
    if had_read:
        bench.heard_of_the_other()
    bench.drain.lost(OTHER)
    assert bench.answers(bool) == [RestoreFailed(5, "node n2 is lost")]
    bench.restore()  # it is there again
    bench.heard_of_the_other()
    (restored,) = bench.answers(bool)
    assert isinstance(restored, Restored)
    assert bytes(bench.arenas[0].slots[0].image) == bytes(100_000)
    assert not bench.drain.busy


def test_where_one_node_cannot_read_it_the_others_need_not_go_on(bench: Bench) -> None:
    bench.restore()
    bench.drain.heard(OTHER, {"answer": "RestoreFailed", "data": {"step": 5, "problem": "no room"}})
    assert bench.answers(bool) == [RestoreFailed(5, "no room")]
    assert bench.posted == [(OTHER, "restore")]
    bench.heard_of_the_other()
    assert bench.drain.late() is None
    bench.restore()
    bench.heard_of_the_other()
    assert [type(answer) for answer in bench.answers(bool)] == [Restored]
