"""Storage with a limit, on a clock that only moves when it is slept on."""

from __future__ import annotations

from pathlib import Path

import pytest

from resilient.supervisor.metered import MeteredStorage

MB = 1 << 20


class Time:
    def __init__(self) -> None:
        self.now = 100.0

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Meter:
    """The storage, and what it has told."""

    def __init__(self, hurry_after: float = 1e9) -> None:
        self.time = Time()
        self.told: list[int] = []
        self.storage = MeteredStorage(
            self.told.append, lambda: self.time.now > hurry_after, clock=self.time.clock, sleep=self.time.sleep
        )

    def write(self, path: Path, size: int) -> None:
        self.storage.write(path, lambda append: append(memoryview(bytes(range(256)) * (size // 256))))


def test_without_a_limit_nothing_waits_and_progress_is_told(tmp_path: Path) -> None:
    meter = Meter()
    meter.storage.start(0)
    meter.write(tmp_path / "image", 20 * MB)
    assert meter.time.now == 100.0
    assert meter.told == [8 * MB, 16 * MB, 20 * MB]
    assert (tmp_path / "image").read_bytes() == bytes(range(256)) * (20 * MB // 256)


def test_a_limit_is_kept_over_all_files_of_a_snapshot(tmp_path: Path) -> None:
    meter = Meter()
    meter.storage.start(10 * MB)
    meter.write(tmp_path / "one", 20 * MB)
    meter.write(tmp_path / "two", 10 * MB)
    assert meter.time.now == pytest.approx(103.0)
    assert meter.storage.waited == pytest.approx(3.0)


def test_each_snapshot_begins_anew(tmp_path: Path) -> None:
    meter = Meter()
    meter.storage.start(10 * MB)
    meter.write(tmp_path / "one", 20 * MB)
    meter.storage.start(0)
    meter.write(tmp_path / "two", 20 * MB)
    assert meter.time.now == pytest.approx(102.0)
    assert meter.storage.waited == 0.0


def test_once_hurried_the_limit_is_off(tmp_path: Path) -> None:
    meter = Meter(hurry_after=101.0)
    meter.storage.start(MB)
    meter.write(tmp_path / "image", 100 * MB)
    assert meter.time.now == pytest.approx(101.0, abs=0.11)
    assert meter.told[-1] == 100 * MB


def test_what_a_limit_costs_is_told_while_it_costs_it(tmp_path: Path) -> None:
    """Or a disk that only has to wait is taken for a slow one, in the moment in which its speed decides."""
    told: list[tuple[float, float]] = []
    time = Time()
    storage = MeteredStorage(
        lambda _: told.append((time.now, storage.waited)), lambda: False, clock=time.clock, sleep=time.sleep
    )
    storage.start(MB / 10)
    storage.write(tmp_path / "image", lambda append: append(memoryview(bytes(MB))))
    assert max(later - earlier for (earlier, _), (later, _) in zip(told, told[1:], strict=False)) < 1.0
    assert all(waited == pytest.approx(now - 100.0) for now, waited in told)
