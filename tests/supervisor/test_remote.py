"""Copies in the remote tier, by a real uploader process: which are made, what waits, and what survives its death."""

from __future__ import annotations

import io
import math
import os
import select
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from resilient.drill.faults import flip_bit
from resilient.policy import events as on
from resilient.policy.lineage import Lineage, Rollback
from resilient.protocol.arena import Arena
from resilient.protocol.lock import RunLock
from resilient.protocol.names import image_name
from resilient.protocol.paths import RunPaths, hostname
from resilient.protocol.remote_settings import RemoteSettings
from resilient.protocol.settings import RetentionSettings
from resilient.snapshot import catalog
from resilient.snapshot.prune import prune
from resilient.snapshot.remote import RemoteTier, current
from resilient.snapshot.storage import Storage
from resilient.supervisor.console import Console
from resilient.supervisor.journal import Journal, read_journal
from resilient.supervisor.remote import RemoteCopies
from resilient.supervisor.uploads import Uploads
from tests.buckets import bare, make_snapshot

SLOW = 1e5  # bytes per second: a second snapshot of 300 kB waits for seconds


class Bench:
    """A run's local snapshots and their copies, without anything else of a run."""

    def __init__(self, root: Path, **settings: Any) -> None:
        self.place = root / "remote"
        self.place.mkdir(exist_ok=True)
        self.settings = RemoteSettings(url=str(self.place), attempts=1, **settings)
        self.paths = RunPaths.of(root, "demo")
        self.paths.create()
        self.lock = RunLock(self.paths.lock, hostname())
        self.journal = Journal(self.paths.journal)
        self.text = io.StringIO()
        self.console = Console(io.StringIO(), self.text)
        self.late = 0.0
        self.uploads = Uploads(
            self.settings, self.paths.snapshots, "demo", lock=self.lock.fileno(), log=root / "uploads.log"
        )
        self.copies = RemoteCopies(
            self.uploads,
            self.paths,
            journal=self.journal,
            console=self.console,
            clock=lambda: time.monotonic() + self.late,
        )
        self.events: list[on.Event] = []

    def commit(self, step: int, size: int = 3000, *, tell: bool = True) -> None:
        make_snapshot(self.paths.snapshots, step, os.urandom(size))
        if tell:
            self.copies.committed(step)

    def upload(self, step: int) -> None:
        """Commit a snapshot, and wait until it is there."""
        self.commit(step)
        self.until(lambda: not self.uploads.busy)
        assert step in self.there()

    def until(self, condition: Callable[[], Any]) -> None:
        """The supervisor's loop, as far as it concerns us."""
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, self.said()
            self.turn()

    def turn(self) -> None:
        self.copies.poll()
        if select.select([self.uploads.connection], [], [], 0.02)[0] and (event := self.copies.receive()) is not None:
            self.events.append(event)

    def end(self, step: int, by: float = math.inf) -> str | None:
        """The end of the run, as the supervisor's loop waits for it; returns what is not there."""
        self.copies.finish(step, by)
        while not (ended := self.copies.finished())[0]:
            self.turn()
            self.copies.finish(step, by)
        return ended[1]

    def there(self) -> list[int]:
        return list(current(RemoteTier(bare(self.settings)).items()))

    def notes(self, name: str) -> list[dict[str, Any]]:
        return [entry.get("data", entry) for entry in read_journal(self.paths.journal) if entry["name"] == name]

    def said(self) -> str:
        self.console.flush()
        return self.text.getvalue()

    def close(self) -> None:
        self.uploads.close()
        self.journal.close()
        self.lock.release()


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    benches: list[Bench] = []

    def make_bench(**settings: Any) -> Bench:
        for earlier in benches:
            earlier.close()
        benches.append(Bench(tmp_path, **settings))
        return benches[-1]

    yield make_bench
    benches[-1].close()


def test_every_durable_snapshot_is_copied_by_default(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.commit(10)
    bench.until(lambda: bench.there() == [10])
    bench.commit(20)
    bench.until(lambda: bench.there() == [10, 20])


@pytest.mark.parametrize(
    ("settings", "step", "since", "wanted"),
    [
        ({}, 7, 0.0, True),
        ({"every_steps": 10}, 20, 0.0, True),
        ({"every_steps": 10}, 25, 1e9, False),
        ({"every_seconds": 60.0}, 25, 59.0, False),
        ({"every_seconds": 60.0}, 25, 60.0, True),
        ({"every_steps": 10, "every_seconds": 60.0}, 20, 0.0, True),
        ({"every_steps": 10, "every_seconds": 60.0}, 25, 61.0, True),
    ],
)
def test_which_are_due(settings: dict[str, Any], step: int, since: float, wanted: bool) -> None:
    assert RemoteSettings(**settings).wants(step, since) is wanted


def test_where_uploads_are_slower_than_snapshots_the_newest_replaces_the_one_that_waits(
    make: Callable[..., Bench],
) -> None:
    bench = make(bytes_per_second=SLOW)
    for step in (10, 20, 30, 40):
        bench.commit(step, 150_000)
    assert bench.uploads.uploading == 10
    assert bench.copies.in_use() == (10, 40)
    assert [note["step"] for note in bench.notes("upload superseded")] == [20, 30]
    bench.until(lambda: len(bench.notes("Uploaded")) == 2)
    assert bench.there() == [10, 40]
    assert bench.copies.in_use() == ()


def test_local_retention_spares_what_is_being_uploaded_or_waits(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.copies.open()
    bench.until(lambda: bench.copies.ready(nearer=False))
    for step in (10, 20, 30, 40):
        bench.commit(step, tell=False)
    bench.copies.committed(10)
    bench.copies.committed(20)
    removed = prune(Storage(), bench.paths.snapshots, RetentionSettings(last=1), bench.copies.in_use())
    assert removed == [30]
    bench.until(lambda: bench.there() == [10, 20])


def test_an_uploader_that_is_killed_is_started_again_and_goes_on(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.commit(10)
    os.kill(bench.uploads.pid, signal.SIGKILL)
    bench.until(lambda: bench.there() == [10])


def test_an_uploader_that_cannot_live_is_not_started_for_ever(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.commit(10)
    killed: set[int] = set()

    def kill_each() -> bool:
        if bench.uploads.busy and bench.uploads.pid not in killed:
            killed.add(bench.uploads.pid)
            os.kill(bench.uploads.pid, signal.SIGKILL)
        return bool(bench.notes("UploadFailed"))

    bench.until(kill_each)
    assert len(killed) == 3
    assert "died 3 times" in bench.said()


def test_sigterm_to_everybody_does_not_end_the_uploader(make: Callable[..., Bench]) -> None:
    bench = make()
    os.kill(bench.uploads.pid, signal.SIGTERM)
    bench.commit(10)
    pid = bench.uploads.pid
    bench.until(lambda: bench.there() == [10])
    assert bench.uploads.pid == pid


def test_a_restore_does_not_wait_for_an_upload(make: Callable[..., Bench], tmp_path: Path) -> None:
    bench = make()
    bench.commit(10)
    bench.until(lambda: bench.there() == [10])
    bench = make(bytes_per_second=1.0)  # each upload but the first takes for ever
    bench.copies.open()
    bench.until(lambda: bench.copies.ready(nearer=False))
    bench.commit(20)
    bench.until(lambda: not bench.uploads.busy)
    assert bench.there() == [10, 20]
    bench.commit(30)
    assert bench.uploads.uploading == 30
    (tmp_path / "slots").mkdir()
    arena = Arena.shared(tmp_path / "slots", 0, 2)
    bench.copies.restore(10, {0: arena.slots[0]}, 1)
    bench.until(lambda: bench.events)
    assert bench.events == [on.SnapshotRestored(10, on.Tier.REMOTE)]
    assert arena.slots[0].info().step == 10
    assert bytes(arena.slots[0].image) == (bench.paths.snapshot(10) / image_name(0)).read_bytes()
    assert bench.copies.identity == catalog.read_manifest(bench.paths.snapshot(10)).identity
    assert bench.uploads.uploading == 30, "and the upload goes on after it"
    arena.close()


def test_a_damaged_remote_snapshot_is_rejected_once_and_no_longer_known(
    make: Callable[..., Bench], tmp_path: Path
) -> None:
    bench = make()
    for step in (10, 20):
        bench.commit(step)
        bench.until(lambda: not bench.uploads.busy)
    (name,) = [path.name for path in (bench.place / "demo").iterdir() if path.name.startswith("step-000000020")]
    flip_bit(bench.place / "demo" / name / image_name(0), offset=100)
    (tmp_path / "slots").mkdir()
    arena = Arena.shared(tmp_path / "slots", 0, 2)
    bench.copies.restore(20, {0: arena.slots[0]}, 1)
    bench.until(lambda: bench.events)
    (event,) = bench.events
    assert isinstance(event, on.SnapshotRejected)
    assert (event.step, event.tier) == (20, on.Tier.REMOTE)
    assert "checksum mismatch in bytes 0 to 3000" in event.reason
    listed = bench.copies.complete(on.SnapshotsListed())
    assert (listed.remote_steps, listed.quarantined) == ((10,), 1)
    assert not arena.slots[0].info().complete
    assert bench.there() == [10]
    arena.close()


def test_at_the_start_what_lies_there_is_learned_and_what_was_cut_short_is_taken_up(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.commit(10)
    bench.until(lambda: bench.there() == [10])
    bench.commit(20, tell=False)
    bench = make(every_steps=1000)
    assert not bench.copies.ready(nearer=True)
    bench.copies.open()
    bench.until(lambda: bench.copies.ready(nearer=True))
    assert bench.copies.complete(on.SnapshotsListed()).remote_steps == (10,)
    bench.until(lambda: bench.there() == [10, 20])


def test_what_lies_there_already_is_not_uploaded_again(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.commit(10)
    bench.until(lambda: bench.there() == [10])
    bench = make()
    bench.copies.open()
    bench.until(lambda: bench.copies.ready(nearer=True))
    assert not bench.uploads.busy
    assert bench.end(10) is None


def test_a_remote_tier_that_is_away_is_said_once_and_tried_again_later(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.place.rename(bench.place.with_name("unmounted"))
    bench.copies.open()
    bench.until(lambda: bench.copies.ready(nearer=False))
    listed = bench.copies.complete(on.SnapshotsListed())
    assert "mount the disk" in str(listed.remote_problem)
    bench.commit(10)
    bench.until(lambda: bench.notes("UploadFailed"))
    for _ in range(5):
        bench.turn()
    assert len(bench.notes("UploadFailed")) == 1, "there is a pause before it is tried again"
    assert bench.copies.in_use() == (10,)
    bench.place.with_name("unmounted").rename(bench.place)
    bench.late += 10.0
    bench.until(lambda: bench.there() == [10])
    bench.until(lambda: bench.copies.complete(on.SnapshotsListed()).remote_problem is None)
    assert bench.said().count("WARNING") == 2


def test_an_answer_that_does_not_come_is_waited_for_only_where_nothing_else_is(
    make: Callable[..., Bench],
) -> None:
    bench = make(patience_seconds=5.0)
    os.kill(bench.uploads.pid, signal.SIGSTOP)
    bench.copies.open()
    assert not bench.copies.ready(nearer=True)
    bench.late = 6.0
    assert not bench.copies.ready(nearer=False)
    assert bench.copies.ready(nearer=True)
    assert "no answer within 5 s" in str(bench.copies.complete(on.SnapshotsListed(5)).remote_problem)
    assert "there may be newer snapshots" in bench.said()
    os.kill(bench.uploads.pid, signal.SIGCONT)


def test_the_end_waits_for_the_last_snapshot(make: Callable[..., Bench]) -> None:
    bench = make(every_steps=1000)
    bench.commit(10)
    assert not bench.uploads.busy
    bench.copies.finish(10, math.inf)
    assert bench.copies.finished() == (False, None)
    assert bench.copies.in_use() == (10,)
    assert bench.end(10) is None
    assert bench.there() == [10]


def test_the_end_does_not_wait_longer_than_there_is_time(make: Callable[..., Bench]) -> None:
    bench = make(bytes_per_second=1.0)
    bench.commit(10)
    bench.until(lambda: bench.there() == [10])
    bench.commit(20, tell=False)
    problem = bench.end(20, time.monotonic() + 0.5)
    assert problem == "there was no time to upload step 20; what has been sent of it is kept"
    assert not bench.uploads.busy


def test_the_end_says_why_the_last_snapshot_is_not_there(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.commit(10, tell=False)
    shutil.rmtree(bench.place)
    assert "step 10 could not be uploaded" in str(bench.end(10))


def test_a_local_copy_that_is_gone_or_damaged_is_said_and_not_tried_again(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.commit(10, tell=False)
    shutil.rmtree(bench.paths.snapshot(10))
    bench.copies.committed(10)
    bench.until(lambda: len(bench.notes("UploadFailed")) == 1)
    bench.commit(20, tell=False)
    flip_bit(bench.paths.snapshot(20) / image_name(0), offset=100)
    bench.copies.committed(20)
    bench.until(lambda: len(bench.notes("UploadFailed")) == 2)
    assert bench.copies.in_use() == ()
    gone, damaged = (note["problem"] for note in bench.notes("UploadFailed"))
    assert gone == "it has been deleted here meanwhile"
    assert "the local copy is damaged" in damaged
    assert bench.there() == []
    bench.commit(30)
    bench.until(lambda: bench.there() == [30])


# --- rollbacks


def test_discarded_copies_are_not_chosen_and_go_with_the_next_upload(make: Callable[..., Bench]) -> None:
    bench = make()
    for step in (10, 20):
        bench.upload(step)
    lineage = Lineage().rolled_back(Rollback(10, 25, 0))
    bench.copies.lineage = lineage
    bench.copies.discard_after(10)
    listed = bench.copies.complete(on.SnapshotsListed(None, (10,), 0))
    assert listed.remote_steps == (10,)
    make_snapshot(bench.paths.snapshots, 15, os.urandom(300), round_number=1)
    bench.copies.committed(15)
    bench.until(lambda: bench.there() == [10, 15])


def test_an_upload_of_a_discarded_step_is_cut_off_and_what_waits_forgotten(make: Callable[..., Bench]) -> None:
    bench = make(bytes_per_second=SLOW)
    bench.upload(10)
    bench.commit(20, 3_000_000)
    bench.commit(30)
    assert bench.uploads.uploading == 20
    bench.copies.lineage = Lineage().rolled_back(Rollback(10, 35, 0))
    bench.copies.discard_after(10)
    assert not bench.uploads.busy
    assert bench.copies.in_use() == ()
    make_snapshot(bench.paths.snapshots, 15, os.urandom(300), round_number=1)
    bench.copies.committed(15)
    bench.until(lambda: bench.there() == [10, 15])


def test_the_newest_copy_says_what_the_lineage_was_and_which_round_was_the_last(make: Callable[..., Bench]) -> None:
    lineage = Lineage().rolled_back(Rollback(10, 25, 4)).launched()
    bench = make()
    make_snapshot(bench.paths.snapshots, 15, os.urandom(300), round_number=5, divergence={"lineage": lineage.to_json()})
    bench.copies.committed(15)
    bench.until(lambda: bench.there() == [15])
    shutil.rmtree(bench.paths.snapshots)
    bare_machine = make()
    bare_machine.copies.open()
    bare_machine.until(lambda: bare_machine.copies.told is not None)
    assert bare_machine.copies.told == (lineage, 5)
