"""The board: one small shared-memory file per worker, through which worker and supervisor talk without blocking.

Upwards go the heartbeat, the completed step, the phase and a ring of metrics; downwards go one command and the number
of snapshots asked for, which the command line leaves on rank 0's board for the supervisor to pass on. Every field
has a single writer and is one aligned 8-byte word, so no locks are needed, and a reader never waits for a writer that
died. The file outlives both sides: the successor of a killed supervisor reads the metrics that its predecessor had
not yet collected.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from resilient.policy.lineage import Skip

_MAGIC = 0x31_44_52_42_4C_53_45_52  # "RESLBRD1"
_PAGE = 4096
OURS_BEGIN = "resilient."  # the names of metrics that are not the script's
_NAMES = 64  # distinct metric names of a script
_OURS = 4  # and of ours
_NAME_BYTES = 64
_RECORDS = 4096  # unread metric records that fit
_VALUES = 14  # metrics in one record
_RECORD = struct.Struct(f"=QQd{_VALUES}d{_VALUES}BH")  # step, count, time, values, name indexes
_RECORD_BYTES = 160
_PHASE_NAME_WORDS = 4
PHASE_NAME_BYTES = 8 * _PHASE_NAME_WORDS
_SKIPS_AT = 64  # the words of what is left out, as many for each
_SKIP_WORDS = 5
_SKIPS = 64
_UNITS = ("samples", "batches")  # of offsets, by their number
assert _RECORD.size <= _RECORD_BYTES  # noqa: S101  a layout that contradicts itself must not load

_NAMES_AT = _PAGE
_RING_AT = _NAMES_AT + (_NAMES + _OURS) * _NAME_BYTES
SIZE = _RING_AT + _RECORDS * _RECORD_BYTES


class Word(IntEnum):
    """Index of each 8-byte word on the board's first page."""

    MAGIC = 0
    PID = 1
    STEP = 2  # last completed step
    PHASE = 3
    BEATS = 4  # counts every sign of progress
    FLAGS = 5
    TOTAL = 6
    WRITTEN = 7  # metric records written since the beginning
    NAMES = 8
    START_STEP = 9
    INTERVAL = 10  # milliseconds between two durable snapshots, where the worker chooses them; 0 where it does not
    COST = 11  # microseconds of training that one of them costs
    # what the ranks of a node agree on; 0 where there is one rank
    ARRIVED = 12  # 1 + the step after which this rank would leave, and waits for the others
    ENTERED = 13  # the step that this rank has begun, or is bound to begin
    MEMORY_PLAN = 14  # by rank 0: bit n % 64 is set when an image of step n is to be taken; good for the step ENTERED
    DURABLE_PLAN = 15  # by rank 0: likewise, when it is to be durable
    TERMINATED = 16  # SIGTERM has reached this worker; the supervisor lets the others know
    OWN_STEPS = 20  # steps of this round whose own time has been measured
    OWN_DATA = 21  # microseconds that a step waits for data, smoothed over the latest
    OWN_COMPUTE = 22  # and that the model's forward pass takes
    SKIPS = 17  # by rank 0: how many of the plan's ``skip_steps`` it has said the data of, see ``Board.tell_skips``
    # where the time of this round has gone; moments are microseconds of the monotonic clock, 0 for not yet
    ATTACHING = 18  # when the script came to ``resilient.attach``
    READY = 19  # when that had restored what there was
    STEPPED = 23  # when the last step was completed
    DATA = 28  # microseconds that steps have waited for data since the round began
    STALLED = 29  # and that snapshots have held the training up
    ASIDE = 30  # and that were spent in ``run.phase``
    PHASE_NAME = 24  # of a phase that has no number of its own: UTF-8, in this word and the three after it
    # written by the supervisor alone
    COMMAND = 32
    READ = 33  # metric records collected
    SNAPSHOTS = 34  # durable snapshots asked for; a change means one, at the next step boundary
    RETRIES = 35  # durable snapshots that some rank had no image for, on rank 0's board; counted like SNAPSHOTS
    # written by the command line alone, on rank 0's board
    REQUESTS = 48  # durable snapshots asked for


class WorkerPhase(IntEnum):
    """What the worker is doing."""

    STARTUP = 0
    STEP = 1
    EVALUATION = 2
    SAVE = 3
    RESTORE = 4
    STOPPING = 5
    FINISHED = 6
    NAMED = 7  # see ``Word.PHASE_NAME``


class Flag(IntEnum):
    """Bits of ``Word.FLAGS``."""

    ATTACHED = 1
    FINISHED = 2
    LEFT_EARLY = 4  # took its last snapshot and ended the loop because it was asked to
    STOPPED_AFTER = 16  # ended the loop after the step that its plan named
    ASKED = 8  # of a script that does not attach: a handler of its own has seen SIGTERM


class Command(IntEnum):
    """What the supervisor wants at the next step boundary."""

    NONE = 0
    LEAVE = 1  # take a snapshot that will be made durable, then end the loop


@dataclass(frozen=True)
class Metrics:
    """One ``run.report``: values by name after ``step``; ``time`` is seconds since the epoch."""

    step: int
    time: float
    values: Mapping[str, float]


def now() -> int:
    """The moment, as it stands on a board."""
    return time.monotonic_ns() // 1000


class Board:
    """A mapped board. Worker and supervisor use the same class, each only its own setters."""

    def __init__(self, path: Path, memory: mmap.mmap) -> None:
        self.path = path
        self._memory = memory
        self._words = memoryview(memory)[:_PAGE].cast("Q")
        self._index: dict[str, int] = {}
        self._seen = self._words[Word.READ]
        self._names: dict[int, str] = {}  # of metrics, as far as they were read

    @classmethod
    def create(cls, path: Path) -> Board:
        """Make a fresh board, replacing any older one."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, SIZE)
            board = cls(path, mmap.mmap(descriptor, SIZE))
        finally:
            os.close(descriptor)
        board._words[Word.MAGIC] = _MAGIC
        return board

    @classmethod
    def open(cls, path: Path) -> Board:
        """Map an existing board.

        :raises ValueError: the file is no board of this version.
        """
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            if os.fstat(descriptor).st_size != SIZE:
                raise ValueError(f"{path} is not a board of this version")
            board = cls(path, mmap.mmap(descriptor, SIZE))
        finally:
            os.close(descriptor)
        if board._words[Word.MAGIC] != _MAGIC:
            raise ValueError(f"{path} is not a board of this version")
        return board

    def __getitem__(self, word: Word) -> int:
        return self._words[word]

    def __setitem__(self, word: Word, value: int) -> None:
        self._words[word] = value

    # --- the worker's side

    def beat(self, phase: WorkerPhase, step: int | None = None) -> None:
        """Show progress: the phase that begins now and, after a step, its number."""
        if step is not None:
            self._words[Word.STEP] = step
            self._words[Word.STEPPED] = now()
        self._words[Word.PHASE] = phase
        self._words[Word.BEATS] += 1

    def name_phase(self, name: str) -> None:
        """Say what ``WorkerPhase.NAMED`` is from the next beat on.

        :param name: at most ``PHASE_NAME_BYTES`` bytes of UTF-8.
        """
        start = 8 * Word.PHASE_NAME
        self._memory[start : start + PHASE_NAME_BYTES] = name.encode().ljust(PHASE_NAME_BYTES, b"\0")

    def raise_flag(self, flag: Flag) -> None:
        self._words[Word.FLAGS] |= flag

    def has_flag(self, flag: Flag) -> bool:
        return bool(self._words[Word.FLAGS] & flag)

    def write_metrics(self, metrics: Metrics) -> None:
        """Append to the ring. When the reader is ``_RECORDS`` behind, the oldest unread record is lost.

        :raises ValueError: more than 14 values, or too many distinct names.
        """
        if len(metrics.values) > _VALUES:
            raise ValueError(f"at most {_VALUES} metrics fit in one report, not {len(metrics.values)}")
        indexes = [self.register(name) for name in metrics.values]
        padding = _VALUES - len(indexes)
        written = self._words[Word.WRITTEN]
        _RECORD.pack_into(
            self._memory,
            _RING_AT + written % _RECORDS * _RECORD_BYTES,
            metrics.step,
            len(indexes),
            metrics.time,
            *metrics.values.values(),
            *(0.0,) * padding,
            *indexes,
            *(0,) * padding,
            0,
        )
        self._words[Word.WRITTEN] = written + 1  # last, so that a record is visible only when it is whole

    def register(self, name: str) -> int:
        """The index of a metric's name, which is given one if it has none.

        :raises ValueError: the name is too long, or there are too many.
        """
        index = self._index.get(name)
        if index is not None:
            return index
        index, encoded = self._words[Word.NAMES], name.encode()
        if len(encoded) > _NAME_BYTES:
            raise ValueError(f"the metric name {name!r} is longer than {_NAME_BYTES} bytes")
        ours = sum(known.startswith(OURS_BEGIN) for known in self._index)
        if ours >= _OURS if name.startswith(OURS_BEGIN) else index - ours >= _NAMES:
            raise ValueError(f"more than {_NAMES} different metric names in one run; {name!r} is one too many")
        start = _NAMES_AT + index * _NAME_BYTES
        self._memory[start : start + _NAME_BYTES] = encoded.ljust(_NAME_BYTES, b"\0")
        self._words[Word.NAMES] = index + 1
        self._index[name] = index
        return index

    def tell_skips(self, skips: Sequence[Skip]) -> None:
        """Say which data the plan's ``skip_steps`` turned out to be, one for each. Of more than fit nothing is said:
        they are left out all the same, and found out once more by the next round.
        """
        if len(skips) > _SKIPS:
            return
        for number, skip in enumerate(skips):
            at = _SKIPS_AT + _SKIP_WORDS * number
            for word, value in enumerate((_UNITS.index(skip.unit), *skip.start, *skip.end), at):
                self._words[word] = value
        self._words[Word.SKIPS] = len(skips)  # last, so that the rest is there when it is

    # --- the supervisor's side

    def shown(self) -> bytes:
        """The same as :meth:`worker_words` has, only to see whether it has changed: it costs less, and goes before."""
        return self._memory[8 * Word.PID : 8 * Word.COMMAND]

    def worker_words(self) -> list[int]:
        """All words that only the worker writes, from the first after the magic number on.

        ENTERED is read before the others: what rank 0 has said of a step stands there before it enters the step.
        """
        entered = self._words[Word.ENTERED]
        words = self._words[Word.PID : Word.COMMAND].tolist()
        words[Word.ENTERED - Word.PID] = entered
        return words

    @property
    def skips(self) -> tuple[Skip, ...]:
        """What :meth:`tell_skips` has said; nothing where that is not to be understood."""
        found = []
        for number in range(min(self._words[Word.SKIPS], _SKIPS)):
            at = _SKIPS_AT + _SKIP_WORDS * number
            unit, start_epoch, start, end_epoch, end = self._words[at : at + _SKIP_WORDS]
            if unit >= len(_UNITS):
                return ()
            found.append(Skip((start_epoch, start), (end_epoch, end), _UNITS[unit]))
        return tuple(found)

    @property
    def phase_name(self) -> str:
        """The last name that a phase without a number had."""
        start = 8 * Word.PHASE_NAME
        return bytes(self._memory[start : start + PHASE_NAME_BYTES]).rstrip(b"\0").decode(errors="replace")

    def unread_metrics(self) -> list[Metrics]:
        """What was written since :meth:`mark_read`."""
        written, read = self._words[Word.WRITTEN], self._words[Word.READ]
        self._seen = written
        return [self._read_metrics(number) for number in range(max(read, written - _RECORDS), written)]

    def mark_read(self) -> None:
        """What :meth:`unread_metrics` returned last is kept elsewhere now: not before, since a reader can be killed."""
        self._words[Word.READ] = self._seen

    def _read_metrics(self, number: int) -> Metrics:
        record = _RECORD.unpack_from(self._memory, _RING_AT + number % _RECORDS * _RECORD_BYTES)
        step, count, time = record[:3]
        values, indexes = record[3 : 3 + count], record[3 + _VALUES : 3 + _VALUES + count]
        return Metrics(step, time, dict(zip(map(self._name, indexes), values, strict=True)))

    def _name(self, index: int) -> str:
        if index not in self._names:
            self._names[index] = self._read_name(index)
        return self._names[index]

    def _read_name(self, index: int) -> str:
        start = _NAMES_AT + index * _NAME_BYTES
        return bytes(self._memory[start : start + _NAME_BYTES]).rstrip(b"\0").decode(errors="replace")

    def close(self) -> None:
        self._words.release()
        self._memory.close()
