"""Direct I/O where it is possible, the usual way where it is not, and the same bytes either way."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import random
from pathlib import Path

import pytest

from resilient.snapshot.direct import open_direct, read_cached, read_exactly, write_all

PAGE = 4096


def aligned(size: int) -> memoryview:
    memory = memoryview(mmap.mmap(-1, size))
    memory[:] = random.randbytes(size)
    return memory


def is_direct(descriptor: int) -> bool:
    return bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT)


@pytest.mark.parametrize(
    ("size", "shift"),
    [(4 * PAGE, 0), (4 * PAGE + 100, 0), (4 * PAGE, 8), (1, 0), (0, 0)],
    ids=["aligned", "odd length", "odd address", "one byte", "nothing"],
)
def test_the_same_bytes_come_back(tmp_path: Path, size: int, shift: int) -> None:
    data = aligned(size + shift + PAGE)[shift : shift + size]
    path = tmp_path / "file"
    descriptor = open_direct(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    write_all(descriptor, data)
    os.close(descriptor)
    assert path.read_bytes() == bytes(data)
    into = aligned(size + shift + PAGE)[shift : shift + size]
    descriptor = open_direct(path, os.O_RDONLY)
    read_exactly(descriptor, into)
    os.close(descriptor)
    assert bytes(into) == bytes(data)


def test_an_unaligned_piece_in_the_middle_ends_direct_writing_and_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    pieces = [aligned(PAGE), memoryview(b"odd"), aligned(PAGE)]
    descriptor = open_direct(path, os.O_WRONLY | os.O_CREAT)
    for piece in pieces:
        write_all(descriptor, piece)
    assert not is_direct(descriptor)
    os.close(descriptor)
    assert path.read_bytes() == b"".join(bytes(piece) for piece in pieces)


def test_a_file_that_ends_early(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * PAGE)
    descriptor = open_direct(path, os.O_RDONLY)
    with pytest.raises(EOFError):
        read_exactly(descriptor, aligned(2 * PAGE))
    os.close(descriptor)


def test_a_filesystem_without_direct_access_is_served_the_usual_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def refuse(path: str | Path, flags: int, mode: int = 0o777) -> int:
        descriptor = real(path, flags & ~os.O_DIRECT, mode)
        if flags & os.O_DIRECT:
            os.close(descriptor)  # Linux has created the file by the time it says no
            raise OSError(errno.EINVAL, "Invalid argument")
        return descriptor

    monkeypatch.setattr(os, "open", refuse)
    path = tmp_path / "file"
    descriptor = open_direct(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    write_all(descriptor, aligned(PAGE))
    os.close(descriptor)
    assert path.stat().st_size == PAGE


def test_other_errors_are_not_hidden(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_direct(tmp_path / "none", os.O_RDONLY)
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(FileExistsError):
        open_direct(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)


def test_what_the_page_cache_has_comes_from_there(tmp_path: Path) -> None:
    data, path = random.randbytes(10 * PAGE + 5), tmp_path / "file"
    path.write_bytes(data)
    into = memoryview(bytearray(len(data) - PAGE))
    done = read_cached(path, PAGE, into)  # nothing on a filesystem that cannot tell
    assert done in (0, len(into))
    assert bytes(into[:done]) == data[PAGE : PAGE + done]
    beyond = memoryview(bytearray(2 * PAGE))
    assert read_cached(path, 10 * PAGE, beyond) == 0, "5 bytes are not a page"
