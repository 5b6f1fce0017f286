"""The slots are got ready in the background, and nobody has to wait for that: not the training, a fork, or the end."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from resilient.protocol.arena import HEADER, Arena
from resilient.worker.preparation import Preparation

MIB = 1 << 20


@pytest.fixture
def arena(tmp_path: Path) -> Iterator[Arena]:
    made = Arena.shared(tmp_path, 0, 3)
    yield made
    made.close()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def sizes(arena: Arena) -> list[int]:
    return [slot.path.stat().st_size - HEADER for slot in arena.slots]


def take(arena: Arena, step: int, size: int) -> None:
    slot = arena.next_free()
    assert slot is not None
    slot.begin(step, size)
    slot.complete(arena.next_sequence(), {}, hold=False)


def test_after_the_first_image_all_slots_have_room_for_one(arena: Arena) -> None:
    take(arena, 1, MIB)
    Preparation(arena).want(MIB)
    until(lambda: sizes(arena) == [MIB] * 3)
    until(lambda: all(slot._populated is slot.memory for slot in arena.slots))


def test_when_images_grow_all_slots_do_and_a_slot_in_use_has_its_turn_later(arena: Arena) -> None:
    preparation = Preparation(arena)
    take(arena, 1, MIB)
    preparation.want(MIB)
    until(lambda: sizes(arena) == [MIB] * 3)
    held = arena.slots[0]
    held.hold()
    take(arena, 2, 2 * MIB)
    preparation.want(2 * MIB)
    until(lambda: sizes(arena) == [MIB, 2 * MIB, 2 * MIB] and preparation._left)
    held.release()
    preparation.want(2 * MIB)
    until(lambda: sizes(arena) == [2 * MIB] * 3)


def test_what_is_done_is_not_done_again(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    real = arena.prepare

    def prepare(size: int, interrupted: Callable[[], bool]) -> bool:
        calls.append(size)
        return real(size, interrupted)

    monkeypatch.setattr(arena, "prepare", prepare)
    preparation = Preparation(arena)
    for _ in range(3):
        for size in (100, 50, 100):
            preparation.want(size)
        until(lambda: preparation._requests.empty() and len(calls) == 1)


def test_no_thread_is_started_before_there_is_something_to_do(arena: Arena) -> None:
    before = threading.active_count()
    Preparation(arena).want(0)
    assert threading.active_count() == before


ENDING = """
import os, sys
from pathlib import Path
from resilient.protocol.arena import Arena
from resilient.worker.preparation import Preparation
arena = Arena.shared(Path(sys.argv[1]), 0, 3)
preparation = Preparation(arena)
preparation.want(200 << 20)
while arena.slots[0].path.stat().st_size <= 4096:
    pass
if "fork" in sys.argv:
    child = os.fork()
    if child:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
print("ended", os.getpid())
"""


@pytest.mark.parametrize("how", ["alone", "fork"])
def test_a_process_ends_in_the_middle_of_it_and_so_do_those_it_has_forked(tmp_path: Path, how: str) -> None:
    command = [sys.executable, "-c", ENDING, str(tmp_path), how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.count("ended") == (2 if how == "fork" else 1)
