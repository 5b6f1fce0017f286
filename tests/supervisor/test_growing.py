"""Images that go to disk, by a real drain, while they are still being written."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from resilient.policy import events as on
from resilient.protocol.arena import Slot, SlotState
from resilient.snapshot import catalog
from resilient.snapshot.hashing import CHUNK
from tests.supervisor.test_persistence import Bench

SIZE = 2 * CHUNK + (1 << 20)


class Growing(Bench):
    """Its worker writes images bit by bit."""

    def __init__(self, folder: Path, limit: float = 0.0) -> None:
        super().__init__(folder, folder, limit)
        self.content = b""

    def begin(self, step: int) -> Slot:
        """The first chunk is final when this returns, and the drain has written it."""
        arena = self.memory.arenas[0]
        slot = arena.next_free()
        assert slot is not None
        slot.begin(step, SIZE)
        self.content = os.urandom(4096) * (SIZE // 4096)
        slot.image[:] = bytes(SIZE)
        slot.image[:CHUNK] = self.content[:CHUNK]
        slot.reached(CHUNK)
        slot.hold()
        self.until(lambda: self.written() == CHUNK)
        return slot

    def end(self, slot: Slot) -> None:
        self.finish(slot)
        slot.complete(self.memory.arenas[0].next_sequence(), {"metrics": {"loss": 0.5}}, hold=True)

    def finish(self, slot: Slot) -> None:
        slot.image[CHUNK:] = self.content[CHUNK:]
        slot.reached(SIZE)

    def written(self) -> int:
        return 0 if self.drain.writing is None else self.drain.writing.written

    def turn_for(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        self.until(lambda: time.monotonic() >= until)

    def saved(self, step: int) -> bytes:
        """The durable image, verified."""
        snapshot = self.paths.snapshot(step)
        file = catalog.read_manifest(snapshot).files[0]
        image = bytearray(file.checksum.size)
        catalog.read_image(snapshot, file, memoryview(image))
        return bytes(image)

    def assert_nothing_came_of_it(self) -> None:
        assert self.durable() == ()
        assert list(self.paths.snapshots.iterdir()) == []
        assert self.memory.held_steps() == []
        assert self.memory.newest_step() is None
        assert self.persistence.memory_is_durable
        assert "WARNING" not in self.said()


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Growing]]:
    benches: list[Growing] = []

    def build(limit: float = 0.0) -> Growing:
        benches.append(Growing(tmp_path, limit))
        return benches[-1]

    yield build
    for bench in benches:
        bench.close()


@pytest.fixture
def bench(make: Callable[..., Growing]) -> Growing:
    return make()


def test_the_disk_is_not_waited_for_by_the_copy_nor_outruns_it(bench: Growing) -> None:
    slot = bench.begin(7)
    bench.turn_for(0.2)
    assert bench.written() == CHUNK, "the rest is not final"
    bench.finish(slot)
    bench.until(lambda: bench.written() == SIZE)
    bench.turn_for(0.2)
    assert bench.durable() == (), "the copy may still turn out void"
    assert not list(bench.paths.snapshots.glob("*/manifest.json"))
    bench.end(slot)
    bench.until(lambda: bench.persistence.durable == 7)
    assert bench.saved(7) == bench.content
    assert dict(catalog.read_manifest(bench.paths.snapshot(7)).metrics) == {"loss": 0.5}
    assert not slot.info().held
    assert not list(bench.paths.snapshots.glob(".tmp-*"))


def test_waiting_for_the_copy_is_not_taken_for_a_slow_disk(bench: Growing) -> None:
    slot = bench.begin(7)
    bench.turn_for(2.0)
    bench.end(slot)
    sent = bench.drain._sent_at
    bench.until(lambda: bench.persistence.durable == 7)
    elapsed = time.monotonic() - sent
    assert bench.drain.rate > SIZE / (elapsed - 1.0)


def test_a_void_copy_leaves_no_snapshot_and_no_warning(bench: Growing) -> None:
    slot = bench.begin(7)
    slot.void()
    bench.until(lambda: not bench.drain.busy)
    bench.assert_nothing_came_of_it()
    bench.end(bench.begin(8))
    bench.until(lambda: bench.persistence.durable == 8)
    assert bench.saved(8) == bench.content
    assert bench.durable() == (8,)


def test_a_copy_found_void_when_all_of_it_is_on_disk_leaves_no_snapshot(bench: Growing) -> None:
    slot = bench.begin(7)
    bench.finish(slot)
    bench.until(lambda: bench.written() == SIZE)
    slot.void()
    bench.until(lambda: not bench.drain.busy)
    bench.assert_nothing_came_of_it()


def test_two_copies_of_one_step_in_one_slot_are_not_mixed(bench: Growing) -> None:
    first = bench.begin(7)
    of_first, pid = bench.content, bench.drain.pid
    os.kill(pid, signal.SIGSTOP)  # it does not look at the slot in between
    first.void()
    slot = bench.memory.arenas[0].slots[first.index]
    slot.begin(7, SIZE)
    bench.content = os.urandom(4096) * (SIZE // 4096)
    slot.image[:CHUNK] = bench.content[:CHUNK]
    slot.reached(CHUNK)
    slot.hold()
    bench.end(slot)
    os.kill(pid, signal.SIGCONT)
    bench.until(lambda: bench.persistence.durable == 7)
    assert bench.saved(7) == bench.content
    assert bench.content != of_first
    assert not list(bench.paths.snapshots.glob(".tmp-*"))


def test_what_a_dead_worker_was_writing_is_given_up(bench: Growing) -> None:
    bench.begin(7)
    bench.memory.void_growing(0)
    bench.until(lambda: not bench.drain.busy)
    bench.assert_nothing_came_of_it()
    assert not bench.persistence.list_snapshots().durable_steps  # type: ignore[union-attr]


def test_a_drain_killed_in_between_begins_again(bench: Growing) -> None:
    slot = bench.begin(7)
    os.kill(bench.drain.pid, signal.SIGKILL)
    bench.turn_for(0.3)
    bench.end(slot)
    bench.until(lambda: bench.persistence.durable == 7)
    assert bench.saved(7) == bench.content
    assert not list(bench.paths.snapshots.glob(".tmp-*"))


def test_a_successor_of_the_supervisor_finds_no_half_image(bench: Growing) -> None:
    slot = bench.begin(7)
    bench.persistence.adopt()
    assert slot.info().state is SlotState.EMPTY
    assert not slot.info().held
    bench.until(lambda: not bench.drain.busy)
    bench.assert_nothing_came_of_it()


def test_before_the_next_round_nothing_grows(bench: Growing) -> None:
    slot = bench.begin(7)
    assert bench.persistence.list_snapshots() == on.SnapshotsListed()
    assert slot.info().state is SlotState.EMPTY
    bench.until(lambda: not bench.drain.busy)
    bench.assert_nothing_came_of_it()


def test_a_flush_does_not_wait_for_a_disk_that_hangs_over_what_can_become_nothing(bench: Growing) -> None:
    bench.image(6)
    bench.begin(7)
    os.kill(bench.drain.pid, signal.SIGSTOP)
    assert bench.flush(20.0) == on.FlushEnded(6)


@pytest.mark.parametrize("limit", [0.0, 20.0 * (1 << 20)])
def test_a_flush_does_not_wait_for_a_worker_that_does_not_go_on(make: Callable[..., Growing], limit: float) -> None:
    bench = make(limit)
    bench.image(6)
    bench.begin(7)
    assert bench.flush(30.0) == on.FlushEnded(6)
    assert bench.durable() == (6,)
    assert bench.memory.held_steps() == []
    assert not list(bench.paths.snapshots.glob(".tmp-*"))


def test_what_cannot_be_saved_is_one_warning_and_not_tried_again_at_the_end_of_the_copy(
    bench: Growing, monkeypatch: pytest.MonkeyPatch
) -> None:
    slot = bench.begin(7)
    os.kill(bench.drain.pid, signal.SIGKILL)
    monkeypatch.setattr(bench.drain, "_deaths", 99)  # whatever the reason that it cannot be saved
    bench.until(lambda: not bench.drain.busy)
    assert bench.said().count("WARNING: step 7 could not be made durable") == 1
    bench.end(slot)
    bench.persistence.persist_held(0)
    assert not bench.drain.busy
    assert bench.memory.newest_step() == 7
