"""What a drill learns from the run without a fault."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from resilient.drill.reference import Reference, find_reference
from resilient.errors import ConfigurationError, RunNotFound
from resilient.protocol.board import Metrics
from resilient.protocol.metrics_log import Entry, MetricsLog
from resilient.protocol.paths import RunPaths
from resilient.supervisor.journal import Journal
from resilient.supervisor.status import Status


def finished(directory: Path, times: list[float], exit_code: int = 0) -> RunPaths:
    paths = RunPaths(directory / "clean")
    paths.create()
    paths.config.write_text(yaml.safe_dump({"train": {"lr": 1.0}, "worker": {"script": "a.py"}}))
    Status("finished", len(times), len(times), 0, exit_code, "said so").write(paths.status)
    log = MetricsLog(paths.metrics)
    log.write([Entry(0, 0, Metrics(number + 1, time, {"loss": 1.0})) for number, time in enumerate(times)])
    log.close()
    return paths


def test_the_slowest_step_decides_how_long_a_silence_is_a_hang(tmp_path: Path) -> None:
    reference = Reference.of(finished(tmp_path, [100.0, 101.0, 103.0, 104.0]))
    assert (reference.steps, reference.slowest) == (4, 2.0)
    limits = reference.limits([])
    assert "hang.min_seconds=10" in limits
    assert "hang.phase_seconds=10" in limits


def test_quick_steps_are_given_a_few_seconds_all_the_same(tmp_path: Path) -> None:
    assert "hang.min_seconds=3" in Reference.of(finished(tmp_path, [1.0, 1.01, 1.02])).limits([])


def test_what_the_user_says_stands(tmp_path: Path) -> None:
    limits = Reference.of(finished(tmp_path, [1.0, 1.01])).limits(["hang.min_seconds=1", "++hang.factor=9"])
    assert {text.partition("=")[0] for text in limits} == {"hang.phase_seconds", "hang.startup_seconds"}


def test_start_up_is_from_the_launch_to_the_first_step(tmp_path: Path) -> None:
    paths = finished(tmp_path, [])
    journal = Journal(paths.journal)
    journal.write("note", "worker launched", 0.0, rank=0, pid=1)
    journal.close()
    launched = Reference.of(paths)
    assert (launched.startup, launched.slowest) == (0.0, 0.0)
    assert launched.limits([]) == ["hang.startup_seconds=60"], "nothing is known of its steps"
    assert "hang.min_seconds=20" in Reference.of(paths, [100.0, 101.0, 105.0]).limits([])


def test_one_that_is_not_finished_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="not finished: said so"):
        Reference.of(finished(tmp_path, [1.0], exit_code=75))


def test_named_by_id_or_directory_and_only_with_the_same_settings(tmp_path: Path) -> None:
    paths, tree = finished(tmp_path, [1.0]), {"train": {"lr": 1.0}, "worker": {"script": "a.py"}, "hang": {"factor": 3}}
    assert find_reference("clean", tmp_path, tree).paths == paths
    assert find_reference(str(paths.root), Path("elsewhere"), tree).paths == paths
    with pytest.raises(ConfigurationError, match="other settings in the section train"):
        find_reference("clean", tmp_path, {**tree, "train": {"lr": 2.0}})
    with pytest.raises(RunNotFound):
        find_reference("unclean", tmp_path, tree)
