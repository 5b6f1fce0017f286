"""Training that diverges under a real supervisor: found, rolled back, the poison left out, and the run finished; with
whatever else may happen to it meanwhile.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import pytest

from resilient.policy.lineage import Lineage, RollbackCause
from resilient.protocol.lineage_file import read_lineage
from tests.run.conftest import make_workspace
from tests.run.harness import RunCase, Workspace

MARGIN = 2
Trained = tuple[int, int, list[int]]  # round, step, samples


def diverging(workspace: Workspace, run_id: str, *settings: str, ranks: int = 1, steps: int = 60) -> RunCase:
    """A run whose samples are recorded."""
    place = workspace.directory / "consumed" / run_id
    place.mkdir(parents=True, exist_ok=True)
    conf = "diverging" if ranks == 1 else "diverging_ranks"
    return workspace.run(run_id, f"train.consumed={place}", *settings, steps=steps, conf=conf, ranks=ranks)


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
    assert rolled_back.incidents() == ["numeric"]
    text = rolled_back.output()
    assert "DIVERGENCE" in text
    assert "rolling back to step 20, leaving out the data of steps 21 to 37" in text
    assert "starting from step 20 in local" in text
    # what comes after the target is what came after the window, as if the data had never been there
    after = {step: samples for _, step, samples in rounds_from(rolled_back, 1)}
    before = {step: samples for _, step, samples in trained(clean)}
    assert all(after[step] == before[step + 17] for step in range(21, 61))
