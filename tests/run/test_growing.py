"""Every step goes to disk while it is being copied, and whoever takes part is killed in the middle of that."""

from __future__ import annotations

import random
import time

import pytest

from resilient.drill.faults import KillSupervisor, KillWorker
from resilient.snapshot import catalog
from tests.run.harness import RunCase, Workspace

_STEPS = 24


@pytest.fixture(params=["true", "false"], ids=["overlapped", "not-overlapped"])
def cases(request: pytest.FixtureRequest, workspace: Workspace) -> tuple[RunCase, RunCase]:
    """A run whose copies take most of its time, and the run that nothing happens to."""
    settings = ["train.owned_mb=64", "snapshot.every_steps=1", f"snapshot.overlap={request.param}"]
    reference = workspace.run("undisturbed", *settings, steps=_STEPS)
    assert reference.finish() == 0, reference.output()
    return workspace.run("killed", *settings, steps=_STEPS), reference


def assert_all_is_well(case: RunCase, reference: RunCase) -> None:
    case.assert_equal_to(reference, _STEPS)
    assert "could not be made durable" not in case.output()
    assert not list(case.paths.snapshots.glob(".tmp-*"))
    for step in catalog.committed_steps(case.paths.snapshots):
        file = catalog.read_manifest(case.paths.snapshot(step)).files[0]
        catalog.read_image(case.paths.snapshot(step), file, memoryview(bytearray(file.checksum.size)))


def test_worker_killed_at_random_moments(cases: tuple[RunCase, RunCase]) -> None:
    case, reference = cases
    running = case.start()
    for step in (4, 9, 14):
        running.wait_for_step(step)
        time.sleep(random.random() * 0.04)
        KillWorker().inject(running.target)
    assert running.wait() == 0, case.output()
    assert case.incidents() == ["killed"] * 3
    assert_all_is_well(case, reference)


def test_supervisor_killed_at_random_moments(cases: tuple[RunCase, RunCase]) -> None:
    case, reference = cases
    for step in (4, 12):
        running = case.start().wait_for_step(step)
        time.sleep(random.random() * 0.04)
        KillSupervisor().inject(running.target)
        running.wait()
    assert case.finish() == 0, case.output()
    assert case.incidents() == ["supervisor lost"] * 2
    assert_all_is_well(case, reference)
