"""What filesystems do and do not: tried on this one, and in a kernel that refuses the calls, or only pretends."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import psutil
import pytest

from resilient.doctor import semantics
from resilient.doctor.check import Check
from resilient.doctor.finding import Level
from resilient.doctor.semantics import judge_locks, judge_skew
from resilient.doctor.world import World
from tests.doctor.seccomp import Refused, under
from tests.doctor.worlds import check, look, subject


@pytest.mark.parametrize("each", semantics.CHECKS, ids=lambda each: each.name)
def test_a_local_filesystem_does_all_of_it(each: Check, tmp_path: Path) -> None:
    finding = look(each, World(subject(tmp_path)))
    assert finding.level is Level.OK or (each.name, finding.level) == ("disk.direct", Level.NOTE)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "refused", "level", "word"),
    [
        ("exchange", Refused("renameat2", errno.EINVAL), Level.NOTE, "three renames"),
        ("sync_directory", Refused("fsync", errno.EINVAL), Level.PROBLEM, "Invalid argument"),
        ("locks", Refused("flock", errno.ENOSYS), Level.PROBLEM, "not implemented"),
        ("locks", Refused("flock", 0), Level.PROBLEM, "two processes get the same lock by flock"),
        ("locks", Refused("flock", 0, (1, 8)), Level.PROBLEM, "not given back"),
        ("locks", Refused("fcntl", errno.ENOLCK, (1, 6)), Level.NOTE, "fcntl"),
        ("direct", Refused("openat", errno.EINVAL, (2, os.O_DIRECT)), Level.NOTE, "O_DIRECT"),
        ("links", Refused("link", errno.EPERM), Level.NOTE, "hard links"),
        ("links", Refused("symlink", errno.EPERM), Level.PROBLEM, "symbolic links"),
        ("rename", Refused("rename", 0), Level.PROBLEM, "half there"),
    ],
)
def test_what_does_not_work_is_found(tmp_path: Path, name: str, refused: Refused, level: Level, word: str) -> None:
    finding = look(under(check(f"disk.{name}"), refused), World(subject(tmp_path)))
    assert (finding.level, word in finding.sentence) == (level, True), finding.sentence


def test_a_file_that_is_not_replaced_but_written_anew_is_found(tmp_path: Path) -> None:
    """As where a rename is a copy: the reader meets it half done."""

    before = {child.pid for child in psutil.Process().children()}

    class Copying(type(tmp_path)):  # type: ignore[misc]
        def replace(self, target: Path) -> Path:
            target.unlink()
            (reader,) = {child.pid for child in psutil.Process().children()} - before
            os.waitid(os.P_PID, reader, os.WEXITED | os.WNOWAIT)  # until it has met nothing there
            target.write_bytes(self.read_bytes())
            self.unlink()
            return target

    assert semantics.rename(Copying(tmp_path)).level is Level.PROBLEM


def test_locks_of_others_are_not_ours() -> None:
    assert judge_locks([]).level is Level.OK
    assert judge_locks(["fcntl fails (x)"]).level is Level.NOTE
    assert judge_locks(["fcntl fails (x)", "a lock by flock is not given back"]).level is Level.PROBLEM


@pytest.mark.parametrize(
    ("stamped", "level"),
    [(100.0, Level.OK), (98.5, Level.OK), (103.9, Level.OK), (97.0, Level.WARNING), (160.0, Level.WARNING)],
)
def test_a_file_server_of_another_time(stamped: float, level: Level) -> None:
    assert judge_skew(100.0, stamped, 102.0).level is level
