"""What of a round's boards is written down."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from resilient.protocol.board import Board, Word, WorkerPhase
from resilient.supervisor.time_notes import age, spent


def boards(directory: Path, count: int) -> dict[int, Board]:
    return {rank: Board.create(directory / f"rank-{rank}.board") for rank in range(count)}


def test_the_slowest_rank_counts(tmp_path: Path) -> None:
    made = boards(tmp_path, 2)
    for rank, board in made.items():
        board[Word.ATTACHING], board[Word.READY] = 1_000_000 * (rank + 1), 5_000_000
        board[Word.DATA], board[Word.STALLED], board[Word.ASIDE] = 250_000 * (rank + 1), 500_000, 0
        board.beat(WorkerPhase.STEP, 7 - rank)
    note = spent(made, 3)
    assert note["stepped"] == made[1][Word.STEPPED] / 1e6
    assert abs(note.pop("stepped") - time.monotonic()) < 60
    assert note == {
        "round": 3,
        "step": 6,
        "attaching": 2.0,
        "ready": 5.0,
        "fetching": 0.5,
        "stalled": 0.5,
        "aside": 0.0,
    }


def test_a_round_is_not_ready_before_all_ranks_are(tmp_path: Path) -> None:
    made = boards(tmp_path, 2)
    made[0][Word.READY] = 5_000_000
    note = spent(made, 0)
    assert (note["ready"], note["stepped"], note["attaching"]) == (None, None, None)


def test_a_process_knows_how_old_it_is(tmp_path: Path) -> None:
    script = "import time; time.sleep(0.5)\nfrom resilient.supervisor.time_notes import age\nprint(age())"
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert 0.4 < float(done.stdout) <= time.monotonic() - began + 0.1
    assert age(tmp_path) == 0.0, "without /proc nobody knows"
