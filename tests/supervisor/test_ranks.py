"""A run goes on with the number of ranks it was begun with, and says so when it is asked for another."""

from __future__ import annotations

from pathlib import Path

import pytest

from resilient.errors import ConfigurationError
from resilient.protocol.paths import RunPaths
from resilient.snapshot.commit import Draft, commit
from resilient.snapshot.storage import Storage
from resilient.supervisor.memory import RunMemory
from resilient.supervisor.ranks import require_ranks
from resilient.supervisor.settings import WorkerSettings


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    paths = RunPaths.of(tmp_path, "run")
    paths.create()
    return paths


def memory_of(paths: RunPaths, ranks: int) -> RunMemory:
    return RunMemory(paths.root / "shared", ranks, 2, paths.identity(), paths.root)


def leave_images(paths: RunPaths, ranks: int, step: int) -> None:
    memory = memory_of(paths, ranks)
    for arena in memory.arenas.values():
        arena.slots[0].begin(step, 64)
        arena.slots[0].complete(1, {}, hold=False)
    memory.close()


@pytest.mark.parametrize("ranks", [0, -1, 5000])
def test_a_senseless_number_is_refused(ranks: int) -> None:
    with pytest.raises(ConfigurationError, match=r"worker\.ranks must be at least 1"):
        WorkerSettings(script="train.py", ranks=ranks)


@pytest.mark.parametrize(("before", "now"), [(1, 2), (2, 1), (2, 3)])
def test_a_snapshot_of_another_number_of_ranks(paths: RunPaths, before: int, now: int) -> None:
    images = {rank: memoryview(b"x" * 64) for rank in range(before)}
    commit(Storage(), paths.snapshots, Draft("run", 5, 0, images))
    require_ranks(paths, paths.root / "shared", before)
    with pytest.raises(ConfigurationError, match=rf"worker\.ranks is {now}, but the snapshot of step 5") as caught:
        require_ranks(paths, paths.root / "shared", now)
    assert f"worker.ranks={before}" in str(caught.value)


def test_the_newest_snapshot_that_can_be_read_counts(paths: RunPaths) -> None:
    for step, ranks in ((5, 2), (6, 1)):
        images = {rank: memoryview(b"x" * 64) for rank in range(ranks)}
        commit(Storage(), paths.snapshots, Draft("run", step, 0, images))
    (paths.snapshot(6) / "manifest.json").write_text("{")
    require_ranks(paths, paths.root / "shared", 2)


@pytest.mark.parametrize(("before", "now"), [(1, 2), (2, 1)])
def test_memory_of_another_number_of_ranks_is_neither_lost_nor_used(paths: RunPaths, before: int, now: int) -> None:
    leave_images(paths, before, 9)
    with pytest.raises(ConfigurationError, match=rf"the state of step 9 .* is that of {before}"):
        require_ranks(paths, paths.root / "shared", now)
    with pytest.raises(ConfigurationError, match="the state of step 9"):
        memory_of(paths, now)
    memory = memory_of(paths, before)
    assert memory.newest_step() == 9
    memory.remove()


def test_memory_with_nothing_in_it_makes_way(paths: RunPaths) -> None:
    memory_of(paths, 3).close()
    require_ranks(paths, paths.root / "shared", 2)
    memory = memory_of(paths, 2)
    assert not list(memory.directory.glob("rank-00002*"))
    memory.remove()


def test_memory_of_another_run_says_nothing(paths: RunPaths) -> None:
    leave_images(paths, 2, 9)
    (paths.root / "shared" / "identity").write_text("another")
    require_ranks(paths, paths.root / "shared", 1)
    memory = memory_of(paths, 1)
    assert memory.newest_step() is None
    memory.remove()
