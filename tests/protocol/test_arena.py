"""The arena's slots, as worker, drain and successors use them."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from resilient.errors import SnapshotCorrupt, StorageFull
from resilient.protocol.arena import HEADER, Arena, Loan, Slot, SlotState


@pytest.fixture
def arena(tmp_path: Path) -> Iterator[Arena]:
    made = Arena.shared(tmp_path, rank=0, slots=3)
    yield made
    made.close()


def write(arena: Arena, step: int, content: bytes = b"image", *, hold: bool = False) -> Slot:
    """One whole snapshot into the next free slot."""
    slot = arena.next_free()
    assert slot is not None
    slot.begin(step, len(content))
    slot.image[:] = content
    slot.complete(arena.next_sequence(), {"metrics": {"loss": 0.5}}, hold=hold)
    return slot


def content(slot: Slot | None) -> bytes:
    assert slot is not None
    return bytes(slot.image)


# --- one slot


def test_a_fresh_slot_is_empty(arena: Arena) -> None:
    assert [slot.info().state for slot in arena.slots] == [SlotState.EMPTY] * 3
    assert arena.newest() is None
    assert arena.held() == []


def test_a_slot_is_no_snapshot_before_it_is_complete(arena: Arena) -> None:
    slot = arena.slots[0]
    slot.begin(7, 5)
    assert slot.info().state is SlotState.WRITING
    assert arena.newest() is None
    assert arena.find(7) is None
    slot.complete(1, {}, hold=False)
    assert slot.info().complete
    assert arena.find(7) is slot


def test_what_the_drain_is_told_comes_back(arena: Arena) -> None:
    slot = write(arena, 7, b"payload", hold=True)
    info = slot.info()
    assert (info.step, info.size, info.held, info.sequence) == (7, 7, True, 1)
    assert slot.meta == {"metrics": {"loss": 0.5}}
    assert content(slot) == b"payload"
    assert arena.held() == [slot]
    slot.release()
    assert arena.held() == []
    assert arena.find(7) is slot


def test_metadata_too_large_for_the_page_is_left_out_and_the_image_stands(arena: Arena) -> None:
    slot = arena.slots[0]
    slot.begin(1, 3)
    slot.image[:] = b"abc"
    slot.complete(1, {"metrics": {f"metric {number}": 0.0 for number in range(1000)}}, hold=False)
    assert slot.meta == {}
    assert content(slot) == b"abc"


def test_damaged_metadata_reads_as_none(arena: Arena) -> None:
    slot = write(arena, 1)
    slot.memory[512] = ord("!")
    assert slot.meta == {}


def test_a_held_slot_that_is_being_written_is_not_handed_out(arena: Arena) -> None:
    slot = write(arena, 1)
    slot.begin(2, 5)
    slot.hold()
    assert arena.held() == [slot]
    assert [write(arena, step) for step in (3, 4, 5)] == [arena.slots[1], arena.slots[2], arena.slots[1]]
    assert arena.newest() is arena.slots[1]
    assert arena.find(2) is None


def test_a_slot_that_grows_says_how_much_of_it_is_final(arena: Arena) -> None:
    slot = write(arena, 1)
    before = slot.info().begun
    slot.begin(2, 5)
    assert not slot.info().growing
    assert (slot.info().reached, slot.info().begun) == (0, before + 1)
    slot.reached(3)
    slot.hold()
    assert slot.info().growing
    assert slot.info().reached == 3
    slot.complete(9, {}, hold=False)
    assert slot.info().held, "it stays with the drain"
    assert not slot.info().growing
    slot.release()
    slot.begin(2, 5)
    assert (slot.info().reached, slot.info().begun) == (0, before + 2), "the same step, and another image"


def test_what_was_given_up_while_it_grew_is_not_handed_over_when_it_is_complete(arena: Arena) -> None:
    slot = arena.slots[0]
    slot.begin(1, 5)
    slot.hold()
    slot.release()
    slot.complete(1, {}, hold=True)
    assert slot.info().complete
    assert arena.held() == []
    slot.begin(2, 5)
    slot.complete(2, {}, hold=True)
    assert arena.held() == [slot], "the next image is another matter"


def test_only_slots_that_grow_are_voided_with_their_worker(arena: Arena) -> None:
    held, kept = write(arena, 1, hold=True), write(arena, 2)
    arena.slots[2].begin(3, 5)
    arena.slots[2].hold()
    arena.void_growing()
    assert [slot.info().state for slot in arena.slots] == [SlotState.COMPLETE, SlotState.COMPLETE, SlotState.EMPTY]
    assert arena.held() == [held]
    assert arena.newest() is kept
    assert arena.next_free() is arena.slots[2]


def test_the_image_lies_on_a_page_in_the_file(arena: Arena) -> None:
    slot = write(arena, 1, b"payload")
    assert HEADER % 4096 == 0
    assert slot.path.read_bytes()[HEADER : HEADER + 7] == b"payload"


def test_voided_slots_hold_nothing(arena: Arena) -> None:
    write(arena, 1, hold=True)
    write(arena, 2)
    arena.void()
    assert arena.newest() is None
    assert arena.held() == []
    assert [slot.info().state for slot in arena.slots] == [SlotState.EMPTY] * 3


def test_images_of_equal_steps_are_told_apart_by_their_sequence(arena: Arena) -> None:
    """A step that is repeated after a failure is a newer image than the one before the failure."""
    write(arena, 5, b"first")
    write(arena, 5, b"again")
    assert content(arena.find(5)) == b"again"
    assert content(arena.newest()) == b"again"


def test_the_newest_image_is_the_last_written_not_the_highest_step(arena: Arena) -> None:
    write(arena, 9)
    write(arena, 4)
    newest = arena.newest()
    assert newest is not None
    assert newest.info().step == 4


# --- choosing the slot to write


def test_empty_slots_are_written_first_then_the_oldest(arena: Arena) -> None:
    assert [write(arena, step).index for step in range(1, 8)] == [0, 1, 2, 0, 1, 2, 0]


def test_a_slot_voided_by_a_crash_is_written_first(arena: Arena) -> None:
    for step in (1, 2, 3):
        write(arena, step)
    arena.slots[2].begin(4, 5)
    assert arena.next_free() is arena.slots[2]


def test_the_only_complete_image_is_never_given_away() -> None:
    arena = Arena.private(2)
    kept = write(arena, 1, b"kept")
    free = arena.next_free()
    assert free is not None
    assert free is not kept
    free.begin(2, 5)
    assert arena.next_free() is free
    assert content(arena.newest()) == b"kept"
    arena.close()


def test_the_only_complete_image_is_not_given_away_even_if_nothing_else_is_left() -> None:
    arena = Arena.private(2)
    write(arena, 1, b"kept")
    arena.slots[1].begin(2, 5)
    arena.slots[1].hold()
    assert arena.next_free() is None
    assert content(arena.newest()) == b"kept"
    arena.close()


def test_held_slots_are_never_given_away() -> None:
    arena = Arena.private(2)
    held = write(arena, 1, hold=True)
    assert [write(arena, step).index for step in (2, 3, 4)] == [1, 1, 1]
    arena.slots[1].hold()
    assert arena.next_free() is None
    held.release()
    assert arena.next_free() is held
    arena.close()


def lend(slot: Slot, loan: Loan) -> bool:
    return slot.lend(loan, slot.info().begun)


def test_what_is_being_copied_is_written_last_and_what_is_kept_never() -> None:
    arena = Arena.private(3)
    first, second, third = (write(arena, step) for step in (1, 2, 3))
    assert lend(first, Loan.COPYING)
    assert write(arena, 4) is second, "the lent one is older"
    second.hold()
    third.hold()
    assert arena.next_free() is first, "training does not wait for a copy"
    assert lend(first, Loan.KEPT)
    assert arena.next_free() is None
    assert lend(first, Loan.NONE)
    assert arena.next_free() is first
    arena.close()


def test_a_loan_is_of_one_image_and_not_of_the_slot(arena: Arena) -> None:
    slot = write(arena, 1)
    begun = slot.info().begun
    assert slot.lend(Loan.COPYING, begun)
    slot.begin(2, 5)
    assert slot.info().lent is Loan.NONE
    assert not slot.lend(Loan.KEPT, begun), "what was lent is not there any more"
    assert not slot.lend(Loan.KEPT, begun + 1), "nothing is lent that is not complete"
    slot.complete(2, {}, hold=False)
    assert slot.info().lent is Loan.NONE


def test_a_loan_of_what_the_worker_begins_at_the_same_moment_does_not_stay(arena: Arena) -> None:
    slot = write(arena, 1)
    begun, words = slot.info().begun, slot._words

    class Racing:
        """The header, whose slot is begun by its worker between any two looks of the supervisor."""

        def __getitem__(self, word: int | slice) -> int | memoryview:
            return words[word]

        def __setitem__(self, word: int, value: int) -> None:
            slot._words = words
            if value:
                slot.begin(2, 5)
            words[word] = value

    slot._words = Racing()  # type: ignore[assignment]
    assert not slot.lend(Loan.KEPT, begun)
    slot.complete(2, {}, hold=False)
    assert slot.info().lent is Loan.NONE


class Slots(RuleBasedStateMachine):
    """A worker that writes and crashes, a drain that holds and releases, and a supervisor that lends, in any order,
    over one arena.
    """

    def __init__(self) -> None:
        super().__init__()
        self.directory = TemporaryDirectory()
        self.arena: Arena
        self.count = 2
        self.written = 0
        self.images: dict[int, tuple[int, bytes]] = {}  # slot → what it must hold
        self.order: list[int] = []  # complete slots, oldest first
        self.held: set[int] = set()
        self.kept: set[int] = set()
        self.writing: tuple[Slot, int] | None = None

    @initialize(count=st.integers(2, 4))
    def made(self, count: int) -> None:
        self.count = count
        self.arena = Arena.shared(Path(self.directory.name), 0, count)

    @precondition(lambda self: self.writing is None)
    @rule(step=st.integers(0, 5), size=st.integers(1, 3000))
    def begin(self, step: int, size: int) -> None:
        slot = self.arena.next_free()
        if slot is None:
            spared = self.held | self.kept
            assert spared == set(self.images) or (self.kept and len(self.images) == 1), "nothing else is kept back"
            return
        assert slot.index not in self.held, "a held slot belongs to the drain"
        assert slot.index not in self.kept, "the last images that were copied stay"
        assert slot.index not in self.images or len(self.images) > 1, "the only complete image is not given away"
        self.images.pop(slot.index, None)
        self.order = [index for index in self.order if index != slot.index]
        slot.begin(step, size)
        self.written += 1
        slot.image[: size // 2] = bytes([self.written % 256]) * (size // 2)
        self.writing = (slot, step)

    @precondition(lambda self: self.writing is not None)
    @rule(hold=st.booleans())
    def complete(self, hold: bool) -> None:
        assert self.writing is not None
        (slot, step), self.writing = self.writing, None
        size = slot.info().size
        whole = bytes([self.written % 256]) * size
        slot.image[:] = whole
        slot.complete(self.arena.next_sequence(), {}, hold=hold)
        self.images[slot.index] = (step, whole)
        self.order.append(slot.index)
        if hold:
            self.held.add(slot.index)

    @rule()
    def crash(self) -> None:
        """The worker dies; its successor maps the same files."""
        self.writing = None
        self.arena.close()
        self.arena = Arena.shared(Path(self.directory.name), 0, 2)

    @precondition(lambda self: self.order)
    @rule(data=st.data())
    def hold(self, data: st.DataObject) -> None:
        index = data.draw(st.sampled_from(self.order))
        self.arena.slots[index].hold()
        self.held.add(index)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        index = data.draw(st.sampled_from(sorted(self.held)))
        self.arena.slots[index].release()
        self.held.discard(index)

    @precondition(lambda self: self.order)
    @rule(data=st.data(), loan=st.sampled_from(Loan))
    def lend(self, data: st.DataObject, loan: Loan) -> None:
        index = data.draw(st.sampled_from(self.order))
        assert lend(self.arena.slots[index], loan)
        (self.kept.add if loan is Loan.KEPT else self.kept.discard)(index)

    @precondition(lambda self: self.writing is None)
    @rule()
    def void(self) -> None:
        self.arena.void()
        self.images, self.order, self.held, self.kept = {}, [], set(), set()

    @invariant()
    def every_complete_image_is_as_it_was_written(self) -> None:
        complete = {slot.index: slot for slot in self.arena.slots if slot.info().complete}
        assert complete.keys() == self.images.keys()
        for index, slot in complete.items():
            assert (slot.info().step, bytes(slot.image)) == self.images[index]

    @invariant()
    def the_newest_is_the_one_completed_last(self) -> None:
        newest = self.arena.newest()
        assert (newest.index if newest is not None else None) == (self.order[-1] if self.order else None)

    @invariant()
    def what_is_held_is_what_was_held(self) -> None:
        assert {slot.index for slot in self.arena.held()} == self.held

    @invariant()
    def no_slot_is_forgotten(self) -> None:
        assert [slot.index for slot in self.arena.slots] == list(range(self.count))

    def teardown(self) -> None:
        if hasattr(self, "arena"):
            self.arena.close()
        self.directory.cleanup()


Slots.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestSlots = Slots.TestCase


# --- growing


def test_a_slot_grows_and_what_looked_at_it_before_still_can(arena: Arena) -> None:
    slot = write(arena, 1, b"\x01" * 64)
    before = torch.frombuffer(slot.memory, dtype=torch.uint8, count=64, offset=HEADER)
    slot.begin(2, 1 << 20)
    assert len(slot.image) == 1 << 20
    assert before.tolist() == [1] * 64
    slot.image[:64] = b"\x02" * 64
    assert before.tolist() == [2] * 64
    slot.complete(9, {}, hold=False)
    assert slot.info().size == 1 << 20


def test_a_smaller_image_after_a_large_one_has_its_own_size(arena: Arena) -> None:
    slot = arena.slots[0]
    for step, size in ((1, 100_000), (2, 10)):
        slot.begin(step, size)
        slot.complete(step, {}, hold=False)
    assert len(slot.image) == 10


def test_another_mapping_sees_a_slot_that_grew_after_it_was_opened(arena: Arena, tmp_path: Path) -> None:
    early = Arena.shared(tmp_path, 0, 3)
    write(arena, 1, b"x" * 500_000)
    assert content(early.newest()) == b"x" * 500_000
    early.close()


def test_a_slot_shorter_than_its_header_says_is_corrupt_not_a_crash(arena: Arena, tmp_path: Path) -> None:
    slot = write(arena, 1, b"x" * 100_000)
    with slot.path.open("r+b") as stream:
        stream.truncate(HEADER)
    late = Arena.shared(tmp_path, 0, 3)
    newest = late.newest()
    assert newest is not None
    with pytest.raises(SnapshotCorrupt, match="shorter"):
        _ = newest.image
    late.close()


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """Growing a file beyond ``size`` fails, as on a full shared memory."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_no_room_to_grow_is_an_error_and_costs_only_this_slot(arena: Arena) -> None:
    write(arena, 1, b"older")
    slot = arena.next_free()
    assert slot is not None
    with files_no_larger_than(1 << 20), pytest.raises(StorageFull, match="no room"):
        slot.begin(2, 2 << 20)
    assert content(arena.newest()) == b"older"
    assert not slot.info().complete
    assert write(arena, 3, b"newer") is not slot
    slot.begin(4, 6)
    slot.image[:] = b"newest"
    slot.complete(arena.next_sequence(), {}, hold=False)
    assert content(arena.newest()) == b"newest"


# --- the files


def test_a_successor_finds_what_was_left(arena: Arena, tmp_path: Path) -> None:
    write(arena, 1, b"one")
    write(arena, 2, b"two", hold=True)
    successor = Arena.shared(tmp_path, 0, 3)
    assert content(successor.newest()) == b"two"
    assert [slot.info().step for slot in successor.held()] == [2]
    assert successor.next_sequence() == 3
    successor.close()


def test_slots_that_an_earlier_life_had_more_are_opened_too(arena: Arena, tmp_path: Path) -> None:
    for step in (1, 2, 3):
        write(arena, step)
    fewer = Arena.shared(tmp_path, 0, 2)
    assert len(fewer.slots) == 3
    assert content(fewer.find(3)) == b"image"
    fewer.close()


def test_ranks_do_not_share_slots(arena: Arena, tmp_path: Path) -> None:
    write(arena, 1)
    other = Arena.shared(tmp_path, 1, 3)
    assert other.newest() is None
    other.close()


def test_a_foreign_file_in_a_slots_place_is_an_empty_slot(tmp_path: Path) -> None:
    (tmp_path / "rank-00000.slot-0").write_bytes(b"foreign " * 1250)
    arena = Arena.shared(tmp_path, 0, 2)
    assert arena.newest() is None
    for step in (1, 2, 3):
        assert content(arena.find(write(arena, step).info().step)) == b"image"
    arena.close()


def test_slots_are_readable_by_their_owner_alone(arena: Arena) -> None:
    assert all(slot.path.stat().st_mode & 0o077 == 0 for slot in arena.slots)


def test_a_slot_whose_file_was_removed_is_written_anew_with_what_it_held(arena: Arena, tmp_path: Path) -> None:
    """Some systems clear shared memory when a user logs out."""
    write(arena, 1, b"one")
    kept = write(arena, 2, b"two" * 10_000, hold=True)
    kept.path.unlink()
    arena.slots[0].path.unlink()
    arena.slots[0].path.write_bytes(b"somebody else's")
    for slot in arena.slots:
        slot.keep_linked()
    successor = Arena.shared(tmp_path, 0, 3)
    for found in (arena, successor):
        assert content(found.find(1)) == b"one"
        assert content(found.find(2)) == b"two" * 10_000
        assert [slot.info().step for slot in found.held()] == [2]
    write(successor, 3, b"three")
    assert content(arena.newest()) == b"three"
    successor.close()


def test_a_private_arena_works_alike_and_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arena = Arena.private(2)
    for step in range(1, 6):
        write(arena, step, bytes([step]) * 10_000 * step)
    assert content(arena.newest()) == b"\x05" * 50_000
    assert content(arena.find(4)) == b"\x04" * 40_000
    assert list(tmp_path.iterdir()) == []
    arena.close()


def test_an_arena_may_be_closed_while_a_tensor_looks_at_it(tmp_path: Path) -> None:
    arena = Arena.shared(tmp_path, 0, 2)
    slot = write(arena, 1, b"\x07" * 8)
    view = torch.frombuffer(memoryview(slot.memory), dtype=torch.uint8, count=8, offset=HEADER)
    arena.close()
    assert view.tolist() == [7] * 8


def test_a_slot_there_is_no_room_for_is_tried_last() -> None:
    arena = Arena.private(3)
    write(arena, 1)
    cramped = arena.next_free()
    assert cramped is arena.slots[1]
    with files_no_larger_than(1 << 20), pytest.raises(StorageFull):
        cramped.begin(2, 2 << 20)
    assert [write(arena, step).index for step in (2, 3, 4)] == [2, 0, 2]
    arena.slots[0].hold()
    arena.slots[2].hold()
    assert write(arena, 5) is cramped
    arena.slots[0].release()
    arena.slots[2].release()
    assert not cramped.cramped
    arena.close()
