"""Whether two runs are the same, from crafted logs and snapshots."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from resilient.drill.equality import Equality, Same, compare_runs
from resilient.protocol.board import Metrics
from resilient.protocol.metrics_log import Entry, MetricsLog
from resilient.protocol.names import image_name
from resilient.protocol.paths import RunPaths
from tests.snapshot.test_compare import image

IMAGE = image({"model.w": b"abc", "rng.torch": b"1"}, {"model": {"n": 1}, "rng": [1]})


def write(paths: RunPaths, losses: dict[int, float], *, rank: int = 0, **more: float) -> None:
    paths.create()
    log = MetricsLog(paths.metrics)
    log.write([Entry(0, rank, Metrics(step, float(step), {"loss": loss, **more})) for step, loss in losses.items()])
    log.close()


def save(paths: RunPaths, step: int, content: bytes = IMAGE, rank: int = 0) -> None:
    place = paths.snapshot(step)
    place.mkdir(parents=True, exist_ok=True)
    (place / image_name(rank)).write_bytes(content)
    (place / "manifest.json").touch()


@pytest.fixture
def runs(tmp_path: Path) -> tuple[RunPaths, RunPaths]:
    """Two that are the same."""
    made = (RunPaths(tmp_path / "reference"), RunPaths(tmp_path / "drilled"))
    for paths in made:
        write(paths, {1: 3.0, 2: 2.0, 3: math.nan})
        save(paths, 3)
    return made


def compare(runs: tuple[RunPaths, RunPaths], before: int = 1) -> Equality:
    return compare_runs(*runs, before)


def assert_different(found: Equality, words: str) -> None:
    assert found.same is Same.NO
    assert words in found.text


def test_the_same(runs: tuple[RunPaths, RunPaths]) -> None:
    assert compare(runs) == Equality(Same.YES, "3 reported values and the whole state after step 3")


def test_a_step_that_was_repeated_with_the_same_value(runs: tuple[RunPaths, RunPaths]) -> None:
    write(runs[1], {2: 2.0})
    assert compare(runs).same is Same.YES


def test_a_step_that_was_repeated_with_another_value_counts_though_the_last_is_right(
    runs: tuple[RunPaths, RunPaths],
) -> None:
    write(runs[1], {2: 2.5})
    write(runs[1], {2: 2.0})
    assert_different(compare(runs), "loss differs, first in step 2")


def test_the_last_bit_counts(runs: tuple[RunPaths, RunPaths]) -> None:
    write(runs[0], {4: 1.0})
    write(runs[1], {4: math.nextafter(1.0, 2.0)})
    assert_different(compare(runs), "step 4")


def test_zero_and_its_negative_are_not_the_same_bits(runs: tuple[RunPaths, RunPaths]) -> None:
    write(runs[0], {4: 0.0})
    write(runs[1], {4: -0.0})
    assert_different(compare(runs), "step 4")


def test_a_missing_step_and_a_missing_metric(runs: tuple[RunPaths, RunPaths]) -> None:
    write(runs[0], {5: 1.0})
    assert_different(compare(runs), "step 5")
    write(runs[1], {5: 1.0}, lr=0.5)
    assert_different(compare(runs), "lr differs, first in step 5")


def test_another_rank(runs: tuple[RunPaths, RunPaths]) -> None:
    write(runs[0], {2: 1.0}, rank=1)
    write(runs[1], {2: 1.5}, rank=1)
    assert_different(compare(runs), "loss of rank 1 differs, first in step 2")


def test_what_differs_before_the_fault_is_the_scripts_own_doing(runs: tuple[RunPaths, RunPaths]) -> None:
    write(runs[1], {1: 3.5})
    assert compare(runs, before=1).same is Same.UNKNOWN
    assert "seed" in compare(runs, before=1).text
    assert compare(runs, before=0).same is Same.NO


def test_the_final_state_names_the_tensor(runs: tuple[RunPaths, RunPaths]) -> None:
    save(runs[1], 3, image({"model.w": b"abd", "rng.torch": b"1"}, {"model": {"n": 1}, "rng": [1]}))
    assert_different(compare(runs), "model.w differs")


def test_generators_that_nobody_seeds_do_not_count(runs: tuple[RunPaths, RunPaths]) -> None:
    save(runs[1], 3, image({"model.w": b"abc", "rng.torch": b"2"}, {"model": {"n": 1}, "rng": [2]}))
    assert compare(runs).same is Same.YES


def test_another_last_step_none_and_another_number_of_ranks(runs: tuple[RunPaths, RunPaths]) -> None:
    save(runs[1], 3, rank=1)
    assert_different(compare(runs), "2 ranks")
    save(runs[1], 4)
    assert_different(compare(runs), "step 4, without the fault 3")
    for step in (3, 4):
        (runs[1].snapshot(step) / "manifest.json").unlink()
    assert_different(compare(runs), "no snapshot on disk")


@pytest.mark.parametrize("with_snapshots", [True, False])
def test_where_there_is_nothing_to_compare_nothing_is_said(tmp_path: Path, with_snapshots: Any) -> None:
    runs = (RunPaths(tmp_path / "a"), RunPaths(tmp_path / "b"))
    for paths in runs:
        paths.create()
        if with_snapshots:
            save(paths, 3)
    assert compare(runs).same is Same.UNKNOWN


def test_what_a_script_prints_is_no_proof_that_it_differs(tmp_path: Path) -> None:
    runs = (RunPaths(tmp_path / "reference"), RunPaths(tmp_path / "drilled"))
    write(runs[0], {1: 3.0, 2: 2.0, 3: 1.0})
    write(runs[1], {1: 3.0, 3: 2.0, 4: 1.0})  # each was seen a step later
    for before in (1, 3):
        found = compare(runs, before)
        assert found.same is Same.UNKNOWN
        assert "resilient.attach" in found.text
