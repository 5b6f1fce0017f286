"""The learned limit of silence, as histories of one rank."""

from __future__ import annotations

from dataclasses import replace

import pytest

from resilient.errors import ConfigurationError
from resilient.policy.hang import HangSettings, HangWatch, durations_of

SETTINGS = HangSettings(startup_seconds=100, min_seconds=5, factor=10, phase_seconds=50)


def _after_steps(*moments: float) -> HangWatch:
    watch = HangWatch(since=0.0)
    for moment in moments:
        watch = watch.progressed("step", moment)
    return watch


def _after(watch: HangWatch, *moves: tuple[str, float]) -> HangWatch:
    """Moves are (the next phase, seconds until it begins)."""
    for phase, seconds in moves:
        watch = watch.progressed(phase, watch.since + seconds)
    return watch


# --- start-up


def test_start_up_has_its_own_limit() -> None:
    watch = HangWatch(since=7.0)
    assert not watch.is_hung(SETTINGS, 107.0)
    assert watch.is_hung(SETTINGS, 107.1)


def test_start_up_teaches_nothing_about_steps_but_a_step_may_take_as_long() -> None:
    watch = _after_steps(90.0)
    assert "step" not in watch.recent
    assert watch.limit(SETTINGS) == 90, "there was a step in it, perhaps a long one"
    assert _after_steps(1.0).limit(SETTINGS) == 5
    assert _after_steps(90.0, 91.0).limit(SETTINGS) == 10, "once a whole step has been seen, steps are what counts"


def test_the_next_rounds_start_up_is_measured_by_those_before() -> None:
    first = _after_steps(7.0, 8.0)
    second = HangWatch.knowing(durations_of([first], 10), now=100.0)
    assert second.phase == "startup"
    assert second.limit(SETTINGS) == 70
    third = HangWatch.knowing(durations_of([second.progressed("step", 100.2)], 10), now=200.0)
    assert third.limit(SETTINGS) == 70, "a cold start may come again, however quick the warm ones are"


# --- steps


def test_the_limit_is_the_slowest_recent_step_times_the_factor() -> None:
    watch = _after_steps(90, 91, 94, 95)
    assert watch.limit(SETTINGS) == 30
    assert not watch.is_hung(SETTINGS, 95 + 30)
    assert watch.is_hung(SETTINGS, 95 + 30.1)


def test_quick_steps_never_bring_the_limit_below_the_minimum() -> None:
    watch = _after_steps(1.0, 1.01, 1.02)
    assert watch.limit(SETTINGS) == 5


def test_slow_steps_are_forgotten_after_the_window() -> None:
    watch = _after(HangWatch(0.0), *[("step", 40.0)] * 3)
    for number in range(HangWatch.WINDOW):
        assert watch.limit(SETTINGS) == (400 if number < HangWatch.WINDOW - 1 else 10), number
        watch = _after(watch, ("step", 1.0))
    assert watch.limit(SETTINGS) == 10
    assert len(watch.recent["step"]) == HangWatch.WINDOW


def test_one_accident_does_not_stretch_the_limit_and_two_do() -> None:
    watch = _after(HangWatch(0.0), *[("step", 1.0)] * 5, ("step", 20.0))
    assert watch.limit(SETTINGS) == 10
    assert _after(watch, ("step", 1.0), ("step", 20.0)).limit(SETTINGS) == 200


def test_a_step_that_is_only_slower_is_no_accident() -> None:
    assert _after(HangWatch(0.0), *[("step", 1.0)] * 5, ("step", 9.0)).limit(SETTINGS) == 90


def test_the_only_step_that_was_seen_is_no_accident() -> None:
    assert _after_steps(0, 40).limit(SETTINGS) == 400


def test_progress_starts_the_clock_anew() -> None:
    watch = _after_steps(0, 1)
    assert watch.is_hung(SETTINGS, 11.5)
    assert not watch.progressed("step", 10.5).is_hung(SETTINGS, 11.5)


# --- declared phases


def test_a_phase_that_was_not_seen_yet_has_the_limit_of_the_settings_and_teaches_nothing_about_steps() -> None:
    watch = _after_steps(0, 1).progressed("eval", 2)
    assert watch.limit(SETTINGS) == 50
    back = watch.progressed("step", 45)
    assert back.recent["step"] == watch.recent["step"]
    assert back.limit(SETTINGS) == 10


def test_the_begun_step_before_a_phase_is_no_whole_step() -> None:
    assert _after_steps(0, 1).progressed("eval", 1.9).recent["step"] == (1.0,)


def test_each_phase_learns_from_its_own_durations() -> None:
    steps = _after_steps(0, 1)
    watch = _after(steps, ("eval", 0.5), ("step", 12.0), ("step", 0.5), ("plotting", 0.5), ("step", 2.0))
    assert watch.progressed("eval", watch.since).limit(SETTINGS) == 120
    assert watch.progressed("plotting", watch.since).limit(SETTINGS) == 20
    assert watch.progressed("save", watch.since).limit(SETTINGS) == 50
    assert _after(watch, ("plotting", 0), ("step", 0.5)).progressed("plotting", 99).limit(SETTINGS) == 20


def test_a_full_evaluation_between_small_ones_is_no_accident() -> None:
    watch = _after(_after_steps(0, 1), ("eval", 1), ("step", 40), ("eval", 1), ("step", 1), ("eval", 1), ("step", 1))
    assert watch.progressed("eval", 99).limit(SETTINGS) == 400


def test_slow_steps_stretch_the_limit_of_phases_that_were_not_seen_yet() -> None:
    assert _after_steps(0, 20).progressed("save", 21).limit(SETTINGS) == 200


def test_a_script_that_makes_up_names_for_ever_fills_no_memory() -> None:
    watch = _after_steps(0, 1)
    for number in range(100):
        watch = _after(watch, (f"eval-{number}", 0.1), ("step", 1.0))
    assert len(watch.recent) == 16
    assert {"startup", "step", "eval-99"} <= watch.recent.keys()


def test_the_scripts_last_work_takes_as_long_as_it_takes() -> None:
    assert not _after_steps(0, 1).progressed("finished", 2).is_hung(SETTINGS, 1e9)


# --- what is passed on


def test_what_is_known_is_that_of_the_slowest_rank_without_its_accident() -> None:
    slow = _after(HangWatch(0.0), ("step", 8.0), *[("step", 2.0)] * 3, ("step", 50.0))
    quick = _after(HangWatch(0.0), ("step", 9.0), *[("step", 1.0)] * 3, ("eval", 1.0), ("step", 30.0))
    assert durations_of([slow, quick], 10) == {"startup": 9.0, "step": 2.0, "eval": 30.0}
    assert durations_of([], 10) == {}


def test_what_was_known_holds_until_enough_new_is() -> None:
    watch = HangWatch.knowing({"step": 3.0, "startup": 1.0}, now=0.0).progressed("step", 1.0)
    assert watch.limit(SETTINGS) == 30
    assert _after(watch, ("step", 0.1)).limit(SETTINGS) == 30, "no accident: it is known to take that"
    assert _after(watch, *[("step", 0.1)] * HangWatch.WINDOW).limit(SETTINGS) == 5


# --- settings


def test_nothing_hangs_when_the_watch_is_off() -> None:
    assert not HangWatch(since=0).is_hung(replace(SETTINGS, enabled=False), 1e9)


@pytest.mark.parametrize(
    ("field", "value"),
    [("factor", 0.9), ("startup_seconds", 0.0), ("min_seconds", -1.0), ("phase_seconds", 0.0), ("stack_seconds", -1.0)],
)
def test_a_bad_setting_is_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ConfigurationError, match=rf"hang\.{field}"):
        HangSettings(**{field: value})  # type: ignore[arg-type]  # one of the numbers, by name


def test_a_sign_of_life_during_start_up_does_not_make_it_a_short_one() -> None:
    watch = HangWatch.knowing({}, now=0.0).progressed("startup", 2.0, 0)
    assert watch.limit(SETTINGS) == 100, "it has not been seen whole"
    assert not watch.is_hung(SETTINGS, 101.0)
    assert watch.is_hung(SETTINGS, 102.5)
    watch = watch.progressed("startup", 60.0).progressed("step", 90.0, 1)
    assert watch.recent["startup"] == (90.0,)
    assert watch.progressed("step", 91.0, 2).recent["step"] == (1.0,)
