"""A cluster on paper behaves as one: what fails costs, what survives saves, and the core's rules hold."""

from __future__ import annotations

from dataclasses import replace

import pytest

from resilient.errors import ExitCode
from resilient.policy.events import Tier
from resilient.policy.failures import FailureClass
from resilient.policy.hang import HangSettings
from resilient.policy.restart_settings import RestartSettings
from resilient.simulate.engine import simulate
from resilient.simulate.faults import LLAMA3, LLAMA3_INTERRUPTIONS, Kind
from resilient.simulate.ledger import Bucket
from resilient.simulate.outcome import Outcome
from resilient.simulate.plan import Plan
from resilient.simulate.presets import PRESETS

SMALL = Plan(gpus=64, groups=2, days=10, failures_per_gpu_hour=4e-3, spares=40)
CRASH = Kind("crash", 1, FailureClass.CRASH, Tier.MEMORY, replaces=False)
NODE = Kind("node", 1, FailureClass.HARDWARE)
HANG = Kind("hang", 1, FailureClass.HANG, Tier.MEMORY, silent=True, replaces=False)


def _adds_up(outcome: Outcome) -> None:
    assert sum(outcome.buckets.values()) == pytest.approx(outcome.plan.seconds, abs=1e-3)
    assert all(seconds >= -1e-6 for seconds in outcome.buckets.values())
    assert outcome.buckets[Bucket.TRAINING] - outcome.step * outcome.plan.step_seconds < outcome.plan.step_seconds


def test_the_same_seed_gives_the_same_run_and_another_one_another() -> None:
    plan = replace(SMALL, preemptions_per_day=2, corrupt=0.1)
    assert simulate(plan) == simulate(plan)
    assert simulate(plan).failures != simulate(replace(plan, seed=1)).failures


def test_every_second_is_in_one_bucket() -> None:
    for plan in (SMALL, replace(SMALL, preemptions_per_day=3), replace(SMALL, blocking=True, durable_seconds=600)):
        _adds_up(simulate(plan))


def test_more_failures_leave_less_for_training() -> None:
    rates = (0.0, 2e-4, 1e-3, 4e-3)
    found = [simulate(replace(SMALL, failures_per_gpu_hour=rate)) for rate in rates]
    assert [outcome.goodput for outcome in found] == sorted((outcome.goodput for outcome in found), reverse=True)
    assert found[0].interruptions == 0
    assert found[0].goodput > 0.98 > found[-1].goodput


def test_what_is_published_of_llama_3() -> None:
    found = [simulate(replace(PRESETS["llama3"], seed=seed)) for seed in range(3)]
    mean = sum(outcome.interruptions for outcome in found) / len(found)
    assert mean == pytest.approx(LLAMA3_INTERRUPTIONS, rel=0.09)  # three standard deviations of such a mean
    assert all(outcome.goodput > 0.9 and outcome.ended is None for outcome in found)
    assert sum(kind.share for kind in LLAMA3) == LLAMA3_INTERRUPTIONS
    for outcome in found:
        _adds_up(outcome)


def test_a_crash_resumes_from_memory_and_a_lost_node_from_the_remote_tier() -> None:
    crashed, lost = simulate(SMALL, (CRASH,)), simulate(SMALL, (NODE,))
    assert crashed.interruptions > 30
    assert set(crashed.resumed) == {"nothing", "memory"}
    assert crashed.buckets[Bucket.REPLACEMENT] == 0
    assert set(lost.resumed) == {"nothing", "remote"}
    assert lost.buckets[Bucket.REPLACEMENT] > 0
    assert lost.buckets[Bucket.LOST] > crashed.buckets[Bucket.LOST]
    assert lost.gpu_hours_lost["node"] == max(lost.gpu_hours_lost.values())


def test_without_spares_a_node_has_to_be_repaired_first() -> None:
    few = replace(SMALL, failures_per_gpu_hour=1e-3)
    assert simulate(replace(few, spares=0), (NODE,)).goodput < simulate(few, (NODE,)).goodput - 0.2


def test_a_silent_worker_is_found_by_the_hang_limit_of_the_core() -> None:
    quick, slow = (
        simulate(replace(SMALL, launch_seconds=1, hang=HangSettings(min_seconds=seconds)), (HANG,))
        for seconds in (100.0, 1000.0)
    )
    assert quick.incidents == {"hang": quick.interruptions}
    for outcome, seconds in ((quick, 100.0), (slow, 1000.0)):
        mean = outcome.buckets[Bucket.DETECTION] / outcome.interruptions
        assert seconds - SMALL.step_seconds - 1 < mean < seconds + 10


def test_a_launch_that_takes_longer_than_its_limit_is_a_hang() -> None:
    outcome = simulate(replace(SMALL, launch_seconds=2000, failures_per_gpu_hour=0))
    assert outcome.ended is not None
    assert outcome.ended[0] == ExitCode.HUNG
    assert outcome.step == 0
    _adds_up(outcome)


def test_a_first_step_that_is_too_slow_is_a_hang_though_training_has_begun() -> None:
    hang = HangSettings(startup_seconds=100)
    outcome = simulate(replace(SMALL, launch_seconds=20, step_seconds=90, failures_per_gpu_hour=0, hang=hang))
    assert outcome.ended is not None
    assert outcome.ended[0] == ExitCode.HUNG
    assert outcome.buckets[Bucket.LOST] > 0
    _adds_up(outcome)


def test_a_deterministic_bug_ends_the_run_as_it_does_in_reality() -> None:
    outcome = simulate(replace(SMALL, failures_per_gpu_hour=0, bug_step=500))
    assert outcome.ended is not None
    assert (outcome.ended[0], outcome.interruptions, outcome.step) == (ExitCode.CRASH_LOOP, 3, 500)
    assert outcome.buckets[Bucket.ENDED] > 0.9 * outcome.plan.seconds
    more = simulate(replace(outcome.plan, restarts=RestartSettings(crash_loop=5)))
    assert more.interruptions == 5


def test_a_preempted_run_loses_no_step_when_there_is_time_for_its_last_snapshot() -> None:
    plan = replace(SMALL, failures_per_gpu_hour=0, preemptions_per_day=5)
    outcome = simulate(plan)
    assert outcome.preemptions > 20
    assert outcome.incidents == {"preemption": outcome.preemptions}
    assert outcome.buckets[Bucket.PREEMPTED] > 0
    assert set(outcome.causes) <= {"preemption", "start", "shutdown"}
    assert outcome.causes["preemption"] > 0.99 * (sum(outcome.causes.values()) - outcome.causes["start"])
    hurried = simulate(replace(plan, grace_seconds=6, durable_seconds=1800))
    assert outcome.buckets[Bucket.LOST] < 0.1 * hurried.buckets[Bucket.LOST]
    _adds_up(hurried)


def test_a_damaged_snapshot_is_passed_over() -> None:
    outcome = simulate(replace(SMALL, corrupt=0.1, days=20, seed=1), (NODE,))
    assert outcome.incidents["bad snapshot"] >= 3
    _adds_up(outcome)


def test_what_other_nodes_remember_makes_up_for_a_lost_node() -> None:
    alone = simulate(replace(SMALL, durable_seconds=3600), (NODE,))
    remembered = simulate(replace(SMALL, durable_seconds=3600, peer_gbs=5), (NODE,))
    assert set(remembered.resumed) == {"nothing", "peer"}
    assert remembered.buckets[Bucket.LOST] < 0.2 * alone.buckets[Bucket.LOST]
    assert 0 < remembered.buckets[Bucket.COPYING] < remembered.plan.peer_share * remembered.buckets[Bucket.TRAINING]
    assert alone.buckets.get(Bucket.COPYING, 0) == 0
    preempted = simulate(replace(remembered.plan, failures_per_gpu_hour=0, preemptions_per_day=3), (NODE,))
    assert "peer" not in preempted.resumed, "all machines are given back"
    one_node = simulate(replace(remembered.plan, gpus=8), (NODE,))
    assert "peer" not in one_node.resumed
    _adds_up(remembered)


def test_a_run_with_a_last_step_finishes() -> None:
    outcome = simulate(replace(SMALL, steps=2000))
    assert outcome.ended is not None
    assert (outcome.ended[0], outcome.step) == (ExitCode.FINISHED, 2000)
    assert outcome.goodput > 0.8
    _adds_up(outcome)


def test_what_is_written_is_what_the_interval_asks_for() -> None:
    plan = replace(SMALL, failures_per_gpu_hour=0, durable_seconds=600)
    outcome = simulate(plan)
    local = outcome.storage["local"]
    assert local.average == pytest.approx(plan.snapshot_bytes / 600, rel=0.03)
    assert local.peak == pytest.approx(plan.local_gbs * 1e9 * plan.nodes)
