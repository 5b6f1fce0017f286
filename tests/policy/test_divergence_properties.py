"""What holds of the detectors for any history of reports."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resilient.policy.divergence import (
    DivergenceSettings,
    DriftSettings,
    Finding,
    MetricSettings,
    MonitorState,
    NormSettings,
    SpikeSettings,
    observe,
    phase_change,
)
from resilient.policy.divergence.baseline import Baseline

# Small windows, so that short histories reach every branch.
SMALL = DivergenceSettings(
    warmup_steps=3,
    metrics={
        "loss": MetricSettings(
            spike=SpikeSettings(window=8, level_window=4, history=4, patience=3, recovered=2, accept_after=9),
            drift=DriftSettings(smoothing=4, held=3, accept_after=8),
        ),
        "reward": MetricSettings(higher_is_worse=False, nonfinite=2),
    },
    grad_norm=NormSettings(window=8, history=4, accept_after=5, nonfinite=3),
)
ANY_FLOAT = st.floats(allow_nan=True, allow_infinity=True, width=64)
USUAL = st.sampled_from([2.9, 3.0, 3.05, 3.1, 9.0, 40.0])
VALUE = st.one_of(USUAL, USUAL, ANY_FLOAT, st.integers(-(10**400), 10**400))
REPORT = st.fixed_dictionaries({}, optional=dict.fromkeys(("loss", "reward", "grad_norm", "lr"), VALUE))
HISTORY = st.lists(REPORT, max_size=60)


def run(
    reports: list[dict[str, Any]], state: MonitorState | None = None, first: int = 1
) -> tuple[MonitorState, list[Finding]]:
    state = state or MonitorState()
    said: list[Finding] = []
    for step, report in enumerate(reports, start=first):
        state, findings = observe(SMALL, state, step, report)
        said += findings
    return state, said


def through_json(state: MonitorState) -> MonitorState:
    text = json.dumps(state.to_json(), allow_nan=False)  # plain JSON has no NaN
    return MonitorState.from_json(json.loads(text))


@settings(max_examples=60)
@given(HISTORY, st.integers(0, 60))
def test_an_interrupted_history_is_judged_as_if_it_had_not_been(reports: list[dict[str, Any]], cut: int) -> None:
    whole = run(reports)
    state, said = run(reports[:cut])
    saved = through_json(state)
    assert saved == state
    end, rest = run(reports[cut:], saved, first=min(cut, len(reports)) + 1)
    assert repr((end, said + rest)) == repr(whole)  # repr tells -0.0 from 0.0 and finds nan equal to itself


@settings(max_examples=60)
@given(HISTORY)
def test_no_verdict_lies_in_the_future_and_each_says_why(reports: list[dict[str, Any]]) -> None:
    for item in run(reports)[1]:
        assert 1 <= item.onset_step <= item.alarm_step <= item.step <= len(reports)
        assert item.evidence
        assert item.scale >= 0


def test_the_state_does_not_grow() -> None:
    drawn = random.Random(0)
    state, sizes = MonitorState(), []
    for step in range(1, 2001):
        loss = 3 + drawn.gauss(0, 0.1) + 6 * (drawn.random() < 0.05)
        state, _ = observe(DivergenceSettings(), state, step, {"loss": loss, "grad_norm": abs(loss), "lr": 0.1})
        if step % 500 == 0:
            sizes.append(len(json.dumps(state.to_json())))
    assert max(sizes) < 20_000
    assert max(sizes) < 1.1 * min(sizes[1:])


@pytest.mark.parametrize("factor", [1e-6, 0.3, 1e4])
def test_a_loss_in_other_units_is_judged_alike(factor: float) -> None:
    drawn = random.Random(4)
    losses = [2 + 8 * math.exp(-step / 80) + drawn.gauss(0, 0.1) for step in range(500)]
    losses += [9.0] * 10 + [2 + drawn.gauss(0, 0.1) for _ in range(200)] + [2 + 0.004 * step for step in range(500)]

    def told(scale: float) -> list[tuple[str, int, int]]:
        state, said = MonitorState(), []
        for step, loss in enumerate(losses, start=1):
            state, findings = observe(DivergenceSettings(), state, step, {"loss": scale * loss})
            said += [(type(item).__name__, item.onset_step, item.step) for item in findings]
        return said

    assert told(factor) == told(1.0)
    assert [name for name, _, _ in told(1.0)] == ["Alarm", "Recovered", "Alarm", "Divergence"]


@settings(max_examples=60)
@given(st.lists(st.floats(-1e150, 1e150), max_size=40), st.integers(8, 12), st.integers(1, 6))
def test_both_windows_of_a_baseline_hold_the_same_values(values: list[float], window: int, level_window: int) -> None:
    baseline = Baseline()
    for value in values:
        baseline = baseline.add(value, window, level_window)
    assert list(baseline.ordered) == sorted(baseline.residuals)
    assert len(baseline.residuals) == min(window, max(0, len(values) - 1))
    assert len(baseline.recent) == min(level_window, len(values))
    assert baseline.count == len(values)
    assert baseline.spread >= 0


def test_a_window_made_smaller_lets_the_oldest_go() -> None:
    baseline = Baseline()
    for value in range(30):
        baseline = baseline.add(float(value * value), 20, 10)
    smaller = baseline.add(900.0, 8, 5)
    assert len(smaller.residuals) == 8
    assert list(smaller.ordered) == sorted(smaller.residuals)
    assert smaller.recent == (676.0, 729.0, 784.0, 841.0, 900.0)


def test_the_next_value_is_expected_where_the_trend_leads() -> None:
    baseline = Baseline(recent=(3.0, 2.0, 1.0), residuals=(-0.5, -0.4, -0.6), ordered=(-0.6, -0.5, -0.4))
    assert (baseline.level, baseline.centre) == (2.0, 1.5)


def test_the_stake_is_the_level_or_the_gain_or_a_trace_of_the_start() -> None:
    assert Baseline(recent=(-3.0,), start=1.0, reference=-2.0).stake == 3.0
    assert Baseline(recent=(0.0,), start=2.3, reference=1.5).stake == 1.5
    assert Baseline(recent=(0.0,), start=2.0, reference=0.0).stake == 0.002


@pytest.mark.parametrize(
    "spoil",
    [
        lambda saved: None,
        lambda saved: [],
        lambda saved: {},
        lambda saved: {**saved, "format": 2},
        lambda saved: {**saved, "metrics": 3},
        lambda saved: {**saved, "norm": None},
        lambda saved: {**saved, "norm_nonfinite": [1]},
        lambda saved: {**saved, "metrics": {"loss": {"spike": {}}}},
    ],
)
def test_what_is_no_saved_state_is_refused(spoil: Any) -> None:
    state, _ = run([{"loss": 3.0, "grad_norm": 1.0}] * 5)
    with pytest.raises(ValueError, match="not a state of the divergence detectors"):
        MonitorState.from_json(spoil(state.to_json()))


@settings(max_examples=30)
@given(HISTORY, HISTORY)
def test_a_phase_change_is_a_new_beginning(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> None:
    """But for the learning rate, whose next value may be a rise."""
    state, _ = run(before)
    changed = replace(phase_change(state, len(before) + 1), since=None, lr=None)
    assert changed == MonitorState()
    assert repr(run(after, changed)) == repr(run(after))
