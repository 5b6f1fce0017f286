"""Plans: pure functions of their seeds, which between them do everything."""

from __future__ import annotations

from collections import Counter

from resilient.drill.faults import Preempt
from resilient.drill.process_faults import KillRole, LoseMemory, Role, StopThenContinue
from tests.chaos.plan import STEPS, On, plan

MANY = range(500)


def test_a_seed_gives_the_same_plan_every_time() -> None:
    assert [plan(seed) for seed in MANY] == [plan(seed) for seed in MANY]
    assert plan(1) != plan(2)


def test_all_faults_come_at_all_moments() -> None:
    plans = [plan(seed) for seed in MANY]
    planned = [each for one in plans for each in one.faults]
    seen = Counter((each.moment.on, type(each.fault)) for each in planned)
    kinds = {kind for _, kind in seen}
    assert {(on, kind) for on in On for kind in kinds if not seen[on, kind]} == set()
    assert {each.fault.role for each in planned if isinstance(each.fault, (KillRole, StopThenContinue))} == set(Role)


def test_steps_come_in_order_and_within_the_run() -> None:
    for seed in MANY:
        steps = [planned.moment.step for planned in plan(seed).faults if planned.moment.step]
        assert steps == sorted(steps)
        assert all(0 < step <= STEPS for step in steps)


def test_what_is_not_there_is_not_hit() -> None:
    for one in map(plan, MANY):
        roles = {each.fault.role for each in one.faults if isinstance(each.fault, (KillRole, StopThenContinue))}
        assert one.workers or Role.DATA_WORKER not in roles
        assert one.remote or Role.UPLOADER not in roles
        losses = [each.fault for each in one.faults if isinstance(each.fault, LoseMemory)]
        assert one.remote or not any(loss.disk for loss in losses)


def test_starts_are_counted() -> None:
    one = next(plan(seed) for seed in MANY if all(isinstance(each.fault, Preempt) for each in plan(seed).faults[:1]))
    assert one.starts >= 2
