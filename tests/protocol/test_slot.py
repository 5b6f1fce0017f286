"""One slot: prepared in the background, moved to disk where there is no room, and whatever bytes its header holds."""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resilient.errors import SnapshotCorrupt, StorageFull
from resilient.protocol.arena import HEADER, Arena, Slot, SlotInfo, SlotState
from resilient.protocol.spill import Spill
from tests.mounts import fill, free_bytes, mounted

MIB = 1 << 20


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "shm", "size=8m") as path:
        yield path


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def spill(tmp_path: Path, warnings: list[str]) -> Spill:
    return Spill(tmp_path / "run" / "memory", warnings.append)


@pytest.fixture
def arena(memory: Path, spill: Spill) -> Iterator[Arena]:
    made = Arena.shared(memory, 0, 3, spill)
    yield made
    made.close()


def write(arena: Arena, step: int, content: bytes = b"image", *, hold: bool = False) -> Slot:
    slot = arena.next_free()
    assert slot is not None
    slot.begin(step, len(content))
    slot.image[:] = content
    slot.complete(arena.next_sequence(), {}, hold=hold)
    return slot


def contents(arena: Arena) -> dict[int, bytes]:
    return {slot.info().step: bytes(slot.image) for slot in arena.slots if slot.info().complete}


# --- prepared


def test_what_is_prepared_has_room_and_holds_what_it_held(arena: Arena) -> None:
    for step in (1, 2, 3):
        write(arena, step, bytes([step]) * 9000)
    before = contents(arena)
    states = [slot.info() for slot in arena.slots]
    assert not arena.prepare(MIB), "the newest is not resized"
    assert [slot.path.stat().st_size for slot in arena.slots] == [HEADER + MIB, HEADER + MIB, HEADER + 9000]
    assert contents(arena) == before
    assert [slot.info() for slot in arena.slots] == states


def test_a_held_slot_is_not_resized(arena: Arena) -> None:
    held, newest = write(arena, 1, hold=True), write(arena, 2)
    assert not arena.prepare(MIB)
    assert held.path.stat().st_size == newest.path.stat().st_size == HEADER + 5
    held.release()
    assert not arena.prepare(MIB)
    assert held.path.stat().st_size == HEADER + MIB


def test_no_room_for_what_is_prepared_is_no_error_and_gives_up_no_image(memory: Path, arena: Arena) -> None:
    for step in (1, 2, 3):
        write(arena, step, b"x" * MIB)
    fill(memory, 0)
    assert not arena.prepare(2 * MIB)
    assert sorted(contents(arena)) == [1, 2, 3]


def test_an_empty_slot_without_room_moves_when_it_is_prepared(memory: Path, arena: Arena, spill: Spill) -> None:
    write(arena, 1)
    fill(memory, 0)
    assert not arena.prepare(2 * MIB)
    assert [slot.path.is_symlink() for slot in arena.slots] == [False, True, True]
    assert spill.file_of(arena.slots[1].path).stat().st_size == HEADER + 2 * MIB
    assert contents(arena) == {1: b"image"}


def test_a_capture_that_begins_meanwhile_waits_for_a_piece_and_no_more(
    arena: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The preparation is held up in the middle of a piece; the capture comes; the preparation goes on for that piece
    alone.
    """
    monkeypatch.setattr("resilient.protocol.pages.PIECE", 4096)
    in_piece, go_on = threading.Event(), threading.Event()
    real, pieces = os.posix_fallocate, 0

    def fallocate(descriptor: int, offset: int, size: int) -> None:
        nonlocal pieces
        if threading.current_thread() is background:
            pieces += 1
            in_piece.set()
            assert go_on.wait(10)
        real(descriptor, offset, size)

    monkeypatch.setattr("resilient.protocol.pages.os.posix_fallocate", fallocate)
    slot = arena.slots[0]
    background = threading.Thread(target=slot.prepare, args=(MIB,), kwargs={"grow": True})
    capture = threading.Thread(target=slot.begin, args=(7, MIB))
    background.start()
    assert in_piece.wait(10)
    capture.start()
    while not slot._wanted:
        pass
    go_on.set()
    for thread in (background, capture):
        thread.join(10)
    assert pieces == 1
    assert slot.info() == SlotInfo(0, SlotState.WRITING, 7, 0, MIB, held=False, begun=1)
    assert len(slot.image) == MIB


def test_a_slot_that_is_being_written_is_left_alone(arena: Arena) -> None:
    slot = arena.slots[0]
    slot.begin(1, 10)
    mapped = slot.memory
    assert slot.prepare(MIB, grow=True)
    assert slot.memory is mapped
    slot.void()
    slot.prepare(MIB, grow=True)
    assert len(slot.memory) == HEADER + MIB


def test_captures_and_preparations_in_two_threads_never_spoil_an_image(arena: Arena) -> None:
    done = threading.Event()

    def prepare() -> None:
        size = 1
        while not done.is_set():
            size = size * 3 % (MIB // 2) + 1
            arena.prepare(size)

    background = threading.Thread(target=prepare)
    background.start()
    try:
        for step in range(1, 400):
            content = bytes([step % 256]) * (step * 700 % (MIB // 4) + 1)
            slot = write(arena, step, content, hold=step % 7 == 0)
            assert arena.newest() is slot
            assert bytes(slot.image) == content
            for held in arena.held()[:-1]:
                assert bytes(held.image) == bytes([held.info().step % 256]) * held.info().size
                held.release()
    finally:
        done.set()
        background.join(10)


# --- moved


def test_a_slot_without_room_moves_to_disk_and_gives_its_memory_back(
    memory: Path, arena: Arena, spill: Spill, warnings: list[str]
) -> None:
    for step in (1, 2, 3):
        write(arena, step, b"x" * MIB)
    supervisor = Arena.shared(memory, 0, 3, spill)  # it has the old file mapped
    fill(memory, 0)
    slot = write(arena, 4, b"y" * 2 * MIB)
    assert slot.path.is_symlink()
    assert slot.path.resolve() == spill.file_of(slot.path).resolve()
    assert free_bytes(memory) >= MIB - 8192
    assert contents(arena) == {2: b"x" * MIB, 3: b"x" * MIB, 4: b"y" * 2 * MIB}
    assert arena.newest() is slot
    supervisor.close()
    assert len(warnings) == 1
    for word in ("2.0 MiB", "0.0 MiB are free", str(spill.directory), "slower", "--shm-size", "remount", "memory_dir"):
        assert word in warnings[0]


def test_several_slots_that_move_are_one_warning(memory: Path, arena: Arena, warnings: list[str]) -> None:
    fill(memory, 0)
    for step in (1, 2, 3, 4, 5):
        write(arena, step, bytes([step]) * MIB)
    assert all(slot.path.is_symlink() for slot in arena.slots)
    assert sorted(contents(arena)) == [3, 4, 5]
    assert len(warnings) == 1


def test_who_had_the_slot_mapped_before_it_moved_follows(memory: Path, arena: Arena, spill: Spill) -> None:
    supervisor = Arena.shared(memory, 0, 3, spill)
    fill(memory, 0)
    slot = write(arena, 4, b"y" * MIB, hold=True)
    newest = supervisor.newest()
    assert newest is not None
    assert bytes(newest.image) == b"y" * MIB
    newest.release()
    assert not slot.info().held
    supervisor.close()


def test_a_successor_opens_what_has_moved_by_its_path(memory: Path, arena: Arena, spill: Spill) -> None:
    fill(memory, 0)
    write(arena, 4, b"y" * MIB)
    successor = Arena.shared(memory, 0, 3, spill)
    assert contents(successor) == {4: b"y" * MIB}
    successor.close()


def test_a_worker_killed_before_it_could_say_that_the_slot_has_moved(memory: Path, arena: Arena, spill: Spill) -> None:
    supervisor = Arena.shared(memory, 0, 3, spill)
    fill(memory, 0)
    slot = arena.slots[0]
    old = supervisor.slots[0]._words
    write(arena, 4, b"y" * MIB)
    old[7] = 0
    assert supervisor.newest() is None
    for mapped in supervisor.slots:
        mapped.keep_linked()
    assert contents(supervisor) == {4: b"y" * MIB}
    assert slot.path.is_symlink()
    supervisor.close()


def test_a_link_that_somebody_removed_is_made_again(memory: Path, arena: Arena, spill: Spill) -> None:
    supervisor = Arena.shared(memory, 0, 3, spill)
    fill(memory, 0)
    slot = write(arena, 4, b"y" * MIB)
    for found in (supervisor, arena):
        slot.path.unlink()
        for mapped in found.slots:
            mapped.keep_linked()
        assert contents(found) == {4: b"y" * MIB}
        assert slot.path.is_symlink()
    supervisor.close()


def test_a_slot_of_which_nothing_is_left_is_written_anew_and_can_be_used(
    memory: Path, arena: Arena, spill: Spill
) -> None:
    supervisor = Arena.shared(memory, 0, 3, spill)
    fill(memory, 8 * HEADER)
    slot = write(arena, 4, b"y" * MIB)
    slot.path.unlink()
    spill.file_of(slot.path).unlink()
    for mapped in supervisor.slots:
        mapped.keep_linked()
    assert supervisor.newest() is None
    successor = Arena.shared(memory, 0, 3, spill)
    write(successor, 5)
    assert contents(supervisor) == contents(successor) == {5: b"image"}
    assert SlotInfo.peek(slot.path) is not None
    supervisor.close()
    successor.close()


def test_a_removed_slot_that_no_longer_fits_is_written_anew_on_disk(memory: Path, arena: Arena, spill: Spill) -> None:
    slot = write(arena, 4, b"y" * MIB, hold=True)
    slot.path.unlink()
    fill(memory, 0)
    slot.keep_linked()
    successor = Arena.shared(memory, 0, 3, spill)
    assert contents(successor) == {4: b"y" * MIB}
    assert [found.info().step for found in successor.held()] == [4]
    assert slot.path.is_symlink()
    successor.close()


def test_a_link_to_nothing_is_an_empty_slot(memory: Path, arena: Arena, spill: Spill) -> None:
    fill(memory, 8 * HEADER)
    slot = write(arena, 4, b"y" * MIB)
    spill.file_of(slot.path).unlink()
    successor = Arena.shared(memory, 0, 3, spill)
    assert successor.newest() is None
    assert not slot.path.is_symlink()
    successor.close()


def test_headers_that_do_not_fit_are_on_disk(memory: Path, spill: Spill) -> None:
    fill(memory, 0)
    arena = Arena.shared(memory, 0, 2, spill)
    write(arena, 1)
    assert contents(arena) == {1: b"image"}
    assert all(slot.path.is_symlink() for slot in arena.slots)
    arena.close()


def test_no_room_on_the_disk_either_leaves_the_slot_as_it_was(memory: Path, tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=1m") as disk:
        spill = Spill(disk / "memory")
        arena = Arena.shared(memory, 0, 2, spill)
        write(arena, 1)
        write(arena, 2)
        fill(memory, 0)
        slot = arena.next_free()
        assert slot is not None
        with pytest.raises(StorageFull, match=r"0\.0 MiB are free in .*shm and .* MiB in .*disk"):
            slot.begin(3, 2 * MIB)
        assert contents(arena) == {1: b"image", 2: b"image"}
        assert list(spill.directory.iterdir()) == []
        arena.close()


def test_a_spill_on_the_same_filesystem_is_none(memory: Path) -> None:
    arena = Arena.shared(memory, 0, 2, Spill(memory / "run"))
    fill(memory, 0)
    with pytest.raises(StorageFull, match="no room"):
        arena.slots[0].begin(1, MIB)
    assert not (memory / "run").exists()
    arena.close()


# --- whatever a header holds

WORD = st.one_of(st.integers(0, 8), st.integers(0, (1 << 64) - 1), st.sampled_from([1 << 62, 10**18, (1 << 64) - 1]))
MAGIC = struct.pack("=Q", 0x31_54_4C_53_4C_53_45_52)
HEADERS = st.one_of(
    st.binary(max_size=HEADER + 600),
    st.builds(
        lambda words, meta, rest: (
            (MAGIC + struct.pack("=7Q", *words)).ljust(512, b"\0") + meta.ljust(3584, b" ") + rest
        ),
        st.lists(WORD, min_size=7, max_size=7),
        st.one_of(st.binary(max_size=3584), st.sampled_from([b"[" * 3584, b'{"metrics": 1}', b"9" * 3584])),
        st.binary(max_size=600),
    ),
)


@settings(max_examples=300)
@given(found=st.lists(HEADERS, min_size=1, max_size=3), spilling=st.booleans())
def test_whatever_bytes_are_in_slots_they_are_images_or_corrupt_and_can_be_written(
    found: list[bytes], spilling: bool
) -> None:
    with TemporaryDirectory() as name:
        directory = Path(name)
        for index, content in enumerate(found):
            (directory / f"rank-00000.slot-{index}").write_bytes(content)
            SlotInfo.peek(directory / f"rank-00000.slot-{index}")
        arena = Arena.shared(directory, 0, 2, Spill(directory / "run") if spilling else None)
        for slot in (*arena.slots, arena.newest(), arena.find(1), *arena.held()):
            if slot is None:
                continue
            slot.info()
            assert isinstance(slot.meta, dict)
            try:
                assert len(slot.image) <= len(slot.memory)
            except SnapshotCorrupt:
                continue
        assert sum(path.stat().st_size for path in directory.glob("rank-*")) <= 3 * (HEADER + 600)
        arena.prepare(100)
        for slot in arena.slots:
            slot.keep_linked()
            slot.release()
        for step in (5, 6, 7):
            slot = write(arena, step, b"whole")
            assert arena.find(step) is slot
            assert bytes(slot.image) == b"whole"
        assert arena.newest() is slot
        arena.close()
