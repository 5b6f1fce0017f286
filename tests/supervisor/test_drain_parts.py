"""The drains of two nodes, as two real processes, and one directory of snapshots."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import pytest

from resilient.protocol.arena import Arena, Slot
from resilient.protocol.lock import RunLock
from resilient.protocol.paths import RunPaths, hostname
from resilient.protocol.settings import RetentionSettings
from resilient.snapshot import catalog
from resilient.snapshot.commit import temporary_name
from resilient.supervisor.drain import Drain
from resilient.supervisor.drain_answers import (
    Answer,
    Fenced,
    PartFailed,
    PartsDropped,
    PartWritten,
    Persisted,
    PersistFailed,
    Rejected,
    Restored,
    RestoreFailed,
    Swept,
    Unfinished,
)
from tests.snapshot.test_fencing import begin
from tests.snapshot.test_sharing import LARGE, image, replicated

MB = 1 << 20
SIZE = 4 * MB
Kind = TypeVar("Kind", bound=Answer)


class Nodes:
    """Two nodes with a rank each; the first leads."""

    def __init__(self, root: Path) -> None:
        self.paths = RunPaths.of(root, "run")
        self.paths.create()
        self.lock = RunLock(self.paths.lock, hostname())
        self.arenas = [Arena.shared(root, rank, 2) for rank in (0, 1)]
        self.drains = [
            Drain(self.paths.snapshots, lock=self.lock.fileno(), log=root / f"drain-{node}.log", sweeps=False)
            for node in (0, 1)
        ]
        self.images: dict[tuple[int, int], bytes] = {}
        begin(self.paths.snapshots, 1, 0)

    def image(self, step: int, rank: int) -> Slot:
        slot = self.arenas[rank].next_free()
        assert slot is not None
        slot.begin(step, SIZE)
        content = self.images[step, rank] = os.urandom(4096) * (SIZE // 4096)
        slot.image[:] = content
        slot.complete(self.arenas[rank].next_sequence(), {"metrics": {"loss": 0.5 + rank}}, hold=True)
        return slot

    def details(self, *, term: int = 1, limit: float = 0.0) -> dict[str, Any]:
        return {
            "run_id": "run",
            "round": 0,
            "parent": None,
            "versions": {},
            "term": term,
            "world_size": 2,
            "write_bytes_per_second": limit,
        }

    def retention(self) -> dict[str, Any]:
        return {"retention": asdict(RetentionSettings(last=1))}

    def write(self, step: int, node: int, *, limit: float = 0.0) -> None:
        """Have one node's part written."""
        slots = {node: self.image(step, node)}
        self.drains[node].persist_part(step, slots, self.details(limit=limit), self.staging(step))

    def written(self, step: int) -> list[Mapping[str, Any]]:
        for node in (0, 1):
            self.write(step, node)
        return [self.hear(node, PartWritten).part for node in (0, 1)]

    def commit(self, step: int, parts: list[Mapping[str, Any]], *, term: int = 1) -> None:
        self.drains[0].commit_parts(step, self.staging(step), parts, {**self.details(term=term), **self.retention()})

    def staging(self, step: int) -> str:
        return temporary_name(step, f"{step:08x}")

    def hear(self, node: int, kind: type[Kind]) -> Kind:
        answer = self.answer(node)
        assert isinstance(answer, kind), answer
        return answer

    def answer(self, node: int) -> Answer:
        found: list[Answer] = []

        def heard() -> bool:
            if select.select([self.drains[node].connection], [], [], 0.05)[0]:
                answer = self.drains[node].receive()
                found.extend([answer] if answer is not None else [])
            return bool(found)

        self.until(heard)
        return found[0]

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 120
        while not condition():
            assert time.monotonic() < deadline

    def there(self) -> set[str]:
        return {path.name for path in self.paths.snapshots.iterdir()}

    def close(self) -> None:
        for drain in self.drains:
            drain.close()
        for arena in self.arenas:
            arena.close()
        self.lock.release()


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    made = Nodes(tmp_path)
    yield made
    made.close()


def test_a_drain_finishes_what_its_predecessor_was_killed_over_removing(nodes: Nodes) -> None:
    doomed = nodes.paths.snapshots / ".tmp-step-000000001-retired-abcd"
    doomed.mkdir()
    (doomed / "manifest.json").write_bytes(b"{}")
    nodes.write(2, 1)
    nodes.hear(1, PartWritten)
    assert not doomed.exists()
    assert (nodes.paths.snapshots / nodes.staging(2)).exists()


def test_two_nodes_write_one_snapshot_and_each_reads_its_own_part_of_it(nodes: Nodes) -> None:
    for step in (1, 2):
        nodes.commit(step, nodes.written(step))
        done = nodes.hear(0, Persisted)
        assert (done.step, done.bytes, done.removed) == (step, 2 * SIZE, (1,) if step == 2 else ())
        assert nodes.drains[0].rate > 0
    manifest = catalog.verify(nodes.paths.snapshot(2))
    assert (manifest.world_size, manifest.term, dict(manifest.metrics)) == (2, 1, {"loss": 0.5})
    assert nodes.there() == {"step-000000002", "latest"}
    for node in (0, 1):
        slot = nodes.arenas[node].slots[0]
        nodes.drains[node].restore(2, {node: slot}, 9, world_size=2)
        assert nodes.hear(node, Restored).identity == done.identity
        assert bytes(slot.image) == nodes.images[2, node]
    nodes.drains[0].restore(2, {0: nodes.arenas[0].slots[0]}, 10)
    assert "images of 2 ranks, the run has 1" in nodes.hear(0, RestoreFailed).problem


def test_damage_is_found_by_the_node_whose_part_it_is_in(nodes: Nodes) -> None:
    nodes.commit(1, nodes.written(1))
    nodes.hear(0, Persisted)
    image = nodes.paths.snapshot(1) / "rank-00001.safetensors"
    image.write_bytes(b"x" + image.read_bytes()[1:])
    slots = [arena.slots[0] for arena in nodes.arenas]
    nodes.drains[0].restore(1, {0: slots[0]}, 9, world_size=2)
    nodes.hear(0, Restored)
    nodes.drains[1].restore(1, {1: slots[1]}, 9, world_size=2)
    assert "rank-00001.safetensors: checksum mismatch" in nodes.hear(1, Rejected).reason
    assert nodes.there() >= {"step-000000001.corrupt"}


def test_a_drain_that_dies_over_its_part_begins_it_again_and_touches_no_other(nodes: Nodes) -> None:
    nodes.write(1, 0)
    first = nodes.hear(0, PartWritten).part
    nodes.write(1, 1, limit=MB)
    nodes.until((nodes.paths.snapshots / nodes.staging(1) / "rank-00001.safetensors").exists)
    os.kill(nodes.drains[1].pid, signal.SIGKILL)
    nodes.until(lambda: select.select([nodes.drains[1].connection], [], [], 0.05)[0] != [])
    assert nodes.drains[1].receive() is None
    nodes.drains[1].hurry()
    nodes.commit(1, [first, nodes.hear(1, PartWritten).part])
    nodes.hear(0, Persisted)
    assert catalog.verify(nodes.paths.snapshot(1)).size == 2 * SIZE


def test_while_one_node_is_slow_there_is_no_snapshot_and_a_part_that_is_given_up_can_be_dropped(nodes: Nodes) -> None:
    nodes.write(1, 0)
    first = nodes.hear(0, PartWritten).part
    nodes.write(1, 1, limit=MB / 10)
    nodes.until((nodes.paths.snapshots / nodes.staging(1) / "rank-00001.safetensors").exists)
    nodes.commit(1, [first])
    assert "images of 1 ranks, the run has 2" in nodes.hear(0, PersistFailed).problem
    assert nodes.drains[1].pending(1)
    nodes.drains[0].drop_parts(nodes.staging(1))  # the leader takes that node for lost
    nodes.hear(0, PartsDropped)
    assert nodes.there() == set()
    nodes.drains[1].hurry()
    assert "No such file" in nodes.hear(1, PartFailed).problem
    nodes.commit(2, nodes.written(2))
    nodes.hear(0, Persisted)
    assert nodes.there() == {"step-000000002", "latest"}


def test_a_part_that_is_cut_off_is_forgotten_and_the_next_one_written(nodes: Nodes) -> None:
    nodes.write(1, 1, limit=MB / 10)
    nodes.until(lambda: nodes.drains[1].writing is not None)
    nodes.write(2, 1)
    nodes.drains[1].abandon()
    assert nodes.hear(1, PartWritten).step == 2
    assert nodes.there() >= {nodes.staging(2)}
    nodes.drains[0].sweep()
    assert set(nodes.hear(0, Swept).names) >= {nodes.staging(2)}
    assert nodes.there() == set()


def test_a_leader_whose_term_is_over_is_told_so_and_nothing_is_committed(nodes: Nodes) -> None:
    parts = nodes.written(1)
    begin(nodes.paths.snapshots, 2)
    nodes.commit(1, parts)
    fenced = nodes.hear(0, Fenced)
    assert (fenced.step, fenced.term) == (1, 1)
    assert "the newest one is 2" in fenced.problem
    assert catalog.committed_steps(nodes.paths.snapshots) == ()
    nodes.commit(1, parts, term=2)
    nodes.hear(0, Persisted)


def test_what_a_late_leader_left_is_neither_restored_nor_in_the_way(nodes: Nodes) -> None:
    nodes.commit(5, nodes.written(5))
    nodes.hear(0, Persisted)
    begin(nodes.paths.snapshots, 2, 3)
    nodes.drains[0].restore(5, {0: nodes.arenas[0].slots[0]}, 9, world_size=2)
    assert "committed in term 1, after its time" in nodes.hear(0, RestoreFailed).problem
    nodes.commit(4, nodes.written(4), term=2)
    nodes.hear(0, Persisted)
    assert nodes.there() == {"step-000000004", "latest", "step-000000005.discarded-term1"}


def test_a_part_that_grows_is_written_as_it_grows(nodes: Nodes) -> None:
    slot = nodes.arenas[1].next_free()
    assert slot is not None
    content = os.urandom(4096) * (SIZE // 4096)
    for step, ends in ((1, True), (2, False)):
        slot.begin(step, SIZE)
        slot.image[:MB] = content[:MB]
        slot.reached(MB)
        slot.hold()
        nodes.drains[1].persist_part(step, {1: slot}, nodes.details(), nodes.staging(step))
        if ends:
            slot.image[MB:] = content[MB:]
            slot.complete(1, {}, hold=True)
            assert nodes.hear(1, PartWritten).bytes == SIZE
            written = nodes.paths.snapshots / nodes.staging(step) / "rank-00001.safetensors"
            assert written.read_bytes() == content
        else:
            slot.void()
            assert nodes.hear(1, Unfinished).step == step


def test_what_the_first_node_has_written_the_second_does_not_write_again(nodes: Nodes) -> None:
    images = [image(rank, replicated) for rank in (0, 1)]
    slots = []
    for rank, content in enumerate(images):
        slot = nodes.arenas[rank].slots[0]
        slot.begin(1, len(content))
        slot.image[:] = content
        slot.complete(1, {}, hold=True)
        slots.append(slot)
    details = {**nodes.details(), "deduplicate": True}
    nodes.drains[0].persist_part(1, {0: slots[0]}, {**details, "digests": True}, nodes.staging(1))
    first = nodes.hear(0, PartWritten)
    nodes.drains[1].persist_part(1, {1: slots[1]}, {**details, "base": first.part}, nodes.staging(1))
    second = nodes.hear(1, PartWritten)
    assert first.bytes == len(images[0])
    assert second.bytes < len(images[1]) - 4 * LARGE
    nodes.commit(1, [first.part, second.part])
    assert nodes.hear(0, Persisted).bytes == first.bytes + second.bytes
    assert [file.base for file in catalog.verify(nodes.paths.snapshot(1)).files] == [None, 0]
    into = nodes.arenas[1].slots[1]
    nodes.drains[1].restore(1, {1: into}, 9, world_size=2)
    nodes.hear(1, Restored)
    assert bytes(into.image) == bytes(images[1])
