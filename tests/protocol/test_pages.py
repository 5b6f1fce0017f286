"""Reserving and populating pages, on a real small filesystem."""

from __future__ import annotations

import errno
import mmap
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from resilient.protocol.pages import populate, reserve
from tests.mounts import free_bytes, mounted

MIB = 1 << 20


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "shm", "size=64m") as path:
        yield path


@pytest.fixture
def descriptor(memory: Path) -> Iterator[int]:
    opened = os.open(memory / "file", os.O_RDWR | os.O_CREAT)
    yield opened
    os.close(opened)


def test_what_is_reserved_is_taken_from_the_filesystem_and_what_is_there_stays(memory: Path, descriptor: int) -> None:
    os.write(descriptor, b"content")
    before = free_bytes(memory)
    reserve(descriptor, 10 * MIB)
    assert os.fstat(descriptor).st_size == 10 * MIB
    assert before - free_bytes(memory) >= 10 * MIB - 4096
    assert os.pread(descriptor, 7, 0) == b"content"
    reserve(descriptor, 5)
    assert os.fstat(descriptor).st_size == 10 * MIB, "it never gets shorter"


@pytest.mark.parametrize("size", [65 * MIB, 1 << 50, (1 << 63) - 1, 1 << 64])
def test_where_there_is_no_room_nothing_is_taken(memory: Path, descriptor: int, size: int) -> None:
    reserve(descriptor, MIB)
    before = free_bytes(memory)
    with pytest.raises(OSError) as raised:
        reserve(descriptor, size)
    assert raised.value.errno == errno.ENOSPC
    assert os.fstat(descriptor).st_size == MIB
    assert free_bytes(memory) == before


def test_what_fails_half_way_is_given_back(descriptor: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the free room is not known beforehand; here, a limit on the size of files stands for that."""
    monkeypatch.setattr("resilient.protocol.pages.PIECE", MIB // 2)
    reserve(descriptor, MIB)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * MIB, before[1]))
    try:
        with pytest.raises(OSError):
            reserve(descriptor, 3 * MIB)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.fstat(descriptor).st_size == MIB


def test_an_interruption_ends_it_after_a_piece(descriptor: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resilient.protocol.pages.PIECE", MIB)
    asked: list[None] = []

    def at_the_third() -> bool:
        asked.append(None)
        return len(asked) > 2

    reserve(descriptor, 10 * MIB, at_the_third)
    assert os.fstat(descriptor).st_size == 2 * MIB


def faults_of_writing(memory: mmap.mmap) -> int:
    """Page faults that it costs to change one byte of each page."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for at in range(0, len(memory), 4096):
        memory[at] = memory[at]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_populated_pages_cost_no_fault_and_hold_what_they_held(descriptor: int) -> None:
    content = os.urandom(4 * MIB)
    os.write(descriptor, content)
    bare, populated, touched = (mmap.mmap(descriptor, 4 * MIB) for _ in range(3))
    populate(populated, len(populated))
    populate(touched, len(touched), by_kernel=False)
    assert faults_of_writing(populated) * 4 < faults_of_writing(bare)
    assert touched[:] == populated[:] == content
    for memory in (bare, populated, touched):
        memory.close()  # nothing holds on to it


def test_an_interrupted_population_leaves_the_rest(descriptor: int) -> None:
    reserve(descriptor, MIB)
    memory = mmap.mmap(descriptor, MIB)
    populate(memory, MIB, lambda: True)
    assert faults_of_writing(memory) >= MIB // (1 << 16)  # the kernel may map a few neighbours with each
    memory.close()


def test_a_mapping_longer_than_its_file_is_no_crash(descriptor: int) -> None:
    reserve(descriptor, MIB)
    memory = mmap.mmap(descriptor, MIB)
    os.ftruncate(descriptor, 4096)
    populate(memory, MIB)
    memory.close()
