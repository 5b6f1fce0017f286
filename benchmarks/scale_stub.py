"""A worker that does nothing but show that it goes on: it writes its board as a real one does, and imports nothing."""

from __future__ import annotations

import os
import sys
import time

from resilient.protocol.board import Board, Command, Flag, Word, WorkerPhase
from resilient.protocol.environment import WorkerEnvironment
from resilient.protocol.plan import RoundPlan


def main() -> None:
    environment = WorkerEnvironment.read()
    if environment is None:
        sys.exit("start it with python -m benchmarks.scale")
    seconds = float(sys.argv[1])
    plan = RoundPlan.read(environment.plan)
    board = Board.open(environment.plan.parent / f"rank-{environment.rank:05d}.board")
    board[Word.PID] = os.getpid()
    board[Word.STEP] = board[Word.START_STEP] = plan.restore_step or 0
    board.raise_flag(Flag.ATTACHED)
    step = plan.restore_step or 0
    while board[Word.COMMAND] != Command.LEAVE:
        step += 1
        board[Word.ENTERED] = step
        time.sleep(seconds)
        board.beat(WorkerPhase.STEP, step)
    board.raise_flag(Flag.LEFT_EARLY)


main()
