"""The bell by which workers wake the supervisor of their node."""

from __future__ import annotations

import itertools
import select
import time
from pathlib import Path

from resilient.protocol.bell import NAME, SPACING, Bell


def made(directory: Path) -> Bell:
    bell = Bell.create(directory)
    assert bell is not None
    return bell


def test_a_ring_is_heard_once_however_many_have_rung(tmp_path: Path) -> None:
    supervisor = made(tmp_path)
    workers = [Bell.open(tmp_path), Bell.open(tmp_path)]
    assert not supervisor.hear()
    for worker in workers:
        assert worker is not None
        worker.ring()
    assert select.select([supervisor], [], [], 0)[0]
    assert supervisor.hear()
    assert not supervisor.hear()
    assert not select.select([supervisor], [], [], 0)[0]


def test_nobody_waits_for_a_supervisor_that_does_not_hear(tmp_path: Path) -> None:
    bell = Bell.create(tmp_path, itertools.count().__next__)
    assert bell is not None
    for _ in range(1 << 17):  # more than a pipe holds
        bell.ring()
    bell.close()


def test_very_short_steps_are_not_all_rung_for(tmp_path: Path) -> None:
    supervisor, moments = made(tmp_path), iter([1.0, 1.0 + SPACING / 2, 1.0 + SPACING])
    worker = Bell.open(tmp_path, lambda: next(moments))
    assert worker is not None
    heard = []
    for _ in range(3):
        worker.ring()
        heard.append(supervisor.hear())
    assert heard == [True, False, True]


def test_a_worker_outlives_the_supervisor_and_rings_for_the_next_one(tmp_path: Path) -> None:
    first = made(tmp_path)
    worker = Bell.open(tmp_path)
    assert worker is not None
    first.close()
    worker.ring()
    second = made(tmp_path)
    time.sleep(SPACING)
    worker.ring()
    assert second.hear()


def test_where_there_is_none_there_is_none(tmp_path: Path) -> None:
    assert Bell.open(tmp_path) is None
    (tmp_path / NAME).write_text("not a pipe")
    assert Bell.create(tmp_path) is None
    assert Bell.create(tmp_path / "nowhere") is None
