"""Plans for two nodes: pure functions of their seeds, which between them do everything."""

from __future__ import annotations

from tests.chaos.node_faults import KillNodeSupervisor, KillOneRank, KillWholeNode, StopNodeSupervisor, Which
from tests.chaos.node_plan import RANKS, node_plan
from tests.chaos.plan import STEPS, On

MANY = range(500)


def test_a_seed_gives_the_same_plan_every_time_and_the_next_one_the_other_strategy() -> None:
    assert [node_plan(seed) for seed in MANY] == [node_plan(seed) for seed in MANY]
    assert all(node_plan(seed).sharded == (seed % 2 == 1) for seed in MANY)


def test_everything_is_hit_at_all_moments() -> None:
    planned = [each for seed in MANY for each in node_plan(seed).faults]
    seen = {(each.moment.on, type(each.fault)) for each in planned}
    assert seen == {(on, kind) for on in On for kind in {type(each.fault) for each in planned}}
    assert {each.fault.rank for each in planned if isinstance(each.fault, KillOneRank)} == set(range(RANKS))
    for kind in (KillNodeSupervisor, KillWholeNode, StopNodeSupervisor):
        assert {each.fault.which for each in planned if isinstance(each.fault, kind)} == set(Which)
    assert {each.fault.memory for each in planned if isinstance(each.fault, KillWholeNode)} == {True, False}


def test_steps_come_in_order_and_within_the_run() -> None:
    for seed in MANY:
        steps = [planned.moment.step for planned in node_plan(seed).faults if planned.moment.step]
        assert steps == sorted(steps)
        assert all(0 < step <= STEPS for step in steps)
