"""The detectors as histories: these losses, those verdicts."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from resilient.policy.divergence import (
    Accepted,
    Alarm,
    Divergence,
    DivergenceKind,
    DivergenceSettings,
    DriftSettings,
    Finding,
    MetricSettings,
    MonitorState,
    Recovered,
    SpikeSettings,
    observe,
    phase_change,
)

NAN, INF = math.nan, math.inf
SETTINGS = DivergenceSettings()
SPIKE = SETTINGS.metrics["loss"].spike


def with_loss(**changes: Any) -> DivergenceSettings:
    return replace(SETTINGS, metrics={"loss": replace(MetricSettings(), **changes)})


def noise(count: int, level: float = 3.0, width: float = 0.1, seed: int = 1) -> list[float]:
    drawn = random.Random(seed)
    return [drawn.gauss(level, width) for _ in range(count)]


def history(
    losses: Sequence[float | None],
    norms: Sequence[float | None] = (),
    settings: DivergenceSettings = SETTINGS,
    state: MonitorState | None = None,
    first: int = 1,
) -> tuple[MonitorState, list[Finding]]:
    """Both the end and everything that was said on the way; None where a metric was not reported."""
    state = state or MonitorState()
    said: list[Finding] = []
    for index, loss in enumerate(losses):
        metrics: dict[str, Any] = {} if loss is None else {"loss": loss}
        if index < len(norms) and norms[index] is not None:
            metrics["grad_norm"] = norms[index]
        state, findings = observe(settings, state, first + index, metrics)
        said += findings
    return state, said


def brief(said: Iterable[Finding]) -> list[tuple[str, str, int, int]]:
    return [(type(item).__name__, item.kind.value, item.onset_step, item.step) for item in said]


# --- not finite


def test_a_loss_that_is_not_finite_is_a_divergence_at_once_and_said_once() -> None:
    _, said = history([*noise(10), NAN, NAN, INF])
    assert brief(said) == [("Divergence", "nonfinite", 11, 11)]
    assert said[0].evidence[0] in ("loss is nan", "loss is inf", "loss is -inf")


def test_a_loss_may_be_allowed_some_values_that_are_not_finite() -> None:
    settings = with_loss(nonfinite=3)
    assert history([1.0, NAN, -INF, 1.0, NAN, NAN], settings=settings)[1] == []
    assert brief(history([1.0, NAN, INF, NAN], settings=settings)[1]) == [("Divergence", "nonfinite", 2, 4)]


def test_a_loss_that_is_finite_again_has_recovered() -> None:
    _, said = history([1.0, NAN, 1.0, NAN])
    assert brief(said) == [
        ("Divergence", "nonfinite", 2, 2),
        ("Recovered", "nonfinite", 2, 3),
        ("Divergence", "nonfinite", 4, 4),
    ]


def test_norms_that_the_loss_scaler_skips_are_normal() -> None:
    norms = [INF] * 16 + [1.0, INF] * 200
    assert history(noise(416), norms)[1] == []


def test_a_norm_that_is_never_finite_again_is_a_divergence() -> None:
    _, said = history(noise(40), [1.0] * 10 + [INF] * 30)
    assert brief(said) == [("Divergence", "nonfinite", 11, 35)]
    assert said[0].metric == "grad_norm"


# --- spikes


def test_one_high_loss_is_no_alarm_whatever_its_height() -> None:
    assert history([*noise(300), 1e30, *noise(50)])[1] == []


def test_two_of_five_are_no_alarm_and_three_are() -> None:
    assert history([*noise(300), 9, 3, 3, 3, 9, *noise(50)])[1] == []
    assert brief(history([*noise(300), 9, 3, 9, 3, 9])[1]) == [("Alarm", "spike", 301, 305)]
    assert history([*noise(300), 9, 3, 3, 9, 3, 9, *noise(50)])[1] == []


def test_a_spike_that_recovers_within_the_patience_is_no_divergence() -> None:
    _, said = history([*noise(300), *[9.0] * 20, *noise(50)])
    assert brief(said) == [("Alarm", "spike", 301, 303), ("Recovered", "spike", 301, 325)]


def test_a_spike_that_stays_is_a_divergence_when_the_patience_is_over_and_said_once() -> None:
    _, said = history([*noise(300), *[9.0] * 200])
    assert brief(said) == [("Alarm", "spike", 301, 303), ("Divergence", "spike", 301, 333)]
    assert said[1].alarm_step == 303
    assert said[1].baseline == pytest.approx(3.0, abs=0.1)
    assert said[1].value == 9.0


def test_the_patience_does_not_end_while_values_are_back_near_the_level() -> None:
    _, said = history([*noise(300), *[9.0] * 31, *[3.0] * 5])
    assert brief(said)[1:] == [("Recovered", "spike", 301, 336)]


def test_high_values_never_enter_the_baseline() -> None:
    before, _ = history(noise(300))
    after, _ = history([9.0] * 100, state=before, first=301)
    assert after.metrics["loss"].spike.baseline == before.metrics["loss"].spike.baseline


def test_a_level_that_stays_up_with_nobody_acting_is_accepted_and_learned_anew() -> None:
    high = noise(900, level=9)
    _, said = history([*noise(300), *high, *[30.0] * 5])
    assert brief(said) == [
        ("Alarm", "spike", 301, 303),
        ("Divergence", "spike", 301, 333),
        ("Accepted", "spike", 301, 803),
        ("Alarm", "spike", 1201, 1203),
    ]


def test_no_spike_is_seen_in_the_warm_up_but_what_is_not_finite_is() -> None:
    wild = [9.0, 3.0, 30.0] * 30
    assert history(wild)[1] == []
    assert brief(history([*wild, NAN])[1]) == [("Divergence", "nonfinite", 91, 91)]


def test_a_loss_that_falls_fast_is_no_reason_to_miss_a_spike() -> None:
    falling = [2 + 8 * math.exp(-step / 60) + value for step, value in enumerate(noise(200, level=0, width=0.05))]
    _, said = history([*falling, *[4.0] * 3])
    assert brief(said) == [("Alarm", "spike", 201, 203)]


def test_a_jump_down_is_not_a_divergence_and_teaches_the_new_level() -> None:
    _, said = history([*noise(300), *noise(300, level=1), *[2.5] * 3])
    assert brief(said) == [("Alarm", "spike", 601, 603)]


def test_a_long_tail_teaches_its_own_width() -> None:
    """One in twenty values is 1.5 too high. At first each is called high; then the scale has learned of them."""
    drawn = random.Random(3)
    losses = [*noise(200), *(value + 1.5 * (drawn.random() < 0.05) for value in noise(2000))]
    state, said = history(losses)
    assert said == []
    assert state.metrics["loss"].spike.baseline.spread > 0.4


def test_quantised_losses_are_not_judged_by_their_last_digit() -> None:
    drawn = random.Random(5)
    steps = [2.3125 + drawn.choice([0, 0, 0, 0, 0, 1 / 64]) for _ in range(400)]
    assert history([*steps, *[2.3125 + 2 / 64] * 40])[1] == []
    assert brief(history([*steps, *[2.6] * 3])[1])[0][0] == "Alarm"


def test_a_rounded_loss_of_nearly_one_value_has_its_last_digit_as_scale() -> None:
    losses = [*[0.06] * 30, *[0.05] * 300]
    assert history([*losses, *[0.07] * 20, *losses], settings=with_loss(drift=DriftSettings(enabled=False)))[1] == []


@pytest.mark.parametrize("constant", [0.0, 1e-9, -2.0])
def test_a_constant_loss_says_nothing_and_a_jump_from_it_is_seen(constant: float) -> None:
    assert history([constant] * 500)[1] == []
    assert brief(history([*[constant] * 500, *[1.0] * 3])[1])[0] == ("Alarm", "spike", 501, 503)


def test_a_loss_around_zero_is_judged_by_its_scatter() -> None:
    around = noise(600, level=0.0, width=0.02)
    assert history(around)[1] == []
    assert brief(history([*around, *[0.3] * 3])[1]) == [("Alarm", "spike", 601, 603)]


def test_a_tiny_loss_is_judged_by_what_training_has_gained() -> None:
    """From 2.3 to 0.01: back at 0.02 is nothing, back at 1 is."""
    falling = [0.01 + 2.3 * math.exp(-step / 40) for step in range(500)]
    assert history([*falling, *[0.02] * 100])[1] == []
    assert brief(history([*falling, *[1.0] * 3])[1]) == [("Alarm", "spike", 501, 503)]


def test_a_negative_loss_diverges_upwards() -> None:
    assert brief(history([*noise(300, level=-5), *[-2.0] * 3])[1]) == [("Alarm", "spike", 301, 303)]
    assert history([*noise(300, level=-5), *[-9.0] * 50])[1] == []


def test_a_reward_diverges_downwards_and_is_told_in_its_own_sign() -> None:
    settings = with_loss(higher_is_worse=False)
    _, said = history([*noise(300, level=5), *[1.0] * 3], settings=settings)
    assert brief(said) == [("Alarm", "spike", 301, 303)]
    assert said[0].value == 1.0
    assert said[0].baseline == pytest.approx(5, abs=0.1)
    assert history([*noise(300, level=5), *[9.0] * 50], settings=settings)[1] == []


def test_a_metric_reported_rarely_counts_in_reports() -> None:
    rare = MetricSettings(spike=SpikeSettings(history=8, level_window=4, hits=2, of=2, patience=2))
    settings = replace(SETTINGS, metrics={"loss": MetricSettings(), "eval": rare})
    state = MonitorState()
    said: list[Finding] = []
    values = [*noise(20, width=0.01), 9.0, 9.0, 9.0, 9.0]
    for step in range(50, 24 * 500 + 1, 50):
        metrics = {"loss": 3.0, "eval": values[step // 500 - 1]} if step % 500 == 0 else {"loss": 3.0}
        state, findings = observe(settings, state, step, metrics)
        said += findings
    assert brief(said) == [("Alarm", "spike", 10_500, 11_000), ("Divergence", "spike", 10_500, 12_000)]
    assert {item.metric for item in said} == {"eval"}


def test_a_metric_that_is_not_reported_or_no_number_is_passed_over() -> None:
    state, said = history([*noise(300), *[9.0, None] * 2, 9.0])
    assert brief(said) == [("Alarm", "spike", 301, 305)]
    for odd in ("nine", None, True, [9.0], object()):
        again, said_again = observe(SETTINGS, state, 306, {"loss": odd, "other": 9.0})
        assert (again, said_again) == (state, ())


# --- gradient norm


def test_a_high_norm_arms_the_spike_rule() -> None:
    norms = [*[1.0 + 0.01 * (step % 7) for step in range(300)], 50.0, 60.0]
    assert history([*noise(300), 4.0, 4.0], [*norms[:300], 1.0, 1.0])[1] == []
    _, said = history([*noise(300), 4.0, 4.0], norms)
    assert brief(said) == [("Alarm", "spike", 301, 302)]
    assert "while the gradient norm was high" in said[0].evidence[0]


def test_a_normal_loss_raises_no_alarm_because_the_norm_is_high() -> None:
    norms = [*[1.0 + 0.01 * (step % 7) for step in range(302)], 50.0]
    assert history([*noise(300), 9.0, 9.0, 3.0], norms)[1] == []


def test_the_norm_dates_the_onset_where_it_left_its_baseline_first() -> None:
    norms = [*[1.0 + 0.01 * (step % 7) for step in range(300)], *[50.0] * 8]
    _, said = history([*noise(300), *[3.0] * 4, *[9.0] * 2], norms)
    assert brief(said) == [("Alarm", "spike", 301, 306)]
    assert "step 301" in said[0].evidence[1]


def test_the_norm_alone_is_no_divergence() -> None:
    assert history(noise(700), [*[1.0] * 300, *[100.0] * 400])[1] == []


def test_norms_that_stay_high_become_normal_and_arm_no_more() -> None:
    state, _ = history(noise(600), [*[1.0] * 300, *[100.0] * 300])
    assert not state.norm.armed


def test_an_old_excursion_of_the_norm_dates_nothing() -> None:
    norms = [*[1.0] * 250, 100.0, *[1.0] * 100]
    assert brief(history([*noise(300), *[9.0] * 3], norms)[1]) == [("Alarm", "spike", 301, 303)]


def test_a_norm_that_has_been_high_for_long_dates_nothing() -> None:
    norms = [*[1.0] * 250, *[100.0] * 53]
    assert brief(history([*noise(300), *[9.0] * 2], norms)[1]) == [("Alarm", "spike", 301, 302)]


# --- drift


def slope(count: int, by: float, start: float = 3.0) -> list[float]:
    return [start + by * step + value for step, value in enumerate(noise(count, level=0.0, seed=2))]


def test_a_slow_rise_is_first_an_alarm_then_a_divergence() -> None:
    _, said = history([*noise(500), *slope(400, 0.004)])
    assert [(type(item), item.kind) for item in said[:2]] == [
        (Alarm, DivergenceKind.DRIFT),
        (Divergence, DivergenceKind.DRIFT),
    ]
    assert 450 <= said[0].onset_step <= 620
    assert said[1].onset_step == said[0].onset_step
    assert said[1].alarm_step == said[0].step
    assert said[0].step < said[1].step <= 800


def test_a_rise_of_a_few_percent_is_let_be() -> None:
    assert history([*noise(500), *noise(500, level=3.1)])[1] == []


def test_a_mean_that_comes_back_has_recovered() -> None:
    _, said = history([*noise(500), *noise(40, level=3.5), *noise(300)])
    assert [type(item) for item in said] == [Alarm, Recovered]
    assert {item.kind for item in said} == {DivergenceKind.DRIFT}
    assert 495 <= said[0].onset_step <= 501


def test_what_has_been_up_for_long_recovers_as_soon_as_it_is_back() -> None:
    _, said = history([*noise(500), *noise(300, level=3.5), *noise(300)])
    assert [type(item) for item in said] == [Alarm, Recovered]
    assert said[1].step < 900


def test_hard_batches_do_not_make_a_drift() -> None:
    losses = noise(2000)
    losses[600::25] = [8.0] * len(losses[600::25])
    assert history(losses)[1] == []


def test_a_rising_learning_rate_makes_the_best_so_far_forgotten() -> None:
    state = MonitorState()
    said: list[Finding] = []
    losses = [*noise(500), *slope(400, 0.004)]
    for step, loss in enumerate(losses, start=1):
        lr = 1e-4 if step <= 500 else 1e-4 + 1e-6 * (step - 500)
        state, findings = observe(SETTINGS, state, step, {"loss": loss, "lr": lr})
        said += findings
    assert said == []


def test_a_mean_that_stays_up_with_nobody_acting_is_accepted_and_is_the_new_best() -> None:
    state, said = history([*noise(500), *noise(1000, level=3.5)])
    assert [type(item) for item in said] == [Alarm, Accepted]
    assert said[1].step == said[0].step + 500
    assert state.open_onset is None
    assert state.metrics["loss"].drift.best == pytest.approx(3.5, abs=0.1)


def test_drift_can_be_looked_away_from() -> None:
    assert history([*noise(500), *slope(400, 0.004)], settings=with_loss(drift=DriftSettings(enabled=False)))[1] == []


# --- all of them


def test_a_declared_phase_change_forgets_where_the_metric_stood() -> None:
    state, _ = history(noise(500), [1.0] * 500)
    changed = phase_change(state, 501)
    _, said = history([*noise(300, level=9), *[30.0] * 3], state=changed, first=501)
    assert brief(said) == [("Alarm", "spike", 801, 803)]
    assert history(noise(300, level=9), state=state, first=501)[1] != []


def test_a_declared_phase_change_ends_an_open_alarm() -> None:
    state, _ = history([*noise(300), *[9.0] * 3])
    assert state.open_onset == 301
    assert phase_change(state, 304).open_onset is None


def test_the_earliest_open_onset_of_all_metrics_counts() -> None:
    settings = replace(SETTINGS, metrics={"loss": MetricSettings(), "aux": MetricSettings()})
    state = MonitorState()
    for step, (loss, aux) in enumerate(
        zip([*noise(300), *[9.0] * 9], [*noise(305, seed=9), *[9.0] * 4], strict=True), start=1
    ):
        state, _ = observe(settings, state, step, {"loss": loss, "aux": aux})
    assert state.metrics["aux"].open_onset == 306
    assert state.open_onset == 301


def test_what_is_not_finite_is_wrong_before_it_is_a_divergence() -> None:
    state, said = history([1.0, 1.0, NAN], settings=with_loss(nonfinite=3))
    assert (state.open_onset, said) == (3, [])
    assert history([1.0], settings=with_loss(nonfinite=3), state=state, first=4)[0].open_onset is None


def test_nothing_is_looked_at_when_it_is_off() -> None:
    state, said = history([*noise(300), NAN, *[9.0] * 50], settings=replace(SETTINGS, enabled=False))
    assert (state, said) == (MonitorState(), [])


def test_the_warm_up_counts_from_the_first_step_seen() -> None:
    """Attached to a run that is at step 5000 already."""
    _, said = history([*noise(20), *[9.0] * 10, *noise(165), *[9.0] * 10], first=5000)
    assert [type(item) for item in said] == [Alarm]
    assert said[0].onset_step == 5195


def test_all_that_was_accepted_says_so() -> None:
    _, said = history([*noise(300), *noise(510, level=9)])
    assert isinstance(said[-1], Accepted)
