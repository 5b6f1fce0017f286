"""What workers had reported is written down once, though their supervisor was killed and the node has other ranks."""

from __future__ import annotations

from pathlib import Path

from resilient.nodes import left_reports
from resilient.protocol.board import Metrics
from resilient.protocol.metrics_log import Entry, read_metrics
from resilient.protocol.past import Began, Past
from resilient.protocol.paths import RunPaths
from resilient.supervisor.memory import RunMemory


def test_it_is_written_down_once_and_what_others_look_after_is_left_to_them(tmp_path: Path) -> None:
    paths = RunPaths.of(tmp_path, "run")
    paths.create()
    directory = tmp_path / "memory"
    memory = RunMemory(directory, range(2, 4), 2, paths.identity(), paths.root)
    memory.mark(Past(4, (Began(1, 7, 0),)))
    found = {rank: Metrics(5, float(rank), {"loss": rank / 2}) for rank in memory.ranks}
    for rank, board in memory.boards.items():
        board.write_metrics(found[rank])
    memory.close()
    other = RunMemory(directory, range(2), 2, paths.identity(), paths.root)
    left_reports.write_down(directory, paths, [*other.ranks, 3])
    assert list(read_metrics(paths.metrics)) == [Entry(7, 2, found[2])]
    left_reports.write_down(directory, paths)
    left_reports.write_down(directory, paths)
    assert list(read_metrics(paths.metrics)) == [Entry(7, rank, found[rank]) for rank in (2, 3)]
    other.close()


def test_what_is_there_of_another_run_is_none_of_this_one(tmp_path: Path) -> None:
    paths = RunPaths.of(tmp_path, "run")
    paths.create()
    memory = RunMemory(tmp_path / "memory", 1, 2, "another run", paths.root)
    memory.boards[0].write_metrics(Metrics(1, 0.0, {"loss": 1.0}))
    left_reports.write_down(memory.directory, paths)
    assert not paths.metrics.exists()
    memory.remove()
