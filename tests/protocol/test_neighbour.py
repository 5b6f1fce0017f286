"""What a rank sees of another's slots."""

from __future__ import annotations

from pathlib import Path

import pytest

from resilient.protocol.arena import Arena
from resilient.protocol.neighbour import Neighbour, SlotView
from resilient.protocol.slot_header import SlotState, Word


@pytest.fixture
def arena(tmp_path: Path) -> Arena:
    return Arena.shared(tmp_path, 1, 3)


def test_complete_and_growing_images_are_told_apart(arena: Arena, tmp_path: Path) -> None:
    neighbour = Neighbour(tmp_path, 1)
    assert neighbour.steps() == (frozenset(), frozenset())
    arena.slots[0].begin(4, 64)
    arena.slots[1].begin(5, 64)
    arena.slots[0].complete(1, {}, hold=True)
    assert neighbour.steps() == (frozenset({4}), frozenset({5}))
    arena.slots[1].void()
    assert neighbour.steps() == (frozenset({4}), frozenset())


def test_a_slot_that_grows_is_still_seen(arena: Arena, tmp_path: Path) -> None:
    neighbour = Neighbour(tmp_path, 1)
    arena.slots[0].begin(4, 1 << 20)
    arena.slots[0].complete(1, {}, hold=False)
    assert neighbour.steps() == (frozenset({4}), frozenset())


def test_a_slot_that_has_moved_is_followed(arena: Arena, tmp_path: Path) -> None:
    view = SlotView(arena.slots[0].path)
    elsewhere = Arena.shared(tmp_path, 7, 1).slots[0]
    elsewhere.begin(9, 64)
    arena.slots[0].path.unlink()
    arena.slots[0].path.symlink_to(elsewhere.path)
    arena.slots[0]._words[Word.MOVED] = 1
    assert view.holds() == (SlotState.WRITING, 9)


def test_state_and_step_belong_together(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is begun anew between the two words."""
    slot = arena.slots[0]
    slot.begin(4, 64)
    slot.complete(1, {}, hold=False)
    view = SlotView(slot.path)

    class Interrupted:
        def __init__(self) -> None:
            self.words = view._words

        def __getitem__(self, word: Word) -> int:
            value = self.words[word]
            if word is Word.STATE and value == SlotState.COMPLETE:
                slot.begin(5, 64)
            return value

    monkeypatch.setattr(view, "_words", Interrupted())
    assert view.holds() == (SlotState.WRITING, 5)


def test_other_ranks_are_not_mistaken_for_it(arena: Arena, tmp_path: Path) -> None:
    other = Arena.shared(tmp_path, 2, 2)
    other.slots[0].begin(3, 64)
    assert Neighbour(tmp_path, 1).steps() == (frozenset(), frozenset())
    assert len(Neighbour(tmp_path, 2)._slots) == 2
