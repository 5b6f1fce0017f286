"""The interval that loses the least, tried out, is near the one of the rule."""

from __future__ import annotations

from resilient.policy.events import Tier
from resilient.policy.failures import FailureClass
from resilient.policy.restart_settings import RestartSettings
from resilient.simulate.faults import Kind
from resilient.simulate.plan import Plan
from resilient.simulate.sweep import ruled_interval, sweep

NODE = Kind("node", 1, FailureClass.HARDWARE)
CRASH = Kind("crash", 1, FailureClass.CRASH, Tier.MEMORY, replaces=False)
# a plain save of half a minute, on machines of which one fails every two hours or so
PATIENT = RestartSettings(max_failures=200, crash_loop=200, per_class={"hardware": 200})
PLAN = Plan(
    gpus=64, groups=2, days=40, failures_per_gpu_hour=8e-3, blocking=True, remote_gbs=20, spares=40, restarts=PATIENT
)


def test_the_best_interval_is_near_youngs_and_dalys() -> None:
    swept = sweep(PLAN, seeds=2, factors=(0.25, 0.5, 1.0, 2.0, 4.0), kinds=(NODE,))
    assert 0.5 * swept.rule <= swept.best.seconds <= 2 * swept.rule
    assert swept.lost_by_rule < 0.003
    far = [trial.goodput for trial in swept.tried if not 0.3 < trial.seconds / swept.rule < 3]
    assert all(goodput < swept.best.goodput - 0.005 for goodput in far)


def test_what_memory_survives_asks_for_no_durable_snapshot() -> None:
    assert ruled_interval(PLAN, (NODE, CRASH)) > 1.3 * ruled_interval(PLAN, (NODE,))
