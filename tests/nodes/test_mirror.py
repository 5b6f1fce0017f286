"""What the leader has of another node's boards and slots, and that it never takes old news for new."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from resilient.nodes.mirror import MirrorBoard, MirrorSlot, Shown, header_of
from resilient.protocol.board import Board, Command, Flag, Word, WorkerPhase
from resilient.protocol.slot_header import SlotInfo, SlotState


class Wire:
    """A node with one rank and one slot, and a leader; messages are delivered when the test says so."""

    def __init__(self, directory: Path) -> None:
        self.board = Board.create(directory / "board")
        self.slot = SlotInfo(0, SlotState.EMPTY, 0, 0, 0, held=False)
        self.shown = Shown()
        self.done = 0
        self.posted = 0
        self.down: deque[tuple[int, Mapping[str, Any]]] = deque()
        self.up: deque[dict[str, Any]] = deque()
        self.mirror = MirrorBoard(3, self._post)
        self.mirrored = MirrorSlot(3, 0, Path("slot"), self._post)

    def _post(self, message: Mapping[str, Any]) -> int:
        self.posted += 1
        self.down.append((self.posted, message))
        return self.posted

    def deliver_down(self) -> None:
        if not self.down:
            return
        self.done, message = self.down.popleft()
        if message["op"] == "board":
            self.board[Word(message["word"])] = message["value"]
            self.shown.forget(3)
        else:
            self.slot = SlotInfo(
                0, self.slot.state, self.slot.step, 0, 0, held=message["do"] == "hold", begun=self.slot.begun
            )
            self.shown.forget(3, 0)

    def tell(self, *, glance: bool = False) -> None:
        boards, slots = self.shown.news({3: self.board}, {3: [self]}, glance=glance)
        if boards or slots:
            self.up.append({"boards": boards, "slots": slots, "done": self.done})

    index = 0

    def info(self) -> SlotInfo:
        return self.slot

    def header(self) -> bytes:
        return bytes(str(self.slot), "utf-8")

    def deliver_up(self) -> None:
        if not self.up:
            return
        news = self.up.popleft()
        for words in news["boards"].values():
            self.mirror.take(words, news["done"], 0)
        for headers in news["slots"].values():
            self.mirrored.take(headers["0"], news["done"])

    def settle(self) -> None:
        while self.down:
            self.deliver_down()
        self.tell()
        while self.up:
            self.deliver_up()


def test_what_the_worker_shows_arrives_and_what_is_told_goes_down(tmp_path: Path) -> None:
    wire = Wire(tmp_path)
    wire.board.beat(WorkerPhase.STEP, 7)
    wire.board.name_phase("compile")
    wire.board.raise_flag(Flag.ATTACHED)
    wire.settle()
    assert wire.mirror[Word.STEP] == 7
    assert wire.mirror.phase_name == "compile"
    assert wire.mirror.has_flag(Flag.ATTACHED)
    wire.mirror[Word.COMMAND] = Command.LEAVE
    assert wire.mirror[Word.COMMAND] == Command.LEAVE, "at once"
    assert wire.board[Word.COMMAND] == Command.NONE
    wire.settle()
    assert wire.board[Word.COMMAND] == Command.LEAVE


def test_only_what_has_changed_is_told(tmp_path: Path) -> None:
    wire = Wire(tmp_path)
    wire.settle()
    wire.board.beat(WorkerPhase.STEP, 1)
    wire.tell()
    (news,) = wire.up
    changed = {Word.STEP: 1, Word.PHASE: 1, Word.BEATS: 1, Word.STEPPED: wire.board[Word.STEPPED]}
    assert news["boards"] == {"3": {str(int(word)): value for word, value in changed.items()}}
    assert news["slots"] == {}
    wire.up.clear()
    wire.tell()
    assert not wire.up


def test_a_glance_is_at_boards_but_no_step_is_told_of_without_its_image(tmp_path: Path) -> None:
    wire = Wire(tmp_path)
    wire.settle()
    wire.slot = SlotInfo(0, SlotState.WRITING, 1, 1, 64, held=False, begun=1)
    wire.tell(glance=True)
    assert not wire.up
    wire.board.beat(WorkerPhase.STEP, 1)
    wire.tell(glance=True)
    assert wire.up[0]["boards"]["3"][str(int(Word.STEP))] == 1
    assert wire.up[0]["slots"] == {"3": {"0": header_of(wire.slot)}}
    wire.board.close()


def test_a_moment_on_the_node_s_clock_is_one_on_ours(tmp_path: Path) -> None:
    mirror = Wire(tmp_path).mirror
    mirror.take({str(int(Word.READY)): 5_000_000, str(int(Word.DATA)): 5_000_000}, 0, 2_000_000)
    assert mirror[Word.READY] == 7_000_000
    assert mirror[Word.DATA] == 5_000_000, "no moment"
    assert mirror[Word.STEPPED] == 0, "not yet"


def test_a_released_slot_does_not_look_held_again(tmp_path: Path) -> None:
    wire = Wire(tmp_path)
    wire.slot = SlotInfo(0, SlotState.COMPLETE, 5, 1, 64, held=True, begun=4)
    wire.settle()
    assert wire.mirrored.info() == SlotInfo(0, SlotState.COMPLETE, 5, 1, 64, held=True, begun=4)
    wire.slot = SlotInfo(0, SlotState.COMPLETE, 5, 2, 64, held=True, begun=4)
    wire.tell()
    wire.mirrored.release()
    wire.deliver_up()  # from before
    assert not wire.mirrored.info().held
    wire.settle()
    assert not wire.mirrored.info().held
    assert not wire.slot.held


@given(st.lists(st.sampled_from(["beat", "leave", "hold", "release", "complete", "down", "up", "tell"]), max_size=60))
def test_in_the_end_both_sides_have_the_same(tmp_path_factory: Any, happenings: list[str]) -> None:
    wire = Wire(tmp_path_factory.mktemp("wire"))
    step = 0
    for happens in happenings:
        if happens == "beat":
            step += 1
            wire.board.beat(WorkerPhase.STEP, step)
        elif happens == "complete":
            wire.slot = SlotInfo(0, SlotState.COMPLETE, step, step, 64, held=wire.slot.held, begun=step)
        elif happens == "leave":
            wire.mirror[Word.COMMAND] = Command.LEAVE
        elif happens == "hold":
            wire.mirrored.hold()
        elif happens == "release":
            wire.mirrored.release()
        else:
            {"down": wire.deliver_down, "up": wire.deliver_up, "tell": wire.tell}[happens]()
        assert wire.mirror[Word.STEP] <= step
    wire.settle()
    wire.settle()
    assert wire.mirror.worker_words() == wire.board.worker_words()
    assert wire.mirror[Word.COMMAND] == wire.board[Word.COMMAND]
    assert header_of(wire.mirrored.info()) == header_of(wire.slot)
    wire.board.close()
