"""Scratch runs: their command line, and the memory that a killed one had."""

from __future__ import annotations

from pathlib import Path

import pytest

from resilient.config import load
from resilient.protocol.paths import RunPaths
from resilient.supervisor.memory import RunMemory
from resilient.supervisor.scratch_run import ScratchRun, remove_remains


@pytest.mark.parametrize("name", ["plain", "lr=0.1,b=2", "it's here", "a b", "end\\", "a\\'b"])
def test_whatever_its_directory_is_called(tmp_path: Path, name: str) -> None:
    (tmp_path / "c.yaml").write_text("worker: {script: train.py}\n")
    paths = RunPaths(tmp_path / name / "1-here")
    command = ScratchRun(paths, str(tmp_path / "c.yaml"), ["worker.ranks=2"]).command()
    overrides = command[command.index("train") + 2 :]
    config = load(str(tmp_path / "c.yaml"), overrides).config
    assert (config.run.dir, config.run.id, config.worker.ranks) == (str(tmp_path / name), "1-here", 2)
    assert not config.trackers.enabled  # nobody's training, whatever the configuration says


def test_the_memory_of_all_in_a_directory_is_given_back(tmp_path: Path) -> None:
    (tmp_path / "memory").mkdir()
    (tmp_path / "runs").mkdir()
    places = []
    for name in ("1-here", "2-elsewhere"):
        paths = RunPaths(tmp_path / "runs" / name)
        paths.create()
        paths.identity()
        paths.config.write_text(f"snapshot: {{memory_dir: {tmp_path / 'memory'}}}\n")
        places.append(RunMemory.place(paths, str(tmp_path / "memory")))
        places[-1].mkdir()
    (tmp_path / "runs" / "1-here.out").touch()
    remove_remains(tmp_path / "runs")
    assert not any(place.exists() for place in places)
    remove_remains(tmp_path / "missing")
