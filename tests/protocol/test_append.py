"""Append-only files, on a disk that has room, has none, and has some again."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from resilient.protocol.append import AppendOnly

FULL = Path("/dev/full")


class FillingDisk:
    """A log whose disk is full until room is made."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log = AppendOnly(FULL)

    def make_room(self) -> None:
        real = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(real, self.log._descriptor)
        os.close(real)


def test_lines_are_appended_to_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "log"
    for line in (b"one\n", b"two\n"):
        log = AppendOnly(path)
        log.write(line)
        log.close()
    assert path.read_bytes() == b"one\ntwo\n"


def test_what_does_not_fit_is_kept_and_written_in_its_order_once_there_is_room(tmp_path: Path) -> None:
    disk = FillingDisk(tmp_path / "log")
    disk.log.write(b"one\n")
    disk.log.write(b"two\n")
    disk.make_room()
    disk.log.write(b"three\n")
    assert disk.path.read_bytes() == b"one\ntwo\nthree\n"
    disk.log.write(b"four\n")
    assert disk.path.read_bytes() == b"one\ntwo\nthree\nfour\n"


def test_what_was_kept_is_written_at_the_end_if_not_before(tmp_path: Path) -> None:
    disk = FillingDisk(tmp_path / "log")
    disk.log.write(b"one\n")
    disk.make_room()
    disk.log.close()
    assert disk.path.read_bytes() == b"one\n"


def test_a_disk_that_stays_full_ends_nothing() -> None:
    log = AppendOnly(FULL)
    for _ in range(3):
        log.write(b"line\n")
    log.close()


def test_any_other_error_is_raised(tmp_path: Path) -> None:
    log = AppendOnly(tmp_path / "log")
    os.close(log._descriptor)
    with pytest.raises(OSError, match="Bad file descriptor"):
        log.write(b"line\n")


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EROFS])
def test_a_filesystem_that_is_away_for_a_while_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    log = AppendOnly(tmp_path / "log")

    def fail(_descriptor: int, _data: bytes) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as away:
        away.setattr(os, "write", fail)
        log.write(b"one\n")
    log.write(b"two\n")
    log.close()
    assert (tmp_path / "log").read_bytes() == b"one\ntwo\n"
