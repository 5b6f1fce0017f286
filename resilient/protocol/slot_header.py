"""The header page of a slot: what the slot holds, as words that one process writes and others read, and some JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

HEADER = 4096
MAGIC = 0x31_54_4C_53_4C_53_45_52  # "RESLSLT1"
META_AT = 512
META_LIMIT = HEADER - META_AT
"""Bytes of JSON that can be said of an image."""

_MOST_STEPS = 10**18  # a snapshot's name has no more digits
MOST_IMAGES = 1 << 62


class SlotState(IntEnum):
    EMPTY = 0
    WRITING = 1
    COMPLETE = 2


class Loan(IntEnum):
    """Whether a slot's image is wanted for another node's memory."""

    NONE = 0
    COPYING = 1
    KEPT = 2


class Word(IntEnum):
    MAGIC = 0
    STATE = 1
    STEP = 2
    SEQUENCE = 3  # counts completed images over all slots of the arena; orders images of equal steps
    SIZE = 4  # bytes of the image
    HOLD = 5
    META = 6  # bytes of JSON behind the words
    MOVED = 7  # this file is no longer the slot: open it again by its path
    REACHED = 8  # bytes from the image's beginning that are final while the slot is WRITING
    BEGUN = 9  # counts how often the slot was begun; tells two images of one step apart, complete or not
    LENT = 10  # a `Loan`; said by the supervisor, and over when the slot is begun anew


WORDS = len(Word)


@dataclass(frozen=True)
class SlotInfo:
    """What a slot holds, read at one moment."""

    index: int
    state: SlotState
    step: int
    sequence: int
    size: int
    held: bool
    reached: int = 0
    begun: int = 0
    lent: Loan = Loan.NONE

    @property
    def complete(self) -> bool:
        return self.state is SlotState.COMPLETE

    @property
    def writing(self) -> bool:
        return self.state is SlotState.WRITING

    @property
    def growing(self) -> bool:
        """It goes to disk while it is being written."""
        return self.state is SlotState.WRITING and self.held

    @classmethod
    def of(cls, index: int, words: Sequence[int]) -> SlotInfo:
        """From the words of a header, whatever they are: what nobody can have written is an empty slot."""
        state, step, sequence = words[Word.STATE], words[Word.STEP], words[Word.SEQUENCE]
        if state > SlotState.COMPLETE or step >= _MOST_STEPS or sequence >= MOST_IMAGES:
            return cls(index, SlotState.EMPTY, 0, 0, 0, held=False)
        size, held, reached = words[Word.SIZE], bool(words[Word.HOLD]), words[Word.REACHED]
        lent = Loan(words[Word.LENT]) if words[Word.LENT] <= Loan.KEPT and state == SlotState.COMPLETE else Loan.NONE
        begun = words[Word.BEGUN]
        return cls(index, SlotState(state), step, sequence, size, held, reached, begun, lent)

    @classmethod
    def peek(cls, path: Path) -> SlotInfo | None:
        """What the slot in a file holds, without opening it as a slot; None when it holds nothing that could be read.

        :raises OSError: the file cannot be read.
        """
        found = cls.peek_with_meta(path)
        return None if found is None else found[0]

    @classmethod
    def peek_with_meta(cls, path: Path) -> tuple[SlotInfo, dict[str, Any]] | None:
        """The same, and what was said of the image when it was completed.

        :raises OSError: the file cannot be read.
        """
        with path.open("rb") as stream:
            head, size = stream.read(HEADER), os.fstat(stream.fileno()).st_size
        if len(head) < HEADER:
            return None
        words = memoryview(head)[:META_AT].cast("Q")
        info = cls.of(0, words)
        whole = words[Word.MAGIC] == MAGIC and not words[Word.MOVED] and HEADER + info.size <= size
        return (info, meta_of(head[META_AT : META_AT + min(words[Word.META], META_LIMIT)])) if whole else None


def meta_of(encoded: bytes) -> dict[str, Any]:
    """What was said of an image; nothing where that cannot be read."""
    try:
        meta = json.loads(encoded)
    except (ValueError, RecursionError):
        return {}
    return meta if isinstance(meta, dict) else {}
