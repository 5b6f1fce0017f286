"""The disk of the run, on small, full and read-only filesystems that are really mounted."""

from __future__ import annotations

import itertools
import subprocess
from pathlib import Path

import pytest

from resilient.doctor.disk import Speed, judge_room, judge_speed, measure
from resilient.doctor.finding import Level
from resilient.doctor.mounts import Mount, judge, mount_of, parse
from resilient.doctor.world import World
from resilient.policy.state import StopSettings
from tests.doctor.worlds import check, look, subject, with_state
from tests.mounts import fill, mounted

MIB = 1 << 20


def test_a_run_directory_that_can_be_made(tmp_path: Path) -> None:
    finding = look(check("disk.writable"), World(subject(tmp_path / "deep" / "runs")))
    assert finding.level is Level.OK
    assert f"can be made in {tmp_path}" in finding.sentence


def test_a_read_only_filesystem(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=1m") as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        finding = look(check("disk.writable"), World(subject(disk)))
        assert finding.level is Level.PROBLEM
        assert "read-only" in finding.sentence.lower()
        assert look(check("disk.rename"), World(subject(disk))).level is Level.NOTE  # said once is enough


def test_a_full_filesystem(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=1m") as disk:
        fill(disk, but=0)
        finding = look(check("disk.writable"), World(subject(disk)))
        assert (finding.level, "No space left" in finding.sentence) == (Level.PROBLEM, True)
        assert look(check("disk.speed"), World(subject(disk))).level is Level.NOTE


def test_no_inodes_left(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=10m,nr_inodes=20") as disk:
        finding = look(check("disk.room"), World(subject(disk)))
        assert finding.level is Level.PROBLEM
        assert "inodes" in finding.sentence


def test_too_little_room_for_a_second_snapshot(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=40m") as disk:
        examined = with_state(subject(disk), 16 * MIB)
        assert look(check("disk.room"), World(examined)).level is Level.PROBLEM
        assert look(check("disk.kind"), World(examined)).sentence.endswith("gone when the machine is")


@pytest.mark.parametrize(
    ("free", "files", "state", "level"),
    [
        (10 * MIB, None, None, Level.OK),
        (10 * MIB, 5000, 2 * MIB, Level.OK),
        (7 * MIB, 5000, 2 * MIB, Level.WARNING),
        (3 * MIB, 5000, 2 * MIB, Level.PROBLEM),
        (10 * MIB, 10, None, Level.PROBLEM),
    ],
)
def test_room(free: int, files: int | None, state: int | None, level: Level) -> None:
    assert judge_room(Path("/runs"), free, files, state, last=3).level is level


STOP = StopSettings(grace_seconds=20)  # 7 s are sure, 19 s the most


@pytest.mark.parametrize(
    ("state", "level"),
    [(None, Level.OK), (6 * MIB, Level.OK), (10 * MIB, Level.WARNING), (30 * MIB, Level.PROBLEM)],
)
def test_a_snapshot_must_be_durable_within_the_grace(state: int | None, level: Level) -> None:
    assert judge_speed(Speed(MIB, 1.0), state, STOP).level is level


def test_the_speed_is_measured_by_writing(tmp_path: Path) -> None:
    ticks = itertools.count()
    speed = measure(tmp_path, most=8 * MIB, clock=lambda: next(ticks) / 4)
    assert speed.written == (tmp_path / "speed").stat().st_size == 8 * MIB
    assert speed.seconds == 0.75  # looked at before each of two pieces, and after the flush
    assert speed.of(16 * MIB) == 1.5


def test_a_slow_disk_is_measured_no_longer_than_needed(tmp_path: Path) -> None:
    ticks = itertools.count(step=2)
    assert measure(tmp_path, clock=lambda: float(next(ticks))).written == 4 * MIB


# --- kinds of filesystems; the lines are of real machines

MOUNTINFO = r"""
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,errors=remount-ro
40 22 0:35 / /home rw,relatime shared:20 - nfs4 filer:/home rw,vers=4.2,hard,proto=tcp
41 22 0:36 / /soft rw,relatime - nfs filer:/soft rw,vers=3,soft,timeo=50
42 22 0:37 / /scratch rw,noatime - lustre 10.0.0.1@o2ib:/scratch rw,flock,lazystatfs
43 22 0:38 / /my\040data rw - overlay overlay rw,lowerdir=/a,upperdir=/b
44 22 0:39 / /bucket rw - fuse.gcsfuse bucket rw
45 40 0:40 / /home/hidden rw - ext4 /dev/sdb rw
46 45 0:41 / /home/hidden rw - tmpfs tmpfs rw,size=100k
a line that is none
"""


@pytest.mark.parametrize(
    ("path", "kind", "level"),
    [
        ("/srv/runs", "ext4", Level.OK),
        ("/home/me/runs", "nfs4", Level.NOTE),
        ("/soft/runs", "nfs", Level.WARNING),
        ("/scratch/me", "lustre", Level.NOTE),
        ("/my data/runs", "overlay", Level.WARNING),
        ("/bucket", "fuse.gcsfuse", Level.WARNING),
        ("/home/hidden/runs", "tmpfs", Level.WARNING),
        ("/homeless", "ext4", Level.OK),
    ],
)
def test_the_filesystem_of_a_path(path: str, kind: str, level: Level) -> None:
    found = mount_of(Path(path), parse(MOUNTINFO))
    assert found is not None
    assert found.kind == kind
    finding = judge(found, Path(path))
    assert finding.level is level
    assert kind in finding.sentence


def test_this_machine_says_what_it_has_mounted(tmp_path: Path) -> None:
    with mounted(tmp_path / "a disk", "size=1m") as disk:
        found = mount_of(disk, parse(Path("/proc/self/mountinfo").read_text()))
    assert found is not None
    assert found.point == disk
    assert found.kind == "tmpfs"


def test_fuse_in_general_is_a_note() -> None:
    assert judge(Mount(Path("/"), "fuse.sshfs"), Path("/runs")).level is Level.NOTE
