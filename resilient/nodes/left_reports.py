"""What workers had reported when their supervisor was killed, or stood still for too long, and that nobody has written
down: it is still on their boards. Where the node has other ranks afterwards, nobody else would look there; and the run
may go on behind those steps, so they are not reported again.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from resilient.protocol.board import Board
from resilient.protocol.metrics_log import MetricsLog
from resilient.protocol.past import Past
from resilient.protocol.paths import RunPaths
from resilient.supervisor import leftovers


def write_down(directory: Path, paths: RunPaths, opened: Collection[int] = ()) -> None:
    """Take it down, of all ranks that have a board in the memory directory. Only while no worker is up.

    :param opened: ranks whose boards somebody looks after.
    """
    if not leftovers.is_of(directory, paths):
        return
    past, log = Past.read(directory), MetricsLog(paths.metrics)
    last = past.rounds[-1].round if past is not None and past.rounds else 0
    for path in sorted(directory.glob("rank-*.board")):
        rank = leftovers.rank_of(path)
        if rank in opened:
            continue
        with suppress(OSError, ValueError):
            board = Board.open(path)
            log.take_down(board, last, rank)
            board.close()
    log.close()
