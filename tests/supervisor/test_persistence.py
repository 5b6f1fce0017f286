"""Making durable what lies in memory, by a real drain: in time, without time, and by what it chooses."""

from __future__ import annotations

import errno
import io
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from resilient.drill.faults import flip_bit
from resilient.policy import events as on
from resilient.policy.lineage import Lineage, Rollback
from resilient.policy.state import PolicySettings
from resilient.protocol.lock import RunLock
from resilient.protocol.names import image_name
from resilient.protocol.paths import RunPaths, hostname
from resilient.protocol.settings import RetentionSettings, SnapshotSettings
from resilient.snapshot import catalog
from resilient.snapshot.commit import Draft, commit
from resilient.snapshot.storage import Storage
from resilient.supervisor.console import Console
from resilient.supervisor.drain import Drain
from resilient.supervisor.drain_persist import persist
from resilient.supervisor.drain_process import restore
from resilient.supervisor.journal import Journal, read_journal
from resilient.supervisor.memory import RunMemory
from resilient.supervisor.metered import MeteredStorage
from resilient.supervisor.persistence import Persistence
from resilient.supervisor.settings import WorkerSettings
from resilient.supervisor.spec import RunSpec

MB = 1 << 20
SIZE = 16 * MB


class Bench:
    """A run's memory and its persistence, without workers."""

    def __init__(self, root: Path, memory_dir: Path, limit: float = 0.0) -> None:
        self.paths = RunPaths.of(root, "run")
        self.paths.create()
        self.lock = RunLock(self.paths.lock, hostname())
        self.memory = RunMemory(memory_dir / "arena", ranks=1, slots=3, identity="this run")
        self.text = io.StringIO()
        self.journal = Journal(self.paths.journal)
        self.drain = Drain(self.paths.snapshots, lock=self.lock.fileno(), log=root / "drain.log")
        snapshot = SnapshotSettings(write_bytes_per_second=limit)
        spec = RunSpec(self.paths, WorkerSettings(script="train.py"), snapshot, PolicySettings())
        self.console = Console(io.StringIO(), self.text)
        parts: dict[str, Any] = {"memory": self.memory, "drain": self.drain, "journal": self.journal}
        self.durations: dict[str, float] = {}
        known: Any = {"clock": time.monotonic, "durations": lambda: self.durations}
        self.persistence = Persistence(spec, **parts, console=self.console, **known)
        self.persistence.adopt()

    def image(self, step: int, size: int = SIZE, *, hold: bool = False) -> None:
        """A worker's memory snapshot of ``step``."""
        arena = self.memory.arenas[0]
        slot = arena.next_free()
        assert slot is not None
        slot.begin(step, size)
        slot.image[:] = os.urandom(4096) * (size // 4096)
        slot.complete(arena.next_sequence(), {"metrics": {}}, hold=hold)

    def commit(self, step: int) -> None:
        """A durable snapshot of ``step``."""
        self.image(step, hold=True)
        self.until(lambda: self.persistence.durable == step)

    def until(self, condition: Callable[[], bool]) -> None:
        """The supervisor's loop, as far as it concerns us."""
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, self.said()
            self.turn()

    def turn(self) -> None:
        self.persistence.persist_held(0)
        self.drain.connection.settimeout(0.02)
        try:
            self.persistence.receive()
        except TimeoutError:
            return

    def flush(self, seconds: float | None = None) -> on.FlushEnded:
        """Ask for a flush and wait for its end."""
        self.persistence.flush(0, None if seconds is None else time.monotonic() + seconds)
        ended: list[on.FlushEnded] = []

        def is_over() -> bool:
            if (event := self.persistence.flushed()) is not None:
                ended.append(event)
            return bool(ended)

        self.until(is_over)
        return ended[0]

    def durable(self) -> tuple[int, ...]:
        return catalog.committed_steps(self.paths.snapshots)

    def plan(self) -> dict[str, Any]:
        plans: list[dict[str, Any]] = [
            entry["data"] for entry in read_journal(self.paths.journal) if entry["name"] == "FlushPlan"
        ]
        return plans[-1]

    def said(self) -> str:
        self.console.flush()
        return self.text.getvalue()

    def close(self) -> None:
        self.drain.close()
        self.memory.remove()
        self.journal.close()
        self.lock.release()


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    benches: list[Bench] = []

    def build(limit: float = 0.0) -> Bench:
        benches.append(Bench(tmp_path, tmp_path, limit))
        return benches[-1]

    yield build
    for bench in benches:
        bench.close()


def test_a_flush_without_a_deadline_makes_everything_durable(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.image(10, hold=True)
    bench.turn()
    bench.image(11)
    assert bench.flush() == on.FlushEnded(11)
    assert bench.durable() == (10, 11)
    assert bench.persistence.memory_is_durable
    assert bench.drain.rate > 0


def test_a_flush_of_what_is_durable_already_does_nothing(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.image(10, hold=True)
    bench.until(lambda: bench.persistence.durable == 10)
    assert bench.flush(5.0) == on.FlushEnded(10)
    assert bench.plan()["steps"] == []


def test_the_limit_holds_while_training_and_not_in_a_flush(make: Callable[..., Bench]) -> None:
    bench = make(limit=MB / 10)  # 160 s for an image
    bench.image(10, hold=True)
    bench.until(lambda: bench.drain.writing is not None and bench.drain.writing.step == 10)
    bench.image(11)
    assert bench.flush() == on.FlushEnded(11)
    assert bench.durable() == (10, 11)


def test_a_drain_that_does_not_get_there_is_given_up_in_time_and_memory_stays(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.image(9, hold=True)
    bench.until(lambda: bench.persistence.durable == 9)
    os.kill(bench.drain.pid, signal.SIGSTOP)  # a disk that does not answer
    bench.image(10)
    ended = bench.flush(0.3)
    assert (ended.step, ended.late) == (9, True)
    assert "no time to write step 10" in str(ended.problem)
    assert not bench.persistence.memory_is_durable
    assert bench.memory.newest_step() == 10
    assert bench.durable() == (9,)


def test_what_is_being_written_is_cut_off_for_a_newer_one_that_fits(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.image(9, hold=True)
    bench.until(lambda: bench.persistence.durable == 9)
    os.kill(bench.drain.pid, signal.SIGSTOP)
    bench.image(10, size=8 * SIZE, hold=True)
    bench.turn()
    bench.image(11, size=4096)
    bench.drain.rate = 8 * SIZE / 60  # so that 60 s are needed for the one, and next to nothing for the other
    assert bench.flush(20.0) == on.FlushEnded(11)
    assert bench.plan()["steps"] == [11]
    assert bench.plan()["abandon"]
    assert bench.durable() == (9, 11)
    assert "making step 11 durable: the newest fits if it is written at once" in bench.said()
    assert not list(bench.paths.snapshots.glob(".tmp-*"))


def test_what_is_being_written_goes_on_when_a_newer_one_would_not_fit(make: Callable[..., Bench]) -> None:
    bench = make(limit=8 * MB)
    bench.image(10, size=4 * SIZE, hold=True)
    bench.until(lambda: bench.drain.writing is not None and bench.drain.writing.written >= 8 * MB)
    bench.image(11, size=8 * SIZE)
    bench.drain.rate = 0.0
    bench.drain._sent_at = time.monotonic() - bench.drain._waited - 4.0  # as a disk of 2 MB/s would look
    ended = bench.flush(40.0)
    assert (ended.step, ended.late) == (10, True)
    assert bench.plan()["steps"] == [10]
    assert bench.durable() == (10,)
    assert not bench.persistence.memory_is_durable
    assert "only what is being written already fits" in bench.said()


def test_what_is_in_memory_goes_to_disk_at_once_if_a_later_one_would_come_too_late(
    make: Callable[..., Bench],
) -> None:
    bench = make()
    bench.image(9, hold=True)
    bench.until(lambda: bench.persistence.durable == 9)
    bench.image(10)
    now = time.monotonic()
    bench.drain.rate = SIZE / 5.0  # 5 s
    bench.persistence.workers_leave(now + 10, None)
    bench.persistence.workers_leave(now + 10, now + 20)  # there are 10 s after the workers
    bench.persistence.workers_leave(now + 2, now + 4)  # it would be late in any case
    assert bench.memory.held_steps() == []
    bench.persistence.workers_leave(now + 10, now + 12)
    assert bench.memory.held_steps() == [10]
    assert bench.flush(30.0) == on.FlushEnded(10)


def test_nobody_waits_for_a_restore_that_nobody_will_use(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.image(9, hold=True)
    bench.until(lambda: bench.persistence.durable == 9)
    os.kill(bench.drain.pid, signal.SIGSTOP)
    bench.persistence.restore(9)
    assert bench.flush(60.0) == on.FlushEnded(9)
    assert bench.persistence.memory_is_durable


def test_the_limit_is_off_for_what_waits_behind_the_one_being_written_when_the_run_ends(
    make: Callable[..., Bench],
) -> None:
    bench = make(limit=MB / 10)  # 160 s for an image
    bench.image(10, hold=True)
    bench.image(11, hold=True)  # the workers' last, which was seen before they were gone
    bench.until(lambda: bench.drain.writing is not None and bench.drain.pending(11))
    assert bench.flush() == on.FlushEnded(11)
    assert bench.durable() == (10, 11)


def test_the_limit_is_off_from_the_moment_the_workers_are_asked_to_leave(make: Callable[..., Bench]) -> None:
    bench = make(limit=MB / 10)
    bench.image(10, hold=True)
    bench.until(lambda: bench.drain.writing is not None)
    now = time.monotonic()
    bench.persistence.workers_leave(now + 100, now + 200)
    bench.until(lambda: bench.persistence.durable == 10)
    bench.image(11)
    bench.persistence.workers_leave(now + 200, now + 200)  # it goes to disk now, and at full speed
    bench.until(lambda: bench.persistence.durable == 11)


def test_an_image_that_is_overwritten_while_it_is_written_to_disk_never_becomes_a_snapshot(
    make: Callable[..., Bench],
) -> None:
    """It was held from outside in the moment in which the worker had chosen its slot to write next."""
    bench = make(limit=4 * MB)
    bench.image(10, hold=True)
    bench.until(lambda: bench.drain.writing is not None and bench.drain.writing.written > 0)
    slot = bench.memory.arenas[0].find(10)
    assert slot is not None
    slot.begin(11, SIZE)
    slot.image[:] = bytes(SIZE)
    slot.complete(bench.memory.arenas[0].next_sequence(), {}, hold=False)
    bench.drain.hurry()
    bench.until(lambda: not bench.drain.busy)
    assert bench.durable() == ()
    assert "no longer holds step 10" in bench.said()
    assert not list(bench.paths.snapshots.glob(".tmp-*"))


class CannotDelete(MeteredStorage):
    """A network filesystem where somebody has a file open in what is to go."""

    def remove_tree(self, path: Path) -> None:
        raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(path))


def test_a_snapshot_is_durable_though_an_older_one_cannot_be_deleted(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.image(9, hold=True)  # a drain that is only just starting would take what is committed here for leftovers
    bench.until(lambda: bench.persistence.durable == 9)
    retention = asdict(RetentionSettings(last=1))
    details = {"run_id": "run", "round": 0, "parent": None, "versions": {}, "retention": retention}
    for step in (10, 11):
        bench.image(step, hold=True)
        slot = bench.memory.arenas[0].find(step)
        assert slot is not None
        meant = {"step": step, "slots": {"0": str(slot.path)}, "begun": {"0": slot.info().begun}, "growing": False}
        storage = CannotDelete(lambda _: None, lambda: False)
        answer = persist(storage, bench.paths.snapshots, {"op": "persist", **meant, **details})
        assert answer["event"] == "persisted"
    assert max(bench.durable()) == 11


@pytest.mark.parametrize(
    ("number", "event"), [(errno.ESTALE, "failed"), (errno.EACCES, "failed"), (errno.EIO, "rejected")]
)
def test_a_snapshot_that_cannot_be_read_at_the_moment_is_not_called_corrupt(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch, number: int, event: str
) -> None:
    """All others could not be read either, and the run would be left with none."""
    bench = make()
    bench.image(9, hold=True)
    bench.until(lambda: bench.persistence.durable == 9)
    bench.memory.void()

    def fail(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(catalog, "read_exactly", fail)
    request = {"op": "restore", "step": 9, "slots": {"0": str(bench.memory.arenas[0].slots[0].path)}, "sequence": 1}
    assert restore(Storage(), bench.paths.snapshots, request)["event"] == event
    assert bench.durable() == (() if event == "rejected" else (9,))


def test_what_memory_holds_stays_until_the_snapshot_from_disk_is_sound(make: Callable[..., Bench]) -> None:
    bench = make()
    for step in (50, 60):
        bench.image(step, hold=True)
        bench.until(lambda step=step: bench.persistence.durable == step)  # type: ignore[misc]
    bench.memory.void()
    bench.image(55)
    flip_bit(bench.paths.snapshot(60) / image_name(0), 5000)
    events: list[on.Event] = []

    def restore(step: int) -> on.Event:
        bench.persistence.restore(step)
        while not events:
            bench.drain.connection.settimeout(30)
            if (event := bench.persistence.receive()) is not None:
                events.append(event)
        return events.pop()

    assert isinstance(restore(60), on.SnapshotRejected)
    assert bench.memory.newest_step() == 55
    bench.image(45)
    assert isinstance(restore(50), on.SnapshotRestored)
    assert [slot.info().step for slot in bench.memory.arenas[0].slots if slot.info().complete] == [50]
    newest = bench.memory.arenas[0].newest()
    assert newest is not None
    assert newest.info().step == 50


def _restored(bench: Bench, step: int) -> on.Event:
    bench.persistence.restore(step)
    while True:
        bench.drain.connection.settimeout(30)
        if (event := bench.persistence.receive()) is not None:
            return event


def test_what_phases_take_goes_with_the_snapshot_and_comes_back_with_it(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.durations = {"step": 0.25, "eval": 40.0}
    bench.image(9, hold=True)
    bench.until(lambda: bench.persistence.durable == 9)
    assert _restored(bench, 9) == on.SnapshotRestored(9, durations={"step": 0.25, "eval": 40.0})


def test_a_drain_that_stands_still_over_a_restore_is_replaced_and_nothing_that_was_to_be_written_is_lost(
    make: Callable[..., Bench],
) -> None:
    bench = make()
    bench.image(9, hold=True)
    bench.until(lambda: bench.persistence.durable == 9)
    stuck = bench.drain.pid
    os.kill(stuck, signal.SIGSTOP)
    bench.persistence.restore(9)
    bench.image(10, hold=True)
    bench.persistence.persist_held(0)
    bench.persistence.abandon_restore(on.Tier.LOCAL)
    assert [request["op"] for request in bench.drain._queue] == ["persist"]
    bench.until(lambda: bench.persistence.durable == 10)
    assert bench.drain.pid != stuck
    assert isinstance(_restored(bench, 9), on.SnapshotRestored)


# --- rollbacks


def rolled_back(target: int, number: int = 0) -> Lineage:
    return Lineage().rolled_back(Rollback(target, 99, number))


def test_after_a_rollback_nothing_later_is_left_anywhere(make: Callable[..., Bench]) -> None:
    bench = make()
    for step in (10, 20):
        bench.commit(step)
    bench.image(23)
    bench.persistence.follow(rolled_back(10))
    bench.persistence.discard_after(10)
    assert bench.persistence.durable == 10  # at once, whenever the drain comes to it
    assert bench.memory.newest_step() == 10 or bench.memory.newest_step() is None
    listed = bench.persistence.list_snapshots()
    assert listed is not None
    assert listed.durable_steps == (10,)
    bench.until(lambda: not bench.drain.busy)
    assert bench.durable() == (10,)
    assert len(catalog.discarded(bench.paths.snapshots)) == 1


def test_what_is_being_written_of_a_discarded_step_is_cut_off(make: Callable[..., Bench]) -> None:
    bench = make(limit=MB / 10)  # 160 s for an image
    bench.image(20, hold=True)
    bench.until(lambda: bench.drain.writing is not None and bench.drain.writing.written > 0)
    bench.persistence.follow(rolled_back(10))
    bench.persistence.discard_after(10)
    bench.until(lambda: not bench.drain.busy)
    assert bench.durable() == ()
    assert bench.memory.newest_step() is None


def test_what_waits_of_an_earlier_step_is_still_written(make: Callable[..., Bench]) -> None:
    bench = make(limit=MB / 10)
    bench.image(10, hold=True)
    bench.turn()
    bench.image(20, hold=True)
    bench.turn()
    bench.persistence.follow(rolled_back(10))
    bench.persistence.discard_after(10)
    assert bench.flush() == on.FlushEnded(10)
    assert bench.durable() == (10,)


def test_nothing_of_a_discarded_step_is_begun_while_its_workers_are_still_there(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.persistence.follow(rolled_back(10))
    bench.image(20, hold=True)
    bench.turn()
    assert not bench.drain.busy
    assert bench.memory.held_steps() == []
    bench.persistence.persist_held(1)  # what a later round takes of it counts
    bench.memory.hold(20)
    bench.persistence.persist_held(1)
    assert bench.drain.busy


def test_a_successor_finishes_a_rollback_that_was_only_written_down(make: Callable[..., Bench]) -> None:
    bench = make()
    for step in (10, 20):
        bench.commit(step)
    bench.image(22)
    bench.persistence.adopt_lineage(rolled_back(10))
    assert bench.memory.newest_step() in (10, None)
    bench.until(lambda: not bench.drain.busy)
    assert bench.durable() == (10,)


def test_a_rollback_whose_round_has_begun_leaves_the_memory_alone(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.image(22)
    bench.persistence.adopt_lineage(rolled_back(10).launched())
    assert bench.memory.newest_step() == 22


def test_a_durable_snapshot_is_told_with_what_retention_has_removed(make: Callable[..., Bench]) -> None:
    bench = make()
    told: list[on.Event] = []
    for step in range(10, 60, 10):
        bench.image(step, hold=True)
        bench.persistence.persist_held(0)
        while not any(isinstance(event, on.SnapshotDurable) and event.step == step for event in told):
            bench.drain.connection.settimeout(60)
            if (event := bench.persistence.receive()) is not None:
                told.append(event)
    assert [event.step for event in told if isinstance(event, on.SnapshotDurable)] == [10, 20, 30, 40, 50]
    removed = {step for event in told if isinstance(event, on.SnapshotDurable) for step in event.removed}
    assert removed
    assert set(bench.durable()) == {10, 20, 30, 40, 50} - removed


def test_a_full_disk_loses_what_was_discarded_before_anything_else(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.image(20, hold=True)
    bench.until(lambda: bench.persistence.durable == 20)
    bench.persistence.follow(rolled_back(10))
    bench.persistence.discard_after(10)
    bench.until(lambda: not bench.drain.busy)
    commit(Storage(), bench.paths.snapshots, Draft("run", 5, 0, {0: memoryview(b"older")}))

    class Tight(MeteredStorage):
        """Has room once something was deleted."""

        def free_bytes(self, path: Path) -> int:
            return 0 if catalog.discarded(bench.paths.snapshots) else super().free_bytes(path)

    bench.image(30)
    slots = bench.memory.slots_of(30)
    assert slots is not None
    request = {
        "step": 30,
        "run_id": "run",
        "round": 1,
        "parent": None,
        "versions": {},
        "retention": asdict(RetentionSettings(last=1)),
        "slots": {"0": str(slots[0].path)},
        "begun": {"0": slots[0].info().begun},
        "growing": False,
    }
    answer = persist(Tight(lambda _: None, lambda: False), bench.paths.snapshots, request)
    assert answer["event"] == "persisted"
    assert answer["removed"] == [5]  # retention's, afterwards
    assert not catalog.discarded(bench.paths.snapshots)
