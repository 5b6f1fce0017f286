"""What a node shows of its ranks to the leader, and what the leader has of them: the words of boards and of the headers
of slots, as they were a few milliseconds ago.

Every word has one side that writes it. What workers write comes up; what the supervisor writes goes down, as a message,
and stands in the mirror at once. News from the node that was on its way meanwhile does not know of it, so all that was
written down is numbered, the node says which number it has carried out, and what is older than that is not believed
about the board or slot in question. The node tells everything about it anew afterwards, so nothing is missed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from resilient.protocol.board import Board, Metrics
from resilient.protocol.board import Word as BoardWord
from resilient.protocol.slot_header import SlotInfo, SlotState
from resilient.protocol.slot_header import Word as SlotWord

WORKER_WORDS = range(1, 32)
"""Of a board: those that its worker writes."""
SLOT_WORDS = (SlotWord.STATE, SlotWord.STEP, SlotWord.SEQUENCE, SlotWord.SIZE, SlotWord.HOLD, SlotWord.BEGUN)
"""Of a slot's header: what it holds. How far one that is being written has come is only for its own node."""
_BOARD_WORDS = 512
_MOMENTS = frozenset(map(str, map(int, (BoardWord.ATTACHING, BoardWord.READY, BoardWord.STEPPED))))
"""Words that hold a moment of the node's own clock, which starts with the machine."""

Post = Callable[[Mapping[str, Any]], int]
"""Sends a message to the node, and returns the number under which it will say that it was carried out."""


class MirrorBoard(Board):
    """The board of a rank on another node."""

    def __init__(self, rank: int, post: Post) -> None:
        self.rank = rank
        self.path = Path(f"/nowhere/rank-{rank:05d}.board")  # nobody here opens it
        self._post = post
        self._written = 0
        self.renew()

    def renew(self) -> None:
        """The node has put a fresh one in its place."""
        self._memory: Any = bytearray(8 * _BOARD_WORDS)
        self._words = memoryview(self._memory).cast("Q")
        self._index: dict[str, int] = {}

    def renewed(self, number: int) -> None:
        """Nothing that is older than that message is true of the fresh one."""
        self._written = max(self._written, number)

    def __setitem__(self, word: BoardWord, value: int) -> None:
        self._words[word] = value
        self._written = self._post({"op": "board", "rank": self.rank, "word": int(word), "value": value})

    def take(self, words: Mapping[str, int], done: int, behind: int) -> None:
        """News from the node, which has carried out everything up to the number ``done``, and whose clock is so many
        microseconds behind ours.
        """
        if done >= self._written:
            for word, value in words.items():
                self._words[int(word)] = max(value + behind, 1) if value and word in _MOMENTS else value

    def unread_metrics(self) -> list[Metrics]:
        """The node logs them itself."""
        return []

    def close(self) -> None:
        self._words.release()


class MirrorSlot:
    """The header of a slot on another node; nothing of its image."""

    cramped = False

    def __init__(self, rank: int, index: int, path: Path, post: Post) -> None:
        self.rank = rank
        self.index = index
        self.path = path
        self._post = post
        self._words: list[int] = [0] * (max(SlotWord) + 1)
        self._info: SlotInfo | None = None  # asked for far more often than it changes
        self._written = 0

    def info(self) -> SlotInfo:
        if self._info is None:
            self._info = SlotInfo.of(self.index, self._words)
        return self._info

    @property
    def may_be_held(self) -> bool:
        return bool(self._words[SlotWord.HOLD])

    def take(self, words: Sequence[int], done: int) -> None:
        """News from the node, see :meth:`MirrorBoard.take`."""
        if done >= self._written:
            self._info = None
            for word, value in zip(SLOT_WORDS, words, strict=True):
                self._words[word] = value

    def hold(self) -> None:
        self._words[SlotWord.HOLD] = 1
        self._tell("hold")

    def release(self) -> None:
        if self._words[SlotWord.HOLD]:
            self._words[SlotWord.HOLD] = 0
            self._tell("release")

    def void(self) -> None:
        if self._words[SlotWord.STATE] != SlotState.EMPTY:
            self._words[SlotWord.STATE], self._words[SlotWord.HOLD] = SlotState.EMPTY, 0
            self._tell("void")

    def _tell(self, what: str) -> None:
        self._info, begun = None, self._words[SlotWord.BEGUN]
        self._written = self._post({"op": "slot", "rank": self.rank, "index": self.index, "do": what, "begun": begun})

    def keep_linked(self) -> None:
        """The node sees to that."""

    def close(self) -> None:
        """There is nothing to close."""


class Shown:
    """On the node: what has changed of its boards and slots since it was told last."""

    def __init__(self) -> None:
        self._seen: dict[int, bytes] = {}  # boards as they were
        self._boards: dict[int, list[int]] = {}
        self._headers: dict[tuple[int, int], bytes] = {}  # as they were
        self._slots: dict[tuple[int, int], list[int]] = {}

    def forget(self, rank: int, index: int | None = None) -> None:
        """Tell everything about it again: what was told last may not have been believed."""
        if index is None:
            self._seen.pop(rank, None)
            self._boards.pop(rank, None)
        else:
            self._headers.pop((rank, index), None)
            self._slots.pop((rank, index), None)

    def news(
        self, boards: Mapping[int, Board], slots: Mapping[int, Sequence[Any]], *, glance: bool = False
    ) -> tuple[dict[str, dict[str, int]], dict[str, dict[str, list[int]]]]:
        """Changed words of boards by rank and word, and all words of changed slots by rank and index.

        :param glance: slots are not looked at where no board has changed. Where one has, they always are: whoever hears
            that a rank has passed a step takes it that there is no image of it that they were not told of.
        """
        # The boards first: a rank that has passed a step has begun its image before, or never will.
        found = {str(rank): changed for rank, board in boards.items() if (changed := self._changed(rank, board))}
        headers: dict[str, dict[str, list[int]]] = {}
        if glance and not found:
            return found, headers
        for rank, each in slots.items():
            for slot in each:
                header = slot.header()
                if self._headers.get((rank, slot.index)) == header:
                    continue
                self._headers[rank, slot.index] = header
                words = header_of(slot.info())  # which may have changed again, and is looked at again then
                if self._slots.get((rank, slot.index)) != words:
                    self._slots[rank, slot.index] = words
                    headers.setdefault(str(rank), {})[str(slot.index)] = words
        return found, headers

    def _changed(self, rank: int, board: Board) -> dict[str, int]:
        seen = board.shown()
        if seen == self._seen.get(rank):
            return {}
        self._seen[rank] = seen
        words, before = board.worker_words(), self._boards.get(rank)
        self._boards[rank] = words
        if before is None:
            return {str(word): value for word, value in zip(WORKER_WORDS, words, strict=True)}
        pairs = zip(WORKER_WORDS, words, before, strict=True)
        return {str(word): value for word, value, was in pairs if value != was}


def header_of(info: SlotInfo) -> list[int]:
    """The words in :data:`SLOT_WORDS` of a slot that holds this."""
    return [int(info.state), info.step, info.sequence, info.size, int(info.held), info.begun]
