"""Shared memory of a small size, as it is really mounted, and limits of a cgroup."""

from __future__ import annotations

from pathlib import Path

import pytest

from resilient.doctor.finding import Level
from resilient.doctor.memory import Room, judge_limit, judge_room
from resilient.doctor.world import World
from resilient.protocol.settings import SnapshotSettings
from resilient.supervisor.cgroup import MemoryUse
from resilient.supervisor.memory import RunMemory
from resilient.supervisor.settings import WorkerSettings
from tests.doctor.worlds import check, look, subject, with_state
from tests.mounts import fill, mounted

MIB = 1 << 20
SHM = Path("/dev/shm")


def test_what_containers_have_by_default(tmp_path: Path) -> None:
    with mounted(tmp_path / "shm", "size=64m") as shm:
        finding = look(check("memory.shared"), World(shared_memory=shm))
    assert (finding.level, "by default" in finding.sentence) == (Level.WARNING, True)
    assert "--shm-size" in finding.next_step


def test_slots_without_room(tmp_path: Path) -> None:
    examined = with_state(subject(tmp_path), 40 * MIB)
    with mounted(tmp_path / "shm", "size=100m") as shm:
        finding = look(check("memory.shared"), World(examined, shared_memory=shm))
        assert (finding.level, "3 slots of 40.0 MiB need 120 MiB" in finding.sentence) == (Level.WARNING, True)
        roomier = look(check("memory.shared"), World(with_state(subject(tmp_path / "b"), 30 * MIB), shared_memory=shm))
        assert roomier.level is Level.OK


def test_no_room_at_all(tmp_path: Path) -> None:
    with mounted(tmp_path / "shm", "size=1m") as shm:
        fill(shm, but=0)
        assert look(check("memory.shared"), World(subject(tmp_path), shared_memory=shm)).level is Level.PROBLEM


def test_what_the_run_has_taken_already_is_its_own(tmp_path: Path) -> None:
    examined = with_state(subject(tmp_path), 20 * MIB)
    with mounted(tmp_path / "shm", "size=100m") as shm:
        place = RunMemory.place(examined.paths, str(shm))
        place.mkdir()
        (place / "rank-00000.slot-0").write_bytes(bytes(60 * MIB))
        assert look(check("memory.shared"), World(examined, shared_memory=shm)).level is Level.OK
        (place / "rank-00000.slot-0").rename(shm / "of-others")
        assert look(check("memory.shared"), World(examined, shared_memory=shm)).level is Level.WARNING


def test_a_directory_that_was_chosen_and_is_not_there(tmp_path: Path) -> None:
    examined = subject(tmp_path, snapshot=SnapshotSettings(memory_dir=str(tmp_path / "none")))
    assert look(check("memory.shared"), World(examined)).level is Level.WARNING


def test_room_for_each_rank() -> None:
    finding = judge_room(SHM, Room(total=4096 * MIB, free=2400 * MIB), None, slots=3, ranks=4)
    assert (finding.level, "a state of 200 MiB for each of 4 ranks" in finding.sentence) == (Level.OK, True)


@pytest.mark.parametrize(
    ("limit", "need", "level"),
    [
        (None, 500, Level.OK),
        (100, None, Level.NOTE),
        (100, 20, Level.OK),
        (100, 60, Level.WARNING),
        (100, 95, Level.PROBLEM),
    ],
)
def test_slots_count_to_the_memory_limit(limit: int | None, need: int | None, level: Level) -> None:
    assert judge_limit(MemoryUse(10, limit), need).level is level


@pytest.mark.parametrize("version", [1, 2])
def test_the_limit_of_a_cgroup(tmp_path: Path, version: int) -> None:
    proc, root = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "self/cgroup").write_text("0::/job\n" if version == 2 else "3:memory:/job\n")
    place = root / "job" if version == 2 else root / "memory/job"
    place.mkdir(parents=True)
    (place / ("memory.max" if version == 2 else "memory.limit_in_bytes")).write_text(f"{50 * MIB}\n")
    (place / ("memory.current" if version == 2 else "memory.usage_in_bytes")).write_text("4096\n")
    (place / ("memory.events" if version == 2 else "memory.oom_control")).write_text("oom_kill 0\n")
    world = World(with_state(subject(tmp_path / "runs"), 20 * MIB), proc=proc, cgroups=root)
    assert look(check("memory.limit"), world).level is Level.PROBLEM
    assert look(check("evidence.cgroup"), world).level is Level.OK
    assert look(check("evidence.cgroup"), World(proc=tmp_path, cgroups=root)).level is Level.NOTE


def test_a_part_of_the_ranks_has_a_part_of_the_state(tmp_path: Path) -> None:
    one = subject(tmp_path, WorkerSettings(script="train.py", ranks=4))
    assert one.state_bytes() is None
    assert with_state(one, MIB).state_bytes() == MIB  # of one rank, as under DDP
