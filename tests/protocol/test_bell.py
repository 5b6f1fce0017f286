"""The bell by which workers wake the supervisor of their node."""

from __future__ import annotations

import select
from pathlib import Path

from resilient.protocol.bell import NAME, Bell, BellPull, Ring


def made(directory: Path) -> Bell:
    bell = Bell.create(directory)
    assert bell is not None
    return bell


def found(directory: Path) -> BellPull:
    pull = BellPull.find(directory)
    assert pull is not None
    return pull


def wakes(bell: Bell) -> bool:
    return bool(select.select([bell], [], [], 0)[0])


def test_a_ring_is_heard_once_however_many_have_rung(tmp_path: Path) -> None:
    supervisor, workers = made(tmp_path), [found(tmp_path), found(tmp_path)]
    assert supervisor.hear() is Ring.NOTHING
    for worker in workers:
        worker.ring()
    assert wakes(supervisor)
    assert supervisor.hear() is Ring.NEWS
    assert supervisor.hear() is Ring.NOTHING
    assert not wakes(supervisor)


def test_whoever_has_heard_it_is_not_woken_before_it_listens_and_misses_nothing(tmp_path: Path) -> None:
    supervisor, worker = made(tmp_path), found(tmp_path)
    worker.ring()
    assert supervisor.hear() is Ring.NEWS
    worker.ring()
    assert not wakes(supervisor), "one look will be enough for both"
    assert supervisor.listen() is Ring.NEWS
    assert not wakes(supervisor), "that ring has been heard"
    worker.ring()
    assert wakes(supervisor)
    assert supervisor.listen() is Ring.NOTHING, "it is listened to, and still to be heard"
    assert supervisor.hear() is Ring.NEWS


def test_of_several_rings_one_that_somebody_waits_for_counts(tmp_path: Path) -> None:
    supervisor, worker = made(tmp_path), found(tmp_path)
    worker.ring()
    worker.ring(waiting=True)
    worker.ring()
    assert supervisor.hear() is Ring.WAITING


def test_nobody_waits_for_a_supervisor_that_does_not_hear(tmp_path: Path) -> None:
    supervisor, worker = made(tmp_path), found(tmp_path)
    for _ in range(1 << 17):  # more than a pipe holds
        worker.ring()
    assert supervisor.hear() is Ring.NEWS
    supervisor.close()
    worker.close()


def test_a_worker_outlives_the_supervisor_and_rings_for_the_next_one(tmp_path: Path) -> None:
    first, worker = made(tmp_path), found(tmp_path)
    first.close()
    worker.ring()
    assert made(tmp_path).hear() is Ring.NEWS


def test_where_there_is_none_there_is_none(tmp_path: Path) -> None:
    assert BellPull.find(tmp_path) is None
    (tmp_path / NAME).write_text("not a pipe")
    assert Bell.create(tmp_path) is None
    assert Bell.create(tmp_path / "nowhere") is None
