"""Which steps are run again, what the run had reported of them, and under which conditions."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from resilient.errors import ConfigurationError, RunNotFound, SnapshotNotFound
from resilient.policy.lineage import Lineage, Rollback, Skip
from resilient.protocol.board import Metrics
from resilient.protocol.lineage_file import write_lineage
from resilient.protocol.metrics_log import Entry, MetricsLog
from resilient.protocol.paths import RunPaths
from resilient.verify.window import choose, compared_names, read_run, window

SKIP = Skip((0, 80), (0, 96))


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    """A run of 40 steps in one round, with snapshots of steps 10, 20, 30 and 40."""
    paths = RunPaths(tmp_path / "run")
    paths.create()
    paths.config.write_text("worker: {script: train.py, ranks: 1}\n")
    for step in (10, 20, 30, 40):
        paths.snapshot(step).mkdir()
        (paths.snapshot(step) / "manifest.json").touch()
    report(paths, range(1, 41))
    return paths


def report(paths: RunPaths, steps: Iterable[int], *, number: int = 0, host: str = "", **values: float) -> None:
    log = MetricsLog(paths.metrics.with_name(f"{host}.jsonl") if host else paths.metrics)
    for step in steps:
        log.write([Entry(number, 0, Metrics(step, 0.0, values or {"loss": float(step), "seconds": 1.0}))])
    log.close()


def loss(paths: RunPaths, step: int) -> float:
    return window(paths, 10, 40).records[step][0, "loss"]


def test_what_is_compared_are_hashes_and_what_is_watched() -> None:
    assert compared_names({}) == (
        "resilient.batch", "loss", "grad_norm", "resilient.gradients", "resilient.parameters",
    )  # fmt: skip
    watched = {"divergence": {"metrics": {"nll": {}}, "grad_norm": {"metric": ""}}}
    assert compared_names(watched)[1:2] == ("nll",)
    assert "grad_norm" not in compared_names(watched)
    with pytest.raises(ConfigurationError):
        compared_names({"divergence": {"metrics": 3}})


def test_the_steps_after_a_snapshot(paths: RunPaths) -> None:
    found = window(paths, 20, 25)
    assert sorted(found.records) == [21, 22, 23, 24, 25]
    assert found.records[21] == {(0, "loss"): 21.0}, "a time is nothing to compare"
    assert (found.last, found.ranks, found.problem) == (25, 1, "")
    assert window(paths, 30, 90).last == 40
    with pytest.raises(SnapshotNotFound, match="no snapshot of step 15"):
        window(paths, 15, 20)


def test_a_step_that_was_done_again_counts_as_it_was_done_last_on_whatever_machine(paths: RunPaths) -> None:
    report(paths, [22, 23], number=2, host="another", loss=2.0)
    report(paths, [22], number=1, loss=1.0)
    report(paths, [21], loss=3.0)
    assert [loss(paths, step) for step in (20, 21, 22, 23)] == [20.0, 3.0, 2.0, 2.0]
    assert {step: read_run(paths, ["loss"]).rounds[step] for step in (21, 22, 23)} == {21: 0, 22: 2, 23: 2}
    assert window(paths, 20, 40).last == 23, "what came after it has not been done again"


def test_what_one_step_reports_may_come_in_parts(paths: RunPaths) -> None:
    report(paths, [22], number=1, loss=1.0)
    report(paths, [22], number=1, grad_norm=4.0)
    report(paths, [22], number=1, lr=4.0)
    assert window(paths, 20, 25).records[22] == {(0, "loss"): 1.0, (0, "grad_norm"): 4.0}


def test_the_newest_snapshot_with_so_many_steps_after_it(paths: RunPaths) -> None:
    assert choose(paths, 10).snapshot == 30
    assert choose(paths, 11).snapshot == 20
    assert choose(paths, 5, begin=10).last == 15
    with pytest.raises(SnapshotNotFound, match="snapshots of 10, 20, 30, 40, and the last step reported is 40"):
        choose(paths, 31)


def test_conditions_are_those_of_the_steps_and_not_of_today(paths: RunPaths) -> None:
    first = Rollback(20, 35, 0, (31, 36), SKIP, 0.5)
    second = Rollback(30, 38, 1, lr_factor=0.25)
    write_lineage(paths, Lineage((first, second), inherited=(Skip((0, 0), (0, 4)),), inherited_lr_factor=0.9))
    assert window(paths, 10, 15).lineage == Lineage(inherited=(Skip((0, 0), (0, 4)),), inherited_lr_factor=0.9)
    report(paths, range(21, 41), number=1)
    found = window(paths, 20, 30)
    assert found.lineage == Lineage(inherited=(Skip((0, 0), (0, 4)), SKIP), inherited_lr_factor=0.5)
    report(paths, range(31, 41), number=2)
    assert window(paths, 30, 40).lineage.inherited_lr_factor == 0.25


def test_across_a_rollback_nothing_is_run_again(paths: RunPaths) -> None:
    write_lineage(paths, Lineage((Rollback(30, 38, 0, lr_factor=0.5),)))
    report(paths, range(31, 36), number=1)
    assert "rolled back between" in window(paths, 20, 35).problem
    assert not window(paths, 20, 30).problem
    assert not window(paths, 30, 35).problem
    assert choose(paths, 6).snapshot == 20
    assert choose(paths, 15).snapshot == 10, "from 20 on they would go beyond it"


def test_data_that_nobody_has_found_yet(paths: RunPaths) -> None:
    write_lineage(paths, Lineage((Rollback(20, 38, 0, (31, 33)),)))
    report(paths, range(21, 41), number=1)
    assert "not known which data" in window(paths, 20, 25).problem


def test_files_that_are_missing_or_cannot_be_read(paths: RunPaths) -> None:
    paths.lineage.write_text("[")
    with pytest.raises(ConfigurationError, match=r"lineage\.json"):
        window(paths, 20, 25)
    paths.config.write_text("a: [")
    with pytest.raises(ConfigurationError, match=r"config\.yaml"):
        window(paths, 20, 25)
    paths.config.write_text("3")
    with pytest.raises(ConfigurationError, match=r"config\.yaml"):
        window(paths, 20, 25)
    paths.config.unlink()
    with pytest.raises(RunNotFound, match="resilient train"):
        window(paths, 20, 25)
