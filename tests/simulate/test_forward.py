"""Uneventful steps that the core is not told of one by one leave it as if it were."""

from __future__ import annotations

from dataclasses import replace

import pytest

from resilient.policy.events import RunOpened, SnapshotsListed, WorkerProgressed
from resilient.policy.machine import decide
from resilient.policy.state import PolicySettings, RunState
from resilient.simulate.costs import Costs
from resilient.simulate.engine import simulate
from resilient.simulate.forward import forward
from resilient.simulate.plan import Plan
from resilient.simulate.rounds import Round

COSTS = Costs(stall=0.3, local=2.0, remote=7.0, training=1.1, memory_steps=3)
STEPS = Round(began=40.0, base=100, step_seconds=4.7, costs=COSTS, durable_steps=7, remote_every=2)


def _first_step() -> RunState:
    state = RunState(settings=PolicySettings(ranks=2))
    for event, now in ((RunOpened(step=100), 0.0), (SnapshotsListed(memory_step=100), 1.0)):
        state, _ = decide(state, event, now)
    for rank in range(2):
        state, _ = decide(state, WorkerProgressed(rank, 101), STEPS.complete_at(1))
    return state


@pytest.mark.parametrize("count", [1, 2, 3, 31, 32, 33, 34, 200])
def test_the_state_is_what_the_core_makes_of_every_single_step(count: int) -> None:
    told = _first_step()
    for number in range(2, count + 1):
        for rank in range(2):
            told, decisions = decide(told, WorkerProgressed(rank, 100 + number), STEPS.complete_at(number))
            assert decisions == ()
    assert forward(_first_step(), STEPS, count) == told


def test_a_whole_simulation_is_the_same_with_every_step_told() -> None:
    plan = Plan(gpus=64, groups=2, days=0.3, failures_per_gpu_hour=0.05, preemptions_per_day=10, corrupt=0.2, spares=1)
    short, long = simulate(plan), simulate(replace(plan, every_step=True))
    assert long.decisions > 5 * short.decisions
    assert replace(long, plan=plan, decisions=short.decisions) == short


def test_what_a_round_has_done_by_a_time() -> None:
    for count in range(60):
        at = STEPS.complete_at(count)
        assert STEPS.steps_by(at) == count
        assert STEPS.steps_by(at + 4.6) == count
    assert STEPS.steps_by(39.0) == 0
    assert STEPS.in_memory(STEPS.complete_at(3) + 0.2) is None  # still being copied
    assert STEPS.in_memory(STEPS.complete_at(3) + 0.31) == 103
    assert STEPS.on_disk(STEPS.complete_at(14) + 2.2) == 107
    assert STEPS.on_disk(STEPS.complete_at(14) + 2.4) == 114
    assert STEPS.uploaded(STEPS.complete_at(14) + 9.2) is None
    assert STEPS.uploaded(STEPS.complete_at(14) + 9.4) == 114
