"""What the journal has to say for every second of a run to be accounted for.

The moments of a round that only its workers know, and how much of it went into something else than steps, stand on
their boards. They are written down when a round is over, and now and then before that, so that little is unknown of a
machine that is lost.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from resilient.protocol.board import Board, Word

NOTE_SECONDS = 60.0
"""Between two notes of a round that is up."""
BEGAN, ENDED, SPENT = "supervisor began", "supervisor ended", "time spent"


def spent(boards: Mapping[int, Board], round_number: int) -> dict[str, Any]:
    """The fields of a note. Of several ranks the slowest counts, for all others wait for it. Moments are seconds on the
    monotonic clock, and null for what has not been yet.
    """
    found = list(boards.values())
    slowest = min(found, key=lambda board: board[Word.STEP])
    ready = all(board[Word.READY] for board in found)
    return {
        "round": round_number,
        "step": slowest[Word.STEP],
        "attaching": _last(board[Word.ATTACHING] for board in found),
        "ready": _last(board[Word.READY] for board in found) if ready else None,
        "stepped": _moment(slowest[Word.STEPPED]),
        "fetching": max(board[Word.DATA] for board in found) / 1e6,
        "stalled": max(board[Word.STALLED] for board in found) / 1e6,
        "aside": max(board[Word.ASIDE] for board in found) / 1e6,
    }


def _last(moments: Iterable[int]) -> float | None:
    return _moment(max(moments, default=0))


def _moment(microseconds: int) -> float | None:
    return microseconds / 1e6 if microseconds else None


def age(proc: Path = Path("/proc")) -> float:
    """Seconds since this process was started; 0 where that cannot be found out."""
    try:
        started = int((proc / "self" / "stat").read_text().rpartition(")")[2].split()[19])
        seconds = time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return 0.0
    return round(seconds, 3) if 0 <= seconds < math.inf else 0.0
