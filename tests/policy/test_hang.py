"""The learned limit of silence, as histories of one rank."""

from __future__ import annotations

from dataclasses import replace

import pytest

from resilient.errors import ConfigurationError
from resilient.policy.hang import HangSettings, HangWatch

SETTINGS = HangSettings(startup_seconds=100, min_seconds=5, factor=10, phase_seconds=50)


def _after_steps(*moments: float) -> HangWatch:
    watch = HangWatch(since=0.0)
    for moment in moments:
        watch = watch.progressed("step", moment)
    return watch


def test_start_up_has_its_own_limit() -> None:
    watch = HangWatch(since=7.0)
    assert not watch.is_hung(SETTINGS, 107.0)
    assert watch.is_hung(SETTINGS, 107.1)


def test_start_up_teaches_nothing_about_steps() -> None:
    watch = _after_steps(90.0)
    assert watch.recent == ()
    assert watch.limit(SETTINGS) == 5


def test_the_limit_is_the_slowest_recent_step_times_the_factor() -> None:
    watch = _after_steps(90, 91, 94, 95)
    assert watch.limit(SETTINGS) == 30
    assert not watch.is_hung(SETTINGS, 95 + 30)
    assert watch.is_hung(SETTINGS, 95 + 30.1)


def test_quick_steps_never_bring_the_limit_below_the_minimum() -> None:
    watch = _after_steps(90.0, 90.01, 90.02)
    assert watch.limit(SETTINGS) == 5


def test_a_slow_step_is_forgotten_after_the_window() -> None:
    watch = _after_steps(0, 40)
    assert watch.limit(SETTINGS) == 400
    for number in range(HangWatch.WINDOW):
        assert watch.limit(SETTINGS) == 400
        watch = watch.progressed("step", 41.0 + number)
    assert watch.limit(SETTINGS) == 10
    assert len(watch.recent) == HangWatch.WINDOW


def test_an_evaluation_has_a_longer_limit_and_teaches_nothing() -> None:
    watch = _after_steps(0, 1).progressed("eval", 2)
    assert watch.limit(SETTINGS) == 50
    back = watch.progressed("step", 45)
    assert back.recent == watch.recent
    assert back.limit(SETTINGS) == 10


def test_slow_steps_stretch_the_limit_of_other_phases_too() -> None:
    assert _after_steps(0, 20).progressed("save", 21).limit(SETTINGS) == 200


def test_progress_starts_the_clock_anew() -> None:
    watch = _after_steps(0, 1)
    assert watch.is_hung(SETTINGS, 11.5)
    assert not watch.progressed("step", 10.5).is_hung(SETTINGS, 11.5)


def test_nothing_hangs_when_the_watch_is_off() -> None:
    assert not HangWatch(since=0).is_hung(replace(SETTINGS, enabled=False), 1e9)


@pytest.mark.parametrize(
    ("field", "value"),
    [("factor", 0.9), ("startup_seconds", 0.0), ("min_seconds", -1.0), ("phase_seconds", 0.0)],
)
def test_a_bad_setting_is_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ConfigurationError, match=rf"hang\.{field}"):
        HangSettings(**{field: value})  # type: ignore[arg-type]  # one of the numbers, by name
