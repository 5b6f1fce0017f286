"""Whatever the cluster is like: each history is one that the table of the state machine foresees, and time adds up.

An event in a phase that does not list it raises UnlistedTransition in the simulation as in a run.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resilient.policy.hang import HangSettings
from resilient.simulate.engine import simulate
from resilient.simulate.ledger import Bucket
from resilient.simulate.plan import Plan

PLANS = st.builds(
    Plan,
    gpus=st.sampled_from([8, 16, 64]),
    groups=st.integers(1, 4),
    days=st.sampled_from([0.02, 0.2, 1.0]),
    steps=st.sampled_from([0, 1, 300]),
    seed=st.integers(0, 1000),
    step_seconds=st.sampled_from([0.7, 5.0, 90.0]),
    failures_per_gpu_hour=st.sampled_from([0.0, 0.01, 0.3, 3.0]),
    bug_step=st.sampled_from([0, 0, 0, 40]),
    preemptions_per_day=st.sampled_from([0.0, 5.0, 300.0, 3000.0]),
    grace_seconds=st.sampled_from([0.0, 3.0, 120.0]),
    requeue_seconds=st.sampled_from([0.0, 300.0]),
    spares=st.integers(0, 2),
    repair_seconds=st.sampled_from([0.0, 600.0, 90000.0]),
    launch_seconds=st.sampled_from([0.0, 20.0, 400.0]),
    clear_seconds=st.sampled_from([0.0, 10.0]),
    peer_gbs=st.sampled_from([0.0, 0.5, 10.0]),
    remote_gbs=st.sampled_from([0.5, 5.0, 100.0]),
    overhead=st.sampled_from([0.001, 0.5]),
    durable_seconds=st.sampled_from([0.0, 1.0, 600.0]),
    remote_every=st.integers(1, 3),
    blocking=st.booleans(),
    corrupt=st.sampled_from([0.0, 0.5]),
    hang=st.builds(
        HangSettings,
        enabled=st.booleans(),
        startup_seconds=st.sampled_from([100.0, 1800.0]),
        min_seconds=st.sampled_from([10.0, 300.0]),
        phase_seconds=st.sampled_from([30.0, 3600.0]),
        stack_seconds=st.sampled_from([0.0, 2.0]),
    ),
)


@settings(max_examples=150)
@given(PLANS)
def test_every_history_is_legal_and_every_second_accounted_for(plan: Plan) -> None:
    outcome = simulate(plan)
    assert sum(outcome.buckets.values()) == pytest.approx(plan.seconds, abs=1e-3)
    assert all(seconds >= -1e-6 for seconds in outcome.buckets.values())
    trained = outcome.buckets[Bucket.TRAINING]
    assert -1e-6 <= trained - outcome.step * plan.step_seconds <= plan.step_seconds
    assert outcome.interruptions <= sum(outcome.failures.values()) + outcome.rounds
    assert outcome.rounds == sum(outcome.resumed.values())
