"""Training that diverges under a real supervisor: found, rolled back, the poison left out, and the run finished; with
whatever else may happen to it meanwhile.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from resilient.drill.faults import KillWorker
from resilient.errors import ExitCode
from resilient.policy.lineage import Lineage, RollbackCause
from resilient.protocol.lineage_file import read_lineage
from resilient.snapshot.compare import first_difference
from tests.run.conftest import make_workspace
from tests.run.harness import RunCase, Running, Workspace

MARGIN = 2
FATAL = Path(__file__).with_name("fatal.py")
Trained = tuple[int, int, list[int]]  # round, step, samples


def diverging(workspace: Workspace, run_id: str, *settings: str, ranks: int = 1, steps: int = 60) -> RunCase:
    """A run whose samples are recorded."""
    place = workspace.directory / "consumed" / run_id
    place.mkdir(parents=True, exist_ok=True)
    conf = "diverging" if ranks == 1 else "diverging_ranks"
    lineage = workspace.directory / "runs" / run_id / "lineage.json"
    own = [f"train.consumed={place}", f"train.lineage={lineage}"]
    return workspace.run(run_id, *own, *settings, steps=steps, conf=conf, ranks=ranks)


def trained(case: RunCase, rank: int = 0) -> list[Trained]:
    """What was trained on, in order."""
    record = case.workspace.directory / "consumed" / case.run_id / f"rank-{rank}.jsonl"
    return [(round_number, step, samples) for round_number, step, samples in map(json.loads, record.open())]


def samples_of(found: Sequence[Trained], steps: range) -> set[int]:
    return {sample for _, step, samples in found if step in steps for sample in samples}


def lineage_of(case: RunCase) -> Lineage:
    return read_lineage(case.paths)


def rounds_from(case: RunCase, number: int) -> list[Trained]:
    return [item for rank in range(case.ranks) for item in trained(case, rank) if item[0] >= number]


@pytest.fixture(scope="session")
def clean(tmp_path_factory: pytest.TempPathFactory) -> RunCase:
    """The run whose data is sound: it says which samples come when."""
    case = diverging(make_workspace(tmp_path_factory.mktemp("clean")), "clean", steps=90)
    assert case.finish() == 0, case.output()
    assert not lineage_of(case).rollbacks
    return case


def poison(clean: RunCase, *steps: int) -> str:
    """One sample of each of these steps."""
    return str([samples[1] for _, step, samples in trained(clean) if step in steps])


@pytest.fixture(scope="session")
def rolled_back(tmp_path_factory: pytest.TempPathFactory, clean: RunCase) -> RunCase:
    """The run that was rolled back once, and that nothing else happened to."""
    case = diverging(make_workspace(tmp_path_factory.mktemp("once")), "once", f"train.deadly={poison(clean, 35)}")
    assert case.finish() == 0, case.output()
    return case


def wait_until(condition: Callable[[], Any], running: Running, seconds: float = 60.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, running.case.output()
        assert running.process.poll() is None, running.case.output()
        time.sleep(0.02)
    return found


def assert_rolled_back_once(case: RunCase, clean: RunCase, target: int, skip: tuple[int, int]) -> None:
    lineage = lineage_of(case)
    (rollback,) = lineage.rollbacks
    assert not lineage.pending
    assert (rollback.target, rollback.skip, rollback.cause) == (target, skip, RollbackCause.DIVERGENCE)
    left_out = samples_of(trained(clean), range(skip[0], skip[1] + 1))
    assert left_out
    after = rounds_from(case, rollback.round + 1)
    assert after
    assert not left_out & {sample for _, _, samples in after for sample in samples}
    assert all(map(math.isfinite, case.losses().values()))
    assert len(case.losses()) == 60


def test_a_run_is_rolled_back_and_never_meets_the_poison_again(rolled_back: RunCase, clean: RunCase) -> None:
    assert_rolled_back_once(rolled_back, clean, 20, (21, 35 + MARGIN))
    assert rolled_back.incidents() == ["not a finite number"]
    text = rolled_back.output()
    assert "DIVERGENCE" in text
    assert "rolling back to step 20, leaving out the data of steps 21 to 37" in text
    assert "starting from step 20 in local" in text
    # what comes after the target is what came after the window, as if the data had never been there
    after = {step: samples for _, step, samples in rounds_from(rolled_back, 1)}
    before = {step: samples for _, step, samples in trained(clean)}
    assert all(after[step] == before[step + 17] for step in range(21, 61))


# --- whatever happens meanwhile, the run ends as it would have


def assert_same_end(case: RunCase, reference: RunCase, steps: int = 60) -> None:
    """Every loss that counts and every byte of the final state are those of the run that was only rolled back."""
    assert case.losses() == reference.losses()
    assert first_difference(case.image(steps), reference.image(steps)) is None
    last, expected = lineage_of(case).rollbacks[-1], lineage_of(reference).rollbacks[-1]
    assert (last.target, last.skip, last.skipped) == (expected.target, expected.skip, expected.skipped)
    assert len(lineage_of(case).rollbacks) == len(lineage_of(reference).rollbacks)


MOMENTS = [
    "before:SaveLineage:1",  # found, and nobody knows
    "after:SaveLineage:1",  # written down, and the workers are still there
    "after:KillWorkers:1",
    "before:DiscardAfter:1",
    "after:DiscardAfter:1",
    "after:RestoreSnapshot:1",
    "before:LaunchRound:1",
    "after:LaunchRound:1",  # the round begins, and the rollback still counts as pending
    "after:SaveLineage:3",
]


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("number", ["SIGKILL", "SIGTERM"])
def test_the_supervisor_is_struck_in_the_middle_of_a_rollback(
    workspace: Workspace, clean: RunCase, rolled_back: RunCase, moment: str, number: str
) -> None:
    case = diverging(workspace, "struck", f"train.deadly={poison(clean, 35)}")
    code = replace(case, program=(str(FATAL), number, moment)).finish()
    assert code == (ExitCode.REQUEUE if number == "SIGTERM" else -9), case.output()
    assert case.finish() == 0, case.output()
    assert_same_end(case, rolled_back)
    assert_rolled_back_once(case, clean, 20, (21, 35 + MARGIN))


@pytest.mark.parametrize("step", [22, 38, 55])
def test_a_worker_is_killed_after_a_rollback(
    workspace: Workspace, clean: RunCase, rolled_back: RunCase, step: int
) -> None:
    case = diverging(workspace, "killed", f"train.deadly={poison(clean, 35)}")
    running = case.start()
    wait_until(lambda: case.paths.log(1, 0).exists(), running)
    running.wait_for_step(step)
    KillWorker().inject(running.target)
    assert running.wait() == 0, case.output()
    assert_same_end(case, rolled_back)
    assert_rolled_back_once(case, clean, 20, (21, 35 + MARGIN))
